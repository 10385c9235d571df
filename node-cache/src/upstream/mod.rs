//! Other servers, and how they are asked.
//!
//! ```text
//! Pool (tiers: own zone, then the others) ──► plan (pure) ──► race of attempts ──► exchange (UDP, or the server's connection)
//!   └─ Group (one set of servers) ◄── discovery (SRV, A, AAAA from the cluster DNS)
//!        └─ Server ── Health, Latencies (pure), Sockets
//! ```

pub mod discovery;
mod error;
mod pool;
mod server;
pub(crate) mod transport;

pub use discovery::GroupRegistry;
pub use error::NoAnswer;
pub use pool::{Pool, Selection};
pub use server::{Group, LoopProbes, Server, ServerIds, UpstreamContext};
