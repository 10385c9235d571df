//! Test tools of the project: a lab with a real cluster of three zones, and DNS clients that count what is lost.

pub mod compare;
pub mod dns;
pub mod flood;
pub mod lab;
mod names;
pub mod readme;
pub mod require;
pub mod stub_clients;
