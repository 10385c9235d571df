//! Fisher's exact test, one-sided.

/// Events among responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Number of responses that are such an event.
    pub(crate) events: u64,
    /// Number of responses.
    pub(crate) total: u64,
}

/// Returns the probability that chance puts as many of the events into the first sample as there are, or more, when
/// both samples have the same share of them. It is 1 where the first one does not have the larger share.
#[must_use]
pub(crate) fn p_value(first: Sample, second: Sample) -> f64 {
    let (mut x, n) = (first.events.min(first.total), first.total);
    let (mut y, m) = (second.events.min(second.total), second.total);
    if x == 0 || m == 0 || x as f64 * m as f64 <= y as f64 * n as f64 {
        return 1.0;
    }
    let mut term = (ln_choose(n, x) + ln_choose(m, y) - ln_choose(n + m, x + y)).exp();
    let mut sum = term;
    // Beyond the mean each term is smaller than the one before it.
    while y > 0 && x < n && term > sum * 1e-9 {
        term *= (n - x) as f64 * y as f64 / ((x + 1) as f64 * (m - y + 1) as f64);
        sum += term;
        x += 1;
        y -= 1;
    }
    sum.min(1.0)
}

/// Returns the natural logarithm of a binomial coefficient.
fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Returns the natural logarithm of a factorial, by Stirling's series from 16 on.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| factor as f64).product::<f64>().ln();
    }
    let n = n as f64;
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(x: u64, n: u64, y: u64, m: u64) -> f64 {
        p_value(Sample { events: x, total: n }, Sample { events: y, total: m })
    }

    #[test]
    fn probabilities_are_those_of_the_hypergeometric_distribution() {
        // Fisher's lady tasting tea: 17 of 70 tables, 1 of 70 tables.
        assert!((p(3, 4, 1, 4) - 17.0 / 70.0).abs() < 1e-9);
        assert!((p(4, 4, 0, 4) - 1.0 / 70.0).abs() < 1e-9);
        // Five events of which chance puts each into the first fifth: (300 over 5) of (1,500 over 5).
        assert!((p(5, 300, 0, 1_200) - 3.12e-4).abs() < 1e-5, "{}", p(5, 300, 0, 1_200));
    }

    #[test]
    fn a_share_that_is_not_larger_is_never_significant() {
        assert_eq!((p(0, 300, 0, 300), p(3, 300, 3, 300), p(3, 300, 9, 300)), (1.0, 1.0, 1.0));
        assert_eq!((p(5, 300, 0, 0), p(0, 0, 5, 300)), (1.0, 1.0));
    }

    #[test]
    fn counts_of_a_day_are_computed_without_a_long_loop() {
        let day = 864_000_000;
        assert!(p(day / 100, day, day / 200, day) < 1e-12);
        let close = p(500_300, 100_000_000, 500_000, 100_000_000);
        assert!((0.3..0.45).contains(&close), "{close}");
    }
}
