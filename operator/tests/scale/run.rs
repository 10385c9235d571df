//! Course of a measurement: the tier is created, the operator restarted and left alone, a change goes to the canaries
//! while a zone is dark, and another one to all nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dnstier_tests::lab::Programs;
use serde_json::{Value, json};

use crate::audit::{Request, count_by_verb, most_in_a_second};
use crate::cluster::{Cluster, RECORD, Step, ZONES};
use crate::figures::Row;
use crate::operator::Operator;
use crate::seconds::now;

/// Time without a request that is neither about the Lease nor a watch after which the operator is at rest, beside the
/// time in which it asks all pods twice, in seconds: what the last of them says leads to a status, and its rates, which
/// take two pages, to another one.
const QUIET: f64 = 10.0;
/// Pods that the operator asks in a second.
const POLLS: f64 = 100.0;
/// Time after a restart for which what comes from the API server is counted, in seconds.
const START: f64 = 60.0;
/// Time after which a canary that does not answer counts as silent, in seconds.
const SILENT: f64 = 7.0;
/// Time for which a standby stands by before the leader ends: its caches are warm.
const STANDBY: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(250);

/// Extent of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) nodes: usize,
    /// Time for which the operator is left alone, in seconds.
    pub(crate) idle: f64,
    /// Time for which a zone is dark, in seconds.
    pub(crate) dark: f64,
    /// Whether a change goes to all nodes in the end.
    pub(crate) has_rollout: bool,
}

impl Extent {
    /// Returns a limit for what goes to all pods, in seconds: 16 of them are told in a second, and they share the
    /// machine with the control plane.
    fn limit(self) -> f64 {
        300.0 + self.nodes as f64 / 4.0
    }
}

fn rollout(is_paused: bool) -> Value {
    json!({"soak": "5s", "paused": is_paused})
}

/// Measures one cluster. The row has what was measured up to an error.
///
/// # Errors
/// When something does not come about.
pub(crate) async fn measure(programs: &Programs, extent: Extent, row: &mut Row) -> Result<()> {
    let start = now();
    let cluster = Cluster::start(programs, extent.nodes).await?;
    let run = Run { cluster: &cluster, extent, start };
    let begin = now();
    run.tell("the tier is created");
    let operator = run.create(row).await.with_context(|| cluster.log())?;
    run.end(operator, row).await?;
    run.tell("another operator starts");
    let operator = run.restart(row).await.with_context(|| cluster.log())?;
    run.tell("it is at rest");
    run.rest(&operator, row).await.with_context(|| cluster.log())?;
    run.tell("a change goes to the canaries, then a zone is dark");
    run.darkness(&operator, row).await.with_context(|| cluster.log())?;
    if extent.has_rollout {
        run.tell("another change goes to all nodes");
        run.roll_out(&operator, row).await.with_context(|| cluster.log())?;
    }
    let operator = if extent.has_rollout { run.hand_over(operator, row).await? } else { operator };
    run.end(operator, row).await?;
    let requests = run.requests_since(begin)?;
    let writes: Vec<&Request> = requests.iter().filter(|request| request.is_write()).collect();
    row.set("writes_per_s", most_in_a_second(writes.iter().map(|request| request.time)) as f64);
    row.set("polls_per_s", most_in_a_second(cluster.pods.polls_since(begin)) as f64);
    row.print();
    Ok(())
}

struct Run<'a> {
    cluster: &'a Cluster,
    extent: Extent,
    start: f64,
}

impl Run<'_> {
    fn tell(&self, text: &str) {
        eprintln!("{} nodes, {:.0} s: {text}", self.extent.nodes, now() - self.start);
    }

    /// Creates the tier and starts the operator.
    async fn create(&self, row: &mut Row) -> Result<Operator> {
        let generation = self.cluster.apply_tier("1h", rollout(false)).await?;
        let operator = self.cluster.start_operator()?;
        row.set("start_first_pass_s", operator.first_pass().await?);
        self.cluster.wait_for_rest(generation, self.extent.limit()).await?;
        row.set("install_s", now() - operator.started);
        Ok(operator)
    }

    /// Starts an operator in place of one that has freed its Lease.
    async fn restart(&self, row: &mut Row) -> Result<Operator> {
        let received = self.cluster.forwarder.received();
        let operator = self.cluster.start_operator()?;
        row.set("restart_first_pass_s", operator.first_pass().await?);
        let start = operator.started;
        tokio::time::sleep(Duration::from_secs_f64((start + START.min(self.extent.idle) - now()).max(0.0))).await;
        row.set("restart_mb", (self.cluster.forwarder.received() - received) as f64 / 1e6);
        self.wait_for_rest(start).await?;
        row.set("first_round_s", self.cluster.pods.first_round(start) - start);
        Ok(operator)
    }

    /// Watches an operator that has nothing to do.
    async fn rest(&self, operator: &Operator, row: &mut Row) -> Result<()> {
        let before = operator.metrics().await?;
        let (start, cpu) = (now(), operator.processor_time()?);
        let received = self.cluster.forwarder.received();
        tokio::time::sleep(Duration::from_secs_f64(self.extent.idle)).await;
        let time = now() - start;
        let minutes = time / 60.0;
        row.set("idle_s", time);
        row.set("idle_cpu_percent", (operator.processor_time()? - cpu) / time * 100.0);
        row.set("idle_kb_per_min", (self.cluster.forwarder.received() - received) as f64 / 1e3 / minutes);
        row.set("memory_rest_mib", operator.memory()?.0);
        row.set("idle_polls_per_s", self.cluster.pods.polls_since(start).len() as f64 / time);
        let after = operator.metrics().await?;
        let difference = |name: &str| {
            let name = format!("dnstier_operator_reconcile_duration_seconds_{name}");
            after.get(&name).copied().unwrap_or_default() - before.get(&name).copied().unwrap_or_default()
        };
        if difference("count") > 0.0 {
            row.set("idle_pass_ms", difference("sum") / difference("count") * 1e3);
        }
        let requests = self.requests_since(start)?;
        let (lease, others): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.is_lease());
        let (watches, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|request| request.verb == "watch");
        others.iter().for_each(|request| eprintln!("at rest: {request:?}"));
        row.set("idle_lease_per_min", lease.len() as f64 / minutes);
        row.set("idle_watches", watches.len() as f64);
        row.set("idle_requests", others.len() as f64);
        Ok(())
    }

    /// Takes a change to the canaries, and a zone into the dark while they are watched.
    async fn darkness(&self, operator: &Operator, row: &mut Row) -> Result<()> {
        let change = now();
        self.cluster.apply_tier("50m", rollout(false)).await?;
        let limit = self.extent.limit();
        let is_canary = |step: &Step| step.name == "Canary" && !step.moved.is_empty();
        let canaries = self.cluster.wait_for_step(change, limit, is_canary).await?;
        self.cluster.wait_for_step(change, limit, |step| is_canary(step) && step.is_watched).await?;
        row.set("canaries_s", now() - change);
        let requests = self.requests_since(change)?;
        let first = |what: &str, is_it: &dyn Fn(&Request) -> bool| {
            let request = requests.iter().find(|request| is_it(request));
            request.map(|request| request.time - change).with_context(|| format!("{what} does not come about"))
        };
        let planned = first("the record", &|request| request.is_write() && request.name == RECORD)?;
        let told = first("a telling", &|request| request.is_write() && request.resource == "pods/status")?;
        row.set("planned_s", planned);
        row.set("canary_told_s", told);

        // Nothing moves meanwhile.
        self.cluster.apply_tier("50m", rollout(true)).await?;
        let zones = Cluster::zones_of(&canaries.moved);
        let dark = ZONES[2];
        let light: Vec<String> =
            zones.iter().filter(|(_, zone)| **zone != dark).map(|(node, _)| (*node).into()).collect();
        ensure!(light.len() == 2, "there is no canary in each zone: {zones:?}");
        self.cluster.pods.darken(Some(dark));
        let start = now();
        while now() - start < self.extent.dark {
            // By then the canary in the dark counts as silent.
            if now() - start > SILENT {
                let metrics = operator.metrics().await?;
                let age = metrics.get("dnstier_operator_figure_age_seconds{class=\"canary\"}");
                row.raise("canary_age_s", *age.context("no age of figures")?);
            }
            tokio::time::sleep(INTERVAL).await;
        }
        row.set("canary_gap_s", self.cluster.pods.longest_gap(&light, start));
        self.cluster.pods.darken(None);
        Ok(())
    }

    /// Takes another change to all nodes.
    async fn roll_out(&self, operator: &Operator, row: &mut Row) -> Result<()> {
        // Pods that were silent are asked again after a minute at the most.
        tokio::time::sleep(Duration::from_secs(70)).await;
        let (change, cpu) = (now(), operator.processor_time()?);
        let received = self.cluster.forwarder.received();
        let generation = self.cluster.apply_tier("40m", rollout(false)).await?;
        let limit = self.extent.limit();
        let wave = self.cluster.wait_for_step(change, limit, |step| step.name == "Wave").await?;
        let is_over = |step: &Step| step.name == "Wave" && step.moved == wave.moved && step.is_watched;
        let end = self.cluster.wait_for_step(change, limit, is_over).await?;
        row.set("wave_s", end.time - wave.time);
        self.cluster.wait_for_rest(generation, limit + 900.0).await?;
        let time = now() - change;
        row.set("rollout_s", time);
        row.set("rollout_cpu_percent", (operator.processor_time()? - cpu) / time * 100.0);
        row.set("rollout_mb", (self.cluster.forwarder.received() - received) as f64 / 1e6);
        let requests: Vec<Request> =
            self.requests_since(change)?.into_iter().filter(|request| !request.is_lease()).collect();
        let counts = count_by_verb(&requests);
        for verb in ["patch", "update", "create", "get", "list", "watch"] {
            row.set(&format!("rollout_{verb}"), counts.get(verb).copied().unwrap_or_default() as f64);
        }
        Ok(())
    }

    /// Ends the leader beside a standby and kills the next one, and returns the operator that leads then.
    async fn hand_over(&self, leader: Operator, row: &mut Row) -> Result<Operator> {
        self.tell("the leader ends, then the next one is killed");
        let standby = self.standby().await?;
        row.raise("memory_peak_mib", leader.memory()?.1);
        let start = now();
        leader.terminate()?;
        row.set("hand_over_s", standby.wait_for_role(true).await? - start);
        leader.stop().await?;
        let (leader, standby) = (standby, self.standby().await?);
        row.raise("memory_peak_mib", leader.memory()?.1);
        let start = now();
        drop(leader);
        row.set("take_over_s", standby.wait_for_role(true).await? - start);
        Ok(standby)
    }

    /// Starts an operator beside the leader, and waits until it has looked at the Lease several times.
    async fn standby(&self) -> Result<Operator> {
        let standby = self.cluster.start_operator()?;
        standby.wait_for_role(false).await?;
        tokio::time::sleep(STANDBY).await;
        standby.wait_for_role(false).await?;
        Ok(standby)
    }

    /// Ends an operator, and keeps what it has used.
    async fn end(&self, operator: Operator, row: &mut Row) -> Result<()> {
        row.raise("memory_peak_mib", operator.memory()?.1);
        operator.stop().await
    }

    /// Waits until an operator that has started has asked every pod and is at rest.
    async fn wait_for_rest(&self, started: f64) -> Result<()> {
        let limit = now() + self.extent.limit();
        loop {
            let now = now();
            let requests = self.requests_since(now - QUIET - 2.0 * self.extent.nodes as f64 / POLLS)?;
            let is_quiet = requests.iter().all(|request| request.is_lease() || request.verb == "watch");
            if is_quiet && self.cluster.pods.silent_since(started) == 0 {
                return Ok(());
            }
            ensure!(now < limit, "the operator does not come to rest: {requests:?}");
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn requests_since(&self, time: f64) -> Result<Vec<Request>> {
        let mut audit = self.cluster.audit.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(audit.since(time)?.to_vec())
    }
}
