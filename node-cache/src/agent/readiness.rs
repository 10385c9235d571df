//! When the pod counts as live and as ready.

use std::time::{Duration, Instant};

use node_cache_config::status::{CaptureState, CapturedAddress, Revision};

/// How long the loop that holds the leases may take for one turn.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long the revision asked for may take to be in force.
const GRACE: Duration = Duration::from_secs(10);

/// What the agent's loop told last.
#[derive(Clone, Debug)]
pub struct AgentState {
    /// When.
    pub at: Instant,
    /// The zone that the pod believes to be in.
    pub zone: Option<String>,
    /// Which revision applies.
    pub revision: Revision,
    /// Since when the revision asked for is not the one in force.
    pub behind_since: Option<Instant>,
    /// The addresses that should be captured, in the order of the configuration.
    pub captured: Vec<CapturedAddress>,
    /// The agent was told to stop.
    pub stopping: bool,
}

impl AgentState {
    /// What is told before the first turn.
    #[must_use]
    pub fn nothing(now: Instant) -> Self {
        let revision = Revision::default();
        Self { at: now, zone: None, revision, behind_since: None, captured: Vec::new(), stopping: false }
    }

    /// Why the agent should be started anew; none while it works.
    #[must_use]
    pub fn dead(&self, now: Instant) -> Option<String> {
        let age = now.saturating_duration_since(self.at);
        (age > PROGRESS).then(|| format!("the leases have not been looked after for {} s", age.as_secs()))
    }

    /// Why the pod is not ready; none if it is. That an upstream is dead never is a reason, and neither is an address
    /// that belongs to somebody else: that is told in the status.
    #[must_use]
    pub fn unready(&self, now: Instant) -> Option<String> {
        if let Some(dead) = self.dead(now) {
            return Some(dead);
        }
        if self.stopping {
            return Some("the agent is stopping".to_owned());
        }
        if self.revision.in_force.is_none() {
            return Some(self.revision.refusal.clone().unwrap_or_else(|| "no revision is in force yet".to_owned()));
        }
        if self.behind_since.is_some_and(|since| now.saturating_duration_since(since) > GRACE) {
            let asked = self.revision.asked.as_deref().unwrap_or_default();
            let why = self.revision.refusal.as_deref().unwrap_or("the reason is not known");
            return Some(format!("revision {asked} has not been in force for {} s: {why}", GRACE.as_secs()));
        }
        let nothing = self.captured.iter().all(|address| address.state == CaptureState::Withdrawn);
        (nothing && !self.captured.is_empty()).then(|| self.nothing_captured())
    }

    fn nothing_captured(&self) -> String {
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

    fn told(now: Instant, state: CaptureState) -> AgentState {
        let reason = (state == CaptureState::Withdrawn).then(|| "no cache is running on this node".to_owned());
        AgentState {
            revision: Revision { asked: Some("r1".into()), in_force: Some("r1".into()), refusal: None },
            captured: vec![CapturedAddress { address: "10.96.0.10".parse().unwrap(), state, reason }],
            ..AgentState::nothing(now)
        }
    }

    #[test]
    fn a_pod_is_ready_while_something_is_captured_or_belongs_to_somebody_else() {
        let now = Instant::now();
        assert_eq!(told(now, CaptureState::Captured).unready(now), None);
        assert_eq!(told(now, CaptureState::Foreign).unready(now), None);
        let reason = told(now, CaptureState::Withdrawn).unready(now).unwrap();
        assert_eq!(reason, "no address is captured (10.96.0.10: no cache is running on this node)");
        assert_eq!(AgentState::nothing(now).unready(now).unwrap(), "no revision is in force yet");
        let stopping = AgentState { stopping: true, ..told(now, CaptureState::Captured) };
        assert_eq!(stopping.unready(now).unwrap(), "the agent is stopping");
    }

    #[test]
    fn a_revision_has_ten_seconds_to_come_into_force() {
        let now = Instant::now();
        let mut told = told(now, CaptureState::Captured);
        told.revision.asked = Some("r2".into());
        told.revision.refusal = Some("revision r2 is not in the volume yet".into());
        told.behind_since = Some(now);
        told.at = now + GRACE;
        assert_eq!(told.unready(now + GRACE), None);
        let reason = told.unready(now + GRACE + Duration::from_secs(1)).unwrap();
        assert_eq!(reason, "revision r2 has not been in force for 10 s: revision r2 is not in the volume yet");
        assert_eq!(told.dead(now + GRACE), None);
    }

    #[test]
    fn an_agent_that_stands_still_is_dead() {
        let now = Instant::now();
        let told = told(now, CaptureState::Captured);
        assert_eq!(told.dead(now + Duration::from_secs(10)), None);
        let reason = "the leases have not been looked after for 12 s";
        assert_eq!(told.dead(now + Duration::from_secs(12)).unwrap(), reason);
        assert_eq!(told.unready(now + Duration::from_secs(12)).unwrap(), reason);
    }
}
