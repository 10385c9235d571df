//! The conditions of a tier: types, reasons, and the merge of new reports with the conditions in a status.
//!
//! `Ready`, `Progressing`, `RolledOut`, `Degraded` and `UpstreamThrottled` are always present. `Reconciling` and
//! `Stalled` follow kstatus, which Helm and Flux wait by: they are present only while they are true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Type of a condition: the aspect of the tier that it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Every node that is there answers through its caches and every zone has resolvers.
    Ready,
    /// The tier is being brought to its desired state.
    Progressing,
    /// The configuration that the spec results in is in force wherever it is read.
    RolledOut,
    /// A problem needs attention, even if every query is answered.
    Degraded,
    /// An upstream answers only a part of the packets that it is sent, or its packet budget is spent.
    UpstreamThrottled,
    /// kstatus: the newest spec is not rolled out everywhere yet.
    Reconciling,
    /// kstatus: the newest spec cannot be rolled out without a change of spec or cluster.
    Stalled,
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The aspect holds.
    True,
    /// The aspect does not hold.
    False,
    /// The operator cannot determine the aspect now.
    Unknown,
}

macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident,)+) => {
        /// Reason of a condition. The reason of `Ready` is the phase that `kubectl get dnstier` prints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl Reason {
            /// Every reason, those of a healthy tier first.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the reason as written in a condition.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns the meaning of the reason, in a sentence or two.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

reasons! {
    /// Every node answers through its caches, and every zone has all of its resolvers.
    Serving,
    /// Nothing is wrong.
    Healthy,
    /// The whole spec is in force everywhere.
    Settled,
    /// No operator has seen the tier yet.
    Pending,
    /// The tier was just made; its first nodes do not answer yet.
    Starting,
    /// Nodes or resolvers take over a new configuration or a new pod template.
    RollingOut,
    /// The configuration that the spec results in is in force wherever it is read.
    RolledOut,
    /// Resolvers take over a new configuration, one of a zone, then the others of the zone.
    Resolvers,
    /// The first nodes of the zones take over a new configuration and are watched, or leave the tier.
    Canary,
    /// Further nodes take over a new configuration, or leave the tier, in waves.
    Wave,
    /// spec.rollout.paused holds the roll-out where it is.
    Paused,
    /// Pods that are not changed fail too, so that nothing can be said about the change; the roll-out waits.
    ControlsFailing,
    /// The new configuration gives up an address that pods ask; the roll-out waits for a confirmation.
    AddressInUse,
    /// Pods go back to the configuration that was proven before.
    RollingBack,
    /// The new configuration was taken back: its pods did worse than those that were not changed.
    JudgedWorse,
    /// The new configuration was taken back: pods did not take it over.
    NotInForce,
    /// The new configuration was taken back: a process of a pod ended, or a node did not answer itself.
    PodCrashed,
    /// The new configuration was taken back: probes got other answers than on pods that were not changed.
    WrongAnswers,
    /// Some nodes do not answer through their caches; pods there are answered by the cluster DNS.
    NodesNotReady,
    /// A zone has fewer resolvers than it should; its nodes query the others and other zones.
    ResolversNotReady,
    /// No resolver of any zone answers; outside names are answered from caches and by nodeCache.lastResort alone.
    NoResolvers,
    /// No node may run the caches: none is Linux on an architecture that the image has, or nodeCache excludes them all.
    NoNodes,
    /// resolvers.zones names a zone that no Node is in, or no node of a zone may run its resolvers.
    ZoneWithoutNodes,
    /// The Service that clusterDns names does not exist.
    ClusterDnsNotFound,
    /// The Service that clusterDns names has no ClusterIP, no selector, or no port 53 for UDP and TCP.
    ClusterDnsUnusable,
    /// Another tier, an older one, captures one of the addresses on the same nodes.
    AddressTaken,
    /// An address to capture is on a node already and was not put there by this tier.
    AddressForeign,
    /// The resolv.conf of a node names an address that this tier captures; it is not used as an upstream.
    UpstreamLoop,
    /// The resolv.conf of a node has lines that cannot be used.
    UpstreamUnusable,
    /// Upstreams of the resolvers or of a route do not answer.
    UpstreamUnreachable,
    /// No upstream limits the packets that it answers, as far as is known.
    WithinLimits,
    /// An upstream answers a part of the packets and drops the others; the rest goes to a fallback, if there is one.
    LimitFound,
    /// An upstream has no room for new flows; queries go from ports that were answered before.
    FlowsLimited,
    /// An upstream loses queries, or is slow, whatever the rate.
    Lossy,
    /// More packets are meant for an upstream than its packetBudget lets through.
    BudgetSpent,
    /// The upstreams get too few queries to find a limit: at least 20 a second to one of them.
    TooLittleTraffic,
    /// A pod refused the newest configuration and keeps the one it has.
    RevisionRefused,
    /// The configuration is larger than 150 KiB; use fewer routes.
    RevisionTooLarge,
    /// The API server does not permit the operator what it must do.
    Forbidden,
    /// The Pod Security level of a namespace refuses the tier's pods.
    PodSecurity,
    /// A namespace admits the priority class of the tier's pods only with a ResourceQuota, which it does not have.
    QuotaMissing,
    /// The API server refused an object or could not be reached.
    ApplyFailed,
    /// Another writer sets back what the operator applies, or takes annotations off a pod; the object is left alone for
    /// 10 minutes at a time.
    FieldContested,
    /// The installed CRD is older than the operator and drops fields of the status.
    CrdTooOld,
    /// Pods of the newest pod template do not run 5 minutes after they were made.
    PodsNotRunning,
    /// Pods run but do not say how they are.
    StatusUnknown,
}

/// One condition as observed in a reconciliation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Type of the condition.
    pub type_: ConditionType,
    /// Observed status.
    pub status: ConditionStatus,
    /// Reason of the status.
    pub reason: Reason,
    /// Message for people, one sentence.
    pub message: String,
}

impl ConditionType {
    /// Every type, in the order in which a status lists them.
    pub const ALL: &[Self] = &[
        Self::Ready,
        Self::Progressing,
        Self::RolledOut,
        Self::Degraded,
        Self::UpstreamThrottled,
        Self::Reconciling,
        Self::Stalled,
    ];

    /// Returns the type as written in a condition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::RolledOut => "RolledOut",
            Self::Degraded => "Degraded",
            Self::UpstreamThrottled => "UpstreamThrottled",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }

    /// Returns the meaning of the type while its status is `True`, in a sentence.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ready => {
                "Every node that Kubernetes reports as ready answers through its caches, and every zone has resolvers. \
                 Once a tier was ready, 1 % of its nodes may be silent."
            }
            Self::Progressing => "The tier is being brought to the desired state.",
            Self::RolledOut => {
                "The configuration that the spec results in is in force wherever it is read. It turns false before the \
                 first pod is told of another one."
            }
            Self::Degraded => "Something is wrong that somebody should look at, also while everything is answered.",
            Self::UpstreamThrottled => {
                "An upstream answers only a part of what it is sent, or is needed for more than its packetBudget lets \
                 through."
            }
            Self::Reconciling => {
                "For kstatus (Helm, Flux): the newest spec is not in force everywhere yet. Present only while true."
            }
            Self::Stalled => {
                "For kstatus (Helm, Flux): the newest spec will not be in force until somebody changes something. \
                 Present only while true."
            }
        }
    }

    /// Returns whether the condition is absent unless its status is `True`.
    #[must_use]
    pub const fn only_while_true(self) -> bool {
        matches!(self, Self::Reconciling | Self::Stalled)
    }
}

impl ConditionStatus {
    /// Returns the status as written in a condition.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Returns the conditions after a reconciliation: the new reports, with the time at which each status last changed.
///
/// A condition whose status equals the one in `previous` keeps its `lastTransitionTime`; otherwise that is `now`. Types
/// without a report are removed, and so are `Reconciling` and `Stalled` unless they are true. The first of two reports
/// about one type counts. The result is ordered by type, so that equal reports give equal bytes.
#[must_use]
pub fn merge(previous: &[Condition], reports: &[Report], generation: Option<i64>, now: &Time) -> Vec<Condition> {
    ConditionType::ALL
        .iter()
        .filter_map(|type_| reports.iter().find(|report| report.type_ == *type_))
        .filter(|report| !report.type_.only_while_true() || report.status == ConditionStatus::True)
        .map(|report| Condition {
            type_: report.type_.name().to_owned(),
            status: report.status.name().to_owned(),
            reason: report.reason.name().to_owned(),
            message: report.message.clone(),
            observed_generation: generation,
            last_transition_time: unchanged_since(previous, report).unwrap_or_else(|| now.clone()),
        })
        .collect()
}

/// Returns the transition time in `previous` of the reported type if its status is unchanged.
fn unchanged_since(previous: &[Condition], report: &Report) -> Option<Time> {
    previous
        .iter()
        // The conditions of a tier that no operator has seen are no reports, and have no time.
        .filter(|condition| condition.reason != Reason::Pending.name())
        .find(|condition| condition.type_ == report.type_.name() && condition.status == report.status.name())
        .map(|condition| condition.last_transition_time.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn report(type_: ConditionType, status: ConditionStatus, reason: Reason) -> Report {
        Report { type_, status, reason, message: reason.meaning().to_owned() }
    }

    #[test]
    fn the_time_changes_with_the_status_only() {
        let starting = report(ConditionType::Ready, ConditionStatus::False, Reason::Starting);
        let first = merge(&[], &[starting], Some(1), &at(10));
        assert_eq!(first[0].last_transition_time, at(10));

        let not_ready = report(ConditionType::Ready, ConditionStatus::False, Reason::NodesNotReady);
        let second = merge(&first, &[not_ready], Some(2), &at(20));
        assert_eq!(second[0].last_transition_time, at(10));
        assert_eq!(second[0].reason, "NodesNotReady");
        assert_eq!(second[0].observed_generation, Some(2));

        let serving = report(ConditionType::Ready, ConditionStatus::True, Reason::Serving);
        let third = merge(&second, std::slice::from_ref(&serving), Some(2), &at(30));
        assert_eq!(third[0].last_transition_time, at(30));
        assert_eq!(merge(&third, &[serving], Some(2), &at(40)), third, "the same report writes the same status");
    }

    #[test]
    fn what_kstatus_reads_is_there_only_while_it_is_true() {
        let reports = |status| {
            [
                report(ConditionType::Stalled, status, Reason::Forbidden),
                report(ConditionType::Reconciling, status, Reason::RollingOut),
                report(ConditionType::Degraded, status, Reason::Forbidden),
            ]
        };
        let types = |status| -> Vec<String> {
            merge(&[], &reports(status), None, &at(0)).into_iter().map(|condition| condition.type_).collect()
        };
        assert_eq!(types(ConditionStatus::True), ["Degraded", "Reconciling", "Stalled"]);
        assert_eq!(types(ConditionStatus::False), ["Degraded"]);
        assert_eq!(types(ConditionStatus::Unknown), ["Degraded"]);
    }

    #[test]
    fn a_condition_that_nobody_reports_disappears_and_begins_anew() {
        let stalled = report(ConditionType::Stalled, ConditionStatus::True, Reason::Forbidden);
        let first = merge(&[], std::slice::from_ref(&stalled), Some(1), &at(10));
        let between = merge(&first, &[], Some(1), &at(20));
        assert_eq!(between, []);
        assert_eq!(merge(&between, &[stalled], Some(1), &at(30))[0].last_transition_time, at(30));
    }

    #[test]
    fn of_two_reports_about_one_type_the_first_counts() {
        let reports = [
            report(ConditionType::Degraded, ConditionStatus::True, Reason::Forbidden),
            report(ConditionType::Degraded, ConditionStatus::True, Reason::UpstreamUnreachable),
        ];
        let merged = merge(&[], &reports, None, &at(0));
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].reason, "Forbidden");
    }

    #[test]
    fn every_reason_is_explained_in_a_sentence() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.') && !reason.meaning().starts_with(' '), "{}", reason.name());
        }
    }
}
