//! The replay of a provider's silent limits, in its short form: whether its figures can be believed, and whether the
//! tier finds a limit that it was not told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../tests/require/mod.rs"]
mod require;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use require::{network_namespaces, program, require};

/// Environment variable that marks the processes of a replay.
const MARK: &str = "DNSTIER_REPLAY_TEST";
/// One replay at a time: two would make each other slow.
static TURN: Mutex<()> = Mutex::new(());
/// Longest time of a replay in its short form, which takes 45 s, on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Exit code of a replay that says nothing because the machine was too busy.
const EXIT_TOO_BUSY: i32 = 3;

/// Starts the short form, with a mark that all of its processes carry.
fn start(mark: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-cache-bench"));
    command.args(["replay", "short"]).env(MARK, mark).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns how many processes carry a mark.
fn marked(mark: &str) -> usize {
    let entry = format!("{MARK}={mark}");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_marked = |environment: Vec<u8>| environment.split(|octet| *octet == 0).any(|word| word == entry.as_bytes());
    processes.filter(|process| fs::read(process.path().join("environ")).is_ok_and(is_marked)).count()
}

/// Waits until a condition holds; fails after a while.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(50));
    }
}

/// Runs the short form to its end, or kills it after a while; returns its exit code, and what it printed.
fn run(mark: &str) -> (Option<i32>, String) {
    let replay = start(mark);
    let process = rustix::process::Pid::from_child(&replay);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + TIME_LIMIT;
            while marked(mark) > 0 {
                if Instant::now() >= deadline {
                    let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
                }
                sleep(Duration::from_millis(200));
            }
        });
        replay.wait_with_output().unwrap()
    });
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), printed.join("\n"))
}

#[test]
fn behind_a_silent_limit_the_tier_answers_and_the_counters_agree_with_the_limit() {
    require!(network_namespaces(), program("unbound"), program("unshare"));
    let _turn = TURN.lock();
    let mark = format!("short-{}", std::process::id());
    let (code, text) = run(&mark);
    if code == Some(EXIT_TOO_BUSY) {
        eprintln!("void: the machine was too busy for a replay at 1,000 queries a second, which shows nothing\n{text}");
        return;
    }
    assert_eq!(code, Some(0), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| (")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    assert!(rows.iter().all(|row| row.contains("packets per source")), "{text}");
}

#[test]
fn a_replay_that_is_killed_leaves_no_process() {
    require!(network_namespaces(), program("unbound"), program("unshare"));
    let _turn = TURN.lock();
    let mark = format!("killed-{}", std::process::id());
    let mut replay = start(&mark);
    // The program itself and its double in the new namespaces, two resolvers of the world, two of the cast.
    wait_until("its servers run", || marked(&mark) >= 6);
    replay.kill().unwrap();
    replay.wait().unwrap();
    wait_until("they have ended", || marked(&mark) == 0);
}
