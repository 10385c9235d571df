//! How many questions wait for other servers, in all and of each client. What comes beyond is dropped: clients ask again,
//! memory stays bounded, and one client cannot take what others need.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Shared;
use crate::metrics::Dropped;

/// The most questions that wait at one time; hits are not among them.
const MOST: usize = 4096;
/// The most of them from one address: half of what may be under way to other servers at one time.
const MOST_OF_ONE: usize = 1024;

/// The questions in work.
#[derive(Debug, Default)]
pub(super) struct InWork {
    counts: Mutex<Counts>,
    none: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl InWork {
    /// Begins another one, unless there are too many.
    pub(super) fn begin(shared: &Arc<Shared>, client: SocketAddr) -> Option<Working> {
        let client = client.ip().to_canonical();
        let mut counts = shared.in_work.counts();
        if counts.total >= MOST {
            drop(counts);
            shared.metrics().dropped(Dropped::Busy);
            return None;
        }
        let of_client = counts.by_client.entry(client).or_default();
        if *of_client >= MOST_OF_ONE {
            drop(counts);
            shared.metrics().dropped(Dropped::Greedy);
            return None;
        }
        *of_client += 1;
        counts.total += 1;
        Some(Working { shared: shared.clone(), client })
    }

    fn end(&self, client: IpAddr) {
        let mut counts = self.counts();
        counts.total -= 1;
        match counts.by_client.get_mut(&client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.by_client.remove(&client);
            }
        }
        if counts.total == 0 {
            self.none.notify_waiters();
        }
    }

    /// Waits until there is none.
    pub(super) async fn none(&self) {
        loop {
            let notified = self.none.notified();
            if self.counts().total == 0 {
                return;
            }
            notified.await;
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One question in work, until it is dropped.
pub(super) struct Working {
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.shared.in_work.end(self.client);
    }
}
