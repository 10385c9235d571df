//! Addresses that a revision gives up while pods ask them: probes do not see what that breaks, so it has to be
//! confirmed.

use std::net::IpAddr;

use node_cache_config::Config;

use crate::controller::text::{join_some, plural};

/// Returns the addresses that are captured before a change and not after it.
#[must_use]
pub(crate) fn given_up(before: &Config, after: &Config) -> Vec<IpAddr> {
    let after = captured(after);
    captured(before).into_iter().filter(|address| !after.contains(address)).collect()
}

/// Returns the addresses that a configuration captures.
#[must_use]
pub(crate) fn captured(config: &Config) -> Vec<IpAddr> {
    config.node_cache.captured.iter().map(|captured| captured.address).collect()
}

/// Returns the sentence about addresses that pods ask: which nodes, how often; `None` when nobody asks them. `asked`
/// has the queries by node for each address.
#[must_use]
pub(crate) fn sentence(asked: impl IntoIterator<Item = (IpAddr, Vec<(String, u32)>)>) -> Option<String> {
    let sentences = asked.into_iter().filter_map(|(address, by_node)| {
        let nodes = by_node.into_iter().filter(|(_, count)| *count > 0);
        let nodes: Vec<String> = nodes.map(|(node, count)| format!("{node} ({})", plural(count, "time"))).collect();
        let number = plural(u32::try_from(nodes.len()).unwrap_or(u32::MAX), "node");
        let text =
            || format!("{address} was asked in the last ten to fifteen minutes on {number}: {}.", join_some(&nodes));
        (!nodes.is_empty()).then(text)
    });
    let sentences: Vec<String> = sentences.collect();
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

/// Returns the sentence about given up addresses of which some nodes have not told yet whether pods ask them; `None`
/// without such nodes, or when no address is given up.
#[must_use]
pub(crate) fn unknown_sentence(given_up: &[IpAddr], nodes: usize) -> Option<String> {
    let addresses: Vec<String> = given_up.iter().map(IpAddr::to_string).collect();
    let nodes = plural(u32::try_from(nodes).ok().filter(|nodes| *nodes > 0)?, "node");
    let text =
        || format!("Whether pods ask {} is not known yet: no answer from {nodes} so far.", join_some(&addresses));
    (!addresses.is_empty()).then(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_asked_is_told_with_its_nodes_and_how_often() {
        let address = |text: &str| text.parse().unwrap();
        let by_node = |counts: [u32; 3]| ["a", "b", "c"].map(str::to_owned).into_iter().zip(counts).collect();
        let asked = [(address("10.96.0.10"), by_node([0, 0, 0])), (address("169.254.20.10"), by_node([1, 0, 1_203]))];
        let expected =
            "169.254.20.10 was asked in the last ten to fifteen minutes on 2 nodes: a (1 time) and c (1203 times).";
        assert_eq!(sentence(asked.clone()).as_deref(), Some(expected));
        assert_eq!(sentence(asked.into_iter().take(1)), None);
    }

    #[test]
    fn what_is_not_known_yet_is_told_with_the_number_of_nodes() {
        let given_up = ["10.96.0.10", "169.254.20.10"].map(|text| text.parse().unwrap());
        let expected = "Whether pods ask 10.96.0.10 and 169.254.20.10 is not known yet: no answer from 2 nodes so far.";
        assert_eq!(unknown_sentence(&given_up, 2).as_deref(), Some(expected));
        assert_eq!((unknown_sentence(&given_up, 0), unknown_sentence(&[], 2)), (None, None));
    }
}
