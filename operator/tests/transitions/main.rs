//! Driver of transitions: it walks the schema of the CustomResourceDefinition, changes every field of a `DnsTier` to
//! values that mean something, and holds the operator to five oracles.
//!
//! - **crash**: the operator runs on;
//! - **health**: workloads and conditions come to rest;
//! - **log**: the operator logs no error, no panic, and no warning of a change that is good;
//! - **consistency**: a changed field moves what `docs/what-a-change-moves.md` tells, and nothing else;
//! - **recovery**: after an error the previous spec brings back the whole state.
//!
//! - `schema`, `values`, `path`: the fields, their values (`values.yaml`), and where they are in a spec.
//! - `transition`, `generator`: edits with what they have to lead to, dealt to tiers by a seed.
//! - `driver`, `world`: one tier with its nodes.
//! - `oracles`, `effects`, `trace`: what is held against the operator.
//! - `report`: what a run did.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod driver;
mod effects;
mod generator;
mod oracles;
mod path;
mod report;
mod schema;
mod trace;
mod transition;
mod values;
mod world;

use std::sync::Arc;
use std::time::Duration;

use dnstier_tests::require;
use futures::future;
use tokio::time::Instant;

use common::{cluster, runtime};
use driver::Driver;
use generator::{Random, generate};
use report::Report;
use schema::Shape;
use transition::{Outcome, Transition};
use values::Table;

/// Tiers side by side.
const TIERS: usize = 8;
/// Seed, unless the environment has another one.
const SEED: u64 = 20;
const SEED_VARIABLE: &str = "DNSTIER_TESTS_SEED";

fn seed() -> u64 {
    let seed = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    eprintln!("{SEED_VARIABLE}={seed}");
    seed
}

/// Drives a tier through each list of transitions, and returns what was seen of all.
async fn drive(table: Table, lists: Vec<Vec<Transition>>) -> Report {
    let (table, cluster, start) = (Arc::new(table), cluster().await, Instant::now());
    eprintln!("{:?} transitions, on a tier each", lists.iter().map(Vec::len).collect::<Vec<_>>());
    let tiers = lists.into_iter().enumerate().map(|(tier, transitions)| {
        let (table, cluster) = (table.clone(), cluster.clone());
        tokio::spawn(async move {
            match Driver::start(cluster, tier, table).await {
                Ok(driver) => driver.run(&transitions).await,
                Err(error) => Report { failures: vec![format!("tier {tier}: {error:#}")], ..Report::default() },
            }
        })
    });
    let mut report = Report::default();
    for tier in future::join_all(tiers).await {
        report.add(tier.unwrap());
    }
    eprintln!("{report} in {:.0?}", start.elapsed());
    report
}

/// Fails with everything that went wrong.
fn check(report: &Report) {
    assert!(report.failures.is_empty(), "{} failures:\n{}", report.failures.len(), report.failures.join("\n\n"));
}

/// Some transitions of each kind: four or five on each of eight tiers.
#[test]
fn a_tier_comes_from_some_specs_to_others_and_back() {
    require!(require::control_plane());
    let table = Table::read();
    let lists = generate(&table, TIERS, &mut Random::new(seed()));
    let is_short = |transition: &&Transition| transition.weight() <= 12;
    let some = |list: Vec<Transition>| {
        let of = |is_wanted: &dyn Fn(&Outcome) -> bool, count: usize| -> Vec<Transition> {
            let wanted = list.iter().filter(is_short).filter(|transition| is_wanted(&transition.outcome));
            wanted.take(count).cloned().collect()
        };
        let mut some = of(&|outcome| *outcome == Outcome::Rest, 2);
        some.extend(of(&|outcome| *outcome == Outcome::Error, 1));
        some.extend(of(&|outcome| *outcome == Outcome::Refused, 2));
        some
    };
    let report = runtime().block_on(drive(table, lists.into_iter().map(some).collect()));
    check(&report);
    assert!(report.rested >= TIERS && report.errors() >= TIERS / 2 && report.refused >= TIERS, "{report}");
}

#[test]
#[ignore = "takes most of an hour; `make test-long` runs it"]
fn every_field_of_a_tier_changes_and_has_an_effect() {
    require!(require::control_plane());
    let table = Table::read();
    let lists = generate(&table, TIERS, &mut Random::new(seed()));
    let start = Instant::now();
    let report = runtime().block_on(drive(table, lists));
    check(&report);
    assert!(start.elapsed() < Duration::from_secs(3600), "{:?}", start.elapsed());
    assert!(report.rested + report.errors() >= 300 && report.errors() >= 50, "{report}");
    let leaves = schema::fields().into_iter().filter(|field| field.shape == Shape::Leaf).map(|field| field.path);
    let without: Vec<String> = leaves.filter(|path| !report.covered.contains(path)).collect();
    assert_eq!(without, ["resolvers.mode"], "fields without an effect");
}
