//! Turns of two servers: the CPU time of each per response, and the ratio of both.
//!
//! The machine changes its speed during a measurement: other programs share its caches and its memory. So a turn is
//! short and symmetric, echo, server, server, echo, and a steady drift of the speed cancels out of its ratio. A turn in
//! which the hypervisor took processor time is dropped and repeated.

use std::thread::sleep;
use std::time::Duration;

use crate::host::processors::stolen_ticks;
use crate::load::hit_client::HitClient;
use crate::servers::hit_server::HitServer;
use crate::statistics::{median, trimmed_mean};

/// Queries of one slice; a turn has four slices.
const QUERIES_PER_SLICE: usize = 4_000;
/// Turns in one run of a server.
const TURNS: usize = 12;
/// Responses of a server in all turns of a run.
pub(super) const RESPONSES_PER_RUN: usize = 2 * TURNS * QUERIES_PER_SLICE;
/// Maximum turns that are dropped and repeated.
const MAX_DROPPED_TURNS: usize = 24;
/// Pause after the last response: the server sleeps by then, and the kernel knows its CPU time to the nanosecond.
const SETTLE_TIME: Duration = Duration::from_millis(1);

/// Result of all turns in one run of a server's process and its echo's process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// CPU time of the server per response in nanoseconds, kernel included: the median of the turns.
    pub(super) server_ns: f64,
    /// CPU time of the echo per response in nanoseconds.
    pub(super) echo_ns: f64,
    /// Natural logarithm of the echo's CPU time divided by the server's.
    pub(super) log_ratio: f64,
    pub(super) dropped_turns: usize,
}

/// Takes the turns of a run, with a client for each of both servers.
pub(super) fn take(echo: (&HitServer, &mut HitClient), server: (&HitServer, &mut HitClient)) -> Run {
    let mut echo_times = Vec::new();
    let mut server_times = Vec::new();
    let mut log_ratios = Vec::new();
    let mut dropped_turns = 0;
    while log_ratios.len() < TURNS {
        let stolen_before = stolen_ticks();
        let echo_first = cpu_time_per_response(echo.0, echo.1);
        let server_first = cpu_time_per_response(server.0, server.1);
        let server_second = cpu_time_per_response(server.0, server.1);
        let echo_second = cpu_time_per_response(echo.0, echo.1);
        if stolen_ticks() != stolen_before && dropped_turns < MAX_DROPPED_TURNS {
            dropped_turns += 1;
            continue;
        }
        echo_times.push(f64::midpoint(echo_first, echo_second));
        server_times.push(f64::midpoint(server_first, server_second));
        log_ratios.push(((echo_first + echo_second) / (server_first + server_second)).ln());
    }
    Run {
        server_ns: median(&server_times),
        echo_ns: median(&echo_times),
        log_ratio: trimmed_mean(&log_ratios),
        dropped_turns,
    }
}

/// Returns nanoseconds of CPU time per response in one slice.
fn cpu_time_per_response(server: &HitServer, client: &mut HitClient) -> f64 {
    let before = server.process.cpu_time();
    let report = client.send_queries(QUERIES_PER_SLICE);
    sleep(SETTLE_TIME);
    let cpu_time = server.process.cpu_time() - before;
    let is_enough = report.answered > QUERIES_PER_SLICE / 2;
    assert!(is_enough, "{} answered {} of {}", server.name, report.answered, report.sent);
    cpu_time / report.answered as f64
}
