//! Comparison of a server with others by the first send of a query: what became of it, when the name was answered.

use super::retry::Alternative;
use crate::dns::{Name, Response};
use crate::upstream::server::Server;
use crate::upstream::server::outcomes::ResponseKind;

/// Server that has answered a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnsweredBy {
    /// A server of the tiers other than that of the attempt: that one could have answered too.
    Peer,
    /// The server of the attempt, to a repeat, or the reserve, which is not asked for the sake of comparison.
    NoPeer,
}

/// Outcome of one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcome {
    /// The attempt says nothing about its server: it is a probe, or not the first send of its query. Further sends are
    /// for the names that servers fail to answer.
    #[default]
    Ignored,
    Pending,
    Responded,
    /// The server has failed to answer.
    Failed,
    /// No response came in time, and another attempt was answered.
    Lost,
}

/// Comparison of the server of one attempt with others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    outcome: Outcome,
    /// The server that has answered the query.
    answered_by: Option<AnsweredBy>,
}

impl Comparison {
    /// Starts to compare the server by this attempt, the first send of its query.
    pub(super) const fn start(&mut self) {
        self.outcome = Outcome::Pending;
    }

    /// Records a truncated response over UDP.
    pub(super) fn record_truncation(self, server: &Server) {
        if self.outcome != Outcome::Ignored {
            server.record_truncation();
        }
    }

    /// Records the response that ends the attempt, and returns what it says about the server.
    pub(super) fn record_response(&mut self, response: &Response, server: &Server) -> ResponseKind {
        if self.outcome == Outcome::Ignored {
            return ResponseKind::Neutral;
        }
        let kind = kind_of(response, server.is_of_tier());
        if self.outcome == Outcome::Lost {
            server.record_late_response();
        }
        let is_failure = kind == ResponseKind::Failure;
        self.outcome = if is_failure { Outcome::Failed } else { Outcome::Responded };
        kind
    }

    /// Records that an attempt of the query was answered. A failure of this one is the server's if a peer has
    /// answered, and so is silence that has lasted (`is_silent`), whichever has.
    pub(super) fn record_answered_name(
        &mut self,
        answered_by: AnsweredBy,
        is_silent: bool,
        server: &Server,
        name: &Name,
    ) {
        self.answered_by = Some(answered_by);
        match self.outcome {
            Outcome::Failed if answered_by == AnsweredBy::Peer => server.record_refuted_failure(name),
            Outcome::Pending if is_silent => self.record_silence(server, name),
            _ => {}
        }
    }

    /// Records that the server has been silent for long, while the attempt goes on.
    pub(super) fn record_silence(&mut self, server: &Server, name: &Name) {
        if let Some(answered_by) = self.answered_by
            && self.outcome == Outcome::Pending
        {
            self.outcome = Outcome::Lost;
            server.record_loss();
            if answered_by == AnsweredBy::Peer {
                server.record_silence_for_domain(name);
            }
        }
    }
}

/// Returns the kind of a response. A resolver of this tier that has no budget or room, or whose upstreams fail, is none
/// that fails.
fn kind_of(response: &Response, is_of_tier: bool) -> ResponseKind {
    match response.is_failure() {
        false => ResponseKind::Answer,
        true if is_of_tier && Alternative::of(response) != Alternative::Budgeted => ResponseKind::Neutral,
        true => ResponseKind::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::ResponseTtl;
    use crate::dns::codes::{ede, rcode, rtype};
    use crate::dns::question::Question;

    fn failure(code: Option<u16>) -> Response {
        let empty = Response::empty(&Question::plain(&Name::root(), rtype::A), rcode::SERVFAIL);
        let (ttl, end) = (ResponseTtl::Uncacheable, empty.question_end());
        Response::from_parts(empty.wire().to_vec(), Default::default(), end, rcode::SERVFAIL, ttl, code)
    }

    #[test]
    fn no_private_code_of_a_resolver_of_the_tier_is_a_failure_of_it_and_that_of_others_is_one() {
        for code in [
            ede::BUDGET_EXHAUSTED,
            ede::UPSTREAMS_FAILED,
            ede::OVERLOADED,
            ede::STILL_IN_FLIGHT,
            ede::NO_REACHABLE_AUTHORITY,
        ] {
            assert_eq!(kind_of(&failure(Some(code)), true), ResponseKind::Neutral, "{code}");
            assert_eq!(kind_of(&failure(Some(code)), false), ResponseKind::Failure, "{code}");
        }
        assert_eq!(kind_of(&failure(None), true), ResponseKind::Failure);
        let answer = Response::empty(&Question::plain(&Name::root(), rtype::A), rcode::NOERROR);
        assert_eq!(kind_of(&answer, true), ResponseKind::Answer);
    }
}
