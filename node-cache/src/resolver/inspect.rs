//! Text of the inspection commands `stats`, `explain`, `dump` and `flush`, and the gauges of `/metrics`.

use std::fmt::Write;

use node_cache_config::figures::ScopeResponses;
use node_cache_config::status::UpstreamState;
use tokio::time::Instant;

use super::Resolver;
use super::local_names;
use crate::admin::Inspection;
use crate::cache::{CachedFailure, EntryInfo, FlushStep, Key, KeyParts, Lookup};
use crate::dns::codes::{rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Name, alias};
use crate::metrics::{DropReason, Gauges, RefusalReason};
use crate::snapshot::{Scope, Snapshot};
use crate::upstream::Server;

/// Cache entries that one `dump` lists, at most.
const MAX_DUMPED_ENTRIES: usize = 10_000;

impl Resolver {
    /// Returns the text of an inspection command.
    pub async fn inspect(&self, inspection: Inspection) -> String {
        match inspection {
            Inspection::Stats => self.stats(),
            Inspection::Explain { name, rtype } => self.explain(&name, rtype),
            Inspection::ExplainUpstream { address, port } => self.explain_upstream(address, port),
            Inspection::Flush { name, below } => self.flush(&name, below).await,
            Inspection::Dump { below } => self.dump(&below).await,
        }
    }

    /// Returns the gauges of this process, without those of its workers and of the process itself.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let snapshot = self.snapshot();
        let of_snapshot = snapshot.as_ref();
        Gauges {
            upstreams: of_snapshot.map(|snapshot| snapshot.upstreams()).unwrap_or_default(),
            max_shown_upstreams: of_snapshot.map(|snapshot| snapshot.max_shown_upstreams).unwrap_or_default(),
            response_times: of_snapshot.map(|snapshot| snapshot.context.response_times.clone()),
            packets: of_snapshot.map(|snapshot| snapshot.context.packets.clone()),
            own_zone_scopes: of_snapshot.map(|snapshot| snapshot.own_zone_scopes.clone()).unwrap_or_default(),
            classes: self.cache.usage_by_class().to_vec(),
            cache_limit: self.cache.limit(),
            cache_evictions: self.cache.evictions(),
            fallback_responses: of_snapshot
                .and_then(|snapshot| snapshot.fallback_denial_ede)
                .map(|_| self.metrics.reserve_responses()),
            tap_readers: self.tap.reader_count().into(),
            tap_shown: self.tap.frames_written(),
            tap_lost: self.tap.frames_lost(),
            ..Gauges::default()
        }
    }

    fn stats(&self) -> String {
        let traffic = self.metrics.traffic(self.cache.bytes(), self.cache.entries());
        let mut text = String::new();
        for (label, count) in [
            ("queries", traffic.queries),
            ("hits", traffic.hits),
            ("stale", traffic.stale),
            ("misses", self.metrics.misses()),
            ("refreshes", self.metrics.refreshes()),
            ("servfail", traffic.servfail),
            ("from reserve", self.metrics.reserve_responses()),
        ] {
            write_line(&mut text, label, count);
        }
        let figures = self.metrics.figures(Vec::new());
        write_line(&mut text, "slow misses", figures.slow_misses);
        write_line(&mut text, "names failing", figures.servfail_names.estimate());
        write_line(&mut text, "names slow", figures.slow_names.map_or(0, |names| names.estimate()));
        for row in figures.responses {
            let ScopeResponses { scope, noerror, nxdomain, servfail, other } = row;
            let counts = [("NOERROR", noerror), ("NXDOMAIN", nxdomain), ("SERVFAIL", servfail), ("other", other)];
            write_line(&mut text, "responses", format!("{scope}: {}", count_by_reason(&counts)));
        }
        let drops = DropReason::ALL.map(|reason| (reason.label(), self.metrics.drops(reason)));
        write_line(&mut text, "dropped", count_by_reason(&drops));
        let refused = RefusalReason::ALL.map(|reason| (reason.label(), self.metrics.refused_admissions(reason)));
        write_line(&mut text, "not admitted", count_by_reason(&refused));
        write_line(&mut text, "cache entries", traffic.cache_entries);
        write_line(&mut text, "cache bytes", traffic.cache_bytes);
        for usage in self.cache.usage_by_class() {
            write_line(&mut text, usage.class, format!("{} entries, {} bytes", usage.entries, usage.bytes));
        }
        let tap = format!("{}, {} messages lost", self.tap.reader_count(), self.tap.frames_lost());
        write_line(&mut text, "tap readers", tap);
        for (scope, server) in self.snapshot().iter().flat_map(|snapshot| snapshot.servers()) {
            let address = server.address();
            let health = health_text(&server);
            let sent = server.sent();
            let timeouts = server.timeouts();
            let mut value = format!("{address} ({scope}) {health}: {sent} sent, {timeouts} timeouts");
            if let Some(p95) = server.p95() {
                value.push_str(&format!(", p95 {:.1} ms", 1000.0 * p95.as_secs_f64()));
            }
            let near_misses = server.near_misses();
            if near_misses > 0 {
                value.push_str(&format!(", {near_misses} near misses"));
            }
            let lame = server.lame_domain_count();
            if lame > 0 {
                value.push_str(&format!(", lame for {lame} domains"));
            }
            value.push_str(&habits_text(&server));
            write_line(&mut text, "upstream", value);
        }
        text
    }

    fn explain(&self, name: &Name, rtype: u16) -> String {
        let mut text = format!("{name} {}\n", rtype::to_text(rtype));
        let query = Query::plain(name.clone(), rtype);
        if local_names::answer(&query.question(), &self.identity).is_some() {
            write_line(&mut text, "route", "local: this process answers it in any configuration (RFC 6761)");
            return text;
        }
        let Some(snapshot) = self.snapshot() else {
            write_line(&mut text, "route", "none: there is no configuration yet");
            return text;
        };
        if let Some(zone) = snapshot.empty_zones.find(name) {
            write_line(&mut text, "route", format!("empty zone {zone}: never forwarded (RFC 6303)"));
            return text;
        }
        let scope = snapshot.routes.find(name);
        write_line(&mut text, "route", &scope.name);
        for group in scope.pool.groups() {
            for server in group.servers() {
                let health = health_text(&server);
                let tcp = if server.avoids_udp(name) { ", over TCP because of near misses" } else { "" };
                let edns = server.edns_absent_for().map(|time| format!(", without EDNS for {} s", time.as_secs()));
                let closed = if server.is_tcp_usable() { "" } else { ", TCP closed" };
                let lame = if server.is_lame_for_name(name) { ", lame for this domain" } else { "" };
                let traits = format!("{lame}{tcp}{}{closed}{}", edns.unwrap_or_default(), habits_text(&server));
                write_line(&mut text, "upstream", format!("{} ({}) {health}{traits}", server.address(), group.scope()));
            }
        }
        self.explain_cache(&mut text, &snapshot, scope, &query.question());
        text
    }

    fn explain_cache(&self, text: &mut String, snapshot: &Snapshot, scope: &Scope, question: &Question) {
        let now = Instant::now().into_std();
        let mut has_entry = false;
        for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true), (true, true)] {
            let question = Question { dnssec_ok, checking_disabled, ..question.clone() };
            let key = Key::new(scope.id, &question);
            let flags = flags_text(dnssec_ok, checking_disabled);
            let mut write_entry = |subject: &str, entry: Option<EntryInfo>| {
                if let Some(entry) = entry {
                    let server = snapshot.context.server_ids.address(entry.server_id);
                    let from = server.map(|server| format!(", from {server}")).unwrap_or_default();
                    write_line(text, "cache", format!("{subject}{flags}: {entry}{from}"));
                    has_entry = true;
                }
            };
            write_entry("this query", self.cache.inspect(&key, now, &snapshot.policy));
            write_entry("any type", self.cache.covering_denial(&key, now, &snapshot.policy));
            if let Some((ancestor, _)) = self.find_cut(snapshot, scope, &question) {
                let key = Key::new(scope.id, &Question { name: ancestor.clone(), rtype: rtype::A, ..question.clone() });
                write_entry(&ancestor.to_string(), self.cache.inspect(&key, now, &snapshot.policy));
            }
            if let Lookup::Fresh(answer) | Lookup::RefreshDue(answer) | Lookup::Stale(answer) =
                self.cache.get(&key, now, &snapshot.policy)
                && let Some(target) = alias::continuation(&answer.response)
            {
                let next = &snapshot.routes.find(&target).name;
                write_line(text, "alias", format!("goes on with {target} ({next}){flags}"));
            }
            match self.failure_of(scope, &key, Instant::from_std(now)) {
                Some(CachedFailure { response: Some(response) }) => {
                    let of_fallback = if response.is_denied_by_fallback() { " of the fallback" } else { "" };
                    let rcode = rcode::name(response.rcode());
                    write_line(text, "failure", format!("{rcode}{of_fallback}{flags}"));
                }
                Some(CachedFailure { response: None }) => {
                    write_line(text, "failure", format!("no upstream responded{flags}"))
                }
                None => {}
            }
        }
        if !has_entry {
            write_line(text, "cache", "no entry");
        }
    }

    async fn flush(&self, name: &Name, below: bool) -> String {
        let is_flushed = |parts: &KeyParts| if below { parts.name.is_within(name) } else { parts.name == *name };
        let mut flushed = 0;
        let mut position = Some(0);
        while let Some(from) = position {
            let FlushStep { removed: count, next } = self.cache.flush(from, is_flushed);
            flushed += count;
            position = next;
            // Queries take precedence.
            tokio::task::yield_now().await;
        }
        format!("{flushed} entries flushed\n")
    }

    async fn dump(&self, below: &Name) -> String {
        let Some(snapshot) = self.snapshot() else { return "there is no configuration yet\n".to_owned() };
        let scopes = snapshot.scopes();
        let mut text = String::new();
        let mut listed = 0;
        let mut omitted = 0;
        let mut position = Some(0);
        while let Some(from) = position {
            let now = Instant::now().into_std();
            position = self.cache.visit(from, now, &snapshot.policy, |parts, entry| {
                if !parts.name.is_within(below) {
                    return;
                }
                if listed == MAX_DUMPED_ENTRIES {
                    omitted += 1;
                    return;
                }
                listed += 1;
                let scope = scopes.iter().find(|scope| scope.id == parts.scope);
                let scope = scope.map_or("(removed)", |scope| &scope.name);
                let rtype = parts.rtype.map_or_else(|| "(any)".to_owned(), rtype::to_text);
                let flags = flags_text(parts.dnssec_ok, parts.checking_disabled);
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{} {rtype}{flags} [{scope}]: {entry}", parts.name);
            });
            tokio::task::yield_now().await;
        }
        if omitted > 0 {
            let _ = writeln!(text, "and {omitted} more entries; name a suffix to list fewer");
        }
        if text.is_empty() {
            text.push_str("no entries\n");
        }
        text
    }
}

/// Returns the state of a server in words.
pub(super) fn health_text(server: &Server) -> String {
    match server.upstream_state() {
        UpstreamState::Up => "up".to_owned(),
        UpstreamState::Suspected => "up, suspected".to_owned(),
        UpstreamState::Returning => "up, in slow start".to_owned(),
        UpstreamState::Down => "down".to_owned(),
        UpstreamState::Ejected => match server.ejection() {
            Some((reason, time)) => format!("ejected for {} s because {reason}", time.as_secs()),
            None => "ejected".to_owned(),
        },
    }
}

/// Returns what is learned or configured about a server that changes how it is queried, each part after a comma.
pub(super) fn habits_text(server: &Server) -> String {
    let mut text = String::new();
    if let Some(reason) = server.lower_case_reason() {
        text.push_str(&format!(", in lower case {}", reason.text()));
    }
    if let Some(responses) = server.responses_per_connection() {
        text.push_str(&format!(", closes a TCP connection after {responses} responses"));
    }
    text
}

/// Returns the sum of these counts, followed by the reasons that have any.
fn count_by_reason(counts: &[(&str, u64)]) -> String {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let reasons: Vec<_> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
    match reasons.as_slice() {
        [] => total.to_string(),
        reasons => format!("{total} ({})", reasons.join(", ")),
    }
}

const fn flags_text(dnssec_ok: bool, checking_disabled: bool) -> &'static str {
    match (dnssec_ok, checking_disabled) {
        (false, false) => "",
        (true, false) => " with DO",
        (false, true) => " with CD",
        (true, true) => " with DO and CD",
    }
}

pub(super) fn write_line(text: &mut String, label: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {label:<16}{value}");
}
