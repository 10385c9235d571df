//! Verdict on a step of a rollout.

use std::fmt;

/// Verdict of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Consequence for the rollout.
    pub(crate) outcome: Outcome,
    /// One sentence with the figures that decided.
    pub(crate) sentence: String,
    /// Sentences about what people may want to know and what decides nothing, four at the most.
    pub(crate) warnings: Vec<String>,
}

/// Consequence of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The step has proved itself for the whole soak.
    Pass,
    /// The change is bad and has to be rolled back.
    Fail(FailReason),
    /// The step is watched further; nothing moves, neither forward nor back.
    Hold(HoldReason),
}

/// Reason to roll a change back. Its text is a reason of the condition `RolledOut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailReason {
    /// A pod rejects the revision.
    RevisionRefused,
    /// A process of a pod has restarted, or the pod does not answer itself at a captured address.
    PodCrashed,
    /// A probe got another answer than on controls.
    WrongAnswers,
    /// Responses, or probes without an answer, are worse than those of the controls.
    JudgedWorse,
}

impl fmt::Display for FailReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RevisionRefused => "RevisionRefused",
            Self::PodCrashed => "PodCrashed",
            Self::WrongAnswers => "WrongAnswers",
            Self::JudgedWorse => "JudgedWorse",
        })
    }
}

/// Reason to watch further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldReason {
    /// The soak is not over.
    Soak,
    /// A pod of the step does not have the revision in force yet.
    NotInForce,
    /// No pod of the step is there, or every one is on a node that is away.
    Away,
    /// No pod of the step that has the revision in force is ready.
    NotReady,
    /// Too many pods of the step report nothing.
    NoFigures,
    /// There is an increase that may be chance; a few more looks tell.
    Doubt,
    /// The last look was bad, and the next one decides.
    Suspicion,
    /// Probes fail on controls, too.
    ControlsFailing,
}
