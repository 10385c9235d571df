//! Discovery through a headless Service: SRV records for names and ports, A and AAAA records for addresses, queried
//! from the cluster DNS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use node_cache_config::names::UDP_PORT_NAME;
use tokio::time::Instant;

use crate::dns::codes::{rcode, rtype};
use crate::dns::question::Question;
use crate::dns::{Name, NameError, Record, Response};
use crate::upstream::error::NoAnswer;
use crate::upstream::pool::Pool;
use crate::upstream::server::group::Group;

/// Timeout of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Most SRV targets of a Service, and most addresses of a target.
const MAX_SERVERS: usize = 64;
/// Delay of a refresh after a server went down, and so the shortest interval between two such refreshes.
const REFRESH_DELAY_AFTER_DOWN: Duration = Duration::from_millis(500);

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
    /// The cluster DNS has no SRV record, or no address of any target. The text is the rcode or the reason.
    #[error("the cluster DNS has no servers for {1} ({0})")]
    NoServers(&'static str, Name),
}

/// Addresses of the servers of a Service, sorted, and the lowest TTL of their records.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DiscoveredServers {
    addresses: Vec<SocketAddr>,
    ttl: Duration,
}

/// Keeps the discovered servers of `group` up to date with the headless Service `service` until the group is dropped:
/// refreshes them at once, then at `interval`, and soon after a server went down. A failed refresh keeps the last
/// servers.
pub(super) async fn refresh(group: Weak<Group>, cluster_dns: Pool, service: String, interval: RefreshInterval) {
    let mut failure_logged = false;
    loop {
        let result = discover(&cluster_dns, &service).await;
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
                interval.min
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = group.wait_until_server_down() => tokio::time::sleep(REFRESH_DELAY_AFTER_DOWN).await,
        }
    }
}

/// Discovers the servers of a headless Service.
///
/// # Errors
///
/// [`DiscoveryError`] when there is no address at all.
async fn discover(cluster_dns: &Pool, service: &str) -> Result<DiscoveredServers, DiscoveryError> {
    let name = Name::from_text(&format!("_{UDP_PORT_NAME}._udp.{service}"))?;
    let query = async |name: &Name, rtype| {
        let question = Arc::new(Question::plain(name, rtype));
        cluster_dns.query(question, Instant::now(), QUERY_TIMEOUT).await.into_result()
    };
    let response = query(&name, rtype::SRV).await?;
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
        return Err(DiscoveryError::NoServers(rcode::name(response.rcode()), name));
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
        return Err(DiscoveryError::NoServers("no address of any target", name));
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
