//! Room for a number of questions on their way through memory.

use node_cache_machine::datagrams::{Datagrams, Family};

use crate::cache::KeyWords;
use crate::resolve::ROOM;

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// Longer questions than this are cut off on reading and so malformed: a name, a type and some options fit well. Short
/// rows keep all of a batch in few pages.
const LONGEST_QUESTION: usize = 1232;

/// Datagrams and the keys of their questions, for sockets of one family of addresses.
pub(super) struct Batch {
    pub(super) datagrams: Datagrams<SIZE, LONGEST_QUESTION, ROOM>,
    pub(super) keys: [KeyWords; SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        Box::new(Self { datagrams: Datagrams::new(family), keys: std::array::from_fn(|_| KeyWords::default()) })
    }
}
