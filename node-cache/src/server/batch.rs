//! Buffers of one UDP batch.

use node_cache_sys::datagrams::{Datagrams, Family};

use crate::cache::KeyBuf;
use crate::resolver::{QUERY_BUF_LEN, RESPONSE_BUF_LEN};

/// Datagrams of one batch, at most. From eight datagrams on, the share of each in the cost of a system call is small.
pub(super) const BATCH_SIZE: usize = 32;
/// Queries of a batch, their sources, and the responses to them.
pub(super) type BatchDatagrams = Datagrams<BATCH_SIZE, QUERY_BUF_LEN, RESPONSE_BUF_LEN>;

/// Datagrams of a batch and the cache keys of their queries, for sockets of one address family.
pub(super) struct Batch {
    pub(super) datagrams: BatchDatagrams,
    pub(super) keys: [KeyBuf; BATCH_SIZE],
}

impl Batch {
    pub(super) fn new(family: Family) -> Box<Self> {
        Box::new(Self { datagrams: BatchDatagrams::new(family), keys: std::array::from_fn(|_| KeyBuf::default()) })
    }
}
