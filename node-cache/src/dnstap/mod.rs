//! dnstap: samples of the queries and responses of clients and of upstreams, as a stream of dnstap messages, for as
//! long as a reader is attached.
//!
//! ```text
//! server, upstream ──► Tap (any reader? sampled?) ──► one bounded buffer per reader ──► Unix socket in the pod
//!                                                      `tap` subcommand of the program ◄──┘ ──► stdout
//! ```
//!
//! A reader requests a sample rate and a message filter in one line and receives Frame Streams. A reader that is too
//! slow loses frames, which are counted; queries never wait for it.

mod client;
mod frames;
mod message;
mod server;
mod tap;

use std::path::{Path, PathBuf};

pub use client::{TapError, TapSource, copy};
pub use message::Side;
pub use server::serve;
pub use tap::{MessageFilter, Sampled, Tap, TapOptions};

/// Returns the path of the tap socket of the process with this name (`cache-0`, `zone-resolver`, …).
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.tap.sock"))
}
