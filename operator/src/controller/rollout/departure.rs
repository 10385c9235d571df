//! Departure of nodes that a change of the placement excludes: which of them leave next, and when. A pure function.
//!
//! No pod is judged: those of a node that has left are answered by the cluster DNS, which the tier does not see. The
//! steps give people time to look, to pause and to revert.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dnstier_crds::conditions::Reason;
use dnstier_crds::v1alpha1::{Rollout, RolloutStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::controller::rollout::plan::RolledOut;
use crate::controller::rollout::pods::is_ahead;
use crate::controller::rollout::record::Step;
use crate::controller::rollout::steps::soak;
use crate::controller::rollout::template::to_count;

/// Kind of a roll-out in which nodes leave.
pub(crate) const KIND: &str = "Nodes";
/// Longest time for which the next step waits until the pods of the last one have ended.
const MAX_END_WAIT: SignedDuration = SignedDuration::from_mins(5);
/// Shortest and longest time until the next look.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// State of a departure. The DaemonSet has it in an annotation; who is left to leave follows from its pod template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Departure {
    /// Hash of the placement for which the nodes leave: another one is another departure.
    pub(crate) placement: String,
    /// Step: `Start`, `Canary` or `Wave`.
    pub(crate) step: Step,
    /// Zone of the step; `None` where it is about all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    /// Number of the nodes that leave.
    pub(crate) total: u32,
    /// Number of the tier's nodes in each zone at the begin.
    pub(crate) sizes: BTreeMap<String, usize>,
    /// Begin of the step.
    pub(crate) since: Time,
}

/// A node that is to leave and has not left yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeavingNode {
    /// Name.
    pub(crate) name: String,
    /// Zone.
    pub(crate) zone: String,
    /// Whether the node is ready and has a pod.
    pub(crate) ready: bool,
    /// Responses of its pod in the last minute.
    pub(crate) responses: u64,
}

/// Inputs of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// State; `None` while no node leaves.
    pub(crate) current: Option<&'a Departure>,
    /// Hash of the desired placement.
    pub(crate) placement: &'a str,
    /// Nodes that are to leave and have not left yet, ordered by name.
    pub(crate) leaving: &'a [LeavingNode],
    /// Number of the tier's nodes in each zone.
    pub(crate) sizes: &'a BTreeMap<String, usize>,
    /// Settings of the tier.
    pub(crate) settings: &'a Rollout,
    /// Whether no configuration is on its way.
    pub(crate) is_at_rest: bool,
    /// Begin of the step of a departure that the status shows; `None` while it says that everything is rolled out.
    pub(crate) announced: Option<Timestamp>,
    /// Whether the pods of the last step have ended.
    pub(crate) has_ended: bool,
    /// Present time.
    pub(crate) now: Timestamp,
}

/// Plan of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeparturePlan {
    /// State from now on.
    pub(crate) departure: Departure,
    /// Nodes that stay for now.
    pub(crate) staying: BTreeSet<String>,
    /// Time until the next look; `None` while only an event changes anything.
    pub(crate) next_look: Option<Duration>,
}

/// Plans a pass; `None` when no node is to leave any more, so that the desired template can be applied.
#[must_use]
pub(crate) fn plan(inputs: &Inputs<'_>) -> Option<DeparturePlan> {
    let Inputs { leaving, settings, now, .. } = *inputs;
    let known = inputs.current.filter(|current| current.placement == inputs.placement);
    if inputs.current.is_none() && leaving.is_empty() {
        return None;
    }
    let mut departure = known.cloned().unwrap_or_else(|| Departure {
        placement: inputs.placement.to_owned(),
        step: Step::Start,
        zone: None,
        total: to_count(leaving.len()),
        sizes: inputs.sizes.clone(),
        since: Time(now),
    });
    departure.total = departure.total.max(to_count(leaving.len()));
    if is_ahead(departure.since.0, now) {
        // Nobody waits for another clock.
        departure.since = Time(now);
    }
    let may_move = inputs.is_at_rest && !settings.paused;
    let mut leaves = BTreeSet::new();
    if may_move && departure.step == Step::Start {
        if leaving.is_empty() {
            return None;
        }
        if known.is_some_and(|known| inputs.announced == Some(known.since.0)) {
            leaves = first_nodes(leaving, settings.canaries_per_zone.into());
            departure.begin(Step::Canary, None, now);
            if leaves.is_empty() {
                leaves = departure.begin_wave(leaving, settings, now);
            }
        }
    } else if may_move && departure.is_watched(inputs) {
        if leaving.is_empty() {
            return None;
        }
        leaves = departure.begin_wave(leaving, settings, now);
    }
    let next_look = may_move.then(|| {
        let left = departure.soak_left(settings, now);
        if departure.step == Step::Start { LOOKS.0 } else { left.clamp(LOOKS.0, LOOKS.1) }
    });
    let staying = leaving.iter().map(|node| node.name.clone()).filter(|name| !leaves.contains(name)).collect();
    Some(DeparturePlan { departure, staying, next_look })
}

/// Returns the nodes that go first: ready ones of each zone, those with the most responses first, then by name.
fn first_nodes(leaving: &[LeavingNode], number: usize) -> BTreeSet<String> {
    let mut by_zone: BTreeMap<&str, Vec<&LeavingNode>> = BTreeMap::new();
    for node in leaving.iter().filter(|node| node.ready) {
        by_zone.entry(&node.zone).or_default().push(node);
    }
    let first = by_zone.into_values().flat_map(|mut nodes| {
        nodes.sort_by_key(|node| (std::cmp::Reverse(node.responses), node.name.as_str()));
        nodes.into_iter().take(number)
    });
    first.map(|node| node.name.clone()).collect()
}

impl Departure {
    fn begin(&mut self, step: Step, zone: Option<&str>, now: Timestamp) {
        self.step = step;
        self.zone = zone.map(str::to_owned);
        self.since = Time(now);
    }

    /// Begins the next wave and returns its nodes: of the zone of the last one, or of the smallest one, by name.
    fn begin_wave(&mut self, leaving: &[LeavingNode], settings: &Rollout, now: Timestamp) -> BTreeSet<String> {
        let zones: BTreeSet<&str> = leaving.iter().map(|node| node.zone.as_str()).collect();
        let size_of = |zone: &str| self.sizes.get(zone).copied().unwrap_or_default();
        let is_other = |zone: &str| self.zone.as_deref() != Some(zone);
        let Some(zone) = zones.into_iter().min_by_key(|zone| (is_other(zone), size_of(zone), *zone)) else {
            return BTreeSet::new();
        };
        let size = settings.wave_size.nodes_of(size_of(zone));
        let nodes = leaving.iter().filter(|node| node.zone == zone).take(size);
        let nodes = nodes.map(|node| node.name.clone()).collect();
        self.begin(Step::Wave, Some(zone), now);
        nodes
    }

    /// Returns whether the last step is over: its pods have ended, and the soak has passed.
    fn is_watched(&self, inputs: &Inputs<'_>) -> bool {
        let is_late = || inputs.now.duration_since(self.since.0) >= MAX_END_WAIT;
        self.soak_left(inputs.settings, inputs.now).is_zero() && (inputs.has_ended || is_late())
    }

    fn soak_left(&self, settings: &Rollout, now: Timestamp) -> Duration {
        let soak = soak(settings);
        Duration::try_from(soak - now.duration_since(self.since.0)).unwrap_or_default()
    }
}

impl DeparturePlan {
    /// Returns the sentence about the nodes that leave.
    #[must_use]
    fn sentence(&self) -> String {
        let left = self.left();
        format!(
            "{left} of {} nodes that the placement excludes have left; pods there use the cluster DNS.",
            self.departure.total
        )
    }

    fn left(&self) -> u32 {
        self.departure.total.saturating_sub(to_count(self.staying.len()))
    }

    /// Returns the state of the condition `RolledOut` beside that of the configuration, which counts more while it is
    /// on its way or was stopped.
    #[must_use]
    pub(crate) fn rolled_out(&self, configuration: RolledOut, is_paused: bool) -> RolledOut {
        let sentence = self.sentence();
        if !configuration.is_true() {
            return RolledOut { sentence: format!("{} {sentence}", configuration.sentence), ..configuration };
        }
        let reason = match self.departure.step {
            _ if is_paused => Reason::Paused,
            Step::Wave => Reason::Wave,
            _ => Reason::Canary,
        };
        RolledOut { reason, sentence }
    }

    /// Returns the departure as the status shows it, for a configuration that is in force.
    #[must_use]
    pub(crate) fn status(&self, target: &str) -> RolloutStatus {
        RolloutStatus {
            kind: KIND.to_owned(),
            target: target.to_owned(),
            step: self.departure.step.name().to_owned(),
            zone: self.departure.zone.clone(),
            moved: self.left(),
            total: self.departure.total,
            since: Some(self.departure.since.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    fn nodes(names: &[&str]) -> Vec<LeavingNode> {
        let node = |name: &&str| LeavingNode {
            name: (*name).to_owned(),
            zone: name[..1].to_owned(),
            ready: true,
            responses: 0,
        };
        names.iter().map(node).collect()
    }

    fn begin() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    /// World of a departure, in which pods end at once.
    struct World {
        current: Option<Departure>,
        leaving: Vec<LeavingNode>,
        sizes: BTreeMap<String, usize>,
        settings: Rollout,
        placement: &'static str,
        is_at_rest: bool,
        announced: bool,
        has_ended: bool,
        now: Timestamp,
    }

    impl World {
        fn new(names: &[&str], settings: &str) -> Self {
            let leaving = nodes(names);
            let mut sizes = BTreeMap::new();
            for node in &leaving {
                *sizes.entry(node.zone.clone()).or_default() += 1;
            }
            Self {
                current: None,
                leaving,
                sizes,
                settings: serde_saphyr::from_str(settings).unwrap(),
                placement: "new",
                is_at_rest: true,
                announced: true,
                has_ended: true,
                now: begin(),
            }
        }

        fn plan(&self) -> Option<DeparturePlan> {
            plan(&Inputs {
                current: self.current.as_ref(),
                placement: self.placement,
                leaving: &self.leaving,
                sizes: &self.sizes,
                settings: &self.settings,
                is_at_rest: self.is_at_rest,
                announced: self.current.as_ref().map(|current| current.since.0).filter(|_| self.announced),
                has_ended: self.has_ended,
                now: self.now,
            })
        }

        /// Carries out a pass after this many seconds, and returns the nodes that leave in it; `None` at the end.
        fn pass(&mut self, seconds: i64) -> Option<Vec<String>> {
            self.now += SECOND * i32::try_from(seconds).unwrap();
            let Some(plan) = self.plan() else {
                self.current = None;
                return None;
            };
            let (staying, leaving): (Vec<_>, Vec<_>) =
                self.leaving.drain(..).partition(|node| plan.staying.contains(&node.name));
            self.leaving = staying;
            self.current = Some(plan.departure);
            Some(leaving.into_iter().map(|node| node.name).collect())
        }

        /// Returns the nodes that leave with each pass until the end, one pass in each soak of ten seconds.
        fn steps(&mut self) -> Vec<String> {
            let mut steps = Vec::new();
            while let Some(step) = self.pass(10) {
                assert!(steps.len() < 20, "{steps:?}");
                steps.push(step.join(" "));
            }
            steps.retain(|step| !step.is_empty());
            steps
        }
    }

    const SETTINGS: &str = "{soak: 10s, waveSize: 2}";

    #[test]
    fn the_first_nodes_of_each_zone_go_before_waves_of_the_smallest_zone_and_of_the_others() {
        let mut world = World::new(&["a1", "a2", "a3", "a4", "b1", "b2"], SETTINGS);
        assert_eq!(world.steps(), ["a1 b1", "b2", "a2 a3", "a4"]);
        assert_eq!(world.current, None);
    }

    #[test]
    fn a_wave_is_a_part_of_the_nodes_that_a_zone_had_at_the_begin() {
        let mut world = World::new(&["a1", "a2", "a3", "a4"], "{soak: 10s, waveSize: 20%}");
        world.sizes = BTreeMap::from([("a".to_owned(), 10)]);
        assert_eq!(world.pass(10), Some(vec![]));
        assert_eq!(world.pass(1), Some(vec!["a1".to_owned()]));
        world.sizes = BTreeMap::from([("a".to_owned(), 1)]);
        assert_eq!(world.steps(), ["a2 a3", "a4"]);
    }

    #[test]
    fn no_node_leaves_before_the_status_says_so_the_last_pods_have_ended_and_the_soak_is_over() {
        let mut world = World::new(&["a1", "a2"], SETTINGS);
        world.announced = false;
        assert_eq!(world.pass(60), Some(vec![]));
        assert_eq!(world.pass(60), Some(vec![]), "the status");
        world.announced = true;
        assert_eq!(world.pass(1), Some(vec!["a1".to_owned()]));
        assert_eq!(world.pass(9), Some(vec![]), "the soak");
        world.has_ended = false;
        assert_eq!(world.pass(60), Some(vec![]), "the pod that ends");
        assert_eq!(world.pass(240), Some(vec!["a2".to_owned()]), "a pod that does not end holds nothing for ever");
        world.has_ended = true;
        assert_eq!(world.pass(9), Some(vec![]), "the last soak");
        assert_eq!(world.pass(1), None);
    }

    #[test]
    fn the_busiest_ready_nodes_go_first_and_those_away_with_the_waves() {
        let mut world = World::new(&["a1", "a2", "a3", "a4", "b1"], "{soak: 10s, waveSize: 3, canariesPerZone: 2}");
        world.leaving[0].ready = false;
        world.leaving[3].responses = 9;
        world.leaving[4].ready = false;
        assert_eq!(world.steps(), ["a2 a4", "b1", "a1 a3"]);
        let mut world = World::new(&["a1", "a2"], "{soak: 10s, waveSize: 1}");
        world.leaving.iter_mut().for_each(|node| node.ready = false);
        assert_eq!(world.steps(), ["a1", "a2"], "nobody can go first");
    }

    #[test]
    fn nothing_moves_while_it_is_paused_or_a_configuration_is_on_its_way() {
        let mut world = World::new(&["a1", "a2"], SETTINGS);
        for is_paused in [true, false] {
            world.settings.paused = is_paused;
            world.is_at_rest = is_paused;
            assert_eq!(world.pass(100), Some(vec![]));
            assert_eq!(world.plan().unwrap().next_look, None);
        }
        world.is_at_rest = true;
        assert_eq!(world.pass(1), Some(vec!["a1".to_owned()]));
        assert_eq!(world.pass(10), Some(vec!["a2".to_owned()]));
        world.settings.paused = true;
        assert_eq!(world.pass(100), Some(vec![]), "the last step, with which all pods restart, is held too");
        world.settings.paused = false;
        assert_eq!(world.pass(1), None);
    }

    #[test]
    fn another_placement_begins_with_first_nodes_again_and_a_revert_ends_at_once() {
        let mut world = World::new(&["a1", "a2", "a3"], SETTINGS);
        world.pass(1);
        assert_eq!(world.pass(1), Some(vec!["a1".to_owned()]));
        world.placement = "other";
        world.leaving.extend(nodes(&["b1", "b2", "b3", "b4"]));
        assert_eq!(world.pass(1), Some(vec![]), "the status says that something else leaves");
        assert_eq!(world.pass(1), Some(vec!["a2".to_owned(), "b1".to_owned()]));
        assert_eq!(world.current.as_ref().unwrap().total, 6);
        world.placement = "first";
        world.leaving.clear();
        assert_eq!(world.pass(1), None);
    }

    #[test]
    fn the_status_counts_the_nodes_that_have_left() {
        let mut world = World::new(&["a1", "a2", "b1"], SETTINGS);
        world.pass(1);
        world.pass(1);
        let plan = world.plan().unwrap();
        let status = plan.status("1a2b");
        assert_eq!((status.kind.as_str(), status.step.as_str(), status.moved, status.total), ("Nodes", "Canary", 2, 3));
        let of = |reason| RolledOut { reason, sentence: "It is.".to_owned() };
        let rolled_out = plan.rolled_out(of(Reason::RolledOut), false);
        assert_eq!(rolled_out.reason, Reason::Canary);
        assert!(rolled_out.sentence.starts_with("2 of 3 nodes that the placement excludes have left"));
        assert_eq!(plan.rolled_out(of(Reason::RolledOut), true).reason, Reason::Paused);
        let stopped = plan.rolled_out(of(Reason::JudgedWorse), false);
        assert_eq!(stopped.reason, Reason::JudgedWorse, "a configuration that was stopped counts more");
        assert!(stopped.sentence.starts_with("It is. 2 of 3 nodes"));
    }
}
