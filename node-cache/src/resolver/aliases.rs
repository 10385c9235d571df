//! Aliases that lead into another scope: the chain goes on there (RFC 1034 §5.3.3, step 4).
//!
//! Each part of such an answer is cached under its own name, in its own scope. The response of the first scope is cut
//! off behind the alias on entry ([`super::alias_routing`]); every hit takes the full path, which joins it with what
//! the other scope answers.

use std::sync::Arc;

use tokio::time::Instant;

use super::local_names;
use super::miss::{DeferredStore, Resolution};
use super::servfail::failure;
use super::{CacheLookup, Resolver};
use crate::dns::answer::{Answer, Source, TtlView};
use crate::dns::codes::{ede, rcode};
use crate::dns::query::Query;
use crate::dns::{Response, alias};

/// Scopes that an answer is continued in, at most. Each has its own chain of aliases.
const MAX_CONTINUATIONS: usize = 8;

impl Resolver {
    /// Completes a partial resolution: resolves the name to which its last alias leads, and joins both, until nothing
    /// is missing. Ends at the deadline of the first name's scope. What any part is, the whole is: stale or a failure.
    pub(super) async fn complete(&self, query: &Query, lookup: &CacheLookup, partial: Resolution) -> Resolution {
        let Resolution { scope, answer: mut whole, mut store } = partial;
        let mut names = vec![lookup.question.name.clone()];
        let mut next = alias::continuation(&whole.response);
        self.refresh_if_due(lookup, query.recursion_desired);
        while let Some(target) = next.take() {
            if names.len() > MAX_CONTINUATIONS || names.contains(&target) {
                whole = failure(query, rcode::SERVFAIL, ede::OTHER);
                break;
            }
            names.push(target.clone());
            // Followers of the last part wait for nothing else.
            drop(store);
            let part;
            (part, store) = self.resolve_part(&Query { name: target, ..query.clone() }, lookup).await;
            next = alias::continuation(&part.response);
            whole = match join(&whole, &part) {
                _ if part.response.is_failure() => Answer {
                    response: Arc::new(Response::empty(&lookup.question, part.response.rcode())),
                    ede: part.ede.or_else(|| part.response.ede()),
                    ..part
                },
                Some(joined) => joined,
                None => failure(query, rcode::SERVFAIL, ede::OTHER),
            };
        }
        Resolution { scope, answer: whole, store }
    }

    /// Resolves the name to which an alias of the first name leads, in the time that the first name has.
    async fn resolve_part(&self, query: &Query, first: &CacheLookup) -> (Answer, DeferredStore) {
        let snapshot = first.snapshot.clone();
        let question = Arc::new(query.question());
        let local = local_names::answer(&question, &self.identity).or_else(|| snapshot.empty_zones.answer(&question));
        if let Some(answer) = local {
            return (answer, DeferredStore::NOTHING);
        }
        let mut lookup = self.look_up(snapshot, question, Instant::now(), None);
        lookup.started = first.started;
        let Resolution { answer, store, .. } = self.answer(query, &lookup, true).await;
        self.refresh_if_due(&lookup, query.recursion_desired);
        (answer, store)
    }
}

/// Joins a partial answer and the answer for the name to which its last alias leads; `None` when the whole would be too
/// long for a message.
fn join(partial: &Answer, rest: &Answer) -> Option<Answer> {
    let response = alias::join((&partial.response, partial.ttl_view), (&rest.response, rest.ttl_view))?;
    let errors = [partial.ede, partial.response.ede(), rest.ede, rest.response.ede()];
    let stale = errors.into_iter().flatten().find(|code| ede::is_stale(Some(*code)));
    let source = match (partial.source, rest.source) {
        (Source::StaleCache, _) | (_, Source::StaleCache) => Source::StaleCache,
        (Source::Upstream, _) | (_, Source::Upstream) => Source::Upstream,
        (_, source) => source,
    };
    Some(Answer {
        response: Arc::new(response),
        ttl_view: TtlView::Original,
        ede: stale.or(rest.ede).or_else(|| rest.response.ede().and_then(ede::public)),
        source,
    })
}
