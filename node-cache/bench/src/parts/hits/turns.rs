//! Two servers in turns: what each takes for an answer, and the ratio of both.
//!
//! The machine changes its speed while one looks: what else runs on it shares its caches and its memory. So a turn is
//! short and goes there and back, echo, server, server, echo, and what changes evenly in that time falls out of its
//! ratio. A turn in which the hypervisor gave a processor to somebody else does not count and is taken again.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::load::client::Client;
use crate::servers::hit_server::Server;
use crate::statistics::{median, trimmed_mean};

/// Questions of one slice, of which a turn has four.
const SLICE: usize = 4_000;
/// Turns in one life of a server.
const TURNS: usize = 12;
/// Answers of a server in its turns.
pub(crate) const ANSWERS: usize = 2 * TURNS * SLICE;
/// Turns that are taken again at most.
const MOST_DROPPED: usize = 24;
/// After the last answer: by then the server sleeps, and its time is told to the nanosecond.
const REST: Duration = Duration::from_millis(1);

/// What came of the turns in one life of a server and its echo.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Life {
    /// Nanoseconds of processor time for an answer, the kernel's included: the median of the turns.
    pub(crate) server: f64,
    pub(crate) echo: f64,
    /// Of the echo's time divided by the server's, the logarithm.
    pub(crate) ratio: f64,
    /// Turns that did not count.
    pub(crate) dropped: usize,
}

/// Asks both, each with its client.
pub(crate) fn take(echo: (&Server, &mut Client), server: (&Server, &mut Client)) -> Life {
    let (mut echoes, mut servers, mut ratios, mut dropped) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while ratios.len() < TURNS {
        let before = stolen();
        let (first, second) = (slice(echo.0, echo.1), slice(server.0, server.1));
        let (third, fourth) = (slice(server.0, server.1), slice(echo.0, echo.1));
        if stolen() != before && dropped < MOST_DROPPED {
            dropped += 1;
            continue;
        }
        echoes.push(f64::midpoint(first, fourth));
        servers.push(f64::midpoint(second, third));
        ratios.push(((first + fourth) / (second + third)).ln());
    }
    Life { server: median(&servers), echo: median(&echoes), ratio: trimmed_mean(&ratios), dropped }
}

/// Nanoseconds of processor time for each answer.
fn slice(server: &Server, client: &mut Client) -> f64 {
    let before = server.processor_time();
    let report = client.ask(SLICE);
    sleep(REST);
    let took = server.processor_time() - before;
    assert!(report.answered > SLICE / 2, "{} answered {} of {}", server.name, report.answered, report.sent);
    took / report.answered as f64
}

/// Ticks of any processor that the hypervisor gave to others (proc(5)).
fn stolen() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default();
    all.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}
