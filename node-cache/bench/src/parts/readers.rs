//! Part `readers`: cost of several processes that read one socket, as the caches of a node do. Echoes are measured,
//! which share their sockets in three ways.

use std::fmt::Write as _;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use socket2::{Domain, Socket, Type};

use crate::host::loopback::free_address;
use crate::host::process::{cpu_time, voluntary_switches};
use crate::host::processors::{CLIENT_CPU, pin_current_thread, server_command};
use crate::report::output;
use crate::report::table::page_beginning;
use crate::servers::resolver::RESPONSE_LEN;
use crate::statistics::median;

/// Name of the part, and so of its files.
const PART: &str = "readers";
/// Datagrams per system call.
const BATCH: usize = 32;
/// Octets of a reader's buffer.
const BUFFER_LEN: usize = 2112;
/// Number of clients, each with a socket: enough for a hash to spread them evenly over sockets.
const CLIENTS: usize = 64;
/// Queries in flight of each client in the closed loop.
const WINDOW: usize = 2;
const QUERY: [u8; 57] = [0; 57];
/// Queries per second; `None` is the closed loop.
const RATES: [Option<u32>; 4] = [Some(1_000), Some(10_000), Some(50_000), None];
const READERS: [usize; 2] = [2, 4];
const TURNS: usize = 5;
const TURN: Duration = Duration::from_millis(1000);
/// Time after a turn in which responses still count.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time until all readers wait for datagrams.
const START_DELAY: Duration = Duration::from_millis(300);

/// How readers share sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// One socket; a datagram wakes all readers that wait.
    WakeAll,
    /// One socket; a datagram wakes one reader that waits (`EPOLLEXCLUSIVE`).
    WakeOne,
    /// A socket each, among which the kernel spreads clients by a hash (`SO_REUSEPORT`).
    ReusePort,
}

impl Sharing {
    const ALL: [Self; 3] = [Self::WakeAll, Self::WakeOne, Self::ReusePort];

    const fn label(self) -> &'static str {
        match self {
            Self::WakeAll => "one socket, all woken",
            Self::WakeOne => "one socket, one woken",
            Self::ReusePort => "a socket each",
        }
    }
}

/// Processes of readers. Dropping them kills them.
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
    /// Starts readers on the servers' processor, at an address.
    fn spawn(count: usize, sharing: Sharing, address: SocketAddr) -> Self {
        let shared = bind(address, sharing);
        let spawn = |_| {
            let socket =
                if sharing == Sharing::ReusePort { bind(address, sharing) } else { shared.try_clone().unwrap() };
            let flag = if sharing == Sharing::WakeOne { "exclusive" } else { "shared" };
            let program = std::env::current_exe().unwrap();
            let stdin = Stdio::from(OwnedFd::from(socket));
            server_command().arg(program).args(["read-socket", flag]).stdin(stdin).spawn().unwrap()
        };
        let children = (0..count).map(spawn).collect();
        // With a socket each, the kernel must not spread clients to this one, which no process reads.
        drop(shared);
        Self(children)
    }

    /// Returns nanoseconds of CPU time of all readers.
    fn cpu_time(&self) -> f64 {
        self.0.iter().map(|child| cpu_time(child.id())).sum()
    }

    /// Returns how often readers began to wait.
    fn waits(&self) -> f64 {
        self.0.iter().map(|child| voluntary_switches(child.id())).sum()
    }
}

fn bind(address: SocketAddr, sharing: Sharing) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(sharing == Sharing::ReusePort).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

/// Reads the socket that is the standard input, and answers, until the process is killed.
pub(crate) fn read_socket(is_exclusive: bool) -> ! {
    let socket = UdpSocket::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    socket.set_nonblocking(true).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let exclusive = if is_exclusive { epoll::EventFlags::EXCLUSIVE } else { epoll::EventFlags::empty() };
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET | exclusive;
    epoll::add(&epoll, &socket, epoll::EventData::new_u64(0), flags).unwrap();
    let mut events = Vec::with_capacity(8);
    let mut buffers = vec![[0_u8; BUFFER_LEN]; BATCH];
    let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        events.clear();
        let _ = epoll::wait(&epoll, spare_capacity(&mut events), None);
        while answer_batch(&socket, &mut buffers, &mut incoming, &mut outgoing) == BATCH {}
    }
}

/// Answers a batch of datagrams; returns its size.
fn answer_batch(
    socket: &UdpSocket,
    buffers: &mut [[u8; BUFFER_LEN]],
    incoming: &mut MultiHeaders<SockaddrIn>,
    outgoing: &mut MultiHeaders<SockaddrIn>,
) -> usize {
    let clients: Vec<Option<SockaddrIn>> = {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), incoming, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
            Ok(received) => received.map(|message| message.address).collect(),
            Err(_) => return 0,
        }
    };
    let slices: Vec<[IoSlice<'_>; 1]> = buffers.iter().map(|buffer| [IoSlice::new(&buffer[..RESPONSE_LEN])]).collect();
    let slices = slices.iter().take(clients.len());
    let _ = sendmmsg(socket.as_raw_fd(), outgoing, slices, &clients, [], MsgFlags::empty());
    clients.len()
}

/// Clients of one server, each with a socket of its own.
struct Clients {
    sockets: Vec<UdpSocket>,
    in_flight: Vec<usize>,
    answered: usize,
}

impl Clients {
    fn new(server: SocketAddr) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self { sockets: (0..CLIENTS).map(|_| socket()).collect(), in_flight: vec![0; CLIENTS], answered: 0 }
    }

    fn send(&mut self, client: usize) {
        if self.sockets[client].send(&QUERY).is_ok() {
            self.in_flight[client] += 1;
        }
    }

    fn receive(&mut self, client: usize) {
        let mut buffer = [0; 256];
        while self.in_flight[client] > 0 && self.sockets[client].recv(&mut buffer).is_ok() {
            self.in_flight[client] -= 1;
            self.answered += 1;
        }
    }

    /// Sends queries for one turn, at a rate or in a closed loop; returns how many were answered.
    fn take_turn(&mut self, rate: Option<u32>) -> usize {
        self.answered = 0;
        self.in_flight.fill(0);
        let started = Instant::now();
        match rate {
            Some(rate) => {
                let interval = Duration::from_secs(1) / rate;
                for number in 0..(f64::from(rate) * TURN.as_secs_f64()) as u32 {
                    let mut client = number as usize;
                    while started.elapsed() < interval * number {
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
                        (self.in_flight[client]..WINDOW).for_each(|_| self.send(client));
                    }
                }
            }
        }
        let deadline = Instant::now() + RESPONSE_TIMEOUT;
        while self.in_flight.iter().any(|count| *count > 0) && Instant::now() < deadline {
            (0..CLIENTS).for_each(|client| self.receive(client));
        }
        self.answered
    }
}

/// Row of the table. Times and waits are per response, medians of the turns.
struct Row {
    readers: usize,
    sharing: &'static str,
    rate: Option<u32>,
    cpu_ns: f64,
    waits: f64,
    /// Responses of a turn.
    answered: f64,
}

pub(crate) fn run() {
    pin_current_thread(CLIENT_CPU);
    let mut rows = Vec::new();
    for readers in READERS {
        for rate in RATES {
            rows.extend(measure(readers, rate));
        }
    }
    output::write(PART, "md", &page(&rows, &output::machine()));
    output::write(PART, "csv", &csv(&rows));
}

/// Readers with one way of sharing, and what was measured of them so far.
struct Measured {
    sharing: Sharing,
    readers: Readers,
    clients: Clients,
    cpu_ns: Vec<f64>,
    waits: Vec<f64>,
    answered: Vec<f64>,
}

/// Measures all ways of sharing, in turns.
fn measure(readers: usize, rate: Option<u32>) -> Vec<Row> {
    let mut all = Sharing::ALL.map(|sharing| {
        let address = free_address();
        Measured {
            sharing,
            readers: Readers::spawn(readers, sharing, address),
            clients: Clients::new(address),
            cpu_ns: Vec::new(),
            waits: Vec::new(),
            answered: Vec::new(),
        }
    });
    std::thread::sleep(START_DELAY);
    for _ in 0..TURNS {
        for measured in &mut all {
            let cpu_time = measured.readers.cpu_time();
            let waits = measured.readers.waits();
            let answered = measured.clients.take_turn(rate) as f64;
            measured.cpu_ns.push((measured.readers.cpu_time() - cpu_time) / answered);
            measured.waits.push((measured.readers.waits() - waits) / answered);
            measured.answered.push(answered);
        }
    }
    let row = |measured: &Measured| {
        let row = Row {
            readers,
            sharing: measured.sharing.label(),
            rate,
            cpu_ns: median(&measured.cpu_ns),
            waits: median(&measured.waits),
            answered: median(&measured.answered),
        };
        println!("{}", markdown_row(&row));
        row
    };
    all.iter().map(row).collect()
}

fn markdown_row(row: &Row) -> String {
    let Row { readers, sharing, rate, cpu_ns, waits, answered } = row;
    let rate = rate.map_or_else(|| "closed loop".into(), |rate| rate.to_string());
    let answered = answered / TURN.as_secs_f64();
    format!("| {readers:>7} | {rate:>13} | {sharing:<21} | {answered:>9.0} | {cpu_ns:>8.0} | {waits:>8.2} |")
}

pub(super) const TITLE: &str = "Cost of several processes that read one socket";

/// Returns how the figures were measured.
pub(super) fn method() -> String {
    format!(
        "Processes that only send {RESPONSE_LEN} octets back share the first processor, {CLIENTS} clients have\n\
         the second. `ns` is the CPU time of all readers per response, kernel included, `waits` how often one of them\n\
         began to wait per response; both are medians of {TURNS} turns of a second, in turns with the other ways of\n\
         sharing. In the closed loop each client has {WINDOW} queries in flight."
    )
}

fn page(rows: &[Row], machine: &str) -> String {
    let headings = ["readers", "queries/s", "sockets", "responses/s", "ns", "waits"];
    let mut page = page_beginning(TITLE, &method());
    let rule = " --- |".repeat(headings.len());
    write!(page, "\n\n{machine}\n\n| {} |\n|{rule}\n", headings.join(" | ")).unwrap();
    for row in rows {
        writeln!(page, "{}", markdown_row(row)).unwrap();
    }
    page
}

fn csv(rows: &[Row]) -> String {
    let mut csv = String::from(
        "readers,queries_per_second,sockets,responses_per_second,cpu_ns_per_response,waits_per_response\n",
    );
    for Row { readers, sharing, rate, cpu_ns, waits, answered } in rows {
        let rate = rate.map_or_else(String::new, |rate| rate.to_string());
        let answered = answered / TURN.as_secs_f64();
        writeln!(csv, "{readers},{rate},\"{sharing}\",{answered:.0},{cpu_ns:.0},{waits:.3}").unwrap();
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::{Row, csv, page};

    #[test]
    fn a_closed_loop_has_no_rate() {
        let row = |rate| Row {
            readers: 2,
            sharing: "a socket each",
            rate,
            cpu_ns: 1845.4,
            waits: 0.0041,
            answered: 537_030.0,
        };
        let rows = [row(Some(1000)), row(None)];
        let page = page(&rows, "Machine.");
        assert!(
            page.contains("|       2 |          1000 | a socket each         |    537030 |     1845 |     0.00 |\n")
        );
        let last = "|       2 |   closed loop | a socket each         |    537030 |     1845 |     0.00 |\n";
        assert!(page.ends_with(last));
        let lines = "2,1000,\"a socket each\",537030,1845,0.004\n2,,\"a socket each\",537030,1845,0.004\n";
        assert!(csv(&rows).ends_with(lines));
    }
}
