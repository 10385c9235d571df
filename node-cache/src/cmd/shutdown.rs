//! Shutdown: SIGTERM and SIGINT, and how long a cache still answers after one of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::resolver::Resolver;

/// Time that a cache gives the agent to withdraw the addresses. Both get SIGTERM at the same moment, and the kubelet
/// kills after 30 s.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time within which the kernel removes the addresses of an agent that is gone: their lease, and a second.
const LEASE_TIMEOUT: Duration = Duration::from_secs(6);
/// Time without a query after which a cache counts as idle.
const IDLE_TIME: Duration = Duration::from_millis(300);
/// Interval at which the number of queries is read.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Receiver of the signals that end a program: SIGTERM and SIGINT. Once one came, every wait returns at once.
pub(super) struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    requested: bool,
}

impl Shutdown {
    /// Registers for the signals.
    ///
    /// # Errors
    ///
    /// The signals cannot be received.
    pub(super) fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())?, requested: false })
    }

    /// Waits until one of the signals has come.
    pub(super) async fn requested(&mut self) {
        if self.requested {
            return;
        }
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.requested = true;
    }
}

/// Waits until no query reaches a cache any more: the agent has disconnected, which it does last, after it has withdrawn
/// the addresses, and no further query comes. An agent that was killed withdraws nothing; then the lease ends.
pub(super) async fn wait_until_withdrawn(resolver: &Arc<Resolver>, agent_connected: &mut watch::Receiver<bool>) {
    if timeout(AGENT_TIMEOUT, agent_connected.wait_for(|connected| !connected)).await.is_err() {
        return;
    }
    let deadline = Instant::now() + LEASE_TIMEOUT;
    let mut last_count = resolver.metrics().queries();
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < IDLE_TIME && Instant::now() < deadline {
        sleep(IDLE_POLL_INTERVAL).await;
        let count = resolver.metrics().queries();
        if count != last_count {
            last_count = count;
            idle_since = Instant::now();
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
        wait_until_withdrawn(&resolver, &mut connected).await;
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(7), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_never_leaves_does_not_hold_a_cache_for_ever() {
        let resolver = Arc::new(Resolver::new(Identity::default(), 1 << 20, Arc::default()));
        let (_agent, mut connected) = watch::channel(true);
        let start = Instant::now();
        wait_until_withdrawn(&resolver, &mut connected).await;
        assert!(start.elapsed() < Duration::from_secs(16));
    }
}
