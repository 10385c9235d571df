//! Ending without losing a question.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::resolver::Resolver;

/// How long a cache waits for the agent to withdraw the addresses. Both are told to stop at the same moment, and the
/// kubelet's patience is 30 s.
const AGENT_LIMIT: Duration = Duration::from_secs(15);
/// With no agent the addresses leave the node by themselves within this time: their lease, and a second.
const LEASE_LIMIT: Duration = Duration::from_secs(6);
/// Without a question for this long nobody asks here any more.
const QUIET: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(50);

/// The signals that ask a process to end.
pub(super) struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    /// Listens for them from now on.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits until a cache is not asked any more: the agent has gone, which is the last thing that it does after it has
/// withdrawn the addresses, and no further question comes. One that is killed withdraws nothing; then the lease does.
pub(super) async fn until_withdrawn(resolver: &Arc<Resolver>, connected: &mut watch::Receiver<bool>) {
    if timeout(AGENT_LIMIT, connected.wait_for(|connected| !connected)).await.is_err() {
        return;
    }
    let limit = Instant::now() + LEASE_LIMIT;
    let (mut seen, mut since) = (resolver.metrics().queries(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < limit {
        sleep(STEP).await;
        let questions = resolver.metrics().queries();
        if questions != seen {
            (seen, since) = (questions, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::query::Transport;
    use crate::identity::Identity;

    #[tokio::test(start_paused = true)]
    async fn a_cache_answers_on_until_the_agent_has_withdrawn() {
        let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
        let (agent, mut connected) = watch::channel(true);
        let start = Instant::now();
        tokio::spawn({
            let metrics = resolver.metrics().clone();
            async move {
                sleep(Duration::from_secs(4)).await;
                agent.send_replace(false);
                for _ in 0..10 {
                    sleep(Duration::from_millis(200)).await;
                    metrics.count_query(Transport::Udp);
                }
            }
        });
        until_withdrawn(&resolver, &mut connected).await;
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(7), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_never_leaves_does_not_hold_a_cache_for_ever() {
        let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
        let (_agent, mut connected) = watch::channel(true);
        let start = Instant::now();
        until_withdrawn(&resolver, &mut connected).await;
        assert!(start.elapsed() < Duration::from_secs(16));
    }
}
