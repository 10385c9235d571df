//! Probes past the cache: what the upstreams of a name say now. Neither the cache nor its failures are read, no query
//! in flight is joined, and nothing is stored: a probe changes no client's response.

use std::sync::Arc;

use super::Resolver;
use super::local_names;
use super::single_flight::FlightEvent;
use crate::dns::answer_digest::answer_digest;
use crate::dns::codes::rcode;
use crate::dns::query::Query;
use crate::dns::question::Question;
use crate::dns::{Edns, Name, Response, alias};
use crate::snapshot::Snapshot;
use crate::upstream::QueryPurpose;

/// Scopes in which a chain of aliases is followed, at most.
const MAX_PARTS: usize = 8;

/// Answer of the upstreams of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAnswer {
    /// Response code; SERVFAIL where no upstream responds.
    pub rcode: u16,
    /// Digest of the rcode and of the answer section, aliases into other scopes included.
    pub digest: String,
}

impl UpstreamAnswer {
    /// Returns the answer where no upstream responds in time.
    #[must_use]
    pub fn none() -> Self {
        Self { rcode: rcode::SERVFAIL, digest: answer_digest(rcode::SERVFAIL, &[]) }
    }
}

impl Resolver {
    /// Asks the upstreams of a name, as a snapshot has them, past the cache. Takes as long as the deadlines of the
    /// scopes allow.
    pub async fn ask_upstreams(&self, snapshot: &Arc<Snapshot>, name: &Name, rtype: u16) -> UpstreamAnswer {
        let mut parts: Vec<Arc<Response>> = Vec::new();
        let mut next = Some(name.lower());
        let mut code = rcode::SERVFAIL;
        while let Some(target) = next.take().filter(|_| parts.len() < MAX_PARTS) {
            let query = Query { edns: Some(Edns::default()), ..Query::plain(target, rtype) };
            let Some(response) = self.ask_scope(snapshot, query.question()).await else {
                code = rcode::SERVFAIL;
                break;
            };
            code = response.rcode();
            next = alias::continuation(&response);
            parts.push(response);
        }
        let parts: Vec<&Response> = parts.iter().map(|part| &**part).collect();
        UpstreamAnswer { rcode: code, digest: answer_digest(code, &parts) }
    }

    /// Asks the upstreams of a question's scope; `None` where none responds.
    async fn ask_scope(&self, snapshot: &Arc<Snapshot>, question: Question) -> Option<Arc<Response>> {
        let local = local_names::answer(&question, &self.identity).or_else(|| snapshot.empty_zones.answer(&question));
        if let Some(answer) = local {
            return Some(answer.response);
        }
        let scope = snapshot.routes.find(&question.name).clone();
        let question = Arc::new(question);
        // Clients would be asked to wait for it as well, so that a packet budget has the same room for it.
        let (query, _) = self.start_query(snapshot, &scope, question, QueryPurpose::Client);
        match query.await {
            FlightEvent::End(result) | FlightEvent::Deadline(result) => result.ok(),
        }
    }
}
