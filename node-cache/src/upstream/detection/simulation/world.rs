//! World: domains with their popularity, names that nobody answers, and how long an upstream needs.

use super::random::Random;

pub(super) const DOMAINS: usize = 4096;
/// The most popular domain but the block list.
pub(super) const POPULAR: u32 = 1;
/// Block list: the domain with the share of traffic that a world gives it.
pub(super) const BLOCK_LIST: u32 = 0;
/// Share of queries for names that nobody answers, on good days.
const UNANSWERABLE: f64 = 0.02;
/// Share of names that the upstream has cached.
const CACHED: f64 = 0.6;

/// Fault of an upstream, of names, or of the process, while it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// The limiter works. Without this fault it always does.
    Limit,
    Blackout,
    Loss(f64),
    /// Answers take this many milliseconds more.
    Delay(u64),
    DeadDomain(u32),
    /// Share of the names of all domains that nobody answers.
    DeadNames(f64),
    /// Every domain whose number leaves these remainders by 20 is dead.
    DeadTld(u32),
    /// The process stands still for so long, every so often.
    Pause {
        every: u64,
        length: u64,
    },
    /// Load times this factor, of which all above one is for names of one domain.
    Crowd(f64),
    /// All queries are answered, whatever with: SERVFAIL, TC.
    Nothing,
}

/// A fault from a time to another one, in milliseconds, in each period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) fault: Fault,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) period: u64,
}

impl Span {
    pub(super) const fn is_active(&self, now: u64) -> bool {
        let now = now % self.period;
        self.from <= now && now < self.to
    }
}

/// Domains by popularity.
#[derive(Debug)]
pub(super) struct World {
    /// Alias table (Walker): probability to stay, and the other domain.
    alias: Vec<(f64, u32)>,
    block_list_share: f64,
}

impl World {
    pub(super) fn new(block_list_share: f64) -> Self {
        let weights: Vec<f64> = (1..=DOMAINS).map(|rank| (rank as f64 + 3.0).powf(-0.9)).collect();
        let sum: f64 = weights.iter().sum();
        let mut alias: Vec<(f64, u32)> = weights.iter().map(|w| (w / sum * DOMAINS as f64, 0)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..DOMAINS).partition(|n| alias[*n].0 < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            alias[less].1 = more as u32;
            alias[more].0 -= 1.0 - alias[less].0;
            if alias[more].0 < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self { alias, block_list_share }
    }

    pub(super) fn domain(&self, random: &mut Random) -> u32 {
        if random.chance(self.block_list_share) {
            return BLOCK_LIST;
        }
        let domain = random.below(DOMAINS as u64) as usize;
        let (stay, other) = self.alias[domain];
        if random.unit() < stay { domain as u32 } else { other }
    }

    /// Returns whether somebody answers a query for a name of this domain.
    pub(super) fn is_answerable(domain: u32, faults: &[Fault], random: &mut Random) -> bool {
        let is_dead = |fault: &Fault| match *fault {
            Fault::DeadDomain(dead) => dead == domain,
            Fault::DeadTld(tlds) => domain % 20 < tlds,
            _ => false,
        };
        let dead = faults.iter().filter_map(|fault| match fault {
            Fault::DeadNames(share) => Some(*share),
            _ => None,
        });
        let share = dead.fold(UNANSWERABLE, f64::max);
        !faults.iter().any(is_dead) && !random.chance(share)
    }

    /// Returns the milliseconds until the upstream answers.
    pub(super) fn latency(is_cached: bool, random: &mut Random) -> u64 {
        if is_cached || random.chance(CACHED) {
            1 + random.below(3)
        } else if random.chance(0.01) {
            100 + random.exponential(200.0) as u64
        } else {
            5 + random.exponential(20.0) as u64
        }
    }

    /// Returns the hash of a domain, which chooses its cell.
    pub(super) fn hash(domain: u32) -> u64 {
        Random(u64::from(domain)).next()
    }
}
