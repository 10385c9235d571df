//! Room for a number of questions on their way through memory.

use node_cache_machine::datagrams::{Datagrams, Family, Shape};

use crate::cache::KeyWords;

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// Longer questions than this are cut off on reading and so malformed: a name, a type and some options fit well. Short
/// rows keep all of a batch in few pages.
const LONGEST_QUESTION: usize = 1232;
/// The longest datagram is 1232 octets; before it stands what the cache knows of it. What does not fit goes the whole way.
const LONGEST_ANSWER: usize = 1792;
const STAGGER: usize = 80;

/// Datagrams and the keys of their questions, for sockets of one family of addresses.
pub(super) struct Batch {
    pub(super) datagrams: Datagrams,
    pub(super) keys: [KeyWords; SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        let shape = Shape { rows: SIZE, question: LONGEST_QUESTION, answer: LONGEST_ANSWER, stagger: STAGGER };
        Box::new(Self { datagrams: Datagrams::new(family, shape), keys: std::array::from_fn(|_| KeyWords::default()) })
    }
}
