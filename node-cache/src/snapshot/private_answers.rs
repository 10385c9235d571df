//! Filter of answers for outside names that lead to addresses inside (DNS rebinding): which addresses are refused, and
//! which names may have them.
//!
//! The filter belongs to the scope `outside` of a node. It is applied to each response before the cache stores it, and
//! its settings are part of the scope's ID, so that no entry of another filter is ever served.

use std::net::IpAddr;

use node_cache_config::{NodeCache, PrivateAnswers};

use super::private_addresses::{embedded_ipv4, is_private};
use crate::dns::{Header, Name, Response, Section};

/// Suffixes whose names may have private addresses, whoever answers: multicast DNS (RFC 6762) and home networks (RFC
/// 8375). The private suffixes of the configuration belong beside them.
const EXEMPT_SUFFIXES: [&str; 2] = ["local", "home.arpa"];

/// Filter of answers for outside names that hold private or captured addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrivateAnswerFilter {
    /// Captured addresses that are not private, in ascending order.
    captured: Vec<IpAddr>,
    /// Suffixes whose names may have any address, in lower case and in order.
    exempt: Vec<Name>,
}

/// Result of filtering a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterResult {
    /// The response for clients and the cache.
    pub response: Response,
    /// Whether it takes the place of one that was refused.
    pub is_refused: bool,
}

impl PrivateAnswerFilter {
    /// Returns the filter of a configuration, from which these suffixes are exempt; `None` when private addresses are
    /// allowed.
    pub(super) fn new(config: &NodeCache, private_suffixes: &[String]) -> Option<Self> {
        if config.private_answers == PrivateAnswers::Allow {
            return None;
        }
        let addresses = config.captured.iter().map(|captured| captured.address);
        let mut captured: Vec<_> = addresses.filter(|address| !is_private(*address)).collect();
        captured.sort_unstable();
        let mut suffixes: Vec<&str> = private_suffixes.iter().map(String::as_str).chain(EXEMPT_SUFFIXES).collect();
        suffixes.sort_unstable();
        let exempt = suffixes.into_iter().filter_map(|suffix| Some(Name::from_text(suffix).ok()?.lower()));
        Some(Self { captured, exempt: exempt.collect() })
    }

    /// Filters a response. A private address in the answer section refuses the response as a whole. In the sections
    /// behind, on which no client may rely, and in a failure it costs the records of its section and of those behind.
    /// The name in the question decides whether the response is exempt, not the names to which it leads.
    #[must_use]
    pub fn apply(&self, response: Response) -> FilterResult {
        let section = response.section_with_address(|address| self.refuses(address));
        match section.filter(|_| !self.is_exempt(&response)) {
            None => FilterResult { response, is_refused: false },
            Some(Section::Answer) if !response.is_failure() => {
                FilterResult { response: response.blocked(), is_refused: true }
            }
            Some(section) => FilterResult { response: response.without_sections_from(section), is_refused: false },
        }
    }

    fn is_exempt(&self, response: &Response) -> bool {
        let name = Name::read(response.wire(), Header::LENGTH);
        name.is_ok_and(|name| self.exempt.iter().any(|suffix| name.is_within(suffix)))
    }

    fn refuses(&self, address: IpAddr) -> bool {
        let embedded = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => embedded_ipv4(address).map(IpAddr::V4),
        };
        let mut forms = [Some(address), embedded].into_iter().flatten();
        forms.any(|address| is_private(address) || self.captured.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use node_cache_config::Captured;

    use super::*;
    use crate::dns::codes::{ede, rcode, rtype};
    use crate::dns::question::Question;

    fn filter(captured: &[&str]) -> PrivateAnswerFilter {
        let captured = captured.iter().map(|address| Captured { address: address.parse().unwrap(), service: true });
        let private_answers = PrivateAnswers::Refuse;
        let config = NodeCache { captured: captured.collect(), private_answers, ..NodeCache::default() };
        PrivateAnswerFilter::new(&config, &["corp.example".to_owned()]).unwrap()
    }

    fn is_refused(name: &str, address: [u8; 4]) -> bool {
        let question = Question::plain(&Name::from_text(name).unwrap(), rtype::A);
        let response = Response::with_records(&question, rcode::NOERROR, &[(rtype::A, 60, address.to_vec())]);
        let FilterResult { response: filtered, is_refused } = filter(&["169.254.20.10"]).apply(response.clone());
        assert_eq!(filtered == response, !is_refused, "{name}");
        assert_eq!(filtered.ede() == Some(ede::BLOCKED), is_refused, "{name}");
        is_refused
    }

    #[test]
    fn there_is_no_filter_where_private_answers_are_allowed() {
        assert_eq!(PrivateAnswerFilter::new(&NodeCache::default(), &["corp.example".to_owned()]), None);
    }

    #[test]
    fn names_below_local_home_arpa_and_private_suffixes_may_have_private_addresses_and_no_others() {
        for exempt in ["local", "nas.local", "home.arpa", "a.b.home.arpa", "corp.example", "DB.Corp.example"] {
            assert!(!is_refused(exempt, [10, 0, 0, 1]), "{exempt}");
        }
        for other in ["example", "xcorp.example", "local.example", "alocal", "xhome.arpa", "arpa", "."] {
            assert!(is_refused(other, [10, 0, 0, 1]), "{other}");
            assert!(!is_refused(other, [192, 0, 2, 1]), "{other}");
        }
    }

    #[test]
    fn a_captured_address_is_refused_in_every_form_whether_it_is_private_or_not() {
        let filter = filter(&["203.0.113.10", "2001:db8::53", "10.96.0.10"]);
        for captured in ["203.0.113.10", "::ffff:203.0.113.10", "64:ff9b::203.0.113.10", "2001:db8::53", "10.96.0.10"] {
            assert!(filter.refuses(captured.parse().unwrap()), "{captured}");
        }
        for other in ["203.0.113.11", "::ffff:203.0.113.11", "2001:db8::54", "127.0.0.1"] {
            assert!(!filter.refuses(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_filter_differs_only_by_what_it_refuses() {
        assert_eq!(filter(&["169.254.20.10", "203.0.113.10"]), filter(&["203.0.113.10", "10.96.0.10"]));
        assert_eq!(filter(&["203.0.113.10", "203.0.113.9"]), filter(&["203.0.113.9", "203.0.113.10"]));
        assert_ne!(filter(&["203.0.113.10"]), filter(&["203.0.113.9"]));
    }
}
