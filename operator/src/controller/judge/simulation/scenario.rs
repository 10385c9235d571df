//! Changes that are simulated.

/// Kind of change, and what happens around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) zones: usize,
    pub(super) nodes_per_zone: usize,
    /// Nodes of each zone that get the change.
    pub(super) changed_per_zone: usize,
    /// Queries a second of a node, from and to, evenly by their logarithm.
    pub(super) rate: (f64, f64),
    /// Percent of the queries of a node that fail all the time, from and to.
    pub(super) background: (f64, f64),
    /// Factor within which traffic and errors of a node drift from look to look.
    pub(super) drift: f64,
    /// Percentage points of SERVFAIL that the change adds.
    pub(super) errors: f64,
    /// Percentage points of slow misses that the change adds.
    pub(super) slow: f64,
    /// Percentage points of SERVFAIL that all nodes get at some time, whatever is changed.
    pub(super) trouble: f64,
    /// Client in a storm on one node of each zone: queries a second, and names that it repeats.
    pub(super) storm: Option<(f64, u64)>,
    /// Client on that node whose names are slow: queries a second, and names that it repeats.
    pub(super) slow_storm: Option<(f64, u64)>,
    /// Number of that node in its zone; 0 is the canary.
    pub(super) storm_node: usize,
    /// Share of the controls that restart during the soak.
    pub(super) restarts: f64,
    /// Share of the pods that are away, their last figures being nonsense.
    pub(super) away: f64,
    /// Whether the change adds a route to a dead server.
    pub(super) is_route_dead: bool,
    /// Percent of the probes that are lost by chance.
    pub(super) probe_loss: f64,
    pub(super) max_error_increase: f64,
    pub(super) soak: u64,
}

const CALM: Scenario = Scenario {
    name: "",
    zones: 3,
    nodes_per_zone: 21,
    changed_per_zone: 1,
    rate: (50.0, 50.0),
    background: (0.5, 0.5),
    drift: 1.0,
    errors: 0.0,
    slow: 0.0,
    trouble: 0.0,
    storm: None,
    slow_storm: None,
    storm_node: 0,
    restarts: 0.0,
    away: 0.0,
    is_route_dead: false,
    probe_loss: 0.5,
    max_error_increase: 1.0,
    soak: 30,
};
const UNEVEN: Scenario = Scenario { rate: (1.0, 2_000.0), background: (0.0, 4.0), drift: 1.5, ..CALM };
const BAD: Scenario = Scenario { rate: (20.0, 20.0), errors: 5.0, ..CALM };

/// Changes without a fault.
pub(super) const GOOD: [Scenario; 20] = [
    Scenario { name: "steady, 20 controls a zone", ..CALM },
    Scenario { name: "steady, 3 controls a zone", nodes_per_zone: 4, ..CALM },
    Scenario { name: "steady, 1,000 queries/s", rate: (1_000.0, 1_000.0), ..CALM },
    Scenario { name: "any significant increase stops (0)", max_error_increase: 0.0, ..CALM },
    Scenario { name: "the same, 3 controls a zone", nodes_per_zone: 4, max_error_increase: 0.0, ..CALM },
    Scenario { name: "storm of one client, 4 names, 20 controls", storm: Some((20.0, 4)), ..CALM },
    Scenario { name: "storm of one client, 4 names, 3 controls", nodes_per_zone: 4, storm: Some((20.0, 4)), ..CALM },
    Scenario { name: "storm on a busy node", rate: (500.0, 500.0), storm: Some((300.0, 4)), nodes_per_zone: 4, ..CALM },
    Scenario { name: "one client with 4 slow names, 20 controls", slow_storm: Some((20.0, 4)), ..CALM },
    Scenario {
        name: "one client with 4 slow names, 3 controls",
        nodes_per_zone: 4,
        slow_storm: Some((20.0, 4)),
        ..CALM
    },
    Scenario { name: "10 canaries a zone, 11 controls", changed_per_zone: 10, ..CALM },
    Scenario { name: "wave of 15, uneven nodes, 15 controls", changed_per_zone: 15, nodes_per_zone: 30, ..UNEVEN },
    Scenario { name: "0.1 queries/s a node", rate: (0.1, 0.1), ..CALM },
    Scenario { name: "uneven nodes, 20 controls a zone", ..UNEVEN },
    Scenario { name: "uneven nodes, 3 controls a zone", nodes_per_zone: 4, ..UNEVEN },
    Scenario { name: "a third of the controls restarts", restarts: 0.33, ..CALM },
    Scenario { name: "all controls restart", restarts: 1.0, nodes_per_zone: 4, ..CALM },
    Scenario { name: "a third of the nodes is away", away: 0.33, ..CALM },
    Scenario { name: "trouble everywhere, +10 points", trouble: 10.0, ..UNEVEN },
    Scenario { name: "soak of 10 min", soak: 600, nodes_per_zone: 4, ..CALM },
];

/// Changes with a fault.
pub(super) const FAULTS: [Scenario; 12] = [
    Scenario { name: "+5 points, 20 queries/s, 20 controls a zone", ..BAD },
    Scenario { name: "+5 points, 20 queries/s, 3 controls a zone", nodes_per_zone: 4, ..BAD },
    Scenario { name: "+5 points, 20 queries/s, one zone of 2 nodes", zones: 1, nodes_per_zone: 2, ..BAD },
    Scenario { name: "+5 points, 1,000 queries/s", rate: (1_000.0, 1_000.0), ..BAD },
    Scenario { name: "+5 points, a third of the nodes away", away: 0.33, ..BAD },
    Scenario { name: "+5 points, wave of 15, 2 queries/s", rate: (2.0, 2.0), changed_per_zone: 15, ..BAD },
    Scenario { name: "+5 points, storm on a control, 20 controls", storm: Some((20.0, 4)), storm_node: 1, ..BAD },
    Scenario {
        name: "+5 points, storm on a control, 3 controls",
        storm: Some((20.0, 4)),
        storm_node: 1,
        nodes_per_zone: 4,
        ..BAD
    },
    Scenario { name: "+5 points of slow misses, 20 queries/s", errors: 0.0, slow: 5.0, ..BAD },
    Scenario { name: "dead route, 0.1 queries/s", rate: (0.1, 0.1), errors: 0.0, is_route_dead: true, ..BAD },
    Scenario { name: "dead route, 50 queries/s", rate: (50.0, 50.0), errors: 0.0, is_route_dead: true, ..BAD },
    Scenario { name: "dead route, soak of 10 s", soak: 10, errors: 0.0, is_route_dead: true, ..BAD },
];
