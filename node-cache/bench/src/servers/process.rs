//! Process of a server, which ends when it is dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Child;

use crate::host::process;

/// Running server. Dropping it kills the process and waits for its end.
pub(crate) struct ServerProcess {
    pub(crate) child: Child,
    /// Address at which it answers queries.
    pub(crate) address: SocketAddr,
    /// Address of its metrics, where it is a program of DnsTier.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ServerProcess {
    /// Returns the process ID. `setpriv`, `taskset` and the tracers that start a server become it, so the ID is the
    /// server's.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the nanoseconds for which all of its threads have run; see [`process::cpu_time`].
    pub(crate) fn cpu_time(&self) -> f64 {
        process::cpu_time(self.pid())
    }

    /// Returns its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        process::resident_bytes(self.pid())
    }

    /// Returns the largest resident memory that it ever had, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        process::peak_resident_bytes(self.pid())
    }

    /// Returns the value of a counter; `None` where it has no metrics.
    pub(crate) fn counter(&self, name: &str) -> Option<u64> {
        let mut connection = TcpStream::connect(self.metrics?).ok()?;
        connection.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        connection.read_to_string(&mut text).ok()?;
        text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
    }
}
