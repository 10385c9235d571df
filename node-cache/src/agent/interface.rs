//! The captured addresses on the node, each with a lifetime that the kernel ends.
//!
//! They go on `lo` and on no link of our own: `lo` is there on every node and needs no kernel module, and nothing is
//! left of an agent that was killed once the lifetimes have ended, where a link would stay. Nothing takes one of these
//! addresses as the source of its own packets: the IPv4 ones have the scope of the host, the IPv6 ones are deprecated
//! from the start (RFC 6724 §5, rule 3).
//!
//! An address that lives for ever, or that is on another link, was put there by somebody else (NodeLocal DNSCache,
//! kube-proxy in IPVS mode) and is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{AddressMessageBuilder, Handle};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The link that carries the addresses.
const LINK: &str = "lo";
/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_millis(500);
/// A lifetime without end, on the wire.
const FOR_EVER: u32 = u32::MAX;

/// Why the node's addresses could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel refused.
    #[error("{action}: {source}")]
    Refused {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The netlink socket cannot be opened.
    #[error("no netlink socket can be opened: {0}")]
    Open(#[from] std::io::Error),
    /// The kernel did not answer.
    #[error("{0}: the kernel did not answer within {PATIENCE:?}")]
    Silent(String),
    /// The link is not there.
    #[error("this network namespace has no link {LINK}")]
    NoLink,
}

/// How an address is on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// It was put there by an agent, and this much of its lifetime is left.
    pub left: Option<Duration>,
    /// It was put there by somebody else, on the link of this name.
    pub foreign: Option<String>,
}

/// The link that carries the addresses.
#[derive(Debug)]
pub struct Interface {
    handle: Handle,
    index: u32,
    connection: JoinHandle<()>,
}

impl Interface {
    /// Opens a connection to the kernel.
    ///
    /// # Errors
    ///
    /// There is no netlink, or no link to carry the addresses.
    pub async fn open() -> Result<Self, InterfaceError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let mut links = handle.link().get().match_name(LINK.to_owned()).execute();
        let link = in_time("find the link", links.try_next()).await?.ok_or(InterfaceError::NoLink)?;
        drop(links);
        Ok(Self { handle, index: link.header.index, connection })
    }

    /// Looks for these addresses on all links of the node. What is not there is not in the answer.
    ///
    /// # Errors
    ///
    /// The kernel does not list its addresses.
    pub async fn look_for(&self, addresses: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Presence>, InterfaceError> {
        let mut found: BTreeMap<IpAddr, Presence> = BTreeMap::new();
        let all = self.handle.address().get().execute().try_collect::<Vec<_>>();
        for message in in_time("list the addresses", all).await? {
            let Some(address) = address_of(&message).filter(|address| addresses.contains(address)) else { continue };
            match self.lifetime_of_ours(&message) {
                Some(left) => found.entry(address).or_default().left = Some(left),
                None => found.entry(address).or_default().foreign = Some(self.link_name(message.header.index).await),
            }
        }
        Ok(found)
    }

    /// Puts an address on the node for this long, or lets it live this long from now. Whole seconds.
    ///
    /// # Errors
    ///
    /// The kernel refuses, which for IPv6 it does on a node without it.
    pub async fn put(&self, address: IpAddr, lifetime: Duration) -> Result<(), InterfaceError> {
        let mut request = self.handle.address().add(self.index, address, full_length(address)).replace();
        let mut times = CacheInfo::default();
        times.ifa_valid = u32::try_from(lifetime.as_secs()).unwrap_or(FOR_EVER);
        times.ifa_preferred = 0;
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::CacheInfo(times));
        if address.is_ipv4() {
            message.header.scope = AddressScope::Host;
        } else {
            // Nobody else on this link can have it, so there is nothing to wait for.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        in_time(&format!("put {address} on {LINK}"), request.execute()).await
    }

    /// Takes an address from the node.
    ///
    /// # Errors
    ///
    /// The kernel refuses; it is not an error if the address is not there.
    pub async fn remove(&self, address: IpAddr) -> Result<(), InterfaceError> {
        let message = match address {
            IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(self.index)
                .address(v4, full_length(address))
                .build(),
            IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(self.index)
                .address(v6, full_length(address))
                .build(),
        };
        let request = self.handle.address().del(message).execute();
        match in_time(&format!("take {address} from {LINK}"), request).await {
            Err(InterfaceError::Refused { source: rtnetlink::Error::NetlinkError(error), .. })
                if error.raw_code() == -nix::libc::EADDRNOTAVAIL =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// What is left of an address that an agent put here; none for every other one.
    fn lifetime_of_ours(&self, message: &AddressMessage) -> Option<Duration> {
        if message.header.index != self.index {
            return None;
        }
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(times) if times.ifa_valid != FOR_EVER => {
                Some(Duration::from_secs(times.ifa_valid.into()))
            }
            _ => None,
        })
    }

    async fn link_name(&self, index: u32) -> String {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = timeout(PATIENCE, links.next()).await.ok().flatten().and_then(Result::ok);
        let name = link.and_then(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        name.unwrap_or_else(|| format!("number {index}"))
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn in_time<T>(
    action: &str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, InterfaceError> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(InterfaceError::Refused { action: action.to_owned(), source }),
        Err(_) => Err(InterfaceError::Silent(action.to_owned())),
    }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The node's own address; on a link between two hosts `Address` is the other one.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}
