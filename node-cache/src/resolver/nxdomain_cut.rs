//! What is known of the names above a name. A pod with a search path asks for `www.example.com.shop.svc.cluster.local` and
//! two names like it before it asks for what it means. In the cluster's own zone a name that does not exist has nothing
//! below it (RFC 8020), so that the absence of `com.shop.svc.cluster.local` answers for everything in `com`.
//!
//! Names above are asked for first, the shortest one first, until it is known whether they exist. That one of them was
//! there is believed for as long as memory holds it: it saves a question and decides nothing. What is taken for a denial
//! is in its time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Resolver;
use super::miss::FlightOutcome;
use super::single_flight::{Join, landing};
use crate::cache::{Key, Lookup};
use crate::dns::answer::Answer;
use crate::dns::codes::rtype;
use crate::dns::question::Question;
use crate::dns::{Name, Response};
use crate::snapshot::{Scope, Snapshot};

/// The most names above that are asked for before the name itself: with it, no more than three questions.
const MOST_ASKED: usize = 2;
/// How long each of them may keep a client waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// The names above `name` in `zone` whose absence counts, the shortest first.
pub(super) fn above(name: &Name, zone: &Name) -> impl Iterator<Item = Name> {
    let zone_length = zone.as_bytes().len();
    name.above_in(zone).into_iter().filter(move |above| {
        let label = above.as_bytes();
        // They are there in every cluster (Kubernetes DNS specification §2.3), whatever a server says of them.
        let fixed = label.len() == zone_length + 4 && matches!(&label[..4], b"\x03svc" | b"\x03pod");
        // CoreDNS denies `_tcp.web.shop.svc` although `_http._tcp.web.shop.svc` is there.
        let underscored = label.get(1) == Some(&b'_');
        !fixed && !underscored
    })
}

/// What is asked about a name above. Other types do not count: CoreDNS denies every namespace for TXT.
pub(super) fn question_about(above: Name, question: &Question) -> Question {
    Question { name: above, rtype: rtype::A, ..question.clone() }
}

impl Resolver {
    /// The denial that memory holds of a name above.
    pub(super) fn denied_above(&self, snapshot: &Snapshot, scope: &Scope, question: &Question) -> Option<Answer> {
        let zone = scope.zone.as_ref()?;
        let now = Instant::now().into_std();
        above(&question.name, zone).find_map(|name| {
            let key = Key::new(scope.id, &question_about(name, question));
            match self.cache.get(&key, now, &snapshot.policy) {
                Lookup::Fresh(answer) | Lookup::RefreshDue(answer) => denial(answer, question),
                Lookup::Stale(_) | Lookup::Miss => None,
            }
        })
    }

    /// Asks for names above of which nothing is known, and gives the denial of the first one that does not exist.
    pub(super) async fn ask_above(
        &self,
        snapshot: &Snapshot,
        scope: &Arc<Scope>,
        question: &Question,
    ) -> Option<Answer> {
        let zone = scope.zone.as_ref()?;
        let mut asked = 0;
        for name in above(&question.name, zone) {
            let about = question_about(name, question);
            let key = Key::new(scope.id, &about);
            let landed = self.flights.landed();
            if self.cache.name_known_to_exist(&key) {
                continue;
            }
            if asked == MOST_ASKED || self.failed(scope, &key, Instant::now()).is_some() {
                return None;
            }
            asked += 1;
            let answer = match self.ask(snapshot, scope, &key, landed, Arc::new(about)) {
                Join::Leader(flight) => snapshot.policy.new_answer(flight.until(Instant::now() + PATIENCE).await.ok()?),
                Join::Follower(seat) => snapshot.policy.new_answer(timeout(PATIENCE, landing(seat)).await.ok()?.ok()?),
                Join::AlreadyCached(FlightOutcome::Answer(answer) | FlightOutcome::Due(answer)) => answer,
                Join::AlreadyCached(FlightOutcome::Failure(_)) | Join::AtCapacity => return None,
            };
            if answer.response.is_failure() {
                return None;
            }
            if let Some(denial) = denial(answer, question) {
                return Some(denial);
            }
        }
        None
    }
}

/// What a denial of a name says of one below it.
fn denial(of_above: Answer, question: &Question) -> Option<Answer> {
    let response: Response = of_above.response.below(question)?;
    Some(Answer { response: Arc::new(response), ..of_above })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_must_exist_and_labels_with_an_underscore_are_not_asked_for() {
        let zone = Name::from_text("cluster.local").unwrap();
        let above = |name: &str| {
            let name = Name::from_text(name).unwrap();
            above(&name, &zone).map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            above("www.example.com.shop.svc.cluster.local"),
            ["shop.svc.cluster.local.", "com.shop.svc.cluster.local.", "example.com.shop.svc.cluster.local."]
        );
        assert_eq!(above("web.shop.svc.cluster.local"), ["shop.svc.cluster.local."]);
        assert_eq!(above("10-0-0-1.shop.pod.cluster.local"), ["shop.pod.cluster.local."]);
        assert_eq!(
            above("_http._tcp.web.shop.svc.cluster.local"),
            ["shop.svc.cluster.local.", "web.shop.svc.cluster.local."]
        );
        assert_eq!(above("www.com.cluster.local"), ["com.cluster.local."]);
        assert_eq!(above("www.example.com"), [""; 0]);
    }
}
