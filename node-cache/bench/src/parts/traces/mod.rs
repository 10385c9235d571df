//! Part `traces`: hit rate at equal memory, on streams of queries that are made from a fixed seed.

pub(crate) mod mail;
mod random;
mod zipf;

use std::path::Path;
use std::time::Duration;

use crate::host::process;
use crate::host::processors::{CLIENT_CPU, pin_current_thread};
use crate::load::flow::{Flow, Progress};
use crate::load::plan::Plan;
use crate::load::queries;
use crate::report::bars::Bars;
use crate::report::labels::OURS;
use crate::report::table::{Better, Column, Table, format_number};
use crate::servers::process::ServerProcess;
use crate::servers::subject::{CacheSize, Subject};
use crate::servers::upstream::{Upstream, ZoneData};

/// Queries per second to each server, and in all.
const RATE: f64 = 4_000.0;
const QUERIES: usize = 280_000;
const LONG_QUERIES: usize = 2_000_000;
/// Factor by which time is accelerated: TTLs are divided by it.
const ACCELERATION: u32 = 5;
/// TTLs in seconds before acceleration.
const MIN_TTL: u32 = 30;
const MAX_TTL: u32 = 300;
/// Maximum queries in flight: a server that is slower than the stream gets the rest of it later.
const WINDOW: usize = 512;
/// Time limit of a stream, as a multiple of its planned time.
const TIME_LIMIT_FACTOR: f64 = 2.0;
/// Queries of the warm-up, before resident memory is read the first time.
const WARM_UP_QUERIES: u64 = 2_000;
const MIB: u64 = 1 << 20;
const MAIL: &str = "mail";
/// Domains that send mail.
const MAIL_DOMAINS: usize = 300_000;
/// Pause between two rounds of all servers.
const ROUND_PAUSE: Duration = Duration::from_micros(200);
/// DnsTier's counter of refreshes ahead of expiry.
const REFRESHES: &str = "dnstier_cache_refreshes_total";

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("trace", "trace"),
    Column("hit %", "hit_percent"),
    Column("without refreshes %", "hit_percent_without_refreshes"),
    Column("growth MiB", "rss_growth_mib"),
    Column("peak MiB", "rss_peak_growth_mib"),
    Column("queries", "queries"),
    Column("upstream queries", "upstream_queries"),
    Column("refreshes", "refreshes"),
    Column("lost", "lost"),
];

/// Stream of queries, and the upstream's data for them.
struct Trace {
    name: &'static str,
    queries: Vec<Vec<u8>>,
    zone_data: ZoneData,
}

pub(super) const TITLE: &str = "Hit rate at equal memory";

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let queries = if std::env::var_os("BENCH_LONG").is_some() { LONG_QUERIES } else { QUERIES };
    let mut table = Table::new("traces", COLUMNS);
    let mut bars = Bars::new("hit rate in %");
    let traces: [fn(usize) -> Trace; 3] = [zipf_09, zipf_10, mail];
    for trace in traces {
        let trace = trace(queries);
        for result in replay(&trace, folder.path(), prefix) {
            bars.add(&format!("{}, {}", result.server, trace.name), result.hit_percent());
            table.add(result.row(trace.name));
        }
    }
    if prefix.is_some() {
        return;
    }
    let better: String = ["Zipf 0.9", "Zipf 1.0", MAIL]
        .iter()
        .map(|trace| format!("\n{trace}:\n\n{}", table.compare(|row| row[2] == *trace, 3, Better::Higher)))
        .collect();
    table.publish_chart(&bars.svg());
    table.publish(TITLE, METHOD, &[], &format!("![Bars: hit rates](traces.svg)\n{better}"));
}

pub(super) const METHOD: &str = "All servers get equal queries at the same time, 4,000 per second each and 280,000 in
all (2,000,000 with `BENCH_LONG=1`), with an upstream of its own for each, which counts. *hit* is the share of queries
for which the upstream got no query: prefetches, retries and second servers all count against it. *without refreshes*
leaves out prefetches, which DnsTier counts (*refreshes*): it is the share of clients that did not wait for the
upstream.

Servers run in real time, because only ours has a clock that could be set; so that it does not take an hour, time is
accelerated five times by dividing TTLs by five. They are whole seconds from 6 to 60; the stream is that of 800
queries per second with TTLs of 30 to 300 seconds over 350 seconds.

*Zipf*: A of one of 1,000,000 names, the one of rank r with a probability of 1/r^s; one to four addresses. *mail*: the
queries of a mail server for each message: PTR of the client, A of its address in 5 to 15 block lists, TXT of the
sender's domain, of its DMARC policy, of its DKIM key and of the provider that its SPF policy includes, MX of the
domain, and A and AAAA of its mail hosts. Half of the clients are senders that come again (100,000 by Zipf 1.0), half
were never seen before; there are 300,000 domains by Zipf 1.0; 95 of 100 responses of block lists, half of the PTR and
half of the DMARC ones are NXDOMAIN.

Memory is equal where it can be: each server is configured so that its resident memory grows by about 8 MiB; *growth*
and *peak* are those of this run, after a warm-up of 2,000 other queries (for dnsmasq, which allocates its whole cache
at its start, beyond its memory without a cache). CoreDNS as NodeLocal DNSCache is configured as on a node, whatever
it takes.";

fn zipf_09(queries: usize) -> Trace {
    Trace { name: "Zipf 0.9", queries: zipf::trace(0.9, queries), zone_data: zipf::answer }
}

fn zipf_10(queries: usize) -> Trace {
    Trace { name: "Zipf 1.0", queries: zipf::trace(1.0, queries), zone_data: zipf::answer }
}

fn mail(queries: usize) -> Trace {
    Trace { name: MAIL, queries: mail::trace(queries, MAIL_DOMAINS, mail::Naming::Together), zone_data: mail::answer }
}

/// Returns the accelerated TTL of an answer, in seconds, from the hash of its question.
fn ttl(hash: u64) -> u32 {
    (MIN_TTL + (hash >> 32) as u32 % (MAX_TTL - MIN_TTL + 1)) / ACCELERATION
}

/// Replay of a trace to one server, with its state before the trace.
struct Replay {
    subject: Subject,
    server: ServerProcess,
    upstream: Upstream,
    client: Flow,
    progress: Progress,
    is_done: bool,
    bytes_before: u64,
    upstream_queries_before: u64,
    refreshes_before: u64,
}

/// Result of a trace on one server.
#[derive(Debug, Default)]
struct TraceResult {
    server: &'static str,
    version: String,
    answered: u64,
    upstream_queries: u64,
    /// Refreshes ahead of expiry; `None` where the server does not count them.
    refreshes: Option<u64>,
    growth_bytes: u64,
    peak_bytes: u64,
    lost: u64,
}

/// Replays a trace to all servers at the same time.
fn replay(trace: &Trace, folder: &Path, prefix: Option<&str>) -> Vec<TraceResult> {
    let subjects = Subject::installed(prefix).into_iter().filter(Subject::has_distinct_cache);
    let mut replays: Vec<Replay> =
        subjects.enumerate().filter_map(|(number, subject)| Replay::prepare(number, subject, trace, folder)).collect();
    let plan = Plan {
        queries: trace.queries.len() as u64,
        time_limit: Duration::from_secs_f64(TIME_LIMIT_FACTOR * trace.queries.len() as f64 / RATE),
        rate: Some(RATE),
        window: WINDOW,
    };
    replays.iter_mut().for_each(|replay| replay.progress = Progress::new(plan));
    let mut source = |number: u64, out: &mut Vec<u8>| out.extend_from_slice(&trace.queries[number as usize]);
    while replays.iter().any(|replay| !replay.is_done) {
        for replay in replays.iter_mut().filter(|replay| !replay.is_done) {
            replay.is_done = replay.client.step(&mut replay.progress, &mut source);
            replay.upstream.serve_pending();
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    replays.into_iter().map(Replay::result).collect()
}

impl Replay {
    /// Starts a server with an upstream of its own and warms it up. Servers alternate between both processors.
    fn prepare(number: usize, subject: Subject, trace: &Trace, folder: &Path) -> Option<Self> {
        let mut upstream = Upstream::new(trace.zone_data);
        let server = subject.spawn_ready(folder, &mut upstream, cache_size(&subject, trace.name))?;
        process::pin(server.pid(), number % 2);
        let mut client = Flow::new(server.address, 1);
        let warm_up = Plan { queries: WARM_UP_QUERIES, time_limit: Duration::from_secs(5), rate: None, window: 32 };
        let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(0, number, out);
        client.run(warm_up, &mut source, || upstream.serve_pending());
        let without_cache = if subject.allocates_cache_at_start() {
            subject.resident_bytes_without_cache(folder, &mut upstream)
        } else {
            None
        };
        let bytes_before = without_cache.unwrap_or_else(|| server.resident_bytes());
        let upstream_queries_before = upstream.queries();
        let refreshes_before = server.counter(REFRESHES).unwrap_or_default();
        Some(Self {
            subject,
            server,
            upstream,
            client,
            progress: Progress::new(warm_up),
            is_done: false,
            bytes_before,
            upstream_queries_before,
            refreshes_before,
        })
    }

    fn result(self) -> TraceResult {
        let outcome = self.progress.outcome();
        TraceResult {
            server: self.subject.name(),
            version: self.subject.version(),
            answered: outcome.answered,
            upstream_queries: self.upstream.queries() - self.upstream_queries_before,
            refreshes: self.server.counter(REFRESHES).map(|refreshes| refreshes - self.refreshes_before),
            growth_bytes: self.server.resident_bytes().saturating_sub(self.bytes_before),
            peak_bytes: self.server.peak_resident_bytes().saturating_sub(self.bytes_before),
            lost: outcome.lost + outcome.failed,
        }
    }
}

impl TraceResult {
    /// Returns the percentage of queries for which the upstream got no query.
    fn hit_percent(&self) -> f64 {
        100.0 * (1.0 - self.upstream_queries as f64 / self.answered as f64)
    }

    /// Returns the percentage of queries that did not wait for the upstream.
    fn hit_percent_without_refreshes(&self, refreshes: u64) -> f64 {
        100.0 * (1.0 - self.upstream_queries.saturating_sub(refreshes) as f64 / self.answered as f64)
    }

    fn row(&self, trace: &str) -> Vec<String> {
        let or_dash = |format: &dyn Fn(u64) -> String| self.refreshes.map_or_else(|| "-".into(), format);
        vec![
            self.server.into(),
            self.version.clone(),
            trace.into(),
            format!("{:.1}", self.hit_percent()),
            or_dash(&|refreshes| format!("{:.1}", self.hit_percent_without_refreshes(refreshes))),
            format_number(self.growth_bytes as f64 / MIB as f64),
            format_number(self.peak_bytes as f64 / MIB as f64),
            format!("{}", self.answered),
            format!("{}", self.upstream_queries),
            or_dash(&|refreshes| refreshes.to_string()),
            format!("{}", self.lost),
        ]
    }
}

/// Returns the size with which a server's resident memory grows by about 8 MiB, found by experiment.
fn cache_size(subject: &Subject, trace: &str) -> CacheSize {
    let by_trace = |zipf: u64, mail: u64| if trace == MAIL { mail } else { zipf };
    let bytes = match subject.name() {
        OURS => by_trace(13 * MIB, 10 * MIB),
        "unbound" => by_trace(7 * MIB, 6 * MIB),
        "kresd" => 8 * MIB,
        _ => 0,
    };
    let responses = match subject.name() {
        OURS | "unbound" | "kresd" => 0,
        "dnsmasq" => 18_500,
        "dnsdist" => by_trace(10_200, 7_500),
        "CoreDNS" => by_trace(5_200, 3_200),
        _ => 5_000,
    };
    subject.cache_size(bytes, responses as usize)
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, TraceResult, ttl};

    #[test]
    fn refreshes_count_as_misses_of_the_upstream_but_not_of_clients() {
        let result = TraceResult { answered: 1000, upstream_queries: 400, refreshes: Some(100), ..Default::default() };
        let row = result.row("mail");
        assert_eq!((row[3].as_str(), row[4].as_str(), row[9].as_str()), ("60.0", "70.0", "100"));
        assert_eq!(row.len(), COLUMNS.len());
        assert_eq!(TraceResult { refreshes: None, ..result }.row("mail")[4], "-");
    }

    #[test]
    fn ttls_are_accelerated() {
        let ttls: Vec<u32> = (0..271).map(|second: u64| ttl(second << 32)).collect();
        assert_eq!((ttls.iter().min(), ttls.iter().max()), (Some(&6), Some(&60)));
    }
}
