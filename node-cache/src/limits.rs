//! Something of which there is a bounded number, in all and for each client: questions that wait for other servers,
//! connections, octets that wait to be written. What comes beyond is turned away: clients ask again, memory stays bounded, and one client cannot take what
//! others need.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use tokio::sync::Notify;

/// How many are taken, and by whom.
#[derive(Debug)]
pub(crate) struct ClientLimiter {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken>,
    none: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_client: HashMap<IpAddr, usize, RandomState>,
}

/// Why there is none for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// All are taken.
    Global,
    /// This client has as many as one may have.
    PerClient,
}

impl ClientLimiter {
    /// This many in all, and this many of them for one address.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::default(), none: Notify::new() })
    }

    /// Takes another one.
    pub(crate) fn take(self: &Arc<Self>, client: SocketAddr) -> Result<Permit, LimitExceeded> {
        self.acquire_many(client, 1)
    }

    /// Takes so many more, all or none.
    pub(crate) fn acquire_many(self: &Arc<Self>, client: SocketAddr, count: usize) -> Result<Permit, LimitExceeded> {
        let client = client.ip().to_canonical();
        let mut taken = self.taken();
        if taken.total + count > self.most {
            return Err(LimitExceeded::Global);
        }
        let of_client = taken.by_client.get(&client).copied().unwrap_or_default();
        if of_client + count > self.most_of_one {
            return Err(LimitExceeded::PerClient);
        }
        taken.by_client.insert(client, of_client + count);
        taken.total += count;
        Ok(Permit { shares: self.clone(), client, count })
    }

    /// Waits until none is taken.
    pub(crate) async fn none(&self) {
        loop {
            let notified = self.none.notified();
            if self.taken().total == 0 {
                return;
            }
            notified.await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One or more of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shares: Arc<ClientLimiter>,
    client: IpAddr,
    count: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.total -= self.count;
        match taken.by_client.get_mut(&self.client) {
            Some(count) if *count > self.count => *count -= self.count,
            _ => {
                taken.by_client.remove(&self.client);
            }
        }
        if taken.total == 0 {
            self.shares.none.notify_waiters();
        }
    }
}
