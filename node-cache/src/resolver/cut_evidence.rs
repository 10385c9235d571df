//! Evidence for NXDOMAIN cuts: which ancestors have proved, name by name, that nothing exists below them. A table of
//! fixed size.
//!
//! A name that does not exist says little about the names below it, whatever RFC 8020 says: a cluster DNS whose
//! Corefile uses `hosts`, `template`, `rewrite` or `file` has `git.tools.cluster.local` and denies
//! `tools.cluster.local`. So an ancestor counts as empty only while all of this holds:
//!
//! * its first label is a top-level domain in which an outside name was found: it looks like a step of a search path;
//! * [`MIN_DENIALS`] names below it were queried themselves, and were denied;
//! * no name below it was found for [`CONTRADICTION_PERIOD`], nor below a denied one beside it.
//!
//! Unknown names count as no evidence: then every name is queried itself.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::nxdomain_cut::{covering_ancestors, is_kubernetes_subtree};
use crate::dns::Name;

/// Distinct names below an ancestor that were denied, each by a response of its own, before the ancestor counts.
pub(super) const MIN_DENIALS: u32 = 8;
/// Time after a name was found for which no ancestor of it counts.
const CONTRADICTION_PERIOD: Duration = Duration::from_secs(3600);
/// Time without a denial after which the slot of an ancestor may be taken by another one.
const IDLE_PERIOD: Duration = Duration::from_secs(60);
/// Time between two probes of one ancestor.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Buckets of the table; an ancestor has a slot of one of them.
const BUCKETS: usize = 512;
/// Buckets of the set of top-level domains.
const LABEL_BUCKETS: usize = 128;
/// Slots of a bucket.
const WAYS: usize = 4;

/// Evidence of one process, for the scopes of cluster domains. Everything is hashed under a secret seed, so that no
/// client chooses which ancestors share a slot.
#[derive(Debug)]
pub(super) struct CutEvidence {
    hasher: RandomState,
    /// Hashes of the top-level domains with an outside name that was found; 0 in an empty slot.
    top_labels: [[AtomicU64; WAYS]; LABEL_BUCKETS],
    buckets: Mutex<Buckets>,
}

type Buckets = Vec<[Slot; WAYS]>;

/// Evidence about one ancestor.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Hash of scope and ancestor; 0 in an empty slot.
    ancestor: u64,
    /// Set of the denied names, one bit for each hash.
    denied: u64,
    /// Whether the ancestor itself was denied.
    is_denied: bool,
    /// When a name below it was last found.
    contradicted_at: Option<Instant>,
    denied_at: Option<Instant>,
    probed_at: Option<Instant>,
}

impl Slot {
    fn is_contradicted(&self, now: Instant) -> bool {
        self.contradicted_at.is_some_and(|at| now.saturating_duration_since(at) < CONTRADICTION_PERIOD)
    }

    /// Returns whether another ancestor may take the slot.
    fn is_free(&self, now: Instant) -> bool {
        let is_idle = self.denied_at.is_none_or(|at| now.saturating_duration_since(at) >= IDLE_PERIOD);
        is_idle && !self.is_contradicted(now)
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.denied.count_ones() >= MIN_DENIALS && !self.is_contradicted(now)
    }
}

impl Default for CutEvidence {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            top_labels: [const { [const { AtomicU64::new(0) }; WAYS] }; LABEL_BUCKETS],
            buckets: Mutex::new(vec![Default::default(); BUCKETS]),
        }
    }
}

impl CutEvidence {
    /// Records that an outside name was found. The name is in wire format, in lower case.
    pub(super) fn record_outside_name(&self, name: &[u8]) {
        let mut label = name;
        while let Some(length @ 1..=63) = label.first().map(|length| usize::from(*length)) {
            match label.get(1 + length..) {
                Some([0, ..]) | None => break,
                Some(rest) => label = rest,
            }
        }
        let hash = self.label_hash(label);
        let bucket = self.label_bucket(hash);
        // A cache line that is only read stays in the caches of all processors.
        if bucket.iter().any(|slot| slot.load(Ordering::Relaxed) == hash) {
            return;
        }
        let evicted = (hash >> 32) as usize % WAYS;
        let free = bucket.iter().find(|slot| slot.load(Ordering::Relaxed) == 0).or_else(|| bucket.get(evicted));
        free.into_iter().for_each(|slot| slot.store(hash, Ordering::Relaxed));
    }

    /// Records that a name of `zone` was denied by a response to a query for it. `is_address` says that it was denied
    /// for type A: CoreDNS denies existing names for some other types.
    pub(super) fn record_denial(&self, scope: u64, name: &Name, zone: &Name, is_address: bool, now: Instant) {
        let denied = 1 << (self.hash(scope, name.as_bytes(), false) >> (u64::BITS - 6));
        if is_address && self.is_top_label(name.as_bytes()) {
            let ancestor = self.hash(scope, name.as_bytes(), false);
            find(&mut self.buckets(), ancestor).into_iter().for_each(|slot| slot.is_denied = true);
        }
        for ancestor in covering_ancestors(name, zone).filter(|ancestor| self.is_top_label(ancestor)) {
            let ancestor = self.hash(scope, ancestor, false);
            let mut buckets = self.buckets();
            let Some(slot) = find_or_take(&mut buckets, ancestor, |slot| slot.is_free(now)) else { continue };
            if !slot.is_contradicted(now) {
                slot.denied |= denied;
                slot.denied_at = Some(now);
            }
        }
    }

    /// Records that a name of `zone` was found: for any type, and with or without records of it. That contradicts a cut
    /// at the name and its ancestors, and below a denied ancestor also those beside it.
    pub(super) fn record_existence(&self, scope: u64, name: &Name, zone: &Name, now: Instant) {
        let names = [name.as_bytes()].into_iter().chain(covering_ancestors(name, zone));
        // Kubernetes has thousands of names, and each is denied or found by its own; a Corefile adds few. Those count
        // before their ancestors look like a step of a search path.
        let mut suffixes = name.suffixes();
        let is_added = !suffixes.any(|suffix| is_kubernetes_subtree(suffix, zone.as_bytes().len()));
        let is_above = |ancestor: &[u8]| ancestor.len() < name.as_bytes().len();
        for ancestor in names.filter(|ancestor| (is_added && is_above(ancestor)) || self.is_top_label(ancestor)) {
            let mut buckets = self.buckets();
            let is_denied = contradict(&mut buckets, self.hash(scope, ancestor, false), now);
            if is_denied && is_above(ancestor) {
                contradict(&mut buckets, self.hash(scope, parent(ancestor), true), now);
            }
        }
    }

    /// Returns whether an ancestor, in wire format, has proved that nothing exists below it. Its own NXDOMAIN is not
    /// part of the proof.
    pub(super) fn is_proven(&self, scope: u64, ancestor: &[u8], now: Instant) -> bool {
        self.is_top_label(ancestor) && self.proven_slot(&mut self.buckets(), scope, ancestor, now).is_some()
    }

    /// Returns whether the ancestor of a proven cut may be probed at `now`, and records that it is.
    pub(super) fn take_probe(&self, scope: u64, ancestor: &[u8], now: Instant) -> bool {
        if !self.is_top_label(ancestor) {
            return false;
        }
        let mut buckets = self.buckets();
        let Some(slot) = self.proven_slot(&mut buckets, scope, ancestor, now) else { return false };
        let is_due = slot.probed_at.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_INTERVAL);
        if is_due {
            slot.probed_at = Some(now);
        }
        is_due
    }

    fn proven_slot<'a>(
        &self,
        buckets: &'a mut Buckets,
        scope: u64,
        ancestor: &[u8],
        now: Instant,
    ) -> Option<&'a mut Slot> {
        let siblings = self.hash(scope, parent(ancestor), true);
        if find(buckets, siblings).is_some_and(|siblings| siblings.is_contradicted(now)) {
            return None;
        }
        find(buckets, self.hash(scope, ancestor, false)).filter(|slot| slot.is_proven(now))
    }

    /// Returns whether the first label of a name is a top-level domain in which an outside name was found.
    fn is_top_label(&self, name: &[u8]) -> bool {
        let Some(label) = name.first().and_then(|length| name.get(..=usize::from(*length))) else { return false };
        // With the root behind it, as in the name of a top-level domain.
        let mut top = [0; 65];
        let Some(buffer) = top.get_mut(..label.len()) else { return false };
        buffer.copy_from_slice(label);
        let hash = self.label_hash(top.get(..=label.len()).unwrap_or_default());
        self.label_bucket(hash).iter().any(|slot| slot.load(Ordering::Relaxed) == hash)
    }

    /// Hashes a top-level domain in wire format, never to 0.
    fn label_hash(&self, top: &[u8]) -> u64 {
        self.hasher.hash_one(top).max(1)
    }

    fn label_bucket(&self, hash: u64) -> &[AtomicU64] {
        self.top_labels.get(hash as usize % LABEL_BUCKETS).map_or(&[], |bucket| bucket)
    }

    /// Hashes an ancestor, or those below a parent, never to 0.
    fn hash(&self, scope: u64, name: &[u8], is_siblings: bool) -> u64 {
        self.hasher.hash_one((scope, name, is_siblings)).max(1)
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the slot of an ancestor.
fn find(buckets: &mut Buckets, ancestor: u64) -> Option<&mut Slot> {
    buckets.get_mut(ancestor as usize % BUCKETS)?.iter_mut().find(|slot| slot.ancestor == ancestor)
}

/// Returns the slot of an ancestor, or gives it an empty one, or another one for which `may_take` is true.
fn find_or_take(buckets: &mut Buckets, ancestor: u64, may_take: impl Fn(&Slot) -> bool) -> Option<&mut Slot> {
    let bucket = buckets.get_mut(ancestor as usize % BUCKETS)?;
    let found = bucket.iter().position(|slot| slot.ancestor == ancestor);
    let free = || bucket.iter().position(|slot| slot.ancestor == 0).or_else(|| bucket.iter().position(may_take));
    let index = found.or_else(free)?;
    let slot = bucket.get_mut(index)?;
    if slot.ancestor != ancestor {
        *slot = Slot { ancestor, ..Slot::default() };
    }
    Some(slot)
}

/// Ends the evidence for an ancestor. Returns whether it was denied itself. A contradiction is not forgotten for
/// another one: no ancestor counts without a slot of its own.
fn contradict(buckets: &mut Buckets, ancestor: u64, now: Instant) -> bool {
    let slot = find_or_take(buckets, ancestor, |slot| !slot.is_contradicted(now));
    slot.is_some_and(|slot| {
        let is_denied = slot.is_denied;
        *slot = Slot { ancestor, is_denied, contradicted_at: Some(now), ..Slot::default() };
        is_denied
    })
}

/// Returns a name in wire format without its first label.
fn parent(name: &[u8]) -> &[u8] {
    let length = name.first().map_or(0, |length| usize::from(*length));
    name.get(1 + length..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: u64 = 7;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn zone() -> Name {
        name("cluster.local")
    }

    fn deny(evidence: &CutEvidence, names: impl IntoIterator<Item = String>, now: Instant) {
        names.into_iter().for_each(|text| evidence.record_denial(SCOPE, &name(&text), &zone(), true, now));
    }

    /// Names of different bits, below this name.
    fn names(evidence: &CutEvidence, below: &str, count: u32) -> Vec<String> {
        let mut bits = 0_u64;
        let numbered = (0..).map(|number| format!("host-{number}.{below}"));
        let distinct = numbered.filter(|text| {
            let bit = 1 << (evidence.hash(SCOPE, name(text).as_bytes(), false) >> 58);
            let is_new = bits & bit == 0;
            bits |= bit;
            is_new
        });
        distinct.take(count as usize).collect()
    }

    fn is_proven(evidence: &CutEvidence, ancestor: &str, now: Instant) -> bool {
        evidence.is_proven(SCOPE, name(ancestor).as_bytes(), now)
    }

    /// Evidence for which `com` and `org` are top-level domains.
    fn evidence() -> CutEvidence {
        let evidence = CutEvidence::default();
        ["www.shop.com", "org"].iter().for_each(|outside| evidence.record_outside_name(name(outside).as_bytes()));
        evidence
    }

    #[test]
    fn eight_names_denied_one_by_one_prove_an_ancestor_that_looks_like_a_top_level_domain() {
        let (evidence, now) = (evidence(), Instant::now());
        let ancestor = "com.shop.svc.cluster.local";
        let all = names(&evidence, ancestor, MIN_DENIALS);
        deny(&evidence, all[1..].to_vec(), now);
        deny(&evidence, all[1..].to_vec(), now);
        assert!(!is_proven(&evidence, ancestor, now), "seven names, each twice");
        deny(&evidence, all[..1].to_vec(), now);
        assert!(is_proven(&evidence, ancestor, now));
        assert!(!evidence.is_proven(SCOPE + 1, name(ancestor).as_bytes(), now), "servers of another scope");
        assert!(
            !is_proven(&evidence, "shop.svc.cluster.local", now) && !is_proven(&evidence, "com.cluster.local", now)
        );
    }

    #[test]
    fn a_namespace_or_a_folder_of_a_corefile_is_never_proven_empty_by_any_number_of_denials() {
        let (evidence, now) = (evidence(), Instant::now());
        for ancestor in ["tools.cluster.local", "new.svc.cluster.local", "web.new.svc.cluster.local"] {
            deny(&evidence, names(&evidence, ancestor, 40), now);
            assert!(!is_proven(&evidence, ancestor, now), "{ancestor}");
        }
    }

    #[test]
    fn one_name_that_is_found_ends_the_cuts_above_it_for_an_hour_and_eight_more_denials_prove_them_anew() {
        let (evidence, now) = (evidence(), Instant::now());
        let ancestor = "com.cluster.local";
        let prove = |now| deny(&evidence, names(&evidence, ancestor, MIN_DENIALS), now);
        prove(now);
        evidence.record_existence(SCOPE, &name("git.shop.com.cluster.local"), &zone(), now);
        for seconds in [0, 60, 3599] {
            let later = now + Duration::from_secs(seconds);
            prove(later);
            assert!(!is_proven(&evidence, ancestor, later), "{seconds}");
        }
        let later = now + CONTRADICTION_PERIOD;
        assert!(!is_proven(&evidence, ancestor, later), "what was denied before counts no more");
        prove(later);
        assert!(is_proven(&evidence, ancestor, later));
    }

    #[test]
    fn a_name_of_a_corefile_counts_also_when_it_was_found_before_its_top_level_domain() {
        let (evidence, now) = (CutEvidence::default(), Instant::now());
        evidence.record_existence(SCOPE, &name("git.shop.com.cluster.local"), &zone(), now);
        evidence.record_outside_name(name("www.shop.com").as_bytes());
        for ancestor in ["com.cluster.local", "com.svc.cluster.local"] {
            deny(&evidence, names(&evidence, ancestor, MIN_DENIALS), now);
        }
        assert!(!is_proven(&evidence, "com.cluster.local", now) && is_proven(&evidence, "com.svc.cluster.local", now));
    }

    #[test]
    fn a_name_found_below_a_denied_one_ends_the_cuts_beside_it_too() {
        let (evidence, now) = (evidence(), Instant::now());
        for ancestor in ["com.cluster.local", "org.cluster.local", "org.svc.cluster.local"] {
            deny(&evidence, names(&evidence, ancestor, MIN_DENIALS), now);
        }
        evidence.record_existence(SCOPE, &name("a.com.cluster.local"), &zone(), now);
        assert!(is_proven(&evidence, "org.cluster.local", now), "nobody says that com.cluster.local is denied");
        deny(&evidence, ["x.com.cluster.local".into()], now);
        evidence.record_denial(SCOPE, &name("com.cluster.local"), &zone(), true, now);
        evidence.record_existence(SCOPE, &name("a.com.cluster.local"), &zone(), now);
        assert!(!is_proven(&evidence, "org.cluster.local", now));
        assert!(is_proven(&evidence, "org.svc.cluster.local", now), "that is another depth");
    }

    #[test]
    fn an_ancestor_that_exists_itself_is_no_cut() {
        let (evidence, now) = (evidence(), Instant::now());
        deny(&evidence, names(&evidence, "com.svc.cluster.local", MIN_DENIALS), now);
        evidence.record_existence(SCOPE, &name("com.svc.cluster.local"), &zone(), now);
        assert!(!is_proven(&evidence, "com.svc.cluster.local", now));
    }

    #[test]
    fn ancestors_without_number_take_no_memory_and_make_no_other_one_a_cut() {
        let (evidence, now) = (evidence(), Instant::now());
        evidence.record_existence(SCOPE, &name("a.com.cluster.local"), &zone(), now);
        for number in 0..20_000 {
            deny(&evidence, [format!("x.com.n{number}.svc.cluster.local")], now);
        }
        deny(&evidence, names(&evidence, "com.cluster.local", 40), now);
        assert!(!is_proven(&evidence, "com.cluster.local", now), "a contradiction is not evicted");
        assert_eq!(evidence.buckets().len(), BUCKETS);
        let later = now + IDLE_PERIOD;
        deny(&evidence, names(&evidence, "org.cluster.local", MIN_DENIALS), later);
        assert!(is_proven(&evidence, "org.cluster.local", later), "idle slots are taken");
    }

    #[test]
    fn an_ancestor_is_probed_once_a_second() {
        let (evidence, now) = (evidence(), Instant::now());
        let ancestor = name("com.cluster.local");
        let take = |now| evidence.take_probe(SCOPE, ancestor.as_bytes(), now);
        assert!(!take(now), "nothing is proven");
        deny(&evidence, names(&evidence, "com.cluster.local", MIN_DENIALS), now);
        assert!(take(now) && !take(now + Duration::from_millis(999)) && take(now + PROBE_INTERVAL));
    }
}
