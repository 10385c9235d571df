//! Processor time of an answer from memory, in turns with a bare echo.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::client::Client;
use crate::peers::PEERS;
use crate::server::{ANSWER, address};

/// Questions of one turn.
const QUESTIONS: usize = 40_000;
const FEWEST_TURNS: usize = 12;
const MOST_TURNS: usize = 60;
/// The half width of the 95 % interval of a ratio that ends its turns, as a share of it.
const WIDTH: f64 = 0.02;
/// Numbers of names that are asked for.
const FEW: usize = 1_000;
const MANY: usize = 400_000;
pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks");

/// A server that runs, until it is dropped.
struct Server {
    name: String,
    version: String,
    child: Child,
    client: Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of the table.
#[derive(Default)]
struct Line {
    name: String,
    version: String,
    names: usize,
    nanoseconds: f64,
    /// The part of it that is not the kernel's.
    user: f64,
    echo: f64,
    ratio: f64,
    width: f64,
    turns: usize,
    length: usize,
}

pub(crate) fn run(only: Option<&str>) {
    let mut second = CpuSet::new();
    second.set(1);
    sched_setaffinity(None, &second).expect("a second processor");
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let is_meant = |name: &str| only.is_none_or(|only| name.starts_with(only));
    for names in [FEW, MANY].into_iter().filter(|_| is_meant("DnsTier")) {
        lines.push(measure(ours(names), names));
    }
    let upstream = start("upstream", FEW, FEW);
    let upstream_address = upstream.client.server();
    for peer in PEERS.into_iter().filter(|peer| is_meant(peer.name)) {
        if !peer.is_installed() {
            println!("{} is not installed and left out", peer.name);
            continue;
        }
        let place = free();
        let child = peer.start(folder.path(), place, upstream_address);
        let client = Client::new(place, FEW);
        let server = Server { name: peer.name.into(), version: peer.version(), child, client };
        lines.push(measure(server, FEW));
    }
    drop(upstream);
    if only.is_none() {
        write(&lines);
    }
}

/// Measures a server beside an echo that runs at the same time and is asked in turns with it.
fn measure(mut server: Server, names: usize) -> Line {
    let mut echo = start("echo", 0, names);
    warm(&mut server, names);
    echo.client.ask(QUESTIONS);
    let before = ticks(&server.child);
    let (mut times, mut echoes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut width = f64::INFINITY;
    let mut length = 0;
    while ratios.len() < FEWEST_TURNS || (width > WIDTH && ratios.len() < MOST_TURNS) {
        let (echo_time, _) = turn(&mut echo);
        let (time, its_length) = turn(&mut server);
        length = its_length;
        times.push(time);
        echoes.push(echo_time);
        ratios.push((echo_time / time).ln());
        width = half_width(&ratios);
    }
    let line = Line {
        name: server.name.clone(),
        version: server.version.clone(),
        names,
        user: median(&mut times) * user_share(before, ticks(&server.child)),
        nanoseconds: median(&mut times),
        echo: median(&mut echoes),
        ratio: mean(&ratios).exp(),
        width,
        turns: ratios.len(),
        length,
    };
    println!("{}", row(&line));
    line
}

/// Nanoseconds of processor time for each answer, and its length.
fn turn(server: &mut Server) -> (f64, usize) {
    let before = processor_time(&server.child);
    let report = server.client.ask(QUESTIONS);
    let took = processor_time(&server.child) - before;
    assert!(report.answered > QUESTIONS / 2, "{} answered {} of {}", server.name, report.answered, report.sent);
    (took / report.answered as f64, report.length)
}

/// Asks for everything until it is in memory: a resolver that forwards has to learn it first.
fn warm(server: &mut Server, names: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut full = 0;
    while full < 3 {
        assert!(Instant::now() < deadline, "{} does not come to know the names", server.name);
        let report = server.client.ask(names);
        full = if report.answered == report.sent { full + 1 } else { 0 };
        if report.answered == 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn ours(names: usize) -> Server {
    start("engine", names, names)
}

fn start(which: &str, known: usize, names: usize) -> Server {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("taskset")
        .args(["-c", "0"])
        .arg(program)
        .args(["serve", which, &known.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let name = if which == "echo" { "echo" } else { "DnsTier" };
    let client = Client::new(address(&port), names);
    Server { name: name.into(), version: env!("CARGO_PKG_VERSION").into(), child, client }
}

fn free() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Nanoseconds for which all threads of a process have run.
pub(crate) fn processor_time(child: &Child) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let times = tasks.flatten().filter_map(|task| {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<f64>().ok()
    });
    times.sum()
}

/// Ticks that a process has run in user mode and in the kernel.
fn ticks(child: &Child) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // Behind the name, which is in brackets and may hold anything, come the fields from the third on (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse().unwrap(), fields[12].parse().unwrap())
}

fn user_share(before: (f64, f64), after: (f64, f64)) -> f64 {
    let (user, kernel) = (after.0 - before.0, after.1 - before.1);
    user / (user + kernel).max(1.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Half of the 95 % interval of the mean of logarithms, and so of a ratio as a share of itself.
fn half_width(values: &[f64]) -> f64 {
    let (mean, number) = (mean(values), values.len() as f64);
    if number < 2.0 {
        return f64::INFINITY;
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (number - 1.0);
    1.96 * (variance / number).sqrt()
}

fn row(line: &Line) -> String {
    let Line { name, version, names, nanoseconds, user, echo, ratio, width, turns, length } = line;
    let width = 100.0 * width;
    format!(
        "| {name:<32} | {version:<22} | {names:>7} | {nanoseconds:>7.0} | {user:>7.0} | {echo:>7.0} | {ratio:>6.2} | ± {width:>4.1} % | {turns:>5} | {length:>6} |"
    )
}

fn write(lines: &[Line]) {
    fs::create_dir_all(FOLDER).unwrap();
    let heads = ["server", "version", "names", "ns", "user ns", "echo ns", "echo ÷ it", "95 %", "turns", "octets"];
    let mut markdown = format!("| {} |\n|{}\n", heads.join(" | "), " --- |".repeat(heads.len()));
    let mut csv = String::from(
        "server,version,names,cpu_ns_per_answer,user_ns,echo_cpu_ns,echo_ratio,half_width_95,turns,answer_octets\n",
    );
    for line in lines {
        writeln!(markdown, "{}", row(line)).unwrap();
        writeln!(
            csv,
            "\"{}\",{},{},{:.0},{:.0},{:.0},{:.3},{:.4},{},{}",
            line.name,
            line.version,
            line.names,
            line.nanoseconds,
            line.user,
            line.echo,
            line.ratio,
            line.width,
            line.turns,
            line.length
        )
        .unwrap();
    }
    let about = format!(
        "# Processor time of an answer from memory\n\nWritten by `make bench`. Each server runs alone on the first processor, the client on the second, in a network \
         namespace\nof their own. `ns` is the median of the processor time that the server's process took for each answer, kernel \
         included, `user ns`\nthe part of it outside of the kernel, `echo ns` the whole of a program that only sends back as many octets ({ANSWER}), in turns with it; a ratio\nof 1.00 \
         is what sockets cost. A ratio counts only where the answer is {ANSWER} octets long as well.\n\n![Bars: how near each server comes to a bare echo](hits.svg)\n\n\
         {}\n\n",
        machine()
    );
    fs::write(Path::new(FOLDER).join("hits.svg"), picture(lines)).unwrap();
    fs::write(Path::new(FOLDER).join("hits.md"), about + &markdown).unwrap();
    fs::write(Path::new(FOLDER).join("hits.csv"), csv).unwrap();
}

/// What it was measured on, in a sentence or two.
pub(crate) fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Processor: {model}. Kernel: {}.", kernel.trim())
}

/// A bar for each line: how near it comes to the echo.
fn picture(lines: &[Line]) -> String {
    const ROW: usize = 30;
    const LEFT: usize = 300;
    const FULL: f64 = 400.0;
    let height = ROW * (lines.len() + 1) + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 780 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n"
    );
    let echo = Line { name: "echo: what sockets cost".into(), names: 0, ratio: 1.0, ..Line::default() };
    for (row, line) in std::iter::once(&echo).chain(lines).enumerate() {
        let (y, width) = (8 + row * ROW, FULL * line.ratio);
        let names = if line.names == 0 { String::new() } else { format!(", {} names", line.names) };
        let colour = match line.name.as_str() {
            "DnsTier" => "#2b6cb0",
            _ if line.names == 0 => "#a0aec0",
            _ => "#cbd5e0",
        };
        writeln!(svg, "  <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}{names}</text>", LEFT - 10, y + 18, line.name)
            .unwrap();
        writeln!(svg, "  <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"{}\" fill=\"{colour}\"/>", ROW - 6)
            .unwrap();
        writeln!(svg, "  <text x=\"{:.0}\" y=\"{}\">{:.2}</text>", LEFT as f64 + width + 8.0, y + 18, line.ratio)
            .unwrap();
    }
    svg + "</svg>\n"
}
