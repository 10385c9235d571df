//! DNS messages as bytes (RFC 1035 §4). Nothing here knows a socket or a clock, and nothing that a message holds can
//! make it panic or work longer than the message is long.
//!
//! In: [`fast_query::FastQuery`] reads the usual question in place, [`request::read`] makes a [`Query`](crate::dns::query::Query) of
//! whatever a client sent, [`Response::read`] checks and
//! cleans what another server sent. Out: [`question`] is what another server is asked, [`Response`] carries what a
//! client gets, [`truncate`] makes it fit.

pub mod answer;
pub mod codes;
mod compress;
pub mod cookie;
pub mod cookie_secret;
pub mod edns;
pub mod fast_query;
mod header;
mod lifetime;
pub(crate) mod name;
pub mod query;
pub mod question;
mod rdata;
mod record;
pub mod request;
mod response;
pub mod truncate;
mod validate;

pub use cookie::Cookie;
pub use edns::Edns;
pub use header::{Header, flag};
pub use lifetime::ResponseTtl;
pub use name::{Name, NameError};
pub use record::{Record, Records, Section};
pub use response::{Response, ResponseError};

/// A message breaks off, or points or counts to where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Two octets at `offset`, if they are there.
fn u16_at(message: &[u8], offset: usize) -> Option<u16> {
    message.get(offset..offset + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Four octets at `offset`, if they are there.
fn u32_at(message: &[u8], offset: usize) -> Option<u32> {
    message.get(offset..offset + 4).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Overwrites two octets; does nothing where the message is shorter.
fn put_u16(message: &mut [u8], offset: usize, value: u16) {
    if let Some(bytes) = message.get_mut(offset..offset + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}
