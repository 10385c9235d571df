//! The operator behind a proxy that fails: killed at every write, with refusals, cut connections, silence, lost events
//! and old lists. Every life of a tier has to end as one without faults, with as many objects made and removed.
//!
//! The cluster, the proxy and the worlds are those of `common`; `life` has the phases of one tier, `departure` those of
//! nodes that leave a tier, `neighbours` two tiers of one operator, `releases` two operators of different namespaces.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod departure;
mod life;
mod neighbours;
mod releases;
mod waits;

use std::time::Duration;

use dnstier_tests::require;
use futures::future;
use tokio::sync::{OnceCell, Semaphore, watch};

use common::decision::{self, Distortion, Fault, Kind, OldLists, Placement};
use common::{cluster, runtime, state, world};
use life::{Clean, Disturbance, PHASES, live, live_clean};

/// Number of lives at a time, over all tests of the program. They wait most of the time; with many more of them on two
/// cores operators lose their Leases, and begin again.
const LIVES: usize = 12;

static TURNS: Semaphore = Semaphore::const_new(LIVES);
static CLEAN: OnceCell<watch::Receiver<Clean>> = OnceCell::const_new();

/// Returns the life without faults, which goes on meanwhile.
async fn clean() -> watch::Receiver<Clean> {
    let start = async || {
        let (sender, receiver) = watch::channel(Clean::default());
        runtime().spawn(live_clean(cluster().await, sender));
        receiver
    };
    CLEAN.get_or_init(start).await.clone()
}

/// Returns the number of writes in each phase of the life without faults.
async fn writes() -> Vec<usize> {
    let mut clean = clean().await;
    let clean = clean.wait_for(|clean| clean.ends.len() == PHASES.len() || clean.error.is_some()).await.unwrap();
    assert!(clean.error.is_none(), "{}", clean.error.as_deref().unwrap_or_default());
    clean.ends.iter().map(|end| end.writes).collect()
}

/// Lives the lives of a long form, a fifth of whose faults may meet nothing: how many writes a phase has depends on
/// what is seen at a time.
async fn live_with(disturbances: Vec<Disturbance>) {
    let most = disturbances.len() / 5;
    let without = live_all(disturbances).await;
    assert!(without.len() <= most, "these faults met nothing: {without:?}");
}

/// Lives one life for each disturbance, and fails with all that have ended otherwise. Returns the disturbances whose
/// fault met nothing, which show nothing; of two in one life each has to meet a request in some phase.
async fn live_all(disturbances: Vec<Disturbance>) -> Vec<Disturbance> {
    let (cluster, clean) = (cluster().await, clean().await);
    let lives = disturbances.into_iter().map(|disturbance| {
        let (cluster, clean) = (cluster.clone(), clean.clone());
        let life = tokio::spawn(async move {
            let _turn = TURNS.acquire().await.unwrap();
            live(cluster, disturbance, &clean).await
        });
        async move { (disturbance, life.await.unwrap()) }
    });
    let mut hits = Vec::new();
    let mut failures = Vec::new();
    for (disturbance, life) in future::join_all(lives).await {
        match life {
            Ok(life) => {
                if let Disturbance::Requests(one, other) = disturbance {
                    let is_met = |placement: &Placement| life.iter().any(|end| end.met.contains(placement));
                    let without = [one, other].into_iter().filter(|placement| !is_met(placement));
                    failures.extend(without.map(|placement| format!("{disturbance:?}: {placement:?} met nothing")));
                }
                hits.push((disturbance, disturbance.times_met(&life)));
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let error = clean.borrow().error.clone();
    assert!(error.is_none(), "the life without faults: {}", error.unwrap_or_default());
    assert!(failures.is_empty(), "{} lives failed:\n{}", failures.len(), failures.join("\n\n"));
    let total: usize = hits.iter().map(|(_, hits)| hits).sum();
    eprintln!("{} lives with {total} faults", hits.len());
    hits.into_iter().filter(|(_, hits)| *hits == 0).map(|(disturbance, _)| disturbance).collect()
}

/// Returns the number of writes of the phase that has the most.
async fn most_writes() -> usize {
    writes().await.into_iter().max().unwrap()
}

fn at_write(nth: usize, fault: Fault) -> Disturbance {
    Disturbance::Request(Placement::at(Kind::Write, nth, fault))
}

/// Faults of a write that do not end the operator.
const WRITE_FAULTS: [Fault; 8] = [
    Fault::Refuse(409),
    Fault::Refuse(410),
    Fault::Refuse(429),
    Fault::Refuse(500),
    Fault::CutBefore,
    Fault::CutAfter,
    Fault::Late,
    Fault::Silence,
];

/// Collections that the operator lists, and whose lists may be old ones.
const COLLECTIONS: [&str; 9] = [
    "nodes",
    "pods",
    "configmaps",
    "services",
    "daemonsets",
    "deployments",
    "serviceaccounts",
    "networkpolicies",
    "poddisruptionbudgets",
];

/// Returns some kills: at some writes, and around the record, `stable` and the tellings of pods.
fn some_kills() -> impl Iterator<Item = Disturbance> {
    let at = Placement::at;
    let (before, after) = (Fault::KillBefore, Fault::KillAfter);
    let pairs = [
        (at(Kind::Write, 6, after), at(Kind::Write, 26, before)),
        (at(Kind::Write, 11, before), at(Kind::Write, 31, after)),
        (at(Kind::Record, 1, after), at(Kind::Telling, 1, before)),
        (at(Kind::Telling, 1, after), at(Kind::Record, 2, after)),
        (at(Kind::Telling, 4, after), at(Kind::Revisions, 1, before)),
        // `stable` is in one namespace and not in the other one.
        (at(Kind::Revisions, 3, after), at(Kind::Record, 3, before)),
    ];
    pairs.into_iter().map(|(one, other)| Disturbance::Requests(one, other))
}

/// Returns some requests that fail: writes, and what an operator begins with.
fn some_failures() -> impl Iterator<Item = Disturbance> {
    let writes = WRITE_FAULTS[..4].chunks(2).enumerate().map(|(index, faults)| {
        let at = |nth, fault| Placement::at(Kind::Write, nth + 3 * index, fault);
        Disturbance::Requests(at(4, faults[0]), at(16, faults[1]))
    });
    writes.chain([Disturbance::Restart(9, Placement::at(Kind::Watch, 3, Fault::Refuse(410)))])
}

/// All lives of the short form are lived at a time, because they wait most of it. Each of its faults is at something
/// that every life has, and has to be met.
#[test]
fn an_operator_with_some_faults_of_each_kind_comes_to_the_same_end() {
    require!(require::control_plane());
    let others = [
        Disturbance::OldLists(14, OldLists::All),
        Disturbance::Watches(Distortion::Lose(1)),
        Disturbance::DeleteDuringWrite(21),
    ];
    let disturbances = some_kills().chain(some_failures()).chain(others);
    let without = runtime().block_on(live_all(disturbances.collect()));
    assert!(without.is_empty(), "these faults met nothing: {without:?}");
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_operator_that_is_killed_at_any_write_comes_to_the_same_end() {
    require!(require::control_plane());
    runtime().block_on(async {
        let kills = (1..=most_writes().await)
            .flat_map(|nth| [Fault::KillBefore, Fault::KillAfter].map(|fault| at_write(nth, fault)));
        live_with(kills.collect()).await;
    });
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_operator_that_starts_with_old_lists_after_any_write_comes_to_the_same_end() {
    require!(require::control_plane());
    runtime().block_on(async {
        let old: Vec<OldLists> = COLLECTIONS.map(OldLists::Of).into_iter().chain([OldLists::All]).collect();
        let nths = (1..=most_writes().await).step_by(3);
        live_with(nths.flat_map(|nth| old.iter().map(move |old| Disturbance::OldLists(nth, *old))).collect()).await;
    });
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn any_write_that_fails_leads_to_the_same_end() {
    require!(require::control_plane());
    runtime().block_on(async {
        let nths = (1..=most_writes().await).step_by(2);
        live_with(nths.flat_map(|nth| WRITE_FAULTS.map(|fault| at_write(nth, fault))).collect()).await;
    });
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn any_list_or_watch_that_fails_at_the_start_leads_to_the_same_end() {
    require!(require::control_plane());
    let faults = [429, 410, 500].map(Fault::Refuse).into_iter().chain([Fault::CutAfter, Fault::Silence]);
    // An operator with three namespaces begins with 15 watches, as many lists, and the check whether tiers are served,
    // which is a list. The others are room for more, and need not meet anything.
    let placements = faults.flat_map(|fault| {
        (1..=17).flat_map(move |nth| [Kind::List, Kind::Watch].map(|kind| Placement::at(kind, nth, fault)))
    });
    runtime().block_on(live_with(placements.map(|placement| Disturbance::Restart(9, placement)).collect()));
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn an_api_server_that_is_away_or_slow_for_a_minute_leads_to_the_same_end() {
    require!(require::control_plane());
    let codes = [409, 410, 429, 500].map(Fault::Refuse);
    let others = [Fault::CutBefore, Fault::CutAfter, Fault::Silence];
    let slow = [1, 5, 30].map(|seconds| Fault::Slow(Duration::from_secs(seconds)));
    let outages = codes.into_iter().chain(others).chain(slow);
    let outages = outages.map(|fault| Disturbance::Outage(fault, Duration::from_secs(60)));
    runtime().block_on(live_with(outages.collect()));
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn any_event_that_is_lost_or_cut_off_leads_to_the_same_end() {
    require!(require::control_plane());
    let distortions = (1..=6).flat_map(|nth| [Distortion::Cut(nth), Distortion::Gone(nth), Distortion::Lose(nth)]);
    let distortions = distortions.chain([Distortion::Merge, Distortion::Silence]);
    runtime().block_on(live_with(distortions.map(Disturbance::Watches).collect()));
}

#[test]
#[ignore = "takes minutes; `make test-long` runs it"]
fn nothing_is_left_of_a_tier_that_is_deleted_during_any_write_of_its_creation() {
    require!(require::control_plane());
    runtime().block_on(async {
        let writes = writes().await[0];
        live_with((1..=writes).map(Disturbance::DeleteDuringWrite).collect()).await;
    });
}
