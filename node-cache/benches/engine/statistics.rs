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
