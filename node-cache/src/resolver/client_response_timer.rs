//! Client response timer (RFC 8767 §5): how long a client waits for upstreams before it gets the stale answer, if there
//! is one.

use std::time::Duration;

/// Shortest time: a query that one server loses (350 ms) and the next one, or the fallback, answers has a response in
/// time that is not stale.
const MIN: Duration = Duration::from_millis(800);
/// Longest time, and the one while the latency of the upstreams is not known.
const MAX: Duration = Duration::from_millis(1800);
/// Time in multiples of the upstreams' p95: a slower response is unusual.
const P95_MULTIPLE: u32 = 3;

/// Returns the time for upstreams with this p95 latency.
pub(super) fn client_response_timer(p95: Option<Duration>) -> Duration {
    p95.map_or(MAX, |p95| (P95_MULTIPLE * p95).clamp(MIN, MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_for_a_second_server_however_fast_the_first_one_is_and_never_longer_than_the_rfc_says() {
        let timer = |millis| client_response_timer(Some(Duration::from_millis(millis))).as_millis();
        assert_eq!([1, 300, 500, 5_000].map(timer), [800, 900, 1_500, 1_800]);
        assert_eq!(client_response_timer(None), MAX);
    }
}
