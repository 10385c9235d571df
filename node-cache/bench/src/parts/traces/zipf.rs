//! Names by Zipf's law: the one of rank r is asked for with a probability of 1/r^s.

use super::random::{Random, hash};
use super::ttl;
use crate::load::queries as names;
use crate::servers::upstream::Said;

/// Names that may be asked for.
const NAMES: usize = 1_000_000;
const SEED: u64 = 20_261_125;
const A: u16 = 1;

/// Ranks, from 0 on.
pub(super) struct Zipf {
    /// For each rank the probability that it or a lower one is drawn.
    sums: Vec<f64>,
}

impl Zipf {
    pub(super) fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        sums.iter_mut().for_each(|below| *below /= sum);
        Self { sums }
    }

    pub(super) fn draw(&self, random: &mut Random) -> usize {
        let share = random.share();
        self.sums.partition_point(|below| *below <= share).min(self.sums.len() - 1)
    }
}

/// So many questions.
pub(super) fn trace(exponent: f64, questions: usize) -> Vec<Vec<u8>> {
    let (zipf, mut random) = (Zipf::new(NAMES, exponent), Random::new(SEED));
    let question = |_| {
        let mut out = Vec::new();
        names::of_set(1, zipf.draw(&mut random) as u64, &mut out);
        out
    };
    (0..questions).map(question).collect()
}

/// One to four addresses.
pub(super) fn say(name: &[u8], rtype: u16) -> Said {
    let hash = hash(name, rtype);
    match rtype {
        A => Said::Addresses(1 + (hash % 4) as u8, ttl(hash)),
        _ => Said::Nothing(1, ttl(hash)),
    }
}
