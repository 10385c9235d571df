//! Signs that the process itself was short of something: datagrams that its receive buffers had no room for, and time
//! for which its cgroup was throttled. Read at the edge; the parsers are pure.

use std::path::Path;

/// Counters of UDP in the process's network namespace.
const SNMP: &str = "/proc/self/net/snmp";
/// Statistics of the cgroup that a container sees as its own: version 2, and 1.
const CPU_STATS: [&str; 2] = ["/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"];

/// Counters at the last reading; `None` before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Starvation(Option<Counters>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    receive_buffer_errors: u64,
    throttled: u64,
}

impl Starvation {
    /// Reads the counters, and returns whether one has grown since the last reading.
    pub(super) fn has_grown(&mut self) -> bool {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let receive_buffer_errors = parse_receive_buffer_errors(&read(SNMP)).unwrap_or_default();
        let throttled = CPU_STATS.iter().find_map(|path| parse_throttled(&read(path))).unwrap_or_default();
        self.update(Counters { receive_buffer_errors, throttled })
    }

    fn update(&mut self, counters: Counters) -> bool {
        self.0.replace(counters).is_some_and(|before| {
            counters.receive_buffer_errors > before.receive_buffer_errors || counters.throttled > before.throttled
        })
    }
}

/// Returns `RcvbufErrors` of UDP in a `/proc/net/snmp`.
fn parse_receive_buffer_errors(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let index = names.split(' ').position(|name| name == "RcvbufErrors")?;
    values.split(' ').nth(index)?.parse().ok()
}

/// Returns how often a cgroup was throttled, by its `cpu.stat`.
fn parse_throttled(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("nr_throttled "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_in_what_the_kernel_writes() {
        let snmp = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n\
                    Udp: 12 3 7 40 7 0\nUdpLite: InDatagrams\nUdpLite: 0\n";
        assert_eq!(parse_receive_buffer_errors(snmp), Some(7));
        let stat = "usage_usec 5\nnr_periods 9\nnr_throttled 4\nthrottled_usec 77\n";
        assert_eq!(parse_throttled(stat), Some(4));
        assert_eq!((parse_receive_buffer_errors(""), parse_throttled("usage_usec 5")), (None, None));
    }

    #[test]
    fn growth_since_the_last_reading_is_starvation_and_the_first_reading_is_none() {
        let counters = |receive_buffer_errors, throttled| Counters { receive_buffer_errors, throttled };
        let mut starvation = Starvation::default();
        let readings = [counters(7, 4), counters(7, 4), counters(8, 4), counters(8, 5), counters(8, 5)];
        assert_eq!(readings.map(|reading| starvation.update(reading)), [false, false, true, true, false]);
    }
}
