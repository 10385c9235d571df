//! When a zone resolver is ready: once a first name was resolved, while it answers for itself, until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::status_reporter::Readiness;
use crate::dns::codes::{class, rcode, rtype};
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Edns, Name};
use crate::dnstap::Tap;
use crate::resolver::Resolver;
use crate::upstream::transport::query_format::{ExchangeOutcome, QueryFormat};
use crate::upstream::transport::sockets::{PortPolicy, Sockets};
use crate::upstream::transport::udp;

/// Between two tries to resolve a first name.
const RETRY: Duration = Duration::from_millis(500);
/// How long the process has to answer for itself at one address.
const SELF_LIMIT: Duration = Duration::from_secs(1);

/// How far a zone resolver has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was resolved yet.
    Starting,
    /// A first name was. What upstreams do from now on changes nothing here.
    Resolving,
    /// Told to stop.
    Draining,
}

/// What the readiness of a zone resolver depends on.
#[derive(Debug)]
pub(super) struct ZoneReadiness {
    pub(super) resolver: Arc<Resolver>,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) listening: Vec<SocketAddr>,
}

impl Readiness for ZoneReadiness {
    async fn missing(&self) -> Option<String> {
        let stage = *self.stage.borrow();
        match stage {
            Stage::Draining => return Some("told to stop; questions are still answered".to_owned()),
            Stage::Starting if self.resolver.snapshot().is_none() => {
                return Some("there is no configuration yet".to_owned());
            }
            Stage::Starting => return Some("no name was resolved yet".to_owned()),
            Stage::Resolving => {}
        }
        for address in &self.listening {
            if !answers_for_itself(*address).await {
                return Some(format!("id.server is not answered at {address}"));
            }
        }
        None
    }
}

/// Resolves until something was resolved. Any word from an upstream that is not a failure counts.
pub(super) async fn resolve_first_name(resolver: &Resolver) {
    let Ok(root) = Name::from_text(".") else { return };
    let query = Query { edns: Some(Edns::default()), ..Query::plain(root, rtype::NS) };
    while resolver.resolve(&query).await.response.rcode() == rcode::SERVFAIL {
        sleep(RETRY).await;
    }
}

async fn answers_for_itself(address: SocketAddr) -> bool {
    let Ok(name) = Name::from_text("id.server") else { return false };
    let question = Question { class: class::CH, ..Question::plain(&name, rtype::TXT) };
    let (sockets, unseen) = (Sockets::new(address, PortPolicy::Fresh), Tap::default());
    let asked = udp::query(&sockets, &question, QueryFormat { edns: false, case_0x20: false }, &unseen);
    matches!(timeout(SELF_LIMIT, asked).await, Ok(Ok(ExchangeOutcome::Response(response))) if response.has_answer())
}
