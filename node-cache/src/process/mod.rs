//! The processes that answer questions, and what each of them is put together from.

mod account;
mod applied;
mod arguments;
mod drain;
pub mod node_cache;
mod readiness;
mod status_server;
mod tap;
pub mod zone_resolver;

use arguments::{Ask, Inspect, Probe, bytes, seconds};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::ask::Unresolved;
use crate::control::{AskError, BadCommand};
use crate::tap::TapError;

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
    /// Nobody said where to listen.
    #[error("no address to listen on: set POD_IPS to the pod's addresses or give --listen and --http")]
    NoAddress,
    /// A process was asked and did not answer, or is not well.
    #[error(transparent)]
    Probe(#[from] AskError),
    /// What was asked for is nothing that can be.
    #[error(transparent)]
    Command(#[from] BadCommand),
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

/// Runs a process or a probe to its end. One thread is enough: nothing here waits but in the runtime.
fn block_on<T>(work: impl Future<Output = Result<T, ProcessError>>) -> Result<T, ProcessError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ProcessError::Start)?.block_on(work)
}
