//! Finding servers: headless Services of the cluster, and resolv.conf.

pub mod headless;
mod registry;
pub mod resolv_conf;

pub use registry::GroupRegistry;
