//! Process of unbound, a resolver of others.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::sleep;

/// Process of unbound that forwards; it is killed on drop, and when the test ends in another way.
pub(crate) struct Unbound {
    pub(crate) address: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Unbound {
    /// Starts an unbound on a free port of this address that forwards each of these domains to a server. When another
    /// program takes the port first, unbound ends, and is started on another one.
    pub(crate) async fn start(ip: IpAddr, forward: &[(&str, SocketAddr)]) -> Self {
        loop {
            let mut unbound = Self::spawn(ip, forward).await;
            if unbound.listens().await {
                return unbound;
            }
        }
    }

    /// Waits until the process listens; false when it has ended.
    async fn listens(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.process.try_wait().unwrap().is_none() {
            if TcpStream::connect(self.address).await.is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "unbound does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn spawn(ip: IpAddr, forward: &[(&str, SocketAddr)]) -> Self {
        let free = UdpSocket::bind((ip, 0)).await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("unbound.conf");
        let port = address.port();
        let mut text = format!(
            "server:\n interface: {ip}@{port}\n port: {port}\n do-not-query-localhost: no\n do-daemonize: no\n \
             access-control: ::1 allow\n local-zone: \"test.\" nodefault\n username: \"\"\n chroot: \"\"\n \
             directory: \"{folder}\"\n pidfile: \"\"\n use-syslog: no\n module-config: \"iterator\"\n num-threads: 1\n\
             remote-control:\n control-enable: no\n",
            folder = folder.path().display(),
        );
        for (domain, server) in forward {
            let (ip, port) = (server.ip(), server.port());
            writeln!(text, "forward-zone:\n name: \"{domain}\"\n forward-addr: {ip}@{port}").unwrap();
        }
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("setpriv");
        let command = command.args(["--pdeathsig", "KILL", "unbound", "-d", "-p", "-c"]).arg(&config);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { address, process, _folder: folder }
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
