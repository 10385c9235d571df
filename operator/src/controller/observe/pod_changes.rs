//! Changes of pods that concern their tiers. The kubelet writes the status of a pod more often than that.

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;

use crate::controller::observe::known_objects::KnownObjects;
use crate::controller::observe::pods::TierPod;
use crate::controller::schedule::Concern;

/// Pods that a watch has delivered, by UID, with their tiers.
#[derive(Debug, Default)]
struct KnownPods(KnownObjects<String>);

impl KnownPods {
    /// Records an event and returns the tiers that it concerns.
    fn record(&mut self, event: &watcher::Event<Pod>) -> Vec<Concern> {
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => self.record_pod(pod),
            watcher::Event::Delete(pod) => {
                let tier = pod.metadata.uid.as_ref().and_then(|uid| self.0.remove(uid));
                tier.map(Concern::Tier).into_iter().collect()
            }
            watcher::Event::Init => {
                self.0.begin_list();
                Vec::new()
            }
            watcher::Event::InitDone => self.0.end_list().into_iter().map(Concern::Tier).collect(),
        }
    }

    fn record_pod(&mut self, pod: &Pod) -> Vec<Concern> {
        let Some(pod) = TierPod::from_pod(pod) else { return Vec::new() };
        // The kubelet makes versions that mean nothing here.
        let pod = TierPod { version: None, ..pod };
        let is_change = self.0.record(pod.uid.clone(), pod.tier.clone(), &pod);
        if is_change { vec![Concern::Tier(pod.tier)] } else { Vec::new() }
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
