//! Packets of pods to captured addresses, counted by the rules where they arrive at the node and where they have passed
//! its packet filters.
//!
//! A packet filter of the host may drop what pods send to an address that answers every self-query. The counts cannot
//! tell such a fault from a policy that is meant for the pods that happen to send, and a pod may send what no filter
//! lets through: so they warn, and withdraw nothing.

/// Packets that must have arrived while none passed.
const PACKETS_BEFORE_WARNING: u64 = 10;
/// Checks with arrivals, in a row, in which none passed.
const CHECKS_BEFORE_WARNING: u32 = 3;
/// Checks without arrivals, in a row, after which earlier packets are forgotten.
const SILENT_CHECKS_BEFORE_RESET: u32 = 12;

/// Packets of one family since the rules were installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PodPackets {
    /// Packets that arrived at the node.
    pub(super) arrived: u64,
    /// Packets that passed the packet filters of the node.
    pub(super) passed: u64,
}

/// Recent packets of one family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PacketWatch {
    last: Option<PodPackets>,
    blocked_packets: u64,
    blocked_checks: u32,
    silent_checks: u32,
}

impl PacketWatch {
    /// Records the counts of one check.
    pub(super) fn record(&mut self, now: PodPackets) {
        let last = self.last.replace(now);
        // Replaced rules count from zero.
        let Some(last) = last.filter(|last| last.arrived <= now.arrived && last.passed <= now.passed) else { return };
        let arrived = now.arrived - last.arrived;
        self.silent_checks = if arrived > 0 { 0 } else { self.silent_checks.saturating_add(1) };
        if now.passed > last.passed || self.silent_checks >= SILENT_CHECKS_BEFORE_RESET {
            (self.blocked_packets, self.blocked_checks) = (0, 0);
        } else if arrived > 0 {
            self.blocked_packets = self.blocked_packets.saturating_add(arrived);
            self.blocked_checks = self.blocked_checks.saturating_add(1);
        }
    }

    /// Returns whether no packet passes although packets arrive.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_packets >= PACKETS_BEFORE_WARNING && self.blocked_checks >= CHECKS_BEFORE_WARNING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_blocked_after(counts: &[(u64, u64)]) -> bool {
        let mut watch = PacketWatch::default();
        for &(arrived, passed) in counts {
            watch.record(PodPackets { arrived, passed });
        }
        watch.is_blocked()
    }

    #[test]
    fn packets_that_arrive_and_never_pass_are_told() {
        assert!(is_blocked_after(&[(100, 90), (104, 90), (108, 90), (112, 90)]));
        assert!(is_blocked_after(&[(100, 90), (105, 90), (105, 90), (110, 90), (115, 90)]), "silence says nothing");
        let silence = [(115, 90); 12];
        assert!(!is_blocked_after(&[&[(100, 90), (105, 90), (110, 90), (115, 90)], &silence[..]].concat()), "for long");
        assert!(!is_blocked_after(&[(100, 90), (103, 90), (106, 90), (109, 90)]), "too few packets");
        assert!(!is_blocked_after(&[(100, 90), (150, 90), (200, 90)]), "too few checks");
    }

    #[test]
    fn one_packet_that_passes_clears_the_others() {
        let blocked = [(100, 90), (200, 90), (300, 90), (400, 90)];
        assert!(is_blocked_after(&blocked));
        assert!(!is_blocked_after(&[&blocked[..], &[(500, 91)]].concat()));
        assert!(!is_blocked_after(&[(100, 90), (200, 90), (300, 90), (400, 91), (500, 91), (600, 91)]));
    }

    #[test]
    fn rules_that_count_from_zero_block_nothing() {
        assert!(!is_blocked_after(&[(100, 90), (10, 0), (100, 90), (10, 0), (100, 90)]));
    }
}
