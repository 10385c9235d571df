//! What all servers of a process share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::loop_probe::Loops;
use crate::dnstap::Tap;

/// What all servers of a process share, whatever the revision.
#[derive(Debug, Default)]
pub struct Commons {
    /// Where their messages can be looked at.
    pub tap: Arc<Tap>,
    /// Whether they forward to this process.
    pub loops: Loops,
    /// The numbers of their addresses.
    pub numbers: Numbers,
}

/// A number for each address, so that an answer is kept with whom it came from in two octets. None is ever given anew: an answer
/// may outlive its server.
#[derive(Debug, Default)]
pub struct Numbers(Mutex<Vec<SocketAddr>>);

impl Numbers {
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
        let numbers = Numbers::default();
        let address = |number: u32| SocketAddr::from((std::net::Ipv4Addr::from(number), 53));
        assert_eq!([7, 8, 7].map(|number| numbers.of(address(number))), [1, 2, 1]);
        assert_eq!((numbers.address(0), numbers.address(2), numbers.address(3)), (None, Some(address(8)), None));
        numbers.0.lock().unwrap().extend((0..65_533).map(address));
        assert_eq!(numbers.of(address(70_000)), 0);
    }
}
