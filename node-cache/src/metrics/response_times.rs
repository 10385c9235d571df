//! Response times of upstreams by scope. They belong to the process, not to the servers: a server that goes takes
//! nothing away, so that no sum ever decreases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_cache_config::status::LAST_RESORT_SCOPE;

use super::WaitSeconds;
use super::labels::scope_kind;

/// Zone of the resolvers behind a histogram, for the label `zone`.
pub(super) const OWN_ZONE: &str = "own";
pub(super) const OTHER_ZONE: &str = "other";

/// Scope of the resolvers of a zone, without its name.
const ZONE_KIND: &str = "zone";

/// Histograms of response times, by scope. All routes share one.
#[derive(Debug, Default)]
pub struct ResponseTimes(Mutex<BTreeMap<String, Arc<WaitSeconds>>>);

impl ResponseTimes {
    /// Returns the histogram of a scope such as `cluster`, `zone/a` or `route/corp.example`.
    #[must_use]
    pub fn of_scope(&self, scope: &str) -> Arc<WaitSeconds> {
        let kind = scope_kind(scope);
        let key = if kind == ZONE_KIND { scope } else { kind };
        self.by_scope().entry(key.to_owned()).or_default().clone()
    }

    /// Returns the histograms that hold a response, by the labels `scope` and `zone`: those of all zones but the node's
    /// own are joined. That of the last resort is left out: a node has no series to spare for what is rare.
    pub(super) fn by_labels(&self, own: &BTreeSet<String>) -> BTreeMap<(String, Option<&'static str>), WaitSeconds> {
        let mut joined = BTreeMap::<_, WaitSeconds>::new();
        let is_shown = |scope: &str, seconds: &WaitSeconds| seconds.count() > 0 && scope != LAST_RESORT_SCOPE;
        for (scope, seconds) in self.by_scope().iter().filter(|(scope, seconds)| is_shown(scope, seconds)) {
            let kind = scope_kind(scope);
            let zone = (kind == ZONE_KIND).then(|| if own.contains(scope) { OWN_ZONE } else { OTHER_ZONE });
            joined.entry((kind.to_owned(), zone)).or_default().add(seconds);
        }
        joined
    }

    fn by_scope(&self) -> MutexGuard<'_, BTreeMap<String, Arc<WaitSeconds>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn routes_share_a_histogram_and_so_do_all_zones_but_the_own_one() {
        let times = ResponseTimes::default();
        for scope in ["cluster", "route/a.example", "route/b.example", "zone/a", "zone/b", "zone/c", "zone/c"] {
            times.of_scope(scope).observe(Duration::from_millis(3));
        }
        let _never_queried = times.of_scope("forward");
        let counts = |own: &[&str]| -> Vec<(String, Option<&str>, u64)> {
            let own = own.iter().map(|scope| (*scope).to_owned()).collect();
            let joined = times.by_labels(&own);
            joined.into_iter().map(|((scope, zone), seconds)| (scope, zone, seconds.count())).collect()
        };
        let text = |name: &str| name.to_owned();
        assert_eq!(
            counts(&["zone/a"]),
            [
                (text("cluster"), None, 1),
                (text("route"), None, 2),
                (text("zone"), Some(OTHER_ZONE), 3),
                (text("zone"), Some(OWN_ZONE), 1)
            ]
        );
        assert_eq!(counts(&["zone/a", "zone/b", "zone/c"])[2], (text("zone"), Some(OWN_ZONE), 4));
    }
}
