//! Labels of metrics. Their values come from fixed lists or the configuration, so that no client can add series.

use crate::dns::codes::rcode;

/// Value of the label `scope` for responses of this process itself. Most of them answer health checks.
pub const LOCAL_SCOPE: &str = "own";

/// Value of the label `scope` for queries refused before they are resolved.
pub(super) const REFUSED_SCOPE: &str = "refused";

/// Reason for which a query is dropped without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The ACL does not permit the client's address.
    NotAllowed,
    /// The packet is no query.
    NotAQuery,
    /// The source port is 0, to which no response can be sent.
    SourcePortZero,
    /// Too many queries are in flight in total.
    GlobalLimit,
    /// Too many queries of the client are in flight.
    ClientLimit,
    /// Too many connections are open, in total or from the client.
    ConnectionLimit,
    /// A query over TCP was not complete before the timeout.
    Incomplete,
    /// The response could not be sent: the socket's buffer was full, or the client did not read.
    Unsent,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::NotAllowed,
        Self::NotAQuery,
        Self::SourcePortZero,
        Self::GlobalLimit,
        Self::ClientLimit,
        Self::ConnectionLimit,
        Self::Incomplete,
        Self::Unsent,
    ];

    /// Returns the value of the label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotAQuery => "not_a_request",
            Self::SourcePortZero => "no_way_back",
            Self::GlobalLimit => "busy",
            Self::ClientLimit => "greedy",
            Self::ConnectionLimit => "connections",
            Self::Incomplete => "incomplete",
            Self::Unsent => "unsent",
        }
    }
}

/// Share of the queries in flight whose use refuses a query that needs an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The total of all queries in flight.
    Total,
    /// The share of the scope.
    Scope,
    /// The share of the registered domain.
    Domain,
    /// The share of a registered domain whose last queries all failed.
    FailingDomain,
    /// The share of the client.
    Client,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Total, Self::Scope, Self::Domain, Self::FailingDomain, Self::Client];

    /// Returns the value of the label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Scope => "scope",
            Self::Domain => "domain",
            Self::FailingDomain => "failing_domain",
            Self::Client => "client",
        }
    }
}

/// Returns the value of the label `rcode` for a response outside of all scopes.
pub(super) fn rcode_label(scope: &str, rcode: u16) -> &'static str {
    match rcode {
        // Refusals before routing have rcodes of this process alone.
        rcode if scope == REFUSED_SCOPE => rcode::name(rcode),
        rcode::NOERROR => rcode::name(rcode),
        _ => "other",
    }
}

/// Returns the kind of a scope: `zone` of `zone/a`, `route` of `route/corp.example`, and any other scope itself.
pub(crate) fn scope_kind(scope: &str) -> &str {
    scope.split_once('/').map_or(scope, |(kind, _)| kind)
}
