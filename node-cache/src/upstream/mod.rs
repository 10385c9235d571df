//! Other servers, and how they are asked.
//!
//! ```text
//! Pool (tiers: own zone, then the others) ──► plan (pure) ──► race of attempts ──► exchange (UDP, or the server's connection)
//!   └─ Group (one set of servers) ◄── discovery (SRV, A, AAAA from the cluster DNS)
//!        └─ Server ── Health, Latencies (pure), Sockets
//! ```

mod alarm;
mod attempt;
mod book;
mod commons;
mod connection;
pub mod discovery;
pub(crate) mod exchange;
mod group;
mod health;
mod latencies;
mod loops;
mod plan;
mod pool;
mod race;
pub mod resolv_conf;
mod revival;
mod server;
pub(crate) mod sockets;
pub(crate) mod spares;

pub use book::Book;
pub use commons::{Commons, Numbers};
pub use group::Group;
pub use loops::Loops;
pub use plan::Order;
pub use pool::{Pool, Unanswered};
pub use server::Server;
