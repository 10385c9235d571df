//! Part `memory`: resident memory per response in the cache, and with many more names than the cache has room for.

use std::path::Path;
use std::time::Duration;

use crate::host::processors::{CLIENT_CPU, pin_current_thread};
use crate::load::flow::Flow;
use crate::load::plan::Plan;
use crate::load::queries;
use crate::report::labels::OURS;
use crate::report::table::{Better, Column, Goal, Table, format_number};
use crate::servers::subject::{CacheSize, Subject};
use crate::servers::upstream::{Upstream, four_addresses};

/// Responses whose bytes are measured.
const MEASURED_NAMES: u64 = 100_000;
/// Names of the warm-up.
const WARM_UP_NAMES: u64 = 2_000;
/// Size for all of them and not much more, because an index grows with the size.
const MEASURED_CACHE_SIZE: CacheSize = CacheSize { bytes: 96 << 20, names: 130_000 };
/// Size of the cache that is flooded, in bytes.
const FLOODED_CACHE_BYTES: u64 = 64 << 20;
/// Maximum bytes of DnsTier's resident memory besides the cache.
const MAX_BYTES_BESIDES_CACHE: u64 = 16 << 20;
/// Names of the flood, each queried once.
const FLOOD_NAMES: u64 = 10_000_000;
/// Time limit of a flood: in an ordinary run; and in a long run, or where there is a goal.
const FLOOD_TIME_LIMIT: Duration = Duration::from_secs(60);
const LONG_FLOOD_TIME_LIMIT: Duration = Duration::from_secs(900);
/// Queries in flight.
const WINDOW: usize = 64;
const MIB: u64 = 1 << 20;

const COLUMNS: &[Column] = &[
    Column("server", "server"),
    Column("version", "version"),
    Column("bytes/response", "bytes_per_response"),
    Column("names", "unique_names_queried"),
    Column("names/s", "names_per_s"),
    Column("start MiB", "rss_start_mib"),
    Column("peak MiB", "rss_peak_mib"),
    Column("growth MiB", "rss_growth_mib"),
    Column("cache MiB", "cache_mib"),
    Column("lost", "lost"),
];

pub(super) const TITLE: &str = "Memory";

pub(crate) fn run(prefix: Option<&str>) {
    pin_current_thread(CLIENT_CPU);
    let folder = tempfile::tempdir().unwrap();
    let is_long = std::env::var_os("BENCH_LONG").is_some();
    let mut table = Table::new("memory", COLUMNS);
    let mut our_peak = u64::MAX;
    let mut our_names = 0;
    for subject in Subject::installed(prefix).into_iter().filter(Subject::has_distinct_cache) {
        let Some(PerResponse(bytes)) = measure_bytes_per_response(&subject, folder.path()) else { continue };
        // Servers that count responses get as many as fit into the same bytes, by what was just measured.
        let responses = (FLOODED_CACHE_BYTES as f64 / bytes.unwrap_or(f64::INFINITY)) as usize;
        let cache_size = subject.cache_size(FLOODED_CACHE_BYTES, responses);
        let time_limit = if is_long || subject.name() == OURS { LONG_FLOOD_TIME_LIMIT } else { FLOOD_TIME_LIMIT };
        let Some(flood) = flood(&subject, folder.path(), cache_size, time_limit) else { continue };
        if subject.name() == OURS {
            our_peak = flood.peak_bytes;
            our_names = flood.names;
        }
        table.add(vec![
            subject.name().into(),
            subject.version(),
            bytes.map_or_else(|| "-".into(), |bytes| format!("{bytes:.0}")),
            format!("{}", flood.names),
            format!("{:.0}", flood.rate),
            mebibytes(flood.start_bytes),
            mebibytes(flood.peak_bytes),
            mebibytes(flood.peak_bytes.saturating_sub(flood.start_bytes)),
            mebibytes(cache_size.bytes),
            format!("{}", flood.lost),
        ]);
    }
    if prefix.is_some() {
        return;
    }
    let limit = FLOODED_CACHE_BYTES + MAX_BYTES_BESIDES_CACHE;
    let goal = Goal {
        subject: format!("resident memory of DnsTier with a cache of 64 MiB, after {our_names} names"),
        wanted: format!("≤ {} MiB", mebibytes(limit)),
        measured: format!("{} MiB", mebibytes(our_peak)),
        is_reached: our_peak <= limit,
    };
    let better = table.compare_all(&[(2, Better::Lower), (6, Better::Lower), (7, Better::Lower)]);
    table.publish(TITLE, METHOD, &[goal], &better);
}

pub(super) const METHOD: &str = "Each server forwards to an upstream that answers every query at once with four
addresses, in 118 octets.

*bytes/response*: with a cache for all of them (96 MiB, or 130,000 names), the growth of the resident memory by
100,000 names, divided by them, after a warm-up of 2,000 other names. Whether all are in the cache is tested by
querying them again: the upstream must not get these queries (a server that forwards more than one in a hundred of
them has a dash). dnsmasq allocates its whole cache at its start: its memory then, less its memory without a cache, is
divided by the records of the cache, of which a response has four here.

*names* are then queried once each from a new process, as fast as it answers with 64 queries in flight, so that far
more names come than its cache can hold: 10,000,000, for 15 minutes at most, and for one minute for other servers than
DnsTier unless the run is a long one (`BENCH_LONG=1`): by then each got more names than its cache can hold. *start* is
its resident memory after its first responses, *peak* the largest that it ever had, *growth* the difference. DnsTier,
unbound and kresd are configured with the bytes in *cache* (unbound with a third of it for messages and two for
RRsets, as its manual says); the others count responses, and are configured with as many as fit into these bytes by
what was measured before. kresd's cache is a file that is mapped into its memory, and counts as its memory here.";

fn mebibytes(bytes: u64) -> String {
    format_number(bytes as f64 / MIB as f64)
}

/// Bytes of resident memory per response in the cache; `None` where the server does not hold all responses.
struct PerResponse(Option<f64>);

/// Measures bytes per response; `None` where the server does not answer.
fn measure_bytes_per_response(subject: &Subject, folder: &Path) -> Option<PerResponse> {
    let mut upstream = Upstream::new(four_addresses);
    let server = subject.spawn_ready(folder, &mut upstream, MEASURED_CACHE_SIZE)?;
    if subject.allocates_cache_at_start() {
        let without_cache = subject.resident_bytes_without_cache(folder, &mut upstream)?;
        let cache = server.resident_bytes().saturating_sub(without_cache);
        // The cache has room for five records per name, and a response has four.
        return Some(PerResponse(Some(4.0 / 5.0 * cache as f64 / MEASURED_CACHE_SIZE.names as f64)));
    }
    let mut client = Flow::new(server.address, 4);
    query_set(&mut client, &mut upstream, 0, WARM_UP_NAMES);
    let before = server.resident_bytes();
    query_set(&mut client, &mut upstream, 1, MEASURED_NAMES);
    let growth = server.resident_bytes().saturating_sub(before);
    let upstream_queries = upstream.queries();
    query_set(&mut client, &mut upstream, 1, MEASURED_NAMES);
    let holds_all = upstream.queries() - upstream_queries <= MEASURED_NAMES / 100;
    Some(PerResponse(holds_all.then_some(growth as f64 / MEASURED_NAMES as f64)))
}

/// Queries the names of a set until nearly all were answered, three times at most.
fn query_set(client: &mut Flow, upstream: &mut Upstream, set: u8, names: u64) {
    let plan = Plan { queries: names, time_limit: Duration::from_secs(30), rate: None, window: WINDOW };
    let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(set, number, out);
    for _ in 0..3 {
        let outcome = client.run(plan, &mut source, || upstream.serve_pending());
        if outcome.answered + names / 1000 >= names {
            return;
        }
    }
}

/// Result of a flood of unique names. Bytes are of resident memory.
struct Flood {
    names: u64,
    /// Responses per second.
    rate: f64,
    start_bytes: u64,
    peak_bytes: u64,
    lost: u64,
}

fn flood(subject: &Subject, folder: &Path, cache_size: CacheSize, time_limit: Duration) -> Option<Flood> {
    let mut upstream = Upstream::new(four_addresses);
    let server = subject.spawn_ready(folder, &mut upstream, cache_size)?;
    let start_bytes = server.resident_bytes();
    let mut client = Flow::new(server.address, 4);
    let plan = Plan { queries: FLOOD_NAMES, time_limit, rate: None, window: WINDOW };
    let mut source = |number, out: &mut Vec<u8>| queries::append_of_set(2, number, out);
    let outcome = client.run(plan, &mut source, || upstream.serve_pending());
    Some(Flood {
        names: outcome.sent,
        rate: outcome.rate(),
        start_bytes,
        peak_bytes: server.peak_resident_bytes(),
        lost: outcome.lost + outcome.failed,
    })
}
