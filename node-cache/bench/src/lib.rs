//! What answers cost.
//!
//! * `gate` counts the instructions of a hit and of a miss, and the bytes of an entry, and fails when they are more than they may
//!   be.
//! * `hits`, perhaps with the beginning of one server's name or a number of names, measures processor time beside a bare echo of
//!   datagrams and beside other resolvers, each alone on the first processor, with the client on the second.
//! * `misses`: what a question costs that has to be asked on, in time and in processor time.
//! * `latency`: how long answers from memory take at planned times, at equal rates and at equal shares of what each can do.
//! * `start`: from starting a program to its first answer.
//! * `memory`: bytes of an answer, and the most memory with many more names than there is room for.
//! * `fairness`: what others feel of one client that asks for everything.
//! * `traces`: how many questions the upstream is spared, at equal memory.
//! * `readers`: what it costs that several processes read one socket.
//! * `asking` prints the processor time of a question that memory cannot answer.
//!
//! All but `gate` and `asking` write into `docs/benchmarks/`, unless the beginning of one server's name is given: then only that one is
//! measured, and shown. `hits` is not timed by the clock on the wall: what is compared is the processor time that a
//! server's process took for each answer, in turns within one run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program of ours alone"
)]

mod load;
mod parts;
mod report;
mod servers;
mod statistics;

use std::process::Command;

use parts::{fairness, gate, hits, latency, memory, miss_cpu as asking, misses, readers, start, traces};
use servers::{process, resolver as server};

/// The option by which the program knows that it has a network of its own.
const INSIDE: &str = "inside";

/// Runs the part that the arguments name.
pub fn run(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["gate"] => alone("gate", &[]),
        ["asking"] => alone("asking", &[]),
        ["readers"] => alone("readers", &[]),
        ["hits", ref only @ ..] => alone("hits", only),
        [INSIDE, "gate"] => gate::run(),
        [INSIDE, "asking"] => asking::run(),
        [INSIDE, "readers"] => readers::run(),
        [INSIDE, "hits", ref only @ ..] => hits::run(only),
        [part @ ("misses" | "latency" | "start" | "memory" | "fairness" | "traces"), ref only @ ..] => {
            alone(part, only)
        }
        [INSIDE, part, ref only @ ..] => measure(part, only.first().copied()),
        ["asks", whom, upstream] => asking::asks(whom, upstream),
        ["counted", whom, questions] => asking::counted(whom, questions),
        ["reader", way] => readers::read(way),
        ["counted"] => gate::counted(),
        ["tallied", hits] => gate::tallied(hits),
        ["serve", which, number] => server::run(which, number.parse().unwrap()),
        _ => {
            println!(
                "usage: engine gate | hits [server | names]… | misses | latency | start | memory | fairness | traces [server] | asking | readers"
            );
            std::process::exit(2);
        }
    }
}

fn measure(part: &str, only: Option<&str>) {
    process::go_first();
    match part {
        "misses" => misses::run(only),
        "latency" => latency::run(only),
        "start" => start::run(only),
        "memory" => memory::run(only),
        "fairness" => fairness::run(only),
        "traces" => traces::run(only),
        _ => unreachable!("{part}"),
    }
}

/// Runs a part of this program in a network namespace of its own, whose only interface is the loopback one, and with mounts of
/// its own.
fn alone(part: &str, rest: &[&str]) {
    let program = std::env::current_exe().unwrap();
    // What the kernel counts is found in a folder that not every machine has mounted.
    let script = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; ip link set lo up && exec \"$0\" inside \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(program)
        .arg(part)
        .args(rest)
        .status()
        .expect("unshare");
    std::process::exit(status.code().unwrap_or(1));
}
