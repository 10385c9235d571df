//! The processes that answer questions, and what each of them is put together from.

mod args;
pub mod ask;
mod config;
pub mod logging;
pub mod node_cache;
mod readiness;
mod shutdown;
mod status_reporter;
mod status_server;
mod tap;
pub mod zone_resolver;

use args::{Ask, Inspect, Probe, bytes, seconds, workers};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::admin::{CommandError, ControlError};
use crate::cmd::ask::Unresolved;
use crate::dnstap::TapError;

/// Why a process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The runtime or its signals cannot be had.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The control socket, or that of the tap, cannot be served.
    #[error("{path}: {source}")]
    Control {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// More threads than the cache has room for.
    #[error(
        "a cache of {cache_size} bytes is too small for {workers} workers: each beyond {WORKERS_BESIDE_CACHE} takes \
         {ROOM_OF_WORKER} bytes of it, and 1048576 have to be left"
    )]
    Room {
        /// What it was given.
        cache_size: u64,
        /// How many threads are to answer.
        workers: usize,
    },
    /// Nobody said where to listen.
    #[error("no address to listen on: set POD_IPS to the pod's addresses or give --listen and --http")]
    NoAddress,
    /// A process was asked and did not answer, or is not well.
    #[error(transparent)]
    Probe(#[from] ControlError),
    /// What was asked for is nothing that can be.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A name was not resolved.
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    /// The messages of a process cannot be shown.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// What was found out cannot be printed.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
}

/// Workers whose memory is part of the 16 MiB that a process may take beside its cache.
const WORKERS_BESIDE_CACHE: usize = 16;
/// Memory of a worker in bytes: rows of datagrams for both families of addresses, its runtime and what it uses of its stack.
/// 64 of them that were asked over IPv4 were seen to hold 187,000 each; the rows for IPv6 take 102,000 more.
const ROOM_OF_WORKER: u64 = 320 << 10;
/// The smallest cache, in bytes.
const SMALLEST_CACHE: u64 = 1 << 20;

/// Bytes for answers, so that a process takes no more than `cache_size` and 16 MiB with as many workers as it has.
fn answer_bytes(cache_size: u64, workers: usize) -> Result<u64, ProcessError> {
    let beyond = workers.saturating_sub(WORKERS_BESIDE_CACHE) as u64;
    let left = cache_size.checked_sub(beyond * ROOM_OF_WORKER).filter(|left| *left >= SMALLEST_CACHE);
    left.ok_or(ProcessError::Room { cache_size, workers })
}

/// Runs a process or a probe to its end. One thread is enough: nothing here waits but in the runtime, and what answers
/// questions has threads of its own.
fn block_on<T>(work: impl Future<Output = Result<T, ProcessError>>) -> Result<T, ProcessError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProcessError::Start)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_workers_take_their_room_from_the_cache_and_are_refused_where_there_is_none() {
        let bytes = |size, workers| answer_bytes(size, workers).ok();
        assert_eq!(bytes(4 << 20, 16), Some(4 << 20));
        assert_eq!(bytes(64 << 20, 64), Some(49 << 20));
        assert_eq!(bytes(16 << 20, 64), Some(1 << 20));
        let refused = answer_bytes(4 << 20, 64).unwrap_err().to_string();
        assert!(refused.starts_with("a cache of 4194304 bytes is too small for 64 workers"), "{refused}");
    }
}
