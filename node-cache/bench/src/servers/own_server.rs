//! Our own servers in child processes of this program: the resolver with a full cache, also as the upstream of all
//! peers, and the echoes.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::{Child, Stdio};

use super::{echo, resolver};
use crate::host::loopback::address_of_port;
use crate::host::processors::server_command;
use crate::report::labels::{ECHO, EPOLL_ECHO, OURS};
use crate::servers::process::ServerProcess;

/// Bytes of cache for each name and variant, more than an entry takes.
const CACHE_BYTES_PER_NAME: u64 = 400;
const MIN_CACHE_BYTES: u64 = 16 << 20;

/// Kind of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnServer {
    /// Resolver with this number of names in its cache.
    Resolver { names: usize },
    /// Resolver with this number of names, each also for queries with DO.
    Upstream { names: usize },
    /// Echo that blocks in the call that reads and sends this number of octets.
    Echo { octets: usize },
    /// Echo that waits by epoll and sends this number of octets.
    EpollEcho { octets: usize },
}

impl OwnServer {
    /// Returns the name in tables and charts.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Resolver { .. } => OURS,
            Self::Upstream { .. } => "upstream",
            Self::Echo { .. } => ECHO,
            Self::EpollEcho { .. } => EPOLL_ECHO,
        }
    }

    /// Starts the server on its processor, below a program that runs it, such as a tracer, where `runner` names one.
    pub(crate) fn spawn(self, runner: &[&str]) -> ServerProcess {
        let (kind, number) = self.arguments();
        spawn_program(runner, &["serve", kind, &number.to_string()])
    }

    /// Serves until the process is killed. Prints its port as the first line.
    pub(crate) fn run(self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        print_port(&socket);
        match self {
            Self::Echo { octets } => echo::serve_blocking(&socket, octets),
            Self::EpollEcho { octets } => echo::serve_with_epoll(&socket, octets),
            Self::Resolver { names } => serve_resolver(socket, names, 1),
            Self::Upstream { names } => serve_resolver(socket, names, 2),
        }
    }

    /// Reads a kind and its number of names or octets from arguments.
    pub(crate) fn from_arguments(kind: &str, number: &str) -> Option<Self> {
        let number = number.parse().ok()?;
        match kind {
            "resolver" => Some(Self::Resolver { names: number }),
            "upstream" => Some(Self::Upstream { names: number }),
            "echo" => Some(Self::Echo { octets: number }),
            "epoll-echo" => Some(Self::EpollEcho { octets: number }),
            _ => None,
        }
    }

    const fn arguments(self) -> (&'static str, usize) {
        match self {
            Self::Resolver { names } => ("resolver", names),
            Self::Upstream { names } => ("upstream", names),
            Self::Echo { octets } => ("echo", octets),
            Self::EpollEcho { octets } => ("epoll-echo", octets),
        }
    }
}

/// Starts this program on the servers' processor with arguments that make it print its port and serve.
pub(super) fn spawn_program(runner: &[&str], arguments: &[&str]) -> ServerProcess {
    let program = std::env::current_exe().unwrap();
    let mut child = server_command()
        .args(runner)
        .arg(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = address_of_port(&first_line(&mut child));
    ServerProcess { child, address, metrics: None }
}

/// Prints the port of a socket for the process that started this one.
pub(super) fn print_port(socket: &UdpSocket) {
    println!("{}", socket.local_addr().unwrap().port());
    std::io::stdout().flush().unwrap();
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line
}

fn serve_resolver(socket: UdpSocket, names: usize, variants: usize) {
    let cache_bytes = (CACHE_BYTES_PER_NAME * names as u64 * variants as u64).max(MIN_CACHE_BYTES);
    resolver::block_on(async {
        let _serving = resolver::serve(socket, resolver::create(names, variants, cache_bytes));
        std::future::pending::<()>().await;
    });
}

#[cfg(test)]
mod tests {
    use super::OwnServer;

    #[test]
    fn a_child_process_reads_the_kind_that_was_written() {
        let kinds = [
            OwnServer::Resolver { names: 1000 },
            OwnServer::Upstream { names: 1000 },
            OwnServer::Echo { octets: 118 },
            OwnServer::EpollEcho { octets: 118 },
        ];
        for kind in kinds {
            let (name, number) = kind.arguments();
            assert_eq!(OwnServer::from_arguments(name, &number.to_string()), Some(kind));
        }
        assert_eq!(OwnServer::from_arguments("engine", "1"), None);
        assert_eq!(OwnServer::from_arguments("echo", "many"), None);
    }
}
