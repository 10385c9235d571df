//! Which step follows, and which pods belong to it.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;

use super::{POD_ABSENCE, Surroundings, is_moved, is_there, set_aside};
use crate::controller::rollout::pods::{Role, RolloutPod, candidates, sort_by_traffic, zone_size, zones};
use crate::controller::rollout::record::{Record, Step};
use crate::controller::rollout::revision::TierRevision;

/// Chooses the nodes that are missing to go first. Those out of reach make room for others and are set aside.
pub(super) fn choose_canaries(
    record: &mut Record,
    proven: &TierRevision,
    around: &Surroundings<'_>,
) -> BTreeSet<String> {
    let wanted = usize::from(around.settings.canaries_per_zone);
    let mut chosen = BTreeSet::new();
    for zone in zones(around.pods, Role::Node) {
        let in_zone = || around.pods.iter().filter(|pod| pod.role == Role::Node && pod.zone == zone);
        let is_here = |pod: &&RolloutPod| pod.is_reachable() && !record.set_aside.contains(pod.key());
        let runs_target = |pod: &&RolloutPod| record.canaries.contains(pod.key()) || pod.is_asked(&record.target.nodes);
        let here = in_zone().filter(is_here).filter(runs_target).count();
        // A node whose pod is made again is of no zone meanwhile; it is there all the same.
        let expected = record.canaries.iter().filter(|key| {
            let is_of_no_zone = !around.pods.iter().any(|pod| pod.key() == key.as_str());
            is_of_no_zone && record.zones.get(*key).is_some_and(|of| of == zone) && is_there(record, key, around)
        });
        let missing = wanted.saturating_sub(here + expected.count());
        let mut others = candidates(around.pods, Role::Node, zone, &proven.nodes, &record.set_aside);
        others.retain(|pod| !record.canaries.contains(pod.key()));
        sort_by_traffic(&mut others);
        let others: Vec<String> = others.into_iter().take(missing).map(|pod| pod.key().to_owned()).collect();
        let away: Vec<String> = in_zone()
            .filter(|pod| !pod.is_reachable() && record.canaries.contains(pod.key()))
            .take(others.len())
            .map(|pod| pod.key().to_owned())
            .collect();
        away.iter().for_each(|key| set_aside(record, key));
        record.zones.extend(others.iter().map(|key| (key.clone(), zone.to_owned())));
        chosen.extend(others);
    }
    chosen
}

/// Begins the step that follows: resolvers, nodes that go first, waves; or the end. While an address is in use that the
/// target gives up, none begins.
pub(super) fn begin_next(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>) {
    if around.obstacle(record).is_some() {
        return;
    }
    let is_before_nodes = matches!(record.step, Step::Start | Step::Moved | Step::Resolver | Step::ResolverZone);
    if is_before_nodes && record.target.resolvers != proven.resolvers {
        if begin_resolvers(record, proven, around) {
            return;
        }
        // None is ready, or all are being made again: nodes do not get what no resolver has shown.
        if !record.resolvers_passed && !is_without_resolvers(record, around) {
            if record.step != Step::Resolver || !record.moved.is_empty() {
                record.begin(Step::Resolver, None, BTreeSet::new(), around.now);
            }
            return;
        }
    }
    if record.target.nodes != proven.nodes {
        if is_before_nodes {
            let canaries = choose_canaries(record, proven, around);
            // Where no node is ready, or all pods are being made again, the step waits for the first.
            if !canaries.is_empty() || !record.nodes_passed {
                record.canaries.extend(canaries.iter().cloned());
                record.begin(Step::Canary, None, canaries, around.now);
                return;
            }
        }
        if begin_wave(record, proven, around) {
            return;
        }
    }
    finish(record, around.now);
}

/// Returns whether a tier has had no resolver for so long that nodes go on without: none can be made, perhaps.
fn is_without_resolvers(record: &Record, around: &Surroundings<'_>) -> bool {
    let is_waiting = record.step == Step::Resolver && record.moved.is_empty();
    let is_long = around.now.duration_since(record.since.0) >= POD_ABSENCE;
    is_waiting && is_long && around.pods.iter().all(|pod| pod.role != Role::Resolver)
}

/// Makes the target the proven revision, which the last pods get.
pub(super) fn finish(record: &mut Record, now: Timestamp) {
    record.proven = Some(record.target.clone());
    record.begin(Step::Finish, None, BTreeSet::new(), now);
}

fn begin_resolvers(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>) -> bool {
    for zone in current_first(zones(around.pods, Role::Resolver), record.zone.as_deref()) {
        let mut others = candidates(around.pods, Role::Resolver, zone, &proven.resolvers, &record.set_aside);
        sort_by_traffic(&mut others);
        let is_moved =
            |pod: &RolloutPod| pod.role == Role::Resolver && pod.zone == zone && is_moved(record, proven, pod);
        let is_any_moved = around.pods.iter().any(is_moved);
        let number = if is_any_moved { others.len() } else { 1 };
        let moved: BTreeSet<String> = others.into_iter().take(number).map(|pod| pod.key().to_owned()).collect();
        if !moved.is_empty() {
            let step = if is_any_moved { Step::ResolverZone } else { Step::Resolver };
            record.begin(step, Some(zone), moved, around.now);
            return true;
        }
    }
    false
}

fn begin_wave(record: &mut Record, proven: &TierRevision, around: &Surroundings<'_>) -> bool {
    for zone in current_first(zones(around.pods, Role::Node), record.zone.as_deref()) {
        let mut others = candidates(around.pods, Role::Node, zone, &proven.nodes, &record.set_aside);
        let has_target =
            |pod: &RolloutPod| pod.role == Role::Node && pod.zone == zone && pod.is_asked(&record.target.nodes);
        let size = around.settings.wave_size.nodes_of(zone_size(around.pods, Role::Node, zone));
        let is_contacted = around.pods.iter().any(has_target);
        // Nodes that came since would otherwise keep a slow roll-out from ever ending. They get the target at the end.
        let is_any_older = others.iter().any(|pod| pod.joined <= record.started.0);
        if is_any_older || others.len() > size {
            let number = if is_contacted {
                size
            } else {
                // No node of the zone was there to go first.
                sort_by_traffic(&mut others);
                size.min(around.settings.canaries_per_zone.into())
            };
            let moved = others.into_iter().take(number).map(|pod| pod.key().to_owned()).collect();
            record.begin(Step::Wave, Some(zone), moved, around.now);
            return true;
        }
    }
    false
}

fn current_first<'a>(mut zones: Vec<&'a str>, current: Option<&str>) -> Vec<&'a str> {
    zones.sort_by_key(|zone| Some(*zone) != current);
    zones
}
