//! Room for a number of questions on their way through memory.

use node_cache_machine::datagrams::{Datagrams, Family};

use crate::cache::KeyWords;
use crate::resolve::{QUESTION_ROOM, ROOM};

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// Datagrams and the keys of their questions, for sockets of one family of addresses.
pub(super) struct Batch {
    pub(super) datagrams: Datagrams<SIZE, QUESTION_ROOM, ROOM>,
    pub(super) keys: [KeyWords; SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        Box::new(Self { datagrams: Datagrams::new(family), keys: std::array::from_fn(|_| KeyWords::default()) })
    }
}
