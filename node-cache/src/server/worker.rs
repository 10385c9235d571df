//! Workers: threads with a runtime of their own. Each worker reads every socket and answers what it reads itself, hit
//! or miss. Workers share the resolver, and with it the cache and the upstream queries in flight.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use node_cache_config::figures::AddressQueries;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time;

use super::address_counts::AddressCounts;
use super::shared::Shared;
use super::worker_context::WorkerContext;
use super::{tcp, udp};
use crate::handover::{HeldSocket, Protocol};

/// Time in which a worker stops reading, before the process ends without it.
const STOP_READING_TIMEOUT: Duration = Duration::from_secs(1);

/// Fault of a worker that does not read every socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerFault {
    /// The worker's thread has ended.
    #[error("worker {0} has ended")]
    Ended(usize),
    /// The worker's thread hangs.
    #[error("worker {worker} did not react within {timeout:?}")]
    Hung {
        /// Index of the worker, from 0.
        worker: usize,
        /// Time in which it did not react.
        timeout: Duration,
    },
    /// The worker reacts, but does not read a socket.
    #[error("worker {worker} does not read {protocol:?} at {address}")]
    Socket {
        /// Index of the worker, from 0.
        worker: usize,
        /// Address of the socket.
        address: IpAddr,
        /// Protocol of the socket.
        protocol: Protocol,
    },
}

/// The workers of a process. Dropping it ends them.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    shared: Arc<Shared>,
    sockets: watch::Receiver<Vec<HeldSocket>>,
}

impl Workers {
    pub(super) fn start(
        count: usize,
        shared: &Arc<Shared>,
        sockets: &watch::Receiver<Vec<HeldSocket>>,
    ) -> io::Result<Self> {
        let start = |index| Worker::start(index, shared.clone(), sockets.clone());
        let threads = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, shared: shared.clone(), sockets: sockets.clone() })
    }

    /// Checks that every worker reads every socket. Each has `timeout` to report.
    ///
    /// # Errors
    ///
    /// [`WorkerFault`] of the first worker that does not.
    pub async fn check_readers(&self, timeout: Duration) -> Result<(), WorkerFault> {
        join_all(self.threads.iter().map(|worker| worker.check_readers(timeout))).await.into_iter().collect()
    }

    /// Returns the number of datagrams that each worker has read.
    #[must_use]
    pub fn datagrams(&self) -> Vec<u64> {
        self.threads.iter().map(|worker| worker.datagrams.total()).collect()
    }

    /// Returns the number of queries by local address, dropped ones included, without those of class CH: those are
    /// health checks. Addresses that no socket is bound to any more are left out.
    #[must_use]
    pub fn queries_by_address(&self) -> Vec<AddressQueries> {
        let bound: Vec<IpAddr> = self.sockets.borrow().iter().map(|socket| socket.address).collect();
        let is_bound = |address: &IpAddr| bound.iter().any(|bound| bound.is_unspecified() || bound == address);
        let mut sums = BTreeMap::new();
        self.threads.iter().for_each(|worker| worker.datagrams.add_to(&mut sums));
        self.shared.tcp_queries.add_to(&mut sums);
        let mut health_checks = BTreeMap::new();
        self.shared.health_checks.add_to(&mut health_checks);
        let without_checks = |(address, count): (IpAddr, u64)| AddressQueries {
            address,
            queries: count.saturating_sub(health_checks.get(&address).copied().unwrap_or_default()),
        };
        sums.into_iter().filter(|(address, _)| is_bound(address)).map(without_checks).collect()
    }

    /// Stops reading on all workers; queries already read are still answered.
    pub(super) async fn stop_reading(&self) {
        join_all(self.threads.iter().map(|worker| worker.request(Command::StopReading, STOP_READING_TIMEOUT))).await;
    }
}

#[derive(Debug)]
struct Worker {
    index: usize,
    commands: mpsc::Sender<Command>,
    datagrams: Arc<AddressCounts>,
}

/// Command to a worker, with the channel for its reply.
enum Command {
    /// Report a socket that is not read, if there is one.
    ReportUnread(oneshot::Sender<Option<HeldSocket>>),
    /// Stop reading all sockets.
    StopReading(oneshot::Sender<()>),
    /// Run a function in the worker's thread.
    #[cfg(test)]
    Run(Box<dyn FnOnce() + Send>),
}

/// Reply of a worker to a [`Command`].
enum Reply<T> {
    Received(T),
    WorkerEnded,
    TimedOut,
}

impl Worker {
    fn start(index: usize, shared: Arc<Shared>, sockets: watch::Receiver<Vec<HeldSocket>>) -> io::Result<Self> {
        // Under constant load the runtime would look at sockets only after 61 tasks. With an interval of 1 it would
        // look once more after the last task, just before the thread sleeps, which looks at them as well.
        let runtime = Builder::new_current_thread().event_interval(2).enable_all().build()?;
        let (commands, received_commands) = mpsc::channel(8);
        let datagrams = Arc::<AddressCounts>::default();
        let readers = SocketReaders {
            worker: index,
            shared,
            datagrams: datagrams.clone(),
            sockets: Vec::new(),
            readers: Vec::new(),
        };
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || worker_main(&runtime, readers, sockets, received_commands))?;
        Ok(Self { index, commands, datagrams })
    }

    async fn check_readers(&self, timeout: Duration) -> Result<(), WorkerFault> {
        let worker = self.index;
        match self.request(Command::ReportUnread, timeout).await {
            Reply::Received(None) => Ok(()),
            Reply::Received(Some(HeldSocket { address, protocol, .. })) => {
                Err(WorkerFault::Socket { worker, address, protocol })
            }
            Reply::WorkerEnded => Err(WorkerFault::Ended(worker)),
            Reply::TimedOut => Err(WorkerFault::Hung { worker, timeout }),
        }
    }

    /// Sends a command and waits for the reply.
    async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command, timeout: Duration) -> Reply<T> {
        let (reply, received_reply) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.ok()?;
            received_reply.await.ok()
        };
        match time::timeout(timeout, exchange).await {
            Ok(Some(reply)) => Reply::Received(reply),
            Ok(None) => Reply::WorkerEnded,
            Err(_) => Reply::TimedOut,
        }
    }
}

/// Main function of a worker's thread. The benchmark counts its instructions, by its name.
#[inline(never)]
fn worker_main(
    runtime: &Runtime,
    readers: SocketReaders,
    sockets: watch::Receiver<Vec<HeldSocket>>,
    commands: mpsc::Receiver<Command>,
) {
    runtime.block_on(async {
        let _context = WorkerContext::start();
        readers.run(sockets, commands).await;
    });
}

/// The sockets of a worker, with one reader task for each.
struct SocketReaders {
    /// Index of the worker.
    worker: usize,
    shared: Arc<Shared>,
    datagrams: Arc<AddressCounts>,
    /// Sockets that the worker should read.
    sockets: Vec<HeldSocket>,
    readers: Vec<(HeldSocket, ReaderTask)>,
}

impl SocketReaders {
    /// Follows the set of sockets and obeys commands, until [`Workers`] is dropped.
    async fn run(mut self, mut sockets: watch::Receiver<Vec<HeldSocket>>, mut commands: mpsc::Receiver<Command>) {
        self.set_sockets(sockets.borrow_and_update().clone());
        let mut follows_changes = true;
        loop {
            tokio::select! {
                // A command sees every change of the set that was made before it.
                biased;
                changed = sockets.changed(), if follows_changes => match changed {
                    Ok(()) => self.set_sockets(sockets.borrow_and_update().clone()),
                    // The sender is gone: the set stays as it is.
                    Err(_) => follows_changes = false,
                },
                command = commands.recv() => match command {
                    // The receiver of a reply may have given up, here and below.
                    Some(Command::ReportUnread(reply)) => {
                        let _ = reply.send(self.first_unread());
                    }
                    Some(Command::StopReading(reply)) => {
                        follows_changes = false;
                        self.set_sockets(Vec::new());
                        let _ = reply.send(());
                    }
                    #[cfg(test)]
                    Some(Command::Run(function)) => function(),
                    None => return,
                },
            }
        }
    }

    /// Reads these sockets and no others.
    fn set_sockets(&mut self, sockets: Vec<HeldSocket>) {
        let is_in_set = |held: &HeldSocket| sockets.iter().any(|socket| Arc::ptr_eq(&socket.fd, &held.fd));
        self.readers.retain(|(held, reader)| is_in_set(held) && !reader.0.is_finished());
        for socket in &sockets {
            if self.is_read(socket) {
                continue;
            }
            match self.start_reader(socket) {
                Ok(reader) => self.readers.push((socket.clone(), reader)),
                Err(error) => self.log_unreadable(socket, &error),
            }
        }
        self.sockets = sockets;
    }

    fn start_reader(&self, socket: &HeldSocket) -> io::Result<ReaderTask> {
        let fd = socket.fd.try_clone()?;
        let shared = self.shared.clone();
        let task = match socket.protocol {
            Protocol::Udp => {
                let udp_socket = std::net::UdpSocket::from(fd);
                udp_socket.set_nonblocking(true)?;
                let serve = udp::serve(shared, udp::register(Arc::new(udp_socket))?, self.datagrams.of(socket.address));
                let worker = self.worker;
                let address = socket.address;
                tokio::spawn(async move {
                    if let Err(error) = serve.await {
                        tracing::error!(worker, %address, protocol = "UDP", %error, "cannot read a socket");
                    }
                })
            }
            Protocol::Tcp => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                tokio::spawn(tcp::serve(shared, tokio::net::TcpListener::from_std(listener)?))
            }
        };
        Ok(ReaderTask(task))
    }

    fn log_unreadable(&self, socket: &HeldSocket, error: &io::Error) {
        let HeldSocket { address, protocol, .. } = socket;
        tracing::error!(worker = self.worker, %address, ?protocol, %error, "cannot read a socket");
    }

    /// Returns a socket that should be read and is not.
    fn first_unread(&self) -> Option<HeldSocket> {
        self.sockets.iter().find(|socket| !self.is_read(socket)).cloned()
    }

    fn is_read(&self, socket: &HeldSocket) -> bool {
        self.readers.iter().any(|(held, reader)| Arc::ptr_eq(&held.fd, &socket.fd) && !reader.0.is_finished())
    }
}

/// Reader task of one socket. Dropping it ends the task.
#[derive(Debug)]
struct ReaderTask(JoinHandle<()>);

impl Drop for ReaderTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
