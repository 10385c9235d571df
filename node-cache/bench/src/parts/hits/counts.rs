//! Counts per response: instructions in user mode, and system calls. They do not depend on the machine's speed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::load::hit_client::HitClient;
use crate::servers::hit_server::HitServer;

const QUERIES: usize = 20_000;
/// Time until `perf` has attached to the server, and until callgrind has written its counts.
const TOOL_DELAY: Duration = Duration::from_millis(500);

/// Returns system calls per response, counted by the kernel at their entry. `None` where the kernel cannot.
pub(super) fn system_calls(server: &HitServer, client: &mut HitClient, folder: &Path) -> Option<f64> {
    let file = folder.join("calls");
    let mut perf = Command::new("perf")
        .args(["stat", "--field-separator=,", "--event=raw_syscalls:sys_enter", "--output"])
        .arg(&file)
        .args(["--pid", &server.process.pid().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    sleep(TOOL_DELAY);
    let report = client.send_queries(QUERIES);
    kill_process(Pid::from_child(&perf), Signal::INT).ok()?;
    perf.wait().ok()?;
    let calls = parse_system_calls(&fs::read_to_string(file).ok()?)?;
    Some(calls / report.answered as f64)
}

/// Returns instructions in user mode per response, counted by callgrind in a warm server that `spawn` starts below it.
/// `None` where the server does not run under valgrind.
pub(super) fn instructions(spawn: impl Fn(&[&str]) -> HitServer, names: usize, folder: &Path) -> Option<f64> {
    let file = folder.join("counts");
    let option = format!("--callgrind-out-file={}", file.display());
    let server = spawn(&["valgrind", "--tool=callgrind", "--instr-atstart=no", &option]);
    let mut client = HitClient::new(server.address(), names);
    server.warm_up(&mut client, names)?;
    let pid = server.process.pid().to_string();
    let control = |option: &str| {
        let output = Command::new("callgrind_control").args([option, &pid]).output();
        output.is_ok_and(|output| output.status.success()).then_some(())
    };
    control("--instr=on")?;
    client.send_queries(QUERIES / 10);
    control("--zero")?;
    let report = client.send_queries(QUERIES);
    control("--dump")?;
    sleep(TOOL_DELAY);
    let files = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let dumps = files.filter(|path| path.to_str().is_some_and(|path| path.starts_with(file.to_str().unwrap_or("-"))));
    let total: f64 = dumps.filter_map(|path| parse_instructions(&fs::read_to_string(path).ok()?)).sum();
    (total > 0.0).then(|| total / report.answered as f64)
}

/// Reads the count from the output of `perf stat`, whose fields are separated by commas.
fn parse_system_calls(text: &str) -> Option<f64> {
    text.lines().find(|line| line.contains("raw_syscalls"))?.split(',').next()?.parse().ok()
}

/// Reads the total from a dump of callgrind.
fn parse_instructions(dump: &str) -> Option<f64> {
    dump.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{parse_instructions, parse_system_calls};

    #[test]
    fn counts_are_read_from_what_the_tools_write() {
        let perf = "# started on Tue\n\n1423,,raw_syscalls:sys_enter,1002003,100.00,,\n";
        assert_eq!(parse_system_calls(perf), Some(1423.0));
        assert_eq!(parse_system_calls("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse_instructions("version: 1\nfn=(1)\n0 5\n\ntotals: 13760000\n"), Some(13_760_000.0));
        assert_eq!(parse_instructions("version: 1\n"), None);
    }
}
