//! Judgement of a change by measurements: figures of pods go in, [`Pass`, `Fail` or `Hold`](verdict::Outcome) with one
//! sentence comes out. Nothing here has a clock or a client: the time is that of any clock that never goes back.
//!
//! A [`trial::Trial`] is one step of a rollout. Each look shows it the pods that it judges and pods that still run the
//! proven revision, the controls. Four kinds of evidence count, the strongest first: hard signs of one pod, probes of
//! the same moment, shares of responses against the pod's own past and against the controls, and for the rest warnings.
//!
//! Each look lists all pods of the step and all controls, those that are away or silent included. Looks begin half a
//! minute before [`tell`](trial::Trial::tell), with probes, so that there is a past. While a step is watched, the pods
//! of the next one are among its controls; [`advance`](trial::Trial::advance) keeps what they counted.

pub(crate) mod addresses;
pub(crate) mod comparison;
pub(crate) mod controls;
pub(crate) mod exact_test;
pub(crate) mod figures;
pub(crate) mod hard_signs;
pub(crate) mod measure;
pub(crate) mod names;
pub(crate) mod pod_look;
pub(crate) mod probe_history;
pub(crate) mod probes;
pub(crate) mod rates;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub(crate) mod track;
pub(crate) mod trial;
pub(crate) mod verdict;
pub(crate) mod window;
