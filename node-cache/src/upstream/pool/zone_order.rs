//! Order of other zones: the nearest first, by round-trip time, with hysteresis. Pure: times are parameters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::upstream::server::timestamp::Timestamp;

/// Zones that are ordered; further ones come after them as they are given.
pub(super) const MAX_ZONES: usize = 16;
/// Interval between two looks at the round-trip times, in microseconds.
const ORDER_INTERVAL: u64 = 1_000_000;
/// Gain in round-trip time without which no zone overtakes another one.
const MIN_GAIN: Duration = Duration::from_micros(500);
/// Inverse of the part of the other zone's round-trip time that it must gain as well.
const MIN_RELATIVE_GAIN: u32 = 5;

/// Order of zones: four bits for the index of each, the first in the lowest ones.
#[derive(Debug)]
pub(super) struct ZoneOrder {
    order: AtomicU64,
    ordered_at: AtomicU64,
}

impl ZoneOrder {
    /// Creates an order of this many zones, by indices from 0 on. `shuffle` puts them into a first order: nodes whose
    /// zone fails do not all turn to one and the same zone.
    pub(super) fn new(zones: usize, shuffle: impl FnOnce(&mut [usize])) -> Self {
        let mut order: Vec<usize> = (0..zones.min(MAX_ZONES)).collect();
        shuffle(&mut order);
        Self { order: AtomicU64::new(packed(&order)), ordered_at: AtomicU64::new(0) }
    }

    /// Returns the index of the zone at a place.
    pub(super) fn zone(&self, place: usize) -> usize {
        if place >= MAX_ZONES {
            return place;
        }
        (self.order.load(Ordering::Relaxed) >> (4 * place) & 15) as usize
    }

    /// Orders the zones, once a second: `round_trips` returns the round-trip time of each; `None` where it is not known
    /// yet, and to be found out with the next query.
    pub(super) fn update(&self, now: Timestamp, round_trips: impl FnOnce() -> Vec<Option<Duration>>) {
        let ordered_at = self.ordered_at.load(Ordering::Relaxed);
        if now.micros() < ordered_at.saturating_add(ORDER_INTERVAL) {
            return;
        }
        self.ordered_at.store(now.micros(), Ordering::Relaxed);
        let round_trips = round_trips();
        let zones = round_trips.len().min(MAX_ZONES);
        let mut order: Vec<usize> = (0..zones).map(|place| self.zone(place)).collect();
        reorder(&mut order, |zone| round_trips.get(zone).copied().flatten().unwrap_or_default());
        self.order.store(packed(&order), Ordering::Relaxed);
    }
}

/// Gives each place to the nearest of the zones that are left, if it is clearly nearer than the one that has the place.
fn reorder(order: &mut [usize], round_trip: impl Fn(usize) -> Duration) {
    for place in 0..order.len() {
        let rest = &mut order[place..];
        let nearest = (0..rest.len()).min_by_key(|index| round_trip(rest[*index])).unwrap_or_default();
        let (present, nearest_zone) = (round_trip(rest[0]), round_trip(rest[nearest]));
        let gain = present.saturating_sub(nearest_zone);
        if gain >= MIN_GAIN && gain >= present / MIN_RELATIVE_GAIN {
            rest[..=nearest].rotate_right(1);
        }
    }
}

fn packed(order: &[usize]) -> u64 {
    order.iter().rev().fold(0, |word, zone| word << 4 | *zone as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the order of zones with these round-trip times in tenths of milliseconds, `None` where unknown, which
    /// were in this order before.
    fn ordered(before: &[usize], round_trips: &[Option<u64>]) -> Vec<usize> {
        let order = ZoneOrder { order: AtomicU64::new(packed(before)), ordered_at: AtomicU64::new(0) };
        let round_trips: Vec<_> =
            round_trips.iter().map(|tenths| tenths.map(|tenths| Duration::from_micros(100 * tenths))).collect();
        order.update(Timestamp::from_micros(ORDER_INTERVAL), || round_trips);
        (0..before.len()).map(|place| order.zone(place)).collect()
    }

    #[test]
    fn the_nearest_zone_comes_first() {
        assert_eq!(ordered(&[0, 1, 2], &[Some(300), Some(20), Some(100)]), [1, 2, 0]);
        assert_eq!(ordered(&[2, 1, 0], &[Some(10), Some(200), Some(100)]), [0, 2, 1]);
        assert_eq!(ordered(&[], &[]), [0; 0]);
        let many: Vec<usize> = (0..MAX_ZONES).collect();
        let falling: Vec<_> = (0..16).map(|zone| Some(1000 - 50 * zone)).collect();
        assert_eq!(ordered(&many, &falling).first(), Some(&15));
    }

    #[test]
    fn a_zone_that_is_hardly_nearer_overtakes_none() {
        assert_eq!(ordered(&[0, 1], &[Some(100), Some(85)]), [0, 1], "less than a fifth");
        assert_eq!(ordered(&[0, 1], &[Some(6), Some(2)]), [0, 1], "less than half a millisecond");
        assert_eq!(ordered(&[0, 1], &[Some(100), Some(75)]), [1, 0]);
        assert_eq!(ordered(&[1, 0], &[Some(100), Some(75)]), [1, 0], "and stays there");
    }

    #[test]
    fn an_unknown_zone_comes_first_so_that_it_becomes_known() {
        assert_eq!(ordered(&[0, 1, 2], &[Some(10), Some(20), None]), [2, 0, 1]);
    }

    #[test]
    fn the_order_is_looked_at_once_a_second() {
        let order = ZoneOrder::new(2, |_| {});
        let swapped = || vec![Some(Duration::from_millis(9)), Some(Duration::from_millis(1))];
        order.update(Timestamp::from_micros(ORDER_INTERVAL), || vec![Some(Duration::ZERO); 2]);
        order.update(Timestamp::from_micros(2 * ORDER_INTERVAL - 1), || panic!("too early"));
        order.update(Timestamp::from_micros(2 * ORDER_INTERVAL), swapped);
        assert_eq!([0, 1, 16, 17].map(|place| order.zone(place)), [1, 0, 16, 17]);
    }
}
