//! What the project is tested with: a real cluster of three zones, and a DNS client that counts what is lost.

pub mod compare;
pub mod dns;
pub mod flood;
pub mod lab;
mod names;
pub mod require;
pub mod stub_clients;
