//! Room for a number of questions on their way through memory.

use node_cache_sys::datagrams::{Datagrams, Family};

use crate::cache::KeyWords;
use crate::resolver::{QUESTION_ROOM, ROOM};

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// The room of a batch.
pub(super) type Room = Datagrams<SIZE, QUESTION_ROOM, ROOM>;

/// Datagrams and the keys of their questions, for sockets of one family of addresses.
pub(super) struct Batch {
    pub(super) datagrams: Room,
    pub(super) keys: [KeyWords; SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        Box::new(Self { datagrams: Room::new(family), keys: std::array::from_fn(|_| KeyWords::default()) })
    }
}
