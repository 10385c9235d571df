//! Budget of probes, shared by the clients that ask for them, so that nobody loads upstreams with probes or takes the
//! room of others. Pure: the time is a parameter.
//!
//! A client may hold as many places as it leaves to the others: one alone has half of them, and of several each has an
//! equal share, with as much left for the next one.

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::time::Instant;

/// Probes in flight at one time, at most. A client alone has half of them.
pub(crate) const MAX_IN_FLIGHT: usize = 16;
/// Probes that one process may start in one second, on average.
const PER_SECOND: f64 = 4.0;
/// Probes that may start at once. A client alone has half of them.
const BURST: f64 = 20.0;

/// Client that asks for probes: its address, or `None` for the agent of the pod, which shares among its own clients.
pub(crate) type ProbeClient = Option<IpAddr>;

/// Budget of the probes of one process, or of all caches of a node.
#[derive(Debug)]
pub(crate) struct ProbeBudget {
    /// Probes that may start in one second, on average.
    per_second: f64,
    clients: HashMap<ProbeClient, Share>,
    refilled: Instant,
}

/// Places that a client holds.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    in_flight: usize,
    /// Probes that were started and are not made up for yet.
    started: f64,
}

impl ProbeBudget {
    /// Returns the full budget of so many processes.
    #[must_use]
    pub(crate) fn new(processes: usize, now: Instant) -> Self {
        let per_second = PER_SECOND * processes.max(1) as f64;
        Self { per_second, clients: HashMap::new(), refilled: now }
    }

    /// Starts a probe for a client; returns whether there was room for it.
    pub(crate) fn start(&mut self, client: ProbeClient, now: Instant) -> bool {
        self.refill(now);
        let free_in_flight = MAX_IN_FLIGHT.saturating_sub(self.clients.values().map(|share| share.in_flight).sum());
        let free = BURST - self.clients.values().map(|share| share.started).sum::<f64>();
        let own = self.clients.get(&client).copied().unwrap_or_default();
        let has_room = match client {
            None => free_in_flight >= 1 && free >= 1.0,
            Some(_) => own.in_flight < free_in_flight && own.started + 1.0 <= free,
        };
        if has_room {
            let share = Share { in_flight: own.in_flight + 1, started: own.started + 1.0 };
            self.clients.insert(client, share);
        }
        has_room
    }

    /// Ends a probe of a client.
    pub(crate) fn end(&mut self, client: ProbeClient) {
        if let Some(share) = self.clients.get_mut(&client) {
            share.in_flight = share.in_flight.saturating_sub(1);
        }
    }

    /// Makes up for probes that were started, of all clients equally.
    fn refill(&mut self, now: Instant) {
        let mut left = now.saturating_duration_since(self.refilled).as_secs_f64() * self.per_second;
        self.refilled = now;
        let mut shares: Vec<&mut Share> = self.clients.values_mut().collect();
        shares.sort_by(|share, other| share.started.total_cmp(&other.started));
        let mut clients = shares.len() as f64;
        for share in shares {
            let part = share.started.min(left / clients);
            share.started -= part;
            left -= part;
            clients -= 1.0;
        }
        self.clients.retain(|_, share| share.in_flight > 0 || share.started > 0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn client(number: u8) -> ProbeClient {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    /// Starts probes that end at once, and returns how many there was room for.
    fn run(budget: &mut ProbeBudget, client: ProbeClient, probes: usize, now: Instant) -> usize {
        let mut start = || {
            let is_started = budget.start(client, now);
            if is_started {
                budget.end(client);
            }
            is_started
        };
        (0..probes).filter(|_| start()).count()
    }

    #[test]
    fn probes_are_bounded_however_many_are_asked_for() {
        let start = Instant::now();
        let mut budget = ProbeBudget::new(1, start);
        let mut taken = |at: Duration| (1..=20).map(|number| run(&mut budget, client(number), 100, start + at)).sum();
        let at_once: usize = taken(Duration::ZERO);
        assert!((15..=20).contains(&at_once), "{at_once}");
        let in_a_minute: usize = (1..=240).map(|quarter| taken(Duration::from_millis(250 * quarter))).sum();
        assert!((235..=245).contains(&in_a_minute), "{in_a_minute}");
    }

    #[test]
    fn a_client_alone_starts_half_of_the_probes_at_once_and_as_many_as_are_allowed_in_a_second() {
        let start = Instant::now();
        let mut budget = ProbeBudget::new(1, start);
        assert_eq!(run(&mut budget, client(1), 100, start), 10);
        let later: usize =
            (1..=40).map(|quarter| run(&mut budget, client(1), 9, start + Duration::from_millis(250 * quarter))).sum();
        assert_eq!(later, 40);
        let mut budget = ProbeBudget::new(1, start);
        assert_eq!(run(&mut budget, None, 100, start), 20, "the agent has shared among its own clients");
    }

    #[test]
    fn clients_that_ask_all_the_time_leave_another_one_its_share() {
        // An operator starts three probes of a pod each second, 48 in all; a node has two caches.
        for (processes, others, expected) in [(2, 1, 48), (1, 1, 36), (2, 4, 24), (1, 9, 6)] {
            let start = Instant::now();
            let mut budget = ProbeBudget::new(processes, start);
            let mut started = 0;
            for tick in 0..36 * 50 {
                let now = start + Duration::from_millis(20 * tick);
                (1..=others).for_each(|number| _ = run(&mut budget, client(number), 1, now));
                if tick >= 20 * 50 && tick % 50 == 0 {
                    started += run(&mut budget, client(100), 3, now);
                }
            }
            assert!(started >= expected, "{processes} processes, {others} others: {started} of 48");
        }
    }

    #[test]
    fn a_client_whose_probes_take_long_leaves_places_in_flight_to_others() {
        let now = Instant::now();
        let mut budget = ProbeBudget::new(4, now);
        let mut hold =
            |client, at: u64| (0..20).filter(|_| budget.start(client, now + Duration::from_secs(at))).count();
        assert_eq!(hold(client(1), 0), 8);
        assert_eq!(hold(client(2), 9), 4);
        assert_eq!(hold(client(3), 18), 2);
        assert_eq!(hold(client(4), 27), 1);
        assert_eq!(hold(client(1), 36), 0);
        budget.end(client(1));
        assert!(budget.start(client(5), now + Duration::from_secs(36)), "who has none comes first");
    }

    #[test]
    fn clients_that_are_gone_take_no_memory() {
        let start = Instant::now();
        let mut budget = ProbeBudget::new(1, start);
        for number in 0..10_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            run(&mut budget, Some(address), 3, start + Duration::from_millis(u64::from(number) * 10));
            assert!(budget.clients.len() <= 64, "{number}: {}", budget.clients.len());
        }
    }
}
