//! Metrics of the agent itself.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// Metrics of one agent, most by captured address.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    captured: Family<Labels, Gauge>,
    self_query_failures: Family<Labels, Counter>,
    renewals: Family<Labels, Counter>,
    withdrawals: Family<Labels, Counter>,
    reasserts: Counter<u64, AtomicU64>,
    discarded_sockets: Counter,
    connected: Gauge,
    revision: Family<Labels, Gauge>,
    hidden_problems: Family<Labels, Gauge>,
}

/// Reason for which some queries to an address fail although self-queries are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HiddenProblem {
    /// Another process has bound a socket to the address.
    ForeignSocket,
    /// Queries of pods are not routed to the address.
    PodRoute,
    /// Packets of pods arrive and pass no packet filter.
    PodPackets,
}

impl HiddenProblem {
    /// All reasons.
    pub(super) const ALL: [Self; 3] = [Self::ForeignSocket, Self::PodRoute, Self::PodPackets];

    const fn label(self) -> &'static str {
        match self {
            Self::ForeignSocket => "foreign_socket",
            Self::PodRoute => "pod_route",
            Self::PodPackets => "pod_packets",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dnstier_agent");
        let captured = Family::default();
        registry.register("captured", "Whether queries to the address are answered by this pod", captured.clone());
        let self_query_failures = Family::default();
        registry.register(
            "self_query_failures",
            "Self-queries through the address that this pod did not answer",
            self_query_failures.clone(),
        );
        let renewals = Family::default();
        registry.register("renewals", "How often the address was put on the node or renewed", renewals.clone());
        let withdrawals = Family::default();
        registry.register("withdrawals", "How often the redirect rule of the address was removed", withdrawals.clone());
        let reasserts = Counter::default();
        registry.register("rule_reasserts", "How often the packet rules had to be put back", reasserts.clone());
        let discarded_sockets = Counter::default();
        registry.register(
            "sockets_discarded",
            "Sockets bound anew because a process changed them or nothing answered at them",
            discarded_sockets.clone(),
        );
        let connected = Gauge::default();
        registry.register("instances_connected", "Caches that hold the sockets of the node", connected.clone());
        let revision = Family::default();
        registry.register("revision", "The revision asked and the one in force, as labels", revision.clone());
        let hidden_problems = Family::default();
        registry.register(
            "addresses_with_problem",
            "Captured addresses of which some queries fail although self-queries are answered",
            hidden_problems.clone(),
        );
        Self {
            registry,
            captured,
            self_query_failures,
            renewals,
            withdrawals,
            reasserts,
            discarded_sockets,
            connected,
            revision,
            hidden_problems,
        }
    }
}

impl Metrics {
    /// Returns all metrics in OpenMetrics, without the last line.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry);
        text
    }

    pub(super) fn set_captured(&self, address: IpAddr, captured: bool) {
        let previous = self.captured.get_or_create(&address_label(address)).set(i64::from(captured));
        if previous == 1 && !captured {
            self.withdrawals.get_or_create(&address_label(address)).inc();
        }
    }

    pub(super) fn forget(&self, address: IpAddr) {
        self.captured.remove(&address_label(address));
    }

    pub(super) fn count_failure(&self, address: IpAddr) {
        self.self_query_failures.get_or_create(&address_label(address)).inc();
    }

    pub(super) fn count_renewal(&self, address: IpAddr) {
        self.renewals.get_or_create(&address_label(address)).inc();
    }

    pub(super) fn set_reasserts(&self, total: u64) {
        let counted = self.reasserts.get();
        self.reasserts.inc_by(total.saturating_sub(counted));
    }

    pub(super) fn count_discarded_sockets(&self, sockets: usize) {
        self.discarded_sockets.inc_by(sockets.try_into().unwrap_or(u64::MAX));
    }

    pub(super) fn set_connected(&self, instances: usize) {
        self.connected.set(i64::try_from(instances).unwrap_or(i64::MAX));
    }

    /// Sets the number of addresses that have this problem.
    pub(super) fn set_hidden_problem(&self, problem: HiddenProblem, addresses: usize) {
        let gauge = self.hidden_problems.get_or_create(&vec![("problem", problem.label().to_owned())]).clone();
        gauge.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    pub(super) fn set_revision(&self, asked: Option<&str>, in_force: Option<&str>) {
        let text = |revision: Option<&str>| revision.unwrap_or_default().to_owned();
        let labels = vec![("asked", text(asked)), ("in_force", text(in_force))];
        if self.revision.get(&labels).is_none() {
            self.revision.clear();
            self.revision.get_or_create(&labels).set(1);
        }
    }
}

fn address_label(address: IpAddr) -> Labels {
    vec![("address", address.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_happened() {
        let metrics = Metrics::default();
        let address = "10.96.0.10".parse().unwrap();
        metrics.set_captured(address, false);
        metrics.set_captured(address, true);
        metrics.set_captured(address, false);
        metrics.set_reasserts(2);
        metrics.set_reasserts(2);
        metrics.set_revision(None, Some("a"));
        metrics.set_revision(Some("b"), Some("b"));
        for (addresses, problem) in HiddenProblem::ALL.into_iter().enumerate() {
            metrics.set_hidden_problem(problem, addresses);
        }
        let text = metrics.text();
        for line in [
            "dnstier_agent_captured{address=\"10.96.0.10\"} 0",
            "dnstier_agent_withdrawals_total{address=\"10.96.0.10\"} 1",
            "dnstier_agent_rule_reasserts_total 2",
            "dnstier_agent_addresses_with_problem{problem=\"foreign_socket\"} 0",
            "dnstier_agent_addresses_with_problem{problem=\"pod_route\"} 1",
            "dnstier_agent_addresses_with_problem{problem=\"pod_packets\"} 2",
            "dnstier_agent_revision{asked=\"b\",in_force=\"b\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        assert!(!text.contains("in_force=\"a\""));
    }
}
