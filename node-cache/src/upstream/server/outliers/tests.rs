//! Judgement over groups of servers in simulated time.

use super::*;
use crate::upstream::server::standing::AtomicStanding;

/// Behaviour of a server in a simulation.
#[derive(Clone, Copy, Debug, Default)]
struct Behaviour {
    /// Ratio of failures; all of them are refuted where the other server answers.
    failures: f32,
    truncated: f32,
    lost: f32,
    /// Latency above its usual one.
    slower: Duration,
    is_down: bool,
}

impl Behaviour {
    /// Returns the seconds after which an outcome is known: a query counts as lost 0.55 s after its send.
    fn known_after(self) -> f32 {
        if self.lost > 0.0 { 0.55 } else { 0.0 }
    }
}

const GOOD: Behaviour = Behaviour { failures: 0.0, truncated: 0.0, lost: 0.0, slower: Duration::ZERO, is_down: false };
const FAILING: Behaviour = Behaviour { failures: 1.0, ..GOOD };
const TRUNCATING: Behaviour = Behaviour { truncated: 1.0, ..GOOD };
const LOSSY: Behaviour = Behaviour { lost: 0.1, ..GOOD };
const SLOW: Behaviour = Behaviour { slower: Duration::from_millis(500), ..GOOD };

/// Group of servers in simulated time, each of which is sent queries by its standing.
struct Simulation {
    records: Vec<OutlierRecord>,
    now: Timestamp,
    random: u64,
    /// The first server is sent all queries but those that it has not answered.
    is_ordered: bool,
    /// Share of the queries that the second server is sent first.
    share_of_second: f32,
    ejections: usize,
}

impl Simulation {
    fn new(servers: usize, seed: u64) -> Self {
        let records = (0..servers).map(|_| OutlierRecord::default()).collect();
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self {
            records,
            now: Timestamp::from_micros(1_000_000),
            random,
            is_ordered: false,
            share_of_second: 0.5,
            ejections: 0,
        }
    }

    fn ordered(servers: usize, seed: u64) -> Self {
        Self { is_ordered: true, ..Self::new(servers, seed) }
    }

    fn chance(&mut self, probability: f32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        #[allow(clippy::cast_precision_loss, reason = "a random number")]
        let number = (self.random >> 40) as f32 / (1 << 24) as f32;
        number < probability
    }

    /// Returns the server for one query.
    fn choose(&mut self) -> usize {
        let standing: Vec<_> = self.records.iter().map(|record| record.standing()).collect();
        let atomic = AtomicStanding::default();
        let mut order: Vec<usize> = (0..standing.len()).collect();
        if !self.is_ordered {
            // Any of several comes first, of two the second one by its share.
            let share = if order.len() == 2 { self.share_of_second } else { 0.5 };
            (1..order.len()).for_each(|_| order.rotate_left(usize::from(self.chance(share))));
        }
        for index in order {
            atomic.set(standing[index]);
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let share = atomic.share(self.now) as f32 / 256.0;
            if self.chance(share) {
                return index;
            }
        }
        0
    }

    /// Runs for this many seconds with this many queries a second. Returns the seconds until the first server was
    /// left, if it was.
    fn run(&mut self, seconds: f32, rate: f32, behaviours: &[Behaviour]) -> Option<f32> {
        let ticks = (seconds / JUDGEMENT_INTERVAL.as_secs_f32()) as usize;
        let mut left_after = None;
        let mut due = 0.0;
        for tick in 0..ticks {
            due += rate * JUDGEMENT_INTERVAL.as_secs_f32();
            let mut samples = vec![Sample::default(); self.records.len()];
            for (index, sample) in samples.iter_mut().enumerate() {
                let millis = 20 + u64::try_from(behaviours[index].slower.as_millis()).unwrap();
                sample.median = Some(Duration::from_millis(millis));
                sample.is_down = behaviours[index].is_down;
            }
            while due >= 1.0 {
                due -= 1.0;
                let first = self.choose();
                let response = self.send(first, behaviours, &mut samples);
                let second = (first + 1) % self.records.len();
                // The second send of a query says nothing about its server: it is for a name without an answer.
                let mut ignored = samples.clone();
                if response != Some(true) && self.send(second, behaviours, &mut ignored) == Some(true) {
                    let counts = &mut samples[first].counts;
                    *if response.is_some() { &mut counts.refuted } else { &mut counts.lost } += 1.0;
                }
            }
            self.now = self.now.after(JUDGEMENT_INTERVAL);
            let before: Vec<_> = self.records.iter().map(|record| record.ejections).collect();
            judge(&mut self.records.iter_mut().collect::<Vec<_>>(), &samples, self.now);
            self.ejections +=
                self.records.iter().zip(before).filter(|(record, before)| record.ejections > *before).count();
            if left_after.is_none() && self.standing(0) == Standing::Ejected {
                #[allow(clippy::cast_precision_loss, reason = "a small number")]
                let ticks = (tick + 1) as f32;
                left_after = Some(ticks * JUDGEMENT_INTERVAL.as_secs_f32());
            }
        }
        left_after
    }

    /// Sends a query to a server. Returns whether the response is an answer, if there is one.
    fn send(&mut self, index: usize, behaviours: &[Behaviour], samples: &mut [Sample]) -> Option<bool> {
        let Behaviour { failures, truncated, lost, slower, is_down } = behaviours[index];
        if is_down || self.chance(lost) {
            return None;
        }
        let (is_failure, is_truncated) = (self.chance(failures), self.chance(truncated));
        let median = Duration::from_millis(20);
        let is_slow = self.records[index].slow_above(Some(median)).is_some_and(|limit| median + slower > limit);
        let counts = &mut samples[index].counts;
        counts.responses += 1.0;
        counts.failures += f32::from(u8::from(is_failure));
        counts.truncated += f32::from(u8::from(is_truncated));
        counts.slow += f32::from(u8::from(is_slow));
        Some(!is_failure)
    }

    fn standing(&self, index: usize) -> Standing {
        self.records[index].standing()
    }

    fn reason(&self) -> Option<EjectionReason> {
        self.records[0].ejection(self.now).map(|(reason, _)| reason)
    }
}

#[test]
fn an_outlier_among_equal_servers_is_left_within_two_seconds_at_a_hundred_queries_a_second_each() {
    for (behaviour, reason) in [
        (FAILING, EjectionReason::OnlyFailures),
        (TRUNCATING, EjectionReason::AlwaysTruncates),
        (SLOW, EjectionReason::Slow),
        (LOSSY, EjectionReason::LosesQueries),
    ] {
        let mut late = 0;
        for seed in 0..100 {
            let mut group = Simulation::new(2, seed);
            group.run(60.0, 200.0, &[GOOD, GOOD]);
            let left_after = group.run(5.0, 200.0, &[behaviour, GOOD]);
            late += usize::from(left_after.is_none_or(|seconds| seconds + behaviour.known_after() > 2.0));
            assert_eq!(group.reason(), Some(reason), "{seed}");
            assert_eq!((group.ejections, group.standing(1)), (1, Standing::Full), "{reason:?} {seed}");
        }
        assert!(late <= 5, "{reason:?}: {late} of 100");
    }
}

#[test]
fn the_first_of_ordered_servers_is_left_within_two_seconds_at_a_hundred_queries_a_second() {
    for behaviour in [FAILING, TRUNCATING, SLOW, LOSSY] {
        let mut late = 0;
        for seed in 0..100 {
            let mut group = Simulation::ordered(2, seed);
            group.run(60.0, 100.0, &[GOOD, GOOD]);
            let left_after = group.run(5.0, 100.0, &[behaviour, GOOD]);
            late += usize::from(left_after.is_none_or(|seconds| seconds + behaviour.known_after() > 2.0));
        }
        assert!(late <= 10, "{behaviour:?}: {late} of 100");
    }
}

#[test]
fn an_outlier_with_few_queries_is_left_after_some_fifty_responses() {
    for behaviour in [FAILING, TRUNCATING, SLOW] {
        let mut group = Simulation::new(2, 1);
        group.run(120.0, 2.0, &[GOOD, GOOD]);
        let left_after = group.run(90.0, 2.0, &[behaviour, GOOD]);
        assert!(left_after.is_some_and(|seconds| seconds < 75.0), "{left_after:?}");
    }
}

#[test]
fn what_all_servers_do_alike_ejects_none_of_them() {
    for behaviour in [GOOD, FAILING, TRUNCATING, SLOW, LOSSY, Behaviour { lost: 0.02, ..GOOD }] {
        let mut ejections = 0;
        for seed in 0..4 {
            let mut group = Simulation::new(2, seed);
            group.run(60.0, 200.0, &[GOOD, GOOD]);
            group.run(300.0, 200.0, &[behaviour, behaviour]);
            ejections += group.ejections;
        }
        // Chance makes one of them worse for a while; then the other one gets the queries for ten seconds.
        let limit = if behaviour.lost > 0.05 { 4 } else { 1 };
        assert!(ejections <= limit, "{behaviour:?}: {ejections} in 20 minutes");
    }
}

#[test]
fn what_begins_or_ends_for_all_at_once_ejects_none_whatever_their_shares_are() {
    for behaviour in [FAILING, TRUNCATING, SLOW] {
        for (seed, share_of_second) in (0..100).map(|seed| (seed, [0.5, 0.3, 0.2, 0.1][seed as usize % 4])) {
            let mut group = Simulation { share_of_second, ..Simulation::new(2, seed) };
            group.run(60.0, 130.0, &[GOOD, GOOD]);
            group.run(20.0, 130.0, &[behaviour, behaviour]);
            group.run(20.0, 130.0, &[GOOD, GOOD]);
            assert_eq!(group.ejections, 0, "{behaviour:?} {share_of_second} {seed}");
        }
    }
}

#[test]
fn what_happened_while_this_process_stood_still_ejects_no_server() {
    let mut group = Simulation::new(2, 1);
    group.run(60.0, 200.0, &[GOOD, GOOD]);
    let truncated = OutcomeCounts { responses: 100.0, truncated: 100.0, ..OutcomeCounts::default() };
    let answered = OutcomeCounts { responses: 100.0, ..OutcomeCounts::default() };
    let samples = [truncated, answered].map(|counts| Sample { counts, ..Sample::default() });
    let judge_after = |group: &mut Simulation, time| {
        group.now = group.now.after(time);
        judge(&mut group.records.iter_mut().collect::<Vec<_>>(), &samples, group.now);
        group.standing(0)
    };
    assert_eq!(judge_after(&mut group, Duration::from_secs(1)), Standing::Full);
    assert_eq!(judge_after(&mut group, JUDGEMENT_INTERVAL), Standing::Ejected);
}

#[test]
fn a_group_of_one_is_never_left_and_at_most_half_of_any_group_is() {
    let mut one = Simulation::new(1, 1);
    one.run(60.0, 100.0, &[GOOD]);
    assert_eq!(one.run(60.0, 100.0, &[TRUNCATING]), None);
    let mut four = Simulation::new(4, 1);
    four.run(60.0, 400.0, &[GOOD; 4]);
    let behaviours = [TRUNCATING, Behaviour { is_down: true, ..GOOD }, SLOW, GOOD];
    for _ in 0..40 {
        four.run(0.5, 400.0, &behaviours);
        let ejected = (0..4).filter(|index| four.standing(*index) == Standing::Ejected).count();
        assert!(ejected <= 1, "one is down");
    }
    assert!(four.ejections > 0);
}

#[test]
fn a_server_returns_after_ten_seconds_and_is_left_for_longer_when_it_is_no_better() {
    let mut group = Simulation::new(2, 1);
    group.run(60.0, 200.0, &[GOOD, GOOD]);
    group.run(2.0, 200.0, &[FAILING, GOOD]);
    assert_eq!(group.standing(0), Standing::Ejected);
    group.run(8.0, 200.0, &[FAILING, GOOD]);
    assert!(group.records[0].ejection(group.now).is_some());
    group.run(3.0, 200.0, &[FAILING, GOOD]);
    let (_, period) = group.records[0].ejection(group.now).unwrap();
    assert!(period > Duration::from_secs(17), "{period:?}");
    group.run(22.0, 200.0, &[GOOD, GOOD]);
    assert!(matches!(group.standing(0), Standing::Returning(_)));
    group.run(12.0, 200.0, &[GOOD, GOOD]);
    assert_eq!((group.standing(0), group.records[0].ejections), (Standing::Full, 2));
    group.run(130.0, 200.0, &[GOOD, GOOD]);
    assert_eq!(group.records[0].ejections, 0, "it is forgiven");
}

#[test]
fn a_server_whose_circuit_was_open_returns_by_slow_start_and_one_that_is_left_stays_so() {
    let now = Timestamp::from_micros(1);
    let mut record = OutlierRecord::default();
    record.start_return(now);
    assert_eq!(record.standing(), Standing::Returning(now));
    record.eject(EjectionReason::Slow, now);
    record.start_return(now.after(Duration::from_secs(1)));
    assert_eq!(record.standing(), Standing::Ejected);
}
