//! What all servers of a process share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::loop_probe::LoopProbes;
use crate::dnstap::Tap;

/// What all servers of a process share, whatever the revision.
#[derive(Debug, Default)]
pub struct UpstreamContext {
    /// Where their messages can be looked at.
    pub tap: Arc<Tap>,
    /// Whether they forward to this process.
    pub loop_probes: LoopProbes,
    /// The numbers of their addresses.
    pub server_ids: ServerIds,
}

/// A number for each address, so that an answer is kept with whom it came from in two octets. None is ever given anew: an answer
/// may outlive its server.
#[derive(Debug, Default)]
pub struct ServerIds(Mutex<Vec<SocketAddr>>);

impl ServerIds {
    /// The number of an address, from 1; 0 when there are no more.
    pub(in crate::upstream) fn of(&self, address: SocketAddr) -> u16 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|each| *each == address).or_else(|| {
            let more = known.len() < usize::from(u16::MAX);
            more.then(|| {
                known.push(address);
                known.len() - 1
            })
        });
        place.and_then(|place| u16::try_from(place + 1).ok()).unwrap_or_default()
    }

    /// The address with this number.
    #[must_use]
    pub fn address(&self, number: u16) -> Option<SocketAddr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(usize::from(number).checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_number_and_there_are_no_more_than_two_octets_tell() {
        let server_ids = ServerIds::default();
        let address = |number: u32| SocketAddr::from((std::net::Ipv4Addr::from(number), 53));
        assert_eq!([7, 8, 7].map(|number| server_ids.of(address(number))), [1, 2, 1]);
        assert_eq!(
            (server_ids.address(0), server_ids.address(2), server_ids.address(3)),
            (None, Some(address(8)), None)
        );
        server_ids.0.lock().unwrap().extend((0..65_533).map(address));
        assert_eq!(server_ids.of(address(70_000)), 0);
    }
}
