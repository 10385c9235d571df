//! Names of our own servers in tables and charts.

/// DnsTier.
pub(crate) const OURS: &str = "DnsTier";
/// Echo that blocks in the call that reads.
pub(crate) const ECHO: &str = "echo";
/// Echo whose socket epoll watches all the time.
pub(crate) const EPOLL_ECHO: &str = "echo with epoll";
