//! Result of one server.

use crate::report::labels::{ECHO, OURS};
use crate::statistics::Estimate;

/// Result of one server with one number of names. Times are nanoseconds of CPU time per response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) server: String,
    pub(crate) version: String,
    /// Names that were queried, all equally often.
    pub(crate) names: usize,
    /// CPU time of the server, kernel included.
    pub(crate) cpu_ns: f64,
    /// Part of it in user mode.
    pub(crate) user_ns: f64,
    /// CPU time of an echo with responses of equal length.
    pub(crate) echo_ns: f64,
    /// CPU time of the echo divided by that of the server.
    pub(crate) ratio: Estimate,
    /// Runs of the server's process.
    pub(crate) runs: usize,
    /// Turns that were dropped and repeated, because the hypervisor took processor time.
    pub(crate) dropped_turns: usize,
    /// Length of a response.
    pub(crate) octets: usize,
    /// Instructions in user mode per response, where they could be counted.
    pub(crate) instructions: Option<f64>,
    /// System calls per response, where they could be counted.
    pub(crate) system_calls: Option<f64>,
}

impl Row {
    /// Returns whether the server is neither DnsTier nor an echo.
    pub(crate) fn is_peer(&self) -> bool {
        self.server != OURS && !self.server.starts_with(ECHO)
    }
}

/// Returns DnsTier's row with this number of names.
pub(crate) fn ours(rows: &[Row], names: usize) -> Option<&Row> {
    rows.iter().find(|row| row.server == OURS && row.names == names)
}

/// Replaces the row of the same server with as many names, or inserts one behind all rows with as many or fewer names.
pub(crate) fn replace(rows: &mut Vec<Row>, row: Row) {
    match rows.iter_mut().find(|other| other.server == row.server && other.names == row.names) {
        Some(other) => *other = row,
        None => {
            let place = rows.iter().rposition(|other| other.names <= row.names).map_or(0, |last| last + 1);
            rows.insert(place, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, ours, replace};

    fn row(server: &str, names: usize, cpu_ns: f64) -> Row {
        Row { server: server.into(), names, cpu_ns, ..Row::default() }
    }

    #[test]
    fn a_new_result_takes_the_place_of_the_old_one() {
        let mut rows = vec![row("echo", 1000, 1.0), row("DnsTier", 1000, 2.0), row("DnsTier", 400_000, 3.0)];
        replace(&mut rows, row("DnsTier", 1000, 4.0));
        replace(&mut rows, row("unbound", 1000, 5.0));
        replace(&mut rows, row("unbound", 400_000, 6.0));
        let times: Vec<f64> = rows.iter().map(|row| row.cpu_ns).collect();
        assert_eq!(times, [1.0, 4.0, 5.0, 3.0, 6.0]);
        assert_eq!(ours(&rows, 400_000).map(|row| row.cpu_ns), Some(3.0));
    }

    #[test]
    fn echoes_and_dnstier_are_no_peers() {
        let peers = ["echo", "echo with epoll", "DnsTier", "dnsmasq"].map(|server| row(server, 1, 1.0).is_peer());
        assert_eq!(peers, [false, false, false, true]);
    }
}
