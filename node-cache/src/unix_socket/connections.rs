//! Connections of a Unix socket that are served at one time, by kind of user.
//!
//! Every connection is accepted at once, so that no flood keeps a newcomer waiting. When the places of its kind are
//! taken, the oldest connection that has sent no request is closed, or else the oldest one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::task::{AbortHandle, yield_now};

use super::is_own_user;

/// Mark of a connection that has sent no request.
#[derive(Clone, Debug)]
pub(crate) struct Silence(Arc<AtomicBool>);

impl Silence {
    /// Notes that the request has arrived.
    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn lasts(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    silence: Silence,
}

/// Connections of one socket: those of the user of this process, and those of all others, oldest first.
#[derive(Debug)]
pub(crate) struct Connections {
    max_own_user: usize,
    max_other_users: usize,
    own_user: VecDeque<Connection>,
    other_users: VecDeque<Connection>,
}

impl Connections {
    /// Returns a socket's places: so many for the user of this process, and so many for all others.
    pub(crate) const fn new(max_own_user: usize, max_other_users: usize) -> Self {
        Self { max_own_user, max_other_users, own_user: VecDeque::new(), other_users: VecDeque::new() }
    }

    /// Serves a connection in a task of its own and lets that task read a request that is already there.
    pub(crate) async fn serve<F>(&mut self, stream: UnixStream, serve: impl FnOnce(UnixStream, Silence) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (connections, max) = if is_own_user(&stream) {
            (&mut self.own_user, self.max_own_user)
        } else {
            (&mut self.other_users, self.max_other_users)
        };
        make_room(connections, max);
        let silence = Silence(Arc::new(AtomicBool::new(true)));
        let task = tokio::spawn(serve(stream, silence.clone())).abort_handle();
        connections.push_back(Connection { task, silence });
        // A peer sends its request at once: it is read before a flood of others can push it out.
        yield_now().await;
    }
}

/// Closes a connection when `max` are served.
fn make_room(connections: &mut VecDeque<Connection>, max: usize) {
    connections.retain(|connection| !connection.task.is_finished());
    if connections.len() < max {
        return;
    }
    let silent = connections.iter().position(|connection| connection.silence.lasts());
    if let Some(connection) = connections.remove(silent.unwrap_or(0)) {
        connection.task.abort();
    }
}
