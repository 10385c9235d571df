//! Habits that responses of a server show: whether it is open over TCP and what it makes of the case of names. Near
//! misses are not its own.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Server;
use crate::dns::Name;

impl Server {
    /// Counts a near miss.
    pub(in crate::upstream) fn count_near_miss(&self) {
        self.near_misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a query for `name` that had a near miss, and closes the idle sockets: their ports may be known. Returns
    /// whether the query can be repeated over TCP.
    pub(in crate::upstream) fn record_near_miss(&self, name: &Name) -> bool {
        self.sockets.close_all();
        let now = Instant::now();
        let (is_first, is_tcp_usable) = {
            let mut state = self.state();
            (state.record_near_miss(name, now), state.is_tcp_usable(now))
        };
        if is_first {
            let domain = name.registered_domain();
            tracing::warn!(
                upstream = %self.address, %domain,
                "responses to other queries than those in flight, maybe forged: this domain is queried over TCP"
            );
        }
        is_tcp_usable
    }

    /// Returns whether the server is open over TCP, as far as is known.
    #[must_use]
    pub fn is_tcp_usable(&self) -> bool {
        self.state().is_tcp_usable(Instant::now())
    }

    /// Records that no connection to the server could be opened: near misses lead to no query over TCP for 30 s, and
    /// truncated responses wait for a connection but a moment.
    pub(in crate::upstream) fn record_tcp_closed(&self) {
        self.state().record_tcp_closed(Instant::now());
    }

    /// Records that the server does not echo the case of names: it is queried without 0x20 for ten minutes.
    pub(in crate::upstream) fn record_case_not_echoed(&self) {
        let is_first = self.state().record_case_not_echoed(Instant::now());
        if is_first {
            tracing::info!(upstream = %self.address, "upstream does not echo 0x20 case and is queried in lower case");
        }
    }

    /// Records a response with records to a query in mixed case: denials need no check any more.
    pub(in crate::upstream) fn record_known_in_mixed_case(&self) {
        self.state().record_known_in_mixed_case();
    }

    /// Records a name that the server denied in mixed case and knew in lower case. After three of them it is queried
    /// without 0x20 for ten minutes, unless it has known a name in mixed case.
    pub(in crate::upstream) fn record_known_in_lower_case_only(&self) {
        let is_queried_in_lower_case = self.state().record_known_in_lower_case_only(Instant::now());
        if is_queried_in_lower_case {
            tracing::info!(upstream = %self.address, "upstream compares names by octet and is queried in lower case");
        }
    }
}
