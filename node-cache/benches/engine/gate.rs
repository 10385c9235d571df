//! Instructions of a hit and of a miss, and bytes of an entry: the same on every machine, and so fit to be a limit.

use std::hint::black_box;
use std::net::UdpSocket;
use std::process::{Command, exit};
use std::sync::mpsc;

use node_cache::dns::codes::rcode;
use node_cache::metrics::{Metrics, ScopeAnswers, Tally};

use crate::asking::WHOM;
use crate::client::Client;
use crate::server::{ANSWER, resolver, serve};

/// Instructions in user mode that a hit may take, from the datagram that was read to the one that is sent, both system
/// calls included as far as they are ours. Counted were 678. Some 500 of a batch's are for the batch itself, which has between 8 and 32
/// datagrams here, as the threads happen to run. What the compiler puts in line changes by some 40 of them with code elsewhere.
const MOST_INSTRUCTIONS: u64 = 800;
/// Instructions in user mode to count a hit in a full batch, with what is added to the shared counters for the batch.
const MOST_OF_COUNTING: u64 = 40;
/// Datagrams of a full batch, and batches that are counted.
const BATCH: u32 = 32;
const BATCHES: u64 = 1_000;
/// Bytes that an entry with four addresses may take, its key included. Beside it lie 8 of the index, twice as many at the most.
const MOST_BYTES: u64 = 120;
/// Instructions in user mode that a miss may take, of the thread that answers it, from reading the question to having sent
/// the answer: to a foreign server, and to a resolver of our own. Counted were 18,500 and 19,200.
const MOST_OF_MISS: [u64; 2] = [20_500, 20_500];
/// Questions that are counted: those of the second number, less those of the first.
const MISSES: [u64; 2] = [1_000, 6_000];
/// How often they are counted at the most.
const TRIES: usize = 3;
const NAMES: usize = 1_000;
const QUESTIONS: usize = 20_000;

pub(crate) fn run() {
    let (collected, answered) = collect("*take_batch*", &["counted"]);
    let answered: u64 = answered.trim().parse().unwrap_or_else(|_| panic!("{answered}"));
    let instructions = collected / answered.max(1);
    let bytes = bytes_of_an_entry();
    println!("what                                             figure   limit");
    println!("user instructions for each hit                 {instructions:>8}{MOST_INSTRUCTIONS:>8}");
    let mut is_too_much = instructions > MOST_INSTRUCTIONS || bytes > MOST_BYTES;
    for (whom, most) in WHOM.into_iter().zip(MOST_OF_MISS) {
        let instructions = instructions_of_a_miss(whom);
        is_too_much |= instructions > most;
        println!("user instructions for each miss, {whom:<8} server{instructions:>8}{most:>8}");
    }
    for (hits, most) in [(BATCH, MOST_OF_COUNTING), (1, 4 * MOST_OF_COUNTING)] {
        let (collected, _) = collect("*count_a_batch*", &["tallied", &hits.to_string()]);
        let instructions = collected / (BATCHES * u64::from(hits));
        is_too_much |= instructions > most;
        println!("of them to count it, {hits:>2} in a batch               {instructions:>8}{most:>8}");
    }
    println!("bytes of an entry                              {bytes:>8}{MOST_BYTES:>8}");
    if is_too_much || answered < QUESTIONS as u64 {
        println!("More than it may be ({answered} of {QUESTIONS} questions were answered).");
        exit(1);
    }
}

/// Instructions in a function while this program does something, and what that prints.
fn collect(function: &str, arguments: &[&str]) -> (u64, String) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        // Fair: otherwise the server may not have its turn for so long that who waits for it gives up.
        .args(["--tool=callgrind", "--fair-sched=yes", "--collect-atstart=no", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={function}"))
        .arg(program)
        .args(arguments)
        .output()
        .expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let number = |text: &str| text.trim().replace(',', "").parse::<u64>().ok();
    let collected = said.lines().find_map(|line| number(line.split("Collected :").nth(1)?));
    (collected.unwrap_or_else(|| panic!("{said}")), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Instructions of the thread that answers, without those of its beginning.
fn instructions_of_a_miss(whom: &str) -> u64 {
    let [few, many] = MISSES.map(|questions| counted_misses(whom, questions));
    many.0.saturating_sub(few.0) / (many.1 - few.1)
}

/// Instructions of the thread that answers so many questions, and how many it answered. Where a busy machine has held up
/// who is asked, it counts as dead for a while and what is asked then fails: that is no miss, and is counted anew.
fn counted_misses(whom: &str, questions: u64) -> (u64, u64) {
    let mut answered = String::new();
    for _ in 0..TRIES {
        let (collected, said) = collect("*worker*live*", &["counted", whom, &questions.to_string()]);
        match said.trim().parse::<u64>() {
            Ok(number) if number > questions * 9 / 10 => return (collected, number),
            _ => answered = said,
        }
    }
    panic!("{} of {questions} questions were answered in the last of {TRIES} tries", answered.trim());
}

/// Counts batches of so many hits.
pub(crate) fn tallied(hits: &str) {
    let (metrics, hits) = (Metrics::default(), hits.parse().unwrap());
    let scope = metrics.scope_answers("outside");
    for _ in 0..BATCHES {
        count_a_batch(&metrics, &scope, hits);
    }
    assert_eq!(metrics.questions(), BATCHES * u64::from(hits));
}

/// What is done to count a batch of hits. Its instructions are counted, by its name.
#[inline(never)]
fn count_a_batch(metrics: &Metrics, scope: &ScopeAnswers, hits: u32) {
    let mut tally = Tally::default();
    for _ in 0..hits {
        tally.hit(black_box(scope), black_box(rcode::NOERROR));
    }
    metrics.add(&tally, black_box(20_000));
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

/// What a full cache keeps for each of its entries.
pub(crate) fn bytes_of_an_entry() -> u64 {
    const BYTES: u64 = 16 << 20;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let resolver = resolver(200_000, 1, BYTES);
        let cache = resolver.cache();
        cache.bytes() / cache.entries().max(1)
    })
}
