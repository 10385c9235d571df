//! Check of a denial: a server that compares names by octet denies every name in random case (0x20), so the query is
//! repeated in lower case, and that response counts. Records over UDP may be forged by somebody who guesses ID and
//! port, as the case is known: they are confirmed over TCP, or by another query over UDP where TCP is closed.

use std::time::{Duration, Instant};

use crate::dns::Response;

/// Time for the response to the query in lower case. Without one the denial stands.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for the confirmation of records: a second of TCP, and the query over UDP after it.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_millis(1500);

/// A denial of a query in mixed case that is being checked.
#[derive(Debug)]
pub(super) struct CaseCheck {
    denial: Response,
    /// When the denial stands.
    until: Instant,
    /// Records that came over UDP.
    unconfirmed: Option<Box<Response>>,
}

/// Conclusion from a response to the query in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CheckVerdict {
    /// Records over UDP: the query is repeated.
    Unconfirmed,
    /// The name is denied whatever its case. This is the response.
    Denied(Response),
    /// The server knows the name in lower case only. This is its response.
    KnownInLowerCase(Response),
}

/// Returns whether a response denies the name or the type: it is no failure, not truncated, and has no answer record.
pub(super) fn is_denial(response: &Response) -> bool {
    !response.is_failure() && !response.has_answer() && !response.is_truncated()
}

impl CaseCheck {
    /// Creates the check of this denial, which came at `now`.
    pub(super) fn new(denial: Response, now: Instant) -> Self {
        Self { denial, until: now + CHECK_TIMEOUT, unconfirmed: None }
    }

    /// Returns when the denial stands.
    pub(super) const fn until(&self) -> Instant {
        self.until
    }

    /// Returns the denial, of a check that has no result.
    pub(super) fn into_denial(self) -> Response {
        self.denial
    }

    /// Records a response to the query in lower case. `is_proven`: it came over TCP, where it cannot be forged.
    pub(super) fn record(&mut self, response: Response, is_proven: bool, now: Instant) -> CheckVerdict {
        if !response.is_conclusive() {
            return CheckVerdict::Denied(self.denial.clone());
        }
        match self.unconfirmed.take() {
            None if is_denial(&response) => CheckVerdict::Denied(response),
            _ if is_proven && is_denial(&response) => CheckVerdict::Denied(response),
            _ if is_proven => CheckVerdict::KnownInLowerCase(response),
            Some(first) if first.agrees_with(&response) => CheckVerdict::KnownInLowerCase(response),
            // One of the two is forged.
            Some(_) => CheckVerdict::Denied(self.denial.clone()),
            None => {
                self.unconfirmed = Some(Box::new(response));
                self.until = now + CONFIRMATION_TIMEOUT;
                CheckVerdict::Unconfirmed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    fn response(rcode: u16, addresses: &[u8]) -> Response {
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        let records: Vec<_> = addresses.iter().map(|last| (rtype::A, 300, vec![192, 0, 2, *last])).collect();
        Response::with_records(&question, rcode, &records)
    }

    /// Returns the verdict after each of these responses, with whether it came over TCP, to the check of an NXDOMAIN.
    fn verdicts<const N: usize>(responses: [(Response, bool); N]) -> [CheckVerdict; N] {
        let now = Instant::now();
        let mut check = CaseCheck::new(response(rcode::NXDOMAIN, &[]), now);
        responses.map(|(response, is_proven)| check.record(response, is_proven, now))
    }

    #[test]
    fn the_denial_of_the_name_in_lower_case_counts() {
        use CheckVerdict::Denied;
        let [nxdomain, nodata] = [rcode::NXDOMAIN, rcode::NOERROR].map(|rcode| response(rcode, &[]));
        assert!(is_denial(&nxdomain) && is_denial(&nodata) && !is_denial(&response(rcode::NOERROR, &[1])));
        assert_eq!(verdicts([(nodata.clone(), false)]), [Denied(nodata.clone())]);
        assert_eq!(verdicts([(nodata.clone(), true)]), [Denied(nodata)]);
        let failure = response(rcode::SERVFAIL, &[]);
        assert!(!is_denial(&failure));
        assert_eq!(verdicts([(failure, false)]), [Denied(nxdomain)], "a failure says nothing");
    }

    #[test]
    fn records_are_believed_over_tcp_or_when_two_queries_agree() {
        use CheckVerdict::{KnownInLowerCase, Unconfirmed};
        let records = response(rcode::NOERROR, &[1, 2]);
        assert_eq!(verdicts([(records.clone(), true)]), [KnownInLowerCase(records.clone())]);
        let turned = response(rcode::NOERROR, &[2, 1]);
        let both = [(records.clone(), false), (turned.clone(), false)];
        assert_eq!(verdicts(both), [Unconfirmed, KnownInLowerCase(turned)]);
        let forged = response(rcode::NOERROR, &[66]);
        assert_eq!(
            verdicts([(forged.clone(), false), (records.clone(), true)]),
            [Unconfirmed, KnownInLowerCase(records.clone())],
            "over TCP it is the server"
        );
        let denial = response(rcode::NXDOMAIN, &[]);
        for second in [records, denial.clone(), response(rcode::SERVFAIL, &[])] {
            let both = [(forged.clone(), false), (second, false)];
            assert_eq!(verdicts(both), [Unconfirmed, CheckVerdict::Denied(denial.clone())]);
        }
    }
}
