//! Instructions of a hit and bytes of an entry: the same on every machine, and so fit to be a limit.

use std::net::UdpSocket;
use std::process::{Command, exit};
use std::sync::mpsc;

use crate::client::Client;
use crate::server::{ANSWER, resolver, serve};

/// Instructions in user mode that a hit may take, from the datagram that was read to the one that is sent, both system
/// calls included as far as they are ours. What the compiler puts in line changes by some 60 of them with code elsewhere.
const MOST_INSTRUCTIONS: u64 = 1_320;
/// Bytes that an entry with four addresses may take, its share of the index included.
const MOST_BYTES: u64 = 184;
const NAMES: usize = 1_000;
const QUESTIONS: usize = 20_000;

pub(crate) fn run() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*take_batch*"])
        .args(["--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg("counted")
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let number = |text: &str| text.trim().replace(',', "").parse::<u64>().ok();
    let collected =
        said.lines().find_map(|line| number(line.split("Collected :").nth(1)?)).unwrap_or_else(|| panic!("{said}"));
    let answered = number(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|| panic!("{said}"));
    let instructions = collected / answered.max(1);
    let bytes = bytes_of_an_entry();
    println!("what                               figure   limit");
    println!("user instructions for each hit   {instructions:>8}{MOST_INSTRUCTIONS:>8}");
    println!("bytes of an entry                {bytes:>8}{MOST_BYTES:>8}");
    if instructions > MOST_INSTRUCTIONS || bytes > MOST_BYTES || answered < QUESTIONS as u64 {
        println!("More than it may be ({answered} of {QUESTIONS} questions were answered).");
        exit(1);
    }
}

/// A server and its client in one process, of which only the server is counted.
pub(crate) fn counted() {
    let (sender, receiver) = mpsc::channel();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _serving = serve(server, resolver(NAMES, 1, 16 << 20));
            sender.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap();
    let report = Client::new(address, NAMES).ask(QUESTIONS);
    assert_eq!(report.length, ANSWER, "another answer than the one that is meant");
    println!("{}", report.answered);
    exit(0);
}

/// What a full cache takes for each of its entries: all of its bytes, the index and what is unused among them.
pub(crate) fn bytes_of_an_entry() -> u64 {
    const BYTES: u64 = 16 << 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let resolver = resolver(200_000, 1, BYTES);
        let cache = resolver.cache();
        cache.bytes() / cache.entries().max(1)
    })
}
