//! Room for a number of questions on their way through memory.

use node_cache_sys::datagrams::{Datagrams, Family};

use crate::cache::KeyBuf;
use crate::resolver::{QUERY_BUF_LEN, RESPONSE_BUF_LEN};

/// Datagrams at a time. What a system call costs is spread thin from eight on.
pub(super) const SIZE: usize = 32;
/// The room of a batch.
pub(super) type Room = Datagrams<SIZE, QUERY_BUF_LEN, RESPONSE_BUF_LEN>;

/// Datagrams and the keys of their questions, for sockets of one family of addresses.
pub(super) struct Batch {
    pub(super) datagrams: Room,
    pub(super) keys: [KeyBuf; SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        Box::new(Self { datagrams: Room::new(family), keys: std::array::from_fn(|_| KeyBuf::default()) })
    }
}
