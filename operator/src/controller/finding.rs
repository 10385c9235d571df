//! Something that is wrong, with the sentence that people read.

use dnstier_crds::conditions::Reason;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its place in the documented list of reasons.
    pub reason: Reason,
    /// One sentence: what is wrong, where, and what would help.
    pub message: String,
}

impl Finding {
    /// A finding with its sentence.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}
