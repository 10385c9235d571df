//! Telling: the annotation of a pod with the number of times that it was told its revision, and the last time. The
//! kubelet notices a pod whose annotation changes, so that a further telling refreshes the pod's volume.

use std::fmt;

use k8s_openapi::jiff::Timestamp;

/// Number of times that a pod was told the revision of its annotation, and the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Telling {
    /// Number, from 1.
    pub(crate) number: u8,
    /// Last time.
    pub(crate) time: Timestamp,
}

impl Telling {
    /// Parses the value of the annotation; `None` for any other text.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (number, time) = text.split_once(' ')?;
        Some(Self { number: number.parse().ok()?, time: time.parse().ok()? })
    }
}

impl fmt::Display for Telling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.number, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_telling_is_read_as_it_was_written_and_anything_else_is_none() {
        let telling = Telling { number: 2, time: "2026-01-01T00:00:05Z".parse().unwrap() };
        assert_eq!(telling.to_string(), "2 2026-01-01T00:00:05Z");
        assert_eq!(Telling::parse(&telling.to_string()), Some(telling));
        for text in ["", "2", "x 2026-01-01T00:00:05Z", "2 yesterday", "300 2026-01-01T00:00:05Z"] {
            assert_eq!(Telling::parse(text), None, "{text}");
        }
    }
}
