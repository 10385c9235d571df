//! A cache that was taken over: has the sockets of the node and answers nothing.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use node_cache::handover::client::Client;
use node_cache::handover::{HeldSocket, Protocol, socket_path};

use crate::servers::Background;

/// Cache that follows the sockets of the agent under a name of its own and never reads them.
pub(crate) struct HijackedCache {
    sets: mpsc::Receiver<Vec<HeldSocket>>,
    held: Vec<Vec<HeldSocket>>,
    _background: Background,
}

impl HijackedCache {
    pub(crate) fn start(run_dir: &Path, instance: &str) -> Self {
        let (sender, sets) = mpsc::channel();
        let path = socket_path(run_dir);
        let instance = instance.to_owned();
        let background = Background::run(move || async move {
            let client = Client::start(&path, &instance);
            let mut sockets = client.sockets();
            while sockets.changed().await.is_ok() {
                let _ = sender.send(sockets.borrow_and_update().clone());
            }
        });
        Self { sets, held: Vec::new(), _background: background }
    }

    /// Returns the socket of an address that the agent published last. Keeps the descriptors of all earlier ones.
    pub(crate) fn socket(&mut self, address: &str, protocol: Protocol) -> HeldSocket {
        let address: std::net::IpAddr = address.parse().unwrap();
        while let Ok(set) = self.sets.recv_timeout(Duration::from_millis(200)) {
            self.held.push(set);
        }
        let last = self.held.last().expect("the agent has published sockets");
        last.iter().find(|socket| socket.address == address && socket.protocol == protocol).cloned().unwrap()
    }
}
