//! Judgement of captured addresses in a trial.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Trial;
use crate::controller::judge::addresses::{AddressHistory, AddressStanding};
use crate::controller::judge::controls;
use crate::controller::judge::hard_signs;
use crate::controller::judge::pod_look::{InForce, PodLook, PodReport};
use crate::controller::judge::verdict::{FailReason, HoldReason, Outcome};

impl Trial {
    /// Returns the worst that captured addresses tell at which pods with the change in force do not answer themselves,
    /// and sentences about those of which nobody knows how they were.
    pub(super) fn judge_addresses(
        &self,
        judged: &[&PodLook],
        present: &[(&PodLook, &PodReport)],
    ) -> (Option<(Outcome, String)>, Vec<String>) {
        let (mut settling, mut unknown) = (None, Vec::new());
        for look in judged {
            let is_there = self.tracks.get(&look.name).is_some_and(|track| !track.is_returning);
            let report = look.report.as_ref().filter(|report| is_there && report.in_force == InForce::Target);
            let Some((report, history)) = report.zip(self.addresses.get(&look.name)) else { continue };
            for (address, reason) in &report.self_query_failures {
                let sentence = hard_signs::describe_failure(look, address, reason);
                let is_failure = match history.standing(address) {
                    AddressStanding::Excused => continue,
                    AddressStanding::Settling => {
                        settling.get_or_insert((Outcome::Hold(HoldReason::Suspicion), sentence));
                        continue;
                    }
                    AddressStanding::Failed => true,
                    AddressStanding::Unknown => self.is_of_the_change(look, address, judged, present),
                };
                if is_failure {
                    return (Some((Outcome::Fail(FailReason::PodCrashed), sentence)), unknown);
                }
                unknown.push(sentence);
            }
        }
        (settling, unknown)
    }

    /// Returns whether an address of which nobody knows how it was fails on most pods of the step like this one, and on
    /// fewer than half of the controls. One node alone may have lost it long ago, unless its pod is not ready: then it
    /// has lost all addresses.
    fn is_of_the_change(
        &self,
        look: &PodLook,
        address: &IpAddr,
        judged: &[&PodLook],
        present: &[(&PodLook, &PodReport)],
    ) -> bool {
        let fails = |report: &PodReport| report.self_query_failures.contains_key(address);
        let reports: BTreeMap<&str, &PodReport> =
            present.iter().map(|(look, report)| (look.name.as_str(), *report)).collect();
        let controls = controls::choose(&self.tracks, &look.zone, look.role, |name, _| reports.contains_key(name));
        let failing = controls.iter().filter_map(|(name, _)| reports.get(*name)).filter(|report| fails(report)).count();
        let is_unknown = |name: &String| self.addresses.get(name).is_some_and(AddressHistory::is_unknown);
        let others = judged.iter().filter(|other| other.role == look.role && is_unknown(&other.name));
        let changed = others.filter_map(|other| other.report.as_ref());
        let changed: Vec<&PodReport> = changed.filter(|report| report.in_force == InForce::Target).collect();
        let changed_failing = changed.iter().filter(|report| fails(report)).count();
        let are_controls_well = failing * 2 < controls.len();
        if changed.len() == 1 {
            return !look.is_ready && (are_controls_well || controls.is_empty());
        }
        are_controls_well && changed_failing * 2 > changed.len()
    }
}
