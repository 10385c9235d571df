//! Route lookups for packets of pods: what the kernel does with a query that arrives on a pod's link.
//!
//! Self-queries pass over `lo`, where neither the policy rules nor the routes for packets of pods apply. `RTM_GETROUTE`
//! with an input link makes the kernel decide as for a packet that arrives there; it needs no right and sends nothing.
//!
//! Pods are the neighbours (ARP, NDP) on links to other network namespaces. Each pod is looked up for the node's own
//! address as well: where that fails too, the fault is the pod's (a source address that is not valid on its link), and
//! says nothing of the captured address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use nix::libc;
use node_cache_config::names::DNS_PORT;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Error, Handle};
use tokio::time::timeout;

use super::pod_reachability::RouteLookups;

/// Pods that are looked up in one check, for each family; others are chosen for the next check.
const MAX_PODS: usize = 16;
/// Time for which the list of links is used.
const LINKS_LIFETIME: Duration = Duration::from_secs(30);
/// Time for all lookups of one check. A check that takes longer says nothing.
const CHECK_TIMEOUT: Duration = Duration::from_millis(300);
/// Addresses outside of every network (RFC 5737, RFC 3849): their route is the default route.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Neighbour on a link that leads to pods.
#[derive(Clone, Copy, Debug)]
struct Pod {
    address: IpAddr,
    link: u32,
}

/// Decision of the kernel on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Delivered,
    /// Not delivered; the participle says what becomes of the packet.
    Undelivered(&'static str),
}

/// Route lookups of one node.
#[derive(Debug)]
pub(super) struct PodRoutes {
    handle: Handle,
    /// Addresses of the node itself, one of each family is enough.
    node_addresses: Vec<IpAddr>,
    /// Names of the links to pods, by index.
    links: BTreeMap<u32, String>,
    links_read_at: Option<Instant>,
}

impl PodRoutes {
    /// Returns lookups over this netlink connection, on the node with these addresses.
    pub(super) fn new(handle: Handle, node_addresses: Vec<IpAddr>) -> Self {
        Self { handle, node_addresses, links: BTreeMap::new(), links_read_at: None }
    }

    /// Looks up the routes of pods' packets to these addresses. Empty when the kernel does not answer in time.
    pub(super) async fn look_up(&mut self, addresses: &[IpAddr]) -> BTreeMap<IpAddr, RouteLookups> {
        match timeout(CHECK_TIMEOUT, self.look_up_all(addresses)).await {
            Ok(Ok(lookups)) => lookups,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the routes of pods cannot be looked up");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        }
    }

    async fn look_up_all(&mut self, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, RouteLookups>, Error> {
        self.read_links().await?;
        let mut lookups: BTreeMap<IpAddr, RouteLookups> =
            addresses.iter().map(|address| (*address, RouteLookups::default())).collect();
        for is_ipv4 in [true, false] {
            let captured: Vec<IpAddr> = addresses.iter().filter(|ip| ip.is_ipv4() == is_ipv4).copied().collect();
            let own = self.node_addresses.iter().find(|ip| ip.is_ipv4() == is_ipv4 && !addresses.contains(ip));
            let Some(&own) = own.filter(|_| !captured.is_empty()) else { continue };
            for pod in self.some_pods(is_ipv4).await? {
                if self.decide(pod, own).await? != Decision::Delivered {
                    continue;
                }
                for &address in &captured {
                    let decision = self.decide(pod, address).await?;
                    self.count(lookups.entry(address).or_default(), pod, decision);
                }
            }
        }
        Ok(lookups)
    }

    fn count(&self, lookups: &mut RouteLookups, pod: Pod, decision: Decision) {
        match decision {
            Decision::Delivered => lookups.delivered += 1,
            Decision::Undelivered(fate) => {
                lookups.undelivered += 1;
                let link = self.links.get(&pod.link).map(String::as_str).unwrap_or_default();
                lookups.example = Some(format!("a packet from {} on {link} is {fate}", pod.address));
            }
        }
    }

    /// Reads the links to pods: those to other network namespaces, except one with the default route.
    async fn read_links(&mut self) -> Result<(), Error> {
        if self.links_read_at.is_some_and(|at| at.elapsed() < LINKS_LIFETIME) {
            return Ok(());
        }
        let mut uplinks = Vec::new();
        for destination in OUTSIDE {
            // Without a route there is no uplink of this family.
            uplinks.extend(self.route(destination, None).await.ok().as_ref().and_then(output_link));
        }
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        let to_pods = links.iter().filter(|link| leads_to_pods(link) && !uplinks.contains(&link.header.index));
        self.links = to_pods.map(|link| (link.header.index, name(link))).collect();
        self.links_read_at = Some(Instant::now());
        Ok(())
    }

    /// Returns at most [`MAX_PODS`] pods of a family, chosen at random.
    async fn some_pods(&self, is_ipv4: bool) -> Result<Vec<Pod>, Error> {
        let family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let neighbours = self.handle.neighbours().get().set_address_family(family).execute();
        let neighbours: Vec<NeighbourMessage> = neighbours.try_collect().await?;
        let pods = neighbours.iter().filter_map(pod);
        let mut pods: Vec<Pod> = pods.filter(|pod| self.links.contains_key(&pod.link)).collect();
        pods.sort_by_cached_key(|_| rand::random::<u32>());
        pods.truncate(MAX_PODS);
        Ok(pods)
    }

    /// Returns what the kernel does with a query of a pod to this address.
    async fn decide(&self, pod: Pod, destination: IpAddr) -> Result<Decision, Error> {
        match self.route(destination, Some(pod)).await {
            Ok(route) => Ok(match route.header.kind {
                RouteType::Local => Decision::Delivered,
                RouteType::Unicast => Decision::Undelivered("forwarded"),
                _ => Decision::Undelivered("dropped"),
            }),
            Err(Error::NetlinkError(error)) => Ok(Decision::Undelivered(match -error.raw_code() {
                libc::EACCES => "prohibited",
                libc::EHOSTUNREACH | libc::ENETUNREACH => "rejected as unreachable",
                _ => "dropped",
            })),
            Err(error) => Err(error),
        }
    }

    /// Looks up the route of a UDP packet to port 53: of one that arrives from a pod, or of one that the node sends.
    async fn route(&self, destination: IpAddr, from: Option<Pod>) -> Result<RouteMessage, Error> {
        let mut query = RouteMessage::default();
        let is_ipv4 = destination.is_ipv4();
        let prefix_length = if is_ipv4 { 32 } else { 128 };
        query.header.address_family = if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        query.header.destination_prefix_length = prefix_length;
        query.attributes.push(RouteAttribute::Destination(destination.into()));
        query.attributes.push(RouteAttribute::IpProto(u8::try_from(libc::IPPROTO_UDP).unwrap_or_default()));
        query.attributes.push(RouteAttribute::Dport(DNS_PORT));
        if let Some(pod) = from {
            query.header.source_prefix_length = prefix_length;
            query.attributes.push(RouteAttribute::Source(pod.address.into()));
            query.attributes.push(RouteAttribute::Iif(pod.link));
        }
        let mut routes = self.handle.route().get(query).execute();
        routes.next().await.unwrap_or(Err(Error::RequestFailed))
    }
}

/// Returns whether a link leads to other network namespaces of this host, as those of pods.
fn leads_to_pods(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return false };
        infos.iter().any(|info| match info {
            LinkInfo::Kind(InfoKind::Veth | InfoKind::Bridge | InfoKind::Netkit) => true,
            LinkInfo::Kind(InfoKind::Other(kind)) => kind == "openvswitch",
            _ => false,
        })
    })
}

fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn output_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// Returns the pod that a neighbour is; `None` for one that does not respond, and for a link-local address.
fn pod(neighbour: &NeighbourMessage) -> Option<Pod> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let is_there = matches!(neighbour.header.state, Reachable | Stale | Delay | Probe | Permanent);
    let address = neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            (!address.is_unicast_link_local() && !address.is_multicast()).then_some(IpAddr::from(*address))
        }
        _ => None,
    })?;
    is_there.then_some(Pod { address, link: neighbour.header.ifindex })
}
