//! Durations in the API's notation: `30s`, `5m`, `24h`, `1h30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Duration in whole seconds, written as in the Gateway API (GEP-2257) without its milliseconds: one to four numbers
/// of up to five digits, each with its unit h, m or s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Cow<'_, str>", into = "String")]
pub struct Duration {
    seconds: u32,
}

/// Error of parsing a text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; write it with the units h, m and s, like 30s, 5m, 24h or 1h30m")]
pub struct InvalidDuration(String);

impl Duration {
    /// Returns a duration of `seconds` seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u32) -> Self {
        Self { seconds }
    }

    /// Returns the length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.seconds
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.to_owned());
        let mut seconds: u32 = 0;
        let mut rest = text;
        for _ in 0..4 {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=5).contains(&digits) {
                return Err(invalid());
            }
            let number: u32 = rest[..digits].parse().map_err(|_| invalid())?;
            let unit = match rest.as_bytes().get(digits) {
                Some(b'h') => 3600,
                Some(b'm') => 60,
                Some(b's') => 1,
                _ => return Err(invalid()),
            };
            seconds = seconds.checked_add(number * unit).ok_or_else(invalid)?;
            rest = &rest[digits + 1..];
            if rest.is_empty() {
                return Ok(Self { seconds });
            }
        }
        Err(invalid())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seconds == 0 {
            return formatter.write_str("0s");
        }
        for (number, unit) in [(self.seconds / 3600, 'h'), (self.seconds / 60 % 60, 'm'), (self.seconds % 60, 's')] {
            if number > 0 {
                write!(formatter, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<Cow<'_, str>> for Duration {
    type Error = InvalidDuration;

    fn try_from(text: Cow<'_, str>) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 24})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_minutes_and_seconds_add_up() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("24h", 86_400), ("1h30m", 5_400), ("0s", 0), ("1h1m1s", 3_661), ("90m", 5_400)]
        {
            assert_eq!(text.parse::<Duration>().map(Duration::seconds), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn other_units_and_bare_numbers_are_refused() {
        for text in ["", "1d", "30", "s", "1.5h", "-1s", "1500ms", "1h 30m", "100000s", "1h1m1s1h1m", "1H", "٣s"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for seconds in [0, 1, 59, 60, 61, 3_599, 3_600, 5_400, 86_400, 604_800] {
            let duration = Duration::from_seconds(seconds);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
