//! Processor time of an answer from memory, in turns with a bare echo.

mod counts;
pub(crate) mod turns;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::load::client::Client;
use crate::parts::gate;
use crate::report::hits::page::{self as table, Row};
use crate::servers::hit_server::Server;
use crate::servers::peers::{PEERS, Peer};
use crate::servers::resolver::ANSWER;
use crate::statistics::{median, ratio};

use counts as count;

/// Names that are asked for, and how many lives of a server there are at least: to learn many names takes long.
const ROUNDS: [(usize, usize); 2] = [(1_000, 5), (400_000, 3)];
const MOST_LIVES: usize = 12;
/// After so long no further life begins.
const LONG: Duration = Duration::from_secs(30);
/// The half width of the 95 % interval of a ratio that is sure enough, as a share of it.
const WIDTH: f64 = 0.02;
/// Nanoseconds of the upstream for each answer, below which it is not the upstream that answers.
const UPSTREAM: f64 = 100.0;

/// Who is measured.
#[derive(Clone, Copy)]
enum Contestant {
    Ours(&'static str, usize),
    Peer(Peer),
}

impl Contestant {
    fn start(&self, runner: &[&str], folder: &Path, upstream: SocketAddr) -> Server {
        match self {
            Self::Ours(which, number) => Server::ours_under(runner, which, *number),
            Self::Peer(peer) if runner.is_empty() => Server::peer(peer, folder, upstream),
            Self::Peer(peer) => Server::peer_under(runner, peer, folder, upstream),
        }
    }
}

/// Measures all; or only those whose name begins so, or with only so many names, and keeps what was written of the others.
pub(crate) fn run(only: &[&str]) {
    let mut second = CpuSet::new();
    second.set(1);
    sched_setaffinity(None, &second).expect("a second processor");
    let (numbers, servers): (Vec<&str>, Vec<&str>) = only.iter().partition(|word| word.parse::<usize>().is_ok());
    let is_meant = |name: &str| servers.is_empty() || servers.iter().any(|server| name.starts_with(server));
    let are_meant = |names: usize| numbers.is_empty() || numbers.contains(&names.to_string().as_str());
    let mut rows = if only.is_empty() { Vec::new() } else { table::read() };
    let bytes = gate::bytes_of_an_entry();
    println!("{}", table::head());
    for (names, lives) in ROUNDS.into_iter().filter(|(names, _)| are_meant(*names)) {
        let upstream = Server::ours("upstream", names);
        for contestant in contestants(names, is_meant) {
            let Some(row) = measure(contestant, names, lives, &upstream) else { continue };
            println!("{}", table::line(&row));
            table::put(&mut rows, row);
            // What there is already, should somebody lose patience.
            table::write(&rows, bytes);
        }
    }
}

fn contestants(names: usize, is_meant: impl Fn(&str) -> bool) -> Vec<Contestant> {
    let mut contestants = Vec::new();
    if names == ROUNDS[0].0 && is_meant("echo") {
        contestants.extend([Contestant::Ours("echo", ANSWER), Contestant::Ours("echo-with-epoll", ANSWER)]);
    }
    if is_meant(table::OURS) {
        contestants.push(Contestant::Ours("engine", names));
    }
    for peer in PEERS.into_iter().filter(|peer| is_meant(peer.name)) {
        if !peer.is_installed() {
            println!("{:<32} is not installed", peer.name);
        } else if peer.most_names < names {
            println!("{:<32} keeps at most {} names", peer.name, peer.most_names);
        } else {
            contestants.push(Contestant::Peer(peer.with_room(names).for_those_names()));
        }
    }
    contestants
}

/// Measures a server, in as many lives as it takes, beside an echo of answers as long as its own that runs at the same time.
/// Nothing where it does not keep so many names.
fn measure(contestant: Contestant, names: usize, fewest: usize, upstream: &Server) -> Option<Row> {
    let folder = tempfile::tempdir().unwrap();
    let (mut row, mut lives, began) = (Row { names, ..Row::default() }, Vec::new(), Instant::now());
    let (mut user, mut kernel) = (0.0, 0.0);
    while lives.len() < fewest || (row.ratio.half_width > WIDTH && lives.len() < MOST_LIVES && began.elapsed() < LONG) {
        let server = contestant.start(&[], folder.path(), upstream.address);
        let mut client = Client::new(server.address, names);
        let Some(octets) = server.warm(&mut client, names) else {
            println!("{:<32} does not come to know {names} names", server.name);
            return None;
        };
        let echo = Server::ours("echo", octets);
        let mut echo_client = Client::new(echo.address, names);
        echo.warm(&mut echo_client, 1_000);
        let (before, asked) = (server.ticks(), upstream.processor_time());
        let life = turns::take((&echo, &mut echo_client), (&server, &mut client));
        let after = server.ticks();
        if (upstream.processor_time() - asked) / turns::ANSWERS as f64 > UPSTREAM {
            println!("{:<32} does not keep {names} names: it asks again", server.name);
            return None;
        }
        (user, kernel) = (user + after.0 - before.0, kernel + after.1 - before.1);
        row.dropped += life.dropped;
        lives.push(life);
        row.ratio = ratio(&lives.iter().map(|life| life.ratio).collect::<Vec<_>>());
        (row.name, row.version, row.octets) = (server.name.clone(), server.version.clone(), octets);
        if lives.len() == 1 {
            row.calls = count::calls(&server, &mut client, folder.path());
        }
    }
    row.lives = lives.len();
    row.nanoseconds = median(&lives.iter().map(|life| life.server).collect::<Vec<_>>());
    row.echo = median(&lives.iter().map(|life| life.echo).collect::<Vec<_>>());
    row.user = row.nanoseconds * user / (user + kernel).max(1.0);
    if names == ROUNDS[0].0 {
        let start = |runner: &[&str]| contestant.start(runner, folder.path(), upstream.address);
        // A Go program does not always come up below valgrind.
        row.instructions = (0..3).find_map(|_| count::instructions(start, names, folder.path()));
    }
    Some(row)
}
