//! Discovery through a headless Service: SRV records for names and ports, A and AAAA records for addresses, queried
//! from the cluster DNS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use node_cache_config::names::{TCP_PORT_NAME, UDP_PORT_NAME};
use tokio::time::Instant;

use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Record, Response, ResponseTtl};
use crate::upstream::error::NoAnswer;
use crate::upstream::pool::Pool;
use crate::upstream::server::group::Group;

/// Timeout of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most SRV targets of a Service, and most addresses of a target.
const MAX_SERVERS: usize = 64;
/// Delay of a refresh after a server went down, and so the shortest interval between two such refreshes.
const REFRESH_DELAY_AFTER_DOWN: Duration = Duration::from_millis(500);

/// Ways to ask for the servers of a Service: by the name of its UDP or its TCP port, each with any DO and CD. A cluster
/// DNS keeps the response to each of them apart, so that a denial that it caches hides a new Service from one only.
const QUESTION_VARIANTS: u32 = 8;
/// Shortest and longest interval of the tries to discover the first servers of a group.
const FIRST_TRY_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// Bounds of the interval at which a group is refreshed. Within them, the TTL of the records decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefreshInterval {
    min: Duration,
    max: Duration,
}

/// Refresh interval of servers that are queried all the time.
pub(crate) const LOCAL_ZONE: RefreshInterval =
    RefreshInterval { min: Duration::from_secs(2), max: Duration::from_secs(5) };
/// Refresh interval of servers that are queried when those of the own zone are down.
pub(crate) const REMOTE_ZONE: RefreshInterval =
    RefreshInterval { min: Duration::from_secs(5), max: Duration::from_secs(30) };

/// Failure to discover the servers of a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum DiscoveryError {
    /// The cluster DNS did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The name of the Service is not a domain name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cluster DNS has no SRV record, or no address of any target. The text is the rcode or the reason; `ttl` is
    /// how long the cluster DNS may repeat it.
    #[error("the cluster DNS has no servers for {name} ({reason})")]
    NoServers { reason: &'static str, name: Name, ttl: Duration },
}

/// Addresses of the servers of a Service, sorted, and the lowest TTL of their records.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiscoveredServers {
    addresses: Vec<SocketAddr>,
    ttl: Duration,
}

/// Keeps the discovered servers of `group` up to date with the headless Service `service` until the group is dropped:
/// refreshes them at once, then at `interval`, and soon after a server went down. A failed refresh keeps the last
/// servers. While there are none it tries more often, and asks in another way each time.
pub(super) async fn refresh(group: Weak<Group>, cluster_dns: Pool, service: String, interval: RefreshInterval) {
    let mut failure_logged = false;
    let mut variant = 0;
    loop {
        let result = discover(&cluster_dns, &service, variant).await;
        let Some(group) = group.upgrade() else { return };
        let delay = match result {
            Ok(servers) => {
                failure_logged = false;
                group.set_discovered(&servers.addresses);
                servers.ttl.clamp(interval.min, interval.max)
            }
            Err(error) => {
                if !failure_logged {
                    tracing::warn!(scope = group.scope(), service, %error, "servers cannot be discovered");
                }
                failure_logged = true;
                if group.discovered().is_empty() {
                    variant = (variant + 1) % QUESTION_VARIANTS;
                    first_try_delay(&error)
                } else {
                    interval.min
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = group.wait_until_server_down() => tokio::time::sleep(REFRESH_DELAY_AFTER_DOWN).await,
        }
    }
}

/// Returns the delay after a try in vain to discover the first servers of a group. A denial that the cluster DNS caches
/// is over before its question is asked again.
fn first_try_delay(error: &DiscoveryError) -> Duration {
    let (shortest, longest) = FIRST_TRY_INTERVAL;
    match error {
        DiscoveryError::NoServers { ttl, .. } => (*ttl / QUESTION_VARIANTS).clamp(shortest, longest),
        DiscoveryError::NoAnswer(_) | DiscoveryError::Name(_) => shortest,
    }
}

/// Returns the name of the SRV records of a Service, and the question for a record, in one of the variants.
fn question_variant(service: &str, variant: u32) -> Result<(Name, impl Fn(&Name, u16) -> Question + use<>), NameError> {
    let (dnssec_ok, checking_disabled) = (variant & 2 != 0, variant & 4 != 0);
    let port = if variant & 1 == 0 { format!("_{UDP_PORT_NAME}._udp") } else { format!("_{TCP_PORT_NAME}._tcp") };
    let question = move |name: &Name, rtype| Question { dnssec_ok, checking_disabled, ..Question::plain(name, rtype) };
    Ok((Name::from_text(&format!("{port}.{service}"))?, question))
}

/// Discovers the servers of a headless Service, by one of the [`QUESTION_VARIANTS`].
///
/// # Errors
///
/// [`DiscoveryError`] when there is no address at all.
async fn discover(cluster_dns: &Pool, service: &str, variant: u32) -> Result<DiscoveredServers, DiscoveryError> {
    let (name, question) = question_variant(service, variant)?;
    let query = async |name: &Name, rtype| {
        let question = Arc::new(question(name, rtype));
        cluster_dns.query(question, Instant::now(), QUERY_TIMEOUT).await.into_result()
    };
    let response = query(&name, rtype::SRV).await?;
    if response.is_truncated() {
        let reason = "a truncated response, and none over TCP";
        return Err(DiscoveryError::NoServers { reason, name, ttl: Duration::ZERO });
    }
    let mut ttl = u32::MAX;
    let mut ports: HashMap<Name, u16> = HashMap::new();
    let mut hosts: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for record in response.records() {
        ttl = ttl.min(record.ttl);
        if let Some((port, target)) = parse_srv(&response, &record).filter(|_| ports.len() < MAX_SERVERS) {
            ports.insert(target, port);
        }
        add_address(&response, &record, &mut hosts);
    }
    if ports.is_empty() {
        let ttl = match response.ttl() {
            ResponseTtl::Positive(ttl) | ResponseTtl::Negative(ttl) => Duration::from_secs(ttl.into()),
            ResponseTtl::Uncacheable => Duration::ZERO,
        };
        return Err(DiscoveryError::NoServers { reason: rcode::name(response.rcode()), name, ttl });
    }
    for target in ports.keys().filter(|target| !hosts.contains_key(*target)).cloned().collect::<Vec<_>>() {
        for rtype in [rtype::A, rtype::AAAA] {
            let response = query(&target, rtype).await?;
            response.records().iter().for_each(|record| add_address(&response, record, &mut hosts));
        }
    }
    let mut addresses: Vec<SocketAddr> = ports
        .iter()
        .flat_map(|(target, port)| {
            hosts.get(target).into_iter().flatten().map(|address| SocketAddr::new(*address, *port))
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        let ttl = Duration::from_secs(ttl.into());
        return Err(DiscoveryError::NoServers { reason: "no address of any target", name, ttl });
    }
    Ok(DiscoveredServers { addresses, ttl: Duration::from_secs(ttl.into()) })
}

/// Returns port and target of an SRV record (RFC 2782); `None` for other records and for port 0.
fn parse_srv(response: &Response, record: &Record) -> Option<(u16, Name)> {
    if record.rtype != rtype::SRV || record.data.len() < 7 {
        return None;
    }
    let data = &response.wire()[record.data.clone()];
    let port = u16::from_be_bytes([data[4], data[5]]);
    let target = Name::read(response.wire(), record.data.start + 6).ok()?;
    (port != 0).then(|| (port, target.lower()))
}

/// Adds the address of an A or AAAA record to those of its owner name.
fn add_address(response: &Response, record: &Record, hosts: &mut HashMap<Name, Vec<IpAddr>>) {
    let data = &response.wire()[record.data.clone()];
    let address: Option<IpAddr> = match record.rtype {
        rtype::A => <[u8; 4]>::try_from(data).ok().map(|octets| Ipv4Addr::from(octets).into()),
        rtype::AAAA => <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    if let (Some(address), Some(owner)) = (address, response.owner(record)) {
        let addresses = hosts.entry(owner.lower()).or_default();
        if !addresses.contains(&address) && addresses.len() < MAX_SERVERS {
            addresses.push(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_variant_is_another_question_and_a_denial_is_over_before_it_is_asked_again() {
        let question = |variant| {
            let (name, question) = question_variant("dns.example.svc.cluster.local", variant).unwrap();
            let Question { name, dnssec_ok, checking_disabled, .. } = question(&name, rtype::SRV);
            (name.to_string(), dnssec_ok, checking_disabled)
        };
        let variants: HashSet<_> = (0..QUESTION_VARIANTS).map(question).collect();
        assert_eq!(variants.len(), QUESTION_VARIANTS as usize);
        let denied = |seconds| {
            let ttl = Duration::from_secs(seconds);
            first_try_delay(&DiscoveryError::NoServers { reason: "NXDOMAIN", name: Name::root(), ttl })
        };
        for seconds in [5, 30] {
            assert!(denied(seconds) * QUESTION_VARIANTS >= Duration::from_secs(seconds));
        }
        assert!(denied(30) < Duration::from_secs(5) && denied(3600) < Duration::from_secs(5));
        assert_eq!(first_try_delay(&NoAnswer.into()), Duration::from_secs(1));
    }
}
