//! Cluster of pods that count queries, and one change in it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::random::Random;
use super::scenario::Scenario;
use crate::controller::judge::figures::Figures;
use crate::controller::judge::names::MeasuredNames;
use crate::controller::judge::pod_look::{Compare, InForce, PodLook, PodReport, ProbeOutcome};
use crate::controller::judge::trial::{Step, Trial};
use crate::controller::judge::verdict::{Outcome, Verdict};
use crate::controller::rollout::pods::Role;

/// Times of the looks before the change, in seconds.
const LOOKS_BEFORE: [u64; 7] = [1_030, 1_035, 1_040, 1_045, 1_050, 1_055, 1_060];
/// Seconds between looks.
const INTERVAL: u64 = 5;
/// Names that clients ask for.
const NAMES: f64 = 400.0;
/// Part of the queries that are slow misses all the time.
const SLOW: f64 = 0.005;
/// Part of the queries for outside names.
const OUTSIDE: f64 = 0.4;

struct Node {
    is_canary: bool,
    has_storm: bool,
    rate: f64,
    background: f64,
    restart_at: Option<u64>,
    storm_start: u64,
}

/// Cluster in which a change is made.
pub(super) struct World {
    scenario: Scenario,
    random: Random,
    nodes: Vec<Node>,
    looks: Vec<PodLook>,
    now: u64,
    change_at: u64,
    trouble_at: u64,
}

impl World {
    pub(super) fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed);
        // The minute of the clock in which the change comes is any.
        let shift = random.next() % 60;
        let (mut nodes, mut looks) = (Vec::new(), Vec::new());
        for zone in 0..scenario.zones {
            for number in 0..scenario.nodes_per_zone {
                let is_canary = number < scenario.changed_per_zone;
                let restarts = !is_canary && random.unit() < scenario.restarts;
                // One canary stays: without any there is nothing to judge.
                let is_away = (zone, number) != (0, 0) && random.unit() < scenario.away;
                let (low, high) = scenario.rate;
                looks.push(look(zone, number, is_away));
                nodes.push(Node {
                    is_canary,
                    has_storm: number == scenario.storm_node,
                    rate: low * (high / low).powf(random.unit()),
                    background: random.between(scenario.background.0, scenario.background.1) / 100.0,
                    restart_at: restarts.then(|| shift + 1_060 + random.next() % 35),
                    storm_start: shift + 1_000 + random.next() % 90,
                });
            }
        }
        let now = shift + 900;
        let change_at = shift + LOOKS_BEFORE[LOOKS_BEFORE.len() - 1];
        let trouble_at = shift + 1_000 + random.next() % 90;
        let mut world = Self { scenario, random, nodes, looks, now, change_at, trouble_at };
        world.run_to(shift + LOOKS_BEFORE[0]);
        world
    }

    /// Makes the change and returns the last verdict: the first that is no `Hold`, or that of two minutes after the
    /// soak; and after how many seconds in force it came.
    pub(super) fn judge(mut self) -> (Verdict, u64) {
        let canaries: Vec<usize> = (0..self.nodes.len()).filter(|number| self.nodes[*number].is_canary).collect();
        let names = canaries.iter().map(|number| self.looks[*number].name.clone());
        let mut trial = Trial::new(Step {
            pods: names.collect(),
            soak: Duration::from_secs(self.scenario.soak),
            max_error_increase: self.scenario.max_error_increase,
            needs_ready: true,
            soak_start: None,
        });
        let shift = self.now - LOOKS_BEFORE[0];
        for time in LOOKS_BEFORE {
            self.run_to(shift + time);
            self.look(&mut trial);
        }
        trial.tell();
        for number in canaries {
            self.looks[number].is_asked = true;
            self.looks[number].report.as_mut().unwrap().in_force = InForce::Target;
        }
        let end = self.change_at + self.scenario.soak + 120;
        loop {
            self.run_to(self.now + INTERVAL);
            let verdict = self.look(&mut trial);
            if !matches!(verdict.outcome, Outcome::Hold(_)) || self.now >= end {
                return (verdict, self.now - self.change_at - INTERVAL);
            }
        }
    }

    fn look(&mut self, trial: &mut Trial) -> Verdict {
        for number in 0..self.nodes.len() {
            self.probe(number);
        }
        trial.look(Duration::from_secs(self.now), &self.looks)
    }

    /// Probes canaries and three controls of each zone.
    fn probe(&mut self, number: usize) {
        let place = number % self.scenario.nodes_per_zone;
        let changed = self.scenario.changed_per_zone;
        if place >= changed + 3 {
            return;
        }
        let has_route = self.scenario.is_route_dead && place < changed && self.now > self.change_at;
        let names = [(".", "NS"), ("kubernetes.default.svc.cluster.local", "A"), ("corp.example", "SOA")];
        let mut outcomes = Vec::new();
        for (name, rtype) in names {
            let is_route = name == "corp.example";
            if is_route && !has_route {
                continue;
            }
            let is_lost = is_route || self.random.unit() * 100.0 < self.scenario.probe_loss;
            outcomes.push(ProbeOutcome {
                name: name.to_owned(),
                rtype: rtype.to_owned(),
                compare: Compare::Rcode,
                is_unchanged_route: false,
                rcode: (!is_lost).then_some(0),
                digest: name.to_owned(),
                microseconds: 700,
            });
        }
        self.looks[number].report.as_mut().unwrap().probes = outcomes;
    }

    fn run_to(&mut self, time: u64) {
        while self.now < time {
            let step = INTERVAL.min(time - self.now);
            self.now += step;
            for number in 0..self.nodes.len() {
                self.count(number, step as f64);
            }
        }
    }

    /// Counts what a node answers in a few seconds.
    fn count(&mut self, number: usize, seconds: f64) {
        let Self { scenario, random, nodes, looks, now, change_at, trouble_at } = self;
        let node = &mut nodes[number];
        let look = &mut looks[number];
        let report = look.report.as_mut().unwrap();
        if look.is_away {
            // What a report that came late would tell is never looked at.
            report.figures.counts.scopes.entry("outside".to_owned()).or_default().servfail += 1_000;
            return;
        }
        if node.restart_at.is_some_and(|time| *now >= time) {
            node.restart_at = None;
            report.figures = Figures::default();
            report.started = *now;
            report.restarts += 1;
        }
        let mut drift = || random.between(1.0 / scenario.drift, scenario.drift);
        let queries = node.rate * drift() * seconds;
        let is_changed = node.is_canary && *now > *change_at;
        let trouble = if *now > *trouble_at { scenario.trouble / 100.0 } else { 0.0 };
        let failing = node.background * drift() * queries;
        let added = if is_changed { scenario.errors / 100.0 } else { 0.0 } + trouble;
        let added_slow = if is_changed { scenario.slow / 100.0 } else { 0.0 };
        let minute = *now / 60;
        let Figures { counts, names: MeasuredNames { servfail: names, slow: slow_names } } = &mut report.figures;
        let slow_names = slow_names.get_or_insert_default();
        names.turn(minute);
        slow_names.turn(minute);
        let mut failures = 0;
        // What always fails are names of their own, which a client repeats once on average.
        for _ in 0..random.poisson(failing / 2.0) {
            failures += 1 + random.poisson(1.0);
            Random::insert_name(&mut names.current, random.next());
        }
        // What fails of a change are the names that clients ask for anyway, some of them often.
        for _ in 0..random.poisson(added * queries) {
            failures += 1;
            let popular = random.unit();
            Random::insert_name(&mut names.current, (popular * popular * popular * NAMES) as u64);
        }
        if let Some((rate, count)) = scenario.storm.filter(|_| node.has_storm && *now > node.storm_start) {
            failures += random.poisson(rate * seconds);
            (0..count).for_each(|name| Random::insert_name(&mut names.current, 1_000_000 + name));
        }
        for _ in 0..random.poisson(SLOW * queries) {
            counts.slow_misses += 1;
            Random::insert_name(&mut slow_names.current, random.next());
        }
        for _ in 0..random.poisson(added_slow * queries) {
            counts.slow_misses += 1;
            let popular = random.unit();
            Random::insert_name(&mut slow_names.current, (popular * popular * popular * NAMES) as u64);
        }
        if let Some((rate, count)) = scenario.slow_storm.filter(|_| node.has_storm && *now > node.storm_start) {
            counts.slow_misses += random.poisson(rate * seconds);
            (0..count).for_each(|name| Random::insert_name(&mut slow_names.current, 1_000_000 + name));
        }
        for (scope, part) in [("outside", OUTSIDE), ("cluster", 1.0 - OUTSIDE)] {
            let responses = counts.scopes.entry(scope.to_owned()).or_default();
            responses.noerror += random.poisson(queries * part * 0.8);
            responses.nxdomain += random.poisson(queries * part * 0.2);
            let servfail = if scope == "outside" { (failures as f64 * OUTSIDE).round() as u64 } else { failures };
            responses.servfail += servfail;
            failures -= servfail;
        }
    }
}

fn look(zone: usize, number: usize, is_away: bool) -> PodLook {
    PodLook {
        name: format!("node-{zone}-{number}"),
        uid: format!("uid-{zone}-{number}"),
        zone: format!("zone-{zone}"),
        role: Role::Node,
        is_asked: false,
        is_away,
        is_ready: true,
        container_restarts: 0,
        report: Some(PodReport {
            in_force: InForce::Proven,
            started: 100,
            restarts: 0,
            refusal: None,
            self_query_failures: BTreeMap::new(),
            figures: Figures::default(),
            probes: Vec::new(),
        }),
    }
}
