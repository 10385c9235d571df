//! Figures of a pod by which a change of configuration is judged. Together they take 4 KiB of a status page at most,
//! whatever a configuration names and whatever clients send.
//!
//! A reader of another release skips what it does not know and takes what is missing for zero.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::distinct_names::DistinctNames;
use crate::fingerprint::digest;

/// Capabilities of this release: what an operator of any release may ask a pod for.
pub const CAPABILITIES: [&str; 2] = ["figures", "probe-digest"];

/// Scopes in [`Figures::responses`], [`OTHER_SCOPES`] included, at most.
pub const MAX_SCOPES: usize = 32;
/// Scope of the responses in all scopes that have no entry of their own.
pub const OTHER_SCOPES: &str = "other";
/// Longest name of a scope in [`ScopeResponses`], in bytes. A longer one ends in `~` and a digest of the whole.
const MAX_SCOPE_LEN: usize = 20;
/// Digits of the digest at the end of a long name of a scope.
const SCOPE_DIGEST_LEN: usize = 8;
/// Addresses in [`Figures::queries`], at most: eight that a tier lists, and those of the cluster DNS Service in both
/// families.
pub const MAX_ADDRESSES: usize = 10;
/// Largest count that is written: more than a process comes to in six years of 50,000 queries a second. Every JSON
/// reader has it exactly.
pub const MAX_COUNT: u64 = 9_999_999_999_999;

/// Counters since the start of a process, but for names, which are of two minutes; for a node the sums over its caches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Responses by scope and rcode, without those of the process itself (`id.server`) and those to malformed queries.
    pub responses: Vec<ScopeResponses>,
    /// Cache misses that took 500 ms or longer.
    pub slow_misses: u64,
    /// Distinct names that were answered with SERVFAIL in this minute of the clock, and in the one before.
    pub servfail_names: DistinctNames,
    /// Distinct names of such slow misses in the same minutes; `None` from a release that does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_names: Option<DistinctNames>,
    /// Queries by the address that was asked, in the order of the addresses; those with the most queries where there
    /// are too many. An address without queries is left out.
    pub queries: Vec<AddressQueries>,
    /// Queries of a node to the resolvers of zones; `None` where the zone of the node is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_queries: Option<ZoneQueries>,
}

impl Figures {
    /// Forgets names of minutes after this one: nobody has counted them yet.
    pub fn forget_future(&mut self, minute: u64) {
        self.servfail_names.forget_future(minute);
        self.slow_names.iter_mut().for_each(|names| names.forget_future(minute));
    }

    /// Returns whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the figures of another process. What exceeds the bounds of a page is summed or left out, so that a process
    /// which was taken over makes no page longer.
    pub fn add(&mut self, other: &Self) {
        let mut by_scope: BTreeMap<String, ScopeResponses> = BTreeMap::new();
        for row in self.responses.iter().chain(&other.responses) {
            let scope = short_scope(&row.scope);
            let is_known = by_scope.contains_key(&scope);
            let has_room = by_scope.keys().filter(|scope| *scope != OTHER_SCOPES).count() + 1 < MAX_SCOPES;
            let scope = if is_known || has_room { scope } else { OTHER_SCOPES.to_owned() };
            by_scope.entry(scope.clone()).or_insert_with(|| ScopeResponses::new(&scope)).add(row);
        }
        self.responses = by_scope.into_values().collect();
        self.slow_misses = sum(self.slow_misses, other.slow_misses);
        self.servfail_names.merge(&other.servfail_names);
        self.slow_names = [self.slow_names, other.slow_names].into_iter().flatten().reduce(DistinctNames::merged);
        let mut by_address: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for AddressQueries { address, queries } in self.queries.iter().chain(&other.queries) {
            let count = by_address.entry(*address).or_default();
            *count = sum(*count, *queries);
        }
        let asked = by_address.into_iter().filter(|(_, queries)| *queries > 0);
        self.queries = asked.map(|(address, queries)| AddressQueries { address, queries }).collect();
        self.queries.sort_by_key(|of_address| Reverse(of_address.queries));
        self.queries.truncate(MAX_ADDRESSES);
        self.queries.sort_by_key(|of_address| of_address.address);
        let known = [self.zone_queries, other.zone_queries];
        self.zone_queries = known.into_iter().flatten().reduce(ZoneQueries::plus);
    }
}

/// Responses in one scope. On a page they are a list, `["cluster", NOERROR, NXDOMAIN, SERVFAIL, other]`; a longer one
/// of a later release can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeResponses {
    /// Name of the scope, 20 bytes at most: `cluster`, `outside`, `forward`, `inside`, `private`, `route/<suffix>` or
    /// [`OTHER_SCOPES`].
    pub scope: String,
    /// Responses with NOERROR.
    pub noerror: u64,
    /// Responses with NXDOMAIN.
    pub nxdomain: u64,
    /// Responses with SERVFAIL.
    pub servfail: u64,
    /// Responses with any other rcode.
    pub other: u64,
}

impl ScopeResponses {
    /// Returns the entry of a scope without responses.
    #[must_use]
    pub fn new(scope: &str) -> Self {
        Self { scope: short_scope(scope), ..Self::default() }
    }

    fn add(&mut self, more: &Self) {
        self.noerror = sum(self.noerror, more.noerror);
        self.nxdomain = sum(self.nxdomain, more.nxdomain);
        self.servfail = sum(self.servfail, more.servfail);
        self.other = sum(self.other, more.other);
    }
}

/// Queries that arrived at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressQueries {
    /// Address that was asked.
    pub address: IpAddr,
    /// Queries over UDP and TCP, dropped ones included, without those of class CH (`id.server`), which are health
    /// checks.
    pub queries: u64,
}

/// Queries of the caches of a node to the resolvers of zones, retries included, without those that look at the health
/// of a resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneQueries {
    /// Queries to resolvers of the node's own zone.
    pub own: u64,
    /// Queries to resolvers of other zones.
    pub other: u64,
}

impl ZoneQueries {
    fn plus(self, more: Self) -> Self {
        Self { own: sum(self.own, more.own), other: sum(self.other, more.other) }
    }
}

impl Serialize for ScopeResponses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(5)?;
        tuple.serialize_element(&short_scope(&self.scope))?;
        for count in [self.noerror, self.nxdomain, self.servfail, self.other] {
            tuple.serialize_element(&count.min(MAX_COUNT))?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for ScopeResponses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = ScopeResponses;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of a scope and its responses")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ScopeResponses, A::Error> {
        let scope = list.next_element()?.unwrap_or_default();
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = list.next_element()?.unwrap_or_default();
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        let [noerror, nxdomain, servfail, other] = counts;
        Ok(ScopeResponses { scope, noerror, nxdomain, servfail, other })
    }
}

fn sum(left: u64, right: u64) -> u64 {
    left.saturating_add(right).min(MAX_COUNT)
}

/// Returns a name of a scope that fits its bound and is the same in every process.
fn short_scope(scope: &str) -> String {
    if scope.len() <= MAX_SCOPE_LEN
        && scope.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\')
    {
        return scope.to_owned();
    }
    let digest = digest(scope.as_bytes());
    let beginning = scope.chars().take(MAX_SCOPE_LEN - SCOPE_DIGEST_LEN - 1);
    let printable =
        |letter: char| if letter.is_ascii_graphic() && !matches!(letter, '"' | '\\') { letter } else { '?' };
    beginning.map(printable).chain(['~']).chain(digest.chars().take(SCOPE_DIGEST_LEN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{CaptureState, Instance, NodeStatus, ResolverStatus, UpstreamState};

    /// Figures as large as a process can make them.
    fn largest() -> Figures {
        let row = |number: usize| ScopeResponses {
            scope: format!("route/{number:02}.{}example", "very-long-label.".repeat(14)),
            noerror: u64::MAX,
            nxdomain: u64::MAX,
            servfail: u64::MAX,
            other: u64::MAX,
        };
        let mut figures = Figures { slow_misses: u64::MAX, ..Figures::default() };
        for number in 0..20_000_u32 {
            figures.servfail_names.insert(29_000_000 + u64::from(number / 10_000), &number.to_be_bytes());
        }
        figures.slow_names = Some(figures.servfail_names);
        let queries = |number: u16| AddressQueries {
            address: format!("2001:db8:1234:5678:9abc:def0:1234:{:x}", 0xff00 + number).parse().unwrap(),
            queries: u64::MAX,
        };
        figures.responses = (0..40).map(row).collect();
        figures.queries = (0..20).map(queries).collect();
        figures.zone_queries = Some(ZoneQueries { own: u64::MAX, other: u64::MAX });
        let more = figures.clone();
        figures.add(&more);
        figures
    }

    #[test]
    fn the_largest_figures_of_a_pod_take_four_kibibytes_at_most() {
        let figures = largest();
        assert_eq!((figures.responses.len(), figures.queries.len()), (MAX_SCOPES, MAX_ADDRESSES));
        assert!(figures.responses.iter().any(|row| row.scope == OTHER_SCOPES && row.noerror == MAX_COUNT));
        let page = |figures: Figures, started, restarts, capabilities: Vec<String>| {
            let instance = Instance { started, restarts, ..Instance::default() };
            let instances = vec![instance; 8];
            let status = NodeStatus { figures, started, capabilities, instances, ..NodeStatus::default() };
            serde_json::to_string(&status).unwrap().len()
        };
        let capabilities = CAPABILITIES.map(str::to_owned).to_vec();
        let length = page(figures.clone(), Some(9_999_999_999), Some(99_999), capabilities)
            - page(Figures::default(), None, None, Vec::new());
        assert!((3000..=4096).contains(&length), "{length} bytes");
        let long_names = figures.responses.iter().filter(|row| row.scope.contains('~'));
        assert_eq!(long_names.count(), MAX_SCOPES - 1, "the digests of long names tell them apart");
    }

    #[test]
    fn figures_can_be_read_one_release_back_and_one_forward() {
        let mut figures = largest();
        figures.responses.truncate(3);
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
        let later = r#"{"responses":[["cluster",7,2,1,4,9,"more"],["outside",3]],"slowMisses":5,"fasterMisses":[1],
            "servfailNames":{"minute":7,"current":"AB","seconds":3},"slowNames":{"minute":7,"hours":{}},
            "queries":[{"address":"10.0.0.10","queries":9,"x":1}],"zoneQueries":{"own":7,"far":1}}"#;
        let later: Figures = serde_json::from_str(later).unwrap();
        let row = |scope: &str, [noerror, nxdomain, servfail, other]: [u64; 4]| ScopeResponses {
            scope: scope.to_owned(),
            noerror,
            nxdomain,
            servfail,
            other,
        };
        assert_eq!(later.responses, [row("cluster", [7, 2, 1, 4]), row("outside", [3, 0, 0, 0])]);
        assert_eq!((later.slow_misses, later.queries[0].queries), (5, 9));
        assert_eq!(later.zone_queries, Some(ZoneQueries { own: 7, other: 0 }));
        assert_eq!(later.slow_names.map(|names| (names.minute, names.estimate())), Some((7, 0)));
        let before: Figures = serde_json::from_str("{}").unwrap();
        assert!(before.is_empty() && before.slow_names.is_none());
    }

    #[test]
    fn a_page_of_the_release_before_and_one_of_a_later_release_can_be_read() {
        let before = r#"{"podUid":"uid-7","node":"node-a","zone":null,
            "revision":{"asked":"r1","inForce":"r1","refusal":null},"captured":[],
            "instances":[{"name":"cache-0","alive":true,"revision":{"asked":null,"inForce":null,"refusal":null},
            "traffic":{"queries":7},"upstreams":[],"upstreamProblem":null}]}"#;
        let status: NodeStatus = serde_json::from_str(before).unwrap();
        assert_eq!(
            (status.instances[0].traffic.queries, status.started, status.instances[0].restarts),
            (7, None, None)
        );
        assert!(status.figures.is_empty() && status.capabilities.is_empty());
        let later = r#"{"podUid":"uid-7","ready":true,"mood":"good","figures":{"slowMisses":3,"mood":["good"]},
            "capabilities":["figures","more"],
            "instance":{"started":5,"restarts":1,"figures":{"slowMisses":2},"x":{}}}"#;
        let status: ResolverStatus = serde_json::from_str(later).unwrap();
        assert_eq!(
            (status.figures.slow_misses, status.instance.figures.map(|figures| figures.slow_misses)),
            (3, Some(2))
        );
        assert_eq!((status.instance.started, status.instance.restarts), (Some(5), Some(1)));
        assert_eq!(status.capabilities, ["figures", "more"]);
        let words = r#"{"podUid":"uid-7","captured":[{"address":"10.96.0.10","state":"Borrowed","since":7}],
            "instances":[{"name":"cache-0","alive":true,"upstreams":[{"scope":"cluster","address":"10.0.0.2:53",
            "healthy":true,"state":"Resting","sent":1,"timeouts":0,"detection":{"state":"new"}}]}]}"#;
        let status: NodeStatus = serde_json::from_str(words).unwrap();
        assert_eq!(status.captured[0].state, CaptureState::Unknown);
        let upstream = &status.instances[0].upstreams[0];
        assert_eq!((upstream.state, upstream.healthy), (UpstreamState::Up, true));
    }

    #[test]
    fn of_many_addresses_those_with_the_most_queries_are_kept_whatever_their_family() {
        let queries = |address: &str, queries| AddressQueries { address: address.parse().unwrap(), queries };
        let mut figures = Figures::default();
        let old = (0..9).map(|number| queries(&format!("169.254.20.{number}"), 10 - number));
        let asked = [queries("10.96.0.10", 70), queries("fd96::a", 60)];
        let unasked = (0..9).map(|number| queries(&format!("10.0.0.{number}"), 0));
        let more = Figures { queries: old.chain(unasked).chain(asked).collect(), ..Figures::default() };
        figures.add(&more);
        let kept: Vec<String> = figures.queries.iter().map(|kept| kept.address.to_string()).collect();
        let of_old = (0..8).map(|number| format!("169.254.20.{number}"));
        let expected = ["10.96.0.10".to_owned()].into_iter().chain(of_old).chain(["fd96::a".to_owned()]);
        assert_eq!(kept, expected.collect::<Vec<_>>());
    }

    #[test]
    fn the_figures_of_two_processes_add_up() {
        let row = |scope: &str, noerror, servfail| ScopeResponses { noerror, servfail, ..ScopeResponses::new(scope) };
        let queries = |address: &str, queries| AddressQueries { address: address.parse().unwrap(), queries };
        let mut figures = Figures {
            responses: vec![row("cluster", 5, 1), row("outside", 2, 0)],
            slow_misses: 3,
            queries: vec![queries("10.0.0.10", 7)],
            ..Figures::default()
        };
        figures.servfail_names.insert(9, b"\x01a");
        figures.slow_names = Some(figures.servfail_names);
        let mut more = Figures {
            responses: vec![row("cluster", 10, 1), row("route/corp.example", 1, 1)],
            slow_misses: 4,
            queries: vec![queries("10.0.0.10", 1), queries("169.254.20.10", 2)],
            zone_queries: Some(ZoneQueries { own: 5, other: 1 }),
            ..Figures::default()
        };
        more.servfail_names.insert(9, b"\x01A");
        more.servfail_names.insert(9, b"\x01b");
        let without = Figures { slow_names: None, ..more.clone() };
        more.slow_names = Some(more.servfail_names);
        figures.add(&more);
        let rows = [row("cluster", 15, 2), row("outside", 2, 0), row("route/corp.example", 1, 1)];
        assert_eq!((figures.responses.as_slice(), figures.slow_misses), (rows.as_slice(), 7));
        assert_eq!(figures.queries, [queries("10.0.0.10", 8), queries("169.254.20.10", 2)]);
        let zones = |figures: &Figures| figures.zone_queries.map(|queries| (queries.own, queries.other));
        assert_eq!(zones(&figures), Some((5, 1)), "a process that does not know its zone takes nothing away");
        figures.add(&more);
        assert_eq!(zones(&figures), Some((10, 2)));
        assert_eq!(figures.servfail_names.estimate(), 2, "one name in two processes is one name");
        figures.add(&without);
        assert_eq!(
            figures.slow_names.map(|names| names.estimate()),
            Some(2),
            "one that counts none takes nothing away"
        );
    }
}
