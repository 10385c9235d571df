//! State that all sockets of all workers share: the resolver, the limiters of clients, the cookie secrets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use super::address_counts::AddressCounts;
use crate::connection_table::{ConnectionLimits, ConnectionTable};
use crate::dns::Cookie;
use crate::dns::answer::Answer;
use crate::dns::cookie_secret::{CookieReply, CookieSecrets};
use crate::dns::query::{Query, Transport};
use crate::dns::request::{self, CookieOnlyQuery, Rejection};
use crate::dnstap::{Sampled, Side};
use crate::limits::{ClientLimiter, LimitExceeded, Permit};
use crate::metrics::{DropReason, Metrics, RefusalReason};
use crate::resolver::{CacheMiss, Resolver};
use crate::snapshot::Snapshot;
use crate::snapshot::acl::Acl;

/// Bytes of responses that wait to be written to TCP connections at one time, at most: those that clients have asked
/// for and do not read.
const MAX_UNWRITTEN_BYTES: usize = 1 << 20;
/// Bytes of responses to one client that wait to be written, at most.
const MAX_UNWRITTEN_BYTES_PER_CLIENT: usize = MAX_UNWRITTEN_BYTES / 2;

/// Number of clients that the connections are divided among, at most: the share of one never falls below this part.
const MAX_CONNECTION_SHARES: usize = 128;
/// Idle time after which a connection is closed for one of a client that does not hold clearly less.
const MIN_EVICTION_IDLE_TIME: Duration = Duration::from_millis(100);

/// Limits of TCP connections of clients.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// Connections at one time, at most.
    pub max_connections: usize,
    /// Connections of one client, at most; fewer while more than three quarters of all are open.
    pub max_connections_per_client: usize,
    /// Unanswered queries of one connection, at most; the next query is read when one is answered.
    pub max_pipelined_queries: usize,
    /// Time from accepting a connection to its first byte.
    pub first_byte_timeout: Duration,
    /// Time from the first byte of a message to its last, and for writing a message.
    pub message_timeout: Duration,
    /// Time between two messages of a connection.
    pub idle_timeout: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_client: 128,
            max_pipelined_queries: 64,
            first_byte_timeout: Duration::from_secs(3),
            message_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
        }
    }
}

/// State that all sockets of all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) resolver: Arc<Resolver>,
    pub(super) limits: TcpLimits,
    /// Open TCP connections of all workers.
    pub(super) connections: Arc<ConnectionTable>,
    /// Limits queries that wait for upstreams.
    pub(super) waiting_queries: Arc<ClientLimiter>,
    /// Limits those beyond that need a query of their own to upstreams.
    pub(super) waiting_new_queries: Arc<ClientLimiter>,
    /// Limits bytes of responses that wait to be written to TCP connections.
    unwritten_bytes: Arc<ClientLimiter>,
    cookie_secrets: watch::Receiver<CookieSecrets>,
    /// Queries over TCP by local address. Those over UDP are counted where a socket is read, once for a batch.
    pub(super) tcp_queries: AddressCounts,
    /// Queries of class CH (`id.server`) by local address, which are health checks.
    pub(super) health_checks: AddressCounts,
}

/// Returns the ACL of a snapshot. Before the first snapshot, only the host itself may query.
pub(super) fn acl_of(snapshot: Option<&Snapshot>) -> &Acl {
    static DENY_ALL: Acl = Acl::DENY_ALL;
    snapshot.map_or(&DENY_ALL, |snapshot| &snapshot.acl)
}

impl Shared {
    pub(super) fn new(
        resolver: Arc<Resolver>,
        limits: TcpLimits,
        cookie_secrets: watch::Receiver<CookieSecrets>,
    ) -> Self {
        let room = resolver.room();
        Self {
            resolver,
            limits,
            connections: ConnectionTable::new(ConnectionLimits {
                max_total: limits.max_connections,
                max_per_client: limits.max_connections_per_client,
                min_share: (limits.max_connections / MAX_CONNECTION_SHARES).max(1),
                min_idle: MIN_EVICTION_IDLE_TIME,
            }),
            waiting_queries: ClientLimiter::sharing(room.waiting - room.waiting_for_new, room.waiting_of_client),
            // Admission among those in flight divides them among clients.
            waiting_new_queries: ClientLimiter::new(room.waiting_for_new, room.waiting_for_new),
            unwritten_bytes: ClientLimiter::new(MAX_UNWRITTEN_BYTES, MAX_UNWRITTEN_BYTES_PER_CLIENT),
            cookie_secrets,
            tcp_queries: AddressCounts::default(),
            health_checks: AddressCounts::default(),
        }
    }

    /// Returns whether the ACL permits `client` to query the address `local`; counts a drop if not.
    pub(super) fn permits(&self, client: SocketAddr, local: IpAddr) -> bool {
        let snapshot = self.resolver.snapshot();
        self.permits_by(acl_of(snapshot.as_deref()), client.ip(), local)
    }

    /// Returns whether `acl` permits `client` to query the address `local`; counts a drop if not.
    #[inline]
    pub(super) fn permits_by(&self, acl: &Acl, client: IpAddr, local: IpAddr) -> bool {
        let permitted = acl.permits(client, local);
        if !permitted {
            self.metrics().count_drop(DropReason::NotAllowed);
        }
        permitted
    }

    /// Parses a client's message and makes the cookie for the response. Counts the query, or a drop if it gets no
    /// response.
    pub(super) fn parse(&self, message: &[u8], client: SocketAddr, transport: Transport) -> Result<Query, Rejection> {
        let parsed = self.parse_with_cookie(message, client, transport);
        match &parsed {
            Ok(_) => self.metrics().count_query(transport),
            Err(Rejection::Respond { rcode, .. }) => {
                self.metrics().count_query(transport);
                self.metrics().count_refusal(transport, *rcode);
            }
            Err(Rejection::Drop) => self.metrics().count_drop(DropReason::NotAQuery),
        }
        parsed
    }

    fn parse_with_cookie(&self, message: &[u8], client: SocketAddr, transport: Transport) -> Result<Query, Rejection> {
        match request::read(message) {
            Ok(mut query) => {
                query.transport = transport;
                query.client = Some(client.ip().to_canonical());
                let cookie = query.edns.and_then(|edns| edns.cookie);
                query.reply_cookie =
                    cookie.and_then(|cookie| self.cookie_reply(&cookie, client)).map(|reply| reply.cookie);
                Ok(query)
            }
            Err(rejection) => {
                let cookie_only = CookieOnlyQuery::read(message);
                let response =
                    cookie_only.and_then(|query| Some(query.respond(&self.cookie_reply(&query.cookie, client)?)));
                Err(response.map_or(rejection, |(response, rcode)| Rejection::Respond { message: response, rcode }))
            }
        }
    }

    fn cookie_reply(&self, cookie: &Cookie, client: SocketAddr) -> Option<CookieReply> {
        // CLOCK_BOOTTIME is the same in all processes of a node, whatever happens to the wall clock.
        let now = clock_gettime(ClockId::Boottime).tv_sec;
        self.cookie_secrets.borrow().reply(cookie, client.ip(), now as u32)
    }

    /// Acquires the permit of a query that has to wait for upstreams.
    ///
    /// # Errors
    ///
    /// The answer of a query that finds no room. Without one the query is dropped, which is counted.
    pub(super) fn acquire_waiting_query(
        &self,
        client: SocketAddr,
        query: &Query,
        miss: &CacheMiss,
    ) -> Result<Permit, Option<Answer>> {
        self.waiting_queries.acquire(client).or_else(|limit| self.acquire_new_query(limit, client, query, miss))
    }

    /// Acquires the permit of a query beyond this limit, if it needs a query of its own to upstreams.
    #[cold]
    fn acquire_new_query(
        &self,
        limit: LimitExceeded,
        client: SocketAddr,
        query: &Query,
        miss: &CacheMiss,
    ) -> Result<Permit, Option<Answer>> {
        let permit =
            if self.resolver.is_in_flight(miss) { None } else { self.waiting_new_queries.acquire(client).ok() };
        permit.ok_or_else(|| self.answer_without_room(limit, query, miss))
    }

    fn answer_without_room(&self, limit: LimitExceeded, query: &Query, miss: &CacheMiss) -> Option<Answer> {
        let (refused, dropped) = match limit {
            LimitExceeded::Global => (RefusalReason::Total, DropReason::GlobalLimit),
            LimitExceeded::PerClient => (RefusalReason::Client, DropReason::ClientLimit),
        };
        let answer = self.resolver.answer_without_room(query, miss, refused);
        if answer.is_none() {
            self.metrics().count_drop(dropped);
        }
        answer
    }

    /// Acquires the permit of a response of so many bytes that waits to be written; counts a drop at the limit.
    pub(super) fn acquire_unwritten(&self, client: SocketAddr, bytes: usize) -> Option<Permit> {
        let reason = match self.unwritten_bytes.acquire_many(client, bytes) {
            Ok(permit) => return Some(permit),
            Err(LimitExceeded::Global) => DropReason::GlobalLimit,
            Err(LimitExceeded::PerClient) => DropReason::ClientLimit,
        };
        self.metrics().count_drop(reason);
        None
    }

    /// Samples a client's query for dnstap. `local` returns the address that it was sent to, and is called only while
    /// there are readers.
    pub(super) fn tap_query(
        &self,
        message: &[u8],
        client: SocketAddr,
        local: impl FnOnce() -> io::Result<SocketAddr>,
        transport: Transport,
    ) -> Option<Box<Sampled>> {
        self.resolver.tap().sample_query(Side::Client, transport, || Ok(client), local, message)
    }

    /// Sends the response to a sampled query to the dnstap readers.
    pub(super) fn tap_response(&self, sampled: Option<&Sampled>, response: &[u8]) {
        if let Some(sampled) = sampled {
            self.resolver.tap().sample_response(sampled, response);
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        self.resolver.metrics()
    }
}
