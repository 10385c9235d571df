//! Life of a tier: it is created, updated, a node of it changes its zone, and it is deleted. Each phase of a disturbed
//! life has to end as that of an undisturbed one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::decision::{Distortion, Fault, Kind, OldLists, Placement};
use crate::state::{Counts, WorldState, counts_of, differences, is_at_rest, state_of, step_of};
use crate::world::{Cluster, LEFT_ZONE, MOVING_NODE, NEW_ZONE, World};

/// Phases of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Create,
    Update,
    ZoneChange,
    Delete,
}

pub(crate) const PHASES: [Phase; 4] = [Phase::Create, Phase::Update, Phase::ZoneChange, Phase::Delete];

/// Time without a write after which an undisturbed phase is over that has reached its aim: longer than the pause
/// between two passes that have work to do.
const QUIET: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Limit of a phase. A watch ends after five minutes of silence, and many tests may share the machine.
const LIMIT: Duration = Duration::from_secs(600);
/// Time that a write which is deleted under is held back for.
const HOLD: Duration = Duration::from_millis(1_500);

/// Disturbance of every phase of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// Nothing.
    None,
    /// A request has a fault; one that kills the operator is followed by a new operator.
    Request(Placement),
    /// Two requests have faults.
    Requests(Placement, Placement),
    /// The operator is killed after the n-th write, and the first lists of the next one are from before the phase.
    OldLists(usize, OldLists),
    /// The operator is killed after the n-th write, and a request of the next one has a fault.
    Restart(usize, Placement),
    /// Watches are disturbed.
    Watches(Distortion),
    /// Every request has a fault for some time.
    Outage(Fault, Duration),
    /// The tier is deleted while the n-th write of its creation is under way; the life ends with that.
    DeleteDuringWrite(usize),
}

impl Disturbance {
    /// Returns the faults of requests.
    fn placements(self) -> Vec<Placement> {
        match self {
            Self::None | Self::Watches(_) => Vec::new(),
            Self::Request(placement) => vec![placement],
            Self::Requests(one, other) => vec![one, other],
            Self::OldLists(nth, _) | Self::Restart(nth, _) => vec![Placement::at(Kind::Write, nth, Fault::KillAfter)],
            Self::Outage(fault, _) => vec![Placement::everywhere(fault)],
            Self::DeleteDuringWrite(nth) => vec![Placement::at(Kind::Write, nth, Fault::Slow(HOLD))],
        }
    }

    /// Returns what disturbs the watches in a phase. Silence lasts for minutes, so that it is for one phase alone.
    fn distortion(self, phase: Phase) -> Option<Distortion> {
        match self {
            Self::Watches(Distortion::Silence) if phase != Phase::Update => None,
            Self::Watches(distortion) => Some(distortion),
            _ => None,
        }
    }

    fn old_lists(self) -> Option<OldLists> {
        if let Self::OldLists(_, old) = self { Some(old) } else { None }
    }

    /// Returns how often a life met the fault itself. The end of an operator that only leads to it does not count.
    pub(crate) fn times_met(self, life: &[PhaseEnd]) -> usize {
        match self {
            Self::Restart(_, placement) => life.iter().filter(|end| end.met.contains(&placement)).count(),
            Self::OldLists(..) => life.iter().map(|end| end.old_lists).sum(),
            _ => life.iter().map(|end| end.hits).sum(),
        }
    }

    /// Returns whether the operator is killed around the request of the test itself, before or after it. The operator
    /// writes nothing while a tier is deleted.
    fn kills_around_delete(self) -> Option<bool> {
        match self.placements().first()?.fault {
            Fault::KillBefore => Some(true),
            Fault::KillAfter => Some(false),
            _ => None,
        }
    }
}

/// End of one phase.
#[derive(Clone, Debug)]
pub(crate) struct PhaseEnd {
    /// State of the world.
    pub(crate) state: WorldState,
    /// Objects that were made and that are gone, since the begin of the life.
    pub(crate) counts: Counts,
    /// Number of writes of the operator in the phase.
    pub(crate) writes: usize,
    /// Number of requests that had the fault.
    pub(crate) hits: usize,
    /// Places of the faults that a request had. A restart leaves those of the new operator alone.
    pub(crate) met: Vec<Placement>,
    /// Number of old lists that were served.
    pub(crate) old_lists: usize,
    /// Steps of the roll-out that were seen.
    pub(crate) steps: BTreeSet<String>,
    /// Time that it took.
    pub(crate) time: Duration,
}

/// Returns the spec in a phase. The roll-out of the update has the canaries of both zones, and a wave for the other
/// node of one of them.
fn spec(phase: Phase) -> Value {
    let mut spec = json!({
        "nodeCache": {"instances": 1},
        "resolvers": {"replicasPerZone": 2, "upstreams": [{"addresses": ["192.0.2.53"]}]},
        "rollout": {"soak": "5s"},
    });
    if phase != Phase::Create {
        spec["resolvers"]["replicasPerZone"] = json!(1);
        spec["routes"] = json!([{"suffix": "corp.example", "upstreams": [{"addresses": ["192.0.2.54"]}]}]);
    }
    spec
}

/// Life without faults, which others are compared with while it goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clean {
    /// Ends of its phases so far.
    pub(crate) ends: Vec<Arc<PhaseEnd>>,
    /// Error with which it has ended.
    pub(crate) error: Option<String>,
}

/// Lives the life without faults, and publishes the end of each phase.
pub(crate) async fn live_clean(cluster: Arc<Cluster>, clean: watch::Sender<Clean>) {
    let life = async {
        let world = World::create(cluster).await?;
        world.start_operator(None)?;
        for phase in PHASES {
            let end = run_phase(&world, phase, Disturbance::None, &|| Ok(None)).await;
            let end = end.map_err(|error| describe(&world, phase, Disturbance::None, &error))?;
            let PhaseEnd { writes, steps, time, .. } = &end;
            eprintln!("{phase:?}: {writes} writes, {} objects, {steps:?}, {time:?}", end.state.len());
            ensure!(
                phase != Phase::Update || ["Canary", "Wave"].iter().all(|step| steps.contains(*step)),
                "the update does not go to a canary and then to a wave: {steps:?}"
            );
            clean.send_modify(|clean| clean.ends.push(Arc::new(end)));
        }
        world.remove().await;
        anyhow::Ok(())
    };
    if let Err(error) = life.await {
        clean.send_modify(|clean| clean.error = Some(format!("{error:#}")));
    }
}

/// Lives one life and returns the ends of its phases. Each phase is waited for until it has come to the same end as
/// that of the life without faults.
///
/// # Errors
///
/// When a phase does not come to that end, with the differences.
pub(crate) async fn live(
    cluster: Arc<Cluster>,
    disturbance: Disturbance,
    clean: &watch::Receiver<Clean>,
) -> Result<Vec<PhaseEnd>> {
    let world = World::create(cluster).await?;
    world.start_operator(None)?;
    let mut ends = Vec::new();
    for (index, phase) in PHASES.into_iter().enumerate() {
        let expected = || {
            let clean = clean.borrow();
            match &clean.error {
                Some(_) => bail!("the life without faults has failed"),
                None => Ok(clean.ends.get(index).cloned()),
            }
        };
        let end = run_phase(&world, phase, disturbance, &expected).await;
        ends.push(end.map_err(|error| describe(&world, phase, disturbance, &error))?);
        if matches!(disturbance, Disturbance::DeleteDuringWrite(_)) {
            break;
        }
    }
    world.remove().await;
    Ok(ends)
}

/// Returns the error of a phase with what is known about its world.
fn describe(world: &World, phase: Phase, disturbance: Disturbance, error: &Error) -> Error {
    let mut text = format!("{phase:?} of {} with {disturbance:?}: {error:#}\nThe last requests:\n", world.name);
    let requests = world.proxy.log();
    for line in &requests[requests.len().saturating_sub(40)..] {
        let _ = writeln!(text, "    {line}");
    }
    let _ = write!(text, "The end of the log:\n{}\n", world.log(30));
    Error::msg(text)
}

/// Returns whether nothing is left to do in a phase.
fn has_reached_aim(phase: Phase, world: &World, state: &WorldState) -> bool {
    let has_left_zone = || !state.values().any(|object| object.to_string().contains(LEFT_ZONE));
    match phase {
        Phase::Create | Phase::Update => is_at_rest(&world.name, &world.cluster.objects),
        Phase::ZoneChange => has_left_zone() && is_at_rest(&world.name, &world.cluster.objects),
        Phase::Delete => state.is_empty(),
    }
}

/// Returns a state, one object a line.
fn text_of(state: &WorldState) -> String {
    state.iter().map(|(name, object)| format!("{name}: {object}\n")).collect()
}

async fn run_phase(
    world: &World,
    phase: Phase,
    disturbance: Disturbance,
    expected: &(dyn Fn() -> Result<Option<Arc<PhaseEnd>>> + Sync),
) -> Result<PhaseEnd> {
    let (proxy, objects) = (&world.proxy, &world.cluster.objects);
    if disturbance.old_lists().is_some() {
        proxy.record_lists().await;
    }
    let start = Instant::now();
    proxy.begin_phase(disturbance.placements(), disturbance.distortion(phase));
    match phase {
        Phase::Create | Phase::Update => world.apply_tier(spec(phase)).await?,
        Phase::ZoneChange => world.set_zone(MOVING_NODE, NEW_ZONE).await?,
        Phase::Delete => {
            let kill = disturbance.kills_around_delete();
            if kill == Some(true) {
                proxy.kill();
            }
            world.delete_tier().await?;
            if kill == Some(false) {
                proxy.kill();
            }
        }
    }
    let mut last_write = (0, Instant::now());
    let mut is_deleted = false;
    let (mut version, mut state, mut steps) = (0, WorldState::new(), BTreeSet::new());
    loop {
        tokio::select! {
            () = proxy.killed() => {
                world.free_lease().await;
                if let Disturbance::Restart(_, placement) = disturbance {
                    proxy.place(placement);
                }
                world.start_operator(disturbance.old_lists())?;
            }
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let now = Instant::now();
        if last_write.0 != proxy.writes() {
            last_write = (proxy.writes(), now);
        }
        let is_quiet = now - last_write.1 >= QUIET;
        if let Disturbance::Outage(_, time) = disturbance
            && now - start >= time
        {
            proxy.end_faults();
        }
        let latest = objects.version_of(&world.name);
        if std::mem::replace(&mut version, latest) != latest {
            state = state_of(&world.name, objects);
            steps.extend(step_of(&world.name, objects));
        }
        let expected = expected()?;
        let expected = expected.as_deref();
        let is_over = match (disturbance, expected) {
            (Disturbance::DeleteDuringWrite(nth), _) => {
                // There may be fewer writes.
                let is_at_rest = is_quiet && proxy.writes() < nth && is_at_rest(&world.name, objects);
                if !is_deleted && (proxy.hits() > 0 || is_at_rest) {
                    is_deleted = true;
                    world.delete_tier().await?;
                    last_write.1 = now;
                }
                is_deleted && state.is_empty() && is_quiet
            }
            (Disturbance::Outage(_, time), Some(expected)) => now - start >= time && state == expected.state,
            (_, Some(expected)) => state == expected.state,
            (Disturbance::None, None) => is_quiet && has_reached_aim(phase, world, &state),
            (_, None) => false,
        };
        if is_over {
            let counts = counts_of(&world.name, objects);
            compare_counts(disturbance, expected, &counts)?;
            let (writes, hits, met, time) = (proxy.writes(), proxy.hits(), proxy.met(), start.elapsed());
            let old_lists = proxy.old_lists();
            return Ok(PhaseEnd { state, counts, writes, hits, met, old_lists, steps, time });
        }
        if now - start > LIMIT {
            match expected {
                Some(expected) => bail!("it ends otherwise:\n{}", differences(&expected.state, &state).join("\n")),
                None => bail!("it does not come to rest: {}\n{}", world.cluster.logs(), text_of(&state)),
            }
        }
    }
}

/// Checks that as many objects were made and removed as without a disturbance.
fn compare_counts(disturbance: Disturbance, expected: Option<&PhaseEnd>, counts: &Counts) -> Result<()> {
    if let Disturbance::DeleteDuringWrite(_) = disturbance {
        let left: Vec<_> = counts.iter().filter(|(_, (made, gone))| made != gone).collect();
        ensure!(left.is_empty(), "objects are left: {left:?}");
        return Ok(());
    }
    let Some(expected) = expected else { return Ok(()) };
    let names = expected.counts.keys().chain(counts.keys());
    let different: BTreeSet<String> = names
        .filter(|name| expected.counts.get(*name) != counts.get(*name))
        .map(|name| format!("{name}: {:?} instead of {:?}", counts.get(name), expected.counts.get(name)))
        .collect();
    ensure!(different.is_empty(), "other numbers of objects were made and removed: {different:#?}");
    Ok(())
}
