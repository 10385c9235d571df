//! Failure responses: SERVFAIL or REFUSED of this process with an Extended DNS Error (RFC 8914), cached failures (RFC
//! 9520), denials of a fallback, and truncated responses of servers that are closed over TCP.

use std::sync::Arc;

use crate::cache::CachedFailure;
use crate::dns::Response;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::query::{Query, Transport};
use crate::snapshot::Snapshot;

/// Longest TTL that a denial of a fallback shows, in seconds: as long as the longest back-off of a failure, so that the
/// upstreams are soon asked again.
const FALLBACK_DENIAL_TTL: u32 = 5;

/// Returns a failure of this process with this rcode, and with the Extended DNS Error that explains it.
pub(super) fn failure(query: &Query, rcode: u16, ede: u16) -> Answer {
    Answer { source: Source::Failure, ..Answer::local(Response::empty(&query.question(), rcode), Some(ede)) }
}

/// Returns the answer for a denial of a fallback, which no data of the upstreams contradict. Nodes are told whose word
/// it is.
pub(super) fn denial_by_fallback(snapshot: &Snapshot, response: Arc<Response>) -> Answer {
    let ttl_view = TtlView::Cached { age: 0, cap: FALLBACK_DENIAL_TTL };
    Answer { response, ttl_view, ede: snapshot.fallback_denial_ede, source: Source::Upstream }
}

/// Returns the answer for a cached failure (RFC 9520): the upstream's response, or SERVFAIL when no upstream responded.
pub(super) fn cached_failure(query: &Query, snapshot: &Snapshot, cached: CachedFailure) -> Answer {
    match cached.response {
        None => failure(query, rcode::SERVFAIL, snapshot.failed_ede),
        Some(response) if response.is_denied_by_fallback() => denial_by_fallback(snapshot, response),
        Some(response) => {
            let cached_error = || response.ede().and_then(ede::public).or(Some(ede::CACHED_ERROR));
            let ede = failed_ede(snapshot, &response).or_else(cached_error);
            Answer { response, ttl_view: TtlView::Original, ede, source: Source::Failure }
        }
    }
}

/// Returns the answer for an upstream's response that is a failure.
pub(super) fn failed_answer(snapshot: &Snapshot, response: Arc<Response>) -> Answer {
    let ede = failed_ede(snapshot, &response);
    Answer { response, ttl_view: TtlView::Original, ede, source: Source::Failure }
}

/// Returns the Extended DNS Error by which nodes know the failure of a zone resolver's upstreams; `None` on a node, and
/// where the upstream gives a reason of its own, such as bogus data, which says more.
fn failed_ede(snapshot: &Snapshot, response: &Response) -> Option<u16> {
    let has_reason =
        response.ede().is_some_and(|code| !matches!(code, ede::NO_REACHABLE_AUTHORITY | ede::NETWORK_ERROR));
    (snapshot.serves_nodes() && !has_reason).then_some(snapshot.failed_ede)
}

/// Returns the answer for a truncated response of an upstream that does not give the whole one over TCP. Over UDP the
/// client decides what it is worth (RFC 2181 §9). Over TCP there is no more to get, and part of an RRset is no answer
/// (RFC 2181 §5): SERVFAIL.
pub(super) fn truncated_answer(query: &Query, response: Arc<Response>) -> Answer {
    if query.transport == Transport::Tcp {
        return failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY);
    }
    Answer { response, ttl_view: TtlView::Original, ede: None, source: Source::Upstream }
}

/// Returns whether a failure means bogus data (RFC 8914 §4.7 to §4.13). A stale answer is then no remedy.
pub(super) fn is_bogus(response: &Response) -> bool {
    response.ede().is_some_and(|code| (6..=12).contains(&code))
}
