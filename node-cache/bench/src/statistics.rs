//! Statistics: trimmed mean, median, and the confidence interval of a ratio.
//!
//! A ratio is measured in several runs of a server's process, each from its start on. A run has several turns, and
//! other load on the machine makes outliers of some of them: a fifth of them at either end is trimmed before the mean
//! is taken. Runs differ among themselves too, by where a process comes to lie in memory, which no number of turns
//! would show. So the confidence interval is made of the runs: Student's, for the mean of as many values as there are
//! runs.

/// Share of the values that is trimmed at either end.
const TRIMMED: f64 = 0.2;

/// A value with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    /// Half of the interval, as a share of `value`.
    pub(crate) half_width: f64,
}

/// Estimates a ratio from its natural logarithms, one of each run. With a single run the interval is infinite.
pub(crate) fn estimate_ratio(log_ratios: &[f64]) -> Estimate {
    let value = mean(log_ratios).exp();
    let runs = log_ratios.len();
    if runs < 2 {
        return Estimate { value, half_width: f64::INFINITY };
    }
    let standard_error = (variance(log_ratios) / runs as f64).sqrt();
    Estimate { value, half_width: (student_t_95(runs - 1) * standard_error).exp() - 1.0 }
}

/// Returns the mean without a fifth of the values at either end.
pub(crate) fn trimmed_mean(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let trimmed = (sorted.len() as f64 * TRIMMED) as usize;
    mean(&sorted[trimmed..sorted.len() - trimmed])
}

/// Returns the median; of an even number of values the mean of the two in the middle, of none 0.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

/// Returns the two-sided 95 % quantile of Student's t distribution: from a table up to ten degrees of freedom, beyond
/// by the first terms of its expansion around the normal distribution.
fn student_t_95(degrees: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    const NORMAL: f64 = 1.959_964;
    let expansion = || {
        let z = NORMAL;
        let n = degrees as f64;
        z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
    };
    TABLE.get(degrees.wrapping_sub(1)).copied().unwrap_or_else(expansion)
}

#[cfg(test)]
mod tests {
    use super::{Estimate, estimate_ratio, median, student_t_95, trimmed_mean};

    /// Pseudo-random numbers between 0 and 1, equal in each test run (xorshift).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Returns a sample of the normal distribution with mean 0 and deviation 1: the sum of twelve uniform ones.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.next()).sum::<f64>() - 6.0
        }

        /// Returns a sample of the normal distribution, of which one in ten is an outlier ten times as far away.
        fn normal_with_outliers(&mut self) -> f64 {
            let normal = self.normal();
            if self.next() < 0.1 { normal * 10.0 } else { normal }
        }
    }

    #[test]
    fn the_interval_holds_the_truth_in_95_of_100_runs() {
        let mut random = Random(20_261_125);
        for runs in [3, 5, 12, 30] {
            let held = (0..2_000).filter(|_| {
                let log_ratios: Vec<f64> = (0..runs)
                    .map(|_| {
                        let of_run = 0.9_f64.ln() + 0.01 * random.normal();
                        let turns: Vec<f64> = (0..12).map(|_| of_run + 0.02 * random.normal_with_outliers()).collect();
                        trimmed_mean(&turns)
                    })
                    .collect();
                let Estimate { value, half_width } = estimate_ratio(&log_ratios);
                (value / 0.9).ln().abs() <= half_width.ln_1p()
            });
            let held = held.count();
            assert!((1_860..=1_940).contains(&held), "{held} of 2000 with {runs} runs");
        }
    }

    #[test]
    fn outliers_among_the_turns_change_nothing() {
        let mut turns = [1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 1.0, 1.0, 1.0, 1.0];
        let before = trimmed_mean(&turns);
        turns[0] = 50.0;
        turns[7] = 0.001;
        assert!((trimmed_mean(&turns) - before).abs() < 0.005, "{}", trimmed_mean(&turns));
    }

    #[test]
    fn one_run_has_an_infinite_interval() {
        assert_eq!(estimate_ratio(&[0.0]), Estimate { value: 1.0, half_width: f64::INFINITY });
        assert_eq!(estimate_ratio(&[0.0, 0.0]), Estimate { value: 1.0, half_width: 0.0 });
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0]), median(&[])], [2.0, 2.5, 0.0]);
    }

    #[test]
    fn students_t_falls_towards_the_normal_distribution() {
        assert_eq!(student_t_95(1), 12.706);
        assert!((student_t_95(30) - 2.042).abs() < 0.001, "{}", student_t_95(30));
        let falls = (1..100).all(|degrees| student_t_95(degrees) > student_t_95(degrees + 1));
        assert!(falls && student_t_95(100) > 1.96);
    }
}
