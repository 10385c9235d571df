//! Liveness and readiness of a node pod.

use std::time::{Duration, Instant};

use node_cache_config::status::{CaptureState, CapturedAddress, Revision};

/// Time that one pass of the reconciler, which renews the leases, may take.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that the requested revision may take to become active.
const REVISION_TIMEOUT: Duration = Duration::from_secs(10);

/// State of the agent, as the reconciler published it last.
#[derive(Clone, Debug)]
pub(crate) struct AgentState {
    /// Time of the pass that published it.
    pub(crate) at: Instant,
    /// Zone of the pod, as its annotation or label tells.
    pub(crate) zone: Option<String>,
    /// Requested and active revision.
    pub(crate) revision: Revision,
    /// Time since which the requested revision is not the active one.
    pub(crate) behind_since: Option<Instant>,
    /// Desired addresses with their capture state, in the order of the configuration.
    pub(crate) captured: Vec<CapturedAddress>,
    /// Whether shutdown was requested.
    pub(crate) stopping: bool,
}

impl AgentState {
    /// Returns the state before the first pass.
    #[must_use]
    pub(crate) fn initial(now: Instant) -> Self {
        let revision = Revision::default();
        Self { at: now, zone: None, revision, behind_since: None, captured: Vec::new(), stopping: false }
    }

    /// Returns why the agent should be restarted; `None` while it makes progress.
    #[must_use]
    pub(crate) fn not_live(&self, now: Instant) -> Option<String> {
        let age = now.saturating_duration_since(self.at);
        (age > RECONCILE_TIMEOUT).then(|| format!("the leases have not been looked after for {} s", age.as_secs()))
    }

    /// Returns why the pod is not ready; `None` if it is. An upstream that is down is never a reason, and neither is an
    /// address that another program holds: the status tells of both.
    #[must_use]
    pub(crate) fn not_ready(&self, now: Instant) -> Option<String> {
        if let Some(reason) = self.not_live(now) {
            return Some(reason);
        }
        if self.stopping {
            return Some("the agent is stopping".to_owned());
        }
        if self.revision.in_force.is_none() {
            return Some(self.revision.refusal.clone().unwrap_or_else(|| "no revision is in force yet".to_owned()));
        }
        if self.behind_since.is_some_and(|since| now.saturating_duration_since(since) > REVISION_TIMEOUT) {
            let asked = self.revision.asked.as_deref().unwrap_or_default();
            let reason = self.revision.refusal.as_deref().unwrap_or("the reason is not known");
            return Some(format!(
                "revision {asked} has not been in force for {} s: {reason}",
                REVISION_TIMEOUT.as_secs()
            ));
        }
        let none_captured = self.captured.iter().all(|address| address.state == CaptureState::Withdrawn);
        (none_captured && !self.captured.is_empty()).then(|| self.withdrawal_reasons())
    }

    fn withdrawal_reasons(&self) -> String {
        let reasons: Vec<String> = self
            .captured
            .iter()
            .map(|address| format!("{}: {}", address.address, address.reason.as_deref().unwrap_or("withdrawn")))
            .collect();
        format!("no address is captured ({})", reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(now: Instant, capture: CaptureState) -> AgentState {
        let reason = (capture == CaptureState::Withdrawn).then(|| "no cache is running on this node".to_owned());
        AgentState {
            revision: Revision { asked: Some("r1".into()), in_force: Some("r1".into()), refusal: None },
            captured: vec![CapturedAddress { address: "10.96.0.10".parse().unwrap(), state: capture, reason }],
            ..AgentState::initial(now)
        }
    }

    #[test]
    fn a_pod_is_ready_while_something_is_captured_or_belongs_to_somebody_else() {
        let now = Instant::now();
        assert_eq!(state(now, CaptureState::Captured).not_ready(now), None);
        assert_eq!(state(now, CaptureState::Foreign).not_ready(now), None);
        let reason = state(now, CaptureState::Withdrawn).not_ready(now).unwrap();
        assert_eq!(reason, "no address is captured (10.96.0.10: no cache is running on this node)");
        assert_eq!(AgentState::initial(now).not_ready(now).unwrap(), "no revision is in force yet");
        let stopping = AgentState { stopping: true, ..state(now, CaptureState::Captured) };
        assert_eq!(stopping.not_ready(now).unwrap(), "the agent is stopping");
    }

    #[test]
    fn a_revision_has_ten_seconds_to_come_into_force() {
        let now = Instant::now();
        let mut state = state(now, CaptureState::Captured);
        state.revision.asked = Some("r2".into());
        state.revision.refusal = Some("revision r2 is not in the volume yet".into());
        state.behind_since = Some(now);
        state.at = now + REVISION_TIMEOUT;
        assert_eq!(state.not_ready(now + REVISION_TIMEOUT), None);
        let reason = state.not_ready(now + REVISION_TIMEOUT + Duration::from_secs(1)).unwrap();
        assert_eq!(reason, "revision r2 has not been in force for 10 s: revision r2 is not in the volume yet");
        assert_eq!(state.not_live(now + REVISION_TIMEOUT), None);
    }

    #[test]
    fn an_agent_that_stands_still_is_dead() {
        let now = Instant::now();
        let state = state(now, CaptureState::Captured);
        assert_eq!(state.not_live(now + Duration::from_secs(10)), None);
        let reason = "the leases have not been looked after for 12 s";
        assert_eq!(state.not_live(now + Duration::from_secs(12)).unwrap(), reason);
        assert_eq!(state.not_ready(now + Duration::from_secs(12)).unwrap(), reason);
    }
}
