//! What would be said to a question and why, and what is in memory: for whoever looks after a tier.

use std::fmt::Write;

use tokio::time::Instant;

use super::local_names;
use super::{Resolver, nxdomain_cut};
use crate::admin::Inspection;
use crate::cache::{EntryInfo, Key, KeyParts};
use crate::dns::Name;
use crate::dns::codes::{rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::metrics::{Dropped, Gauges, ResponseTimes};
use crate::snapshot::{Scope, Snapshot};

/// The most answers that one dump shows.
const MOST_SHOWN: usize = 10_000;

impl Resolver {
    /// The text for whoever asks.
    pub async fn inspect(&self, inspection: Inspection) -> String {
        match inspection {
            Inspection::Stats => self.stats(),
            Inspection::Explain { name, rtype } => self.explain(&name, rtype),
            Inspection::Flush { name, below } => self.flush(&name, below).await,
            Inspection::Dump { below } => self.dump(&below).await,
        }
    }

    /// Returns the gauges of this process. `worker_datagrams` is left empty: the workers know it.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let snapshot = self.snapshot();
        let servers = snapshot.iter().flat_map(|snapshot| snapshot.servers());
        let response_times = servers.map(|(scope, server)| ResponseTimes {
            scope,
            address: server.address(),
            seconds: server.round_trips().clone(),
        });
        Gauges {
            response_times: response_times.collect(),
            upstreams: snapshot.as_ref().map(|snapshot| snapshot.upstreams()).unwrap_or_default(),
            classes: self.cache.held().to_vec(),
            worker_datagrams: Vec::new(),
            tap_readers: self.tap.readers().into(),
            tap_shown: self.tap.told(),
            tap_lost: self.tap.lost(),
        }
    }

    fn stats(&self) -> String {
        let traffic = self.metrics.traffic(self.cache.bytes(), self.cache.entries());
        let mut text = String::new();
        for (what, number) in [
            ("questions", traffic.queries),
            ("from memory", traffic.hits),
            ("past their time", traffic.stale),
            ("asked of others", self.metrics.misses()),
            ("asked again", self.metrics.refreshes()),
            ("failed", traffic.servfail),
        ] {
            line(&mut text, what, number);
        }
        line(&mut text, "dropped", self.drops(traffic.dropped));
        line(&mut text, "answers kept", traffic.cache_entries);
        line(&mut text, "bytes of them", traffic.cache_bytes);
        for held in self.cache.held() {
            line(&mut text, held.class, format!("{} in {} bytes", held.entries, held.bytes));
        }
        line(&mut text, "looked at by", format!("{} readers, {} lost", self.tap.readers(), self.tap.lost()));
        for (scope, server) in self.snapshot().iter().flat_map(|snapshot| snapshot.servers()) {
            let health = health(server.is_up());
            let mut value =
                format!("{} {health}: {} sent, {} late", server.address(), server.sent(), server.timeouts());
            if let Some(p95) = server.p95() {
                value.push_str(&format!(", 95 of 100 answers within {:.1} ms", 1000.0 * p95.as_secs_f64()));
            }
            line(&mut text, &scope, value);
        }
        text
    }

    /// A number, and of which reasons it is made up.
    fn drops(&self, total: u64) -> String {
        let by_reason = Dropped::ALL.map(|reason| (reason.label(), self.metrics.drops(reason)));
        let reasons: Vec<_> = by_reason.iter().filter(|(_, number)| *number > 0).collect();
        match reasons.as_slice() {
            [] => total.to_string(),
            some => {
                let some: Vec<_> = some.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
                format!("{total} ({})", some.join(", "))
            }
        }
    }

    fn explain(&self, name: &Name, rtype: u16) -> String {
        let mut text = format!("{name} {}\n", rtype::to_text(rtype));
        let query = Query::plain(name.clone(), rtype);
        if local_names::answer(&query.question(), &self.identity).is_some() {
            line(&mut text, "route", "answered here, whatever the configuration is (RFC 6761)");
            return text;
        }
        let Some(snapshot) = self.snapshot() else {
            line(&mut text, "route", "none: there is no configuration yet");
            return text;
        };
        if let Some(zone) = snapshot.empty.find(name) {
            line(&mut text, "route", format!("denied here: nobody outside knows names in {zone} (RFC 6303)"));
            return text;
        }
        let scope = snapshot.routes.find(name);
        line(&mut text, "route", &scope.name);
        for upstream in scope.pool.groups().flat_map(|group| group.status()) {
            let health = health(upstream.healthy);
            line(&mut text, "asks", format!("{} ({}), which {health}", upstream.address, upstream.scope));
        }
        self.explain_memory(&mut text, &snapshot, scope, &query.question());
        text
    }

    fn explain_memory(&self, text: &mut String, snapshot: &Snapshot, scope: &Scope, question: &Question) {
        let now = Instant::now().into_std();
        let mut nothing = true;
        for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true), (true, true)] {
            let question = Question { dnssec_ok, checking_disabled, ..question.clone() };
            let key = Key::new(scope.id, &question);
            let flags = flags(dnssec_ok, checking_disabled);
            let mut show = |what: &str, seen: Option<EntryInfo>| {
                if let Some(seen) = seen {
                    let from = snapshot.context.server_ids.address(seen.from);
                    let from = from.map(|server| format!(", from {server}")).unwrap_or_default();
                    line(text, "memory", format!("{what}{flags}: {seen}{from}"));
                    nothing = false;
                }
            };
            show("this question", self.cache.see(&key, now, &snapshot.policy));
            show("the name", self.cache.covering_denial(&key, now, &snapshot.policy));
            for above in scope.zone.iter().flat_map(|zone| nxdomain_cut::above(&question.name, zone)) {
                let key = Key::new(scope.id, &nxdomain_cut::question_about(above.clone(), &question));
                let denial = self.cache.see(&key, now, &snapshot.policy).filter(|seen| seen.rcode == rcode::NXDOMAIN);
                show(&above.to_string(), denial);
            }
            match self.failed(scope, &key, Instant::from_std(now)) {
                Some(Some(response)) => {
                    line(text, "failure", format!("{}{flags} a moment ago", rcode::name(response.rcode())));
                }
                Some(None) => line(text, "failure", format!("nobody answered{flags} a moment ago")),
                None => {}
            }
        }
        if nothing {
            line(text, "memory", "nothing");
        }
    }

    async fn flush(&self, name: &Name, below: bool) -> String {
        let meant = |parts: &KeyParts| if below { parts.name.is_within(name) } else { parts.name == *name };
        let (mut forgotten, mut from) = (0, Some(0));
        while let Some(at) = from {
            let (count, next) = self.cache.flush(at, meant);
            forgotten += count;
            from = next;
            // Questions go first.
            tokio::task::yield_now().await;
        }
        format!("{forgotten} answers forgotten\n")
    }

    async fn dump(&self, below: &Name) -> String {
        let Some(snapshot) = self.snapshot() else { return "there is no configuration yet\n".to_owned() };
        let scopes = snapshot.scopes();
        let (mut text, mut shown, mut more, mut from) = (String::new(), 0, 0, Some(0));
        while let Some(at) = from {
            let now = Instant::now().into_std();
            from = self.cache.visit(at, now, &snapshot.policy, |parts, seen| {
                if !parts.name.is_within(below) {
                    return;
                }
                if shown == MOST_SHOWN {
                    more += 1;
                    return;
                }
                shown += 1;
                let scope = scopes.iter().find(|scope| scope.id == parts.scope).map_or("(gone)", |scope| &scope.name);
                let kind = parts.rtype.map_or_else(|| "(any)".to_owned(), rtype::to_text);
                let flags = flags(parts.dnssec_ok, parts.checking_disabled);
                // Writing to a String does not fail.
                let _ = writeln!(text, "{} {kind}{flags} [{scope}]: {seen}", parts.name);
            });
            tokio::task::yield_now().await;
        }
        if more > 0 {
            let _ = writeln!(text, "and {more} more; name a suffix to see fewer");
        }
        if text.is_empty() {
            text.push_str("nothing\n");
        }
        text
    }
}

const fn health(healthy: bool) -> &'static str {
    if healthy { "answers" } else { "does not answer" }
}

const fn flags(dnssec_ok: bool, checking_disabled: bool) -> &'static str {
    match (dnssec_ok, checking_disabled) {
        (false, false) => "",
        (true, false) => " with DO",
        (false, true) => " with CD",
        (true, true) => " with DO and CD",
    }
}

fn line(text: &mut String, what: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "  {what:<16}{value}");
}
