//! Selection of the active revision from the volume contents and the revision that is active now.

use std::sync::Arc;

use node_cache_config::status::NOT_IN_VOLUME;
use node_cache_config::{Config, fingerprint, status};

use super::volume::VolumeContents;

/// Revision that this process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActiveRevision {
    /// Configuration; `None` before the first.
    pub config: Option<Arc<Config>>,
    /// Zone of the pod as far as the pod knows; `None` before it knows.
    pub zone: Option<String>,
    /// Number of zone resolvers on the node, from the pod's annotation; `None` while it is not known.
    pub resolvers_on_node: Option<u32>,
    /// Names of the desired and the active revision, as the pod's status reports them.
    pub revision: status::Revision,
}

/// Returns the revision that is active after `volume` was read.
///
/// The desired revision wins. While its file is missing or invalid, the current revision stays active; before any
/// revision is active, the stable one (for pods without an annotation) is used.
#[must_use]
pub(super) fn select(current: &ActiveRevision, volume: &VolumeContents) -> ActiveRevision {
    let resolvers_on_node = volume.resolvers_on_node.or(current.resolvers_on_node);
    ActiveRevision { resolvers_on_node, ..select_revision(current, volume) }
}

fn select_revision(current: &ActiveRevision, volume: &VolumeContents) -> ActiveRevision {
    let zone = volume.zone.clone().or_else(|| current.zone.clone());
    let Some(desired) = &volume.desired else {
        return select_stable(current, volume, zone, None);
    };
    let refusal = match &volume.desired_content {
        None => format!("revision {desired} {NOT_IN_VOLUME}"),
        Some(content) => match Config::from_json(content) {
            Ok(config) => {
                let revision =
                    status::Revision { asked: Some(desired.clone()), in_force: Some(desired.clone()), refusal: None };
                let config = Some(reuse_if_equal(current, config));
                return ActiveRevision { config, zone, revision, resolvers_on_node: None };
            }
            Err(invalid) => format!("revision {desired} is refused: {invalid}"),
        },
    };
    if current.config.is_some() {
        return keep_current(current, zone, volume.desired.clone(), Some(refusal));
    }
    select_stable(current, volume, zone, Some(refusal))
}

fn select_stable(
    current: &ActiveRevision,
    volume: &VolumeContents,
    zone: Option<String>,
    refusal: Option<String>,
) -> ActiveRevision {
    let asked = volume.desired.clone();
    match volume.stable_content.as_deref().map(Config::from_json) {
        Some(Ok(config)) => {
            let in_force = Some(fingerprint(&config));
            ActiveRevision {
                config: Some(reuse_if_equal(current, config)),
                zone,
                revision: status::Revision { asked, in_force, refusal },
                resolvers_on_node: None,
            }
        }
        Some(Err(invalid)) => {
            let refusal = refusal.or_else(|| Some(format!("the stable revision is refused: {invalid}")));
            keep_current(current, zone, asked, refusal)
        }
        None => keep_current(current, zone, asked, refusal),
    }
}

fn keep_current(
    current: &ActiveRevision,
    zone: Option<String>,
    asked: Option<String>,
    refusal: Option<String>,
) -> ActiveRevision {
    let in_force = current.revision.in_force.clone();
    let revision = status::Revision { asked, in_force, refusal };
    ActiveRevision { config: current.config.clone(), zone, revision, resolvers_on_node: None }
}

/// Returns the current `Arc` when the new configuration equals it, so that a new revision name alone changes nothing
/// downstream.
fn reuse_if_equal(current: &ActiveRevision, config: Config) -> Arc<Config> {
    match &current.config {
        Some(running) if **running == config => running.clone(),
        _ => Arc::new(config),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config_json(tier: &str) -> Vec<u8> {
        format!(
            r#"{{"tier":"{tier}","clusterDomain":"cluster.local",
            "clusterDns":{{"bootstrap":["10.96.0.99:53"],"service":"pods.kube-system.svc.cluster.local"}},
            "nodeCache":{{"captured":[{{"address":"10.96.0.10","service":true}}],
              "cache":{{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400}},"allowFrom":["10.0.0.0/8"]}},
            "zones":[],
            "resolver":{{"upstreams":"resolvConf",
              "cache":{{"maxTtl":3600,"negativeMaxTtl":30,"serveStale":86400}},"allowFrom":["10.0.0.0/8"]}}}}"#
        )
        .into_bytes()
    }

    fn volume(desired: Option<&str>, desired_content: Option<Vec<u8>>, stable: Option<Vec<u8>>) -> VolumeContents {
        VolumeContents {
            desired: desired.map(str::to_owned),
            desired_content,
            stable_content: stable,
            ..VolumeContents::default()
        }
    }

    fn tier(active: &ActiveRevision) -> &str {
        &active.config.as_ref().unwrap().tier
    }

    #[test]
    fn the_desired_revision_wins_over_the_stable_one() {
        let after = select(
            &ActiveRevision::default(),
            &volume(Some("r1"), Some(config_json("one")), Some(config_json("stable"))),
        );
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        assert_eq!(after.revision.refusal, None);
    }

    #[test]
    fn a_pod_without_annotation_runs_the_stable_revision_under_its_true_name() {
        let after = select(&ActiveRevision::default(), &volume(None, None, Some(config_json("stable"))));
        assert_eq!(tier(&after), "stable");
        assert_eq!(after.revision.asked, None);
        assert_eq!(after.revision.in_force, Some(fingerprint(after.config.as_ref().unwrap())));
    }

    #[test]
    fn a_missing_revision_leaves_the_active_one_and_gives_the_reason() {
        let running = select(&ActiveRevision::default(), &volume(Some("r1"), Some(config_json("one")), None));
        let after = select(&running, &volume(Some("r2"), None, Some(config_json("stable"))));
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        assert_eq!(after.revision.refusal.as_deref(), Some("revision r2 is not in the volume yet"));
        let fresh = select(&ActiveRevision::default(), &volume(Some("r2"), None, Some(config_json("stable"))));
        assert_eq!(tier(&fresh), "stable");
        assert!(fresh.revision.refusal.is_some());
    }

    #[test]
    fn an_invalid_revision_leaves_the_active_one_and_gives_the_reason() {
        let running = select(&ActiveRevision::default(), &volume(Some("r1"), Some(config_json("one")), None));
        let bad =
            String::from_utf8(config_json("two")).unwrap().replace("cluster.local", "Cluster.Local.").into_bytes();
        let after = select(&running, &volume(Some("r2"), Some(bad), None));
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.asked.as_deref(), Some("r2"));
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        let refusal = after.revision.refusal.clone().unwrap();
        assert!(refusal.starts_with("revision r2 is refused: clusterDomain:"), "{refusal}");
        let good = select(&after, &volume(Some("r3"), Some(config_json("three")), None));
        assert_eq!((tier(&good), &good.revision.refusal), ("three", &None));
    }

    #[test]
    fn an_emptied_volume_changes_nothing() {
        let mut before = volume(Some("r1"), Some(config_json("one")), None);
        before.zone = Some("zone-a".into());
        before.resolvers_on_node = Some(2);
        let running = select(&ActiveRevision::default(), &before);
        let after = select(&running, &VolumeContents::default());
        assert_eq!(after.config, running.config);
        assert_eq!((after.zone.as_deref(), after.resolvers_on_node), (Some("zone-a"), Some(2)));
    }
}
