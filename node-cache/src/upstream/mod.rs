//! Upstreams: the servers that are queried on a cache miss, and how they are found, selected and queried.
//!
//! ```text
//! watch       the only clock of detection: a step of each upstream's detector every 100 ms, its control queries
//!    ▼
//! detection   verdict on one upstream: limits, loss, slowness, silence; values and the time in, orders out
//!
//! discovery   registry of groups; servers of a headless Service (SRV, A, AAAA from the cluster DNS) and of resolv.conf
//!    ▼
//! pool        tiers of groups (own zone, then the others): selection (power of two choices), hedging,
//!    ▼        probing of down servers
//! server      one server: circuit breaker, score, forwarding-loop detection; groups of servers, their outliers
//!    ▼
//! transport   one exchange: UDP (socket pool, random ports, 0x20) or TCP (RFC 7766); the single timer of a thread
//!    ▼
//! budget      packets a second and queries in flight that some servers may be sent together
//! ```

mod budget;
pub mod detection;
pub(crate) mod discovery;
mod error;
mod pool;
mod server;
pub(crate) mod transport;
mod watch;

pub use discovery::GroupRegistry;
pub use error::NoAnswer;
pub use pool::{Pool, QueryEvent, QueryPurpose, Selection};
pub use server::group::Group;
pub use server::{LoopProbes, LowerCaseReason, PacketRate, Server, ServerIds, UpstreamContext};
