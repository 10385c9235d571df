//! Cluster for the operator's program: etcd, the API server and its controllers are real; nodes and kubelets are played
//! by the test. All worlds of a test program share one cluster, in which each has namespaces and nodes of its own.
//!
//! - `world`: one tier with its nodes and its operator.
//! - `decision`: what happens to the n-th request of a kind, and to the events of a watch.
//! - `proxy`: sockets and connections between one operator and the API server.
//! - `objects`, `kubelet`: what is in the cluster, and what makes its pods run.
//! - `pod_page`, `page`: what pods tell, and its form.
//! - `state`: the state of a world, in a form that two runs have in common.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod apply;
pub(crate) mod decision;
pub(crate) mod kubelet;
pub(crate) mod objects;
pub(crate) mod page;
pub(crate) mod pod_page;
pub(crate) mod proxy;
pub(crate) mod state;
pub(crate) mod world;

use std::sync::{Arc, OnceLock};

use dnstier_tests::require;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use world::Cluster;

static CLUSTER: OnceCell<Arc<Cluster>> = OnceCell::const_new();

/// Returns the runtime of all tests, which outlives each of them.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// Returns the cluster of all tests, and starts it for the first of them.
pub(crate) async fn cluster() -> Arc<Cluster> {
    let start = async || {
        let programs = require::control_plane().unwrap();
        // The processes end with the thread that has started them, and a test's thread ends before others.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let started = runtime().block_on(Cluster::start(&programs));
            drop(sender.send(started));
            loop {
                std::thread::park();
            }
        });
        receiver.await.unwrap().unwrap()
    };
    CLUSTER.get_or_init(start).await.clone()
}
