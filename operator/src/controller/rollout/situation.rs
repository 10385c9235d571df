//! Situation of a roll-out in one reconciliation: what the planner reads, collected from the observed state.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use dnstier_crds::DnsTier;
use dnstier_crds::v1alpha1::Rollout;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use node_cache_config::names::revision_key;
use node_cache_config::{Config, part_fingerprints};

use crate::controller::desired::RenderedRevision;
use crate::controller::observe::Observed;
use crate::controller::observe::nodes::ClusterNode;
use crate::controller::observe::pods::{Component, TierPod};
use crate::controller::observe::poll::{AddressUses, PodSummary};
use crate::controller::owned::{labels, names};
use crate::controller::placement::Placement;
use crate::controller::rollout::address_use::{self, captured, given_up};
use crate::controller::rollout::announcement::{Announcement, announcement, is_in_first_revision};
use crate::controller::rollout::plan::{Inputs, Plan, plan};
use crate::controller::rollout::pods::{Role, RolloutPod};
use crate::controller::rollout::record::Record;
use crate::controller::rollout::revision::{KnownRevision, TierRevision, assign, known_revisions, rebuild_proven};
use crate::controller::rollout::steps::{Surroundings, Verdict};
use crate::controller::rollout::template::{NodePods, is_away};
use crate::settings::Settings;

/// Time over which the responses of a pod are counted.
const TRAFFIC_SPAN: Duration = Duration::from_secs(60);
/// Number of pods for each one out of reach without which a roll-out goes on. One may always be.
const PODS_PER_UNREACHABLE: usize = 10;

/// Situation of a roll-out.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    /// Record; `None` before the first and when it is lost.
    pub(crate) record: Option<Record>,
    /// Pods that are not terminating.
    pub(crate) pods: Vec<RolloutPod>,
    /// Revision that the spec results in.
    pub(crate) desired: TierRevision,
    /// Settings of the tier.
    pub(crate) settings: Rollout,
    /// Captured addresses that the target gives up and that are asked; `None` without any.
    pub(crate) address_in_use: Option<String>,
    /// Captured addresses that the target gives up while some nodes have not told yet whether they are asked there;
    /// `None` without any.
    pub(crate) address_unknown: Option<String>,
    /// Present time.
    pub(crate) now: Timestamp,
    nodes: BTreeSet<String>,
    wants_nodes: bool,
    stable: Option<TierRevision>,
    announced: Option<String>,
    confirm: Option<String>,
    retry: Option<String>,
}

impl Situation {
    /// Collects the situation. `newest` is the configuration that the spec results in; `None` for a spec that is not
    /// valid, which changes nothing: what was on its way goes on. `out_of_reach` are the UIDs of pods that cannot be
    /// told a revision. Returns `None` before the first configuration.
    #[must_use]
    pub(crate) fn collect(
        observed: &Observed,
        settings: &Settings,
        newest: Option<&RenderedRevision>,
        uses: &AddressUses,
        out_of_reach: &HashSet<String>,
    ) -> Option<Self> {
        let tier = &observed.tier;
        let config_map = observed.owned.config_map(&settings.node_namespace, &names::revisions(&tier.name_any()));
        let config_of = |id: &str| {
            let json = config_map.and_then(|config_map| config_map.data.as_ref()?.get(&revision_key(id)));
            Config::from_json(json?.as_bytes()).ok()
        };
        let (mut known, stable) = config_map.map(known_revisions).unwrap_or_default();
        let pods = rollout_pods(observed, out_of_reach);
        let stable = stable.map(|stable| rebuild_proven(&stable, &known, &pods));
        // Until the first revision is proven, the key has that one.
        let proven_stable = stable.as_ref().filter(|_| !is_in_first_revision(tier));
        let record = observed.record.record.clone();
        let annotation = |key: &str| tier.annotations().get(key).cloned();
        let retry = annotation(labels::RETRY_ROLLOUT);
        let newest = newest.map(|newest| Some((&newest.id, Config::from_json(newest.json.as_bytes()).ok()?)));
        let desired = match &newest {
            Some(newest) => {
                let (id, config) = newest.as_ref()?;
                let newest = KnownRevision { id: (*id).clone(), parts: part_fingerprints(config) };
                if known.iter().all(|revision| revision.id != newest.id) {
                    known.push(newest.clone());
                }
                assign(&newest, &running(record.as_ref(), proven_stable, retry.as_deref()), &known)
            }
            None => record.as_ref().map(|record| record.target.clone()).or_else(|| stable.clone())?,
        };
        let proven = record.as_ref().map_or(proven_stable, |record| record.proven.as_ref());
        let before = proven.and_then(|proven| config_of(&proven.nodes));
        let after = match newest {
            Some(newest) => newest.map(|(_, config)| config),
            None => config_of(&desired.id),
        };
        let given_up = before.zip(after).map(|(before, after)| given_up(&before, &after)).unwrap_or_default();
        let captured = || captured_by_node(&pods, config_of);
        // Whoever leads since a step began knows when an address was asked, or that it was not asked since.
        let are_dated = record.as_ref().is_some_and(|record| record.step.is_judged());
        let count = |node: &str, address| uses.count(node, address, are_dated);
        let address_in_use = address_in_use(observed, settings, &given_up, captured, count);
        let announced = announced(tier, &desired);
        let wants_nodes = pods.iter().any(|pod| pod.role == Role::Node) || wants_nodes(observed, settings);
        let is_there = |(name, node): (&str, &ClusterNode)| node.ready.then(|| name.to_owned());
        Some(Self {
            record,
            settings: tier.spec.rollout.clone(),
            address_in_use,
            address_unknown: address_use::unknown_sentence(&given_up, count_unanswered(&pods, &desired.nodes)),
            pods,
            desired,
            now: observed.now,
            nodes: observed.nodes.iter().filter_map(is_there).collect(),
            wants_nodes,
            stable: proven_stable.cloned(),
            announced,
            confirm: annotation(labels::CONFIRM_ROLLOUT),
            retry,
        })
    }

    /// Returns what the steps read beside the record.
    #[must_use]
    pub(crate) fn surroundings(&self, is_past_known: bool) -> Surroundings<'_> {
        Surroundings {
            pods: &self.pods,
            nodes: &self.nodes,
            settings: &self.settings,
            announced: self.announced.as_deref(),
            is_past_known,
            address_in_use: self.address_in_use.as_deref(),
            address_unknown: self.address_unknown.as_deref(),
            confirm: self.confirm.as_deref(),
            retry: self.retry.as_deref(),
            now: self.now,
        }
    }

    /// Plans the pass.
    #[must_use]
    pub(crate) fn plan(&self, verdict: Option<&Verdict>, is_past_known: bool, writer: &str) -> Plan {
        plan(&Inputs {
            record: self.record.as_ref(),
            stable: self.stable.as_ref(),
            desired: &self.desired,
            verdict,
            wants_nodes: self.wants_nodes,
            writer,
            around: self.surroundings(is_past_known),
        })
    }
}

/// Returns whether a tier that has no node pod should have some: they are being made again, or the DaemonSet controller
/// has not told yet.
fn wants_nodes(observed: &Observed, settings: &Settings) -> bool {
    let is_ending = |pod: &TierPod| {
        pod.component == Component::NodeCache && pod.terminating && !pod.ended && !is_away(observed, pod)
    };
    let daemon_set = NodePods::collect(observed, settings);
    daemon_set.is_none_or(|pods| pods.is_behind || pods.desired > 0) || observed.pods.iter().any(is_ending)
}

/// Returns the addresses that each node captures, where its pod tells which configuration it runs.
fn captured_by_node(pods: &[RolloutPod], config_of: impl Fn(&str) -> Option<Config>) -> BTreeMap<&str, Vec<IpAddr>> {
    let mut by_revision: BTreeMap<&str, Option<Vec<IpAddr>>> = BTreeMap::new();
    let by_node = pods.iter().filter(|pod| pod.role == Role::Node).filter_map(|pod| {
        let in_force = pod.in_force.as_deref()?;
        let addresses = by_revision.entry(in_force).or_insert_with(|| config_of(in_force).as_ref().map(captured));
        Some((pod.key(), addresses.clone()?))
    });
    by_node.collect()
}

/// Returns the sentence about addresses that are given up and asked. Uses belong to a node: those of one whose pod is
/// being made again count. Those of one that does not capture the address any more do not: nothing is lost there.
fn address_in_use<'a>(
    observed: &Observed,
    settings: &Settings,
    given_up: &[IpAddr],
    captured: impl FnOnce() -> BTreeMap<&'a str, Vec<IpAddr>>,
    count: impl Fn(&str, IpAddr) -> u32,
) -> Option<String> {
    if given_up.is_empty() {
        return None;
    }
    let captured = captured();
    let placement = Placement::of_node_pods(&observed.tier.spec.node_cache.pod, settings);
    let is_placed = |(name, node): &(&str, &ClusterNode)| placement.exclusion(name, node).is_none();
    let of_pods = observed.pods.iter().filter(|pod| pod.component == Component::NodeCache);
    let of_pods = of_pods.filter_map(|pod| pod.node.as_deref());
    let nodes: BTreeSet<&str> = observed.nodes.iter().filter(is_placed).map(|(name, _)| name).chain(of_pods).collect();
    let asked = given_up.iter().map(|address| {
        let may_capture = |node: &&&str| captured.get(**node).is_none_or(|captured| captured.contains(address));
        let counts = nodes.iter().filter(may_capture).map(|node| ((*node).to_owned(), count(node, *address)));
        (*address, counts.collect())
    });
    address_use::sentence(asked)
}

/// Returns the revisions whose names the parts of a new one may keep.
pub(super) fn running<'a>(
    record: Option<&'a Record>,
    stable: Option<&'a TierRevision>,
    retry: Option<&str>,
) -> Vec<&'a TierRevision> {
    let Some(record) = record else { return stable.into_iter().collect() };
    let target = Some(&record.target).filter(|target| record.rejection(&target.id, retry).is_none());
    record.proven.iter().chain(target).collect()
}

/// Returns the target for which the status of a tier says that it is not rolled out.
fn announced(tier: &DnsTier, desired: &TierRevision) -> Option<String> {
    Some(match announcement(tier)? {
        Announcement::Rollout(rollout) => rollout.target.clone(),
        Announcement::Spec => desired.id.clone(),
    })
}

/// Returns the role of a pod.
#[must_use]
pub(crate) fn role_of(pod: &TierPod) -> Role {
    match pod.component {
        Component::NodeCache => Role::Node,
        Component::ZoneResolver => Role::Resolver,
    }
}

/// Returns the pods of a tier that are not terminating. Those of these UIDs cannot be told a revision.
fn rollout_pods(observed: &Observed, out_of_reach: &HashSet<String>) -> Vec<RolloutPod> {
    let present: Vec<&TierPod> = observed.pods.iter().filter(|pod| !pod.terminating).collect();
    let is_unreachable = |pod: &TierPod| out_of_reach.contains(&pod.uid);
    let unreachable = present.iter().filter(|pod| is_unreachable(pod)).count();
    // With more of them the revision would spread without being watched.
    let may_skip = unreachable <= (present.len() / PODS_PER_UNREACHABLE).max(1);
    let as_seen =
        |pod: &&TierPod| RolloutPod { out_of_reach: may_skip && is_unreachable(pod), ..rollout_pod(observed, pod) };
    present.iter().map(as_seen).collect()
}

/// Returns the number of node pods that are not asked the target yet and have told nothing.
fn count_unanswered(pods: &[RolloutPod], target: &str) -> usize {
    let is_asked_there = |pod: &&RolloutPod| pod.role == Role::Node && !pod.is_asked(target);
    let is_unanswered = |pod: &&RolloutPod| pod.is_reachable() && pod.unpolled;
    pods.iter().filter(is_asked_there).filter(is_unanswered).count()
}

fn rollout_pod(observed: &Observed, pod: &TierPod) -> RolloutPod {
    let role = role_of(pod);
    let zone_of_node = || pod.node.as_deref().and_then(|node| observed.nodes.zone_of(node)).map(str::to_owned);
    let zone = match role {
        Role::Node => zone_of_node().or_else(|| pod.annotated_zone.clone()),
        Role::Resolver => pod.resolver_zone.clone(),
    };
    let report = observed.reports.get(&pod.uid);
    let status = report.and_then(|report| report.last_status.as_ref());
    // A poll that failed has been tried. A pod without an address is not polled, and nobody waits for it.
    let was_polled = report.is_some_and(|report| report.last_status.is_some() || report.failures > 0);
    let created = pod.lifecycle.created.unwrap_or(Timestamp::UNIX_EPOCH);
    let node = pod.node.as_deref().filter(|_| role == Role::Node).and_then(|node| observed.nodes.get(node));
    let responses = report.and_then(|report| report.rates()).map_or(0.0, |rates| rates.queries);
    RolloutPod {
        role,
        name: pod.name.clone(),
        zone: zone.unwrap_or_default(),
        node: pod.node.clone(),
        ready: pod.ready,
        away: is_away(observed, pod),
        out_of_reach: false,
        unpolled: pod.address.is_some() && !was_polled,
        is_unanswered: report.is_some_and(|report| report.failures > 0),
        asked: pod.annotated_revision.clone(),
        in_force: status.and_then(|status| in_force(status, pod.annotated_revision.as_deref())),
        tellings: pod.told.map_or(1, |told| told.number),
        told: pod.told.map(|told| told.time),
        responses: (responses * TRAFFIC_SPAN.as_secs_f64()) as u64,
        created,
        joined: node.and_then(|(_, node)| node.created).unwrap_or(created),
    }
}

/// Returns the configuration that a pod runs: the one that it is asked to run only when all of its processes run it.
fn in_force(status: &PodSummary, asked: Option<&str>) -> Option<String> {
    match asked.filter(|asked| status.has_in_force(asked)) {
        Some(asked) => Some(asked.to_owned()),
        None => status.revisions_in_force().find(|revision| Some(*revision) != asked).map(str::to_owned),
    }
}
