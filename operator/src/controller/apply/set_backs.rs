//! Annotations of pods that another writer takes away: the operator writes them again, and leaves the pod alone for a
//! while once that has happened often.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::controller::apply::annotate::PodAnnotations;
use crate::controller::apply::contest::{Contests, Decision};
use crate::controller::apply::field_managers::Parties;
use crate::controller::finding::Finding;
use crate::controller::observe::own_writes::MAX_LAG;

/// Written annotations of pods by their UIDs, and the contests about them.
#[derive(Debug, Default)]
pub(super) struct SetBacks {
    written: Mutex<HashMap<String, Written>>,
    contests: Contests,
}

/// Last write of the annotations of a pod.
#[derive(Clone, Debug)]
struct Written {
    /// Annotations, but for the time at which they were told.
    content: String,
    /// Version of the pod that the write made.
    version: String,
    time: Instant,
}

impl Written {
    /// Returns whether the watch has delivered no version of the pod from after the write.
    fn is_undelivered(&self, version: Option<&str>) -> bool {
        let number = |version: &str| version.parse::<u64>().ok();
        version.and_then(number).zip(number(&self.version)).is_some_and(|(delivered, written)| delivered < written)
    }
}

impl SetBacks {
    /// Returns the annotations that are to be written: without those that the watch of pods has not delivered yet, and
    /// without those of pods that another writer sets back again and again.
    pub(super) fn select(&self, tier: &str, plan: Vec<PodAnnotations>, now: Instant) -> Vec<PodAnnotations> {
        let planned: HashSet<String> = plan.iter().map(object).collect();
        self.contests.retain(tier, |object| planned.contains(object), now);
        self.lock().retain(|_, written| now.saturating_duration_since(written.time) < MAX_LAG);
        plan.into_iter().filter(|annotations| self.is_due(tier, annotations, now)).collect()
    }

    fn is_due(&self, tier: &str, annotations: &PodAnnotations, now: Instant) -> bool {
        let content = content(annotations);
        let written = self.lock().get(&annotations.uid).cloned();
        let Some(written) = written.filter(|written| written.content == content) else { return true };
        if written.is_undelivered(annotations.version.as_deref()) {
            return false;
        }
        let object = object(annotations);
        match self.contests.decide(tier, &object, &content, true, now) {
            Decision::Apply => true,
            Decision::LeaveAlone => false,
            Decision::Contest => {
                let fields = annotations.values().map(|(key, _)| format!("metadata.annotations[{key}]")).collect();
                self.contests.begin(tier, &object, Some(&Parties { fields, managers: Vec::new() }));
                false
            }
        }
    }

    /// Records that a pod was annotated, by which it has this version.
    pub(super) fn record(&self, tier: &str, annotations: &PodAnnotations, version: String, now: Instant) {
        let content = content(annotations);
        self.contests.record_apply(tier, &object(annotations), &content);
        self.lock().insert(annotations.uid.clone(), Written { content, version, time: now });
    }

    /// Returns the finding that names the pods that are left alone; `None` without any.
    #[must_use]
    pub(super) fn finding(&self, tier: &str, now: Instant) -> Option<Finding> {
        self.contests.finding(tier, now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the name of a pod in a finding.
fn object(annotations: &PodAnnotations) -> String {
    format!("Pod {}/{}", annotations.namespace, annotations.pod)
}

/// Returns what two writes of the same annotations have in common: a further telling is another write.
fn content(annotations: &PodAnnotations) -> String {
    let PodAnnotations { revision, told, zone, resolvers_on_node, .. } = annotations;
    format!("{revision:?} {:?} {zone:?} {resolvers_on_node:?}", told.map(|told| told.number))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::controller::owned::telling::Telling;

    fn telling(number: u8, version: &str) -> PodAnnotations {
        PodAnnotations {
            namespace: "dnstier-node".to_owned(),
            pod: "a".to_owned(),
            uid: "uid-of-a".to_owned(),
            version: Some(version.to_owned()),
            revision: Some("1a2b".to_owned()),
            told: Some(Telling { number, time: Timestamp::UNIX_EPOCH }),
            zone: Some("zone-a".to_owned()),
            resolvers_on_node: None,
        }
    }

    /// Writes these annotations where they are due, which makes the next version, and returns whether they were.
    fn write(set_backs: &SetBacks, annotations: &PodAnnotations, now: Instant) -> bool {
        let due = set_backs.select("default", vec![annotations.clone()], now);
        for annotations in &due {
            let version: u64 = annotations.version.as_ref().unwrap().parse().unwrap();
            set_backs.record("default", annotations, (version + 1).to_string(), now);
        }
        !due.is_empty()
    }

    #[test]
    fn annotations_that_are_taken_away_three_times_are_named_and_left_alone_for_ten_minutes() {
        let (set_backs, start) = (SetBacks::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let is_written = |version: u64| write(&set_backs, &telling(1, &version.to_string()), after(version));
        assert_eq!([1, 2, 3, 4, 5, 600].map(is_written), [true, true, true, false, false, false]);
        let message = set_backs.finding("default", after(600)).unwrap().message;
        let start = "Pod dnstier-node/a: another writer sets back metadata.annotations[dnstier.io/revision], ";
        assert!(message.starts_with(start), "{message}");
        assert!(is_written(604), "it is tried again");
        assert_eq!(set_backs.finding("default", after(604)), None);
    }

    #[test]
    fn a_watch_that_lags_and_further_tellings_are_nobodys_setting_back() {
        let (set_backs, now) = (SetBacks::default(), Instant::now());
        assert!(write(&set_backs, &telling(1, "109"), now));
        for version in 99..109 {
            assert!(!write(&set_backs, &telling(1, &version.to_string()), now), "it is from before the write");
        }
        for number in 2..9 {
            assert!(write(&set_backs, &telling(number, "109"), now));
        }
        assert_eq!(set_backs.finding("default", now), None);
        assert!(!write(&set_backs, &telling(8, "109"), now));
        assert!(write(&set_backs, &telling(8, "109"), now + MAX_LAG), "the write is forgotten");
    }

    #[test]
    fn a_pod_that_keeps_its_annotations_or_is_gone_is_no_longer_named() {
        let (set_backs, now) = (SetBacks::default(), Instant::now());
        for version in 1..5 {
            write(&set_backs, &telling(1, &version.to_string()), now);
        }
        assert!(set_backs.finding("default", now).is_some());
        set_backs.select("default", Vec::new(), now);
        assert_eq!(set_backs.finding("default", now), None);
    }
}
