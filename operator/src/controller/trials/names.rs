//! Names of the probes of a look: those of the target and of the proven configuration, in parts when they are many.

use dnstier_crds::v1alpha1::{Probe, ProbeCompare};
use node_cache_config::Config;
use node_cache_config::names::revision_key;
use node_cache_config::probes::ProbeName;

use crate::controller::judge::pod_look::{Compare, ProbeOutcome};
use crate::controller::observe::Observed;
use crate::controller::rollout::pods::Role;
use crate::controller::rollout::record::Record;
use crate::controller::rollout::revision::TierRevision;
use crate::controller::trials::prober::Answer;

/// Routes that a pod is asked for in one look, at least, where there are as many.
const MIN_ROUTES: usize = 10;

/// Names that pods of a role can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Names of every look and of the spec.
    always: Vec<ProbeName>,
    /// Routes that lead elsewhere after the change.
    changed: Vec<ProbeName>,
    /// Other routes.
    unchanged: Vec<ProbeName>,
    /// Names that pods with the change in force have to be asked for.
    required: Vec<ProbeName>,
}

/// Names that pods of each role can be asked for.
#[derive(Debug, Default)]
pub(super) struct TierNames {
    pub(super) nodes: Names,
    pub(super) resolvers: Names,
}

impl Names {
    /// Returns the names of the target and of the proven configuration.
    #[must_use]
    pub(super) fn of(target: Option<&Config>, proven: Option<&Config>, role: Role) -> Self {
        let route = |config: Option<&Config>, name: &ProbeName| {
            config.and_then(|config| config.routes.iter().find(|route| route.suffix == name.name).cloned())
        };
        let is_asked = |name: &ProbeName| {
            role == Role::Node || [target, proven].into_iter().flatten().all(|it| leaves(it, &name.name))
        };
        let of_target: Vec<ProbeName> = target.map(Config::probes).unwrap_or_default();
        let of_proven = proven.map(Config::probes).unwrap_or_default();
        let removed = of_proven.into_iter().filter(|name| !of_target.contains(name));
        let mut names = Self::default();
        for name in of_target.iter().cloned().chain(removed).filter(is_asked) {
            let (before, after) = (route(proven, &name), route(target, &name));
            let is_of_route = name.rtype == "SOA" && (before.is_some() || after.is_some());
            let is_unchanged = is_of_route && before == after;
            if !is_unchanged && of_target.contains(&name) {
                names.required.push(name.clone());
            }
            let kind = match is_of_route {
                true if is_unchanged => &mut names.unchanged,
                true => &mut names.changed,
                false => &mut names.always,
            };
            kind.push(name);
        }
        names
    }

    /// Returns the names that a step waits for: those of the target that do not lead where they led before, and those
    /// of every look.
    #[must_use]
    pub(super) fn required(&self) -> &[ProbeName] {
        &self.required
    }

    /// Returns whether a name is that of a route that leads where it led before the change.
    #[must_use]
    pub(super) fn is_unchanged_route(&self, name: &ProbeName) -> bool {
        self.unchanged.contains(name)
    }

    /// Returns the number of looks in which each name has had its turn, with so many names in each.
    #[must_use]
    pub(super) fn looks(&self, limit: usize) -> usize {
        let routes = self.changed.len().max(self.unchanged.len());
        routes.div_ceil(self.room(limit)).max(1)
    }

    /// Returns the names that pods are asked for in the look of this number, about `limit` at the most: the names of
    /// every look and of the spec, then the routes that lead elsewhere after the change, then the others, of both kinds
    /// as many as there is time for, in turn. Routes that are doubted come first, and then those that are missing. A
    /// pod knows the names of its own configuration.
    #[must_use]
    pub(super) fn of_look(
        &self,
        look: usize,
        limit: usize,
        is_doubted: impl Fn(&ProbeName) -> bool,
        is_missing: impl Fn(&ProbeName) -> bool,
    ) -> Vec<ProbeName> {
        let mut room = self.room(limit);
        // Routes that fail everywhere must not keep the others from their turn.
        let (doubted, max_doubted) = (self.changed.iter().chain(&self.unchanged), room.div_ceil(2));
        let doubted: Vec<&ProbeName> = doubted.filter(|name| is_doubted(name)).take(max_doubted).collect();
        room -= doubted.len();
        let mut chosen: Vec<&ProbeName> = self.always.iter().chain(doubted.iter().copied()).collect();
        for routes in [&self.changed, &self.unchanged] {
            let mut routes: Vec<&ProbeName> = routes.iter().filter(|name| !doubted.contains(name)).collect();
            if !routes.is_empty() {
                let start = look * room % routes.len();
                routes.rotate_left(start);
            }
            routes.sort_by_key(|name| !is_missing(name));
            routes.truncate(room);
            room -= routes.len();
            chosen.extend(routes);
        }
        chosen.into_iter().cloned().collect()
    }

    /// Returns how many routes there is time for beside the names of every look.
    fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.always.len()).max(MIN_ROUTES)
    }
}

impl TierNames {
    /// Returns the names of the target of a record and of the proven revision.
    pub(super) fn of(observed: &Observed, record: &Record, proven: &TierRevision) -> Self {
        let (target, proven) = (config_of(observed, &record.target.id), config_of(observed, &proven.id));
        let of_role = |role| Names::of(target.as_ref(), proven.as_ref(), role);
        Self { nodes: of_role(Role::Node), resolvers: of_role(Role::Resolver) }
    }

    /// Returns the names that pods of a role can be asked for.
    pub(super) fn of_role(&self, role: Role) -> &Names {
        match role {
            Role::Node => &self.nodes,
            Role::Resolver => &self.resolvers,
        }
    }
}

/// Returns a configuration of the ConfigMap.
fn config_of(observed: &Observed, id: &str) -> Option<Config> {
    let data = observed.owned.config_maps.iter().filter_map(|config_map| config_map.data.as_ref());
    let json = data.filter_map(|data| data.get(&revision_key(id))).next();
    Config::from_json(json?.as_bytes()).ok()
}

/// Returns whether a resolver may be asked for a name: one that is outside of the cluster and of all routes. Others
/// never leave through the upstreams of the resolvers.
fn leaves(config: &Config, name: &str) -> bool {
    let is_below = |suffix: &str| name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    !is_below(&config.cluster_domain) && !config.routes.iter().any(|route| is_below(&route.suffix))
}

/// Returns the result of a probe with what the spec says to compare; of a name that the spec does not have, the rcode.
/// `None` for a name to which the configuration of the pod does not lead.
#[must_use]
pub(super) fn outcome(probe: &ProbeName, answer: &Answer, names: &Names, listed: &[Probe]) -> Option<ProbeOutcome> {
    let result = match answer {
        Answer::Response(result) => Some(result),
        Answer::Nothing => None,
        Answer::NotKnown => return None,
    };
    let is_listed = |listed: &&Probe| listed.name == probe.name && listed.type_.name() == probe.rtype;
    let compare = match listed.iter().find(is_listed).map(|listed| listed.compare) {
        Some(ProbeCompare::Answers) => Compare::Answers,
        Some(ProbeCompare::Rcode) | None => Compare::Rcode,
    };
    Some(ProbeOutcome {
        name: probe.name.clone(),
        rtype: probe.rtype.clone(),
        compare,
        is_unchanged_route: names.is_unchanged_route(probe),
        rcode: result.map(|result| result.rcode),
        digest: result.map(|result| result.digest.clone()).unwrap_or_default(),
        microseconds: result.map_or(0, |result| result.microseconds),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use node_cache_config::{NodeCache, Route, Upstream};

    use super::*;
    use crate::controller::trials::round::MAX_NAMES;

    fn config(routes: &[(&str, &str)]) -> Config {
        let route = |(suffix, server): &(&str, &str)| Route {
            suffix: (*suffix).to_owned(),
            upstreams: vec![Upstream::from(server.parse::<SocketAddr>().unwrap())],
            packet_budgets: Vec::new(),
        };
        let listed = ["www.example", "git.corp.example"].map(|name| ProbeName::new(name, "A"));
        let node_cache = NodeCache { probes: listed.to_vec(), ..NodeCache::default() };
        Config { node_cache, routes: routes.iter().map(route).collect(), ..Config::example() }
    }

    fn texts(names: &[ProbeName]) -> Vec<&str> {
        names.iter().map(|name| name.name.as_str()).collect()
    }

    fn suffixes(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("r{number}.example")).collect()
    }

    /// Returns a configuration whose routes all lead to this server.
    fn all_to(server: &str, suffixes: &[String]) -> Config {
        config(&suffixes.iter().map(|suffix| (suffix.as_str(), server)).collect::<Vec<_>>())
    }

    /// Returns the names of a look in which nothing is doubted and nothing missing.
    fn in_turn(names: &Names, look: usize) -> Vec<ProbeName> {
        names.of_look(look, MAX_NAMES, |_| false, |_| false)
    }

    #[test]
    fn resolvers_are_asked_for_nothing_that_never_leaves_the_cluster_or_its_routes() {
        let config = config(&[("corp.example", "192.0.2.1:53")]);
        let of_nodes = in_turn(&Names::of(Some(&config), Some(&config), Role::Node), 0);
        let expected = [".", "kubernetes.default.svc.cluster.local", "www.example", "git.corp.example", "corp.example"];
        assert_eq!(texts(&of_nodes), expected);
        let of_resolvers = Names::of(Some(&config), None, Role::Resolver);
        assert_eq!(texts(&in_turn(&of_resolvers, 0)), [".", "www.example"]);
    }

    #[test]
    fn of_many_routes_those_that_lead_elsewhere_are_asked_in_each_look_and_the_others_in_turn() {
        let suffixes = suffixes(100);
        let of = |server: &str| -> Config {
            let server = |suffix: &str| if suffix == "r99.example" { server.to_owned() } else { "192.0.2.1:53".into() };
            let routes: Vec<(&str, String)> = suffixes.iter().map(|suffix| (suffix.as_str(), server(suffix))).collect();
            config(&routes.iter().map(|(suffix, server)| (*suffix, server.as_str())).collect::<Vec<_>>())
        };
        let names = Names::of(Some(&of("192.0.2.9:53")), Some(&of("192.0.2.1:53")), Role::Node);
        assert_eq!((names.changed.len(), names.unchanged.len(), names.looks(MAX_NAMES)), (1, 99, 3));
        let mut seen: Vec<String> = Vec::new();
        for look in 0..3 {
            let of_look = in_turn(&names, look);
            assert_eq!(of_look.len(), MAX_NAMES);
            assert!(texts(&of_look[..5]).contains(&"r99.example"));
            seen.extend(of_look.into_iter().map(|name| name.name));
        }
        assert!(suffixes.iter().all(|suffix| seen.contains(suffix)));
        let is_unchanged = |suffix: &str| names.is_unchanged_route(&ProbeName::new(suffix, "SOA"));
        assert_eq!(["r98.example", "r99.example", "."].map(is_unchanged), [true, false, false]);
    }

    #[test]
    fn of_many_routes_that_all_lead_elsewhere_each_is_asked_in_its_turn_and_what_the_spec_lists_in_each_look() {
        let suffixes = suffixes(100);
        let (proven, target) = (all_to("192.0.2.1:53", &suffixes), all_to("192.0.2.9:53", &suffixes));
        let names = Names::of(Some(&target), Some(&proven), Role::Node);
        let mut seen: Vec<String> = Vec::new();
        for look in 0..3 {
            let of_look = in_turn(&names, look);
            assert_eq!(of_look.len(), MAX_NAMES);
            assert!([".", "www.example", "git.corp.example"].iter().all(|name| texts(&of_look).contains(name)));
            seen.extend(of_look.into_iter().map(|name| name.name));
        }
        assert!(suffixes.iter().all(|suffix| seen.contains(suffix)));
    }

    #[test]
    fn a_step_waits_for_every_name_of_the_target_but_routes_that_lead_where_they_led() {
        let server = "192.0.2.1:53";
        let proven = config(&[("same.example", server), ("moved.example", server), ("gone.example", server)]);
        let target = config(&[("same.example", server), ("moved.example", "192.0.2.9:53"), ("new.example", server)]);
        let names = Names::of(Some(&target), Some(&proven), Role::Node);
        let always = [".", "kubernetes.default.svc.cluster.local", "www.example", "git.corp.example"];
        let mut required = texts(names.required());
        required.sort_unstable();
        let mut expected = [always.as_slice(), &["moved.example", "new.example"]].concat();
        expected.sort_unstable();
        assert_eq!(required, expected);
        assert_eq!((names.changed.len(), names.unchanged.len()), (3, 1));
    }

    #[test]
    fn doubted_routes_are_asked_in_the_next_look_and_missing_ones_before_the_others() {
        let suffixes = suffixes(100);
        let (proven, target) = (all_to("192.0.2.1:53", &suffixes), all_to("192.0.2.9:53", &suffixes));
        let names = Names::of(Some(&target), Some(&proven), Role::Node);
        for look in 0..5 {
            let is_doubted = |name: &ProbeName| name.name == "r7.example";
            let is_missing = |name: &ProbeName| name.name == "r50.example";
            let of_look = names.of_look(look, 20, is_doubted, is_missing);
            assert_eq!(of_look.len(), 20);
            assert_eq!(texts(&of_look[4..6]), ["r7.example", "r50.example"]);
        }
        let all_doubted = names.of_look(1, 20, |_| true, |_| false);
        assert_eq!(all_doubted.len(), 20);
        let in_turn = texts(&all_doubted[12..]);
        assert!(in_turn.iter().all(|name| !texts(&all_doubted[..12]).contains(name)), "half of the look goes on");
        assert_eq!(in_turn[0], "r16.example");
        assert_eq!(names.of_look(0, 0, |_| false, |_| false).len(), 4 + MIN_ROUTES, "however many tiers there are");
    }
}
