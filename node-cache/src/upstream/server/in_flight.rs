//! Attempts in flight of one server: counted from their start until they are dropped, late ones too.

use std::ops::Deref;
use std::sync::Arc;

use super::Server;

/// A server with an attempt in flight for as long as this lives.
#[derive(Debug)]
pub(in crate::upstream) struct ServerInFlight(Arc<Server>);

impl ServerInFlight {
    /// Counts an attempt with the server.
    pub(in crate::upstream) fn new(server: Arc<Server>) -> Self {
        server.selection.load.start_attempt();
        Self(server)
    }
}

impl Drop for ServerInFlight {
    fn drop(&mut self) {
        self.0.selection.load.end_attempt();
    }
}

impl Deref for ServerInFlight {
    type Target = Arc<Server>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
