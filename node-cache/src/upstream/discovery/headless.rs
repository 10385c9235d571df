//! Finding servers through a headless Service: SRV for their names and ports, A and AAAA for their addresses, asked
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
use crate::upstream::server::Group;

/// How long one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The most servers that are taken from one Service.
const MOST: usize = 64;
/// After a server died it is not looked for new ones more often than this.
const REST: Duration = Duration::from_millis(500);

/// How often a group is looked for: as often as its records ask for it, within these bounds.
#[derive(Clone, Copy, Debug)]
pub struct RefreshInterval {
    /// Not more often than this.
    pub shortest: Duration,
    /// Not less often than this.
    pub longest: Duration,
}

/// Servers that are asked all the time.
pub const LOCAL_ZONE: RefreshInterval =
    RefreshInterval { shortest: Duration::from_secs(2), longest: Duration::from_secs(5) };
/// Servers that are asked when the near ones do not answer.
pub const REMOTE_ZONE: RefreshInterval =
    RefreshInterval { shortest: Duration::from_secs(5), longest: Duration::from_secs(30) };

/// Why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No server answered.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The name of the Service is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The cluster DNS says that there is nothing.
    #[error("the cluster DNS knows none for {1} (it says {0})")]
    Nothing(&'static str, Name),
}

/// Looks for the servers of `group` behind the headless Service `service` until the group is gone: at once, then as
/// often as `interval` says, and at once again when one of its servers dies. What is known stays when nothing is found.
pub async fn follow(group: Weak<Group>, cluster_dns: Pool, service: String, interval: RefreshInterval) {
    let mut told = false;
    loop {
        let found = find(&cluster_dns, &service).await;
        let Some(group) = group.upgrade() else { return };
        let pause = match found {
            Ok((addresses, ttl)) => {
                told = false;
                group.learn(&addresses);
                ttl.clamp(interval.shortest, interval.longest)
            }
            Err(error) => {
                if !told {
                    tracing::warn!("{}: the servers of {service} were not found: {error}", group.scope());
                }
                told = true;
                interval.shortest
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = group.went_down() => tokio::time::sleep(REST).await,
        }
    }
}

/// The addresses behind a headless Service and how long they may be believed.
///
/// # Errors
///
/// [`DiscoveryError`] when there is no address at all.
pub async fn find(cluster_dns: &Pool, service: &str) -> Result<(Vec<SocketAddr>, Duration), DiscoveryError> {
    let name = Name::from_text(&format!("_{UDP_PORT_NAME}._udp.{service}"))?;
    let response = cluster_dns.ask(Arc::new(Question::plain(&name, rtype::SRV)), Instant::now(), LIMIT).await?;
    let mut ttl = u32::MAX;
    let mut ports: HashMap<Name, u16> = HashMap::new();
    let mut hosts: HashMap<Name, Vec<IpAddr>> = HashMap::new();
    for record in response.records() {
        ttl = ttl.min(record.ttl);
        if let Some((port, target)) = srv(&response, &record).filter(|_| ports.len() < MOST) {
            ports.insert(target, port);
        }
        add_address(&response, &record, &mut hosts);
    }
    if ports.is_empty() {
        return Err(DiscoveryError::Nothing(rcode::name(response.rcode()), name));
    }
    for target in ports.keys().filter(|target| !hosts.contains_key(*target)).cloned().collect::<Vec<_>>() {
        for kind in [rtype::A, rtype::AAAA] {
            let response = cluster_dns.ask(Arc::new(Question::plain(&target, kind)), Instant::now(), LIMIT).await?;
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
        return Err(DiscoveryError::Nothing("no address of any", name));
    }
    Ok((addresses, Duration::from_secs(ttl.into())))
}

/// Port and target of an SRV record (RFC 2782).
fn srv(response: &Response, record: &Record) -> Option<(u16, Name)> {
    if record.rtype != rtype::SRV || record.data.len() < 7 {
        return None;
    }
    let data = &response.wire()[record.data.clone()];
    let port = u16::from_be_bytes([data[4], data[5]]);
    let target = Name::read(response.wire(), record.data.start + 6).ok()?;
    (port != 0).then(|| (port, target.lower()))
}

fn add_address(response: &Response, record: &Record, hosts: &mut HashMap<Name, Vec<IpAddr>>) {
    let data = &response.wire()[record.data.clone()];
    let address: Option<IpAddr> = match record.rtype {
        rtype::A => <[u8; 4]>::try_from(data).ok().map(|octets| Ipv4Addr::from(octets).into()),
        rtype::AAAA => <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    };
    if let (Some(address), Some(owner)) = (address, response.owner(record)) {
        let known = hosts.entry(owner.lower()).or_default();
        if !known.contains(&address) && known.len() < MOST {
            known.push(address);
        }
    }
}

/// A group that is looked for as long as this lives.
#[derive(Debug)]
pub(in crate::upstream) struct GroupHandle {
    pub(in crate::upstream) group: Arc<Group>,
    pub(in crate::upstream) task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for GroupHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
