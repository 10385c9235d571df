//! What an answer from memory costs.
//!
//! * `gate` counts the instructions of a hit and of a miss, and the bytes of an entry, and fails when they are more than they may be.
//! * `compare`, perhaps with the beginning of one server's name, measures processor time beside a bare echo of datagrams and beside other resolvers, each alone on the
//!   first processor, with the client on the second, and writes `docs/benchmarks/`.
//! * `asking` prints the processor time of a question that memory cannot answer.
//! * `readers` measures what it costs that several processes read one socket, and writes there too.
//!
//! Nothing here is timed by the clock on the wall: what is compared is the processor time that a server's process took
//! for each answer, in turns within one run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program of ours alone"
)]

mod asking;
mod client;
mod compare;
mod gate;
mod peers;
mod readers;
mod server;

use std::process::Command;

/// The option by which the program knows that it has a network of its own.
const INSIDE: &str = "inside";

fn main() {
    // What cargo adds by itself begins with a dash.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["gate"] => alone("gate", &[]),
        ["asking"] => alone("asking", &[]),
        ["readers"] => alone("readers", &[]),
        ["compare", ref only @ ..] => alone("compare", only),
        [INSIDE, "gate"] => gate::run(),
        [INSIDE, "compare"] => compare::run(None),
        [INSIDE, "compare", only] => compare::run(Some(only)),
        [INSIDE, "asking"] => asking::run(),
        ["asks", whom, upstream] => asking::asks(whom, upstream),
        ["counted", whom, questions] => asking::counted(whom, questions),
        [INSIDE, "readers"] => readers::run(),
        ["reader", way] => readers::read(way),
        ["counted"] => gate::counted(),
        ["serve", which, names] => server::run(which, names.parse().unwrap()),
        _ => {
            println!("usage: engine gate | compare [server] | asking | readers");
            std::process::exit(2);
        }
    }
}

/// Runs a part of this program in a network namespace of its own, whose only interface is the loopback one.
fn alone(part: &str, rest: &[&str]) {
    let program = std::env::current_exe().unwrap();
    let script = "ip link set lo up && exec \"$0\" inside \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(program)
        .arg(part)
        .args(rest)
        .status()
        .expect("unshare");
    std::process::exit(status.code().unwrap_or(1));
}
