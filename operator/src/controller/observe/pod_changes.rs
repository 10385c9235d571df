//! Changes of pods that concern their tiers. The kubelet writes the status of a pod more often than that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;

use crate::controller::observe::pods::TierPod;
use crate::controller::schedule::Concern;

/// Pods that a watch has delivered, by UID.
#[derive(Debug, Default)]
struct KnownPods {
    pods: HashMap<String, KnownPod>,
    /// Number of lists so far.
    lists: u64,
    hasher: RandomState,
}

/// Pod that a watch has delivered.
#[derive(Debug)]
struct KnownPod {
    tier: String,
    /// Hash of the [`TierPod`], of which there may be thousands.
    hash: u64,
    /// Number of the list that had the pod last.
    list: u64,
}

impl KnownPods {
    /// Records an event and returns the tiers that it concerns.
    fn record(&mut self, event: &watcher::Event<Pod>) -> Vec<Concern> {
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => self.record_pod(pod),
            watcher::Event::Delete(pod) => {
                let known = pod.metadata.uid.as_ref().and_then(|uid| self.pods.remove(uid));
                known.map(|pod| Concern::Tier(pod.tier)).into_iter().collect()
            }
            watcher::Event::Init => {
                self.lists += 1;
                Vec::new()
            }
            watcher::Event::InitDone => {
                let lists = self.lists;
                let gone = self.pods.extract_if(|_, pod| pod.list < lists);
                gone.map(|(_, pod)| Concern::Tier(pod.tier)).collect()
            }
        }
    }

    fn record_pod(&mut self, pod: &Pod) -> Vec<Concern> {
        let Some(pod) = TierPod::from_pod(pod) else { return Vec::new() };
        // The kubelet makes versions that mean nothing here.
        let pod = TierPod { version: None, ..pod };
        let hash = self.hasher.hash_one(&pod);
        let known = KnownPod { tier: pod.tier.clone(), hash, list: self.lists };
        let previous = self.pods.insert(pod.uid, known);
        if previous.is_some_and(|previous| previous.hash == hash) { Vec::new() } else { vec![Concern::Tier(pod.tier)] }
    }
}

/// Filters the events of a watch: an item for each pod that is added, removed, or differs in what the operator reads.
pub(crate) fn pod_changes(
    events: impl Stream<Item = Result<watcher::Event<Pod>, watcher::Error>>,
) -> impl Stream<Item = Concern> {
    let mut known = KnownPods::default();
    events.flat_map(move |event| stream::iter(event.map(|event| known.record(&event)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::owned::labels;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    fn pod(name: &str, tier: &str, ready: &str, heartbeat: u32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "dnstier-node", "uid": format!("uid-of-{name}"),
                "resourceVersion": heartbeat.to_string(),
                "labels": {labels::INSTANCE: tier, labels::COMPONENT: labels::COMPONENT_NODE_CACHE},
                "annotations": {labels::METRICS_PORT: "9353"},
            },
            "status": {"conditions": [{
                "type": "Ready", "status": ready, "lastProbeTime": format!("2026-01-01T00:00:{heartbeat:02}Z"),
            }]},
        }))
        .unwrap()
    }

    async fn concerns(events: Vec<Event<Pod>>) -> Vec<Concern> {
        pod_changes(stream::iter(events.into_iter().map(Ok))).collect().await
    }

    fn tier(name: &str) -> Concern {
        Concern::Tier(name.to_owned())
    }

    #[tokio::test]
    async fn a_pod_counts_when_what_the_operator_reads_has_changed() {
        let first = || Event::Apply(pod("a", "default", "True", 1));
        assert_eq!(concerns(vec![first()]).await, [tier("default")]);
        assert_eq!(concerns(vec![first(), Event::Apply(pod("a", "default", "True", 2))]).await.len(), 1);
        assert_eq!(concerns(vec![first(), Event::Apply(pod("a", "default", "False", 2))]).await.len(), 2);
        assert_eq!(concerns(vec![first(), Event::Delete(pod("a", "default", "True", 2))]).await.len(), 2);
        let other = Event::Apply(pod("b", "other", "True", 1));
        assert_eq!(concerns(vec![first(), other]).await, [tier("default"), tier("other")]);
    }

    #[tokio::test]
    async fn a_new_list_wakes_the_tiers_of_pods_that_changed_or_went_in_between() {
        let list = |pods: Vec<Pod>| {
            let pods = pods.into_iter().map(Event::InitApply);
            [Event::Init].into_iter().chain(pods).chain([Event::InitDone]).collect::<Vec<_>>()
        };
        let first = vec![pod("a", "default", "True", 1), pod("b", "other", "True", 1)];
        let unchanged = [list(first.clone()), list(first.clone())].concat();
        assert_eq!(concerns(unchanged).await, [tier("default"), tier("other")]);
        let gone = [list(first.clone()), list(first[..1].to_vec())].concat();
        assert_eq!(concerns(gone).await, [tier("default"), tier("other"), tier("other")]);
    }
}
