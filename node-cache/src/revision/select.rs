//! Which configuration follows from what the volume holds and what is in force.

use std::sync::Arc;

use node_cache_config::{Config, fingerprint, status};

use super::VolumeContents;

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveRevision {
    /// The configuration; none before the first.
    pub config: Option<Arc<Config>>,
    /// The zone that the pod believes to be in; none while it does not know.
    pub zone: Option<String>,
    /// What is said of it.
    pub revision: status::Revision,
}

/// What is in force after a look at the volume.
///
/// The revision asked wins. While its file is missing or invalid, what runs stays; before anything runs, the revision
/// for pods that nobody has annotated applies.
#[must_use]
pub fn select(current: &ActiveRevision, seen: &VolumeContents) -> ActiveRevision {
    let zone = seen.zone.clone().or_else(|| current.zone.clone());
    let Some(asked) = &seen.asked else {
        return stable(current, seen, zone, None);
    };
    let refusal = match &seen.asked_content {
        None => format!("revision {asked} is not in the volume yet"),
        Some(content) => match Config::from_json(content) {
            Ok(config) => {
                let revision =
                    status::Revision { asked: Some(asked.clone()), in_force: Some(asked.clone()), refusal: None };
                return ActiveRevision { config: Some(same_or_new(current, config)), zone, revision };
            }
            Err(invalid) => format!("revision {asked} is refused: {invalid}"),
        },
    };
    if current.config.is_some() {
        return kept(current, zone, seen.asked.clone(), Some(refusal));
    }
    stable(current, seen, zone, Some(refusal))
}

fn stable(
    current: &ActiveRevision,
    seen: &VolumeContents,
    zone: Option<String>,
    refusal: Option<String>,
) -> ActiveRevision {
    let asked = seen.asked.clone();
    match seen.stable_content.as_deref().map(Config::from_json) {
        Some(Ok(config)) => {
            let in_force = Some(fingerprint(&config));
            ActiveRevision {
                config: Some(same_or_new(current, config)),
                zone,
                revision: status::Revision { asked, in_force, refusal },
            }
        }
        Some(Err(invalid)) => {
            kept(current, zone, asked, refusal.or_else(|| Some(format!("the stable revision is refused: {invalid}"))))
        }
        None => kept(current, zone, asked, refusal),
    }
}

fn kept(
    current: &ActiveRevision,
    zone: Option<String>,
    asked: Option<String>,
    refusal: Option<String>,
) -> ActiveRevision {
    let in_force = current.revision.in_force.clone();
    ActiveRevision { config: current.config.clone(), zone, revision: status::Revision { asked, in_force, refusal } }
}

/// Keeps the value that runs when the new one equals it, so that a new name alone changes nothing downstream.
fn same_or_new(current: &ActiveRevision, config: Config) -> Arc<Config> {
    match &current.config {
        Some(running) if **running == config => running.clone(),
        _ => Arc::new(config),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn json(tier: &str) -> Vec<u8> {
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

    fn seen(asked: Option<&str>, asked_content: Option<Vec<u8>>, stable_content: Option<Vec<u8>>) -> VolumeContents {
        VolumeContents { asked: asked.map(str::to_owned), asked_content, stable_content, zone: None }
    }

    fn tier(in_force: &ActiveRevision) -> &str {
        &in_force.config.as_ref().unwrap().tier
    }

    #[test]
    fn the_revision_asked_wins_over_the_stable_one() {
        let after = select(&ActiveRevision::default(), &seen(Some("r1"), Some(json("one")), Some(json("stable"))));
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        assert_eq!(after.revision.refusal, None);
    }

    #[test]
    fn a_pod_that_nobody_annotated_runs_the_stable_revision_under_its_true_name() {
        let after = select(&ActiveRevision::default(), &seen(None, None, Some(json("stable"))));
        assert_eq!(tier(&after), "stable");
        assert_eq!(after.revision.asked, None);
        assert_eq!(after.revision.in_force, Some(fingerprint(after.config.as_ref().unwrap())));
    }

    #[test]
    fn a_revision_that_is_missing_keeps_what_runs_and_says_so() {
        let running = select(&ActiveRevision::default(), &seen(Some("r1"), Some(json("one")), None));
        let after = select(&running, &seen(Some("r2"), None, Some(json("stable"))));
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        assert_eq!(after.revision.refusal.as_deref(), Some("revision r2 is not in the volume yet"));
        let fresh = select(&ActiveRevision::default(), &seen(Some("r2"), None, Some(json("stable"))));
        assert_eq!(tier(&fresh), "stable");
        assert!(fresh.revision.refusal.is_some());
    }

    #[test]
    fn a_revision_that_is_invalid_is_kept_out_and_told() {
        let running = select(&ActiveRevision::default(), &seen(Some("r1"), Some(json("one")), None));
        let bad = String::from_utf8(json("two")).unwrap().replace("cluster.local", "Cluster.Local.").into_bytes();
        let after = select(&running, &seen(Some("r2"), Some(bad), None));
        assert_eq!(tier(&after), "one");
        assert_eq!(after.revision.asked.as_deref(), Some("r2"));
        assert_eq!(after.revision.in_force.as_deref(), Some("r1"));
        let refusal = after.revision.refusal.clone().unwrap();
        assert!(refusal.starts_with("revision r2 is refused: clusterDomain:"), "{refusal}");
        let good = select(&after, &seen(Some("r3"), Some(json("three")), None));
        assert_eq!((tier(&good), &good.revision.refusal), ("three", &None));
    }

    #[test]
    fn an_emptied_volume_changes_nothing() {
        let mut before = seen(Some("r1"), Some(json("one")), None);
        before.zone = Some("zone-a".into());
        let running = select(&ActiveRevision::default(), &before);
        let after = select(&running, &VolumeContents::default());
        assert_eq!(after.config, running.config);
        assert_eq!(after.zone.as_deref(), Some("zone-a"));
    }
}
