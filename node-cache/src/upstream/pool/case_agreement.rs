//! Agreement of responses that do not echo the 0x20 case, from a server that is closed over TCP. One such response may
//! be forged by somebody who guessed ID and port. Several in a row, each to a query with an ID, a port and a case of
//! its own, show that the server changes the case.

use crate::dns::Response;

/// Responses that have to agree. Whoever is not the server has to guess ID and port as often.
const REQUIRED: u32 = 3;

/// Responses of one attempt that do not echo the case.
#[derive(Debug, Default)]
pub(super) struct CaseAgreement {
    latest: Option<Box<Response>>,
    responses: u32,
}

/// Conclusion from the responses of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CaseVerdict {
    /// Too few responses: the query has to be repeated.
    Open,
    /// The server changes the case, and this is its response.
    ServerChangesCase(Box<Response>),
    /// The responses contradict each other: any of them may be forged.
    Contradiction,
}

impl CaseAgreement {
    /// Records a response that does not echo the case.
    pub(super) fn record(&mut self, response: Box<Response>) -> CaseVerdict {
        if self.latest.as_ref().is_some_and(|latest| !latest.agrees_with(&response)) {
            return CaseVerdict::Contradiction;
        }
        self.responses += 1;
        if self.responses >= REQUIRED {
            return CaseVerdict::ServerChangesCase(response);
        }
        self.latest = Some(response);
        CaseVerdict::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Name;
    use crate::dns::codes::{rcode, rtype};
    use crate::dns::question::Question;

    fn response(last_octet: u8) -> Box<Response> {
        let question = Question::plain(&Name::from_text("www.example").unwrap(), rtype::A);
        Box::new(Response::with_records(&question, rcode::NOERROR, &[(rtype::A, 300, vec![192, 0, 2, last_octet])]))
    }

    /// Returns the verdict after each of the responses with these addresses.
    fn verdicts(last_octets: &[u8]) -> Vec<CaseVerdict> {
        let mut agreement = CaseAgreement::default();
        last_octets.iter().map(|last_octet| agreement.record(response(*last_octet))).collect()
    }

    #[test]
    fn three_responses_have_to_agree_and_none_may_contradict() {
        use CaseVerdict::{Contradiction, Open, ServerChangesCase};
        assert_eq!(verdicts(&[1, 1, 1]), [Open, Open, ServerChangesCase(response(1))]);
        assert_eq!(verdicts(&[66, 1]), [Open, Contradiction]);
        assert_eq!(verdicts(&[1, 1, 66]), [Open, Open, Contradiction]);
    }
}
