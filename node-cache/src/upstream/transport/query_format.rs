//! Wire form of a query to a server: EDNS or not, 0x20 case randomization or not, and the outcome of its exchange.

use crate::dns::codes::rcode;
use crate::dns::question::{self, Question};
use crate::dns::{EdnsReply, Response, ResponseError};

/// Wire form of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueryFormat {
    /// Use of EDNS.
    pub(crate) edns: EdnsUse,
    /// Randomizes the case of the name's letters (0x20, draft-vixie-dnsext-dns0x20). The response has to echo it:
    /// whoever forges a response has to guess one bit more for each letter.
    pub(crate) case_0x20: bool,
}

/// Use of EDNS in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdnsUse {
    /// With an OPT record, to a server that is known to support EDNS. FORMERR and other errors about EDNS are ignored:
    /// they are forged, and a response without EDNS could not say that it is stale.
    Required,
    /// With an OPT record. After an error that EDNS may be the reason of the query is repeated without.
    Preferred,
    /// Without an OPT record.
    Absent,
}

/// Outcome of one exchange: a response, or the reason to repeat the query in another way.
#[derive(Debug)]
pub(crate) enum ExchangeOutcome {
    /// A response, its name in lower case again. Its rcode may be a failure. One that does not fit into a datagram (TC,
    /// broken off, or longer than the advertised EDNS size) is truncated.
    Response(Response),
    /// The response does not echo the 0x20 case but is right otherwise: forged, or from a server that changes the case.
    /// Boxed as it is rare.
    CaseNotEchoed(Box<Response>),
}

impl QueryFormat {
    /// Encodes `question` as a message with this ID.
    pub(super) fn encode(self, question: &Question, id: u16) -> Vec<u8> {
        let mut message = question.to_wire(id, self.edns != EdnsUse::Absent);
        if self.case_0x20 {
            question::randomize_case(&mut message, question.name.as_bytes().len(), rand::random);
        }
        message
    }

    /// Returns whether a response to a query of this format is ignored: the server is known to support EDNS.
    pub(super) fn is_forged(self, response: &Response) -> bool {
        self.edns == EdnsUse::Required && response.edns_reply() == EdnsReply::Rejected
    }

    /// Returns the failure that an error without the question, or one with a malformed OPT record, stands for. `None`
    /// for every other fault of a packet, and where the server is known to support EDNS.
    pub(super) fn bare_error(self, question: &Question, error: ResponseError) -> Option<Response> {
        match error {
            ResponseError::BareError(rcode) if self.edns != EdnsUse::Required => {
                Some(Response::bare_error(question, rcode))
            }
            ResponseError::MalformedEdns if self.edns == EdnsUse::Preferred => {
                Some(Response::bare_error(question, rcode::FORMERR))
            }
            _ => None,
        }
    }

    /// Restores lower case in a response to `message`, whose name is `name_len` octets long. The response is unchanged
    /// when the query was sent without 0x20.
    pub(super) fn restore_case(self, mut response: Response, message: &[u8], name_len: usize) -> Response {
        if self.case_0x20 {
            response.restore_case(question::question_name(message, name_len));
        }
        response
    }
}
