//! Answers of a pod to probes: before the change, and how they compared in the last looks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::controller::judge::pod_look::{Compare, ProbeOutcome};

/// Looks that are kept of a probe.
const MAX_STANDINGS: usize = 5;
/// Looks after which a probe is judged over more of them.
const EARLY_LOOKS: u32 = 12;
/// Different answers that are kept of a probe: one more than makes it incomparable.
const MAX_DIGESTS: usize = 2;

/// Name and type of a probe.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProbeKey {
    /// Probed name.
    pub(crate) name: String,
    /// Mnemonic of the probed type.
    pub(crate) rtype: String,
}

impl ProbeKey {
    /// Returns the key of a result.
    #[must_use]
    pub(crate) fn of(outcome: &ProbeOutcome) -> Self {
        Self { name: outcome.name.clone(), rtype: outcome.rtype.clone() }
    }
}

/// Answers of one pod to one probe before the change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbePast {
    /// Last result.
    pub(crate) last: Option<ProbeOutcome>,
    digests: BTreeSet<String>,
}

impl ProbePast {
    /// Returns whether the probe was asked and never answered.
    #[must_use]
    pub(crate) fn is_dead(&self) -> bool {
        self.last.is_some() && self.digests.is_empty()
    }

    /// Returns the answer, if it always was the same one.
    #[must_use]
    pub(crate) fn stable_digest(&self) -> Option<&str> {
        self.digests.first().filter(|_| self.digests.len() == 1).map(String::as_str)
    }
}

/// How a pod compares in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As good as the controls, or as bad as ever.
    Fine,
    /// Without an answer, unlike the controls.
    Unanswered,
    /// With another answer than the controls.
    Different,
    /// Without an answer, like the controls.
    CommonFailure,
}

/// Probes of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeHistory {
    past: BTreeMap<ProbeKey, ProbePast>,
    standings: BTreeMap<ProbeKey, Standings>,
}

/// How a pod compared in the last looks at one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standings {
    looks: u32,
    has_answered: bool,
    last: VecDeque<Standing>,
}

impl Standings {
    /// Returns how many looks are judged, and how many of them have to be bad: two of three in the first minute. In a
    /// long soak two lost probes come together by chance, so from then on four of five.
    #[must_use]
    pub(crate) fn span(&self) -> (usize, usize) {
        if self.looks <= EARLY_LOOKS { (3, 2) } else { (5, 4) }
    }

    /// Returns in how many of the looks that are judged the pod compared like this.
    #[must_use]
    pub(crate) fn count(&self, wanted: Standing) -> usize {
        self.last.iter().rev().take(self.span().0).filter(|standing| **standing == wanted).count()
    }

    /// Returns whether the last look was bad.
    #[must_use]
    pub(crate) fn is_last_bad(&self) -> bool {
        self.last.back().is_some_and(|last| *last != Standing::Fine)
    }
}

impl ProbeHistory {
    /// Adds results from before the change.
    pub(crate) fn add_past(&mut self, outcomes: &[ProbeOutcome]) {
        for (key, outcome) in by_key(outcomes) {
            let past = self.past.entry(key).or_default();
            if !outcome.is_failure() && past.digests.len() < MAX_DIGESTS {
                past.digests.insert(outcome.digest.clone());
            }
            past.last = Some(outcome.clone());
        }
    }

    /// Returns the answers to a probe before the change; `None` for one that was not asked.
    #[must_use]
    pub(crate) fn past(&self, key: &ProbeKey) -> Option<&ProbePast> {
        self.past.get(key)
    }

    /// Forgets how the pod compared, and whether it answered, since the change. The answers before it stay.
    pub(crate) fn forget_standings(&mut self) {
        self.standings.clear();
    }

    /// Adds how the pod compares in a look.
    pub(crate) fn add(&mut self, key: &ProbeKey, standing: Standing) {
        let standings = self.standings.entry(key.clone()).or_default();
        standings.looks = standings.looks.saturating_add(1);
        standings.last.push_back(standing);
        if standings.last.len() > MAX_STANDINGS {
            standings.last.pop_front();
        }
    }

    /// Notes that the pod has answered a probe since the change.
    pub(crate) fn note_answer(&mut self, key: &ProbeKey) {
        self.standings.entry(key.clone()).or_default().has_answered = true;
    }

    /// Returns whether the pod has answered a probe since the change.
    #[must_use]
    pub(crate) fn has_answered(&self, key: &ProbeKey) -> bool {
        self.standings.get(key).is_some_and(|standings| standings.has_answered)
    }

    /// Returns the last looks at each probe.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (&ProbeKey, &Standings)> {
        self.standings.iter()
    }
}

impl ProbeOutcome {
    /// Returns whether nothing was learned of the name: no response, or neither NOERROR nor NXDOMAIN.
    #[must_use]
    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self.rcode, Some(0 | 3))
    }

    /// Returns whether the answers to the probe are compared record by record.
    #[must_use]
    pub(crate) fn compares_answers(&self) -> bool {
        self.compare == Compare::Answers
    }
}

/// Returns one result for each probe; of several processes that which failed.
pub(crate) fn by_key(outcomes: &[ProbeOutcome]) -> BTreeMap<ProbeKey, &ProbeOutcome> {
    let mut by_key: BTreeMap<ProbeKey, &ProbeOutcome> = BTreeMap::new();
    for outcome in outcomes {
        let kept = by_key.entry(ProbeKey::of(outcome)).or_insert(outcome);
        if outcome.is_failure() {
            *kept = outcome;
        }
    }
    by_key
}
