//! Files of results, and the machine that they were measured on.

use std::fs;
use std::path::Path;

/// Folder of all pages, CSV files and charts.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks");

/// Writes `docs/benchmarks/<part>.<extension>`.
pub(crate) fn write(part: &str, extension: &str, content: &str) {
    fs::create_dir_all(FOLDER).unwrap();
    fs::write(Path::new(FOLDER).join(format!("{part}.{extension}")), content).unwrap();
}

/// Reads `docs/benchmarks/<part>.<extension>`; empty where there is none.
pub(crate) fn read(part: &str, extension: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(format!("{part}.{extension}"))).unwrap_or_default()
}

/// Describes the machine: model of its processor, release of its kernel.
pub(crate) fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Processor: {}. Kernel: {}.", model.unwrap_or("unknown"), kernel.trim())
}
