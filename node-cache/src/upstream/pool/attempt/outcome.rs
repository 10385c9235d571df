//! Responses in an attempt: which one ends it, and which one has the query repeated in another way.

use std::time::Duration;

use tokio::time::Instant;

use super::{Attempt, AttemptEvent, Exchange};
use crate::dns::Response;
use crate::upstream::pool::case_agreement::CaseVerdict;
use crate::upstream::pool::case_check::{CaseCheck, CheckVerdict, is_denial};
use crate::upstream::transport::query_format::{EdnsUse, ExchangeOutcome};

impl Attempt {
    /// Ends the attempt with its last event, or prepares the query to be repeated in another way (`None`).
    pub(super) fn apply_outcome(
        &mut self,
        outcome: ExchangeOutcome,
        round_trip: Duration,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        if let Some(stamp) = self.stamp.take() {
            self.server.record_first_answer(stamp, round_trip);
        }
        let exchange = std::mem::replace(&mut self.exchange, Exchange::NotSent);
        let over_tcp = !matches!(exchange, Exchange::Udp(_));
        if let Exchange::Udp(query) = exchange {
            query.finish(self.server.sockets(), &outcome);
            self.server.gate().release(self.slot);
        }
        match outcome {
            ExchangeOutcome::Response(response) => self.apply_response(response, over_tcp, take_send),
            ExchangeOutcome::CaseNotEchoed(response) => self.apply_other_case(response, take_send),
        }
    }

    /// Ends the attempt with a response, or prepares the query to be repeated in another way (`None`).
    fn apply_response(
        &mut self,
        response: Response,
        over_tcp: bool,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        if let Some(check) = self.case_check.take() {
            return self.apply_check(check, response, over_tcp);
        }
        if !response.is_conclusive() {
            return self.apply_bad_response(response, over_tcp, take_send);
        }
        if std::mem::take(&mut self.was_edns_rejected) {
            self.server.record_edns_rejection(&self.question.name);
        }
        if self.checks_denials && self.is_mixed_case {
            if is_denial(&response) {
                self.format.case_0x20 = false;
                self.over_tcp |= over_tcp;
                self.fallback = None;
                self.case_check = Some(Box::new(CaseCheck::new(response, Instant::now().into_std())));
                return None;
            }
            self.server.record_known_in_mixed_case();
        }
        Some(self.finish(AttemptEvent::Response(response)))
    }

    /// Repeats the query over TCP after a truncated response, and without EDNS after a failure that EDNS may be the
    /// reason of. Otherwise ends the attempt, with a truncated response rather than a failure.
    fn apply_bad_response(
        &mut self,
        response: Response,
        over_tcp: bool,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        if response.is_truncated() && !over_tcp {
            self.comparison.record_truncation(&self.server);
            self.fallback = Some(Box::new(response));
            self.over_tcp = true;
            return None;
        }
        let is_first_failure = response.is_failure() && self.fallback.is_none();
        if is_first_failure && self.server.may_fail_on_edns(self.format.edns, &response) && take_send() {
            // For this query only: one forged error must not turn EDNS off for the server.
            self.format.edns = EdnsUse::Absent;
            self.was_edns_rejected = true;
            self.over_tcp |= over_tcp;
            self.fallback = Some(Box::new(response));
            return None;
        }
        let response = match self.fallback.take() {
            Some(fallback) if !fallback.is_failure() => *fallback,
            _ => response,
        };
        Some(self.finish(AttemptEvent::Response(response)))
    }

    /// Ends the attempt with an event.
    pub(super) fn finish(&mut self, event: AttemptEvent) -> AttemptEvent {
        self.exchange = Exchange::Done;
        self.case_check = None;
        event
    }

    /// Repeats the query after a response over UDP that does not echo the 0x20 case: over TCP, or over UDP where TCP is
    /// closed, until enough responses agree. 0x20 stays on, so a response that echoes the case ends the attempt, too.
    fn apply_other_case(
        &mut self,
        response: Box<Response>,
        take_send: &mut impl FnMut() -> bool,
    ) -> Option<AttemptEvent> {
        self.server.count_near_miss();
        self.tcp_first = !self.ignores_near_misses && self.server.is_tcp_usable();
        self.ignores_near_misses = true;
        match self.case_agreement.record(response) {
            CaseVerdict::Open => None,
            CaseVerdict::ServerChangesCase(response) => {
                self.server.record_case_not_echoed();
                if response.is_conclusive() {
                    return Some(self.finish(AttemptEvent::Response(*response)));
                }
                self.format.case_0x20 = false;
                self.tcp_first = false;
                self.apply_response(*response, false, take_send)
            }
            CaseVerdict::Contradiction => Some(self.finish(AttemptEvent::Failed)),
        }
    }

    /// Ends the attempt with the result of the check of a denial, or repeats the query in lower case (`None`): over TCP
    /// after a truncated response, and after records over UDP that are to be confirmed.
    fn apply_check(&mut self, mut check: Box<CaseCheck>, response: Response, over_tcp: bool) -> Option<AttemptEvent> {
        if response.is_truncated() && !over_tcp {
            self.over_tcp = true;
            self.case_check = Some(check);
            return None;
        }
        match check.record(response, over_tcp, Instant::now().into_std()) {
            CheckVerdict::Unconfirmed => {
                self.tcp_first = !self.ignores_near_misses && self.server.is_tcp_usable();
                self.ignores_near_misses = true;
                self.case_check = Some(check);
                None
            }
            CheckVerdict::Denied(response) => Some(self.finish(AttemptEvent::Response(response))),
            CheckVerdict::KnownInLowerCase(response) => {
                self.server.record_known_in_lower_case_only();
                Some(self.finish(AttemptEvent::Response(response)))
            }
        }
    }

    /// Ends the attempt with the denial that is being checked, if one is.
    pub(in crate::upstream::pool) fn end_case_check(&mut self) -> Option<AttemptEvent> {
        let event = self.take_denial()?;
        if let AttemptEvent::Response(denial) = &event {
            let now = Instant::now();
            self.record_response(denial, now - self.started, now);
        }
        Some(event)
    }

    /// Ends the attempt like [`Self::end_case_check`], and leaves the record of the response to the caller.
    pub(super) fn take_denial(&mut self) -> Option<AttemptEvent> {
        let denial = self.case_check.take()?.into_denial();
        Some(self.finish(AttemptEvent::Response(denial)))
    }

    /// Repeats the query over TCP after its first near miss, unless TCP is closed.
    pub(super) fn apply_near_miss(&mut self) {
        self.server.count_near_miss();
        if !std::mem::replace(&mut self.ignores_near_misses, true) && self.server.record_near_miss(&self.question.name)
        {
            self.tcp_first = true;
            self.exchange = Exchange::NotSent;
        }
    }
}
