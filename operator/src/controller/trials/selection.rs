//! Selection: which pods are looked at in a step, as those that are judged and as their controls.

use std::collections::BTreeSet;

use crate::controller::rollout::pods::{Role, RolloutPod, zone_size};
use crate::controller::rollout::record::Record;
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::steps::{Surroundings, members};

/// Controls of a zone and role beside the pods of the next wave, which are among them so that their past is known.
const CONTROLS: usize = 24;
/// Controls of a zone and role, at most: all are polled every few seconds.
const MAX_CONTROLS: usize = 60;
/// Controls of a zone and role that are probed.
const PROBED_CONTROLS: usize = 3;
/// Pods of the step in a zone and role that are probed, at most.
const PROBED_PODS: usize = 30;
/// Pods of the step that are polled each second, at most.
const FAST_PODS: usize = 50;

/// Pods that are looked at in a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection<'a> {
    /// Keys of the pods of the step, those of pods that are being made again included.
    pub(crate) keys: BTreeSet<String>,
    /// Pods of the step.
    pub(crate) judged: Vec<&'a RolloutPod>,
    /// Pods that run the proven configuration.
    pub(crate) controls: Vec<&'a RolloutPod>,
}

impl<'a> Selection<'a> {
    /// Selects the pods of the step of a record.
    #[must_use]
    pub(crate) fn of(record: &Record, proven: &TierRevision, around: &Surroundings<'a>) -> Self {
        let mut keys = record.moved.clone();
        keys.extend(members(record, proven, around).into_iter().map(|pod| pod.key().to_owned()));
        // A node may have the name of a resolver.
        let role = |pod: &RolloutPod| match record.step.role() {
            Some(role) => pod.role == role,
            None => true,
        };
        let (mut judged, others): (Vec<&RolloutPod>, Vec<&RolloutPod>) =
            around.pods.iter().partition(|pod| role(pod) && keys.contains(pod.key()));
        judged.sort_by_key(|pod| pod.key());
        // Those that are away or not ready are looked at, too: what they counted before is not forgotten.
        let is_control =
            |pod: &&&RolloutPod| pod.is_asked(proven.part(pod.role)) && !record.canaries.contains(pod.key());
        let mut available: Vec<&RolloutPod> = others.iter().filter(is_control).copied().collect();
        available.sort_by_key(|pod| (pod.away, !pod.ready, pod.key()));
        let groups: BTreeSet<(Role, &str)> = judged.iter().map(|pod| (pod.role, pod.zone.as_str())).collect();
        let mut controls: Vec<&RolloutPod> = Vec::new();
        for (role, zone) in groups {
            let of_zone = |pod: &&&RolloutPod| pod.role == role && pod.zone == zone;
            let wave = around.settings.wave_size.nodes_of(zone_size(around.pods, role, zone));
            let number = (CONTROLS + wave).min(MAX_CONTROLS);
            let mut chosen: Vec<&RolloutPod> = available.iter().filter(of_zone).take(number).copied().collect();
            if chosen.iter().all(|pod| pod.away || !pod.ready) {
                chosen.extend(available.iter().filter(|pod| pod.role == role).take(CONTROLS).copied());
            }
            for pod in chosen {
                if controls.iter().all(|other| (other.role, &other.name) != (pod.role, &pod.name)) {
                    controls.push(pod);
                }
            }
        }
        Self { keys, judged, controls }
    }

    /// Returns all pods that are looked at, each with whether it is polled each second.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&'a RolloutPod, bool)> {
        let judged = self.judged.iter().enumerate().map(|(place, pod)| (*pod, place < FAST_PODS));
        judged.chain(self.controls.iter().map(|pod| (*pod, false)))
    }

    /// Returns the pods that are probed, at the same moment.
    #[must_use]
    pub(crate) fn probed(&self) -> Vec<&'a RolloutPod> {
        let mut probed = first_of_groups(&self.judged, PROBED_PODS);
        probed.extend(first_of_groups(&self.controls, PROBED_CONTROLS));
        probed
    }
}

/// Returns the first few pods of each zone and role that are ready.
fn first_of_groups<'a>(pods: &[&'a RolloutPod], number: usize) -> Vec<&'a RolloutPod> {
    let mut first: Vec<&RolloutPod> = Vec::new();
    for pod in pods.iter().filter(|pod| !pod.away && pod.ready) {
        let of_group = first.iter().filter(|other| (other.role, &other.zone) == (pod.role, &pod.zone)).count();
        if of_group < number {
            first.push(pod);
        }
    }
    first
}

#[cfg(test)]
pub(super) mod tests {
    use dnstier_crds::v1alpha1::Rollout;
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::controller::rollout::record::Step;

    pub(in crate::controller::trials) fn revision(id: &str) -> TierRevision {
        TierRevision { id: id.to_owned(), nodes: id.to_owned(), resolvers: id.to_owned() }
    }

    pub(in crate::controller::trials) fn pod(zone: &str, number: usize) -> RolloutPod {
        RolloutPod {
            role: Role::Node,
            name: format!("pod-{zone}-{number:03}"),
            zone: zone.to_owned(),
            node: Some(format!("{zone}-{number:03}")),
            ready: true,
            away: false,
            out_of_reach: false,
            unpolled: false,
            is_unanswered: false,
            asked: Some("old".to_owned()),
            in_force: Some("old".to_owned()),
            tellings: 1,
            told: None,
            responses: 0,
            created: Timestamp::UNIX_EPOCH,
            joined: Timestamp::UNIX_EPOCH,
        }
    }

    fn select(pods: &[RolloutPod], step: Step, moved: &[&str], check: impl FnOnce(Selection<'_>)) {
        let mut record = Record::new(revision("new"), Some(revision("old")), step, Timestamp::UNIX_EPOCH);
        record.moved = moved.iter().map(|key| (*key).to_owned()).collect();
        let (nodes, settings) = (BTreeSet::new(), Rollout::default());
        let around = Surroundings {
            pods,
            nodes: &nodes,
            settings: &settings,
            announced: None,
            is_past_known: false,
            address_in_use: None,
            address_unknown: None,
            confirm: None,
            retry: None,
            now: Timestamp::UNIX_EPOCH,
        };
        check(Selection::of(&record, &revision("old"), &around));
    }

    #[test]
    fn the_next_wave_and_more_of_the_zone_are_controls_and_three_of_them_are_probed() {
        let pods: Vec<RolloutPod> = ["a", "b"].iter().flat_map(|zone| (0..100).map(|n| pod(zone, n))).collect();
        select(&pods, Step::Wave, &["a-000", "a-001"], |selection| {
            assert_eq!(selection.judged.len(), 2);
            assert_eq!(selection.controls.len(), CONTROLS + 10, "a wave is a tenth of the zone");
            assert!(selection.controls.iter().all(|pod| pod.zone == "a"));
            assert_eq!(selection.controls[0].key(), "a-002");
            assert_eq!(selection.probed().len(), 2 + PROBED_CONTROLS);
        });
    }

    #[test]
    fn a_zone_without_controls_is_compared_with_others_and_pods_of_the_target_are_none() {
        let mut pods = vec![pod("a", 0), pod("a", 1), pod("b", 0), pod("b", 1), pod("c", 0)];
        pods[1].asked = Some("new".to_owned());
        pods[4].away = true;
        pods.push(RolloutPod { ready: false, ..pod("a", 2) });
        select(&pods, Step::Canary, &["a-000"], |selection| {
            let keys: Vec<&str> = selection.controls.iter().map(|pod| pod.key()).collect();
            assert_eq!(keys, ["a-002", "b-000", "b-001", "c-000"]);
            assert_eq!(selection.probed().len(), 3, "nobody asks a node that is away or a pod that is not ready");
        });
    }
}
