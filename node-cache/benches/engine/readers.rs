//! What it costs that several processes read one socket, as the caches of a node do: a bare echo, read in three ways.

use std::fmt::Write as _;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Socket, Type};

use crate::running::processor_time;
use crate::server::ANSWER;
use crate::statistics::median;
use crate::table::{FOLDER, machine};

const BATCH: usize = 32;
/// So that a hash spreads them evenly where each reader has a socket of its own.
const CLIENTS: usize = 64;
/// Questions under way for each client while as many are asked as can be answered.
const WINDOW: usize = 2;
const QUESTION: [u8; 57] = [0; 57];
/// Questions a second; none is as many as can be answered.
const RATES: [Option<u32>; 4] = [Some(1_000), Some(10_000), Some(50_000), None];
const READERS: [usize; 2] = [2, 4];
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(1000);

/// How the readers wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyTransport {
    /// All at one socket; a datagram wakes all that wait.
    All,
    /// All at one socket; a datagram wakes one that waits.
    Exclusive,
    /// Each at a socket of its own, among which the kernel spreads clients.
    Own,
}

const WAYS: [(ReplyTransport, &str); 3] = [
    (ReplyTransport::All, "one socket, all woken"),
    (ReplyTransport::Exclusive, "one socket, one woken"),
    (ReplyTransport::Own, "a socket each"),
];

/// Readers that run, until they are dropped.
struct Readers(Vec<Child>);

impl Drop for Readers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Readers {
    /// On the first processor, at this address.
    fn start(number: usize, way: ReplyTransport, address: SocketAddr) -> Self {
        let shared = bound(address, way);
        let start = |_| {
            let socket = if way == ReplyTransport::Own { bound(address, way) } else { shared.try_clone().unwrap() };
            let word = if way == ReplyTransport::Exclusive { "exclusive" } else { "plain" };
            let program = std::env::current_exe().unwrap();
            let mut command = Command::new("taskset");
            command.args(["-c", "0"]).arg(program).args(["reader", word]).stdin(Stdio::from(OwnedFd::from(socket)));
            command.spawn().unwrap()
        };
        let children = (0..number).map(start).collect();
        // One that nobody reads must not get a share of the clients.
        drop(shared);
        Self(children)
    }

    fn processor_time(&self) -> f64 {
        self.0.iter().map(|child| processor_time(child.id())).sum()
    }

    /// How often they have begun to wait.
    fn waits(&self) -> f64 {
        let waits = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<f64>().unwrap()
        };
        self.0.iter().map(waits).sum()
    }
}

fn bound(address: SocketAddr, way: ReplyTransport) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(way == ReplyTransport::Own).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

/// Reads the socket that is its standard input, until it is killed.
pub(crate) fn read(word: &str) {
    let socket = UdpSocket::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    socket.set_nonblocking(true).unwrap();
    let waiting = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let exclusive = if word == "exclusive" { epoll::EventFlags::EXCLUSIVE } else { epoll::EventFlags::empty() };
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET | exclusive;
    epoll::add(&waiting, &socket, epoll::EventData::new_u64(0), flags).unwrap();
    let mut events = Vec::with_capacity(8);
    let mut buffers = vec![[0_u8; 2112]; BATCH];
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        events.clear();
        let _ = epoll::wait(&waiting, spare_capacity(&mut events), None);
        while answer(&socket, &mut buffers, &mut incoming, &mut outgoing) == BATCH {}
    }
}

/// Answers a batch and gives its size.
fn answer(
    socket: &UdpSocket,
    buffers: &mut [[u8; 2112]],
    incoming: &mut MultiHeaders<SockaddrIn>,
    outgoing: &mut MultiHeaders<SockaddrIn>,
) -> usize {
    let senders: Vec<Option<SockaddrIn>> = {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
            Ok(received) => received.map(|message| message.address).collect(),
            Err(_) => return 0,
        }
    };
    let slices: Vec<[IoSlice<'_>; 1]> = buffers.iter().map(|buffer| [IoSlice::new(&buffer[..ANSWER])]).collect();
    let slices = slices.iter().take(senders.len());
    let _ = sendmmsg(socket.as_raw_fd(), outgoing, slices, &senders, [], MsgFlags::empty());
    senders.len()
}

/// Many clients in one.
struct Clients {
    sockets: Vec<UdpSocket>,
    under_way: Vec<usize>,
    answered: usize,
}

impl Clients {
    fn new(server: SocketAddr) -> Self {
        let client = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self { sockets: (0..CLIENTS).map(|_| client()).collect(), under_way: vec![0; CLIENTS], answered: 0 }
    }

    fn send(&mut self, client: usize) {
        if self.sockets[client].send(&QUESTION).is_ok() {
            self.under_way[client] += 1;
        }
    }

    fn receive(&mut self, client: usize) {
        let mut buffer = [0; 256];
        while self.under_way[client] > 0 && self.sockets[client].recv(&mut buffer).is_ok() {
            self.under_way[client] -= 1;
            self.answered += 1;
        }
    }

    /// Asks for a turn, whether answers come or not, or as fast as they come; gives how many came.
    fn ask(&mut self, rate: Option<u32>) -> usize {
        self.answered = 0;
        self.under_way.fill(0);
        let started = Instant::now();
        match rate {
            Some(rate) => {
                let pause = Duration::from_secs(1) / rate;
                for number in 0..(rate as f64 * TURN.as_secs_f64()) as u32 {
                    let mut client = number as usize;
                    while started.elapsed() < pause * number {
                        client += 1;
                        self.receive(client % CLIENTS);
                    }
                    self.send(number as usize % CLIENTS);
                }
            }
            None => {
                while started.elapsed() < TURN {
                    for client in 0..CLIENTS {
                        self.receive(client);
                        (self.under_way[client]..WINDOW).for_each(|_| self.send(client));
                    }
                }
            }
        }
        let patience = Instant::now() + Duration::from_millis(200);
        while self.under_way.iter().any(|number| *number > 0) && Instant::now() < patience {
            (0..CLIENTS).for_each(|client| self.receive(client));
        }
        self.answered
    }
}

/// A line of the table.
struct Line {
    readers: usize,
    way: &'static str,
    rate: Option<u32>,
    nanoseconds: f64,
    waits: f64,
    answered: f64,
}

pub(crate) fn run() {
    let mut second = CpuSet::new();
    second.set(1);
    sched_setaffinity(None, &second).expect("a second processor");
    let mut lines = Vec::new();
    for readers in READERS {
        for rate in RATES {
            lines.extend(measure(readers, rate));
        }
    }
    write(&lines);
}

/// Each way in turns with the others.
fn measure(readers: usize, rate: Option<u32>) -> Vec<Line> {
    let mut ways: Vec<_> = WAYS
        .into_iter()
        .map(|(way, name)| {
            let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let running = Readers::start(readers, way, address);
            (running, Clients::new(address), name, [const { Vec::new() }; 3])
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..TURNS {
        for (running, clients, _, figures) in &mut ways {
            let (time, waits) = (running.processor_time(), running.waits());
            let answered = clients.ask(rate) as f64;
            let figure = [(running.processor_time() - time) / answered, (running.waits() - waits) / answered, answered];
            figures.iter_mut().zip(figure).for_each(|(all, one)| all.push(one));
        }
    }
    let line = |(_, _, way, [time, waits, answered]): (Readers, Clients, _, [Vec<f64>; 3])| {
        let (nanoseconds, waits, answered) = (median(&time), median(&waits), median(&answered));
        let line = Line { readers, way, rate, nanoseconds, waits, answered };
        println!("{}", row(&line));
        line
    };
    ways.into_iter().map(line).collect()
}

fn shown(rate: Option<u32>) -> String {
    rate.map_or_else(|| "as many as go".into(), |rate| rate.to_string())
}

fn row(line: &Line) -> String {
    let Line { readers, way, rate, nanoseconds, waits, answered } = line;
    let (rate, answered) = (shown(*rate), answered / TURN.as_secs_f64());
    format!("| {readers:>7} | {rate:>13} | {way:<21} | {answered:>9.0} | {nanoseconds:>8.0} | {waits:>8.2} |")
}

fn write(lines: &[Line]) {
    fs::create_dir_all(FOLDER).unwrap();
    let heads = ["readers", "asked a second", "read", "answered a second", "ns", "waits"];
    let mut markdown = format!(
        "# What it costs that several processes read one socket\n\nWritten by `make bench`. Processes that only send back \
         {ANSWER} octets share the first processor, {CLIENTS} clients have the second. `ns` is the\nprocessor time of all \
         readers for each answer, kernel included, `waits` how often one of them began to wait for each answer; both are\n\
         medians of {TURNS} turns of a second, in turns with the other ways to read.\n\n{}\n\n| {} |\n|{}\n",
        machine(),
        heads.join(" | "),
        " --- |".repeat(heads.len())
    );
    let mut csv = String::from("readers,asked_per_second,way,answered_per_second,cpu_ns_per_answer,waits_per_answer\n");
    for line in lines {
        writeln!(markdown, "{}", row(line)).unwrap();
        let Line { readers, way, rate, nanoseconds, waits, answered } = line;
        let rate = rate.map_or_else(String::new, |rate| rate.to_string());
        let answered = answered / TURN.as_secs_f64();
        writeln!(csv, "{readers},{rate},\"{way}\",{answered:.0},{nanoseconds:.0},{waits:.3}").unwrap();
    }
    fs::write(Path::new(FOLDER).join("readers.md"), markdown).unwrap();
    fs::write(Path::new(FOLDER).join("readers.csv"), csv).unwrap();
}
