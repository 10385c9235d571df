//! What a server does for an answer, counted: instructions in user mode, and system calls. The machine's speed is no part
//! of it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::load::client::Client;
use crate::servers::hit_server::Server;

const QUESTIONS: usize = 20_000;
/// Until the counter has come to the server, and until it has told what it counted.
const ATTACH: Duration = Duration::from_millis(500);

/// System calls for each answer, counted by the kernel where they begin. Nothing where it cannot.
pub(crate) fn calls(server: &Server, client: &mut Client, folder: &Path) -> Option<f64> {
    let said = folder.join("calls");
    let mut counter = Command::new("perf")
        .args(["stat", "--field-separator=,", "--event=raw_syscalls:sys_enter", "--output"])
        .arg(&said)
        .args(["--pid", &server.process().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    sleep(ATTACH);
    let report = client.ask(QUESTIONS);
    kill_process(Pid::from_child(&counter), Signal::INT).ok()?;
    counter.wait().ok()?;
    let said = fs::read_to_string(said).ok()?;
    let counted = said.lines().find(|line| line.contains("raw_syscalls"))?.split(',').next()?.parse::<f64>().ok()?;
    Some(counted / report.answered as f64)
}

/// Instructions in user mode for each answer, counted by callgrind in a server that is started below it and warm. Nothing
/// where the server does not run there.
pub(crate) fn instructions(start: impl Fn(&[&str]) -> Server, names: usize, folder: &Path) -> Option<f64> {
    let counts = folder.join("counts");
    let file = format!("--callgrind-out-file={}", counts.display());
    let server = start(&["valgrind", "--tool=callgrind", "--instr-atstart=no", &file]);
    let mut client = Client::new(server.address, names);
    server.warm(&mut client, names)?;
    let process = server.process().to_string();
    let control = |arguments: &[&str]| {
        let output = Command::new("callgrind_control").args(arguments).arg(&process).output();
        output.is_ok_and(|output| output.status.success()).then_some(())
    };
    control(&["--instr=on"])?;
    client.ask(QUESTIONS / 10);
    control(&["--zero"])?;
    let report = client.ask(QUESTIONS);
    control(&["--dump"])?;
    sleep(ATTACH);
    let dumps = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let of_ours =
        dumps.filter(|path| path.to_str().is_some_and(|path| path.starts_with(counts.to_str().unwrap_or("-"))));
    let counted = of_ours.filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<f64>().ok())
    });
    let counted: f64 = counted.sum();
    (counted > 0.0).then(|| counted / report.answered as f64)
}
