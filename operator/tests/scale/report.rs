//! Pages of the measurement in `docs/benchmarks`: a CSV with a row for each cluster, a table and a picture.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::figures::{FIGURES, Row, from_csv, to_csv};
use crate::picture;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");
const METHOD: &str = "\
Written by `make bench-scale`. One operator with the flags of the chart keeps one tier on a cluster of three zones.
etcd, the API server, the controllers for workloads and the scheduler are real; they, the operator, the test and
[kwok](https://kwok.sigs.k8s.io) share one machine, so that times include the work of a whole control plane on it.
kwok makes nodes Ready and pods run. It gives every node pod the address of its node, each another one of
127.0.0.0/8, and there the test answers `/status` (two caches with twenty upstreams each) and `/probe`; a revision is
in force 0.2 to 2 s after a pod was told. No network is between them: what is not shown is the latency of a real API
server and of real pods.

The course: the tier is created and rolled out. The operator is ended with SIGTERM, another one starts, and is left
alone once it has asked for nothing for ten seconds and two rounds of polls. A change (`nodeCache.cache.maxTtl`, which
nodes alone read) goes to one canary in each zone; the roll-out is paused there, and no pod of one zone answers for a
minute. Another change goes to all nodes with `soak: 5s`, and the default of 10 % a wave. In the end another operator
stands by for half a minute, and the leader ends with SIGTERM; then the next one is killed beside another standby.

Requests are those of the operator's user in the API server's audit log, all of the time that the operators ran;
octets those of its encrypted connections. *In any second*: in the second with the most, wherever it begins, and
counted where requests arrive. On a machine that is too busy, some that left one after the other arrive together.
The API server ends a watch after five minutes, and the operator starts it again where it was: these requests count
apart.";

/// Writes the pages with a new row, in place of an earlier one with as many nodes.
pub(crate) fn write(row: Row) {
    let mut rows = from_csv(&fs::read_to_string(path("csv")).unwrap_or_default());
    rows.retain(|other| other.nodes != row.nodes);
    rows.push(row);
    rows.sort_by_key(|row| row.nodes);
    fs::write(path("csv"), to_csv(&rows)).unwrap();
    // As the page is read: what the CSV says.
    let rows = from_csv(&to_csv(&rows));
    fs::write(path("svg"), picture::svg(&rows)).unwrap();
    fs::write(path("md"), page(&machine(), &rows)).unwrap();
}

fn path(extension: &str) -> std::path::PathBuf {
    Path::new(FOLDER).join(format!("scale.{extension}"))
}

/// Describes the machine: number and model of its processors, how busy they were, release of its kernel.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(2).unwrap_or_default();
    let model = model.unwrap_or("unknown");
    format!("Processors: {count}, {model}; load average of the last 15 minutes: {load}. Kernel: {}.", kernel.trim())
}

fn page(machine: &str, rows: &[Row]) -> String {
    let mut page = format!("# The operator and the number of nodes\n\n{METHOD}\n\n{machine}\n\n");
    page += "![Bars: memory, times, processor and writes for each number of nodes, with their limits](scale.svg)\n\n";
    let failures: Vec<String> = rows.iter().flat_map(Row::exceeded).collect();
    let missing: Vec<String> = rows.iter().flat_map(Row::missing).collect();
    if failures.is_empty() {
        page += "Every figure that was measured is within its limit.\n\n";
    }
    failures.iter().for_each(|failure| writeln!(page, "* **missed**: {failure}\n").unwrap());
    missing.iter().for_each(|missing| writeln!(page, "* **not measured**: {missing}\n").unwrap());
    page += "| nodes | limit |";
    rows.iter().for_each(|row| write!(page, " {} |", row.nodes).unwrap());
    page += "\n| --- | ---: |";
    rows.iter().for_each(|_| page += " ---: |");
    page.push('\n');
    for figure in FIGURES {
        let limit = figure.limit.map_or_else(String::new, |limit| format!("{limit}"));
        write!(page, "| {} | {limit} |", figure.text).unwrap();
        for row in rows {
            let value = row.get(figure.key).map(|value| format!("{value:.*}", figure.digits));
            write!(page, " {} |", value.unwrap_or_default()).unwrap();
        }
        page.push('\n');
    }
    page
}

#[test]
fn a_figure_above_its_limit_is_told_first() {
    let mut row = Row::new(100);
    FIGURES.iter().for_each(|figure| row.set(figure.key, 0.0));
    assert!(page("", std::slice::from_ref(&row)).contains("Every figure that was measured is within its limit."));
    row.set("planned_s", 11.0);
    let page = page("", &[row]);
    assert!(page.contains("* **missed**: 100 nodes: change of the spec until its roll-out is recorded"), "{page}");
    assert!(page.contains("recorded (s) | 10 | 11.0 |"), "{page}");
}
