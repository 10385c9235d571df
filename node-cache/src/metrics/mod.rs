//! Counters of one process, and the text in which they are read.

mod exposition;
mod gauges;
mod histogram;
mod labels;
mod tally;

use std::time::Duration;

use node_cache_config::status::Traffic;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::dns::answer::{Answer, Source};
use crate::dns::codes::rcode;
use crate::dns::query::Transport;

pub use exposition::text;
pub use gauges::{ClassUsage, Gauges, ResponseTimes};
pub use histogram::{HitSeconds, WaitSeconds};
use labels::{AnswerLabels, REFUSED};
pub use labels::{Dropped, OWN};
pub use tally::{ScopeAnswers, Tally};

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    udp: Counter,
    tcp: Counter,
    own: Counter,
    hits: Counter,
    misses: Counter,
    stale: Counter,
    refreshes: Counter,
    servfail: Counter,
    answers: Family<AnswerLabels, Counter>,
    dropped: [Counter; Dropped::ALL.len()],
    hit_seconds: HitSeconds,
    miss_seconds: WaitSeconds,
}

impl Metrics {
    /// Counts a question that was taken in.
    pub fn question(&self, transport: Transport) {
        match transport {
            Transport::Udp => {
                self.udp.inc();
            }
            Transport::Tcp => {
                self.tcp.inc();
            }
            Transport::Internal => {}
        }
    }

    /// The number of questions that were taken in.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.udp.get() + self.tcp.get()
    }

    /// Adds the answers from memory of a batch of datagrams, and their questions. Each of them took no longer than so many
    /// nanoseconds, which is the time from reading the batch to sending its answers.
    #[inline]
    pub fn add(&self, tally: &Tally<'_>, nanoseconds: u64) {
        if tally.total() > 0 {
            tally.add_to_scope();
            self.udp.inc_by(tally.total().into());
            self.hit_seconds.observe_many(nanoseconds, tally.total().into());
        }
    }

    /// Counts what was said to a question in this scope ([`OWN`] for what never reaches one), of which these may be the
    /// counters, and how long it took to know it.
    pub fn answer(
        &self,
        scope: &str,
        counters: Option<&ScopeAnswers>,
        transport: Transport,
        answer: &Answer,
        took: Duration,
    ) {
        match answer.origin {
            Source::Cache => {
                self.hits.inc();
                self.hit_seconds.observe(took);
            }
            Source::StaleCache | Source::Upstream | Source::Failure => {
                self.misses.inc();
                self.miss_seconds.observe(took);
            }
            Source::Local => {}
        }
        if answer.origin == Source::StaleCache {
            self.stale.inc();
        }
        if scope == OWN {
            self.own.inc();
        }
        let code = answer.response.rcode();
        match counters.filter(|_| transport == Transport::Udp).and_then(|counters| counters.of(code)) {
            Some(counter) => {
                counter.inc();
            }
            None => self.said(scope, transport, code),
        }
    }

    /// Counts a question that was refused with this code before it was looked up anywhere.
    pub fn refused(&self, transport: Transport, code: u16) {
        self.said(REFUSED, transport, code);
    }

    fn said(&self, scope: &str, transport: Transport, code: u16) {
        if code == rcode::SERVFAIL {
            self.servfail.inc();
        }
        self.answers.get_or_create(&labels_of(scope, transport, code)).inc();
    }

    /// The counters of a scope's usual answers in datagrams.
    #[must_use]
    pub fn scope_answers(&self, scope: &str) -> ScopeAnswers {
        let counter = |code| self.answers.get_or_create(&labels_of(scope, Transport::Udp, code)).clone();
        ScopeAnswers { hits: self.hits.clone(), noerror: counter(rcode::NOERROR), nxdomain: counter(rcode::NXDOMAIN) }
    }

    /// Counts a question that is asked again before its answer is past its time.
    pub fn refresh(&self) {
        self.refreshes.inc();
    }

    /// How many questions were asked again before their answer was past its time.
    #[must_use]
    pub fn refreshes(&self) -> u64 {
        self.refreshes.get()
    }

    /// How many questions memory could not answer in its time.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }

    /// Counts a question that gets no answer.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped_for(reason).inc();
    }

    /// How many questions got no answer for this reason.
    #[must_use]
    pub fn drops(&self, reason: Dropped) -> u64 {
        self.dropped_for(reason).get()
    }

    const fn dropped_for(&self, reason: Dropped) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// The counters as the status tells them.
    #[must_use]
    pub fn traffic(&self, cache_bytes: u64, cache_entries: u64) -> Traffic {
        Traffic {
            queries: self.questions().saturating_sub(self.own.get()),
            hits: self.hits.get(),
            stale: self.stale.get(),
            servfail: self.servfail.get(),
            dropped: Dropped::ALL.iter().map(|reason| self.drops(*reason)).sum(),
            cache_bytes,
            cache_entries,
        }
    }
}

fn labels_of(scope: &str, transport: Transport, code: u16) -> AnswerLabels {
    AnswerLabels { transport: transport.label(), scope: scope.to_owned(), rcode: rcode::name(code) }
}

#[cfg(test)]
mod tests;
