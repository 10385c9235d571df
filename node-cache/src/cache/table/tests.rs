use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;

fn key(number: u64) -> Vec<u64> {
    (0..2 + number % 4).map(|word| number.wrapping_mul(word + 3)).chain([number]).collect()
}

/// Returns a value whose every word tells its key and version, so that a torn read shows.
fn value(number: u64, version: u64) -> Vec<u64> {
    (0..4 + (number + version) % 29).map(|word| (number << 32) ^ (version << 8) ^ word).collect()
}

fn put(table: &Table, number: u64, version: u64, class: Class) -> bool {
    let key = key(number);
    table.insert(table.hash(&key), &key, &value(number, version), class)
}

fn get(table: &Table, number: u64) -> Option<Vec<u64>> {
    let key = key(number);
    table.get(table.hash(&key), &key)
}

fn remove(table: &Table, number: u64) -> bool {
    let key = key(number);
    table.remove(table.hash(&key), &key)
}

/// Returns a generator with a fixed seed.
fn seeded_rng() -> SmallRng {
    SmallRng::seed_from_u64(2026)
}

fn class(number: u64) -> Class {
    if number.is_multiple_of(3) { Class::Negative } else { Class::Positive }
}

#[test]
fn every_record_that_was_inserted_is_in_use_or_was_evicted() {
    let table = Table::new(64 << 10);
    let mut inserted = 0;
    for number in 0..20_000 {
        inserted += u64::from(put(&table, number, 0, class(number)));
        // Some are used, so that they are promoted instead of evicted.
        if number % 5 == 0 {
            let _ = (get(&table, number), get(&table, number), get(&table, number));
        }
        assert_eq!(table.usage().entries as u64 + table.evictions(), inserted, "after {number}");
    }
    assert!(table.evictions() > 10_000);
}

#[test]
fn a_hit_is_the_last_value_inserted_over_a_million_random_operations() {
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        let table = Table::new(bytes);
        let mut model = HashMap::new();
        let mut rng = seeded_rng();
        let mut found = 0;
        let mut max_entries = 0;
        for version in 0..400_000 {
            let number = rng.random_range(0..2_000);
            match rng.random_range(0..10) {
                0..4 => {
                    if put(&table, number, version, class(number)) {
                        model.insert(number, version);
                    }
                }
                4 => {
                    remove(&table, number);
                    model.remove(&number);
                    assert_eq!(get(&table, number), None);
                }
                _ => {
                    if let Some(content) = get(&table, number) {
                        found += 1;
                        assert_eq!(Some(content), model.get(&number).map(|version| value(number, *version)));
                    }
                }
            }
            max_entries = max_entries.max(table.usage().entries);
        }
        let usage = table.usage();
        assert!(found > 1_000 && max_entries > 5, "{bytes}: {found} {max_entries}");
        assert!(usage.bytes <= bytes, "{usage:?}");
        let remaining = (0..2_000).filter(|number| get(&table, *number).is_some()).count();
        assert_eq!(remaining, usage.entries);
        for number in 0..2_000 {
            remove(&table, number);
        }
        assert_eq!(table.usage(), Usage::default());
    }
}

#[test]
fn a_table_takes_no_more_bytes_than_it_was_created_with() {
    for bytes in [4 << 10, 100_000, 1 << 20, (64 << 20) + 13] {
        let table = Table::new(bytes);
        assert!(table.bytes() <= bytes, "{} of {bytes}", table.bytes());
        assert!(table.bytes() > bytes / 20 * 19 - 1024, "{} of {bytes}", table.bytes());
    }
}

#[test]
fn hot_keys_outlive_a_scan_of_twenty_times_the_table() {
    let table = Table::new(1 << 20);
    let hot = 500;
    for round in 0..3 {
        for number in 0..hot {
            if round == 0 {
                assert!(put(&table, number, 0, Class::Positive));
            }
            assert!(get(&table, number).is_some());
        }
    }
    let mut missed = 0;
    for number in 0..80_000 {
        put(&table, 1_000_000 + number, 0, Class::Positive);
        missed += usize::from(get(&table, number % hot).is_none());
    }
    assert!(missed <= 800, "{missed} of 80000");
}

#[test]
fn negative_answers_evict_no_positive_one() {
    let table = Table::new(1 << 20);
    for number in 1..1_000 {
        put(&table, number, 0, Class::Positive);
    }
    for number in 1..100_000 {
        put(&table, 1_000_000 + number, 0, Class::Negative);
    }
    let remaining = (1..1_000).filter(|number| get(&table, *number).is_some()).count();
    assert!(remaining > 980, "{remaining}");
}

#[test]
fn keys_that_come_back_soon_stay_longer_than_those_that_never_do() {
    let table = Table::new(1 << 20);
    let mut scan = 1_000_000..;
    let mut insert_others = |count: usize| {
        for number in scan.by_ref().take(count) {
            put(&table, number, 0, Class::Positive);
        }
    };
    let remaining = || (0..50).filter(|number| get(&table, *number).is_some()).count();
    insert_others(12_000);
    for (version, expected) in [(0, 0..=0), (1, 25..=50)] {
        for number in 0..50 {
            put(&table, number, version, Class::Positive);
        }
        insert_others(1_000);
        // A few are evicted because later keys overwrote their ghost entries.
        assert!(expected.contains(&remaining()), "{} of 50 in round {version}", remaining());
    }
}

#[test]
fn a_value_that_is_too_long_is_rejected_and_changes_nothing() {
    let table = Table::new(64 << 10);
    put(&table, 1, 0, Class::Positive);
    let key = key(1);
    assert!(!table.insert(table.hash(&key), &key, &vec![0; 4_000], Class::Positive));
    assert_eq!(get(&table, 1), Some(value(1, 0)));
    assert!(!put(&Table::new(0), 1, 0, Class::Positive));
}

#[test]
fn keys_with_the_same_hash_are_distinguished() {
    let table = Table::new(64 << 10);
    for number in 0..12 {
        assert!(table.insert(7, &key(number), &value(number, 0), Class::Positive));
    }
    for number in 0..12 {
        assert_eq!(table.get(7, &key(number)), Some(value(number, 0)));
    }
}

#[test]
fn readers_never_see_a_torn_value_while_others_write() {
    let table = Table::new(8 << 10);
    let done = AtomicBool::new(false);
    let found: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let table = &table;
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(writer);
                    for version in 0..150_000 {
                        let number = u64::from(rng.next_u32() % 64);
                        put(table, number, version, class(number));
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let table = &table;
                let done = &done;
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(100 + reader);
                    let mut found = 0;
                    while !done.load(Ordering::Relaxed) {
                        let number = u64::from(rng.next_u32() % 64);
                        let Some(content) = get(table, number) else { continue };
                        let version = ((content[0] ^ (number << 32)) >> 8) & 0xff_ffff;
                        assert_eq!(content, value(number, version));
                        found += 1;
                    }
                    found
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert!(found > 1_000, "{found}");
}
