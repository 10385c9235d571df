//! Table of the open connections of clients: which new ones are admitted, and which open ones are closed for them.
//!
//! While the table has room, a client may hold connections up to its bound. Above three quarters of the table the bound
//! shrinks to the client's share, and a client at its share gives up its own longest idle connection for a new one.
//! When the table is full, a client that holds the most gives up its longest idle connection (RFC 7766 §6.2.3).
//!
//! A client below its share is always admitted while the shares of all clients fit into the table: some client then
//! holds more than its share. If that client has no idle connection, the one that is busy for longest is closed.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use tokio::sync::oneshot;

use crate::clients::{Client, ClientUnits};

/// Limits of a [`ConnectionTable`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Connections at one time, at most.
    pub(crate) max_total: usize,
    /// Connections of one client, at most.
    pub(crate) max_per_client: usize,
    /// Connections of one client that its share never falls below.
    pub(crate) min_share: usize,
    /// Idle time after which a connection is closed for one of a client that does not hold clearly less.
    pub(crate) min_idle: Duration,
}

/// Activity of a connection since a point in time. Idle ones are closed before busy ones, and the earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    Idle(Instant),
    Busy(Instant),
}

/// Refusal of a new connection: neither is there room, nor may an open connection be closed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConnectionRefused;

/// Open connections with a handle each. A pure state machine: the caller closes what it evicts.
#[derive(Debug)]
struct OpenConnections<H> {
    limits: ConnectionLimits,
    next_id: u64,
    connections: HashMap<u64, OpenConnection<H>, RandomState>,
    of_clients: ClientUnits,
}

#[derive(Debug)]
struct OpenConnection<H> {
    /// Address of the client.
    address: IpAddr,
    activity: Activity,
    handle: H,
}

impl<H> OpenConnections<H> {
    fn new(limits: ConnectionLimits) -> Self {
        Self { limits, next_id: 0, connections: HashMap::default(), of_clients: ClientUnits::default() }
    }

    /// Admits a connection, which is idle at first. Returns its ID and the handle of the connection that is to be
    /// closed for it.
    fn admit(&mut self, address: IpAddr, now: Instant, handle: H) -> Result<(u64, Option<H>), ConnectionRefused> {
        let client = self.of_clients.client(address, || now);
        let evicted = self.choose_victim(client, now)?.and_then(|id| self.remove(id));
        Ok((self.insert(address, now, handle), evicted))
    }

    fn insert(&mut self, address: IpAddr, now: Instant, handle: H) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.connections.insert(id, OpenConnection { address, activity: Activity::Idle(now), handle });
        self.of_clients.add(address, 1, || now);
        id
    }

    /// Removes a connection and returns its handle; `None` if it was removed before.
    fn remove(&mut self, id: u64) -> Option<H> {
        let connection = self.connections.remove(&id)?;
        self.of_clients.remove(connection.address, 1);
        Some(connection.handle)
    }

    fn set_activity(&mut self, id: u64, activity: Activity) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.activity = activity;
        }
    }

    /// Returns the connection that is to be closed for a new one of `client`; `None` while there is room.
    fn choose_victim(&self, client: Client, now: Instant) -> Result<Option<u64>, ConnectionRefused> {
        let held = self.of_clients.held_by(client);
        let share = self.share();
        let most = self.of_clients.most();
        let is_full = self.connections.len() >= self.limits.max_total;
        let (victim, is_closable) = if held >= share || (is_full && held >= most) {
            if !self.is_under_pressure() {
                return Err(ConnectionRefused);
            }
            let (victim, activity) = self.first_to_close(|holder| holder == client).ok_or(ConnectionRefused)?;
            (victim, matches!(activity, Activity::Idle(_)))
        } else if is_full {
            let holds_most = |holder| self.of_clients.held_by(holder) == most;
            let (victim, activity) = self.first_to_close(holds_most).ok_or(ConnectionRefused)?;
            let is_closable = match activity {
                Activity::Idle(since) => most > held + 1 || now.duration_since(since) >= self.limits.min_idle,
                Activity::Busy(_) => most > share,
            };
            (victim, is_closable)
        } else {
            return Ok(None);
        };
        if is_closable { Ok(Some(victim)) } else { Err(ConnectionRefused) }
    }

    fn is_under_pressure(&self) -> bool {
        self.connections.len() * 4 > self.limits.max_total * 3
    }

    /// Returns the number of connections that a client may hold now. Under pressure the table is divided among all
    /// clients and one more.
    fn share(&self) -> usize {
        let ConnectionLimits { max_total, max_per_client, min_share, .. } = self.limits;
        if !self.is_under_pressure() {
            return max_per_client;
        }
        (max_total / (self.of_clients.client_count() + 1)).max(min_share).min(max_per_client)
    }

    /// Returns the longest idle connection of these clients, or the one that is busy for longest when none is idle.
    fn first_to_close(&self, is_candidate: impl Fn(Client) -> bool) -> Option<(u64, Activity)> {
        let is_candidate = |connection: &OpenConnection<H>| is_candidate(self.of_clients.holder(connection.address));
        let candidates = self.connections.iter().filter(|(_, connection)| is_candidate(connection));
        let first =
            candidates.min_by(|(id, connection), (other_id, other)| match connection.activity.cmp(&other.activity) {
                Ordering::Equal => id.cmp(other_id),
                order => order,
            });
        first.map(|(id, connection)| (*id, connection.activity))
    }
}

/// Table of open connections, shared by all who accept and serve them.
#[derive(Debug)]
pub(crate) struct ConnectionTable {
    /// The handle of a connection is the sender of its [`Eviction`]: dropping it evicts the connection.
    open: Mutex<OpenConnections<oneshot::Sender<Infallible>>>,
}

impl ConnectionTable {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(OpenConnections::new(limits)) })
    }

    /// Admits a new connection, and evicts another one if there is no room; `None` if the new one is refused.
    pub(crate) fn admit(self: &Arc<Self>, client: SocketAddr, now: Instant) -> Option<(ConnectionPermit, Eviction)> {
        let (sender, receiver) = oneshot::channel();
        let (id, evicted) = self.open().admit(client.ip(), now, sender).ok()?;
        drop(evicted);
        Some((ConnectionPermit { table: self.clone(), id }, Eviction(receiver)))
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections<oneshot::Sender<Infallible>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Place of a connection in a [`ConnectionTable`]. Dropping it releases the place.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    table: Arc<ConnectionTable>,
    id: u64,
}

impl ConnectionPermit {
    /// Marks the connection as idle since `now`.
    pub(crate) fn set_idle(&self, now: Instant) {
        self.table.open().set_activity(self.id, Activity::Idle(now));
    }

    /// Marks the connection as busy since `now`.
    pub(crate) fn set_busy(&self, now: Instant) {
        self.table.open().set_activity(self.id, Activity::Busy(now));
    }

    /// Releases the place. Has no effect the second time.
    pub(crate) fn release(&self) {
        let handle = self.table.open().remove(self.id);
        drop(handle);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.release();
    }
}

/// Future that completes when the connection has lost its place and is to be closed.
#[derive(Debug)]
pub(crate) struct Eviction(oneshot::Receiver<Infallible>);

impl Future for Eviction {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { max_total: 64, max_per_client: 16, min_share: 2, min_idle: Duration::from_secs(1) };

    /// Connections whose handles are the addresses of their clients, and a clock.
    struct Fixture {
        open: OpenConnections<IpAddr>,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self { open: OpenConnections::new(LIMITS), now: Instant::now() }
        }

        /// Admits a connection one millisecond later and returns its ID and the client of the evicted connection.
        fn admit(&mut self, number: u8) -> Result<(u64, Option<IpAddr>), ConnectionRefused> {
            self.now += Duration::from_millis(1);
            self.open.admit(client(number), self.now, client(number))
        }

        /// Fills in `total` connections of `clients` clients, from number 1 on, in turns of a millisecond.
        fn fill(&mut self, clients: u8, total: usize) {
            for number in (1..=clients).cycle().take(total) {
                self.now += Duration::from_millis(1);
                self.open.insert(client(number), self.now, client(number));
            }
        }

        fn set_all_busy(&mut self) {
            let ids: Vec<u64> = self.open.connections.keys().copied().collect();
            ids.into_iter().for_each(|id| self.open.set_activity(id, Activity::Busy(self.now)));
        }

        fn held_by(&self, number: u8) -> usize {
            self.open.of_clients.held_by(Client::Address(client(number)))
        }
    }

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn a_client_gets_no_more_than_its_bound_while_there_is_room_and_closes_nothing() {
        let mut fixture = Fixture::new();
        for _ in 0..16 {
            assert_eq!(fixture.admit(1).unwrap().1, None);
        }
        assert_eq!(fixture.admit(1), Err(ConnectionRefused));
        assert_eq!(fixture.admit(2).unwrap().1, None);
    }

    #[test]
    fn a_full_table_closes_the_longest_idle_connection_of_a_client_that_holds_the_most() {
        let mut fixture = Fixture::new();
        fixture.admit(9).unwrap();
        fixture.fill(4, 63);
        // Clients 1 to 3 hold 16 each, client 4 holds 15: client 1 has the longest idle of those with the most.
        assert_eq!(fixture.held_by(4), 15);
        let first_of_2 =
            fixture.open.connections.iter().filter(|(_, c)| c.address == client(2)).map(|(id, _)| *id).min();
        assert_eq!(fixture.admit(8).unwrap().1, Some(client(1)));
        // Of clients 2 and 3 the first connection of 2 would be next, but it was used since.
        fixture.open.set_activity(first_of_2.unwrap(), Activity::Idle(fixture.now));
        assert_eq!(fixture.admit(8).unwrap().1, Some(client(3)));
        assert_eq!((fixture.held_by(9), fixture.held_by(8)), (1, 2), "who holds one keeps it");
    }

    #[test]
    fn under_pressure_a_client_at_its_share_gives_up_its_own_longest_idle_connection() {
        let mut fixture = Fixture::new();
        fixture.fill(4, 48);
        assert_eq!(fixture.admit(5).unwrap().1, None, "three quarters are no pressure");
        // Five clients and one more: ten connections each.
        assert_eq!(fixture.open.share(), 10);
        assert_eq!(fixture.admit(1).unwrap().1, Some(client(1)));
        for _ in 0..9 {
            assert_eq!(fixture.admit(5).unwrap().1, None);
        }
        assert_eq!(fixture.admit(5).unwrap().1, Some(client(5)));
    }

    #[test]
    fn a_client_at_its_share_whose_connections_are_all_busy_gets_no_more() {
        let mut fixture = Fixture::new();
        fixture.fill(4, 49);
        fixture.set_all_busy();
        assert_eq!(fixture.admit(1), Err(ConnectionRefused));
    }

    #[test]
    fn a_client_below_its_share_is_admitted_whatever_the_others_do() {
        for clients in 4..=30 {
            for is_busy in [false, true] {
                let mut fixture = Fixture::new();
                fixture.fill(clients, 64);
                if is_busy {
                    fixture.set_all_busy();
                }
                let share = fixture.open.share();
                for held in 0..share.min(64 / (usize::from(clients) + 2)) {
                    let (_, evicted) = fixture.admit(200).unwrap();
                    assert!(evicted.is_some_and(|evicted| evicted != client(200)), "{clients} clients, {held} held");
                    fixture.open.connections.values_mut().for_each(|open| {
                        if is_busy {
                            open.activity = Activity::Busy(fixture.now);
                        }
                    });
                }
                assert_eq!(fixture.open.connections.len(), 64);
            }
        }
    }

    #[test]
    fn an_idle_connection_is_closed_before_a_busy_one_and_a_busy_one_within_the_share_never() {
        let mut fixture = Fixture::new();
        fixture.fill(32, 64);
        fixture.set_all_busy();
        assert_eq!(fixture.admit(200), Err(ConnectionRefused), "two each is the smallest share");
        let of_7 = fixture.open.connections.iter().find(|(_, open)| open.address == client(7)).map(|(id, _)| *id);
        fixture.open.set_activity(of_7.unwrap(), Activity::Idle(fixture.now));
        assert_eq!(fixture.admit(200).unwrap().1, Some(client(7)));
    }

    #[test]
    fn of_clients_that_hold_one_each_only_a_connection_that_has_been_idle_for_a_while_is_closed() {
        let mut fixture = Fixture::new();
        fixture.fill(64, 64);
        assert_eq!(fixture.admit(200), Err(ConnectionRefused));
        fixture.now += LIMITS.min_idle;
        assert_eq!(fixture.admit(200).unwrap().1, Some(client(1)));
    }

    #[test]
    fn a_client_that_holds_as_many_as_any_gives_up_its_own() {
        let mut fixture = Fixture::new();
        fixture.fill(64, 64);
        assert_eq!(fixture.admit(3).unwrap().1, Some(client(3)));
    }

    #[test]
    fn many_addresses_of_one_ipv6_network_get_the_share_of_one_client_and_close_nothing_of_others() {
        let limits = ConnectionLimits { max_total: 1024, max_per_client: 128, min_share: 8, ..LIMITS };
        let mut open = OpenConnections::new(limits);
        let mut now = Instant::now();
        let address = |host: usize| -> IpAddr { std::net::Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, host as u16).into() };
        for number in 1..=100 {
            for _ in 0..4 {
                open.admit(client(number), now, client(number)).unwrap();
            }
        }
        let mut closed_of_others = 0;
        for host in (0..600).cycle().take(3_000) {
            now += Duration::from_millis(1);
            let evicted = open.admit(address(host), now, address(host)).ok().and_then(|(_, evicted)| evicted);
            closed_of_others += usize::from(evicted.is_some_and(|evicted| evicted.is_ipv4()));
        }
        let attacker = open.of_clients.client(address(0), || now);
        assert_eq!((closed_of_others, open.of_clients.held_by(attacker)), (0, 257));
        assert_eq!(open.of_clients.client_count(), 101);
        for number in 101..=200 {
            for _ in 0..5 {
                open.admit(client(number), now, client(number)).unwrap();
            }
        }
        assert!((100..=200).all(|number| open.of_clients.held_by(Client::Address(client(number))) >= 4));
        let share = open.share();
        assert!(open.of_clients.held_by(attacker) < 257, "it gives up what others need; its share is {share}");
    }

    #[test]
    fn places_are_released_once_and_evictions_are_signalled() {
        let table = ConnectionTable::new(ConnectionLimits { max_total: 1, ..LIMITS });
        let now = Instant::now();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (first, mut evicted) = table.admit(SocketAddr::new(client(1), 1), now).unwrap();
        assert!(Pin::new(&mut evicted).poll(&mut context).is_pending());
        let (_second, mut of_second) = table.admit(SocketAddr::new(client(2), 1), now + LIMITS.min_idle).unwrap();
        assert!(Pin::new(&mut evicted).poll(&mut context).is_ready());
        drop(first);
        assert!(Pin::new(&mut of_second).poll(&mut context).is_pending());
        assert_eq!(table.open().connections.len(), 1);
    }
}
