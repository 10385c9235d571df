//! A server that runs, and what the kernel tells of its process.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;

use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps the calling thread on one processor.
pub(crate) fn stay_on(processor: usize) {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).expect("a second processor");
}

/// Lets this process, and whatever it starts from now on, go before all others of the machine: what these disturb is not
/// what shall be measured.
pub(crate) fn go_first() {
    const PRIORITY: i32 = -15;
    if let Err(error) = setpriority_process(None, PRIORITY) {
        println!("others may disturb what is measured: {error}");
    }
}

/// A server, until it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    /// Where ours tells its counters.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Nanoseconds for which all of its threads have run.
    pub(crate) fn processor_time(&self) -> f64 {
        let of_thread = |folder: fs::DirEntry| {
            fs::read_to_string(folder.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
        };
        self.threads().filter_map(of_thread).sum()
    }

    /// Bytes of memory that it has now.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most bytes of memory that it ever had.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// Lets all of its threads run on one processor alone.
    pub(crate) fn move_to(&self, processor: usize) {
        let mut only = CpuSet::new();
        only.set(processor);
        for thread in self.threads() {
            let number = thread.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let _ = sched_setaffinity(number, &only);
        }
    }

    /// One of the counters of ours.
    pub(crate) fn counter(&self, name: &str) -> Option<u64> {
        let mut connection = TcpStream::connect(self.metrics?).ok()?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        connection.read_to_string(&mut text).ok()?;
        text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
    }

    fn threads(&self) -> impl Iterator<Item = fs::DirEntry> {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten()
    }

    fn status(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kibibytes = |line: &str| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
        1024 * text.lines().find_map(kibibytes).unwrap_or_default()
    }
}
