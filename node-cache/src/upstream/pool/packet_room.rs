//! Packet budgets in a query: the class of each send, which server has room for it, and what becomes of one that is
//! refused.

use std::sync::Arc;

use tokio::time::Instant;

use super::hedge::HedgedQuery;
use crate::metrics::PacketClass;
use crate::upstream::server::Server;

impl HedgedQuery {
    /// Returns the class of the packets of the next send.
    pub(super) const fn packet_class(&self) -> PacketClass {
        if self.started == 0 { self.purpose.first_class() } else { self.purpose.class_again(self.again) }
    }

    /// Returns whether a server remains whose packet budget has room for the next send.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let class = self.packet_class();
        self.remaining.iter().any(|server| server.gate().has_room(class, now.into_std()))
    }

    /// Removes the server that is queried first from those that remain: the first one, or while its packet budget has
    /// no room another upstream that is up and has room, or else a server of the reserve. Without any of these it is
    /// the first one, for which the query may wait. Servers of a last resort without a packet to spare are left out.
    pub(super) fn take_first(&mut self, now: Instant) -> Option<Arc<Server>> {
        let now = now.into_std();
        loop {
            let class = self.packet_class();
            let last = self.remaining.len().checked_sub(1)?;
            let has_room = |server: &Arc<Server>| server.gate().has_room(class, now);
            let index = if self.remaining.last().is_some_and(has_room) {
                last
            } else {
                let other = |is_reserve: bool| {
                    let is_usable = |server: &Arc<Server>| server.is_reserve() == is_reserve && server.is_up();
                    self.remaining.iter().rposition(|server| is_usable(server) && has_room(server))
                };
                other(false).or_else(|| other(true)).unwrap_or(last)
            };
            if index != last
                && let (Some(preferred), Some(other)) = (self.remaining.last(), self.remaining.get(index))
            {
                preferred.record_offer();
                if other.is_reserve() {
                    preferred.record_refusal();
                }
            }
            let server = self.remaining.remove(index);
            server.record_offer();
            if server.take_packet(now) {
                return Some(server);
            }
        }
    }

    /// Forgets an attempt that the packet budget of this server refused: it was no send.
    pub(super) fn forget_refused(&mut self, server: &Server) {
        self.was_refused = true;
        if self.started == 1 {
            server.record_refusal();
        }
        self.started -= 1;
        self.attempts.retain(|attempt| !attempt.is_done() || !attempt.server().has_same_endpoint(server));
        self.remaining.retain(|other| !other.has_same_endpoint(server));
    }

    /// Returns whether the packet budgets of all servers refused the query.
    pub(super) const fn is_refused(&self) -> bool {
        self.was_refused && self.started == 0
    }
}
