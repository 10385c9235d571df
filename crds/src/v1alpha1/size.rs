//! Sizes of memory in the API's notation: `64Mi`, `1.5Gi`, `100M`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Units and their factors; of the binary and of the decimal ones the largest first.
const UNITS: [(&str, u64); 7] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000), ("", 1)];

/// Number of bytes, written as a Kubernetes quantity: up to twelve digits, up to three decimals, and one of the units
/// k, M, G, Ki, Mi and Gi or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Cow<'_, str>", into = "String")]
pub struct ByteSize {
    bytes: u64,
}

/// Error of parsing a text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write it as a quantity of bytes like 64Mi or 1Gi")]
pub struct InvalidByteSize(String);

impl ByteSize {
    /// Returns a size of `number` mebibytes.
    #[must_use]
    pub const fn mebibytes(number: u32) -> Self {
        Self { bytes: (number as u64) << 20 }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_bytes(text).map(|bytes| Self { bytes }).ok_or_else(|| InvalidByteSize(text.to_owned()))
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, factor) = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let (integer, fraction) = match number.split_once('.') {
        Some((integer, fraction)) => (integer, Some(fraction)),
        None => (number, None),
    };
    let mut bytes = parse_digits(integer, 12)?.checked_mul(*factor)?;
    if let Some(fraction) = fraction {
        let thousandths = parse_digits(fraction, 3)? * 10_u64.pow(3 - u32::try_from(fraction.len()).ok()?);
        bytes = bytes.checked_add(thousandths * factor / 1000)?;
    }
    Some(bytes)
}

/// Parses a number of one to `max_digits` decimal digits.
fn parse_digits(text: &str, max_digits: usize) -> Option<u64> {
    let valid = (1..=max_digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS.iter().find(|(_, factor)| self.bytes.is_multiple_of(*factor)).unwrap_or(&("", 1));
        write!(formatter, "{}{unit}", self.bytes / factor)
    }
}

impl TryFrom<Cow<'_, str>> for ByteSize {
    type Error = InvalidByteSize;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 24})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_decimal_units_are_understood() {
        for (text, bytes) in [
            ("64Mi", 67_108_864),
            ("1.5Gi", 1_610_612_736),
            ("100M", 100_000_000),
            ("67108864", 67_108_864),
            ("8192Ki", 8_388_608),
            ("0.125Ki", 128),
            ("2G", 2_000_000_000),
            ("9000k", 9_000_000),
        ] {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "64MB", "64 Mi", "-1Mi", "Mi", "1e9", "64mi", ".5Gi", "1.Gi", "1.2345Gi", "1Ti", "+1Gi"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for bytes in [0, 1, 1_000, 1_024, 67_108_864, 100_000_000, 1_610_612_736, 123_456_789] {
            let size = ByteSize { bytes };
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
