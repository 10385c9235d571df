//! Cluster of a few pods whose counters a test moves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::controller::judge::figures::Figures;
use crate::controller::judge::names::{MeasuredNames, RecentNames};
use crate::controller::judge::pod_look::{Compare, InForce, PodLook, PodReport, ProbeOutcome};
use crate::controller::judge::simulation::random::Random;
use crate::controller::judge::trial::{Step, Trial};
use crate::controller::judge::verdict::{Outcome, Verdict};
use crate::controller::rollout::pods::Role;

/// Step of a cluster: one pod in the soak of 30 s.
pub(super) fn step(pods: &[&str]) -> Step {
    Step {
        pods: pods.iter().map(|name| (*name).to_owned()).collect(),
        soak: Duration::from_secs(30),
        max_error_increase: 1.0,
        needs_ready: false,
        soak_start: None,
    }
}

/// Responses of a pod between two looks: all of them, and those with SERVFAIL, each for a name of its own.
pub(super) type Load = (u64, u64);

pub(super) struct Cluster {
    pub(super) trial: Trial,
    pub(super) looks: Vec<PodLook>,
    pub(super) loads: BTreeMap<String, Load>,
    /// Number of names that fail again and again, by pod.
    popular: BTreeMap<String, u64>,
    pub(super) now: u64,
    names: u64,
}

impl Cluster {
    /// Makes a trial of `canary` beside controls in zone `a`, with a past of half a minute. All pods answer 400
    /// queries between two looks, two of them with SERVFAIL.
    pub(super) fn new(controls: usize) -> Self {
        Self::with(step(&["canary"]), (0..controls).map(|number| pod(&format!("control-{number}"), "a")).collect())
    }

    pub(super) fn with(step: Step, controls: Vec<PodLook>) -> Self {
        let pods = step.pods.iter().map(|name| pod(name, "a")).chain(controls);
        let looks: Vec<PodLook> = pods.collect();
        let loads = looks.iter().map(|look| (look.name.clone(), (400, 2))).collect();
        let mut cluster =
            Self { trial: Trial::new(step), looks, loads, popular: BTreeMap::new(), now: 3_000, names: 0 };
        (0..7).for_each(|_| drop(cluster.look()));
        cluster
    }

    /// Tells the pods of the step, which have the change in force at once.
    pub(super) fn change(&mut self, pods: &[&str]) {
        self.tell(pods);
        for name in pods {
            self.report(name).in_force = InForce::Target;
        }
    }

    /// Tells pods of the step, which do not have the change in force yet.
    pub(super) fn tell(&mut self, pods: &[&str]) {
        self.trial.tell();
        for name in pods {
            self.pod(name).is_asked = true;
        }
    }

    /// Lets another change take the place of this one, which pods have in force, and looks at them.
    pub(super) fn supersede(&mut self, pods: &[&str]) {
        self.trial = self.trial.clone().supersede(step(pods));
        self.run_other(pods);
    }

    /// Lets another process meet pods that have some other change in force, and look at them.
    pub(super) fn replace_leader(&mut self, pods: &[&str]) {
        self.trial = Trial::new(step(pods));
        self.run_other(pods);
    }

    fn run_other(&mut self, pods: &[&str]) {
        for name in pods {
            self.pod(name).is_asked = false;
            self.report(name).in_force = InForce::Other;
        }
        self.look();
    }

    pub(super) fn pod(&mut self, name: &str) -> &mut PodLook {
        self.looks.iter_mut().find(|look| look.name == name).unwrap()
    }

    pub(super) fn report(&mut self, name: &str) -> &mut PodReport {
        self.pod(name).report.as_mut().unwrap()
    }

    /// Lets the failures of a pod be those of a number of names, again and again.
    pub(super) fn fail_popular_names(&mut self, name: &str, count: u64) {
        self.popular.insert(name.to_owned(), count);
    }

    pub(super) fn set_load(&mut self, name: &str, load: Load) {
        self.loads.insert(name.to_owned(), load);
    }

    /// Looks after five seconds.
    pub(super) fn look(&mut self) -> Verdict {
        self.look_after(5)
    }

    pub(super) fn look_after(&mut self, seconds: u64) -> Verdict {
        self.now += seconds;
        let minute = self.now / 60;
        for look in &mut self.looks {
            let (responses, servfail) = self.loads[&look.name];
            let Some(report) = &mut look.report else { continue };
            report.figures.names.slow.iter_mut().for_each(|names| names.turn(minute));
            let names = &mut report.figures.names.servfail;
            names.turn(minute);
            match self.popular.get(&look.name) {
                Some(count) => (0..*count).for_each(|name| Random::insert_name(&mut names.current, u64::MAX - name)),
                None => {
                    (1..=servfail).for_each(|number| Random::insert_name(&mut names.current, self.names + number));
                    self.names += servfail;
                }
            }
            let outside = report.figures.counts.scopes.entry("outside".to_owned()).or_default();
            outside.noerror += responses - servfail;
            outside.servfail += servfail;
        }
        self.trial.look(Duration::from_secs(self.now), &self.looks)
    }

    /// Looks until a verdict is no `Hold`, for ten minutes at the most.
    pub(super) fn last_verdict(&mut self) -> Verdict {
        let mut verdict = self.look();
        for _ in 0..120 {
            if !matches!(verdict.outcome, Outcome::Hold(_)) {
                break;
            }
            verdict = self.look();
        }
        verdict
    }

    /// Returns the outcomes of some looks.
    pub(super) fn outcomes(&mut self, looks: usize) -> Vec<Outcome> {
        (0..looks).map(|_| self.look().outcome).collect()
    }

    pub(super) fn set_probe(&mut self, pods: &[&str], rcode: Option<u16>, digest: &str) {
        for name in pods {
            self.report(name).probes = vec![ProbeOutcome {
                name: "www.example".to_owned(),
                rtype: "A".to_owned(),
                compare: Compare::Answers,
                is_unchanged_route: false,
                rcode,
                digest: digest.to_owned(),
                microseconds: 800,
            }];
        }
    }
}

pub(super) fn pod(name: &str, zone: &str) -> PodLook {
    PodLook {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        zone: zone.to_owned(),
        role: Role::Node,
        is_asked: false,
        is_away: false,
        is_ready: true,
        container_restarts: 2,
        report: Some(PodReport {
            in_force: InForce::Proven,
            started: 100,
            restarts: 1,
            refusal: None,
            self_query_failures: BTreeMap::new(),
            figures: Figures {
                names: MeasuredNames { slow: Some(RecentNames::default()), ..MeasuredNames::default() },
                ..Figures::default()
            },
            probes: Vec::new(),
        }),
    }
}
