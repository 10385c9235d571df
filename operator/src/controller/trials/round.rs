//! Round of probes: which pods are asked, and for how many names, so that it ends in time.

use std::collections::BTreeMap;

use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::trials::prober::ProbedPod;

/// Names that a pod is asked for in one round, at most: three are asked in a second.
pub(super) const MAX_NAMES: usize = 48;
/// Probes of the rounds of all tiers, at most: 40 s of them.
const MAX_PROBES: usize = 2_000;

/// Pod that can be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// Pod as the roll-out sees it.
    pub(super) pod: &'a RolloutPod,
    /// Pod as the prober asks it.
    pub(super) probed: ProbedPod,
    /// Whether the pod is one of the step, and no control.
    pub(super) is_judged: bool,
}

impl Candidate<'_> {
    fn group(&self) -> (Role, &str) {
        (self.pod.role, &self.pod.zone)
    }
}

/// Returns how many names each pod can be asked for when that many tiers are probed: one pod of the step in each zone
/// and role is asked for all of them, and so is each control.
#[must_use]
pub(super) fn max_names(candidates: &[Candidate<'_>], tiers: usize) -> usize {
    let pods = groups(candidates).len() + controls(candidates);
    (share(tiers) / pods.max(1)).min(MAX_NAMES)
}

/// Returns the pods that are asked for so many names: all controls, and of the pods of the step as many of each zone
/// and role as there is time for, in turn. Pods that are doubted come first.
#[must_use]
pub(super) fn choose<'a>(
    candidates: Vec<Candidate<'a>>,
    names: usize,
    tiers: usize,
    turn: usize,
    is_doubted: impl Fn(&RolloutPod) -> bool,
) -> Vec<Candidate<'a>> {
    let room = (share(tiers) / names.max(1)).saturating_sub(controls(&candidates));
    let groups = groups(&candidates);
    let of_group = (room / groups.len().max(1)).max(1);
    let mut is_chosen: Vec<bool> = candidates.iter().map(|candidate| !candidate.is_judged).collect();
    for mut places in groups.into_values() {
        let start = turn * of_group % places.len();
        places.rotate_left(start);
        places.sort_by_key(|place| !is_doubted(candidates[*place].pod));
        places.iter().take(of_group).for_each(|place| is_chosen[*place] = true);
    }
    let chosen = candidates.into_iter().zip(is_chosen).filter(|(_, is_chosen)| *is_chosen);
    chosen.map(|(candidate, _)| candidate).collect()
}

/// Returns the probes of a tier when that many are probed.
fn share(tiers: usize) -> usize {
    MAX_PROBES / tiers.max(1)
}

fn controls(candidates: &[Candidate<'_>]) -> usize {
    candidates.iter().filter(|candidate| !candidate.is_judged).count()
}

/// Returns the places of the pods of the step, by role and zone.
fn groups<'a>(candidates: &'a [Candidate<'_>]) -> BTreeMap<(Role, &'a str), Vec<usize>> {
    let mut groups: BTreeMap<(Role, &str), Vec<usize>> = BTreeMap::new();
    for (place, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.is_judged) {
        groups.entry(candidate.group()).or_default().push(place);
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::controller::trials::selection::tests::pod;

    fn pods(zones: usize, of_zone: usize) -> Vec<RolloutPod> {
        (0..zones).flat_map(|zone| (0..of_zone).map(move |number| pod(&zone.to_string(), number))).collect()
    }

    /// Returns the pods as candidates, the first three of each zone as controls.
    fn candidates(pods: &[RolloutPod]) -> Vec<Candidate<'_>> {
        let of_pod = |pod: &RolloutPod| ProbedPod { uid: pod.name.clone(), address: "192.0.2.1:9253".parse().unwrap() };
        let is_control = |pod: &RolloutPod| ["-000", "-001", "-002"].iter().any(|end| pod.name.ends_with(end));
        pods.iter().map(|pod| Candidate { pod, probed: of_pod(pod), is_judged: !is_control(pod) }).collect()
    }

    fn names_of(chosen: &[Candidate<'_>]) -> BTreeSet<String> {
        chosen.iter().map(|candidate| candidate.pod.name.clone()).collect()
    }

    #[test]
    fn a_round_has_no_more_probes_than_there_is_time_for_and_every_pod_has_its_turn() {
        for (zones, of_zone, names, tiers) in [(3, 33, 31, 1), (5, 13, 48, 1), (1, 33, 12, 8), (10, 33, 48, 1)] {
            let pods = pods(zones, of_zone);
            let all = candidates(&pods);
            let names = names.min(max_names(&all, tiers));
            let mut seen = BTreeSet::new();
            for turn in 0..40 {
                let chosen = choose(all.clone(), names, tiers, turn, |_| false);
                assert!(chosen.len() * names * tiers <= MAX_PROBES, "{} pods, {names} names", chosen.len());
                let controls = chosen.iter().filter(|candidate| !candidate.is_judged).count();
                assert_eq!(controls, zones * 3, "controls are asked in each round");
                let judged: BTreeSet<&str> =
                    chosen.iter().filter(|candidate| candidate.is_judged).map(|it| it.pod.zone.as_str()).collect();
                assert_eq!(judged.len(), zones, "a pod of each zone");
                seen.extend(names_of(&chosen));
            }
            assert_eq!(seen.len(), pods.len());
        }
    }

    #[test]
    fn few_pods_are_all_asked_for_all_names() {
        let pods = pods(3, 4);
        let all = candidates(&pods);
        assert_eq!(max_names(&all, 1), MAX_NAMES);
        assert_eq!(choose(all.clone(), MAX_NAMES, 1, 7, |_| false), all);
        assert_eq!(max_names(&[], 1), MAX_NAMES);
        assert_eq!(choose(Vec::new(), 0, 1, 0, |_| false), []);
    }

    #[test]
    fn a_pod_that_is_doubted_is_asked_in_each_round() {
        let pods = pods(1, 33);
        for turn in 0..20 {
            let chosen = choose(candidates(&pods), 48, 8, turn, |pod| pod.key() == "0-020");
            assert!(names_of(&chosen).contains("pod-0-020"), "{turn}");
        }
    }
}
