//! The operator behind a proxy that fails: killed at every write, with refusals, cut connections, silence, lost events
//! and old lists. Every life of a tier has to end as one without faults, with as many objects made and removed.
//!
//! etcd, the API server, its controllers and the operator are real; nodes and kubelets are played by the test. All lives
//! of a test program share one cluster, in which each has namespaces and nodes of its own.
//!
//! - `decision`: what happens to the n-th request of a kind, and to the events of a watch.
//! - `proxy`: sockets and connections between one operator and the API server.
//! - `objects`, `kubelet`: what is in the cluster, and what makes its pods run.
//! - `state`: the state of a world, in a form that two runs have in common.
//! - `world`, `life`: one tier with its operator, and its phases.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

mod decision;
mod kubelet;
mod life;
mod objects;
mod proxy;
mod state;
mod world;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dnstier_tests::require;
use futures::{StreamExt, stream};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, Semaphore};

use decision::{Distortion, Fault, Kind, OldLists, Placement};
use life::{Disturbance, PhaseEnd, live};
use world::Cluster;

/// Number of lives at a time, over all tests of the program. They wait most of the time.
const LIVES: usize = 12;

static TURNS: std::sync::LazyLock<Semaphore> = std::sync::LazyLock::new(|| Semaphore::new(std::env::var("FAULTS_LIVES").map_or(LIVES, |n| n.parse().unwrap())));
static CLUSTER: OnceCell<Arc<Cluster>> = OnceCell::const_new();
static CLEAN: OnceCell<Vec<PhaseEnd>> = OnceCell::const_new();

/// Returns the runtime of all tests, which outlives each of them.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

async fn cluster() -> Arc<Cluster> {
    let start = async || {
        let programs = require::control_plane().unwrap();
        // The processes end with the thread that has started them, and a test's thread ends before others.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let started = runtime().block_on(Cluster::start(&programs));
            drop(sender.send(started));
            loop {
                std::thread::park();
            }
        });
        receiver.await.unwrap().unwrap()
    };
    CLUSTER.get_or_init(start).await.clone()
}

/// Returns the phases of a life without faults.
async fn clean() -> &'static [PhaseEnd] {
    let live = async || {
        let clean = live(cluster().await, Disturbance::None, None).await.unwrap_or_else(|error| panic!("{error:#}"));
        for (phase, end) in life::PHASES.iter().zip(&clean) {
            eprintln!("{phase:?}: {} writes, {} objects, {:?}", end.writes, end.state.len(), end.time);
        }
        clean
    };
    CLEAN.get_or_init(live).await
}

/// Lives one life for each disturbance, and fails with all that have ended otherwise.
async fn live_with(disturbances: Vec<Disturbance>) -> Vec<(Disturbance, Vec<PhaseEnd>)> {
    let (cluster, clean) = (cluster().await, clean().await);
    let lives = disturbances.into_iter().map(|disturbance| {
        let cluster = cluster.clone();
        let life = tokio::spawn(async move {
            let _turn = TURNS.acquire().await.unwrap();
            live(cluster, disturbance, Some(clean)).await
        });
        async move { (disturbance, life.await.unwrap()) }
    });
    let lives: Vec<_> = stream::iter(lives).buffer_unordered(usize::MAX >> 1).collect().await;
    let mut ends = Vec::new();
    let mut failures = Vec::new();
    for (disturbance, life) in lives {
        if let Ok(life) = &life {
            let times: Vec<f32> = life.iter().map(|end| end.time.as_secs_f32()).collect();
            eprintln!("{disturbance:?}: {times:.1?}");
        }
        match life {
            Ok(life) => ends.push((disturbance, life)),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    assert!(failures.is_empty(), "{} lives failed:\n{}", failures.len(), failures.join("\n\n"));
    ends
}

/// Returns the number of writes of the phase that has the most.
async fn most_writes() -> usize {
    clean().await.iter().map(|end| end.writes).max().unwrap()
}

fn kills(writes: impl Iterator<Item = usize>) -> Vec<Disturbance> {
    let at = |nth, fault| Disturbance::Request(Placement::at(Kind::Write, nth, fault));
    writes.flat_map(|nth| [at(nth, Fault::KillBefore), at(nth, Fault::KillAfter)]).collect()
}

#[test]
fn an_operator_that_is_killed_at_a_write_comes_to_the_same_end() {
    require!(require::control_plane());
    runtime().block_on(async {
        let writes = most_writes().await;
        let ends = live_with(kills((1..=writes).step_by(3))).await;
        let hits: usize = ends.iter().flat_map(|(_, life)| life).map(|end| end.hits).sum();
        assert!(hits >= ends.len(), "{hits} kills in {} lives", ends.len());
    });
}

#[test]
fn an_operator_that_starts_with_old_lists_comes_to_the_same_end() {
    require!(require::control_plane());
    let old = [OldLists::All, OldLists::Of("pods"), OldLists::Of("configmaps"), OldLists::Of("services")];
    runtime().block_on(live_with(old.map(|old| Disturbance::OldLists(12, old)).to_vec()));
}

#[test]
fn requests_that_fail_lead_to_the_same_end() {
    require!(require::control_plane());
    runtime().block_on(async {
        let faults = [
            Fault::Refuse(409),
            Fault::Refuse(410),
            Fault::Refuse(429),
            Fault::Refuse(500),
            Fault::CutBefore,
            Fault::CutAfter,
            Fault::Late,
            Fault::Silence,
        ];
        let at_write = |(index, fault)| Disturbance::Request(Placement::at(Kind::Write, 4 + 3 * index, fault));
        let disturbances = faults.into_iter().enumerate().map(at_write);
        live_with(disturbances.collect()).await;
    });
}

#[test]
fn an_api_server_that_is_away_or_slow_for_a_while_leads_to_the_same_end() {
    require!(require::control_plane());
    let time = Duration::from_secs(12);
    let faults = [Fault::Refuse(500), Fault::Silence, Fault::Slow(Duration::from_secs(3))];
    runtime().block_on(live_with(faults.map(|fault| Disturbance::Outage(fault, time)).to_vec()));
}

#[test]
fn events_that_are_lost_or_cut_off_lead_to_the_same_end() {
    require!(require::control_plane());
    let distortions = [Distortion::Cut(2), Distortion::Gone(1), Distortion::Lose(1), Distortion::Merge];
    runtime().block_on(live_with(distortions.map(Disturbance::Watches).to_vec()));
}

#[test]
fn nothing_is_left_of_a_tier_that_is_deleted_while_it_is_being_created() {
    require!(require::control_plane());
    runtime().block_on(live_with([3, 12, 21, 30].map(Disturbance::DeleteDuringWrite).to_vec()));
}
