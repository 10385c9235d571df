//! Facilities of the kernel: processors, counters of a process, namespaces, free ports.

pub(crate) mod loopback;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod processors;
