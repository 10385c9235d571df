//! Captured addresses on the node's interface, each with a lifetime that the kernel ends.
//!
//! The addresses are added to `lo`, not to a link of our own: `lo` exists on every node and needs no kernel module, and
//! nothing of a killed agent stays once the lifetimes have ended, where a link would stay. The kernel selects none of
//! these addresses as a source address: the IPv4 ones have host scope, the IPv6 ones are deprecated from the start (RFC
//! 6724 §5, rule 3).
//!
//! An address without a lifetime, or on another link, belongs to another program (NodeLocal DNSCache, kube-proxy in
//! IPVS mode) and is left alone.

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

/// Link that carries the addresses.
const LINK: &str = "lo";
/// Time for the kernel to answer a netlink request.
const NETLINK_TIMEOUT: Duration = Duration::from_millis(500);
/// Wire value of a lifetime without end.
const UNLIMITED_LIFETIME: u32 = u32::MAX;

/// Failure to read or change the node's addresses.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The kernel refused.
    #[error("{action}: {source}")]
    Refused {
        /// Request that failed.
        action: String,
        /// Error of the kernel.
        source: rtnetlink::Error,
    },
    /// The netlink socket cannot be opened.
    #[error("no netlink socket can be opened: {0}")]
    Open(#[from] std::io::Error),
    /// The kernel did not answer.
    #[error("{0}: the kernel did not answer within {NETLINK_TIMEOUT:?}")]
    Silent(String),
    /// The link is not there.
    #[error("this network namespace has no link {LINK}")]
    NoLink,
}

/// Presence of an address on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Remaining lifetime, if an agent added it.
    pub(crate) remaining: Option<Duration>,
    /// Name of the link on which another program added it.
    pub(crate) foreign_link: Option<String>,
}

/// Interface that carries the addresses.
#[derive(Debug)]
pub(crate) struct Interface {
    handle: Handle,
    index: u32,
    connection: JoinHandle<()>,
}

impl Interface {
    /// Opens a netlink connection.
    ///
    /// # Errors
    ///
    /// There is no netlink, or no link to carry the addresses.
    pub(crate) async fn open() -> Result<Self, InterfaceError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let mut links = handle.link().get().match_name(LINK.to_owned()).execute();
        let link = with_timeout("find the link", links.try_next()).await?.ok_or(InterfaceError::NoLink)?;
        drop(links);
        Ok(Self { handle, index: link.header.index, connection })
    }

    /// Returns a handle of the netlink connection, which ends with the interface.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns which of these addresses are on any link of the node, and how.
    ///
    /// # Errors
    ///
    /// The kernel does not list its addresses.
    pub(crate) async fn presence_of(
        &self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Presence>, InterfaceError> {
        let mut found: BTreeMap<IpAddr, Presence> = BTreeMap::new();
        let all = self.handle.address().get().execute().try_collect::<Vec<_>>();
        for message in with_timeout("list the addresses", all).await? {
            let Some(address) = address_of(&message).filter(|address| addresses.contains(address)) else { continue };
            match self.remaining_lifetime(&message) {
                Some(remaining) => found.entry(address).or_default().remaining = Some(remaining),
                None => {
                    found.entry(address).or_default().foreign_link = Some(self.link_name(message.header.index).await);
                }
            }
        }
        Ok(found)
    }

    /// Adds an address with this lifetime, or renews it. The lifetime is cut to whole seconds.
    ///
    /// # Errors
    ///
    /// The kernel refuses, which for IPv6 it does on a node without it.
    pub(crate) async fn put(&self, address: IpAddr, lifetime: Duration) -> Result<(), InterfaceError> {
        let mut request = self.handle.address().add(self.index, address, host_prefix_length(address)).replace();
        let mut times = CacheInfo::default();
        times.ifa_valid = u32::try_from(lifetime.as_secs()).unwrap_or(UNLIMITED_LIFETIME);
        times.ifa_preferred = 0;
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::CacheInfo(times));
        if address.is_ipv4() {
            message.header.scope = AddressScope::Host;
        } else {
            // No other host is on this link, so duplicate address detection would only delay.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        with_timeout(&format!("put {address} on {LINK}"), request.execute()).await
    }

    /// Removes an address from the node.
    ///
    /// # Errors
    ///
    /// The kernel refuses; it is not an error if the address is not there.
    pub(crate) async fn remove(&self, address: IpAddr) -> Result<(), InterfaceError> {
        let message = match address {
            IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(self.index)
                .address(v4, host_prefix_length(address))
                .build(),
            IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(self.index)
                .address(v6, host_prefix_length(address))
                .build(),
        };
        let request = self.handle.address().del(message).execute();
        match with_timeout(&format!("take {address} from {LINK}"), request).await {
            Err(InterfaceError::Refused { source: rtnetlink::Error::NetlinkError(error), .. })
                if error.raw_code() == -nix::libc::EADDRNOTAVAIL =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Returns the remaining lifetime of an address that an agent added; `None` for every other address.
    fn remaining_lifetime(&self, message: &AddressMessage) -> Option<Duration> {
        if message.header.index != self.index {
            return None;
        }
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(times) if times.ifa_valid != UNLIMITED_LIFETIME => {
                Some(Duration::from_secs(times.ifa_valid.into()))
            }
            _ => None,
        })
    }

    async fn link_name(&self, index: u32) -> String {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = timeout(NETLINK_TIMEOUT, links.next()).await.ok().flatten().and_then(Result::ok);
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

async fn with_timeout<T>(
    action: &str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, InterfaceError> {
    match timeout(NETLINK_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(InterfaceError::Refused { action: action.to_owned(), source }),
        Err(_) => Err(InterfaceError::Silent(action.to_owned())),
    }
}

fn host_prefix_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Returns the node's own address; on a point-to-point link `Address` is the peer's.
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
