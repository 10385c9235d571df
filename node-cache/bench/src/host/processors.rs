//! Processors: servers run on the first one, clients on the second one.

use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{setpriority_process, setsid};
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

/// Priority of what is measured, and of its clients.
const NICE: i32 = -15;

/// Makes this process a session of its own and raises the priority of the whole session: where the kernel groups
/// processes by session (sched(7), autogroup), the priority of a process counts within its session alone.
pub(crate) fn raise_priority_of_session() {
    let _ = setsid();
    let _ = fs::write("/proc/self/autogroup", NICE.to_string());
    raise_priority();
}

/// Raises the priority of this process and of every child that it starts from now on, so that other programs of the
/// machine disturb the measurement less.
pub(crate) fn raise_priority() {
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
    use super::parse_stolen_ticks;

    #[test]
    fn stolen_ticks_are_the_eighth_number_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 2 3 4 5 6 7 44 9 10\n";
        assert_eq!((parse_stolen_ticks(stat), parse_stolen_ticks("")), (88, 0));
    }
}
