//! Driver of one tier: it changes the spec, waits until the tier has come to what the transition asks for, and consults
//! the oracles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dnstier_crds::DnsTier;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::state::{WorldState, differences, state_of};
use crate::common::world::{Cluster, WORLD_LABEL, World};
use crate::effects::{Effects, asked, movable};
use crate::oracles::{bad_lines, conditions, unhealthy, unrest};
use crate::path::last_name;
use crate::report::Report;
use crate::trace::Trace;
use crate::transition::{Manner, Outcome, Transition};
use crate::values::{Edit, Table};
use crate::world::prepare;

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Limit of a transition.
const LIMIT: Duration = Duration::from_secs(240);
/// Limit of an error: a pod that does not run is reported after five minutes.
const ERROR_LIMIT: Duration = Duration::from_secs(400);
/// Time for which a change that is held is looked at. Without the pause its first pods would be told after one pass and
/// one look at them, and the next ones after probes and a soak of 5 s.
const HELD_TIME: Duration = Duration::from_secs(15);
/// Limit for workloads that are not healthy while their tier is at rest: the watches of the test are not in step.
const LAG: Duration = Duration::from_secs(20);
/// Reasons of errors with which everything stays as it was.
const REFUSALS: [&str; 5] =
    ["ClusterDnsNotFound", "ClusterDnsUnusable", "UpstreamLoop", "ApplyFailed", "RevisionTooLarge"];

/// Tier with its world and what was seen of it.
pub(crate) struct Driver {
    world: World,
    tier: usize,
    table: Arc<Table>,
    cluster_dns: String,
    /// Spec that was applied last and came into force.
    spec: Value,
    /// Length of the log that was looked at.
    read: usize,
    report: Report,
}

/// State before a transition.
struct Before {
    spec: Value,
    /// Spec that the API server keeps, with its defaults.
    stored: Value,
    generation: Value,
    effects: Effects,
    state: WorldState,
}

impl Driver {
    /// Creates a tier and waits for its rest.
    pub(crate) async fn start(cluster: Arc<Cluster>, tier: usize, table: Arc<Table>) -> Result<Self> {
        let world = World::create_with(cluster, &crate::world::NODES, &["dns", "dns2"]).await?;
        let cluster_dns = prepare(&world).await?;
        world.start_operator(None)?;
        let spec = base(&world.name);
        let mut driver = Self { world, tier, table, cluster_dns, spec, read: 0, report: Report::default() };
        let first = driver.spec.clone();
        driver.apply(&first).await?;
        driver.rest(&mut Trace::default(), None).await.context("the first spec")?;
        driver.check_log(false)?;
        Ok(driver)
    }

    /// Makes the transitions, one after the other. A failure is noted, and the next one begins from the first spec.
    pub(crate) async fn run(mut self, transitions: &[Transition]) -> Report {
        for (number, transition) in transitions.iter().enumerate() {
            let transition = transition.that_changes(&self.spec, &self.table, &self.world.name, &self.cluster_dns);
            let described = transition.describe(&self.spec);
            let start = Instant::now();
            let result = self.make(&transition).await;
            if std::env::var_os("DNSTIER_TESTS_SHOW").is_some() {
                let outcome = result.as_ref().map_or_else(|error| format!("FAILED: {error:#}"), |()| "well".to_owned());
                eprintln!("{} {number} {:.1?} {described}: {outcome}", self.world.name, start.elapsed());
            }
            if let Err(error) = result {
                let log = self.world.log(25);
                self.report.fail(format!("tier {}, transition {number}: {described}\n{error:#}\n{log}", self.tier));
                if let Err(error) = self.begin_anew().await {
                    self.report.fail(format!("tier {} does not come back to its first spec: {error:#}", self.tier));
                    break;
                }
            }
        }
        let Self { world, report, .. } = self;
        world.remove().await;
        report
    }

    /// Applies the first spec, with an operator that runs.
    async fn begin_anew(&mut self) -> Result<()> {
        if self.world.has_operator_ended() {
            self.restart().await?;
        }
        self.spec = base(&self.world.name);
        let first = self.spec.clone();
        self.apply(&first).await?;
        self.rest(&mut Trace::default(), None).await?;
        self.read = self.world.whole_log().len();
        Ok(())
    }

    async fn make(&mut self, transition: &Transition) -> Result<()> {
        let first = base(&self.world.name);
        if transition.begins_anew && self.spec != first {
            self.apply(&first).await?;
            self.rest(&mut Trace::default(), Some(())).await.context("on the way to the first spec")?;
            self.spec = first;
            self.report.begun_anew += 1;
        }
        let spec = transition.spec_after(&self.spec, &self.table, &self.world.name, &self.cluster_dns);
        if spec == self.spec {
            self.report.idle += 1;
            return Ok(());
        }
        // A pod that has gone a moment after the rest may still have changed something.
        let unrest = unrest(&self.world.name, &self.world.cluster.objects);
        if !unrest.is_empty() {
            eprintln!("{} was at rest, and now: {}", self.world.name, unrest.join("; "));
            self.report.left_rest += 1;
            self.rest(&mut Trace::default(), None).await.context("before the transition")?;
        }
        let before = Before {
            spec: self.spec.clone(),
            stored: self.stored(),
            generation: self.generation(),
            effects: Effects::of(&self.world.name, &self.world.cluster.objects),
            state: self.state(),
        };
        match &transition.outcome {
            Outcome::Rest | Outcome::Reordered => self.come_to_rest(transition, spec, before).await,
            Outcome::Refused => self.be_refused(transition, &spec, &before).await,
            Outcome::Error => self.err_and_revert(transition, &spec, &before).await,
            Outcome::Held(release) => {
                let told = asked(&self.world.name, &self.world.cluster.objects);
                self.apply(&spec).await?;
                self.problem(transition).await?;
                self.hold(&told).await?;
                let mut released = spec.clone();
                release.apply(&mut released, &self.table);
                self.report.held += 1;
                self.cover_behaviours(transition);
                self.come_to_rest(transition, released, before).await
            }
        }
    }

    async fn come_to_rest(&mut self, transition: &Transition, mut spec: Value, before: Before) -> Result<()> {
        if transition.manner == Manner::Superseding {
            let mut other = self.spec.clone();
            other["routes"] = json!([{"suffix": "superseded.example", "upstreams": [{"addresses": ["203.0.113.99"]}]}]);
            self.apply(&other).await?;
            self.until_it_moves().await?;
        }
        if let Err(refusal) = self.apply(&spec).await {
            // Fields that were changed earlier may not go with this one: it begins from the first spec.
            spec = transition.spec_after(&base(&self.world.name), &self.table, &self.world.name, &self.cluster_dns);
            let refused = || format!("a valid spec is refused: {refusal:#}");
            self.apply(&spec).await.with_context(refused)?;
            self.report.begun_anew += 1;
        }
        if transition.manner == Manner::WithRestart {
            self.until_it_moves().await?;
            self.restart().await?;
        }
        let mut trace = Trace::default();
        let is_confirmed = before.spec.to_string().contains("169.254.20.99");
        self.rest(&mut trace, is_confirmed.then_some(())).await?;
        self.check_log(transition.manner == Manner::WithRestart)?;
        let effects = Effects::of(&self.world.name, &self.world.cluster.objects);
        if self.stored() == before.stored {
            // A value that is the default one.
            self.report.idle += 1;
            self.spec = spec;
            return Ok(());
        }
        self.check_effects(transition, &before, &effects, &spec)?;
        if let Some(behaviour) = transition.behaviour {
            trace.check(behaviour).with_context(|| format!("consistency: {behaviour:?}"))?;
            self.cover_behaviours(transition);
        }
        self.report.rested += 1;
        self.spec = spec;
        if transition.is_fleeting {
            self.revert(&before).await?;
        }
        Ok(())
    }

    /// Notes the fields that move nothing and have shown what they decide.
    fn cover_behaviours(&mut self, transition: &Transition) {
        transition.edits.iter().filter(|edit| moves_nothing(edit)).for_each(|edit| self.report.cover(&edit.path));
    }

    /// Checks that what the fields may move has moved, and nothing else.
    fn check_effects(&mut self, transition: &Transition, before: &Before, now: &Effects, spec: &Value) -> Result<()> {
        let mut permitted = BTreeSet::new();
        // What goes with a field, and what was taken back because it does not, moves too.
        for path in changed_fields(&before.spec, spec) {
            permitted.extend(movable(&path).with_context(|| format!("{path} has no row in what-a-change-moves.md"))?);
        }
        let moved = now.moved_since(&before.effects);
        let differences = || now.differences(&before.effects).join("\n");
        let others: Vec<_> = moved.difference(&permitted).collect();
        ensure!(
            others.is_empty(),
            "consistency: {others:?} moved, of which the documentation says nothing:\n{}",
            differences()
        );
        let may_move_nothing = transition.outcome == Outcome::Reordered
            || permitted.is_empty()
            || transition.edits.iter().all(moves_nothing);
        ensure!(may_move_nothing || !moved.is_empty(), "consistency: nothing has moved of {permitted:?}");
        if transition.edits.len() == 1 && !moved.is_empty() {
            self.report.cover(&transition.edits[0].path);
        }
        Ok(())
    }

    async fn be_refused(&mut self, transition: &Transition, spec: &Value, before: &Before) -> Result<()> {
        let Err(error) = self.apply(spec).await else {
            self.spec.clone_from(spec);
            bail!("the API server takes an invalid value");
        };
        let message = format!("{error:#}");
        let named = transition.edits.iter().all(|edit| message.contains(last_name(&edit.path)));
        ensure!(named, "the refusal does not name the field: {message}");
        ensure!(self.generation() == before.generation, "a refused spec is stored");
        let effects = Effects::of(&self.world.name, &self.world.cluster.objects);
        ensure!(effects == before.effects, "a refused spec moves: {}", effects.differences(&before.effects).join("\n"));
        self.report.refused += 1;
        Ok(())
    }

    async fn err_and_revert(&mut self, transition: &Transition, spec: &Value, before: &Before) -> Result<()> {
        self.apply(spec).await.context("the API server refuses what should be an error later")?;
        let reason = self.problem(transition).await?;
        if REFUSALS.contains(&reason.as_str()) {
            let effects = Effects::of(&self.world.name, &self.world.cluster.objects);
            let differences = effects.differences(&before.effects);
            ensure!(differences.is_empty(), "the last good state is not in force:\n{}", differences.join("\n"));
        }
        if reason == "NoNodes" {
            self.until_no_node_runs_caches().await?;
        }
        self.check_log(true)?;
        *self.report.errors.entry(reason).or_default() += 1;
        self.cover_behaviours(transition);
        self.revert(before).await
    }

    async fn until_no_node_runs_caches(&self) -> Result<()> {
        let start = Instant::now();
        let of_nodes = |name: &String| name.contains("node-cache");
        while asked(&self.world.name, &self.world.cluster.objects).keys().any(of_nodes) {
            self.look().await?;
            ensure!(start.elapsed() < LIMIT / 4, "consistency: nodes run caches, and a condition has NoNodes");
        }
        Ok(())
    }

    /// Applies the previous spec, and waits until everything is as it was.
    async fn revert(&mut self, before: &Before) -> Result<()> {
        self.spec.clone_from(&before.spec);
        self.apply(&before.spec).await?;
        self.rest(&mut Trace::default(), Some(())).await.context("recovery")?;
        let start = Instant::now();
        loop {
            let state = self.state();
            if state == before.state {
                break;
            }
            let differences = differences(&before.state, &state);
            ensure!(start.elapsed() < LIMIT / 2, "recovery: it ends otherwise:\n{}", differences.join("\n"));
            self.look().await?;
        }
        self.report.reverted += 1;
        self.check_log(true)
    }

    /// Waits until the tier is at rest and its workloads are healthy. `confirm` gives up an address that is in use.
    async fn rest(&mut self, trace: &mut Trace, confirm: Option<()>) -> Result<()> {
        let start = Instant::now();
        let mut unhealthy_since = None;
        loop {
            self.look().await?;
            trace.note(&self.world.name, &self.world.cluster.objects);
            let unrest = unrest(&self.world.name, &self.world.cluster.objects);
            if unrest.is_empty() {
                return Ok(());
            }
            let conditions = conditions(&self.world.name, &self.world.cluster.objects);
            if confirm.is_some() && conditions.iter().any(|each| each.reason == "AddressInUse") {
                self.confirm(trace).await?;
            }
            // The watch of the tier may be before those of its workloads by a moment.
            let unhealthy = unhealthy(&self.world.name, &self.world.cluster.objects);
            unhealthy_since = (unrest == unhealthy).then(|| unhealthy_since.unwrap_or_else(Instant::now));
            let lag = unhealthy_since.map(|since| since.elapsed()).unwrap_or_default();
            self.report.longest_lag = self.report.longest_lag.max(lag);
            ensure!(lag < LAG, "health: the tier says that it is at rest:\n{}", unhealthy.join("\n"));
            ensure!(start.elapsed() < LIMIT, "health: it does not come to rest:\n{}", unrest.join("\n"));
        }
    }

    /// Waits until a condition says what is wrong, and returns its reason.
    async fn problem(&mut self, transition: &Transition) -> Result<String> {
        let edit = &transition.edits[0];
        let (says, start) = (edit.named(), Instant::now());
        loop {
            self.look().await?;
            let conditions = conditions(&self.world.name, &self.world.cluster.objects);
            let says_it = |message: &str| message.contains(&says);
            let found = conditions.iter().find(|condition| match &edit.reason {
                Some(reason) => condition.reason == *reason && says_it(&condition.message),
                None => condition.type_ == "Degraded" && condition.status == "True" && says_it(&condition.message),
            });
            if let Some(condition) = found {
                return Ok(condition.reason.clone());
            }
            let wanted = edit.reason.as_deref().unwrap_or("Degraded");
            let limit = if edit.reason.is_some() { ERROR_LIMIT } else { LIMIT / 2 };
            ensure!(start.elapsed() < limit, "no condition has {wanted} with {says:?}: {conditions:#?}");
        }
    }

    /// Checks that no pod is told of a change that is held, for longer than pods wait that are told of one.
    async fn hold(&self, told: &BTreeMap<String, Value>) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < HELD_TIME {
            self.look().await?;
            let now = asked(&self.world.name, &self.world.cluster.objects);
            ensure!(now == *told, "consistency: pods are told of a change that is held: {now:?} instead of {told:?}");
        }
        Ok(())
    }

    /// Waits until the change of a spec is under way, or over.
    async fn until_it_moves(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.look().await?;
            let unrest = unrest(&self.world.name, &self.world.cluster.objects);
            let conditions = conditions(&self.world.name, &self.world.cluster.objects);
            if !conditions.is_empty() && (!unrest.is_empty() || start.elapsed() > Duration::from_secs(5)) {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "no condition is about the newest spec");
        }
    }

    /// Waits a moment, and checks that the operator runs.
    async fn look(&self) -> Result<()> {
        tokio::time::sleep(LOOK_INTERVAL).await;
        ensure!(!self.world.has_operator_ended(), "crash: the operator has ended");
        Ok(())
    }

    /// Checks what the operator has logged since the last look.
    fn check_log(&mut self, are_warnings_expected: bool) -> Result<()> {
        let log = self.world.whole_log();
        let lines = bad_lines(log.get(self.read..).unwrap_or_default(), are_warnings_expected);
        self.read = log.len();
        ensure!(lines.is_empty(), "log:\n{}", lines.join("\n"));
        Ok(())
    }

    async fn restart(&self) -> Result<()> {
        self.world.proxy.kill();
        self.world.free_lease().await;
        self.world.start_operator(None)
    }

    /// Applies a spec, forced; the error is that of the API server.
    async fn apply(&self, spec: &Value) -> Result<()> {
        let name = &self.world.name;
        let tier = self.world.tier(name, spec);
        let params = PatchParams::apply("driver").force();
        let tier = self.tiers().patch(name, &params, &Patch::Apply(&tier)).await?;
        // What is waited for afterwards is about this generation.
        let start = Instant::now();
        while self.generation().as_i64() < tier.metadata.generation {
            self.look().await?;
            ensure!(start.elapsed() < LIMIT, "the watch of tiers has no news");
        }
        Ok(())
    }

    async fn confirm(&self, trace: &Trace) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {"dnstier.io/confirm-rollout": trace.target()}}});
        self.tiers().patch(&self.world.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    fn tiers(&self) -> Api<DnsTier> {
        Api::all(self.world.cluster.client.clone())
    }

    fn tier(&self) -> Arc<Value> {
        self.world.cluster.objects.get("DnsTier", "", &self.world.name).unwrap_or_default()
    }

    fn generation(&self) -> Value {
        self.tier()["metadata"]["generation"].clone()
    }

    fn stored(&self) -> Value {
        self.tier()["spec"].clone()
    }

    /// Returns the state of the world, without the revisions that were taken back.
    fn state(&self) -> WorldState {
        let mut state = state_of(&self.world.name, &self.world.cluster.objects);
        for object in state.values_mut() {
            if let Some(rejections) = object.pointer_mut("/record/rest/5") {
                *rejections = Value::Null;
            }
        }
        state
    }
}

/// Returns whether a field decides how a roll-out goes, and moves nothing.
fn moves_nothing(edit: &Edit) -> bool {
    movable(&edit.path).is_some_and(|parts| parts.is_empty())
}

/// Returns the spec with which a tier begins.
fn base(world: &str) -> Value {
    json!({
        "clusterDns": {"namespace": format!("{world}-dns"), "name": "kube-dns"},
        "nodeCache": {"instances": 1, "nodeSelector": {WORLD_LABEL: world}},
        "resolvers": {
            "replicasPerZone": 1, "nodeSelector": {WORLD_LABEL: world}, "upstreams": [{"addresses": ["192.0.2.53"]}],
        },
        "rollout": {"soak": "5s", "waveSize": "100%"},
    })
}

/// Returns the paths of the fields in which two specs differ.
fn changed_fields(one: &Value, other: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    compare(one, other, "", &mut paths);
    paths
}

fn compare(one: &Value, other: &Value, path: &str, paths: &mut Vec<String>) {
    let is_removed = |value: &Value| value.is_null();
    let fields = |value: &Value| value.as_object().map(|fields| fields.keys().cloned().collect::<BTreeSet<String>>());
    match (fields(one), fields(other)) {
        // An object that is new or gone is all of its fields.
        (Some(names), None) if is_removed(other) && !names.is_empty() => {
            names.iter().for_each(|name| compare(&one[name], &Value::Null, &join(path, name), paths));
        }
        (None, Some(_)) if is_removed(one) => compare(other, one, path, paths),
        (Some(names), Some(others)) => {
            names.union(&others).for_each(|name| compare(&one[name], &other[name], &join(path, name), paths));
        }
        _ if one != other => paths.push(path.to_owned()),
        _ => {}
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[test]
fn fields_that_differ_are_named() {
    let one = json!({"rollout": {"soak": "5s"}, "routes": [1], "same": {"x": 1}, "gone": {"a": {"b": 1}, "c": 2}});
    let other = json!({"rollout": {"soak": "6s", "paused": true}, "same": {"x": 1}});
    let expected = ["gone.a.b", "gone.c", "rollout.paused", "rollout.soak", "routes"];
    assert_eq!(changed_fields(&one, &other), expected);
    assert_eq!(changed_fields(&other, &one), expected);
}
