//! Workers: threads with a runtime of their own, each of which reads every socket and answers what it has read, hit or
//! miss, without handing it on. What they share is the resolver, and so its memory and the questions that are outstanding.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Shared, query_tasks, tcp, udp};
use crate::handover::{HeldSocket, Protocol};

/// How long a worker has to lay its sockets down before the process ends without it.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// A worker that does not read what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerFault {
    /// Its thread is gone.
    #[error("worker {0} has ended")]
    Ended(usize),
    /// It is stuck.
    #[error("worker {worker} did not react within {limit:?}")]
    Hung {
        /// Its number, from 0.
        worker: usize,
        /// How long it had.
        limit: Duration,
    },
    /// It reacts, but a socket is not read.
    #[error("worker {worker} does not read {protocol:?} at {address}")]
    Socket {
        /// Its number, from 0.
        worker: usize,
        /// Where the socket is bound.
        address: IpAddr,
        /// What it carries.
        protocol: Protocol,
    },
}

/// The workers of a process. They end when this is dropped.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

impl Workers {
    pub(super) fn start(
        number: usize,
        shared: &Arc<Shared>,
        sockets: &watch::Receiver<Vec<HeldSocket>>,
    ) -> io::Result<Self> {
        let start = |number| Worker::start(number, shared.clone(), sockets.clone());
        Ok(Self((0..number.max(1)).map(start).collect::<io::Result<_>>()?))
    }

    /// Whether every worker reads every socket. Each has `limit` to say so.
    ///
    /// # Errors
    ///
    /// [`WorkerFault`] tells of the first that does not.
    pub async fn all_read(&self, limit: Duration) -> Result<(), WorkerFault> {
        join_all(self.0.iter().map(|worker| worker.reads(limit))).await.into_iter().collect()
    }

    /// Datagrams that each has read so far.
    #[must_use]
    pub fn datagrams(&self) -> Vec<u64> {
        self.0.iter().map(|worker| worker.datagrams.load(Ordering::Relaxed)).collect()
    }

    /// Has all of them lay their sockets down. A batch that one of them is at is answered before it does. What is in work goes on.
    pub(super) async fn rest(&self) {
        join_all(self.0.iter().map(|worker| worker.ask(Command::StopReading, REST_LIMIT))).await;
    }
}

#[derive(Debug)]
struct Worker {
    number: usize,
    words: mpsc::Sender<Command>,
    datagrams: Arc<AtomicU64>,
}

/// What is said to a worker.
enum Command {
    /// Say which socket is not read.
    ReportUnread(oneshot::Sender<Option<HeldSocket>>),
    /// Read no more.
    StopReading(oneshot::Sender<()>),
    /// Do this.
    #[cfg(test)]
    Do(Box<dyn FnOnce() + Send>),
}

impl Worker {
    fn start(number: usize, shared: Arc<Shared>, sockets: watch::Receiver<Vec<HeldSocket>>) -> io::Result<Self> {
        // Where there is always something to do, sockets would else be looked at after 61 tasks. After each one they would be looked
        // at once more before the thread goes to sleep, which looks as well.
        let runtime = Builder::new_current_thread().event_interval(2).enable_all().build()?;
        let (words, heard) = mpsc::channel(8);
        let datagrams = Arc::<AtomicU64>::default();
        let reading = Reading { shared, datagrams: datagrams.clone(), wanted: Vec::new(), loops: Vec::new() };
        let name = format!("worker-{number}");
        std::thread::Builder::new().name(name).spawn(move || live(&runtime, reading, sockets, heard))?;
        Ok(Self { number, words, datagrams })
    }

    async fn reads(&self, limit: Duration) -> Result<(), WorkerFault> {
        let worker = self.number;
        let told = self.ask(Command::ReportUnread, limit).await;
        match told.ok_or(WorkerFault::Hung { worker, limit })?.ok_or(WorkerFault::Ended(worker))? {
            None => Ok(()),
            Some(HeldSocket { address, protocol, .. }) => Err(WorkerFault::Socket { worker, address, protocol }),
        }
    }

    /// Its reply; none within the limit, or `Some(None)` when there is nobody to give one.
    async fn ask<T>(&self, word: impl FnOnce(oneshot::Sender<T>) -> Command, limit: Duration) -> Option<Option<T>> {
        let (reply, replied) = oneshot::channel();
        let asked = async {
            self.words.send(word(reply)).await.ok()?;
            replied.await.ok()
        };
        timeout(limit, asked).await.ok()
    }
}

/// All that a worker's thread does. The benchmark counts the instructions of this function, by its name.
#[inline(never)]
fn live(
    runtime: &Runtime,
    reading: Reading,
    sockets: watch::Receiver<Vec<HeldSocket>>,
    heard: mpsc::Receiver<Command>,
) {
    runtime.block_on(async {
        tokio::spawn(query_tasks::run());
        reading.follow(sockets, heard).await;
    });
}

/// What a worker does.
struct Reading {
    shared: Arc<Shared>,
    datagrams: Arc<AtomicU64>,
    wanted: Vec<HeldSocket>,
    loops: Vec<(HeldSocket, Loop)>,
}

impl Reading {
    /// Keeps one loop for each socket until nobody can say anything any more.
    async fn follow(mut self, mut sockets: watch::Receiver<Vec<HeldSocket>>, mut heard: mpsc::Receiver<Command>) {
        self.read(sockets.borrow_and_update().clone());
        let mut changes = true;
        loop {
            tokio::select! {
                // Whoever asks hears of the set as it was when he asked.
                biased;
                changed = sockets.changed(), if changes => match changed {
                    Ok(()) => self.read(sockets.borrow_and_update().clone()),
                    // Nobody will change the set any more; it stays as it is.
                    Err(_) => changes = false,
                },
                word = heard.recv() => match word {
                    // Whoever asked may have given up, here and below.
                    Some(Command::ReportUnread(reply)) => {
                        let _ = reply.send(self.unread());
                    }
                    Some(Command::StopReading(reply)) => {
                        changes = false;
                        self.read(Vec::new());
                        let _ = reply.send(());
                    }
                    #[cfg(test)]
                    Some(Command::Do(work)) => work(),
                    None => return,
                },
            }
        }
    }

    /// Reads these sockets and no others.
    fn read(&mut self, wanted: Vec<HeldSocket>) {
        let is_wanted = |held: &HeldSocket| wanted.iter().any(|socket| Arc::ptr_eq(&socket.fd, &held.fd));
        self.loops.retain(|(held, running)| is_wanted(held) && !running.0.is_finished());
        for socket in &wanted {
            if self.is_read(socket) {
                continue;
            }
            match self.start(socket) {
                Ok(running) => self.loops.push((socket.clone(), running)),
                Err(error) => tracing::error!("{} {:?}: {error}", socket.address, socket.protocol),
            }
        }
        self.wanted = wanted;
    }

    fn start(&self, socket: &HeldSocket) -> io::Result<Loop> {
        let fd = socket.fd.try_clone()?;
        let shared = self.shared.clone();
        let task = match socket.protocol {
            Protocol::Udp => {
                let socket = std::net::UdpSocket::from(fd);
                socket.set_nonblocking(true)?;
                tokio::spawn(udp::serve(shared, udp::watch(Arc::new(socket))?, self.datagrams.clone()))
            }
            Protocol::Tcp => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                tokio::spawn(tcp::serve(shared, tokio::net::TcpListener::from_std(listener)?))
            }
        };
        Ok(Loop(task))
    }

    /// A socket that should be read and is not.
    fn unread(&self) -> Option<HeldSocket> {
        self.wanted.iter().find(|socket| !self.is_read(socket)).cloned()
    }

    fn is_read(&self, socket: &HeldSocket) -> bool {
        self.loops.iter().any(|(held, running)| Arc::ptr_eq(&held.fd, &socket.fd) && !running.0.is_finished())
    }
}

/// The loop of one socket, until it is dropped.
#[derive(Debug)]
struct Loop(JoinHandle<()>);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
