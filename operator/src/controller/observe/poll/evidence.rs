//! Evidence: what the last page of a pod tells for the judgement of a change. It is kept of the pods of a step and of
//! their controls alone: figures take up to 4 KiB.

use std::collections::BTreeMap;
use std::net::IpAddr;

use node_cache_config::figures::{CAPABILITIES, Figures};
use node_cache_config::status::{CaptureState, CapturedAddress, Instance};

use crate::controller::observe::poll::summary::PodPage;
use crate::controller::text::sanitize;

/// Polls in sequence with a captured address that the pod does not answer at, from which that is a failure: an address
/// that was just added takes a moment.
const MIN_UNANSWERED_POLLS: u8 = 3;
/// Number of captured addresses that are kept, at most: a spec names eight, and the cluster DNS has two.
const MAX_UNANSWERED: usize = 16;
/// Number of scopes that are kept, at most; a pod of this release reports no more.
const MAX_SCOPES: usize = 32;

/// Evidence of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Counters of the pod.
    pub(crate) figures: Figures,
    /// Stale answers.
    pub(crate) stale: u64,
    /// Queries to upstreams without a response in time.
    pub(crate) timeouts: u64,
    /// Start of the process that started last, in seconds of the Unix epoch.
    pub(crate) started: u64,
    /// Restarts of processes.
    pub(crate) restarts: u32,
    /// Revision that a process does not take over, and the reason.
    pub(crate) refusal: Option<(String, String)>,
    /// Whether the pod can be probed with a digest of the answer.
    pub(crate) can_be_probed: bool,
    /// Captured addresses at which the pod did not answer itself in the last poll.
    unanswered: BTreeMap<IpAddr, Unanswered>,
}

/// Captured address at which a pod does not answer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unanswered {
    /// Number of polls in sequence.
    polls: u8,
    reason: String,
}

impl Evidence {
    /// Reads a page; `before` is the evidence of the page before. Counters are those of all processes: while one of
    /// them does not answer, the ones of before stay, and there is no evidence without any.
    pub(super) fn of(page: &PodPage, before: Option<&Self>) -> Option<Self> {
        let evidence = Self::of_page(page, before);
        // One that is not alive and has a start answers, but not on all of its sockets,
        // or its agent keeps its counters.
        if page.instances().iter().all(|instance| instance.alive || instance.started.is_some()) {
            return Some(evidence);
        }
        let before = before?.clone();
        let Self { refusal, can_be_probed, unanswered, .. } = evidence;
        Some(Self { refusal, can_be_probed, unanswered, ..before })
    }

    /// Returns the captured addresses at which the pod has not answered itself for some polls, with the reasons.
    pub(crate) fn self_query_failures(&self) -> BTreeMap<IpAddr, String> {
        let failing = self.unanswered.iter().filter(|(_, unanswered)| unanswered.polls >= MIN_UNANSWERED_POLLS);
        failing.map(|(address, unanswered)| (*address, unanswered.reason.clone())).collect()
    }

    fn of_page(page: &PodPage, before: Option<&Self>) -> Self {
        let (figures, agent_started, capabilities) = match page {
            PodPage::Node(status) => (&status.figures, status.started, &status.capabilities),
            PodPage::Resolver(status) => (&status.figures, None, &status.capabilities),
        };
        let instances = page.instances();
        let sum = |count: fn(&Instance) -> u64| instances.iter().map(count).fold(0, u64::saturating_add);
        let upstreams = |instance: &Instance| {
            instance.upstreams.iter().map(|upstream| upstream.timeouts).fold(0, u64::saturating_add)
        };
        let refusals = page.revisions().filter_map(|revision| revision.asked.as_ref().zip(revision.rejection()));
        let unanswered = page.captured().iter().filter_map(|captured| {
            let reason = unanswered_reason(captured)?;
            let before = before.and_then(|before| before.unanswered.get(&captured.address));
            let polls = before.map_or(0, |before| before.polls).saturating_add(1);
            Some((captured.address, Unanswered { polls, reason }))
        });
        let mut figures = figures.clone();
        figures.responses.truncate(MAX_SCOPES);
        figures.queries.clear();
        Self {
            figures,
            stale: sum(|instance| instance.traffic.stale),
            timeouts: instances.iter().map(upstreams).fold(0, u64::saturating_add),
            started: instances.iter().filter_map(|instance| instance.started).chain(agent_started).max().unwrap_or(0),
            restarts: instances.iter().filter_map(|instance| instance.restarts).fold(0, u32::saturating_add),
            refusal: refusals.map(|(asked, reason)| (asked.clone(), sanitize(reason))).next(),
            can_be_probed: capabilities.iter().any(|word| word == CAPABILITIES[1]),
            unanswered: unanswered.take(MAX_UNANSWERED).collect(),
        }
    }
}

/// Returns the reason why a pod does not answer itself at an address; `None` where it does.
fn unanswered_reason(captured: &CapturedAddress) -> Option<String> {
    let reason = captured.reason.as_ref().filter(|_| captured.state == CaptureState::Withdrawn)?;
    Some(sanitize(reason))
}

#[cfg(test)]
mod tests {
    use node_cache_config::status::{NOT_IN_VOLUME, NodeStatus, Revision};

    use super::*;

    fn page(change: impl FnOnce(&mut NodeStatus)) -> PodPage {
        let instance =
            |started| Instance { alive: true, started: Some(started), restarts: Some(1), ..Instance::default() };
        let mut status =
            NodeStatus { started: Some(5), instances: vec![instance(7), instance(6)], ..NodeStatus::default() };
        change(&mut status);
        PodPage::Node(status)
    }

    #[test]
    fn the_process_that_started_last_and_the_restarts_of_all_count() {
        let evidence = Evidence::of(&page(|_| {}), None).unwrap();
        assert_eq!((evidence.started, evidence.restarts), (7, 2));
        assert_eq!(Evidence::of(&page(|status| status.started = Some(9)), None).unwrap().started, 9);
    }

    #[test]
    fn a_process_that_does_not_answer_for_a_moment_has_not_restarted_and_takes_no_counter_back() {
        let counting = |status: &mut NodeStatus| {
            status.figures.slow_misses = 5;
            status.instances[0].traffic.stale = 3;
        };
        let silent = page(|status| {
            status.instances[0] = Instance { name: "cache-0".to_owned(), ..Instance::default() };
            status.revision.refusal = Some("no".to_owned());
            status.revision.asked = Some("new".to_owned());
        });
        assert_eq!(Evidence::of(&silent, None), None, "what it counts is not known");
        let whole = Evidence::of(&page(counting), None).unwrap();
        let meanwhile = Evidence::of(&silent, Some(&whole)).unwrap();
        assert_eq!((meanwhile.started, meanwhile.restarts, meanwhile.stale), (7, 2, 3));
        assert_eq!(meanwhile.figures, whole.figures);
        assert!(meanwhile.refusal.is_some(), "what the agent says counts");
        assert_eq!(Evidence::of(&page(counting), Some(&meanwhile)), Some(whole.clone()));
        let hanging = page(|status| {
            status.figures.slow_misses = 9;
            status.instances[0].alive = false;
        });
        let hanging = Evidence::of(&hanging, Some(&whole)).unwrap();
        assert_eq!(hanging.figures.slow_misses, 9, "a process that hangs on one socket still counts");
    }

    #[test]
    fn a_refusal_is_that_of_the_revision_that_was_asked_for() {
        let revision = Revision { asked: Some("new".to_owned()), in_force: None, refusal: Some("no.".to_owned()) };
        let evidence = Evidence::of(&page(|status| status.instances[1].revision = revision), None).unwrap();
        assert_eq!(evidence.refusal, Some(("new".to_owned(), "no".to_owned())));
        let late = format!("revision new {NOT_IN_VOLUME}");
        let revision =
            Revision { asked: Some("new".to_owned()), in_force: Some("old".to_owned()), refusal: Some(late) };
        let evidence = Evidence::of(&page(|status| status.revision = revision), None).unwrap();
        assert_eq!(evidence.refusal, None, "a volume that is late refuses nothing");
    }

    /// Returns a page on which these addresses are withdrawn.
    fn withdrawn(addresses: &[&str]) -> PodPage {
        let captured = addresses.iter().map(|address| CapturedAddress {
            address: address.parse().unwrap(),
            state: CaptureState::Withdrawn,
            reason: Some("no cache answers".to_owned()),
        });
        page(|status| status.captured = captured.collect())
    }

    /// Returns the evidence of pages that follow each other.
    fn after(pages: &[PodPage]) -> Evidence {
        let mut evidence = None;
        for page in pages {
            evidence = Evidence::of(page, evidence.as_ref());
        }
        evidence.unwrap()
    }

    /// Returns the addresses with failed self-queries after pages that follow each other.
    fn failing(pages: &[PodPage]) -> Vec<String> {
        after(pages).self_query_failures().into_keys().map(|address| address.to_string()).collect()
    }

    #[test]
    fn an_address_that_is_unanswered_for_three_polls_is_a_failed_self_query() {
        let unanswered = || withdrawn(&["10.96.0.10"]);
        assert_eq!(failing(&[unanswered(), unanswered()]), Vec::<String>::new());
        let failures = after(&[unanswered(), unanswered(), unanswered()]).self_query_failures();
        assert_eq!(failures, BTreeMap::from([("10.96.0.10".parse().unwrap(), "no cache answers".to_owned())]));
        let answered = page(|_| {});
        assert_eq!(failing(&[unanswered(), unanswered(), answered, unanswered()]), Vec::<String>::new());
    }

    #[test]
    fn each_address_counts_its_own_polls_and_all_that_fail_are_told() {
        let (one, both) = (|| withdrawn(&["fd00:96::a"]), || withdrawn(&["fd00:96::a", "10.96.0.10"]));
        assert_eq!(failing(&[one(), one(), one(), both(), both()]), ["fd00:96::a"]);
        assert_eq!(failing(&[one(), both(), both(), both()]), ["10.96.0.10", "fd00:96::a"]);
    }

    #[test]
    fn a_page_with_ever_so_many_addresses_takes_bounded_room() {
        let addresses: Vec<String> = (0..100).map(|number| format!("192.0.2.{number}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        assert_eq!(after(&[withdrawn(&addresses)]).unanswered.len(), MAX_UNANSWERED);
    }
}
