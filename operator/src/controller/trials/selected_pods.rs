//! Pods of a selection, with what the cluster and their status pages say of them.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use dnstier_crds::v1alpha1::Rollout;

use crate::controller::judge::pod_look::PodLook;
use crate::controller::observe::Observed;
use crate::controller::observe::pods::TierPod;
use crate::controller::observe::poll::{Class, Evidence, RoleStore};
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::revision::TierRevision;
use crate::controller::rollout::situation::role_of;
use crate::controller::trials::looks::pod_look;
use crate::controller::trials::names::{self, TierNames};
use crate::controller::trials::prober::{Answers, ProbedPod};
use crate::controller::trials::round::Candidate;
use crate::controller::trials::selection::Selection;

/// Pods of a selection, as they were found in the cluster.
pub(super) struct SelectedPods<'a> {
    observed: &'a Observed,
    pods: Vec<(&'a RolloutPod, &'a TierPod)>,
    fast: BTreeSet<&'a str>,
    judged: BTreeSet<&'a str>,
    probed: BTreeSet<&'a str>,
    evidence: HashMap<&'a str, Arc<Evidence>>,
}

impl<'a> SelectedPods<'a> {
    /// Finds the pods of a selection in the cluster.
    pub(super) fn new(observed: &'a Observed, selection: &Selection<'a>) -> Self {
        let by_name: HashMap<(Role, &str), &TierPod> =
            observed.pods.iter().map(|pod| ((role_of(pod), pod.name.as_str()), pod)).collect();
        let find = |pod: &RolloutPod| by_name.get(&(pod.role, pod.name.as_str())).copied();
        let uids = |pods: &[&'a RolloutPod]| pods.iter().filter_map(|pod| Some(find(pod)?.uid.as_str())).collect();
        let fast = selection.pods().filter(|(_, is_fast)| *is_fast).map(|(pod, _)| pod).collect::<Vec<_>>();
        Self {
            observed,
            pods: selection.pods().filter_map(|(pod, _)| Some((pod, find(pod)?))).collect(),
            fast: uids(&fast),
            judged: uids(&selection.judged),
            probed: uids(&selection.probed()),
            evidence: HashMap::new(),
        }
    }

    /// Reads what the poller keeps of each pod.
    pub(super) fn read_evidence(&mut self, roles: &RoleStore) {
        let uids = self.pods.iter().map(|(_, pod)| pod.uid.as_str());
        self.evidence = uids.filter_map(|uid| Some((uid, roles.evidence(uid)?))).collect();
    }

    /// Returns how often each pod is polled, by UID.
    pub(super) fn roles(&self) -> impl Iterator<Item = (&'a str, Class)> {
        self.pods.iter().map(|(_, pod)| {
            let uid = pod.uid.as_str();
            (uid, if self.fast.contains(uid) { Class::Canary } else { Class::Control })
        })
    }

    /// Returns whether a pod of the step has not been polled yet.
    pub(super) fn is_any_report_missing(&self) -> bool {
        let is_there = |pod: &&(&RolloutPod, &TierPod)| !pod.0.away && self.judged.contains(pod.1.uid.as_str());
        self.pods.iter().filter(is_there).any(|(_, pod)| !self.evidence.contains_key(pod.uid.as_str()))
    }

    /// Returns the pods that are probed and can be.
    pub(super) fn candidates(&self) -> Vec<Candidate<'a>> {
        let can_be_probed = |uid: &str| self.evidence.get(uid).is_some_and(|evidence| evidence.can_be_probed);
        let pods = self.pods.iter();
        pods.filter(|(_, found)| self.probed.contains(found.uid.as_str()) && can_be_probed(&found.uid))
            .filter_map(|(pod, found)| {
                let address = SocketAddr::new(found.address?, found.metrics_port);
                let probed = ProbedPod { uid: found.uid.clone(), address };
                Some(Candidate { pod, probed, is_judged: self.judged.contains(found.uid.as_str()) })
            })
            .collect()
    }

    /// Returns how each pod is, with its answers to probes.
    pub(super) fn looks(
        &self,
        target: &TierRevision,
        proven: &TierRevision,
        settings: &Rollout,
        names: &TierNames,
        answers: Option<&HashMap<String, Answers>>,
    ) -> Vec<PodLook> {
        let looks = self.pods.iter().map(|(pod, found)| {
            let report = self.observed.reports.get(&found.uid).map(|report| &**report);
            let answers = answers.and_then(|answers| answers.get(&found.uid));
            let answers = answers.into_iter().flatten();
            let names = names.of_role(pod.role);
            let outcomes = answers.filter_map(|(probe, answer)| names::outcome(probe, answer, names, &settings.probes));
            let evidence = self.evidence.get(found.uid.as_str()).map(|evidence| &**evidence);
            pod_look(pod, found, report, evidence, target, proven, outcomes.collect())
        });
        looks.collect()
    }
}
