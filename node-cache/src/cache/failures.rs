//! Questions that nobody could answer a moment ago (RFC 9520): they are not asked again at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::packet::Response;

use super::{Key, OVERHEAD};

/// How long the first failure of a question is remembered. Each further one in a row doubles it up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
/// Far below the five minutes that RFC 9520 §3.2 allows: a server that comes back is soon asked again.
const LONGEST: Duration = Duration::from_secs(5);
/// Failures further apart than this are not in a row.
const ROW: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
struct Failure {
    response: Option<Arc<Response>>,
    at: Instant,
    lasts: Duration,
}

#[derive(Debug)]
pub(super) struct Failures(moka::sync::Cache<Key, Failure>);

impl Failures {
    pub(super) fn new(bytes: u64) -> Self {
        let weigher = |key: &Key, failure: &Failure| {
            let response = failure.response.as_ref().map_or(0, |response| response.wire().len());
            u32::try_from(OVERHEAD + key.len() + response).unwrap_or(u32::MAX)
        };
        Self(moka::sync::Cache::builder().max_capacity(bytes).weigher(weigher).build())
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Option<Arc<Response>>> {
        let failure = self.0.get(key)?;
        (now.saturating_duration_since(failure.at) < failure.lasts).then_some(failure.response)
    }

    pub(super) fn insert(&self, key: &Key, response: Option<Arc<Response>>, now: Instant) {
        let before = self.0.get(key).filter(|failure| now.saturating_duration_since(failure.at) < ROW);
        let lasts = before.map_or(FIRST, |failure| (failure.lasts * 2).min(LONGEST));
        self.0.insert(key.clone(), Failure { response, at: now, lasts });
    }

    pub(super) fn clear(&self, key: &Key) {
        if self.0.contains_key(key) {
            self.0.invalidate(key);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.weighted_size()
    }
}
