//! Findings about upstreams that answer only a part of what they are sent, summed over the pods of a zone.
//!
//! The figures are those of the moment in which each pod knew the cause, and stay until 30 s after its end, so that the
//! sentence changes with the limit only.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dnstier_crds::conditions::Reason;
use k8s_openapi::jiff::Timestamp;
use node_cache_config::status::{FALLBACK_SCOPE, Instance, ThrottleStatus, UpstreamStatus};

use crate::controller::finding::Finding;
use crate::controller::observe::Observed;
use crate::controller::observe::poll::PodStatus;
use crate::controller::text::{join_some, sanitize, zone_text};

/// Least limit that a packet budget can have.
const MIN_BUDGET: u32 = 10;

/// Sums of one upstream over the pods that it throttles.
struct Throttled {
    state: String,
    since: u64,
    offered: u32,
    answered: u32,
    /// Queries a second that the pod with the smallest share got answers to.
    least_answered: u32,
    fallback: Option<SocketAddr>,
}

/// Returns the findings, one for each upstream and place.
pub(super) fn findings(observed: &Observed) -> Vec<Finding> {
    let mut by_upstream: BTreeMap<(SocketAddr, String), Throttled> = BTreeMap::new();
    for (place, instance) in places(observed) {
        let fallback = instance.upstreams.iter().find(|upstream| upstream.scope == FALLBACK_SCOPE);
        let mut seen = Vec::new();
        for (upstream, throttle) in instance.upstreams.iter().filter_map(throttle) {
            // Two groups of a process may have the same server.
            if !seen.contains(&upstream.address) {
                seen.push(upstream.address);
                let sum = by_upstream.entry((upstream.address, place.clone())).or_insert_with(|| Throttled {
                    state: throttle.state.clone(),
                    since: throttle.since,
                    offered: 0,
                    answered: 0,
                    least_answered: u32::MAX,
                    fallback: fallback.map(|fallback| fallback.address),
                });
                sum.offered = sum.offered.saturating_add(throttle.offered);
                sum.answered = sum.answered.saturating_add(throttle.answered);
                sum.least_answered = sum.least_answered.min(throttle.answered);
                sum.since = sum.since.min(throttle.since);
            }
        }
    }
    by_upstream.into_iter().map(|((address, place), throttled)| finding(address, &place, &throttled)).collect()
}

fn throttle(upstream: &UpstreamStatus) -> Option<(&UpstreamStatus, &ThrottleStatus)> {
    Some((upstream, upstream.detection.as_ref()?.throttle.as_ref()?))
}

fn finding(address: SocketAddr, place: &str, throttled: &Throttled) -> Finding {
    let Throttled { state, since, offered, answered, least_answered, fallback } = throttled;
    let since = time_of_day(*since);
    let address = if address.port() == 53 { address.ip().to_string() } else { address.to_string() };
    let (all, some, missing) = (grouped(*offered), grouped(*answered), grouped(offered.saturating_sub(*answered)));
    match state.as_str() {
        "limited" => {
            let excess = match fallback {
                Some(fallback) => format!("{missing}/s go to {}", fallback.ip()),
                None => format!("{missing}/s get no answer from it"),
            };
            let budget = (least_answered / 10 * 9).max(MIN_BUDGET);
            Finding::new(
                Reason::LimitFound,
                format!(
                    "Upstream {address} answers {some} of {all} packets/s of {place} since {since}; {excess}; set \
                     packetBudget to {budget}."
                ),
            )
        }
        "flows limited" => Finding::new(
            Reason::FlowsLimited,
            format!("Upstream {address} has no room for new flows of {place} since {since}; ports are kept."),
        ),
        "slow" => {
            Finding::new(Reason::Lossy, format!("Upstream {address} answers {place} late at any rate since {since}."))
        }
        _ => Finding::new(
            Reason::Lossy,
            format!("Upstream {address} answers {some} of {all} packets/s of {place} since {since}, at any rate."),
        ),
    }
}

/// Returns whether some upstream gets enough queries for a limit to be found.
pub(super) fn has_enough_traffic(observed: &Observed) -> bool {
    let upstreams = places(observed).flat_map(|(_, instance)| &instance.upstreams);
    upstreams.filter_map(|upstream| upstream.detection.as_ref()).any(|detection| detection.has_enough_traffic)
}

/// Returns the processes that ask upstreams, with their zone, or their node where they ask for routes.
fn places(observed: &Observed) -> impl Iterator<Item = (String, &Instance)> {
    observed.pods.iter().filter(|pod| !pod.terminating).flat_map(|pod| {
        let status = observed.status_of(pod);
        let place = match (&status, &pod.node) {
            (Some(PodStatus::Resolver(_)), _) => zone_text(&pod.resolver_zone.clone().unwrap_or_default()),
            (_, Some(node)) => join_some(&[sanitize(node)]),
            (_, None) => join_some(&[sanitize(&pod.name)]),
        };
        status.into_iter().flat_map(PodStatus::instances).map(move |instance| (place.clone(), instance))
    })
}

/// Returns a time of the Unix epoch as `11:02:07` (UTC).
fn time_of_day(second: u64) -> String {
    let time = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    time.map_or_else(|| "some time".to_owned(), |time| time.strftime("%H:%M:%S").to_string())
}

/// Returns a number with a comma between groups of three digits.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
