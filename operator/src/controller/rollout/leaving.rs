//! Nodes that leave a tier, because its node selector, affinity or tolerations changed: they leave in waves.
//!
//! The DaemonSet controller takes all of their pods at once as soon as the pod template excludes them. So the template
//! names the nodes that may stay a little longer, until their turn has come.

use std::collections::{BTreeMap, BTreeSet};

use dnstier_crds::v1alpha1::WaveSize;

/// Returns the nodes that still stay: all that leave but the next wave of the smallest zone that still has some.
///
/// `leaving` are the nodes that run a pod and are excluded by the spec, with their zone; `sizes` the nodes of each zone
/// with a pod. The next call, when the pods of this wave are gone and their step was watched, takes the next wave.
#[must_use]
pub(crate) fn nodes_to_keep(
    leaving: &BTreeMap<String, String>,
    sizes: &BTreeMap<String, usize>,
    wave_size: WaveSize,
) -> BTreeSet<String> {
    let mut keep: BTreeSet<String> = leaving.keys().cloned().collect();
    let size = |zone: &str| sizes.get(zone).copied().unwrap_or_default();
    let next = leaving.values().min_by_key(|zone| (size(zone), zone.as_str()));
    let Some(next) = next else { return keep };
    let of_zone = leaving.iter().filter(|(_, zone)| *zone == next).map(|(node, _)| node);
    for node in of_zone.take(wave_size.nodes_of(size(next))) {
        keep.remove(node);
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_leave_in_waves_of_one_zone_the_smallest_first_and_by_name() {
        let mut leaving: BTreeMap<String, String> = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for (zone, nodes) in [("a", 20), ("b", 3)] {
            leaving.extend((0..nodes).map(|node| (format!("node-{zone}{node:02}"), zone.to_owned())));
            sizes.insert(zone.to_owned(), nodes);
        }
        let mut waves = Vec::new();
        while !leaving.is_empty() {
            let keep = nodes_to_keep(&leaving, &sizes, WaveSize::Percent(10));
            let gone: Vec<String> = leaving.keys().filter(|node| !keep.contains(*node)).cloned().collect();
            leaving.retain(|node, _| keep.contains(node));
            waves.push(gone);
        }
        assert_eq!(waves[..4], [vec!["node-b00"], vec!["node-b01"], vec!["node-b02"], vec!["node-a00", "node-a01"]]);
        assert_eq!(waves.len(), 13);
    }
}
