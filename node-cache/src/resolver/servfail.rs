//! Failure responses: SERVFAIL or REFUSED of this process with an Extended DNS Error (RFC 8914), cached failures (RFC
//! 9520), and truncated responses of servers that are closed over TCP.

use std::sync::Arc;

use crate::cache::CachedFailure;
use crate::dns::Response;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::query::{Query, Transport};

/// Returns a failure of this process with this rcode, and with the Extended DNS Error that explains it.
pub(super) fn failure(query: &Query, rcode: u16, ede: u16) -> Answer {
    Answer { source: Source::Failure, ..Answer::local(Response::empty(&query.question(), rcode), Some(ede)) }
}

/// Returns the answer for a cached failure (RFC 9520): the upstream's response, or SERVFAIL when no upstream responded.
pub(super) fn cached_failure(query: &Query, cached: CachedFailure) -> Answer {
    match cached.response {
        None => failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY),
        Some(response) => {
            let ede = response.ede().map(ede::public).or(Some(ede::CACHED_ERROR));
            Answer { response, ttl_view: TtlView::Original, ede, source: Source::Failure }
        }
    }
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
