//! Benchmark of the data plane. Every part answers one question and is a command of the program:
//!
//! * `gate` counts the instructions of a hit and of a miss, and the bytes of a cache entry, and fails when a figure
//!   is above its limit.
//! * `hits` measures the CPU time of a cache hit beside a bare echo of datagrams and beside other resolvers, each
//!   alone on the first processor, with the client on the second. Words may follow that select servers, by the
//!   beginnings of their names, and numbers of names.
//! * `misses`: latency and CPU time of a query that is forwarded to an upstream.
//! * `latency`: latency of hits at planned times, at equal rates and at equal shares of each server's capacity.
//! * `start`: time from starting a program to its first response.
//! * `memory`: bytes per response in the cache, and peak memory with many more names than the cache has room for.
//! * `fairness`: latency and hits of other clients while one client floods a server.
//! * `traces`: hit rate at equal memory.
//! * `readers`: cost of several processes that read one socket.
//! * `replay` runs casts of resolvers under the silent limits of a provider, one after the other.
//! * `miss-cpu` prints the CPU time of a miss of DnsTier alone.
//!
//! All but `gate`, `miss-cpu` and the short form of `replay` write into `docs/benchmarks/`. Where the beginning of a
//! server's name follows `misses` to `traces`, only these servers are measured, and nothing is written.
//! Wall-clock time does not decide `hits`: servers are compared by the CPU time of their processes per response, in
//! turns within one run.
//!
//! Every part needs root, for namespaces of its own, and two processors. `make bench` and `make bench-gate` build the
//! program and `zone-resolver` with the profile `bench`, install the tools and run them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program of the developers, which tells by panicking"
)]

mod command;

mod parts;

mod load;
mod servers;

mod host;
mod report;
mod statistics;

pub use command::run;
