//! Packet rules of the agent: one nftables table for each tier, as text.
//!
//! All rules act before connection tracking. A packet that is not tracked is not rewritten (DNAT) either, so these
//! rules alone decide between this node's caches and the Service: kube-proxy's tables are never touched.
//!
//! * Responses that leave a captured address are not tracked. These rules come first and go last: a tracked response
//!   would create a connection to which conntrack would assign later queries.
//! * Queries that carry [`MARK`] are self-queries of the agent and always reach the caches.
//! * Queries to an address in the sets `switched4` and `switched6` reach the caches: the redirect rule. One stands in
//!   the prerouting hook (pods), one in the output hook (processes of the node).
//! * Queries of pods are counted where they arrive and, in the input hook, where they have passed the packet filters of
//!   the node.
//!
//! Rules for queries match only while their address is on the node (`fib daddr type local`), so that the rules of an
//! agent that was killed do nothing once the addresses' lifetimes have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use super::pod_packets::PodPackets;

/// Packet mark of self-queries. kube-proxy uses 0x4000 and 0x8000 and the usual CNI plugins use bits from 0x80 on; none
/// uses this one.
pub(crate) const MARK: u32 = 0x35;

/// Version of the rules, written into the table's comment. Raise it with each change of a rule: a table of another
/// version that an earlier agent left is replaced, not adopted.
const LAYOUT: u32 = 3;
/// Number of rules in the table that act on packets.
const RULE_COUNT: usize = 8;
/// Number of rules in the table that count packets.
const COUNTING_RULE_COUNT: usize = 4;

/// Addresses in the table of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Name of the tier.
    pub(crate) tier: String,
    /// Addresses whose responses are not tracked and that self-queries reach.
    pub(crate) served: BTreeSet<IpAddr>,
    /// Addresses whose queries go to the caches; each is served too.
    pub(crate) redirected: BTreeSet<IpAddr>,
}

/// Returns the name of a tier's table, in the family `inet`.
#[must_use]
pub(crate) fn table(tier: &str) -> String {
    format!("dnstier_{tier}")
}

/// Returns a script that removes a tier's table, whether it exists or not.
#[must_use]
pub(crate) fn removal_script(tier: &str) -> String {
    let table = table(tier);
    format!("table inet {table}\ndelete table inet {table}\n")
}

impl Rules {
    /// Returns a script that replaces the existing table by this one in one transaction: each packet sees the old table
    /// or the new one.
    #[must_use]
    pub(crate) fn script(&self) -> String {
        let mut text = removal_script(&self.tier);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            r#"table inet {table} {{
	comment "DnsTier {tier}, layout {LAYOUT}"
{sets}
	chain queries4 {{
		iif != "lo" counter
		notrack
	}}
	chain queries6 {{
		iif != "lo" counter
		notrack
	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		ip daddr @switched4 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local goto queries4
		ip6 daddr @switched6 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local goto queries6
	}}
	chain input {{
		type filter hook input priority 400; policy accept;
		ip daddr @switched4 iif != "lo" meta l4proto {{ tcp, udp }} th dport 53 counter
		ip6 daddr @switched6 iif != "lo" meta l4proto {{ tcp, udp }} th dport 53 counter
	}}
	chain output {{
		type filter hook output priority raw; policy accept;
		ip saddr @served4 meta l4proto {{ tcp, udp }} th sport 53 notrack
		ip6 saddr @served6 meta l4proto {{ tcp, udp }} th sport 53 notrack
		meta mark {MARK:#010x} ip daddr @served4 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
		meta mark {MARK:#010x} ip6 daddr @served6 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
		ip daddr @switched4 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
		ip6 daddr @switched6 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
	}}
}}
"#,
            table = table(&self.tier),
            tier = self.tier,
            sets = self.sets(),
        );
        text
    }

    /// Returns a script that turns the table with `previous` in its sets into this one. Rules and chains stay, so that
    /// no packet meets a chain that is being removed.
    #[must_use]
    pub(crate) fn update_script(&self, previous: &Self) -> String {
        let table = table(&self.tier);
        let mut text = String::new();
        for (name, old, new) in
            [("served", &previous.served, &self.served), ("switched", &previous.redirected, &self.redirected)]
        {
            for (verb, addresses) in [("delete", old - new), ("add", new - old)] {
                for address in addresses {
                    let family = if address.is_ipv4() { 4 } else { 6 };
                    // Writing to a String does not fail.
                    let _ = writeln!(text, "{verb} element inet {table} {name}{family} {{ {address} }}");
                }
            }
        }
        text
    }

    /// Returns whether a listing of `nft` shows this table whole: version, both hooks, number of rules, every address.
    /// The text of rules is not compared: `nft` may print them in a form of its own.
    #[must_use]
    pub(crate) fn are_listed_in(&self, listing: &str) -> bool {
        let layout = format!(", layout {LAYOUT}\"");
        let parts = [
            layout.as_str(),
            "hook prerouting",
            "hook input",
            "hook output",
            "local goto queries4",
            "local goto queries6",
        ];
        parts.into_iter().all(|part| listing.contains(part))
            && listing.split_whitespace().filter(|word| *word == "notrack").count() == RULE_COUNT
            && listing.split_whitespace().filter(|word| *word == "counter").count() == COUNTING_RULE_COUNT
            && Self::from_listing(&self.tier, listing) == *self
    }

    fn sets(&self) -> String {
        [("served", &self.served), ("switched", &self.redirected)]
            .into_iter()
            .flat_map(|(name, addresses)| [set(name, 4, addresses), set(name, 6, addresses)])
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Reads the addresses back from the output of `nft list table`.
    #[must_use]
    pub(crate) fn from_listing(tier: &str, listing: &str) -> Self {
        let both = |name: &str| [4, 6].into_iter().flat_map(|family| elements(listing, name, family)).collect();
        Self { tier: tier.to_owned(), served: both("served"), redirected: both("switched") }
    }
}

/// Reads the counts of the packets of pods, IPv4 and IPv6, from the listing of a tier's table with its state; `None`
/// when one is missing.
///
/// The counters have no names: named ones need a module of the kernel (`nft_objref`) that some hosts lack, and without
/// it the kernel refuses the whole table.
#[must_use]
pub(super) fn pod_packets(listing: &str) -> Option<[PodPackets; 2]> {
    let mut chain = "";
    let mut counts = BTreeMap::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches([' ', '{']);
        } else if let Some((rule, counter)) = line.split_once("counter packets ") {
            let family = if chain == "queries4" || rule.contains("@switched4") { 4 } else { 6 };
            counts.insert((chain == "input", family), counter.split_whitespace().next()?.parse().ok()?);
        }
    }
    let count = |is_passed, family| counts.get(&(is_passed, family)).copied();
    let of_family = |family| Some(PodPackets { arrived: count(false, family)?, passed: count(true, family)? });
    Some([of_family(4)?, of_family(6)?])
}

fn set(name: &str, family: u8, addresses: &BTreeSet<IpAddr>) -> String {
    let list: Vec<String> =
        addresses.iter().filter(|address| address.is_ipv4() == (family == 4)).map(IpAddr::to_string).collect();
    let elements = if list.is_empty() { String::new() } else { format!(" elements = {{ {} }};", list.join(", ")) };
    format!("\tset {name}{family} {{ type ipv{family}_addr;{elements} }}")
}

fn elements(listing: &str, name: &str, family: u8) -> Vec<IpAddr> {
    let opening = format!("set {name}{family} {{");
    let Some((_, set)) = listing.split_once(&opening) else { return Vec::new() };
    // A set without elements ends before the elements of the next one begin.
    let Some((before, list)) = set.split_once("elements = {") else { return Vec::new() };
    let Some((list, _)) = list.split_once('}').filter(|_| !before.contains('}')) else { return Vec::new() };
    list.split(',').filter_map(|address| address.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn rules() -> Rules {
        Rules {
            tier: "default".to_owned(),
            served: set_of(&["10.96.0.10", "169.254.20.10", "fd96::a"]),
            redirected: set_of(&["10.96.0.10"]),
        }
    }

    #[test]
    fn the_table_reads_like_what_it_does() {
        let expected = r#"table inet dnstier_default
delete table inet dnstier_default
table inet dnstier_default {
	comment "DnsTier default, layout 3"
	set served4 { type ipv4_addr; elements = { 10.96.0.10, 169.254.20.10 }; }
	set served6 { type ipv6_addr; elements = { fd96::a }; }
	set switched4 { type ipv4_addr; elements = { 10.96.0.10 }; }
	set switched6 { type ipv6_addr; }
	chain queries4 {
		iif != "lo" counter
		notrack
	}
	chain queries6 {
		iif != "lo" counter
		notrack
	}
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		ip daddr @switched4 meta l4proto { tcp, udp } th dport 53 fib daddr type local goto queries4
		ip6 daddr @switched6 meta l4proto { tcp, udp } th dport 53 fib daddr type local goto queries6
	}
	chain input {
		type filter hook input priority 400; policy accept;
		ip daddr @switched4 iif != "lo" meta l4proto { tcp, udp } th dport 53 counter
		ip6 daddr @switched6 iif != "lo" meta l4proto { tcp, udp } th dport 53 counter
	}
	chain output {
		type filter hook output priority raw; policy accept;
		ip saddr @served4 meta l4proto { tcp, udp } th sport 53 notrack
		ip6 saddr @served6 meta l4proto { tcp, udp } th sport 53 notrack
		meta mark 0x00000035 ip daddr @served4 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
		meta mark 0x00000035 ip6 daddr @served6 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
		ip daddr @switched4 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
		ip6 daddr @switched6 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
	}
}
"#;
        assert_eq!(rules().script(), expected);
    }

    #[test]
    fn a_switch_is_turned_by_an_address_in_a_set_and_nothing_else_is_touched() {
        let mut on = rules();
        on.redirected = set_of(&["169.254.20.10", "fd96::a"]);
        assert_eq!(
            on.update_script(&rules()),
            "delete element inet dnstier_default switched4 { 10.96.0.10 }\n\
             add element inet dnstier_default switched4 { 169.254.20.10 }\n\
             add element inet dnstier_default switched6 { fd96::a }\n"
        );
        assert_eq!(on.update_script(&on), "");
    }

    #[test]
    fn packets_of_pods_are_read_from_a_listing_that_has_all_counters() {
        // As nft lists the rules of the script, with their state.
        let mut packets = [7, 5, 3, 0].into_iter();
        let listing: Vec<String> = rules()
            .script()
            .lines()
            .map(|line| match line.strip_suffix("counter") {
                Some(rule) => format!("{rule}counter packets {} bytes 300", packets.next().unwrap()),
                None => line.to_owned(),
            })
            .collect();
        let expected = [PodPackets { arrived: 7, passed: 3 }, PodPackets { arrived: 5, passed: 0 }];
        assert_eq!(pod_packets(&listing.join("\n")), Some(expected));
        for missing in listing.iter().filter(|line| line.contains("packets")) {
            let rest: Vec<&str> = listing.iter().filter(|line| *line != missing).map(String::as_str).collect();
            assert_eq!(pod_packets(&rest.join("\n")), None, "without {missing}");
        }
    }

    #[test]
    fn no_rule_needs_named_objects() {
        let script = rules().script();
        for word in ["counter name", "counter {", "quota", "limit name"] {
            assert!(!script.contains(word), "{word}");
        }
    }

    #[test]
    fn a_table_that_lost_something_is_noticed() {
        let script = rules().script();
        assert!(rules().are_listed_in(&script));
        let lines: Vec<&str> = script.lines().collect();
        for missing in 3..lines.len() {
            let rest: Vec<&str> =
                lines.iter().enumerate().filter(|(number, _)| *number != missing).map(|(_, line)| *line).collect();
            let counts = ["notrack", "hook", "elements", "layout", "goto", "counter"]
                .into_iter()
                .any(|word| lines[missing].contains(word));
            assert!(!counts || !rules().are_listed_in(&rest.join("\n")), "without {}", lines[missing]);
        }
        assert!(!rules().are_listed_in(""));
    }

    #[test]
    fn the_addresses_are_read_back_from_a_listing() {
        let listing = "table inet dnstier_default {\n\tset served4 {\n\t\ttype ipv4_addr\n\
            \t\telements = { 10.96.0.10,\n\t\t\t     169.254.20.10 }\n\t}\n\n\tset served6 {\n\t\ttype ipv6_addr\n\
            \t\telements = { fd96::a }\n\t}\n\n\tset switched4 {\n\t\ttype ipv4_addr\n\
            \t\telements = { 10.96.0.10 }\n\t}\n\n\tset switched6 {\n\t\ttype ipv6_addr\n\t}\n}\n";
        assert_eq!(Rules::from_listing("default", listing), rules());
        let emptied = listing.replace("\t\telements = { fd96::a }\n", "");
        assert_eq!(Rules::from_listing("default", &emptied).served, set_of(&["10.96.0.10", "169.254.20.10"]));
        assert_eq!(Rules::from_listing("default", "").served, BTreeSet::new());
    }
}
