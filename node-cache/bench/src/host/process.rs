//! Counters that the kernel keeps of a process (proc(5)).

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

/// CPU time of a process in clock ticks, which are coarser than [`cpu_time`] and split by mode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuTicks {
    pub(crate) user: f64,
    pub(crate) kernel: f64,
}

/// Returns the nanoseconds for which all threads of a process have run, in user mode and in the kernel, without stolen
/// time. Of a thread that is running now, up to one tick is missing: read it while the process sleeps.
pub(crate) fn cpu_time(pid: u32) -> f64 {
    let of_thread = |thread: fs::DirEntry| {
        fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    };
    threads(pid).filter_map(of_thread).sum()
}

/// Returns the ticks for which a process has run.
pub(crate) fn cpu_ticks(pid: u32) -> CpuTicks {
    parse_cpu_ticks(&stat(pid)).unwrap()
}

/// Returns whether a process has not ended. One that has ended and was not waited for is a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    is_running_state(&stat(pid))
}

/// Returns the resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    kibibytes(&status(pid), "VmRSS:") * 1024
}

/// Returns the largest resident memory that a process ever had, in bytes.
pub(crate) fn peak_resident_bytes(pid: u32) -> u64 {
    kibibytes(&status(pid), "VmHWM:") * 1024
}

/// Returns how often the first thread of a process gave up its processor to wait.
pub(crate) fn voluntary_switches(pid: u32) -> f64 {
    let status = status(pid);
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

/// Pins all threads that a process has now to one processor.
pub(crate) fn pin(pid: u32, processor: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(processor);
    for thread in threads(pid) {
        let tid = thread.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let _ = sched_setaffinity(tid, &cpus);
    }
}

fn threads(pid: u32) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()
}

fn stat(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Fields of `/proc/<pid>/stat` from the third one on: the second one, the name, is in brackets and may hold anything.
fn fields_after_name(stat: &str) -> Option<Vec<&str>> {
    Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
}

fn parse_cpu_ticks(stat: &str) -> Option<CpuTicks> {
    let fields = fields_after_name(stat)?;
    Some(CpuTicks { user: fields.get(11)?.parse().ok()?, kernel: fields.get(12)?.parse().ok()? })
}

fn is_running_state(stat: &str) -> bool {
    fields_after_name(stat).is_some_and(|fields| fields.first().is_some_and(|state| *state != "Z"))
}

/// Returns a value of `/proc/<pid>/status` in KiB; 0 where it is missing.
fn kibibytes(status: &str, field: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
    status.lines().find_map(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{CpuTicks, is_running_state, kibibytes, parse_cpu_ticks};

    const STAT: &str = "42 (a ) name) S 1 42 42 0 -1 4194560 101 0 0 0 17 23 0 0 20 0 1 0 100 1000 10";

    #[test]
    fn a_bracket_in_the_name_does_not_shift_the_fields() {
        assert_eq!(parse_cpu_ticks(STAT), Some(CpuTicks { user: 17.0, kernel: 23.0 }));
        assert_eq!(parse_cpu_ticks(""), None);
    }

    #[test]
    fn a_zombie_does_not_run() {
        assert!(is_running_state(STAT));
        assert!(!is_running_state(&STAT.replace(") S", ") Z")));
        assert!(!is_running_state(""));
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        let status = "Name:\tkresd\nVmHWM:\t   77700 kB\nVmRSS:\t   12345 kB\n";
        assert_eq!(
            [kibibytes(status, "VmHWM:"), kibibytes(status, "VmRSS:"), kibibytes("", "VmRSS:")],
            [77_700, 12_345, 0]
        );
    }
}
