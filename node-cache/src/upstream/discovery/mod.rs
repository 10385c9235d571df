//! Discovery of servers: headless Services of the cluster, and resolv.conf.

pub(crate) mod headless;
mod registry;
pub(crate) mod resolv_conf;

pub use registry::GroupRegistry;
