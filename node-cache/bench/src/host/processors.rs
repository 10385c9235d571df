//! Processors: servers run on the first one, clients on the second one.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// Processor of the servers.
pub(crate) const SERVER_CPU: usize = 0;
/// Processor of the clients, and of the upstream where the server is to have its own processor to itself.
pub(crate) const CLIENT_CPU: usize = 1;

/// Pins the calling thread, and every child that it starts from now on, to one processor.
pub(crate) fn pin_current_thread(processor: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(processor);
    sched_setaffinity(None, &cpus).expect("the machine has two processors");
}

/// Returns the beginning of a command line that runs a program on the servers' processor alone, and has the kernel kill
/// it when this process ends, however this process ends.
pub(crate) fn server_command() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list"]).arg(SERVER_CPU.to_string());
    command
}

/// Raises the priority of this process and of every child that it starts from now on, so that other programs of the
/// machine disturb the measurement less.
pub(crate) fn raise_priority() {
    const NICE: i32 = -15;
    if let Err(error) = setpriority_process(None, NICE) {
        println!("other programs may disturb the measurement: {error}");
    }
}

/// Has the kernel run the calling thread as soon as it can, before all others. A thread that never sleeps must not call
/// it.
pub(crate) fn run_at_once() {
    const PRIORITY: &str = "10";
    let thread = gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", PRIORITY, &thread]).stderr(Stdio::null()).status();
    if !status.is_ok_and(|status| status.success()) {
        println!("other programs may make the clients late");
    }
}

/// Ticks of all processors together (proc(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// Reads the ticks since the machine was started.
    pub(crate) fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        // Ticks of guests, the last two numbers, are part of the first two.
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let waiting = ticks.get(4).copied().unwrap_or_default();
        Self { all: ticks.iter().sum(), idle: ticks.get(3).map_or(0, |idle| idle + waiting) }
    }

    /// Returns the share of the time since an earlier one in which a processor did something; 0 without a tick.
    pub(crate) fn busy_share_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        all.saturating_sub(idle) as f64 / all.max(1) as f64
    }
}

/// Returns the ticks of all processors that the hypervisor gave to other virtual machines (proc(5)).
pub(crate) fn stolen_ticks() -> u64 {
    parse_stolen_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn parse_stolen_ticks(stat: &str) -> u64 {
    let all_processors = stat.lines().next().unwrap_or_default();
    all_processors.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Ticks, parse_stolen_ticks};

    #[test]
    fn a_processor_that_waits_is_not_busy() {
        let earlier = Ticks::parse("cpu  1 0 0 10 5 0 0 0 0 0\ncpu0 1 2 3 4 5 6 7 44 9 10\n");
        let later = Ticks::parse("cpu  20 1 1 80 10 2 1 1 20 1\n");
        assert_eq!(later.busy_share_since(earlier), 0.25);
        assert_eq!(later.busy_share_since(later), 0.0);
    }

    #[test]
    fn stolen_ticks_are_the_eighth_number_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 2 3 4 5 6 7 44 9 10\n";
        assert_eq!((parse_stolen_ticks(stat), parse_stolen_ticks("")), (88, 0));
    }
}
