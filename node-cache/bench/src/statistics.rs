//! How sure a ratio is.
//!
//! A ratio is measured in several lives of a server, each from its start on. In each life there are turns, and a neighbour
//! on the machine throws some of them far away: so a fifth at either end is cut off before their mean is taken. The
//! lives differ among themselves too, by where a process comes to lie in memory, which no number of turns would show. So
//! they are what the interval is made of: Student's, for the mean of as many values as there are lives.

/// The part of the values that is cut off at either end.
const TRIMMED: f64 = 0.2;

/// A value, and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    /// Half of the interval in which the true value lies in 95 of 100 cases, as a share of `value`.
    pub(crate) half_width: f64,
}

/// The ratio whose logarithms these are, one of each life. Of a single one nobody can say how sure it is: the interval has
/// no end.
pub(crate) fn ratio(lives: &[f64]) -> Estimate {
    let (value, number) = (mean(lives).exp(), lives.len());
    if number < 2 {
        return Estimate { value, half_width: f64::INFINITY };
    }
    let error = (variance(lives) / number as f64).sqrt();
    Estimate { value, half_width: (student(number - 1) * error).exp() - 1.0 }
}

/// The mean of what remains when a fifth is cut off at either end.
pub(crate) fn trimmed_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = (sorted.len() as f64 * TRIMMED) as usize;
    mean(&sorted[cut..sorted.len() - cut])
}

/// The middle of the values; of an even number the mean of both in the middle. Nothing has no middle and gives 0.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        number if number % 2 == 1 => sorted[number / 2],
        number => f64::midpoint(sorted[number / 2 - 1], sorted[number / 2]),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// Below which value Student's t lies, to either side of 0, in 95 of 100 cases: from tables up to ten degrees of freedom, and then
/// the first terms of its expansion around the normal distribution.
fn student(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    const NORMAL: f64 = 1.959_964;
    let expansion = || {
        let (z, n) = (NORMAL, degrees as f64);
        z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
    };
    TABLE.get(degrees.wrapping_sub(1)).copied().unwrap_or_else(expansion)
}

#[cfg(test)]
mod tests {
    use super::{Estimate, median, ratio, trimmed_mean};

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
}
