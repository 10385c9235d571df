//! Commands: the parts that a user names, and those by which the program runs itself again, in namespaces of its own
//! ([`ISOLATED`]), as a server, and under callgrind.

use std::process::exit;

use crate::host::namespaces::{run_contained, run_isolated};
use crate::host::processors::raise_priority;
use crate::parts::{fairness, gate, hits, latency, memory, miss_cpu, misses, readers, replay, start, traces};
use crate::servers::miss_resolver::{self, MissTarget};
use crate::servers::own_server::OwnServer;

/// First argument of the process that runs in namespaces of its own.
const ISOLATED: &str = "isolated";

const USAGE: &str = "usage: node-cache-bench gate | readers | miss-cpu
       node-cache-bench hits [<beginning of a server's name> | <number of names>]…
       node-cache-bench misses | latency | start | memory | fairness | traces [<beginning of a server's name>]
       node-cache-bench replay full | short [<letter of a cast>]";

/// Part of the benchmark with the words that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Gate,
    Hits(&'a [&'a str]),
    Misses(Option<&'a str>),
    Latency(Option<&'a str>),
    Start(Option<&'a str>),
    Memory(Option<&'a str>),
    Fairness(Option<&'a str>),
    Traces(Option<&'a str>),
    Readers,
    Replay(replay::Form, Option<&'a str>),
    MissCpu,
}

/// Command by which the program runs itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Internal<'a> {
    Serve(OwnServer),
    ServeMisses(MissTarget, u16),
    ReadSocket { is_exclusive: bool },
    CountHits,
    CountMisses(MissTarget, usize),
    CountBatches(u32),
    ServeAuthority,
    HoldSockets { address: &'a str, run_dir: &'a str },
}

/// Runs the command that the arguments name. Ends the process with exit code 2 and the usage where there is no such
/// command.
pub fn run(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(command) = parse_internal(&arguments) {
        run_internal(command);
    } else if let [ISOLATED, ref rest @ ..] = arguments[..] {
        parse_part(rest).map_or_else(exit_with_usage, run_part);
    } else if let Some(part) = parse_part(&arguments) {
        if let Part::Replay(..) = part {
            run_contained(&[&[ISOLATED], &arguments[..]].concat());
        }
        run_isolated(&[&[ISOLATED], &arguments[..]].concat());
    } else {
        exit_with_usage();
    }
}

fn exit_with_usage() {
    println!("{USAGE}");
    exit(2);
}

fn parse_part<'a>(arguments: &'a [&'a str]) -> Option<Part<'a>> {
    let (name, words) = arguments.split_first()?;
    let prefix = words.first().copied();
    match (*name, words.len()) {
        ("gate", 0) => Some(Part::Gate),
        ("readers", 0) => Some(Part::Readers),
        ("miss-cpu", 0) => Some(Part::MissCpu),
        ("replay", 1..=2) => Some(Part::Replay(replay::Form::from_name(words[0])?, words.get(1).copied())),
        ("hits", _) => Some(Part::Hits(words)),
        ("misses", ..=1) => Some(Part::Misses(prefix)),
        ("latency", ..=1) => Some(Part::Latency(prefix)),
        ("start", ..=1) => Some(Part::Start(prefix)),
        ("memory", ..=1) => Some(Part::Memory(prefix)),
        ("fairness", ..=1) => Some(Part::Fairness(prefix)),
        ("traces", ..=1) => Some(Part::Traces(prefix)),
        _ => None,
    }
}

fn run_part(part: Part<'_>) {
    match part {
        Part::Gate | Part::Hits(_) | Part::Readers | Part::Replay(..) | Part::MissCpu => {}
        _ => raise_priority(),
    }
    match part {
        Part::Gate => gate::run(),
        Part::Hits(words) => hits::run(words),
        Part::Misses(prefix) => misses::run(prefix),
        Part::Latency(prefix) => latency::run(prefix),
        Part::Start(prefix) => start::run(prefix),
        Part::Memory(prefix) => memory::run(prefix),
        Part::Fairness(prefix) => fairness::run(prefix),
        Part::Traces(prefix) => traces::run(prefix),
        Part::Readers => readers::run(),
        Part::Replay(form, letter) => replay::run(form, letter),
        Part::MissCpu => miss_cpu::run(),
    }
}

fn parse_internal<'a>(arguments: &[&'a str]) -> Option<Internal<'a>> {
    match *arguments {
        ["serve", kind, number] => OwnServer::from_arguments(kind, number).map(Internal::Serve),
        ["serve-misses", target, upstream_port] => {
            Some(Internal::ServeMisses(MissTarget::from_name(target)?, upstream_port.parse().ok()?))
        }
        ["read-socket", flag @ ("exclusive" | "shared")] => {
            Some(Internal::ReadSocket { is_exclusive: flag == "exclusive" })
        }
        ["serve-authority"] => Some(Internal::ServeAuthority),
        ["hold-sockets", address, run_dir] => Some(Internal::HoldSockets { address, run_dir }),
        ["count-hits"] => Some(Internal::CountHits),
        ["count-misses", target, queries] => {
            Some(Internal::CountMisses(MissTarget::from_name(target)?, queries.parse().ok()?))
        }
        ["count-batches", hits] => hits.parse().ok().map(Internal::CountBatches),
        _ => None,
    }
}

fn run_internal(command: Internal<'_>) {
    match command {
        Internal::Serve(server) => server.run(),
        Internal::ServeMisses(target, upstream_port) => miss_resolver::run(target, upstream_port),
        Internal::ReadSocket { is_exclusive } => readers::read_socket(is_exclusive),
        Internal::ServeAuthority => replay::serve_authority(),
        Internal::HoldSockets { address, run_dir } => replay::hold_sockets(address, run_dir),
        Internal::CountHits => gate::run_hits(),
        Internal::CountMisses(target, queries) => gate::run_misses(target, queries),
        Internal::CountBatches(hits) => gate::run_batches(hits),
    }
}

#[cfg(test)]
mod tests {
    use super::replay::Form;
    use super::{Internal, MissTarget, OwnServer, Part, parse_internal, parse_part};

    #[test]
    fn a_part_takes_the_words_that_it_can_use() {
        assert_eq!(parse_part(&["hits", "dnsmasq", "1000"]), Some(Part::Hits(&["dnsmasq", "1000"])));
        assert_eq!(parse_part(&["misses"]), Some(Part::Misses(None)));
        assert_eq!(parse_part(&["replay", "short", "a"]), Some(Part::Replay(Form::Short, Some("a"))));
        assert_eq!(parse_part(&["traces", "DnsTier"]), Some(Part::Traces(Some("DnsTier"))));
        for wrong in [&["gate", "DnsTier"][..], &["misses", "one", "two"], &["replay"], &["serve"], &[]] {
            assert_eq!(parse_part(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_program_knows_the_commands_by_which_it_runs_itself() {
        let serve = parse_internal(&["serve", "echo", "118"]);
        assert_eq!(serve, Some(Internal::Serve(OwnServer::Echo { octets: 118 })));
        let misses = parse_internal(&["serve-misses", "zone-resolver", "5353"]);
        assert_eq!(misses, Some(Internal::ServeMisses(MissTarget::ZoneResolver, 5353)));
        assert_eq!(parse_internal(&["read-socket", "exclusive"]), Some(Internal::ReadSocket { is_exclusive: true }));
        assert_eq!(parse_internal(&["count-misses", "upstream", "many"]), None);
        assert_eq!(parse_internal(&["gate"]), None);
    }
}
