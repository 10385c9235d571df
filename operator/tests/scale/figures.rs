//! Figures that are measured, with their limits.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Figure of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Name of its column.
    pub(crate) key: &'static str,
    /// Description with the unit.
    pub(crate) text: &'static str,
    /// Largest value that is allowed; `None` where the figure is only told.
    pub(crate) limit: Option<f64>,
    /// Number of digits after the point.
    pub(crate) digits: usize,
}

const fn limited(key: &'static str, text: &'static str, limit: f64, digits: usize) -> Figure {
    Figure { key, text, limit: Some(limit), digits }
}

const fn told(key: &'static str, text: &'static str, digits: usize) -> Figure {
    Figure { key, text, limit: None, digits }
}

/// All figures, in the order of the table.
pub(crate) const FIGURES: &[Figure] = &[
    limited("memory_peak_mib", "memory, at most (VmHWM, MiB)", 300.0, 0),
    told("memory_rest_mib", "memory at rest (MiB)", 0),
    limited("start_first_pass_s", "start until the end of the first pass, nothing there yet (s)", 15.0, 1),
    limited("restart_first_pass_s", "start until the end of the first pass, everything there (s)", 15.0, 1),
    told("first_round_s", "start with everything there until each pod was polled (s)", 0),
    told("install_s", "creation of the tier until it is Ready and rolled out (s)", 0),
    limited("planned_s", "change of the spec until its roll-out is recorded (s)", 10.0, 1),
    limited("canary_told_s", "change of the spec until the first canary is told (s)", 10.0, 1),
    told("canaries_s", "change of the spec until the canaries run it (s)", 1),
    told("wave_s", "first wave: its beginning until all of it runs the change (s)", 1),
    told("rollout_s", "whole roll-out, soak 5s, waves of 10 % (s)", 0),
    limited("writes_per_s", "API writes in any second, at most", 20.0, 0),
    limited("polls_per_s", "polls of `/status` in any second, at most", 100.0, 0),
    limited("canary_gap_s", "one zone dark: longest time between two answers of a canary elsewhere (s)", 3.0, 1),
    limited(
        "canary_age_s",
        "one zone dark for 7 s and longer: oldest figures of a canary, by the operator's metric (s)",
        3.0,
        1,
    ),
    limited("hand_over_s", "SIGTERM to the leader until the standby leads (s)", 2.0, 1),
    limited("take_over_s", "SIGKILL to the leader until the standby leads (s)", 20.0, 1),
    told("idle_s", "time at rest that was watched (s)", 0),
    limited("idle_requests", "requests at rest beside the Lease and renewed watches", 0.0, 0),
    told("idle_lease_per_min", "requests for the Lease at rest (a minute)", 0),
    told("idle_watches", "watches that were renewed at rest", 0),
    told("idle_polls_per_s", "polls at rest (a second)", 0),
    told("idle_cpu_percent", "processor at rest (% of one)", 1),
    told("idle_pass_ms", "one pass at rest (ms)", 1),
    told("idle_kb_per_min", "received from the API server at rest (kB a minute)", 0),
    told("restart_mb", "received from the API server in the minute after a start with everything there (MB)", 1),
    told("rollout_cpu_percent", "processor during the roll-out (% of one)", 1),
    told("rollout_mb", "received from the API server during the roll-out (MB)", 1),
    told("rollout_patch", "roll-out: requests `patch`", 0),
    told("rollout_update", "roll-out: requests `update`", 0),
    told("rollout_create", "roll-out: requests `create`", 0),
    told("rollout_get", "roll-out: requests `get`", 0),
    told("rollout_list", "roll-out: requests `list`", 0),
    told("rollout_watch", "roll-out: requests `watch`", 0),
];

/// Figures of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Number of its nodes.
    pub(crate) nodes: usize,
    values: BTreeMap<String, f64>,
}

impl Row {
    /// Builds the row of a cluster with this number of nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, values: BTreeMap::new() }
    }

    /// Sets a figure.
    pub(crate) fn set(&mut self, key: &str, value: f64) {
        assert!(FIGURES.iter().any(|figure| figure.key == key), "no figure {key}");
        self.values.insert(key.to_owned(), value);
    }

    /// Raises a figure to a value.
    pub(crate) fn raise(&mut self, key: &str, value: f64) {
        if self.get(key).is_none_or(|before| before < value) {
            self.set(key, value);
        }
    }

    /// Returns a figure; `None` when it was not measured.
    pub(crate) fn get(&self, key: &str) -> Option<f64> {
        self.values.get(key).copied()
    }

    /// Prints the figures.
    pub(crate) fn print(&self) {
        let figures = FIGURES.iter().filter_map(|figure| Some((figure, self.get(figure.key)?)));
        figures
            .for_each(|(figure, value)| eprintln!("{} nodes: {}: {value:.*}", self.nodes, figure.text, figure.digits));
    }

    /// Returns what is above its limit, one sentence each.
    pub(crate) fn exceeded(&self) -> Vec<String> {
        let measured = FIGURES.iter().filter_map(|figure| Some((figure, figure.limit?, self.get(figure.key)?)));
        let exceeded = measured.filter(|(_, limit, value)| value > limit);
        exceeded
            .map(|(figure, limit, value)| self.failure(figure, limit, &format!("{value:.*}", figure.digits)))
            .collect()
    }

    /// Returns what has a limit and was not measured, one sentence each.
    pub(crate) fn missing(&self) -> Vec<String> {
        let limited = FIGURES.iter().filter_map(|figure| Some((figure, figure.limit?)));
        let missing = limited.filter(|(figure, _)| self.get(figure.key).is_none());
        missing.map(|(figure, limit)| self.failure(figure, limit, "nothing")).collect()
    }

    /// Returns what is above its limit or was not measured, one sentence each.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.exceeded().into_iter().chain(self.missing()).collect()
    }

    fn failure(&self, figure: &Figure, limit: f64, value: &str) -> String {
        format!("{} nodes: {}: {value} instead of {limit} at most", self.nodes, figure.text)
    }
}

/// Writes rows as CSV.
pub(crate) fn to_csv(rows: &[Row]) -> String {
    let mut csv = String::from("nodes");
    FIGURES.iter().for_each(|figure| write!(csv, ",{}", figure.key).unwrap());
    csv.push('\n');
    for row in rows {
        write!(csv, "{}", row.nodes).unwrap();
        for figure in FIGURES {
            let value = row.get(figure.key).map(|value| format!("{value:.*}", figure.digits));
            write!(csv, ",{}", value.unwrap_or_default()).unwrap();
        }
        csv.push('\n');
    }
    csv
}

/// Reads the rows of a CSV. Columns of figures that there are no more are left out.
pub(crate) fn from_csv(csv: &str) -> Vec<Row> {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let row = |line: &str| {
        let mut cells = line.split(',');
        let nodes = cells.next()?.parse().ok()?;
        let known = |key: &str| FIGURES.iter().any(|figure| figure.key == key);
        let values = header.iter().skip(1).zip(cells).filter(|(key, _)| known(key));
        let values = values.filter_map(|(key, value)| Some(((*key).to_owned(), value.parse().ok()?))).collect();
        Some(Row { nodes, values })
    };
    lines.filter_map(row).collect()
}

#[test]
fn a_row_fails_with_what_is_above_its_limit_and_with_what_was_not_measured() {
    let mut row = Row::new(100);
    for figure in FIGURES {
        row.set(figure.key, figure.limit.unwrap_or(1.0));
    }
    assert_eq!(row.failures(), Vec::<String>::new());
    row.set("memory_peak_mib", 300.1);
    row.values.remove("planned_s");
    let failures = row.failures();
    assert_eq!(failures.len(), 2, "{failures:?}");
    row.raise("memory_peak_mib", 299.0);
    assert_eq!(row.get("memory_peak_mib"), Some(300.1));
}

#[test]
fn rows_survive_their_csv() {
    let mut row = Row::new(1_000);
    row.set("planned_s", 1.5);
    row.set("writes_per_s", 20.0);
    assert_eq!(from_csv(&to_csv(std::slice::from_ref(&row))), [row]);
}
