//! Support of EDNS by one server, as its responses show it (RFC 6891 §6.2.2 and §7). One error that was forged changes
//! nothing: a server counts as one without EDNS only after several names in a row. Pure: the time is a parameter.

use std::time::{Duration, Instant};

use crate::dns::{EdnsReply, Name};

/// Names in a row with an error to the query with EDNS and an answer to the one without, after which a server is
/// queried without EDNS.
const REQUIRED_NAMES: usize = 3;
/// How long such a server is queried without EDNS.
const NO_EDNS_PERIOD: Duration = Duration::from_secs(600);
/// How long a server that sent an OPT record counts as one that supports EDNS: its failures have other reasons.
const SUPPORTED_PERIOD: Duration = Duration::from_secs(600);

/// Support of EDNS by one server.
#[derive(Debug, Default)]
pub(super) struct EdnsSupport {
    /// When the last response with an OPT record came.
    supported_at: Option<Instant>,
    /// Different names in a row with an error to the query with EDNS and an answer to the one without.
    rejected_names: Vec<Name>,
    /// When the server was last found to be one without EDNS.
    absent_since: Option<Instant>,
}

impl EdnsSupport {
    /// Records the reply to a query with EDNS.
    pub(super) fn record_reply(&mut self, reply: EdnsReply, now: Instant) {
        match reply {
            EdnsReply::Supported => {
                self.supported_at = Some(now);
                self.rejected_names.clear();
            }
            EdnsReply::Absent => self.rejected_names.clear(),
            EdnsReply::Suspect | EdnsReply::Rejected => {}
        }
    }

    /// Records an error to the query for `name` with EDNS, and an answer to the one without. Returns whether the server
    /// counts as one without EDNS from now on.
    pub(super) fn record_rejection(&mut self, name: &Name, now: Instant) -> bool {
        if self.rejected_names.contains(name) {
            return false;
        }
        self.rejected_names.push(name.clone());
        let is_absent = self.rejected_names.len() >= REQUIRED_NAMES;
        if is_absent {
            *self = Self { absent_since: Some(now), ..Self::default() };
        }
        is_absent
    }

    /// Returns whether EDNS may be the reason of a failure with this reply to a query with EDNS: the query is worth a
    /// repetition without.
    pub(super) fn may_be_reason(&self, reply: EdnsReply, now: Instant) -> bool {
        let is_supported = || self.supported_at.is_some_and(|at| now.saturating_duration_since(at) < SUPPORTED_PERIOD);
        match reply {
            EdnsReply::Rejected => true,
            EdnsReply::Suspect => !is_supported(),
            EdnsReply::Supported | EdnsReply::Absent => false,
        }
    }

    /// Returns how long the server is still queried without EDNS; `None` when it is queried with it.
    pub(super) fn absent_for(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.absent_since?);
        NO_EDNS_PERIOD.checked_sub(elapsed).filter(|remaining| !remaining.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(number: u32) -> Name {
        Name::from_text(&format!("n{number}.example")).unwrap()
    }

    #[test]
    fn a_server_is_without_edns_for_ten_minutes_after_three_names_in_a_row() {
        let now = Instant::now();
        let mut support = EdnsSupport::default();
        assert!(!support.record_rejection(&name(1), now) && !support.record_rejection(&name(2), now));
        assert!(!support.record_rejection(&name(2), now), "the same name once more");
        assert_eq!(support.absent_for(now), None);
        assert!(support.record_rejection(&name(3), now));
        assert_eq!(support.absent_for(now + 599 * SECOND), Some(SECOND));
        assert_eq!(support.absent_for(now + 600 * SECOND), None);
        let later = now + 600 * SECOND;
        assert!(!support.record_rejection(&name(1), later), "it takes three again");
    }

    #[test]
    fn an_answer_to_a_query_with_edns_ends_the_row_and_an_error_does_not() {
        let now = Instant::now();
        for (reply, ends) in [
            (EdnsReply::Supported, true),
            (EdnsReply::Absent, true),
            (EdnsReply::Suspect, false),
            (EdnsReply::Rejected, false),
        ] {
            let mut support = EdnsSupport::default();
            for number in 1..=2 {
                support.record_rejection(&name(number), now);
            }
            support.record_reply(reply, now);
            assert_eq!(support.record_rejection(&name(3), now), !ends, "{reply:?}");
        }
    }

    #[test]
    fn a_failure_without_opt_is_a_plain_one_of_a_server_that_has_sent_opt_lately() {
        let now = Instant::now();
        let mut support = EdnsSupport::default();
        assert!(support.may_be_reason(EdnsReply::Suspect, now) && support.may_be_reason(EdnsReply::Rejected, now));
        assert!(!support.may_be_reason(EdnsReply::Supported, now));
        support.record_reply(EdnsReply::Supported, now);
        assert!(!support.may_be_reason(EdnsReply::Suspect, now + 599 * SECOND));
        assert!(support.may_be_reason(EdnsReply::Suspect, now + 600 * SECOND));
        assert!(support.may_be_reason(EdnsReply::Rejected, now), "FORMERR is about EDNS whatever was before");
    }
}
