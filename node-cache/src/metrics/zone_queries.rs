//! Queries to the resolvers of each zone. They belong to the process, not to the servers: a resolver that goes takes
//! nothing away, so that no sum ever decreases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_cache_config::figures::ZoneQueries;

/// Beginning of the name of a scope of the resolvers of a zone.
const ZONE_PREFIX: &str = "zone/";

/// Counters of the queries to the resolvers of each zone, without those that look at the health of a resolver.
#[derive(Debug, Default)]
pub struct ZoneQueryCounts(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl ZoneQueryCounts {
    /// Returns the counter of a scope such as `zone/a`; `None` for one that is not of a zone.
    #[must_use]
    pub fn of_scope(&self, scope: &str) -> Option<Arc<AtomicU64>> {
        let zone = scope.strip_prefix(ZONE_PREFIX)?;
        Some(self.by_zone().entry(zone.to_owned()).or_default().clone())
    }

    /// Returns the queries of a node in `zone`; `None` where the zone is not known, and without a resolver to query.
    #[must_use]
    pub fn from_zone(&self, zone: Option<&str>) -> Option<ZoneQueries> {
        let zone = zone?;
        let by_zone = self.by_zone();
        let mut queries = ZoneQueries::default();
        for (name, count) in by_zone.iter() {
            let sum = if name == zone { &mut queries.own } else { &mut queries.other };
            *sum += count.load(Ordering::Relaxed);
        }
        (!by_zone.is_empty()).then_some(queries)
    }

    fn by_zone(&self) -> MutexGuard<'_, BTreeMap<String, Arc<AtomicU64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_an_unknown_zone_has_no_own_resolvers_and_no_others() {
        let counts = ZoneQueryCounts::default();
        assert_eq!((counts.from_zone(Some("a")), counts.of_scope("cluster").is_none()), (None, true));
        for (scope, queries) in [("zone/a", 5), ("zone/b", 2), ("zone/", 1)] {
            counts.of_scope(scope).unwrap().fetch_add(queries, Ordering::Relaxed);
        }
        let from = |zone| counts.from_zone(Some(zone)).map(|queries| (queries.own, queries.other));
        assert_eq!([from("a"), from(""), from("without-resolvers")], [Some((5, 3)), Some((1, 7)), Some((0, 8))]);
        assert_eq!(counts.from_zone(None), None);
    }
}
