//! World that is asked: the provider's resolver, the fallback, and the authoritative server behind both. It starts anew
//! for each cast, so that no cast finds the caches of an earlier one.

use super::network::{FALLBACK, Member, OUTGOING, PROVIDER, Servers};
use super::peers::{WORLD, start_unbound};

/// Starts the servers of the world.
pub(super) fn start(servers: &mut Servers) {
    let program = std::env::current_exe().unwrap();
    servers.start("authority", Member::World.command(program).arg("serve-authority"));
    for address in [PROVIDER, FALLBACK] {
        start_unbound(servers, Member::World, WORLD, address, OUTGOING);
    }
}
