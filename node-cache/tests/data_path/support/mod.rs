//! Fixtures: scripted servers, a tier in this process, a client, and a configuration.

mod authority;
mod client;
pub(crate) mod crowd;
pub(crate) mod namespace;
mod records;
mod tier;
mod unbound;
mod wait;

pub(crate) use authority::{Action, Authority, ReceivedQuery};
pub(crate) use client::{
    ede, exchange, exchange_from, exchange_on, exchange_over_tcp, exchange_raw, loopback_client, query_for, txt_strings,
};
pub(crate) use records::{
    address_record, empty_response, failure, name, negative_response, response_with, srv_record, unknown_record,
};
pub(crate) use tier::{Tier, allow_loopback, config, route, servers_over, zone};
pub(crate) use unbound::Unbound;
pub(crate) use wait::wait_until;
