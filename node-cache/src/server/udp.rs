//! DNS over UDP: reads queries in batches, answers cache hits in five steps, and hands all others to the slow path.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use node_cache_sys::datagrams::Family;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::batch::{BATCH_SIZE, Batch, BatchDatagrams};
use super::shared::{Shared, acl_of};
use super::worker_context;
use crate::cache::KeyBuf;

use crate::dns::codes::class;
use crate::dns::query::Transport;
use crate::dns::request::{self, Rejection};
use crate::dnstap::Sampled;
use crate::metrics::{DropReason, Tally};
use crate::resolver::{BatchContext, FastLookup, KnownMiss};
use crate::snapshot::Snapshot;
use crate::snapshot::acl::Acl;

/// Full batches that are read from one socket in a row, at most, before other tasks have their turn.
const MAX_BATCHES_IN_A_ROW: usize = 4;

/// UDP socket that is registered with the runtime for readability.
type RegisteredSocket = AsyncFd<Arc<UdpSocket>>;

/// Registers a non-blocking socket with the runtime.
///
/// # Errors
///
/// The kernel refuses to poll it.
#[allow(deprecated, reason = "the deprecation concerns descriptors that may change; a socket keeps its own")]
pub(super) fn register(socket: Arc<UdpSocket>) -> io::Result<RegisteredSocket> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Answers the queries that arrive at a socket, and adds the datagrams to `count`. Other workers of this process, and
/// other processes, may read the socket too; each datagram is read by one of them.
///
/// For each datagram that leaves a registered socket, the kernel reports to the runtime that there is room for another
/// one (`sock_wfree`), wanted or not, which takes a twentieth of the time of a response. A socket that is never drained
/// is therefore not registered: it is read again and again, in turn with all other tasks, until it is drained.
///
/// # Errors
///
/// The socket cannot be registered. Errors of single datagrams do not end it.
pub(super) async fn serve(shared: Arc<Shared>, registered: RegisteredSocket, count: Arc<AtomicU64>) -> io::Result<()> {
    let socket = registered.get_ref().clone();
    let local = socket.local_addr()?.ip();
    let mut registered = Some(registered);
    loop {
        let readable = match &registered {
            Some(registered) => Some(registered.readable().await?),
            None => None,
        };
        let is_drained = (0..MAX_BATCHES_IN_A_ROW).any(|_| serve_batch(&shared, &socket, local, &count));
        match (readable, is_drained) {
            (Some(mut readable), true) => readable.clear_ready(),
            // Datagrams that have arrived since are reported.
            (None, true) => registered = Some(register(socket.clone())?),
            (_, false) => {
                registered = None;
                // A drained socket yields in `readable`.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Reads one batch and answers it. Returns whether the socket is drained.
fn serve_batch(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, local: IpAddr, count: &AtomicU64) -> bool {
    let family = match local {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    match worker_context::with_batch(family, |batch| take_batch(shared, socket, local, batch)) {
        Ok(read) => {
            count.fetch_add(read as u64, Ordering::Relaxed);
            // A batch that is not full has drained the socket: that saves the system call that would find it empty. (To
            // read again at once after all but small batches costs 3 % more for each response under full load: the
            // batches become smaller.)
            read < BATCH_SIZE
        }
        Err(error) => {
            let is_drained = error.kind() == ErrorKind::WouldBlock;
            if !is_drained {
                // An error of a datagram sent before (the client is gone), or a temporary one.
                tracing::debug!(address = %local, %error, "cannot read a batch of datagrams");
            }
            is_drained
        }
    }
}

/// Reads a batch of datagrams, answers cache hits, and starts all other queries. Returns the number of datagrams.
///
/// The benchmark counts the instructions of this function, by its name. Each step is a function of its own: the state
/// of all steps together would not fit the processor's registers.
#[inline(never)]
fn take_batch(shared: &Arc<Shared>, socket: &Arc<UdpSocket>, local: IpAddr, batch: &mut Batch) -> io::Result<usize> {
    let read = batch.datagrams.receive(&**socket)?;
    let context = shared.resolver.batch_context();
    let mut lookups = std::array::from_fn::<_, BATCH_SIZE, _>(|_| None);
    let lookups = lookups.get_mut(..read).unwrap_or_default();
    let mut deferred = parse_all(shared, local, context.snapshot(), batch, lookups);
    hash_all(shared, batch, lookups);
    prefetch_all(shared, batch, lookups);
    match_all(shared, batch, lookups);
    let tally = respond_all(shared, socket, &context, batch, lookups, &mut deferred);
    batch.datagrams.send(&**socket, |error| {
        shared.metrics().count_drop(DropReason::Unsent);
        tracing::debug!(address = %local, %error, "cannot send a response");
    });
    shared.metrics().add_batch(&tally, context.elapsed_nanoseconds());
    // Slow queries start after the responses to the hits have left.
    if !deferred.is_empty() {
        for DeferredRow { row, is_known_miss } in deferred.rows() {
            let query = batch.datagrams.query(row);
            let client = batch.datagrams.client_address(row);
            handle_slow(shared, socket, query, client, is_known_miss.then(|| context.known_miss()));
        }
        worker_context::drive_query_tasks();
    }
    Ok(read)
}

/// Rows of a batch that take the slow path, one bit for each.
#[derive(Clone, Copy, Debug, Default)]
struct DeferredRows {
    rows: u32,
    /// Subset for which the cache has no entry.
    known_misses: u32,
}

/// One row of [`DeferredRows`].
struct DeferredRow {
    row: usize,
    /// Whether the cache has no entry for it.
    is_known_miss: bool,
}

const _: () = assert!(BATCH_SIZE <= u32::BITS as usize);

impl DeferredRows {
    #[inline]
    const fn add(&mut self, row: usize, is_known_miss: bool) {
        self.rows |= 1 << row;
        self.known_misses |= (is_known_miss as u32) << row;
    }

    #[inline]
    const fn is_empty(self) -> bool {
        self.rows == 0
    }

    /// Returns the rows in ascending order.
    #[inline]
    fn rows(self) -> impl Iterator<Item = DeferredRow> {
        let mut remaining = self.rows;
        std::iter::from_fn(move || {
            let row = (remaining != 0).then(|| remaining.trailing_zeros())?;
            remaining &= remaining - 1;
            Some(DeferredRow { row: row as usize, is_known_miss: self.known_misses & (1 << row) != 0 })
        })
    }
}

/// First step: checks the ACL and parses common queries. Returns the rows of all other permitted queries.
#[inline(never)]
fn parse_all<'a>(
    shared: &Shared,
    local: IpAddr,
    snapshot: Option<&'a Snapshot>,
    batch: &Batch,
    lookups: &mut [Option<FastLookup<'a>>],
) -> DeferredRows {
    let datagrams = &batch.datagrams;
    let acl = acl_of(snapshot);
    let mut deferred = DeferredRows::default();
    let Some(snapshot) = snapshot else {
        (0..lookups.len())
            .filter(|row| may_query(shared, acl, datagrams, *row, local))
            .for_each(|row| deferred.add(row, false));
        return deferred;
    };
    for (row, lookup) in lookups.iter_mut().enumerate() {
        if !may_query(shared, acl, datagrams, row, local) {
            continue;
        }
        let (buf, length) = datagrams.query_buf(row);
        let Some(parsed) = FastLookup::parse(snapshot, buf, length) else {
            deferred.add(row, false);
            continue;
        };
        *lookup = Some(parsed);
    }
    deferred
}

/// Returns whether the client of this row may get a response; counts a drop if not.
#[inline(always)]
fn may_query(shared: &Shared, acl: &Acl, datagrams: &BatchDatagrams, row: usize, local: IpAddr) -> bool {
    let (client, port) = datagrams.client(row);
    // Nothing can be sent to port 0.
    if port == 0 {
        shared.metrics().count_drop(DropReason::SourcePortZero);
        return false;
    }
    shared.permits_by(acl, client, local)
}

/// Second step: writes and hashes the cache keys.
#[inline(never)]
fn hash_all(shared: &Shared, batch: &mut Batch, lookups: &[Option<FastLookup<'_>>]) {
    let Batch { datagrams, keys } = batch;
    let key_hasher = shared.resolver.key_hasher();
    for (row, (key, lookup)) in keys.iter_mut().zip(lookups).enumerate() {
        if let Some(lookup) = lookup {
            key_hasher.hash(lookup, datagrams.query_buf(row).0, key);
        }
    }
}

/// Third step: finds and prefetches the cache entries that may have these keys.
#[inline(never)]
fn prefetch_all<'a>(shared: &'a Shared, batch: &Batch, lookups: &mut [Option<FastLookup<'a>>]) {
    for (key, lookup) in batch.keys.iter().zip(lookups) {
        if let Some(lookup) = lookup {
            shared.resolver.prefetch_entry(lookup, key);
        }
    }
}

/// Fourth step: compares the keys of these entries.
#[inline(never)]
fn match_all<'a>(shared: &'a Shared, batch: &Batch, lookups: &mut [Option<FastLookup<'a>>]) {
    for (key, lookup) in batch.keys.iter().zip(lookups) {
        if let Some(lookup) = lookup {
            shared.resolver.match_key(lookup, key);
        }
    }
}

/// Last step: writes and counts the responses to hits, and adds all other rows to `deferred`.
#[inline(never)]
fn respond_all<'a>(
    shared: &'a Shared,
    socket: &UdpSocket,
    context: &BatchContext,
    batch: &mut Batch,
    lookups: &[Option<FastLookup<'a>>],
    deferred: &mut DeferredRows,
) -> Tally<'a> {
    let Batch { datagrams, keys } = batch;
    let mut tally = Tally::default();
    let is_tapped = shared.resolver.tap().has_readers();
    for (row, (key, lookup)) in keys.iter_mut().zip(lookups).enumerate() {
        if let Some(lookup) = lookup {
            let mut reply = datagrams.begin_response(row);
            let (query_buf, response_buf) = reply.buffers();
            if let Some(hit) = shared.resolver.hit(context, lookup, key, query_buf, response_buf) {
                reply.commit(usize::from(hit.length.get()));
                tally.count_hit(shared.resolver.hit_counters(lookup), hit.rcode);
                if is_tapped | hit.refresh_due {
                    refresh_and_tap(shared, socket, row, datagrams, is_tapped, hit.refresh_due);
                }
            } else {
                defer(deferred, row, key);
            }
        }
    }
    tally
}

/// Defers a row to the slow path. `key` is its key. A function of its own, so that it takes no registers from hits.
#[cold]
#[inline(never)]
fn defer(deferred: &mut DeferredRows, row: usize, key: &KeyBuf) {
    deferred.add(row, key.is_cleared());
}

/// Does the rare work of a hit whose response was just written: dnstap, and prefetch in the last tenth of the TTL.
#[cold]
#[inline(never)]
fn refresh_and_tap(
    shared: &Shared,
    socket: &UdpSocket,
    row: usize,
    datagrams: &BatchDatagrams,
    is_tapped: bool,
    refresh_due: bool,
) {
    if is_tapped {
        tap(shared, socket, row, datagrams);
    }
    if refresh_due {
        refresh(shared, datagrams.query(row));
    }
}

/// Samples the query of this row and the response that was written last, for dnstap.
fn tap(shared: &Shared, socket: &UdpSocket, row: usize, datagrams: &BatchDatagrams) {
    let query = datagrams.query(row);
    let sampled = shared.tap_query(query, datagrams.client_address(row), || socket.local_addr(), Transport::Udp);
    shared.tap_response(sampled.as_deref(), datagrams.last_response());
}

/// Prefetches the answer to a query.
fn refresh(shared: &Shared, message: &[u8]) {
    if let Ok(query) = request::read(message) {
        shared.resolver.refresh(&query);
    }
}

/// Handles a query on the slow path. Adds a query task when it has to wait for upstreams.
fn handle_slow(
    shared: &Arc<Shared>,
    socket: &Arc<UdpSocket>,
    message: &[u8],
    client: SocketAddr,
    known_miss: Option<KnownMiss>,
) {
    let sample = || shared.tap_query(message, client, || socket.local_addr(), Transport::Udp);
    let query = match shared.parse(message, client, Transport::Udp) {
        Ok(query) => query,
        Err(Rejection::Drop) => return,
        Err(Rejection::Respond { message: response, .. }) => {
            return send_response(shared, socket, &response, client, sample().as_deref());
        }
    };
    if query.class == class::CH
        && let Ok(local) = socket.local_addr()
    {
        shared.health_checks.count(local.ip());
    }
    let sampled = sample();
    let miss = match shared.resolver.resolve_from_cache(&query, known_miss) {
        Ok(answer) => {
            let response = answer.to_udp_wire(&query);
            return send_response(shared, socket, &response, client, sampled.as_deref());
        }
        Err(miss) => miss,
    };
    let permit = match shared.acquire_waiting_query(client, &query, &miss) {
        Ok(permit) => permit,
        Err(None) => return,
        Err(Some(answer)) => {
            return send_response(shared, socket, &answer.to_udp_wire(&query), client, sampled.as_deref());
        }
    };
    let shared = shared.clone();
    let socket = socket.clone();
    worker_context::spawn_query_task(async move {
        let (answer, _deferred_store) = shared.resolver.resolve_miss(&query, miss).await;
        worker_context::with_response(|response| {
            answer.write_udp(&query, response);
            send_response(&shared, &socket, response, client, sampled.as_deref());
        });
        drop(permit);
    });
}

/// Sends a response without waiting: a full send buffer loses a datagram, as any other queue on its way would.
fn send_response(shared: &Shared, socket: &UdpSocket, message: &[u8], client: SocketAddr, sampled: Option<&Sampled>) {
    match socket.send_to(message, client) {
        Ok(_) => shared.tap_response(sampled, message),
        Err(error) => {
            shared.metrics().count_drop(DropReason::Unsent);
            tracing::debug!(%client, %error, "cannot send a response");
        }
    }
}
