//! Simulation: processes with verdicts, their clients and retries, behind models of limiters; seeded, in virtual time.

mod limiter;
mod process;
mod random;
mod run;
mod shared;
mod table;
mod world;
