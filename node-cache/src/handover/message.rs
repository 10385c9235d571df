//! Messages of the handover, and the mapping between sockets and what a message carries of them.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::socket::{HeldSocket, Protocol};
use crate::dns::cookie_secret::CookieSecret;

/// Version of the messages. Both sides come from one pod, so that a difference means a pod with two different images.
pub const VERSION: u32 = 2;

/// Address and protocol of a socket, as a message lists them. The descriptor is passed as ancillary data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketName {
    pub(super) address: IpAddr,
    pub(super) protocol: Protocol,
}

/// Message of the handover, as JSON. Descriptors have the order of the list of sockets in the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(super) enum Message {
    /// First message of an instance: its name and the sockets that it holds already, which it offers to the agent.
    Hello { version: u32, instance: String, held: Vec<SocketName> },
    /// All sockets of the node, from the agent. An instance closes those that the list does not contain.
    Sockets { version: u32, sockets: Vec<SocketName>, secret: CookieSecret },
    /// Rejection of the instance by the agent.
    Refused { version: u32, reason: String },
}

impl Message {
    /// Returns the number of sockets that the message lists, and so the number of descriptors that belong to it.
    pub(super) fn socket_count(&self) -> usize {
        match self {
            Self::Hello { held, .. } => held.len(),
            Self::Sockets { sockets, .. } => sockets.len(),
            Self::Refused { .. } => 0,
        }
    }
}

/// Returns the list of these sockets for a message.
pub(super) fn socket_names(sockets: &[HeldSocket]) -> Vec<SocketName> {
    sockets.iter().map(|socket| SocketName { address: socket.address, protocol: socket.protocol }).collect()
}

/// Returns the descriptors of these sockets, in the order of [`socket_names`].
pub(super) fn socket_fds(sockets: &[HeldSocket]) -> Vec<BorrowedFd<'_>> {
    sockets.iter().map(AsFd::as_fd).collect()
}

/// Combines the names and the descriptors of a received message. They are equally many: the frame was checked for it.
pub(super) fn received_sockets(names: &[SocketName], fds: Vec<OwnedFd>) -> Vec<HeldSocket> {
    names
        .iter()
        .zip(fds)
        .map(|(name, fd)| HeldSocket { address: name.address, protocol: name.protocol, fd: Arc::new(fd) })
        .collect()
}
