//! What is said when nobody answers, or answers that he cannot.

use std::sync::Arc;

use crate::dns::Response;
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::query::Query;

/// A failure of our own, with the Extended DNS Error that explains it.
pub(super) fn failure(query: &Query, code: u16, ede: u16) -> Answer {
    Answer { origin: Source::Failure, ..Answer::local(Response::empty(&query.question(), code), Some(ede)) }
}

/// A failure of a moment ago (RFC 9520).
pub(super) fn remembered(query: &Query, failed: Option<Arc<Response>>) -> Answer {
    match failed {
        None => failure(query, rcode::SERVFAIL, ede::NO_REACHABLE_AUTHORITY),
        Some(response) => {
            let ede = response.ede().or(Some(ede::CACHED_ERROR));
            Answer { response, age: TtlView::Original, ede, origin: Source::Failure }
        }
    }
}

/// Whether a failure means that the data are wrong (RFC 8914 §4.7 to §4.13). Old data are then no remedy.
pub(super) fn is_bogus(response: &Response) -> bool {
    response.ede().is_some_and(|code| (6..=12).contains(&code))
}
