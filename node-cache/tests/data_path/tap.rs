//! The dnstap stream, read by independent readers.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use node_cache::dnstap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::require::{program, require};
use crate::support::{Action, Authority, Tier, exchange, exchange_on, exchange_over_tcp, query_for, wait_until};

/// Enough for a busy machine.
const TAP_TIMEOUT: Duration = Duration::from_secs(30);

async fn start() -> (Authority, Tier) {
    let authority = Authority::start(|query| Action::Respond(query.default_response(300, 1))).await;
    let tier = Tier::forwarding_to(&[authority.address]).await;
    (authority, tier)
}

/// Serves the tap at a socket of this directory, as the process `cache-0` does.
fn serve_tap(tier: &Tier, run_dir: &Path) -> JoinHandle<()> {
    std::fs::write(run_dir.join("cache-0.sock"), "").unwrap();
    let path = dnstap::socket_path(run_dir, "cache-0");
    let tap = tier.resolver.tap().clone();
    tokio::spawn(async move { dnstap::serve(&path, tap).await.unwrap() })
}

async fn connect(run_dir: &Path, options: &str) -> UnixStream {
    let started = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(dnstap::socket_path(run_dir, "cache-0")).await {
            Ok(stream) => break stream,
            Err(error) => assert!(started.elapsed() < TAP_TIMEOUT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    stream.write_all(options.as_bytes()).await.unwrap();
    stream
}

/// Returns the data frames of a whole stream, read by the specification of Frame Streams.
fn data_frames(stream: &[u8]) -> Vec<&[u8]> {
    let number = |at: usize| u32::from_be_bytes(stream[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 0;
    let mut frames = Vec::new();
    let mut controls = Vec::new();
    while at < stream.len() {
        match number(at) {
            0 => {
                controls.push((number(at + 8), &stream[at + 12..at + 8 + number(at + 4)]));
                at += 8 + number(at + 4);
            }
            length => {
                frames.push(&stream[at + 4..at + 4 + length]);
                at += 4 + length;
            }
        }
    }
    let content = [&1_u32.to_be_bytes()[..], &22_u32.to_be_bytes(), b"protobuf:dnstap.Dnstap"].concat();
    assert_eq!(controls, [(2, &content[..]), (3, &[])], "a START and a STOP");
    frames
}

/// Fields of a message of protocol buffers, each with its field number.
type Fields<T> = Vec<(u64, T)>;

/// Returns the fields of a message of protocol buffers: numbers, and octets.
fn fields(mut message: &[u8]) -> (Fields<u64>, Fields<&[u8]>) {
    fn varint(from: &mut &[u8]) -> u64 {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let octet = from[0];
            *from = &from[1..];
            number |= u64::from(octet & 0x7f) << shift;
            shift += 7;
            if octet < 0x80 {
                return number;
            }
        }
    }
    let mut numbers = Vec::new();
    let mut octets = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        match tag & 7 {
            0 => numbers.push((tag >> 3, varint(&mut message))),
            2 => {
                let length = varint(&mut message) as usize;
                let (value, rest) = message.split_at(length);
                octets.push((tag >> 3, value));
                message = rest;
            }
            5 => {
                numbers.push((tag >> 3, u32::from_le_bytes(message[..4].try_into().unwrap()).into()));
                message = &message[4..];
            }
            other => panic!("kind {other}"),
        }
    }
    (numbers, octets)
}

/// Returns of a frame: message type, protocol, both ports, and the message's name and number of answers.
fn summary(frame: &[u8]) -> (u64, u64, u64, u64, String, usize) {
    let (numbers, octets) = fields(frame);
    assert_eq!(numbers, [(15, 1)], "a message");
    let one = |field, from: &[(u64, &[u8])]| from.iter().find(|(number, _)| *number == field).unwrap().1.to_vec();
    assert_eq!(one(1, &octets), b"node-a/cache-0");
    assert!(one(2, &octets).starts_with(b"dnstier "));
    let message = one(14, &octets);
    let (numbers, octets) = fields(&message);
    let number = |field| numbers.iter().find(|(number, _)| *number == field).unwrap().1;
    assert_eq!((number(2), one(4, &octets), one(5, &octets)), (1, vec![127, 0, 0, 1], vec![127, 0, 0, 1]));
    assert!(number(8) > 1_700_000_000 && number(9) < 1_000_000_000);
    let is_answer = number(1) % 2 == 0;
    if is_answer {
        assert!((number(12), number(13)) >= (number(8), number(9)), "an answer comes after its question");
    }
    let wire = Message::from_vec(&one(if is_answer { 14 } else { 10 }, &octets)).unwrap();
    let name = wire.queries[0].name().to_ascii().to_lowercase();
    (number(1), number(3), number(6), number(7), name, wire.answers.len())
}

#[tokio::test]
async fn a_tap_shows_questions_and_answers_that_any_reader_of_frame_streams_understands() {
    require!(program("fstrm_dump"));
    let (authority, tier) = start().await;
    let dir = tempfile::tempdir().unwrap();
    let serving = serve_tap(&tier, dir.path());
    drop(connect(dir.path(), "").await);
    let file = dir.path().join("messages.fstrm");
    let mut program = Command::new(env!("CARGO_BIN_EXE_node-cache"))
        .args(["tap", "--sample", "1", "--count", "6", "--run-dir", dir.path().to_str().unwrap()])
        .stdout(std::fs::File::create(&file).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it reads", TAP_TIMEOUT, async || tier.resolver.tap().has_readers()).await;
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    exchange_over_tcp(tier.address, &query_for("www.example", RecordType::A)).await;
    wait_until("it ends", TAP_TIMEOUT, async || program.try_wait().unwrap().is_some_and(|status| status.success()))
        .await;
    serving.abort();

    let stream = std::fs::read(&file).unwrap();
    let summary: Vec<_> = data_frames(&stream).into_iter().map(summary).collect();
    let own = u64::from(tier.address.port());
    let server = u64::from(authority.address.port());
    let seen = summary.iter().map(|(kind, protocol, _, to, name, n)| (*kind, *protocol, *to, name.as_str(), *n));
    let www = "www.example.";
    let expected = [
        (5, 1, own, www, 0),
        (7, 1, server, www, 0),
        (8, 1, server, www, 1),
        (6, 1, own, www, 1),
        (5, 2, own, www, 0),
        (6, 2, own, www, 1),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!((summary[0].2, summary[1].2), (summary[3].2, summary[2].2), "question and answer have the same ports");

    // The reader by the authors of the specification; `make test` installs it.
    let dump = Command::new("fstrm_dump").arg(&file).output().expect("fstrm_dump, of Debian's fstrm-bin");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert_eq!(dump.matches("node-a/cache-0").count(), 6, "{dump}");
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_no_answer() {
    let (_authority, tier) = start().await;
    let dir = tempfile::tempdir().unwrap();
    let serving = serve_tap(&tier, dir.path());
    let idle = connect(dir.path(), "1 both\n").await;
    wait_until("it is let in", TAP_TIMEOUT, async || tier.resolver.tap().has_readers()).await;
    let mut padded = query_for("www.example", RecordType::A);
    padded.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(12, vec![0; 1_100]));
    let padded = padded.to_vec().unwrap();
    let mut stream = TcpStream::connect(tier.address).await.unwrap();
    let started = Instant::now();
    while tier.resolver.tap().frames_lost() < 10 {
        assert!(started.elapsed() < TAP_TIMEOUT, "nothing is lost");
        let response = Message::from_vec(&exchange_on(&mut stream, &padded).await).unwrap();
        assert_eq!(response.answers.len(), 1);
    }
    let text = node_cache::metrics::render("cache-0", tier.resolver.metrics(), tier.resolver.gauges());
    assert!(text.contains("dnstier_cache_tap_readers{process=\"cache-0\"} 1"), "{text}");
    let lost = format!("dnstier_cache_tap_lost_total{{process=\"cache-0\"}} {}", tier.resolver.tap().frames_lost());
    assert!(text.contains(&lost), "{lost} is not in\n{text}");
    drop(idle);
    wait_until("it is forgotten", TAP_TIMEOUT, async || !tier.resolver.tap().has_readers()).await;
    serving.abort();
}

#[tokio::test]
async fn a_reader_too_many_and_one_that_wants_nothing_known_are_closed_without_a_frame() {
    let (_authority, tier) = start().await;
    let dir = tempfile::tempdir().unwrap();
    let serving = serve_tap(&tier, dir.path());
    let mut inside = Vec::new();
    for number in 1..=4 {
        inside.push(connect(dir.path(), "64 queries\n").await);
        wait_until("it is let in", TAP_TIMEOUT, async || tier.resolver.tap().reader_count() == number).await;
    }
    for line in ["64 both\n", "everything\n", "-1 both\n"] {
        let mut refused = connect(dir.path(), line).await;
        let mut received = Vec::new();
        tokio::time::timeout(TAP_TIMEOUT, refused.read_to_end(&mut received)).await.unwrap().unwrap();
        assert_eq!(received, b"", "{line}");
    }
    serving.abort();
}

#[tokio::test]
async fn connections_that_say_nothing_and_a_directory_at_the_path_keep_no_reader_from_the_tap() {
    let (_authority, tier) = start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dnstap::socket_path(dir.path(), "cache-0").join("below")).unwrap();
    let serving = serve_tap(&tier, dir.path());
    let mut first = connect(dir.path(), "1 both\n").await;
    wait_until("it is let in", TAP_TIMEOUT, async || tier.resolver.tap().reader_count() == 1).await;
    let mut silent = Vec::new();
    for number in 2..=4 {
        for _ in 0..100 {
            silent.push(connect(dir.path(), "").await);
        }
        let mut reader = connect(dir.path(), "1 both\n").await;
        wait_until("it is let in", TAP_TIMEOUT, async || tier.resolver.tap().reader_count() == number).await;
        let mut start = [0; 8];
        tokio::time::timeout(TAP_TIMEOUT, reader.read_exact(&mut start)).await.unwrap().unwrap();
        silent.push(reader);
    }
    exchange(tier.address, &query_for("www.example", RecordType::A)).await;
    let mut frames = [0; 64];
    tokio::time::timeout(TAP_TIMEOUT, first.read_exact(&mut frames)).await.unwrap().unwrap();
    let mut received = Vec::new();
    tokio::time::timeout(TAP_TIMEOUT, silent[0].read_to_end(&mut received)).await.unwrap().unwrap();
    assert_eq!(received, b"", "the oldest one that says nothing is closed");
    serving.abort();
}
