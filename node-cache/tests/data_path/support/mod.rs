//! What the tests stand on: scripted servers, a tier in this process, a client, and a configuration.

mod authority;
mod client;
mod records;
mod tier;

pub(crate) use authority::{Asked, Authority, Reply};
pub(crate) use client::{ask, ask_from, ask_over_tcp, ede, exchange_raw, question, tcp_exchange, txt_strings};
pub(crate) use records::{address, denial, denial_with_soa, name, reply, service_record, unknown};
pub(crate) use tier::{Tier, config, route, zone};
