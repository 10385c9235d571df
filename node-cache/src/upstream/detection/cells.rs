//! Cells: the queries of one upstream that were sent and answered in time, by registered domain and tick.
//!
//! An answer is counted where its query was sent, so no timer is needed for silence: a tick is *ripe* when all of its
//! queries are answered or overdue. Counters are relaxed atomics; one watcher advances the tick and reads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Length of a tick.
pub const TICK: Duration = Duration::from_millis(100);
/// Cells of a tick; registered domains share them by hash.
pub const CELLS: usize = 64;
/// Ticks that a stamp tells apart.
const STAMP_TICKS: u32 = (1 << 16) / CELLS as u32;
/// Fewest cells that thin traffic is folded to.
const MIN_CELLS: usize = 8;
/// Ticks of a window.
const WINDOW_TICKS: u32 = 10;
/// Ticks that are kept: the one that is filled, those that are not ripe, and a window.
const KEPT_TICKS: u32 = 16;
/// Fewest queries of a cell that count as evidence.
const MIN_QUERIES: u32 = 4;
/// Time after which a query without a response is overdue. An upstream or a process that waits for a processor for a
/// tenth of a second is late, and has lost nothing.
pub const OVERDUE: Duration = Duration::from_millis(300);
/// Ticks after the end of a tick at which the query of its last moment is overdue.
const OVERDUE_TICKS: u32 = OVERDUE.as_millis().div_ceil(TICK.as_millis()) as u32;
/// Age of the first query of the tick that becomes ripe.
pub const RIPE_AGE: Duration = TICK.saturating_mul(OVERDUE_TICKS + 1);
/// One answered query in a counter; the lower half counts queries sent, up to 65,535 of a cell in a tick.
const ANSWER: u32 = 1 << 16;

/// Queries sent, and how many of them were answered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Queries sent.
    pub sent: u32,
    /// Queries answered before they were overdue, with any rcode.
    pub answered: u32,
}

impl Count {
    const fn unpack(counter: u32) -> Self {
        Self { sent: counter % ANSWER, answered: counter / ANSWER }
    }

    /// Adds another count.
    pub const fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
    }

    fn share(self) -> f64 {
        f64::from(self.answered) / f64::from(self.sent.max(1))
    }
}

/// Place of a sent query in the cells, kept until its answer: its cell and the last ten bits of its tick, which are
/// those of 102 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u16);

impl Stamp {
    const fn new(tick: u32, cell: u8) -> Self {
        Self((tick % STAMP_TICKS) as u16 * CELLS as u16 + cell as u16)
    }

    /// Returns how many ticks ago the query was sent.
    const fn age(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 as u32 / CELLS as u32) % STAMP_TICKS
    }
}

/// Counters of one upstream.
#[derive(Debug)]
pub struct Cells {
    /// The tick that is filled now.
    tick: AtomicU32,
    counters: Box<[AtomicU32]>,
}

impl Default for Cells {
    fn default() -> Self {
        let counters = (0..KEPT_TICKS as usize * CELLS).map(|_| AtomicU32::new(0)).collect();
        Self { tick: AtomicU32::new(0), counters }
    }
}

impl Cells {
    /// Counts the first send of a query for a name of a registered domain with this hash. Repeated sends are not
    /// counted: they share the fate of the first.
    pub fn record_send(&self, domain: u64) -> Stamp {
        let (tick, cell) = (self.tick.load(Ordering::Relaxed), (domain % CELLS as u64) as u8);
        self.counter(tick, cell).fetch_add(1, Ordering::Relaxed);
        Stamp::new(tick, cell)
    }

    /// Counts an answer, of any rcode, that came before its query was overdue.
    pub fn record_answer(&self, stamp: Stamp) {
        let now = self.tick.load(Ordering::Relaxed);
        let age = stamp.age(now);
        if age < KEPT_TICKS {
            let cell = (stamp.0 % CELLS as u16) as u8;
            self.counter(now.wrapping_sub(age), cell).fetch_add(ANSWER, Ordering::Relaxed);
        }
    }

    fn counter(&self, tick: u32, cell: u8) -> &AtomicU32 {
        &self.counters[(tick % KEPT_TICKS) as usize * CELLS + usize::from(cell)]
    }

    /// Begins the next tick, and reads the one that is ripe with it. To be called every [`TICK`], by one watcher.
    pub fn advance(&self) -> Reading {
        let end = self.begin_tick().saturating_sub(OVERDUE_TICKS);
        let sum = |range: std::ops::Range<u32>| {
            let mut counts = [Count::default(); CELLS];
            range.for_each(|tick| self.add_tick(tick, &mut counts));
            counts
        };
        let first = end.saturating_sub(1);
        let (ripe, window) = (sum(first..end), sum(end.saturating_sub(WINDOW_TICKS)..end));
        Reading { ripe: total(&ripe), ripe_ticks: end - first, median: median(window), window: total(&window) }
    }

    fn begin_tick(&self) -> u32 {
        let next = self.tick.load(Ordering::Relaxed).wrapping_add(1);
        (0..CELLS as u8).for_each(|cell| self.counter(next, cell).store(0, Ordering::Relaxed));
        self.tick.store(next, Ordering::Relaxed);
        next
    }

    fn add_tick(&self, tick: u32, window: &mut [Count; CELLS]) {
        for (cell, count) in window.iter_mut().enumerate() {
            count.add(Count::unpack(self.counter(tick, cell as u8).load(Ordering::Relaxed)));
        }
    }
}

/// Ripe queries since the last reading, and the window that ends with them.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Queries of the tick that became ripe.
    pub ripe: Count,
    /// Number of ticks that became ripe: one, but none at first.
    pub ripe_ticks: u32,
    /// Median share of answered queries over the cells of the window; `None` where traffic is too thin.
    pub median: Option<f64>,
    /// Queries of the window.
    pub window: Count,
}

fn total(counts: &[Count]) -> Count {
    counts.iter().fold(Count::default(), |mut sum, count| {
        sum.add(*count);
        sum
    })
}

/// Returns the median share of answered queries over the cells, folded until half of them have enough queries. One
/// domain is one cell, whatever its traffic.
fn median(mut cells: [Count; CELLS]) -> Option<f64> {
    let mut len = CELLS;
    loop {
        let enough = |cell: &&Count| cell.sent >= MIN_QUERIES;
        let mut shares: [f64; CELLS] = [0.0; CELLS];
        let mut count = 0;
        for cell in cells[..len].iter().filter(enough) {
            shares[count] = cell.share();
            count += 1;
        }
        if count * 2 >= len {
            let (_, median, _) = shares[..count].select_nth_unstable_by(count / 2, f64::total_cmp);
            return Some(*median);
        }
        if len == MIN_CELLS {
            return None;
        }
        len /= 2;
        let (left, right) = cells.split_at_mut(len);
        left.iter_mut().zip(&*right).for_each(|(cell, other)| cell.add(*other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `queries` of each domain, answers those for which `is_answered` holds, and returns the tick as it is read.
    fn read(domains: u64, queries: u64, is_answered: impl Fn(u64, u64) -> bool) -> Reading {
        let cells = Cells::default();
        for (domain, query) in (0..domains).flat_map(|domain| (0..queries).map(move |query| (domain, query))) {
            let stamp = cells.record_send(domain);
            if is_answered(domain, query) {
                cells.record_answer(stamp);
            }
        }
        let mut readings = (0..5).map(|_| cells.advance());
        readings.find(|reading| reading.ripe.sent > 0).unwrap()
    }

    #[test]
    fn an_answer_counts_where_its_query_was_sent_and_a_tick_is_read_once_when_it_is_ripe() {
        let cells = Cells::default();
        let stamp = cells.record_send(7);
        let mut ripe = Vec::new();
        for tick in 0..30 {
            if tick == 2 {
                cells.record_answer(stamp);
            }
            let reading = cells.advance();
            ripe.push(reading.ripe);
            let is_in_window = (3..13).contains(&tick);
            assert_eq!(reading.window.sent, u32::from(is_in_window), "tick {tick}");
        }
        let expected = Count { sent: 1, answered: 1 };
        assert_eq!(ripe.iter().filter(|count| count.sent > 0).collect::<Vec<_>>(), [&expected]);
        cells.record_answer(stamp);
        assert_eq!(cells.counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u32>(), 0);
    }

    #[test]
    fn the_median_stands_while_one_domain_with_most_of_the_traffic_is_dead() {
        let reading = read(64, 8, |domain, _| domain != 3);
        assert_eq!(reading.median, Some(1.0));
        let cells = Cells::default();
        (0..1_000).for_each(|_| _ = cells.record_send(9));
        (0..640).for_each(|query| cells.record_answer(cells.record_send(query)));
        let reading = (0..5).map(|_| cells.advance()).last().unwrap();
        assert_eq!((reading.median, reading.window), (Some(1.0), Count { sent: 1_640, answered: 640 }));
    }

    #[test]
    fn loss_that_all_domains_share_moves_the_median() {
        let reading = read(64, 8, |_, query| query % 2 == 0);
        assert_eq!(reading.median, Some(0.5));
    }

    #[test]
    fn thin_traffic_is_folded_and_very_thin_traffic_says_nothing() {
        assert_eq!(read(64, 1, |_, _| true).median, Some(1.0));
        assert_eq!(read(24, 1, |_, _| true).median, None);
    }
}
