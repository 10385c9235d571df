//! Under what an answer is kept.

use crate::packet::question::Question;

/// Scope, name in lower case, type, class, DO and CD: questions that are equal in these have the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of a question in a scope. The number of a scope belongs to the servers that answer in it.
    #[must_use]
    pub fn new(scope: u64, question: &Question) -> Self {
        let flags = u8::from(question.dnssec_ok) | (u8::from(question.checking_disabled) << 1);
        Self([&scope.to_be_bytes()[..], &[flags], &question.section()].concat().into())
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
