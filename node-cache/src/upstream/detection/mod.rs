//! Detection of silent limits, loss, slowness and silence of one upstream: values and the time in, orders out.
//!
//! ```text
//! cells       queries sent and answered in time, by registered domain and tick of 100 ms; the median over domains
//!    ▼
//! control     names that the upstream answered fast and still has: the queries of a confirmation
//!    ▼
//! evidence    one tick as a process sees it; sequential test, loss of an interval and its error
//!    ▼
//! hold        an upstream that is held: its ceiling, the name of the cause, the way back
//!    ▼
//! verdict     one step for each tick; its results are values of `state`: Well, Suspected, Held, Silent, Returning
//!    ▼
//! detector    all of it for one upstream: queries report with atomics, a watcher takes the steps
//! episodes    the last times at which the upstream was held, for people
//! ceiling     the ceiling in force, as a token bucket in atomics
//! ```
//!
//! No file here knows a socket, a clock or a thread. `simulation`, for tests, runs them behind models of limiters.

pub mod ceiling;
pub mod cells;
pub mod control;
pub mod control_ports;
pub mod detector;
pub mod episodes;
pub mod evidence;
mod hold;
pub mod state;
pub mod verdict;

#[cfg(test)]
mod simulation;
