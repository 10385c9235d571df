//! Failure responses: SERVFAIL or REFUSED of this process with an Extended DNS Error (RFC 8914), and cached failures
//! (RFC 9520).

use crate::cache::CachedFailure;

use crate::dns::Response;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::query::Query;

/// Returns a failure of this process with this rcode, and with the Extended DNS Error that explains it.
pub(super) fn failure(query: &Query, rcode: u16, ede: u16) -> Answer {
    Answer { source: Source::Failure, ..Answer::local(Response::empty(&query.question(), rcode), Some(ede)) }
}

/// Returns the answer for a cached failure (RFC 9520): the upstream's response, or SERVFAIL when no upstream responded.
pub(super) fn cached_failure(query: &Query, cached: CachedFailure) -> Answer {
    match cached.response {
        None => failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY),
        Some(response) => {
            let ede = response.ede().and_then(ede::public).or(Some(ede::CACHED_ERROR));
            Answer { response, ttl_view: TtlView::Original, ede, source: Source::Failure }
        }
    }
}

/// Returns whether a failure means bogus data (RFC 8914 §4.7 to §4.13). A stale answer is then no remedy.
pub(super) fn is_bogus(response: &Response) -> bool {
    response.ede().is_some_and(|code| (6..=12).contains(&code))
}
