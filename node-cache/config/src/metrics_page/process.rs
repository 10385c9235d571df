//! Series that every process has: `dnstier_build_info` and the usual `process_…`, read from the process's own files in
//! `/proc`.

use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;

/// Ticks of a second in `/proc/self/stat` (`USER_HZ`), which is 100 on every architecture of the images.
const TICKS_PER_SECOND: f64 = 100.0;

/// Version of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of the release.
    pub version: &'static str,
    /// Revision of the sources; `unknown` where the build was not told.
    pub revision: &'static str,
}

impl BuildInfo {
    /// Build of this release. Builds of images set the revision in the variable `DNSTIER_REVISION`.
    pub const CURRENT: Self = Self {
        version: env!("CARGO_PKG_VERSION"),
        revision: match option_env!("DNSTIER_REVISION") {
            Some(revision) => revision,
            None => "unknown",
        },
    };
}

/// Processor time, memory and file descriptors of a process. A value that could not be read is `None`, and has no
/// series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Start of the process, in seconds since 1970.
    pub start_time: Option<f64>,
    /// Processor time in seconds, of the process and of the kernel on its behalf.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Limit on open file descriptors.
    pub max_fds: Option<u64>,
}

impl ProcessUsage {
    /// Reads the usage of this process.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count());
        Self {
            start_time: own_start_time(&stat),
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: resident_bytes(&text("/proc/self/status")),
            // The directory itself is open while it is read.
            open_fds: open_fds.and_then(|count| u64::try_from(count.saturating_sub(1)).ok()),
            max_fds: max_fds(&text("/proc/self/limits")),
        }
    }
}

/// Returns the start of this process, computed once: the kernel's time of boot may move by a second when the clock is
/// set, and a start that moves looks like a restart.
fn own_start_time(stat: &str) -> Option<f64> {
    static START_TIME: OnceLock<Option<f64>> = OnceLock::new();
    *START_TIME.get_or_init(|| start_time(stat, &fs::read_to_string("/proc/stat").ok()?))
}

/// Returns the field of this number, from 3 on, of `/proc/self/stat` (proc(5)). The second one, the name of the
/// program, may hold blanks and parentheses.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time(stat: &str, machine_stat: &str) -> Option<f64> {
    let boot: f64 = machine_stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let text = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    text.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

/// Returns the series in OpenMetrics, without the last line; with the label `process` where pages of several processes
/// are merged.
#[must_use]
pub fn process_text(process: Option<&str>, build: BuildInfo, usage: &ProcessUsage) -> String {
    let label = process.map(|process| format!("process=\"{process}\""));
    let labels = label.as_ref().map(|label| format!("{{{label}}}")).unwrap_or_default();
    let comma = label.as_ref().map(|label| format!("{label},")).unwrap_or_default();
    let BuildInfo { version, revision } = build;
    let mut text = format!(
        "# HELP dnstier_build_info Version of the program and revision of its sources.\n\
         # TYPE dnstier_build_info gauge\n\
         dnstier_build_info{{{comma}version=\"{version}\",revision=\"{revision}\"}} 1\n"
    );
    let mut add = |name: &str, help: &str, kind: &str, unit: Option<&str>, value: Option<f64>| {
        let Some(value) = value else { return };
        let unit = unit.map(|unit| format!("# UNIT {name} {unit}\n")).unwrap_or_default();
        let total = if kind == "counter" { "_total" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{unit}{name}{total}{labels} {value}\n");
    };
    let count = |count: Option<u64>| count.map(|count| count as f64);
    let seconds = Some("seconds");
    add("process_cpu_seconds", "User and system CPU time spent", "counter", seconds, usage.cpu_seconds);
    add("process_start_time_seconds", "Start of the process since 1970", "gauge", seconds, usage.start_time);
    add("process_resident_memory_bytes", "Resident memory size", "gauge", Some("bytes"), count(usage.resident_bytes));
    add("process_open_fds", "Open file descriptors", "gauge", None, count(usage.open_fds));
    add("process_max_fds", "Limit on open file descriptors", "gauge", None, count(usage.max_fds));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_whatever_the_program_is_called() {
        let rest = "S 1 2 3 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 1200 2000000 500";
        for name in ["node-cache", "a b) S 9 9", ")", ""] {
            let stat = format!("7 ({name}) {rest}\n");
            assert_eq!(cpu_seconds(&stat), Some(3.0), "{name}");
            assert_eq!(start_time(&stat, "cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_012.0), "{name}");
        }
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nVmSwap:\t 1 kB\n"), Some(1234 * 1024));
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096    files\n";
        assert_eq!(max_fds(limits), Some(1024));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!((cpu_seconds("7 (x"), start_time("7 (x) S 1", "btime 1"), resident_bytes("")), (None, None, None));
        assert_eq!(max_fds("Max open files unlimited unlimited files"), None);
        let build = BuildInfo { version: "1", revision: "abc" };
        let text = process_text(Some("cache-0"), build, &ProcessUsage::default());
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 1, "{text}");
        assert!(text.contains("dnstier_build_info{process=\"cache-0\",version=\"1\",revision=\"abc\"} 1\n"), "{text}");
    }

    #[test]
    fn a_running_process_knows_all_of_it_and_its_start_does_not_move() {
        let usage = ProcessUsage::read();
        assert!(usage.open_fds.is_some_and(|count| count >= 3) && usage.resident_bytes > Some(1024), "{usage:?}");
        assert!(usage.max_fds > usage.open_fds && usage.cpu_seconds.is_some(), "{usage:?}");
        assert_eq!(ProcessUsage::read().start_time, usage.start_time);
        let text = process_text(None, BuildInfo::CURRENT, &usage);
        for name in ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds", "max_fds"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("process_{name} "))), "{name} in\n{text}");
        }
    }
}
