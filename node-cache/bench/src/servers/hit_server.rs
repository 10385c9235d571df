//! A server that runs alone on the first processor, and what its process takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::client::{Client, Report};
use crate::report::hits::page::{OURS, WAITING_ECHO};
use crate::servers::peers::Peer;

/// How long a server has to learn all names.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server, until it is dropped.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// One of our own: `engine` with this many names in memory, `upstream` with as many, `echo` or `echo-with-epoll` of
    /// this many octets.
    pub(crate) fn ours(which: &str, number: usize) -> Self {
        Self::ours_under(&[], which, number)
    }

    /// The same below a program that runs it, such as a tracer.
    pub(crate) fn ours_under(runner: &[&str], which: &str, number: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = on_the_first_processor()
            .args(runner)
            .arg(program)
            .args(["serve", which, &number.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let address = address(&port);
        let name = match which {
            "engine" => OURS,
            "echo-with-epoll" => WAITING_ECHO,
            which => which,
        };
        Self { name: name.into(), version: env!("CARGO_PKG_VERSION").into(), address, child }
    }

    /// Somebody else's, whose files lie in this folder.
    pub(crate) fn peer(peer: &Peer, folder: &Path, upstream: SocketAddr) -> Self {
        let address = free();
        let child = peer.start(folder, address, upstream);
        Self { name: peer.name.into(), version: peer.version(), address, child }
    }

    /// The same below a program that runs it.
    pub(crate) fn peer_under(runner: &[&str], peer: &Peer, folder: &Path, upstream: SocketAddr) -> Self {
        let address = free();
        let child = peer.start_under(runner, folder, address, upstream);
        Self { name: peer.name.into(), version: String::new(), address, child }
    }

    /// The process. A runner that becomes the program, as all do here, is the same one.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds for which all its threads have run; what the hypervisor took is not among them. Of a thread that runs just
    /// now up to a tick is missing, so it has to be idle.
    pub(crate) fn processor_time(&self) -> f64 {
        processor_time(self.process())
    }

    /// Ticks that it has run in user mode and in the kernel.
    pub(crate) fn ticks(&self) -> (f64, f64) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap();
        // Behind the name, which is in brackets and may hold anything, come the fields from the third on (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse().unwrap(), fields[12].parse().unwrap())
    }

    /// Asks for everything until it is in memory, which a resolver that forwards has to learn first: all but one in ten
    /// thousand, for which there may be no place. Gives the octets of an answer; nothing where the server ends or does not come to
    /// know the names.
    pub(crate) fn warm(&self, client: &mut Client, names: usize) -> Option<usize> {
        let deadline = Instant::now() + PATIENCE;
        let knows = |report: Report| report.answered * 10_000 >= report.sent * 9_999;
        while Instant::now() < deadline && self.runs() {
            let report = client.ask(names);
            // Once more: some learn behind the answer.
            if knows(report) && knows(client.ask(names.min(10_000))) {
                return Some(report.length);
            }
            if report.answered == 0 {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        None
    }

    /// Whether it has not ended: one that has is a zombie, whose state stands behind its name (proc(5)).
    fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }
}

/// A program that is named next runs on the first processor alone, and ends with this one, however that ends.
pub(crate) fn on_the_first_processor() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", "0"]);
    command
}

/// Nanoseconds for which all threads of a process have run.
pub(crate) fn processor_time(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let times = tasks.flatten().filter_map(|task| {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    });
    times.sum()
}

/// Where a child of ours answers that has told its port.
pub(crate) fn address(port: &str) -> SocketAddr {
    format!("127.0.0.1:{}", port.trim()).parse().unwrap()
}

/// An address that nobody has.
fn free() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
