//! Purpose of a query, which decides what priority its packets have.

use crate::metrics::PacketClass;

/// Purpose of a query, which decides what priority its packets have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryPurpose {
    /// A client waits for the answer.
    Client,
    /// The answer renews one that is cached, and nobody waits for it.
    Refresh,
    /// The answer shows the health of a server.
    Control,
}

impl QueryPurpose {
    /// Returns the class of the first send.
    pub(super) const fn first_class(self) -> PacketClass {
        self.class_again(PacketClass::First)
    }

    /// Returns the class of a further send, which is `again` where a client waits.
    pub(super) const fn class_again(self, again: PacketClass) -> PacketClass {
        match self {
            Self::Client => again,
            Self::Refresh => PacketClass::Refresh,
            Self::Control => PacketClass::Control,
        }
    }
}
