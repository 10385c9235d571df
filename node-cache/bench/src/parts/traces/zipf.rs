//! Trace of names by Zipf's law: the one of rank r has a probability of 1/r^s.

use super::random::{Random, hash};
use super::ttl;
use crate::load::queries;
use crate::servers::upstream::Answer;

/// Number of names.
const NAMES: usize = 1_000_000;
const SEED: u64 = 20_261_125;
const A: u16 = 1;

/// Zipf distribution of ranks from 0 on.
pub(super) struct Zipf {
    /// Probability of each rank or a lower one.
    cumulative: Vec<f64>,
}

impl Zipf {
    pub(super) fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (1..=ranks)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|weight| *weight /= sum);
        Self { cumulative }
    }

    pub(super) fn draw(&self, random: &mut Random) -> usize {
        let fraction = random.fraction();
        self.cumulative.partition_point(|probability| *probability <= fraction).min(self.cumulative.len() - 1)
    }
}

/// Returns this number of queries.
pub(super) fn trace(exponent: f64, queries: usize) -> Vec<Vec<u8>> {
    let zipf = Zipf::new(NAMES, exponent);
    let mut random = Random::new(SEED);
    let query = |_| {
        let mut out = Vec::new();
        queries::append_of_set(1, zipf.draw(&mut random) as u64, &mut out);
        out
    };
    (0..queries).map(query).collect()
}

/// Answers with one to four addresses.
pub(super) fn answer(name: &[u8], rtype: u16) -> Answer {
    let hash = hash(name, rtype);
    match rtype {
        A => Answer::Addresses(1 + (hash % 4) as u8, ttl(hash)),
        _ => Answer::NoData(1, ttl(hash)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, Zipf};

    #[test]
    fn the_first_rank_comes_twice_as_often_as_the_second() {
        let zipf = Zipf::new(1000, 1.0);
        let mut random = Random::new(1);
        let mut counts = [0; 1000];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut random)] += 1);
        // 1 / H(1000) = 0.1336, and half of it.
        assert!((12_900..13_800).contains(&counts[0]), "{}", counts[0]);
        assert!((6_300..7_100).contains(&counts[1]), "{}", counts[1]);
    }
}
