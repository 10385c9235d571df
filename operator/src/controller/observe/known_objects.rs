//! Objects that a watch has delivered, by which its next events and lists are told from repetitions.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// Objects that a watch has delivered, by key, each with what is known of it beside.
#[derive(Debug)]
pub(super) struct KnownObjects<T> {
    objects: HashMap<String, Known<T>>,
    /// Number of lists so far.
    lists: u64,
    hasher: RandomState,
}

/// Object that a watch has delivered.
#[derive(Debug)]
struct Known<T> {
    tag: T,
    /// Hash of what the operator reads of the object, of which there may be thousands.
    hash: u64,
    /// Number of the list that had the object last.
    list: u64,
}

impl<T> Default for KnownObjects<T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), lists: 0, hasher: RandomState::new() }
    }
}

impl<T> KnownObjects<T> {
    /// Records an object of an event or a list, and returns whether it is new or differs from what was known.
    pub(super) fn record(&mut self, key: String, tag: T, content: &impl Hash) -> bool {
        let hash = self.hasher.hash_one(content);
        let known = Known { tag, hash, list: self.lists };
        self.objects.insert(key, known).is_none_or(|previous| previous.hash != hash)
    }

    /// Forgets an object that was deleted, and returns what was known of it.
    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        self.objects.remove(key).map(|known| known.tag)
    }

    /// Begins a list. One that was broken off is begun again.
    pub(super) fn begin_list(&mut self) {
        self.lists += 1;
    }

    /// Ends a list: forgets the objects that it was without, and returns what was known of them.
    pub(super) fn end_list(&mut self) -> Vec<T> {
        let lists = self.lists;
        let gone = self.objects.extract_if(|_, known| known.list < lists);
        gone.map(|(_, known)| known.tag).collect()
    }

    /// Returns whether there was no list before the present one.
    #[must_use]
    pub(super) fn is_first_list(&self) -> bool {
        self.lists <= 1
    }
}
