//! Failures of one server that others refute: what it loses, and the domains that it is lame for.

use std::time::Instant;

use super::Server;
use super::timestamp::Timestamp;
use crate::dns::Name;

impl Server {
    /// Records a truncated response over UDP.
    pub(in crate::upstream) fn record_truncation(&self) {
        self.state().outcomes().record_truncation();
    }

    /// Records that another server answered a query for `name` that this one failed to answer.
    pub(in crate::upstream) fn record_refuted_failure(&self, name: &Name) {
        let hash = self.context.domain_hash(name);
        self.state().outcomes().record_refuted_failure(hash);
        self.add_lame_evidence(name, hash);
    }

    /// Records that a query which was answered to another send got no response.
    pub(in crate::upstream) fn record_loss(&self) {
        self.state().outcomes().record_loss();
    }

    /// Records that the server was silent to a query for `name`, which another one has answered.
    pub(in crate::upstream) fn record_silence_for_domain(&self, name: &Name) {
        self.add_lame_evidence(name, self.context.domain_hash(name));
    }

    /// Records that a response came to a query that counts as lost.
    pub(in crate::upstream) fn record_late_response(&self) {
        self.state().outcomes().record_late_response();
    }

    fn add_lame_evidence(&self, name: &Name, hash: u64) {
        let now = Timestamp::of(Instant::now());
        let mut state = self.state();
        if state.lame_domains().record_refuted_failure(hash, now) {
            self.selection.lame.publish(state.lame_domains(), now);
            let domain = name.registered_domain();
            tracing::warn!(upstream = %self.address, %domain, "upstream is lame for this domain: others go first");
        }
    }

    pub(super) fn forget_lame_domains(&self, now: Timestamp) {
        let mut state = self.state();
        state.lame_domains().clear();
        self.selection.lame.publish(state.lame_domains(), now);
    }

    /// Returns whether the server is lame for the domain of a name; `hash` returns that domain's hash.
    pub(in crate::upstream) fn is_lame_for(&self, hash: impl FnOnce() -> u64, now: Timestamp) -> bool {
        self.selection.lame.has_any(now) && self.selection.lame.contains(hash(), now)
    }

    /// Returns the hash of the registered domain of a name.
    pub(in crate::upstream) fn domain_hash(&self, name: &Name) -> u64 {
        self.context.domain_hash(name)
    }

    /// Returns whether the server is lame for the registered domain of a name now: others are asked for it first.
    #[must_use]
    pub fn is_lame_for_name(&self, name: &Name) -> bool {
        self.is_lame_for(|| self.domain_hash(name), Timestamp::of(Instant::now()))
    }

    /// Returns the number of domains for which the server is lame.
    #[must_use]
    pub fn lame_domain_count(&self) -> usize {
        self.selection.lame.len(Timestamp::of(Instant::now()))
    }
}
