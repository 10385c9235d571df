//! The packet rules: one nftables table of our own, as readable text.
//!
//! All of it acts before connection tracking. A packet that is not tracked is not rewritten either, so these rules
//! alone decide between this node's caches and the Service: kube-proxy's own tables are never touched.
//!
//! * Answers that leave a captured address are not tracked. This comes first and goes last, so that an answer never
//!   makes a connection that later questions would be taken for a part of.
//! * Questions that carry [`MARK`] are the agent's own and reach the caches always.
//! * Questions to an address in the sets `switched4` and `switched6` reach the caches: this is the switch. One stands
//!   where packets come in (pods), one where the node's own processes send.
//!
//! Rules for questions match only while their address is on the node (`fib daddr type local`), so that what is left of
//! an agent that was killed does nothing once the addresses' lifetimes have ended.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

/// The packet mark of the agent's own questions. kube-proxy marks with 0x4000 and 0x8000 and the usual CNI plugins with
/// bits from 0x80 on; this one is theirs nowhere.
pub const MARK: u32 = 0x35;

/// Which rules these are, written into the table. Whoever changes a rule raises it: a table of another layout that an
/// earlier agent left is replaced and not gone on with.
const LAYOUT: u32 = 1;
/// How many rules the table has.
const RULES: usize = 8;

/// What the table of one tier holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Name of the tier.
    pub tier: String,
    /// Addresses whose answers are not tracked and that the agent may ask.
    pub served: BTreeSet<IpAddr>,
    /// Addresses whose questions go to the caches; each is served too.
    pub switched: BTreeSet<IpAddr>,
}

/// Name of a tier's table, in the family `inet`.
#[must_use]
pub fn table(tier: &str) -> String {
    format!("dnstier_{tier}")
}

/// A script that removes a tier's table, whether it is there or not.
#[must_use]
pub fn removal(tier: &str) -> String {
    let table = table(tier);
    format!("table inet {table}\ndelete table inet {table}\n")
}

impl Rules {
    /// A script that puts this table in the place of the one that is there. The kernel changes over at one moment:
    /// each packet sees the old table or the new one.
    #[must_use]
    pub fn script(&self) -> String {
        let mut text = removal(&self.tier);
        // Writing to a String does not fail.
        let _ = write!(
            text,
            r#"table inet {table} {{
	comment "DnsTier {tier}, layout {LAYOUT}"
{sets}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		ip daddr @switched4 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
		ip6 daddr @switched6 meta l4proto {{ tcp, udp }} th dport 53 fib daddr type local notrack
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

    /// A script that makes this table of the one with `before` in its sets. Rules and chains stay, so that no packet
    /// meets a chain that is just being taken out.
    #[must_use]
    pub fn change_from(&self, before: &Self) -> String {
        let table = table(&self.tier);
        let mut text = String::new();
        for (name, old, new) in
            [("served", &before.served, &self.served), ("switched", &before.switched, &self.switched)]
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

    /// Whether a listing shows this table whole: its layout, both hooks, every rule, every address. It does not compare
    /// the text of rules, which `nft` may print in a form of its own.
    #[must_use]
    pub fn are_listed_in(&self, listing: &str) -> bool {
        let layout = format!(", layout {LAYOUT}\"");
        let whole = [layout.as_str(), "hook prerouting", "hook output"].into_iter().all(|part| listing.contains(part));
        whole && listing.matches(" notrack").count() == RULES && Self::from_listing(&self.tier, listing) == *self
    }

    fn sets(&self) -> String {
        [("served", &self.served), ("switched", &self.switched)]
            .into_iter()
            .flat_map(|(name, addresses)| [set(name, 4, addresses), set(name, 6, addresses)])
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Reads the addresses back from what `nft list table` prints of a table with these sets.
    #[must_use]
    pub fn from_listing(tier: &str, listing: &str) -> Self {
        let both = |name: &str| [4, 6].into_iter().flat_map(|family| elements(listing, name, family)).collect();
        Self { tier: tier.to_owned(), served: both("served"), switched: both("switched") }
    }
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
            switched: set_of(&["10.96.0.10"]),
        }
    }

    #[test]
    fn the_table_reads_like_what_it_does() {
        let expected = r#"table inet dnstier_default
delete table inet dnstier_default
table inet dnstier_default {
	comment "DnsTier default, layout 1"
	set served4 { type ipv4_addr; elements = { 10.96.0.10, 169.254.20.10 }; }
	set served6 { type ipv6_addr; elements = { fd96::a }; }
	set switched4 { type ipv4_addr; elements = { 10.96.0.10 }; }
	set switched6 { type ipv6_addr; }
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		ip daddr @switched4 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
		ip6 daddr @switched6 meta l4proto { tcp, udp } th dport 53 fib daddr type local notrack
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
        on.switched = set_of(&["169.254.20.10", "fd96::a"]);
        assert_eq!(
            on.change_from(&rules()),
            "delete element inet dnstier_default switched4 { 10.96.0.10 }\n\
             add element inet dnstier_default switched4 { 169.254.20.10 }\n\
             add element inet dnstier_default switched6 { fd96::a }\n"
        );
        assert_eq!(on.change_from(&on), "");
    }

    #[test]
    fn a_table_that_lost_something_is_noticed() {
        let script = rules().script();
        assert!(rules().are_listed_in(&script));
        let lines: Vec<&str> = script.lines().collect();
        for missing in 3..lines.len() {
            let rest: Vec<&str> =
                lines.iter().enumerate().filter(|(number, _)| *number != missing).map(|(_, line)| *line).collect();
            let counts =
                ["notrack", "hook", "elements", "layout"].into_iter().any(|word| lines[missing].contains(word));
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
