//! What series are told apart by. All of it comes from fixed lists or the configuration: a client can make up none.

use prometheus_client::encoding::EncodeLabelSet;

use crate::dns::query::Transport;

/// In the place of a scope: what a process answers out of itself. Most of it are health checks.
pub const OWN: &str = "own";

/// In the place of a scope: what is refused before it is looked up anywhere.
pub(super) const REFUSED: &str = "refused";

impl Transport {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Internal => "internal",
        }
    }
}

/// Why a question got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Its source may not ask.
    NotAllowed,
    /// It is not a request.
    NotARequest,
    /// It came from port 0, to which nothing can be sent.
    NoWayBack,
    /// Too many questions are being answered.
    Busy,
    /// Too many of one client are.
    Greedy,
    /// Too many connections are open, in total or from its source.
    Connections,
    /// The rest of it did not come in time over its connection.
    Incomplete,
    /// There is an answer, but it could not be sent: there was no room for it, or its client did not take it.
    Unsent,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NotAllowed,
        Self::NotARequest,
        Self::NoWayBack,
        Self::Busy,
        Self::Greedy,
        Self::Connections,
        Self::Incomplete,
        Self::Unsent,
    ];

    /// How it is called.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotARequest => "not_a_request",
            Self::NoWayBack => "no_way_back",
            Self::Busy => "busy",
            Self::Greedy => "greedy",
            Self::Connections => "connections",
            Self::Incomplete => "incomplete",
            Self::Unsent => "unsent",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AnswerLabels {
    pub(super) transport: &'static str,
    pub(super) scope: String,
    pub(super) rcode: &'static str,
}
