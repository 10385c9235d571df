//! Part `gate`: instructions of a hit and of a miss, and bytes of a cache entry. They are equal on every machine, and
//! so can be limited.

use std::hint::black_box;
use std::net::UdpSocket;
use std::process::{Command, exit};
use std::sync::mpsc;

use node_cache::dns::codes::rcode;
use node_cache::metrics::{Metrics, ScopeCounters, Tally};

use crate::load::hit_client::HitClient;
use crate::servers::miss_resolver::{self, MissTarget};
use crate::servers::resolver::{self, RESPONSE_LEN, serve};

/// Functions whose instructions are counted, as patterns of callgrind over demangled names. The first two are functions
/// of the data plane: when one of them is renamed, inlined or split, its pattern changes here.
mod function {
    /// Reads, answers and sends a batch of datagrams: `server::udp`.
    pub(super) const ANSWER_BATCH: &str = "*take_batch*";
    /// Body of a worker's thread: `server::worker`.
    pub(super) const WORKER: &str = "*worker_main*";
    /// [`super::count_batch`] of this file.
    pub(super) const COUNT_BATCH: &str = "*gate*count_batch*";
}

/// Maximum instructions in user mode per hit, from the datagram that is read to the one that is sent, with both system
/// calls as far as they are ours. Counted were 675. Some 500 of a batch's are for the batch itself, which has between 8
/// and 32 datagrams here, as the threads happen to run. Inlining changes them by some 40 when code elsewhere changes.
const MAX_HIT_INSTRUCTIONS: u64 = 800;
/// Maximum instructions in user mode to count a hit in a full batch, with its share of what adds the batch to the
/// shared counters. Four times as many for a batch of one.
const MAX_COUNT_INSTRUCTIONS: u64 = 40;
/// Datagrams of a full batch, and number of batches that are counted.
const BATCH: u32 = 32;
const BATCHES: u64 = 1_000;
/// Maximum bytes of a cache entry with four addresses, its key included. Besides it takes 8 bytes of the index, at most
/// twice as many.
const MAX_ENTRY_BYTES: u64 = 120;
/// Maximum instructions in user mode per miss, of the worker's thread, from reading the query to having sent the
/// response. Counted were 16,740 to an upstream and 16,540 to a resolver of the zone; runs differ by 1 %.
const MAX_MISS_INSTRUCTIONS: u64 = 17_400;
/// Queries of two runs: instructions of the first one are subtracted from those of the second one, so that the start of
/// the thread does not count.
const MISS_QUERIES: [u64; 2] = [1_000, 6_000];
/// Maximum attempts to count misses.
const MAX_MISS_ATTEMPTS: usize = 3;
const HIT_NAMES: usize = 1_000;
const HIT_QUERIES: usize = 20_000;
const HIT_CACHE_BYTES: u64 = 16 << 20;

/// Result of a program under callgrind.
struct Counted {
    instructions: u64,
    stdout: String,
}

/// Prints all figures beside their limits, and ends with exit code 1 where one is above its limit.
pub(crate) fn run() {
    println!("{:<47}{:>8}{:>8}", "instructions in user mode, bytes", "figure", "limit");
    let mut is_exceeded = false;
    let mut check = |subject: String, figure: u64, limit: u64| {
        println!("{subject:<47}{figure:>8}{limit:>8}");
        is_exceeded |= figure > limit;
    };
    let Counted { instructions, stdout } = count(function::ANSWER_BATCH, &["count-hits"]);
    let answered: u64 = stdout.trim().parse().unwrap_or_else(|_| panic!("{stdout}"));
    check("instructions per hit".into(), instructions / answered.max(1), MAX_HIT_INSTRUCTIONS);
    for target in MissTarget::ALL {
        let subject = format!("instructions per miss, to the {}", target.name());
        check(subject, instructions_per_miss(target), MAX_MISS_INSTRUCTIONS);
    }
    for (hits, limit) in [(BATCH, MAX_COUNT_INSTRUCTIONS), (1, 4 * MAX_COUNT_INSTRUCTIONS)] {
        let Counted { instructions, .. } = count(function::COUNT_BATCH, &["count-batches", &hits.to_string()]);
        let per_hit = instructions / (BATCHES * u64::from(hits));
        check(format!("of a hit's, to count it in a batch of {hits}"), per_hit, limit);
    }
    check("bytes of a cache entry".into(), bytes_per_entry(), MAX_ENTRY_BYTES);
    if is_exceeded {
        println!("A figure is above its limit.");
    }
    if answered < HIT_QUERIES as u64 {
        println!("Only {answered} of {HIT_QUERIES} queries for hits were answered.");
    }
    if is_exceeded || answered < HIT_QUERIES as u64 {
        exit(1);
    }
}

/// Runs this program with arguments under callgrind and counts the instructions of a function and of all that it calls.
/// Ends with exit code 1 where the program does not call such a function.
fn count(function: &str, arguments: &[&str]) -> Counted {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        // Fair scheduling: otherwise the server may not run for so long that the client's queries time out.
        .args(["--tool=callgrind", "--fair-sched=yes", "--collect-atstart=no", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={function}"))
        .arg(program)
        .args(arguments)
        .output()
        .expect("valgrind runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let instructions = collected_instructions(&stderr).unwrap_or_else(|| panic!("{stderr}"));
    if instructions == 0 {
        println!(
            "No function matches `{function}` in what ran of the benchmark with `{}`, so its instructions cannot be \
             counted. It was renamed, removed or inlined: correct `mod function` in {}.",
            arguments.join(" "),
            file!()
        );
        exit(1);
    }
    Counted { instructions, stdout: String::from_utf8_lossy(&output.stdout).into_owned() }
}

/// Returns the number of instructions that callgrind prints at its end.
fn collected_instructions(stderr: &str) -> Option<u64> {
    stderr.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().replace(',', "").parse().ok())
}

/// Returns instructions of the worker's thread per miss, without those of its start.
fn instructions_per_miss(target: MissTarget) -> u64 {
    let [few, many] = MISS_QUERIES.map(|queries| count_misses(target, queries));
    many.instructions.saturating_sub(few.instructions) / (many.answered - few.answered)
}

struct CountedMisses {
    instructions: u64,
    answered: u64,
}

/// Counts instructions of a worker's thread that answers this many queries. On a busy machine the upstream may be held
/// up for so long that it is taken for down; queries then fail. Such a run is repeated.
fn count_misses(target: MissTarget, queries: u64) -> CountedMisses {
    let mut answered = String::new();
    for _ in 0..MAX_MISS_ATTEMPTS {
        let counted = count(function::WORKER, &["count-misses", target.name(), &queries.to_string()]);
        match counted.stdout.trim().parse::<u64>() {
            Ok(answered) if answered > queries * 9 / 10 => {
                return CountedMisses { instructions: counted.instructions, answered };
            }
            _ => answered = counted.stdout,
        }
    }
    panic!("{} of {queries} queries were answered in the last of {MAX_MISS_ATTEMPTS} attempts", answered.trim());
}

/// Answers hits in this process, under callgrind: the server and its client are threads. Prints how many were answered.
pub(crate) fn run_hits() -> ! {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        resolver::block_on(async {
            let _serving = serve(socket, resolver::create(HIT_NAMES, 1, HIT_CACHE_BYTES));
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    is_ready.recv().unwrap();
    let report = HitClient::new(address, HIT_NAMES).send_queries(HIT_QUERIES);
    assert_eq!(report.length, RESPONSE_LEN, "another response than the expected one");
    println!("{}", report.answered);
    exit(0);
}

/// Answers misses in this process, under callgrind: upstream, server and client are threads. Prints how many were
/// answered.
pub(crate) fn run_misses(target: MissTarget, queries: usize) -> ! {
    let address = miss_resolver::start_in_process(target);
    let report = HitClient::new(address, queries).send_queries(queries);
    assert_eq!(report.length, RESPONSE_LEN, "another response than the expected one");
    println!("{}", report.answered);
    exit(0);
}

/// Counts batches of this many hits in this process, under callgrind.
pub(crate) fn run_batches(hits: u32) {
    let metrics = Metrics::default();
    let scope = metrics.scope_counters("outside");
    for _ in 0..BATCHES {
        count_batch(&metrics, &scope, hits);
    }
    assert_eq!(metrics.queries(), BATCHES * u64::from(hits));
}

/// Adds a batch of hits to the metrics, as a worker does. callgrind finds it by its name.
#[inline(never)]
fn count_batch(metrics: &Metrics, scope: &ScopeCounters, hits: u32) {
    let mut tally = Tally::default();
    for _ in 0..hits {
        tally.count_hit(black_box(scope), black_box(rcode::NOERROR));
    }
    metrics.add_batch(&tally, black_box(20_000));
}

/// Returns the bytes of a full cache divided by the number of its entries.
pub(crate) fn bytes_per_entry() -> u64 {
    const NAMES: usize = 200_000;
    const CACHE_BYTES: u64 = 16 << 20;
    resolver::block_on(async {
        let resolver = resolver::create(NAMES, 1, CACHE_BYTES);
        let cache = resolver.cache();
        cache.bytes() / cache.entries().max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::{collected_instructions, run_batches};

    #[test]
    fn instructions_are_read_from_what_callgrind_prints() {
        let stderr = "==7== \n==7== Events    : Ir\n==7== Collected : 13,613,960\n";
        assert_eq!(collected_instructions(stderr), Some(13_613_960));
        assert_eq!(collected_instructions("==7== Collected : 0"), Some(0));
        assert_eq!(collected_instructions("valgrind: command not found"), None);
    }

    #[test]
    fn batches_are_counted_whole() {
        run_batches(3);
    }
}
