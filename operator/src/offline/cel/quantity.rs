//! Quantities of Kubernetes: `100m`, `64Mi`, `1.5`, `2e3`.

/// Number of units in which a quantity is counted.
const UNITS_IN_ONE: i128 = 1_000_000_000;
/// Suffixes with the number that one of them is.
const SUFFIXES: [(&str, i128); 16] = [
    ("Ki", UNITS_IN_ONE << 10),
    ("Mi", UNITS_IN_ONE << 20),
    ("Gi", UNITS_IN_ONE << 30),
    ("Ti", UNITS_IN_ONE << 40),
    ("Pi", UNITS_IN_ONE << 50),
    ("Ei", UNITS_IN_ONE << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", UNITS_IN_ONE * 1_000),
    ("M", UNITS_IN_ONE * 1_000_000),
    ("G", UNITS_IN_ONE * 1_000_000_000),
    ("T", UNITS_IN_ONE * 1_000_000_000_000),
    ("P", UNITS_IN_ONE * 1_000_000_000_000_000),
    ("E", UNITS_IN_ONE * 1_000_000_000_000_000_000),
    ("", UNITS_IN_ONE),
];

/// Parses a quantity; `None` for a text that is none, or that is beyond all measure. What is smaller than a
/// thousand-millionth is dropped.
pub(super) fn parse(text: &str) -> Option<i128> {
    let (is_negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let length = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = unsigned.split_at(length);
    let units = suffix_units(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(units)? };
    let mut place = units;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(i128::from(digit - b'0').checked_mul(place)?)?;
    }
    Some(if is_negative { -total } else { total })
}

/// Returns the units of a suffix, or of an exponent.
fn suffix_units(suffix: &str) -> Option<i128> {
    if let Some((_, units)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Some(*units);
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 { UNITS_IN_ONE.checked_mul(factor) } else { Some(UNITS_IN_ONE / factor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_suffixes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("2", Some(2 * UNITS_IN_ONE)),
            ("500m", Some(UNITS_IN_ONE / 2)),
            ("1.5Gi", Some((UNITS_IN_ONE * 3) << 29)),
            (".5", Some(UNITS_IN_ONE / 2)),
            ("1e3", Some(UNITS_IN_ONE * 1_000)),
            ("1E", Some(UNITS_IN_ONE * 1_000_000_000_000_000_000)),
            ("-1", Some(-UNITS_IN_ONE)),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("64MB", None),
            ("lots", None),
            ("1 Gi", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
