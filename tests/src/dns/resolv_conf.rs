//! Reader of `/etc/resolv.conf`, as far as tests need it.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Path of the file.
pub const PATH: &str = "/etc/resolv.conf";

/// Servers and search path of a pod (resolv.conf(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers, in their order.
    pub nameservers: Vec<IpAddr>,
    /// Suffixes to try, in their order.
    pub search: Vec<Name>,
    /// Minimum number of dots in a name that is tried without a suffix first.
    pub ndots: usize,
}

impl ResolvConf {
    /// Parses the file; lines of no use are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self { nameservers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    conf.nameservers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search") => conf.search = words.filter_map(|word| Name::from_ascii(word).ok()).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    conf.ndots = ndots.unwrap_or(conf.ndots);
                }
                _ => {}
            }
        }
        conf
    }

    /// Returns the full names that a stub resolver tries for a name, in their order.
    #[must_use]
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name.clone()];
        }
        let mut names: Vec<_> =
            self.search.iter().filter_map(|suffix| absolute(name.clone().append_domain(suffix).ok()?)).collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let position = if dots >= self.ndots { 0 } else { names.len() };
        names.splice(position..position, absolute(name.clone()));
        names
    }
}

/// Returns the name with its final dot.
fn absolute(mut name: Name) -> Option<Name> {
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "\
search lab.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
nameserver fd96::a
options ndots:5
";

    fn candidates(name: &str) -> Vec<String> {
        let names = ResolvConf::parse(POD).candidates(&Name::from_ascii(name).unwrap());
        names.iter().map(Name::to_string).collect()
    }

    #[test]
    fn the_file_of_a_pod_is_understood() {
        let conf = ResolvConf::parse(POD);
        assert_eq!(conf.nameservers, ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd96::a".parse().unwrap()]);
        assert_eq!((conf.search.len(), conf.ndots), (3, 5));
    }

    #[test]
    fn a_short_name_is_tried_with_every_suffix_first() {
        let expected =
            ["web.lab.svc.cluster.local.", "web.svc.cluster.local.", "web.cluster.local.", "web."].map(str::to_owned);
        assert_eq!(candidates("web"), expected);
    }

    #[test]
    fn a_name_with_many_dots_is_tried_as_it_is_first() {
        assert_eq!(candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
    }

    #[test]
    fn a_full_name_gets_no_suffix() {
        assert_eq!(candidates("web."), ["web."]);
    }
}
