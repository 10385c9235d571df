//! What the benchmark reckons with. It is a program that measures, and so has no tests of its own.

#[path = "../benches/engine/statistics.rs"]
mod statistics;

use statistics::{Estimate, median, ratio, trimmed_mean};

/// Numbers between 0 and 1 that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Spread normally around 0 with a deviation of 1: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }

    /// The same, and one in ten is thrown ten times as far.
    fn disturbed(&mut self) -> f64 {
        let normal = self.normal();
        if self.next() < 0.1 { normal * 10.0 } else { normal }
    }
}

#[test]
fn the_interval_holds_the_truth_in_95_of_100_runs() {
    let mut random = Random(20_261_125);
    for lives in [3, 5, 12, 30] {
        let held = (0..2_000).filter(|_| {
            let lives: Vec<f64> = (0..lives)
                .map(|_| {
                    let own = 0.9_f64.ln() + 0.01 * random.normal();
                    trimmed_mean(&(0..12).map(|_| own + 0.02 * random.disturbed()).collect::<Vec<_>>())
                })
                .collect();
            let Estimate { value, half_width } = ratio(&lives);
            (value / 0.9).ln().abs() <= half_width.ln_1p()
        });
        let held = held.count();
        assert!((1_860..=1_940).contains(&held), "{held} of 2000 with {lives} lives");
    }
}

#[test]
fn turns_that_were_disturbed_change_nothing() {
    let mut turns = [1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 1.0, 1.0, 1.0, 1.0];
    let before = trimmed_mean(&turns);
    (turns[0], turns[7]) = (50.0, 0.001);
    assert!((trimmed_mean(&turns) - before).abs() < 0.005, "{}", trimmed_mean(&turns));
}

#[test]
fn one_life_is_sure_of_nothing() {
    assert_eq!(ratio(&[0.0]), Estimate { value: 1.0, half_width: f64::INFINITY });
    assert_eq!(ratio(&[0.0, 0.0]), Estimate { value: 1.0, half_width: 0.0 });
}

#[test]
fn a_median_lies_in_the_middle() {
    assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0]), median(&[])], [2.0, 2.5, 0.0]);
}
