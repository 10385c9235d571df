//! Part `hits`: CPU time of a cache hit, in turns with a bare echo.

mod counts;
mod turns;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::gate;
use crate::host::process::cpu_ticks;
use crate::host::processors::{CLIENT_CPU, pin_current_thread};
use crate::load::hit_client::HitClient;
use crate::report::hits::page;
use crate::report::hits::row::{self, Row};
use crate::report::labels::{ECHO, OURS};
use crate::servers::hit_server::HitServer;
use crate::servers::own_server::OwnServer;
use crate::servers::peers::{PEERS, Peer};
use crate::servers::resolver::RESPONSE_LEN;
use crate::statistics::{estimate_ratio, median};
use turns::Run;

/// Round of all servers with one number of names.
#[derive(Clone, Copy)]
struct Round {
    names: usize,
    /// Minimum runs of a server's process: with many names they take long, because the server has to learn them.
    min_runs: usize,
}

const ROUNDS: [Round; 2] = [Round { names: 1_000, min_runs: 5 }, Round { names: 400_000, min_runs: 3 }];
/// Only this round has echoes in rows of their own, and counts of instructions.
const FIRST_ROUND: usize = ROUNDS[0].names;
const MAX_RUNS: usize = 12;
/// Time after which no further run begins.
const RUNS_TIME_LIMIT: Duration = Duration::from_secs(30);
/// Half width of the 95 % interval of a ratio, as a share of it, from which on no further run is needed.
const WANTED_HALF_WIDTH: f64 = 0.02;
/// Nanoseconds of the upstream's CPU time per response. Above it the server does not answer from its cache.
const MAX_UPSTREAM_CPU_TIME: f64 = 100.0;
/// Attempts to count instructions: a Go program does not always start under valgrind.
const MAX_COUNT_ATTEMPTS: usize = 3;

/// Server that is compared with the echo.
#[derive(Clone, Copy)]
enum Contestant {
    Own(OwnServer),
    Peer(Peer),
}

impl Contestant {
    fn spawn(&self, runner: &[&str], folder: &Path, upstream: SocketAddr) -> HitServer {
        match self {
            Self::Own(server) => HitServer::own(*server, runner),
            Self::Peer(peer) => HitServer::peer(peer, runner, folder, upstream),
        }
    }
}

/// Words of the command line that select servers, by the beginnings of their names, and numbers of names.
struct Selection<'a> {
    servers: Vec<&'a str>,
    names: Vec<usize>,
}

impl<'a> Selection<'a> {
    fn from_words(words: &[&'a str]) -> Self {
        let (names, servers): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.parse::<usize>().is_ok());
        Self { servers, names: names.iter().filter_map(|word| word.parse().ok()).collect() }
    }

    fn has_server(&self, name: &str) -> bool {
        self.servers.is_empty() || self.servers.iter().any(|prefix| name.starts_with(prefix))
    }

    fn has_names(&self, names: usize) -> bool {
        self.names.is_empty() || self.names.contains(&names)
    }
}

/// Measures all servers; or, where words are given, only those that they select, and keeps the published rows of the
/// others.
pub(crate) fn run(words: &[&str]) {
    pin_current_thread(CLIENT_CPU);
    let selection = Selection::from_words(words);
    let mut rows = if words.is_empty() { Vec::new() } else { page::read_published() };
    let bytes_per_entry = gate::bytes_per_entry();
    println!("{}", page::terminal_heading());
    for round in ROUNDS.into_iter().filter(|round| selection.has_names(round.names)) {
        let upstream = HitServer::own(OwnServer::Upstream { names: round.names }, &[]);
        for contestant in contestants(round.names, &selection) {
            let Some(row) = measure(contestant, round, &upstream) else { continue };
            println!("{}", page::terminal_row(&row));
            row::replace(&mut rows, row);
            // After each server, so that an interrupted run leaves its results.
            page::publish(&rows, bytes_per_entry);
        }
    }
}

fn contestants(names: usize, selection: &Selection<'_>) -> Vec<Contestant> {
    let mut contestants = Vec::new();
    if names == FIRST_ROUND && selection.has_server(ECHO) {
        contestants.push(Contestant::Own(OwnServer::Echo { octets: RESPONSE_LEN }));
        contestants.push(Contestant::Own(OwnServer::EpollEcho { octets: RESPONSE_LEN }));
    }
    if selection.has_server(OURS) {
        contestants.push(Contestant::Own(OwnServer::Resolver { names }));
    }
    for peer in PEERS.into_iter().filter(|peer| selection.has_server(peer.name)) {
        if !peer.is_installed() {
            println!("{:<32} is not installed", peer.name);
        } else if peer.max_names < names {
            println!("{:<32} holds at most {} names", peer.name, peer.max_names);
        } else {
            contestants.push(Contestant::Peer(peer.with_names(names).for_queried_names_only()));
        }
    }
    contestants
}

/// Measures a server beside an echo whose responses are as long, in as many runs as it takes. `None` where the server
/// does not hold so many names.
fn measure(contestant: Contestant, round: Round, upstream: &HitServer) -> Option<Row> {
    let Round { names, min_runs } = round;
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut row = Row { names, ..Row::default() };
    let mut runs: Vec<Run> = Vec::new();
    let mut user_ticks = 0.0;
    let mut kernel_ticks = 0.0;
    let wants_another = |runs: usize, row: &Row| {
        runs < MAX_RUNS && row.ratio.half_width > WANTED_HALF_WIDTH && started.elapsed() < RUNS_TIME_LIMIT
    };
    while runs.len() < min_runs || wants_another(runs.len(), &row) {
        let server = contestant.spawn(&[], folder.path(), upstream.address());
        let mut client = HitClient::new(server.address(), names);
        let Some(octets) = server.warm_up(&mut client, names) else {
            println!("{:<32} does not learn {names} names", server.name);
            return None;
        };
        let echo = HitServer::own(OwnServer::Echo { octets }, &[]);
        let mut echo_client = HitClient::new(echo.address(), names);
        echo.warm_up(&mut echo_client, 1_000);
        let ticks_before = cpu_ticks(server.process.pid());
        let upstream_time_before = upstream.process.cpu_time();
        let run = turns::take((&echo, &mut echo_client), (&server, &mut client));
        let ticks_after = cpu_ticks(server.process.pid());
        let upstream_time = upstream.process.cpu_time() - upstream_time_before;
        if upstream_time / turns::RESPONSES_PER_RUN as f64 > MAX_UPSTREAM_CPU_TIME {
            println!("{:<32} does not hold {names} names: it queries its upstream again", server.name);
            return None;
        }
        user_ticks += ticks_after.user - ticks_before.user;
        kernel_ticks += ticks_after.kernel - ticks_before.kernel;
        row.dropped_turns += run.dropped_turns;
        runs.push(run);
        row.ratio = estimate_ratio(&runs.iter().map(|run| run.log_ratio).collect::<Vec<_>>());
        row.server.clone_from(&server.name);
        row.version.clone_from(&server.version);
        row.octets = octets;
        if runs.len() == 1 {
            row.system_calls = counts::system_calls(&server, &mut client, folder.path());
        }
    }
    row.runs = runs.len();
    row.cpu_ns = median(&runs.iter().map(|run| run.server_ns).collect::<Vec<_>>());
    row.echo_ns = median(&runs.iter().map(|run| run.echo_ns).collect::<Vec<_>>());
    row.user_ns = row.cpu_ns * user_ticks / (user_ticks + kernel_ticks).max(1.0);
    if names == FIRST_ROUND {
        let spawn = |runner: &[&str]| contestant.spawn(runner, folder.path(), upstream.address());
        row.instructions = (0..MAX_COUNT_ATTEMPTS).find_map(|_| counts::instructions(spawn, names, folder.path()));
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::Selection;

    #[test]
    fn words_select_servers_and_numbers_of_names() {
        let selection = Selection::from_words(&["dns", "1000"]);
        assert!(selection.has_server("dnsmasq") && !selection.has_server("DnsTier"));
        assert!(selection.has_names(1_000) && !selection.has_names(400_000));
        let all = Selection::from_words(&[]);
        assert!(all.has_server("kresd") && all.has_names(400_000));
    }
}
