//! Judgement over the servers of a group: which of them do so much worse than the others that they are left for a while
//! (outlier detection). Pure: the time is a parameter.
//!
//! A server is compared with the others of its group and with itself in the minute before. What all do alike is
//! nobody's fault: the names are the reason, or what lies behind all of them.

mod comparison;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use self::comparison::{Comparison, Count};
use super::outcomes::OutcomeCounts;
use super::standing::{SLOW_START, Standing};
use super::timestamp::Timestamp;

/// Interval at which the servers of a group are judged.
pub(in crate::upstream) const JUDGEMENT_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two judgements above which this process stood still.
const MAX_DELAY: Duration = JUDGEMENT_INTERVAL.saturating_mul(2);
/// Attempts after which a server is judged by its ratios, the latest ones.
const MIN_ATTEMPTS: f32 = 50.0;
/// Attempts after which a server in slow start is judged: it is known how it was.
const MIN_ATTEMPTS_IN_SLOW_START: f32 = 10.0;
/// Attempts of one chunk at least. The latest attempts are counted in whole chunks.
const MIN_CHUNK: f32 = 10.0;
const MAX_CHUNKS: usize = 8;
/// Longest interval in which the outcomes of a server are compared with those of the others.
const MAX_INTERVAL: Duration = Duration::from_secs(2);

/// Share of failures among the responses of a server that gives only failures.
const ONLY_FAILURES: f32 = 0.8;
/// Failures for other domains than the one before that another server refuted.
const MIN_REFUTED: f32 = 3.0;
/// Share of truncated responses of a server that always truncates.
const ALWAYS_TRUNCATED: f32 = 0.9;
/// Share of slow responses of a server that has become slow.
const MOSTLY_SLOW: f32 = 0.5;
/// Latency above the median of the minute before from which on a response is slow.
const SLOWER: Duration = Duration::from_millis(400);
/// The others do alike when their ratio is at least this part of the server's own.
const ALIKE: f32 = 0.5;

/// Loss that is taken for usual at least.
const USUAL_LOSS: f32 = 0.01;
/// Loss beyond the usual one that makes a server an outlier.
const EXCESS_LOSS: f32 = 0.09;
/// Usual loss as a multiple of that of the others.
const LOSS_FACTOR: f32 = 1.5;
/// Attempts and losses that are added to those of the others: nobody has lost nothing for sure.
const PRIOR_ATTEMPTS: f32 = 20.0;
const PRIOR_LOSSES: f32 = 0.2;
/// Logarithm of the likelihood ratio from which on a server counts as one that loses queries (CUSUM).
const LOSS_EVIDENCE: f32 = 5.0;
/// The evidence from which on the first of ordered servers is compared with the others.
const LOSS_EVIDENCE_OF_SUSPECTED: f32 = 1.0;

/// Time for which a server is left, for each time in a row.
const EJECTION_PERIOD: Duration = Duration::from_secs(10);
const MAX_EJECTION_PERIOD: Duration = Duration::from_secs(300);
/// Time with all of its share after which one time less counts.
const FORGIVING_PERIOD: Duration = Duration::from_secs(60);
/// Time in which the minute before is forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// Reason for which a server is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EjectionReason {
    /// The server gives only failures while others answer.
    OnlyFailures,
    /// The server truncates all responses over UDP.
    AlwaysTruncates,
    /// The server has become slower by half a second.
    Slow,
    /// The server loses queries.
    LosesQueries,
}

impl EjectionReason {
    /// Returns the reason in words.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::OnlyFailures => "it gives only errors",
            Self::AlwaysTruncates => "it truncates every response",
            Self::Slow => "it has become slow",
            Self::LosesQueries => "it loses queries",
        }
    }
}

/// Sample of one server since the last judgement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) counts: OutcomeCounts,
    /// Median of the latest latencies.
    pub(super) median: Option<Duration>,
    /// The circuit of the server is open.
    pub(super) is_down: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// All of the share, and since when.
    #[default]
    New,
    Full(Timestamp),
    Suspected,
    Ejected {
        until: Timestamp,
        reason: EjectionReason,
    },
    Returning(Timestamp),
}

/// Latest attempts with a server.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    counts: OutcomeCounts,
    /// Weighted intervals.
    compared: Comparison,
}

impl AddAssign for Chunk {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.compared += other.compared;
    }
}

/// Record of one server for the judgement.
#[derive(Debug, Default)]
pub(super) struct OutlierRecord {
    state: State,
    /// The oldest first.
    chunks: VecDeque<Chunk>,
    open_chunk: Chunk,
    /// Outcomes since this time, which are compared when both sides have a response, or one has several.
    interval: Comparison,
    interval_start: Timestamp,
    /// Counts of the last minute, which are forgotten exponentially.
    minute: OutcomeCounts,
    /// Usual latency: the median in the last minute.
    usual_latency: Option<Duration>,
    /// Evidence that the server loses more queries than is usual, and what it and the others lost while there was some.
    loss_evidence: f32,
    loss: Comparison,
    /// Number of ejections that count.
    ejections: u32,
    judged_at: Timestamp,
}

impl OutlierRecord {
    /// Returns the standing.
    pub(super) const fn standing(&self) -> Standing {
        match self.state {
            State::New | State::Full(_) => Standing::Full,
            State::Suspected => Standing::Suspected,
            State::Ejected { .. } => Standing::Ejected,
            State::Returning(since) => Standing::Returning(since),
        }
    }

    /// Returns why the server is left, and for how long from `now` on; `None` while it is not.
    pub(super) const fn ejection(&self, now: Timestamp) -> Option<(EjectionReason, Duration)> {
        match self.state {
            State::Ejected { until, reason } => Some((reason, until.since(now))),
            _ => None,
        }
    }

    /// Starts the return of a server whose circuit was open. One that is left stays so.
    pub(super) fn start_return(&mut self, now: Timestamp) {
        if !self.is_ejected() {
            self.enter_slow_start(now);
        }
    }

    /// Returns the usual latency; `None` while it is not known.
    pub(super) const fn usual_latency(&self) -> Option<Duration> {
        self.usual_latency
    }

    /// Returns the latency above which a response is slow. `group` is the usual latency in the group.
    pub(super) fn slow_above(&self, group: Option<Duration>) -> Option<Duration> {
        self.usual_latency.or(group).map(|usual| usual + SLOWER)
    }

    /// Returns whether a judgement at `now` comes late.
    fn is_late(&self, now: Timestamp) -> bool {
        self.judged_at != Timestamp::default() && now.since(self.judged_at) > MAX_DELAY
    }

    fn enter_slow_start(&mut self, now: Timestamp) {
        self.state = State::Returning(now);
        self.chunks.clear();
        self.open_chunk = Chunk::default();
        self.interval = Comparison::default();
        self.loss_evidence = 0.0;
        self.loss = Comparison::default();
    }

    /// Adds a sample and what became of the attempts with the others in the same time, and lets time pass.
    fn record(&mut self, sample: &Sample, others: OutcomeCounts, now: Timestamp) {
        let elapsed = now.since(self.judged_at).min(MEMORY).as_secs_f32();
        self.judged_at = now;
        let memory = MEMORY.as_secs_f32();
        self.minute = self.minute.scaled(memory / (memory + elapsed));
        self.minute += sample.counts;
        self.interval += Comparison { own: sample.counts, others };
        self.open_chunk.counts += sample.counts;
        let attempts = self.interval.own.attempts() + self.interval.others.attempts();
        let is_complete = self.interval.is_complete() || attempts >= MIN_CHUNK;
        if is_complete || now.since(self.interval_start) >= MAX_INTERVAL {
            self.open_chunk.compared += std::mem::take(&mut self.interval).weighted();
            self.interval_start = now;
        }
        if self.open_chunk.counts.attempts() >= MIN_CHUNK {
            self.chunks.push_back(std::mem::take(&mut self.open_chunk));
            if self.chunks.len() > MAX_CHUNKS {
                self.chunks.pop_front();
            }
        }
        if let Some(median) = sample.median.filter(|_| sample.counts.responses > 0.0) {
            let usual = self.usual_latency.unwrap_or(median).as_secs_f32();
            let followed = usual + (median.as_secs_f32() - usual) * elapsed / memory;
            self.usual_latency = Some(Duration::from_secs_f32(followed.max(0.0)));
        }
        match self.state {
            State::Ejected { until, .. } if now >= until => self.enter_slow_start(now),
            State::Returning(since) if now.since(since) >= SLOW_START => self.state = State::Full(now),
            State::Full(since) if self.ejections > 0 && now.since(since) >= FORGIVING_PERIOD => {
                self.ejections -= 1;
                self.state = State::Full(now);
            }
            _ => {}
        }
    }

    const fn is_ejected(&self) -> bool {
        matches!(self.state, State::Ejected { .. })
    }

    const fn is_returning(&self) -> bool {
        matches!(self.state, State::Returning(_))
    }

    /// Returns the counts of the latest attempts, of at least `min` of them; `None` while there were fewer.
    fn latest(&self, min: f32) -> Option<Chunk> {
        let mut sum = self.open_chunk;
        for chunk in self.chunks.iter().rev() {
            if sum.counts.attempts() >= min {
                break;
            }
            sum += *chunk;
        }
        (sum.counts.attempts() >= min).then_some(sum)
    }

    /// Adds the evidence of a sample that the server loses more queries than is usual.
    fn add_loss_evidence(&mut self, counts: &OutcomeCounts, others: &Others) {
        let of_others = loss_with_prior(&others.minute).max(loss_with_prior(&others.latest));
        let usual = (of_others * LOSS_FACTOR).clamp(USUAL_LOSS, 0.5);
        let excess = usual + EXCESS_LOSS;
        let of_loss = (excess / usual).ln();
        let of_response = ((1.0 - excess) / (1.0 - usual)).ln();
        let evidence = self.loss_evidence + counts.lost * of_loss + counts.responses * of_response;
        self.loss_evidence = evidence.clamp(0.0, 2.0 * LOSS_EVIDENCE);
        if self.loss_evidence > 0.0 {
            self.loss += Comparison { own: *counts, others: others.new };
        } else {
            self.loss = Comparison::default();
        }
    }

    /// Returns what is wrong with the server, by itself and compared with the others, and whether the others have shown
    /// that they do better; `None` for that while they have had too few queries.
    fn symptom(&self, others: &Others) -> Option<(EjectionReason, Option<bool>)> {
        let min = if self.is_returning() { MIN_ATTEMPTS_IN_SLOW_START } else { MIN_ATTEMPTS };
        if let Some(latest) = self.latest(min) {
            let is_outlier = |count: Count, limit: f32| {
                let own = latest.counts.ratio(count);
                let of_others = latest.compared.others.ratio(count).max(others.minute.ratio(count));
                own >= limit && of_others < own * ALIKE
            };
            if latest.counts.refuted >= MIN_REFUTED && is_outlier(|counts| counts.failures, ONLY_FAILURES) {
                // The others have answered what it failed to answer.
                return Some((EjectionReason::OnlyFailures, Some(true)));
            }
            let others = [
                (EjectionReason::AlwaysTruncates, (|counts| counts.truncated) as Count, ALWAYS_TRUNCATED),
                (EjectionReason::Slow, |counts| counts.slow, MOSTLY_SLOW),
            ];
            for (reason, count, limit) in others {
                if is_outlier(count, limit) {
                    return Some((reason, latest.compared.exceeds_others(count).then_some(true)));
                }
            }
        }
        match self.loss_evidence {
            evidence if evidence > LOSS_EVIDENCE => Some((EjectionReason::LosesQueries, self.loss.loses_more())),
            evidence if evidence > LOSS_EVIDENCE_OF_SUSPECTED && self.loss.is_first() => {
                Some((EjectionReason::LosesQueries, None))
            }
            _ => None,
        }
    }

    fn eject(&mut self, reason: EjectionReason, now: Timestamp) {
        self.ejections += 1;
        let period = (EJECTION_PERIOD * self.ejections).min(MAX_EJECTION_PERIOD);
        self.state = State::Ejected { until: now.after(period), reason };
    }
}

/// Counts of all servers of a group but one.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    minute: OutcomeCounts,
    latest: OutcomeCounts,
    /// Counts since the last judgement.
    new: OutcomeCounts,
    is_any_up: bool,
}

/// Returns the loss of servers of which nobody knows that they lose nothing.
fn loss_with_prior(counts: &OutcomeCounts) -> f32 {
    (counts.lost.max(0.0) + PRIOR_LOSSES) / (counts.attempts() + PRIOR_ATTEMPTS)
}

/// Judges the servers of a group at `now`. At most half of them are left out, those that are down included. Samples of
/// an interval in which this process stood still say nothing about the servers.
pub(super) fn judge(records: &mut [&mut OutlierRecord], samples: &[Sample], now: Timestamp) {
    let samples = &*match records.iter().any(|record| record.is_late(now)) {
        true => samples.iter().map(|sample| Sample { counts: OutcomeCounts::default(), ..*sample }).collect(),
        false => Cow::Borrowed(samples),
    };
    let new_of_others: Vec<_> = (0..samples.len()).map(|index| counts_of_others(samples, index)).collect();
    for ((record, sample), new) in records.iter_mut().zip(samples).zip(&new_of_others) {
        record.record(sample, *new, now);
    }
    let mut symptoms = Vec::new();
    for index in 0..records.len() {
        let others = others(records, samples, index, new_of_others[index]);
        let (record, sample) = (&mut records[index], &samples[index]);
        record.add_loss_evidence(&sample.counts, &others);
        if sample.is_down || record.is_ejected() {
            continue;
        }
        match record.symptom(&others) {
            Some((symptom, Some(true))) => symptoms.push((symptom, index)),
            // While a server is in slow start, the others get queries anyway.
            Some((_, None)) if others.is_any_up && !record.is_returning() => record.state = State::Suspected,
            _ if record.state == State::Suspected => record.state = State::Full(now),
            _ => {}
        }
    }
    symptoms.sort_unstable();
    let is_out = |record: &OutlierRecord, sample: &Sample| sample.is_down || record.is_ejected();
    let out = records.iter().zip(samples).filter(|(record, sample)| is_out(record, sample)).count();
    let room = (records.len() / 2).saturating_sub(out);
    for (reason, index) in symptoms.into_iter().take(room) {
        records[index].eject(reason, now);
    }
}

fn counts_of_others(samples: &[Sample], index: usize) -> OutcomeCounts {
    let mut counts = OutcomeCounts::default();
    let others = samples.iter().enumerate().filter(|(other, _)| *other != index);
    others.for_each(|(_, sample)| counts += sample.counts);
    counts
}

fn others(records: &[&mut OutlierRecord], samples: &[Sample], index: usize, new: OutcomeCounts) -> Others {
    let mut others = Others { new, ..Others::default() };
    for (other, (record, sample)) in records.iter().zip(samples).enumerate() {
        if other != index {
            others.minute += record.minute;
            others.latest += record.latest(MIN_CHUNK).unwrap_or_default().counts;
            others.is_any_up |= !sample.is_down && !record.is_ejected();
        }
    }
    others
}
