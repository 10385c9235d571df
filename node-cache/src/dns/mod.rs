//! DNS messages in wire format (RFC 1035 §4). No socket and no clock is used here. No message can cause a panic, or
//! work out of proportion to its length.
//!
//! Modules in the order in which a query passes them:
//!
//! 1. A client's query. [`fast_query`] parses the usual shape in place; [`request`] parses every shape into a
//!    [`Query`](query::Query) and rejects what is not served; [`cookie`] and [`cookie_secret`] verify and make DNS
//!    cookies.
//! 2. The query to an upstream. [`question`] writes it, in random case (0x20).
//! 3. The upstream's response. `validate` checks it and removes OPT, with `record` for its records, `rdata` for their
//!    layouts and `ttl` for how long it may be cached (negative caching included); `owner_filter` drops answer records
//!    of unrelated names; `compress` makes it shorter; [`alias`] splits it where its aliases lead elsewhere; `referral`
//!    finds what is no answer, and `response_error` tells what is wrong with a packet.
//!    [`Response`] holds the result, or a response of this process itself. `addresses` finds addresses in it,
//!    `answer_digest` makes it comparable.
//! 4. The response to the client. [`answer`] writes it with the TTLs, flags and EDNS of the client, and [`truncate`]
//!    makes it fit.
//!
//! All of them share [`Name`], [`Header`], [`edns`] and [`codes`], the numbers of the IANA registries.

mod addresses;
pub mod alias;
pub mod answer;
pub(crate) mod answer_digest;
pub mod codes;
mod compress;
pub(crate) mod cookie;
pub mod cookie_secret;
pub(crate) mod edns;
pub mod fast_query;
mod header;
pub(crate) mod name;
mod owner_filter;
pub mod query;
pub mod question;
mod rdata;
mod record;
mod referral;
mod registered_domain;
pub mod request;
mod response;
mod response_error;
pub(crate) mod truncate;
mod ttl;
mod validate;

pub use cookie::Cookie;
pub use edns::Edns;
pub use header::{Header, flag};
pub use name::{Name, NameError};
pub use record::{Record, Records, Section};
pub use response::{EdnsReply, Response};
pub use response_error::ResponseError;
pub use ttl::ResponseTtl;

/// The maximum length of a message in octets (RFC 1035 §4.2.2).
const MAX_MESSAGE_LEN: usize = u16::MAX as usize;

/// Message is truncated, or a pointer or count runs past its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Reads two octets at `offset`; `None` past the end.
fn u16_at(message: &[u8], offset: usize) -> Option<u16> {
    message.get(offset..offset + 2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
}

/// Reads four octets at `offset`; `None` past the end.
fn u32_at(message: &[u8], offset: usize) -> Option<u32> {
    message.get(offset..offset + 4).map(|octets| u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]))
}

/// Overwrites two octets at `offset`; does nothing past the end.
fn put_u16(message: &mut [u8], offset: usize, value: u16) {
    if let Some(octets) = message.get_mut(offset..offset + 2) {
        octets.copy_from_slice(&value.to_be_bytes());
    }
}
