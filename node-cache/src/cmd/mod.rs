//! The three programs and their command lines, all built alike: `run`, `probe`, and questions of people.
//!
//! * [`node_cache`], [`zone_resolver`], [`node_agent`]: one file a program, from its arguments to its shutdown.
//! * `args`, `probe`, `inspect`, `ask`, `tap`, `logging`: parts of command lines that programs share.
//! * `config`, `readiness`, `status_reporter`, `status_http`, `shutdown`: parts of running programs that they share.

mod args;
mod ask;
mod config;
mod inspect;
mod logging;
pub mod node_agent;
pub mod node_cache;
mod probe;
mod prober;
mod readiness;
mod shutdown;
mod status_http;
mod status_reporter;
mod tap;
pub mod zone_resolver;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::admin::{CommandError, ControlError};
use crate::agent::interface::InterfaceError;
use crate::dns::NameError;
use crate::dnstap::TapError;
pub use ask::AskError;
pub use logging::{LogArgs, LogFormat};

/// Failure that ends a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The runtime, its threads or its signals cannot be had.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// A Unix socket (control, tap, handover) cannot be served.
    #[error("{path}: {source}")]
    UnixSocket {
        /// Path of the socket.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("{address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Reason.
        source: io::Error,
    },
    /// The cache is too small for so many workers.
    #[error(
        "a cache of {cache_size} bytes is too small for {workers} workers: each beyond {WORKERS_BESIDE_CACHE} takes \
         {WORKER_BYTES} bytes of it, and 1048576 have to be left"
    )]
    CacheTooSmall {
        /// Size of the cache that was asked for, in bytes.
        cache_size: u64,
        /// Number of workers that was asked for.
        workers: usize,
    },
    /// No address to listen on was given.
    #[error("no address to listen on: set POD_IPS to the pod's addresses or give --listen and --http")]
    NoAddress,
    /// `POD_UID` is not set.
    #[error("POD_UID is not set; without it the agent cannot tell this pod's caches from anybody else")]
    NoPodUid,
    /// A running process did not answer, or is not live or ready.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A question of people is not valid.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A name was not resolved.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The messages of a process cannot be shown.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Output(#[source] io::Error),
    /// The name of the self-query is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The addresses of the node cannot be read or changed.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
}

/// Workers whose memory is part of the 16 MiB that a process may take beside its cache.
const WORKERS_BESIDE_CACHE: usize = 16;
/// Memory of a worker in bytes: batches of datagrams for both address families, its runtime and the used part of its
/// stack. 64 workers that were queried over IPv4 were measured at 187,000 each; the batches for IPv6 take 102,000 more.
const WORKER_BYTES: u64 = 320 << 10;
/// Size of the smallest cache, in bytes.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// Returns the bytes that the cache may use, so that a process takes no more than `cache_size` and 16 MiB with this
/// many workers.
fn usable_cache_bytes(cache_size: u64, workers: usize) -> Result<u64, ProgramError> {
    let beyond = workers.saturating_sub(WORKERS_BESIDE_CACHE) as u64;
    let usable = cache_size.checked_sub(beyond * WORKER_BYTES).filter(|usable| *usable >= MIN_CACHE_BYTES);
    usable.ok_or(ProgramError::CacheTooSmall { cache_size, workers })
}

/// Raises the limit of open files to the one that the process may set itself. Each query in flight may hold three
/// sockets, and runtimes of containers start a process with a limit of 1,024 files and let it open many more.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(?current, ?maximum, %error, "the limit of open files cannot be raised");
    }
}

/// Runs a program or a probe on a single-threaded runtime. One thread is enough: workers, which answer queries, have
/// threads of their own.
fn block_on<T>(work: impl Future<Output = Result<T, ProgramError>>) -> Result<T, ProgramError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProgramError::Start)?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_workers_take_their_room_from_the_cache_and_are_refused_where_there_is_none() {
        let bytes = |size, workers| usable_cache_bytes(size, workers).ok();
        assert_eq!(bytes(4 << 20, 16), Some(4 << 20));
        assert_eq!(bytes(64 << 20, 64), Some(49 << 20));
        assert_eq!(bytes(16 << 20, 64), Some(1 << 20));
        let refused = usable_cache_bytes(4 << 20, 64).unwrap_err().to_string();
        assert!(refused.starts_with("a cache of 4194304 bytes is too small for 64 workers"), "{refused}");
    }
}
