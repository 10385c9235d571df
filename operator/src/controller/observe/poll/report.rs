//! Reports: what is known of each pod from its status polls, at most 512 bytes with its place in the schedule.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::controller::observe::poll::summary::{PodPage, PodSummary};
use crate::controller::observe::poll::texts::{Text, Texts};
use crate::controller::observe::poll::traffic::{PodCounters, TrafficRates, TrafficWindow};
use crate::controller::text::sanitize;

/// Consecutive failures of a pod up to which its last status counts as recent: with the delays between them, half a
/// minute of them.
const MAX_RECENT_FAILURES: u8 = 3;

/// Reports of pods by UID.
pub(crate) type PodReports = HashMap<String, Arc<PodReport>>;

/// Result of the status polls of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodReport {
    /// Summary of the last successful poll. A failed poll does not clear it: the pod may be unchanged.
    pub(crate) last_status: Option<PodSummary>,
    /// Error of the last poll; `None` after a successful one.
    pub(crate) poll_error: Option<Text>,
    /// Number of consecutive failed polls.
    pub(crate) failures: u8,
    /// Whether the pod is older than the operator's process.
    pub(super) is_older_than_operator: bool,
    /// Whether the first poll of a pod that is older than the operator's process is still to come.
    pub(super) is_awaited: bool,
    traffic: TrafficWindow,
    /// Page of the last successful poll, which tests change.
    #[cfg(test)]
    page: Option<Arc<PodPage>>,
}

impl PodReport {
    /// Builds the report about a pod that was there before the operator, before its first poll.
    pub(crate) fn unpolled(is_awaited: bool) -> Self {
        Self { is_older_than_operator: true, is_awaited, ..Self::default() }
    }

    /// Returns the report after a successful poll at the time `now`, in milliseconds of a clock that may wrap around.
    #[must_use]
    pub(super) fn after_answer(&self, page: &PodPage, now: u32, texts: &mut Texts) -> Self {
        let mut traffic = self.traffic.clone();
        traffic.add(now, &PodCounters::of(page));
        Self {
            last_status: Some(PodSummary::of(page, texts)),
            poll_error: None,
            failures: 0,
            is_older_than_operator: self.is_older_than_operator,
            is_awaited: false,
            traffic,
            #[cfg(test)]
            page: Some(Arc::new(page.clone())),
        }
    }

    /// Returns the report after a failed poll.
    #[must_use]
    pub(super) fn after_failure(&self, error: &str, texts: &mut Texts) -> Self {
        Self {
            poll_error: texts.intern(&sanitize(error)).or_else(|| self.poll_error.clone()),
            failures: self.failures.saturating_add(1),
            is_awaited: false,
            ..self.clone()
        }
    }

    /// Returns the status of the last poll; `None` when that poll failed.
    #[must_use]
    pub(crate) fn current_status(&self) -> Option<&PodSummary> {
        self.last_status.as_ref().filter(|_| self.failures == 0)
    }

    /// Returns the status of the last successful poll, unless half a minute of polls has failed since. A resolver whose
    /// upstream drops packets may be too busy to answer one.
    #[must_use]
    pub(crate) fn recent_status(&self) -> Option<&PodSummary> {
        self.last_status.as_ref().filter(|_| self.failures <= MAX_RECENT_FAILURES)
    }

    /// Returns whether nothing is known of a pod that was there before the operator: it may have been on any revision
    /// for long.
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        self.is_older_than_operator && self.last_status.is_none()
    }

    /// Returns whether the first poll of a pod that was there before the operator is still to come.
    #[must_use]
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Returns the traffic of the last minute; `None` before the second successful poll, and after a failed one.
    #[must_use]
    pub(crate) fn rates(&self) -> Option<TrafficRates> {
        self.traffic.rates().filter(|_| self.failures == 0)
    }

    /// Returns whether anything but counters differs. Failures count up to the second in sequence.
    pub(super) fn differs_from(&self, other: &Self) -> bool {
        let tells_the_same = match (self.current_status(), other.current_status()) {
            (Some(one), Some(other)) => one.tells_the_same(other),
            (None, None) => true,
            _ => false,
        };
        !tells_the_same || self.failures.min(2) != other.failures.min(2)
    }
}

#[cfg(test)]
impl PodReport {
    /// Builds the report after one successful poll.
    pub(crate) fn with_page(page: PodPage) -> Self {
        Self::default().after_answer(&page, 0, &mut Texts::default())
    }

    /// Changes the page of the last poll.
    pub(crate) fn change_page(&mut self, change: impl FnOnce(&mut PodPage)) {
        let mut page = PodPage::clone(self.page.as_ref().unwrap());
        change(&mut page);
        self.last_status = Some(PodSummary::of(&page, &mut Texts::default()));
        self.page = Some(Arc::new(page));
    }

    /// Builds the report after another poll, 10 s after the first one.
    pub(crate) fn polled_again(&self, change: impl FnOnce(&mut PodPage)) -> Self {
        let mut page = PodPage::clone(self.page.as_ref().unwrap());
        change(&mut page);
        self.after_answer(&page, 10_000, &mut Texts::default())
    }
}

/// Key of a pod: 64 bits from its UID, which is longer. Two of 5,000 pods share one in one of 10¹² clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodKey(u64);

impl PodKey {
    pub(super) fn of(uid: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Reports of all pods, which the poller replaces one by one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportStore(Arc<Mutex<HashMap<PodKey, Arc<PodReport>>>>);

impl ReportStore {
    /// Returns the reports of the pods with these UIDs. Reports are shared, not copied.
    #[must_use]
    pub(crate) fn of<'a>(&self, uids: impl Iterator<Item = &'a str>) -> PodReports {
        let reports = self.lock();
        uids.filter_map(|uid| Some((uid.to_owned(), reports.get(&PodKey::of(uid))?.clone()))).collect()
    }

    pub(super) fn get(&self, key: PodKey) -> Option<Arc<PodReport>> {
        self.lock().get(&key).cloned()
    }

    pub(super) fn set(&self, key: PodKey, report: PodReport) {
        self.lock().insert(key, Arc::new(report));
    }

    /// Removes all reports.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Removes all reports but these.
    pub(super) fn retain(&self, keep: impl Fn(&PodKey) -> bool) {
        self.lock().retain(|key, _| keep(key));
    }

    /// Stops awaiting the first poll of the pods that are not going to be polled, and returns how many are awaited.
    pub(super) fn count_awaited(&self, is_polled: impl Fn(&PodKey) -> bool) -> usize {
        let mut awaited = 0;
        for (key, report) in &mut *self.lock() {
            if report.is_awaited && is_polled(key) {
                awaited += 1;
            } else if report.is_awaited {
                Arc::make_mut(report).is_awaited = false;
            }
        }
        awaited
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodKey, Arc<PodReport>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::{
        CaptureState, CapturedAddress, DetectionStatus, EpisodeStatus, Instance, NodeStatus, ResolverStatus, Revision,
        SecondStatus, ThrottleStatus, Traffic, UpstreamState, UpstreamStatus,
    };

    use super::*;
    use crate::controller::observe::poll::address_uses::AddressUses;
    use crate::controller::observe::poll::schedule::Schedule;
    use crate::controller::observe::poll::summary::ProblemKind;

    fn node_page(queries: u64, in_force: &str) -> PodPage {
        let revision = Revision { asked: Some("new".to_owned()), in_force: Some(in_force.to_owned()), refusal: None };
        let instance = |name: &str| Instance {
            name: name.to_owned(),
            alive: true,
            revision: revision.clone(),
            traffic: Traffic { queries, ..Traffic::default() },
            ..Instance::default()
        };
        let instances = vec![instance("cache-0"), instance("cache-1")];
        PodPage::Node(NodeStatus { revision: revision.clone(), instances, ..NodeStatus::default() })
    }

    fn report(queries: u64, in_force: &str) -> PodReport {
        PodReport::with_page(node_page(queries, in_force))
    }

    fn change_node(page: &mut PodPage, change: impl FnOnce(&mut NodeStatus)) {
        match page {
            PodPage::Node(status) => change(status),
            PodPage::Resolver(_) => panic!("a node"),
        }
    }

    fn upstream(scope: &str, address: &str, detection: Option<DetectionStatus>) -> UpstreamStatus {
        UpstreamStatus {
            scope: scope.to_owned(),
            address: address.parse().unwrap(),
            healthy: true,
            state: UpstreamState::default(),
            responded: true,
            sent: detection.as_ref().map_or(0, |detection| detection.refused),
            timeouts: 0,
            in_flight: 0,
            near_misses: 0,
            detection,
        }
    }

    /// Returns the report of a node whose cache detects this of an upstream.
    fn with_detection(detection: DetectionStatus) -> PodReport {
        let mut page = node_page(1, "new");
        change_node(&mut page, |status| {
            status.instances[0].upstreams = vec![upstream("route/corp.example", "192.0.2.53:53", Some(detection))];
        });
        PodReport::with_page(page)
    }

    #[test]
    fn counters_alone_trigger_no_reconciliation() {
        assert!(!report(1, "old").differs_from(&report(1_000, "old")));
        assert!(report(1, "old").differs_from(&report(1, "new")));
        assert!(report(1, "old").differs_from(&PodReport::default()));
    }

    #[test]
    fn the_seconds_of_an_episode_trigger_no_reconciliation_and_a_limit_does() {
        let throttle = ThrottleStatus { state: "limited".to_owned(), since: 100, offered: 100, answered: 40 };
        let before = DetectionStatus { throttle: Some(throttle.clone()), ..DetectionStatus::default() };
        let later = DetectionStatus {
            state: "limited".to_owned(),
            ceiling: Some(36),
            refused: 7,
            throttle: Some(ThrottleStatus { since: 101, ..throttle.clone() }),
            episodes: vec![EpisodeStatus { seconds: vec![SecondStatus::default()], ..EpisodeStatus::default() }],
            ..DetectionStatus::default()
        };
        let other = DetectionStatus {
            throttle: Some(ThrottleStatus { answered: 41, ..throttle }),
            ..DetectionStatus::default()
        };
        let before = with_detection(before);
        assert!(!before.differs_from(&with_detection(later)));
        assert!(before.differs_from(&with_detection(other)));
        assert!(before.differs_from(&with_detection(DetectionStatus::default())));
    }

    #[test]
    fn an_unreachable_pod_triggers_two_reconciliations_and_then_no_more() {
        let mut texts = Texts::default();
        let mut failed = vec![report(0, "new")];
        for _ in 0..4 {
            failed.push(failed.last().unwrap().after_failure("refused", &mut texts));
        }
        assert!(failed[0].differs_from(&failed[1]) && failed[1].differs_from(&failed[2]));
        assert!(!failed[2].differs_from(&failed[3]));
        assert!(failed[3].current_status().is_none() && failed[3].recent_status().is_some());
        assert!(failed[4].recent_status().is_none() && failed[4].last_status.is_some());
    }

    #[test]
    fn a_node_is_on_a_revision_only_with_all_of_its_processes() {
        assert!(report(0, "new").last_status.unwrap().has_in_force("new"));
        for process in 0..3 {
            let mut page = node_page(0, "new");
            change_node(&mut page, |status| match process {
                2 => status.revision.in_force = None,
                instance => status.instances[instance].revision.in_force = Some("old".to_owned()),
            });
            let status = PodReport::with_page(page).last_status.unwrap();
            assert!(!status.has_in_force("new") && !status.has_in_force("old"), "{process}");
            let in_force = if process == 2 { vec!["new"] } else { vec!["new", "old"] };
            assert_eq!(Vec::from_iter(status.revisions_in_force()), in_force);
        }
    }

    #[test]
    fn a_pod_that_is_older_than_the_operator_is_unknown_until_its_first_answer() {
        let mut texts = Texts::default();
        let unpolled = PodReport::unpolled(true);
        assert!(unpolled.is_unknown() && unpolled.is_awaited());
        let failed = unpolled.after_failure("refused", &mut texts);
        assert!(failed.is_unknown() && !failed.is_awaited());
        assert!(!failed.after_answer(&node_page(0, "new"), 0, &mut texts).is_unknown());
        assert!(!PodReport::default().after_failure("refused", &mut texts).is_unknown(), "a pod that is new");
    }

    #[test]
    fn nobody_waits_for_the_first_poll_of_a_pod_that_is_not_polled() {
        let reports = ReportStore::default();
        for uid in ["one", "other"] {
            reports.set(PodKey::of(uid), PodReport::unpolled(true));
        }
        assert_eq!(reports.count_awaited(|_| true), 2);
        assert_eq!(reports.count_awaited(|key| *key == PodKey::of("one")), 1);
        assert_eq!(reports.count_awaited(|_| true), 1);
        let both = reports.of(["one", "other"].into_iter());
        assert!(both["one"].is_awaited() && !both["other"].is_awaited() && both["other"].is_unknown());
    }

    /// Captured addresses of a tier with both address families and a local one.
    const ADDRESSES: usize = 3;

    /// Returns how many bytes are kept of a pod: its report, the places of report and pod in their maps, its place in
    /// the schedule, and the uses of its addresses, without texts that are shared.
    fn kept_bytes(report: &PodReport) -> usize {
        let page = size_of::<Option<Arc<PodPage>>>();
        let counts = 2 * size_of::<usize>();
        let own = counts + size_of::<PodReport>() - page;
        let heap = report.last_status.as_ref().map_or(0, PodSummary::heap_bytes);
        // A hash map of 5,000 has 8,192 slots.
        let place = (size_of::<(PodKey, Arc<PodReport>)>() + 1) * 12 / 7;
        let uses = AddressUses::bytes_per_node(ADDRESSES);
        own + heap + place + Schedule::<PodKey, Arc<()>>::bytes_per_pod() + uses
    }

    #[test]
    fn a_pod_with_two_processes_of_130_upstreams_is_kept_in_512_bytes() {
        let mut page = node_page(1 << 40, "6df2eb2dca");
        change_node(&mut page, |status| {
            let addresses = ["10.96.0.10", "fd00:96::a", "169.254.20.10"];
            status.captured = Vec::from(addresses.map(|address| CapturedAddress {
                address: address.parse().unwrap(),
                state: CaptureState::Captured,
                reason: None,
            }));
            for instance in &mut status.instances {
                let scope =
                    |number: u16| if number < 30 { "cluster".to_owned() } else { format!("route/{number}.example") };
                let detection = DetectionStatus { has_enough_traffic: true, ..DetectionStatus::default() };
                instance.upstreams = (0..130)
                    .map(|number| upstream(&scope(number), &format!("192.0.2.1:{number}"), Some(detection.clone())))
                    .collect();
            }
        });
        let mut texts = Texts::default();
        let mut report = PodReport::default();
        for now in 0..100 {
            report = report.after_answer(&page, 5_000 * now, &mut texts);
        }
        assert!(kept_bytes(&report) <= 512, "{}", kept_bytes(&report));
        let status = report.last_status.unwrap();
        assert_eq!(status.queried().count(), 101);
        assert!(status.queried().all(|(_, is_down)| !is_down) && status.has_enough_traffic());
    }

    #[test]
    fn a_pod_that_reports_texts_without_end_is_kept_in_512_bytes() {
        let long = |number: usize| format!("{number} {}", "x".repeat(10_000));
        let throttle = ThrottleStatus { state: "limited".to_owned(), since: u64::MAX, offered: 9, answered: 9 };
        let mut page = node_page(u64::MAX, "new");
        change_node(&mut page, |status| {
            status.node = long(0);
            status.instances = (0..100)
                .map(|number| Instance {
                    name: long(number),
                    alive: number % 2 == 0,
                    revision: Revision { asked: None, in_force: Some(long(number)), refusal: Some(long(number)) },
                    upstream_problem: Some(long(number)),
                    upstreams: (0..100)
                        .map(|port| {
                            let detection =
                                DetectionStatus { throttle: Some(throttle.clone()), ..DetectionStatus::default() };
                            let address = format!("[fe80::1%{number}]:{port}");
                            let healthy = false;
                            UpstreamStatus { healthy, ..upstream(&long(port), &address, Some(detection)) }
                        })
                        .collect(),
                    ..Instance::default()
                })
                .collect();
            status.captured = (0..=255)
                .map(|number| CapturedAddress {
                    address: [10, 0, 0, number].into(),
                    state: [CaptureState::Foreign, CaptureState::Captured, CaptureState::Withdrawn]
                        [usize::from(number) % 3],
                    reason: Some(long(number.into())),
                })
                .collect();
        });
        let mut texts = Texts::default();
        let report = PodReport::default().after_answer(&page, 0, &mut texts).after_failure(&long(0), &mut texts);
        assert!(kept_bytes(&report) <= 512, "{}", kept_bytes(&report));
        let status = report.last_status.unwrap();
        assert_eq!(status.throttles().len(), 3);
        assert_eq!(status.problems(ProblemKind::NotCaptured).count(), 1);
        assert!(status.problems(ProblemKind::Refusal).all(|text| text.len() <= 300));
        assert_eq!(status.queried().filter(|(_, is_down)| *is_down).count(), 8);
        assert!(!status.has_in_force(&long(0)));
        drop(page);
    }

    #[test]
    fn what_a_resolver_forwards_to_is_told_server_by_server() {
        let mut dead = upstream("forward", "192.0.2.54:53", None);
        dead.healthy = false;
        let upstreams =
            vec![upstream("forward", "192.0.2.53:53", None), dead, upstream("inside", "192.0.2.9:53", None)];
        let instance = Instance { upstreams, ..Instance::default() };
        let report = PodReport::with_page(PodPage::Resolver(ResolverStatus { instance, ..ResolverStatus::default() }));
        let status = report.last_status.unwrap();
        assert_eq!(Vec::from_iter(status.queried()), [("192.0.2.53:53", false), ("192.0.2.54:53", true)]);
    }
}
