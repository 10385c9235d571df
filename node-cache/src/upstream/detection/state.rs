//! State of an upstream, the cause of a hold, and the order of a step: the values that leave a verdict.

use node_cache_config::status::DETECTION_STATES;

/// Cause of a hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause {
    /// A limit of packets or queries, in queries a second.
    Limit {
        /// Queries a second that it let through.
        rate: f64,
    },
    /// A limit of new flows: only queries from fresh ports fail.
    Flows,
    /// Loss that does not depend on the rate.
    Loss {
        /// Share of the queries that are lost.
        share: f64,
    },
    /// Answers that are late at any rate.
    Slow,
    /// Silence, which has ended.
    Silent,
}

/// State of an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// The upstream answers as it did, as far as is known.
    Well,
    /// Queries are lost, and control queries find out whether the names are the reason.
    Suspected,
    /// The upstream loses queries.
    Held {
        /// Packets a second that it is sent; `None` where a ceiling changed nothing.
        ceiling: Option<f64>,
        /// `None` until it is known.
        cause: Option<Cause>,
    },
    /// The upstream answers nothing.
    Silent,
    /// All traffic is back, and a minute without loss is waited for.
    Returning {
        /// Packets a second that it is sent, above the demand.
        ceiling: f64,
    },
}

impl State {
    /// Returns the name of the state, that of a cause included.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        DETECTION_STATES[match self {
            Self::Well => 0,
            Self::Suspected => 1,
            Self::Held { cause: None, .. } => 2,
            Self::Held { cause: Some(Cause::Limit { .. }), .. } => 3,
            Self::Held { cause: Some(Cause::Flows), .. } => 4,
            Self::Held { cause: Some(Cause::Loss { .. }), .. } => 5,
            Self::Held { cause: Some(Cause::Slow), .. } => 6,
            Self::Held { cause: Some(Cause::Silent), .. } => 7,
            Self::Silent => 8,
            Self::Returning { .. } => 9,
        }]
    }
}

/// Order of a step: the way to treat the upstream until the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Order {
    /// Control queries to send in this tick, at random times at least 10 ms apart, half of them from ports that were
    /// answered before. At even times they fall into step with the tokens of a policer, which lets all of them through.
    /// Where no name is eligible, a silent upstream is asked for the root.
    pub controls: u32,
    /// Packets a second that the upstream may be sent; the others are first sends elsewhere.
    pub ceiling: Option<f64>,
    /// Whether a query without an answer goes to the fallback after the p95 latency already.
    pub hedges_to_fallback: bool,
    /// Whether queries go from ports that were answered before, for as long as such ports are.
    pub keeps_ports: bool,
}
