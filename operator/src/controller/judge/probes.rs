//! Judgement by probes: a pod against controls that were asked at the same moment, or against its own answers just
//! before where no control is left.

use std::fmt;

use crate::controller::judge::pod_look::ProbeOutcome;
use crate::controller::judge::probe_history::{ProbeHistory, ProbeKey, Standing};

/// Judgement of the probes of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeJudgement {
    /// Nothing is bad.
    Fine,
    /// The last look was bad.
    Suspicion(ProbeKey),
    /// A probe has no answer, unlike the controls, in two looks of three.
    Unanswered(BadLooks),
    /// A probe has another answer than the controls in two looks of three.
    Different(BadLooks),
    /// A probe has no answer in two looks of three, and none on controls.
    ControlsFailing(ProbeKey),
}

/// Looks at a probe that were bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLooks {
    /// Probe.
    pub(crate) key: ProbeKey,
    /// Number of bad looks.
    pub(crate) bad: usize,
    /// Number of looks that are judged.
    pub(crate) looks: usize,
}

impl fmt::Display for BadLooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key: ProbeKey { name, rtype }, bad, looks } = self;
        write!(formatter, "{bad} of the last {looks} probes of {name} {rtype}")
    }
}

/// Compares one result with the results of controls of the same moment.
#[must_use]
pub(crate) fn compare(outcome: &ProbeOutcome, history: &ProbeHistory, controls: Option<&[&ProbeOutcome]>) -> Standing {
    let key = ProbeKey::of(outcome);
    let past = history.past(&key);
    let own = past.and_then(|past| past.last.as_ref());
    let references: Vec<&ProbeOutcome> = match controls {
        Some(controls) => controls.to_vec(),
        None => own.into_iter().collect(),
    };
    let failures = references.iter().filter(|reference| reference.is_failure()).count();
    if outcome.is_failure() {
        // A probe that never was answered on this pod tells nothing of the change. Where nobody knows how it was, the
        // controls tell, and without any of them whether the change leads the name elsewhere.
        let is_old = match past {
            Some(past) => past.is_dead(),
            None if history.has_answered(&key) => false,
            None if references.is_empty() => outcome.is_unchanged_route,
            None => failures == references.len(),
        };
        let is_common = controls.is_some() && failures > 0 && failures * 2 >= references.len();
        return match (is_old, is_common) {
            (true, _) => Standing::Fine,
            (_, true) => Standing::CommonFailure,
            _ => Standing::Unanswered,
        };
    }
    let answers: Vec<&&ProbeOutcome> = references.iter().filter(|reference| !reference.is_failure()).collect();
    let Some(first) = answers.first() else { return Standing::Fine };
    let has_name = |outcome: &ProbeOutcome| outcome.rcode == Some(0);
    if !has_name(outcome) && answers.iter().all(|answer| has_name(answer)) {
        return Standing::Different;
    }
    // Names whose answers change by themselves cannot be compared: the controls tell so, and the pod's own past.
    let is_stable = answers.iter().all(|answer| answer.digest == first.digest)
        && past.is_none_or(|past| past.stable_digest() == Some(&first.digest));
    if outcome.compares_answers() && is_stable && outcome.digest != first.digest {
        return Standing::Different;
    }
    Standing::Fine
}

/// Judges the last looks at all probes of a pod; the worst of them counts.
#[must_use]
pub(crate) fn judge(history: &ProbeHistory) -> ProbeJudgement {
    let mut judgement = ProbeJudgement::Fine;
    for (key, standings) in history.standings() {
        let (looks, limit) = standings.span();
        let (unanswered, different) = (standings.count(Standing::Unanswered), standings.count(Standing::Different));
        let worse = BadLooks { key: key.clone(), bad: unanswered + different, looks };
        if different >= limit {
            return ProbeJudgement::Different(worse);
        }
        if worse.bad >= limit {
            return ProbeJudgement::Unanswered(worse);
        }
        if worse.bad + standings.count(Standing::CommonFailure) >= limit {
            judgement = ProbeJudgement::ControlsFailing(key.clone());
        } else if judgement == ProbeJudgement::Fine && standings.is_last_bad() {
            judgement = ProbeJudgement::Suspicion(key.clone());
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::judge::pod_look::Compare;

    fn outcome(rcode: Option<u16>, digest: &str) -> ProbeOutcome {
        ProbeOutcome {
            name: "www.example".to_owned(),
            rtype: "A".to_owned(),
            compare: Compare::Answers,
            is_unchanged_route: false,
            rcode,
            digest: digest.to_owned(),
            microseconds: 900,
        }
    }

    fn of_rcode(rcode: Option<u16>) -> ProbeOutcome {
        ProbeOutcome { compare: Compare::Rcode, ..outcome(rcode, "") }
    }

    fn history(past: &[ProbeOutcome]) -> ProbeHistory {
        let mut history = ProbeHistory::default();
        past.iter().for_each(|outcome| history.add_past(std::slice::from_ref(outcome)));
        history
    }

    fn judgement(standings: &[Standing]) -> ProbeJudgement {
        let mut history = ProbeHistory::default();
        let key = ProbeKey { name: ".".to_owned(), rtype: "NS".to_owned() };
        standings.iter().for_each(|standing| history.add(&key, *standing));
        judge(&history)
    }

    #[test]
    fn a_probe_fails_without_an_answer_that_most_controls_have() {
        let (good, dead) = (of_rcode(Some(0)), of_rcode(None));
        let fails = |controls: &[&ProbeOutcome]| compare(&dead, &history(&[]), Some(controls));
        assert_eq!(fails(&[&good, &good, &good]), Standing::Unanswered);
        assert_eq!(fails(&[&good, &good, &dead]), Standing::Unanswered);
        assert_eq!(fails(&[&good, &dead, &dead]), Standing::CommonFailure);
        assert_eq!(fails(&[]), Standing::Unanswered, "a new route is probed on pods of the step alone");
        assert_eq!(compare(&of_rcode(Some(2)), &history(&[]), Some(&[&good])), Standing::Unanswered, "SERVFAIL");
        assert_eq!(compare(&of_rcode(Some(5)), &history(&[]), Some(&[&good])), Standing::Unanswered, "REFUSED");
    }

    #[test]
    fn a_probe_that_never_was_answered_holds_up_nothing() {
        let (dead, good) = (of_rcode(None), of_rcode(Some(0)));
        let before = history(&[dead.clone(), dead.clone()]);
        assert_eq!(compare(&dead, &before, Some(&[&dead, &dead])), Standing::Fine);
        assert_eq!(compare(&dead, &before, Some(&[&good, &good])), Standing::Fine, "the odd pod");
        let once = history(&[good.clone(), dead.clone()]);
        assert_eq!(compare(&dead, &once, Some(&[&good, &good])), Standing::Unanswered);
    }

    #[test]
    fn without_a_past_a_probe_that_no_control_answers_holds_up_nothing() {
        let (dead, good, none) = (of_rcode(None), of_rcode(Some(0)), history(&[]));
        assert_eq!(compare(&dead, &none, Some(&[&dead, &dead])), Standing::Fine);
        let mut answered = history(&[]);
        answered.note_answer(&ProbeKey::of(&good));
        assert_eq!(compare(&dead, &answered, Some(&[&dead, &dead])), Standing::CommonFailure, "a new trouble");
        let unchanged = ProbeOutcome { is_unchanged_route: true, ..dead.clone() };
        for controls in [None, Some([].as_slice())] {
            assert_eq!(compare(&unchanged, &none, controls), Standing::Fine);
            assert_eq!(compare(&unchanged, &answered, controls), Standing::Unanswered);
            assert_eq!(compare(&dead, &none, controls), Standing::Unanswered, "a name that the change leads elsewhere");
        }
        assert_eq!(compare(&unchanged, &none, Some(&[&good])), Standing::Unanswered);
    }

    #[test]
    fn a_name_that_is_gone_is_another_answer_and_one_that_is_found_is_not() {
        let (found, gone) = (of_rcode(Some(0)), of_rcode(Some(3)));
        assert_eq!(compare(&gone, &history(&[]), Some(&[&found, &found])), Standing::Different);
        assert_eq!(compare(&gone, &history(&[]), Some(&[&found, &gone])), Standing::Fine);
        assert_eq!(compare(&found, &history(&[]), Some(&[&gone, &gone])), Standing::Fine);
    }

    #[test]
    fn records_are_compared_only_where_the_probe_says_so() {
        let (ours, theirs) = (outcome(Some(0), "1"), outcome(Some(0), "2"));
        assert_eq!(compare(&ours, &history(&[]), Some(&[&theirs, &theirs])), Standing::Different);
        assert_eq!(compare(&ours, &history(&[]), Some(&[&ours, &ours])), Standing::Fine);
        let lenient = ProbeOutcome { compare: Compare::Rcode, ..ours };
        assert_eq!(compare(&lenient, &history(&[]), Some(&[&theirs, &theirs])), Standing::Fine);
    }

    #[test]
    fn answers_that_change_by_themselves_are_not_compared() {
        let [first, second, third] = ["1", "2", "3"].map(|digest| outcome(Some(0), digest));
        assert_eq!(compare(&first, &history(&[]), Some(&[&second, &third])), Standing::Fine, "among controls");
        let before = history(&[second.clone(), third.clone()]);
        assert_eq!(compare(&first, &before, Some(&[&second, &second])), Standing::Fine, "on the pod itself");
        assert_eq!(compare(&first, &before, None), Standing::Fine, "and where no control is left");
        let other_zone = history(std::slice::from_ref(&first));
        assert_eq!(compare(&third, &other_zone, Some(&[&second])), Standing::Fine, "it never had that answer");
    }

    #[test]
    fn without_controls_a_pod_is_compared_with_its_own_answers_just_before() {
        let (before, after) = (outcome(Some(0), "1"), outcome(Some(0), "2"));
        let past = history(&[before.clone(), before.clone()]);
        assert_eq!(compare(&before, &past, None), Standing::Fine);
        assert_eq!(compare(&after, &past, None), Standing::Different);
        assert_eq!(compare(&outcome(None, ""), &past, None), Standing::Unanswered);
    }

    #[test]
    fn two_bad_looks_of_three_decide_and_one_does_not() {
        use Standing::{CommonFailure, Different, Fine, Unanswered};
        let key = ProbeKey { name: ".".to_owned(), rtype: "NS".to_owned() };
        assert_eq!(judgement(&[Fine, Unanswered]), ProbeJudgement::Suspicion(key.clone()));
        assert_eq!(judgement(&[Unanswered, Fine]), ProbeJudgement::Fine);
        let bad = |bad, looks| BadLooks { key: key.clone(), bad, looks };
        assert_eq!(judgement(&[Unanswered, Fine, Unanswered]), ProbeJudgement::Unanswered(bad(2, 3)));
        assert_eq!(judgement(&[Unanswered, Fine, Fine, Unanswered]), ProbeJudgement::Suspicion(key.clone()));
        assert_eq!(judgement(&[Different, Different]), ProbeJudgement::Different(bad(2, 3)));
        assert_eq!(judgement(&[Unanswered, CommonFailure]), ProbeJudgement::ControlsFailing(key.clone()));
        assert_eq!(judgement(&[CommonFailure, CommonFailure, Fine]), ProbeJudgement::ControlsFailing(key.clone()));
        assert_eq!(judgement(&[CommonFailure, Fine, Fine]), ProbeJudgement::Fine);
        let late = |last: &[Standing]| judgement(&[&[Fine; 12], last].concat());
        assert_eq!(late(&[Unanswered, Fine, Unanswered, Unanswered]), ProbeJudgement::Suspicion(key.clone()));
        assert_eq!(late(&[Unanswered, Fine, Unanswered, Unanswered, Different]), ProbeJudgement::Unanswered(bad(4, 5)));
    }
}
