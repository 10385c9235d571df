//! Servers: those that are measured, and those that are measured against.

pub(crate) mod config;
pub(crate) mod echo;
pub(crate) mod hit_server;
pub(crate) mod miss_resolver;
pub(crate) mod own_server;
pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod resolver;
pub(crate) mod subject;
pub(crate) mod upstream;
