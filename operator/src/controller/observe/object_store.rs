//! Store of one watch, with what keeps it from being read: lists that are not complete, and refusals.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::core::Status;
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

use crate::error::Error;

/// Time for which a refusal counts. A watch that is still refused is so again within half a minute, but one that is
/// admitted again says nothing until its next event.
const MAX_REFUSAL_AGE: Duration = Duration::from_secs(90);

/// State of a watch.
#[derive(Debug, Default)]
struct WatchState {
    /// Whether the first list is complete.
    is_listed: bool,
    /// Last failure since the last event.
    failure: Option<WatchFailure>,
}

/// Failure of a watch.
#[derive(Debug)]
struct WatchFailure {
    verb: &'static str,
    reply: Reply,
    time: Instant,
}

/// Response to a watch that failed.
#[derive(Debug)]
enum Reply {
    /// Response of the API server.
    Status(Box<Status>),
    /// Text about the missing response.
    Text(String),
}

impl WatchState {
    /// Records an event or an error of the watch.
    fn record<K>(&mut self, event: &Result<watcher::Event<K>, watcher::Error>, now: Instant) {
        match event {
            Ok(watcher::Event::InitDone) => *self = Self { is_listed: true, failure: None },
            Ok(watcher::Event::Apply(_) | watcher::Event::Delete(_)) => self.failure = None,
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Err(error) => self.failure = Some(WatchFailure::new(error, now)),
        }
    }

    /// Returns why the store cannot be read: it is refused, or was never complete. Any other failure leaves the objects
    /// as they were.
    fn check(&self, objects: &str, now: Instant) -> Result<(), Error> {
        let refusal = self.failure.as_ref().filter(|_| self.is_refused(now));
        match refusal.or_else(|| self.failure.as_ref().filter(|_| !self.is_listed)) {
            Some(failure) => Err(Error::request(failure.verb, objects, failure.to_error())),
            None if self.is_listed => Ok(()),
            None => Err(incomplete(objects)),
        }
    }

    /// Returns whether the API server denies the permission to list or to watch the objects.
    fn is_refused(&self, now: Instant) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_refusal() && failure.age(now) < MAX_REFUSAL_AGE)
    }
}

/// Builds the error of objects whose first list is not complete yet.
pub(super) fn incomplete(objects: &str) -> Error {
    Error::request("list", objects, kube::Error::Service("the list is not complete yet".into()))
}

impl WatchFailure {
    fn new(error: &watcher::Error, time: Instant) -> Self {
        let reply = |error: &kube::Error| match error {
            kube::Error::Api(status) => Reply::Status(status.clone()),
            other => Reply::Text(other.to_string()),
        };
        let (verb, reply) = match error {
            watcher::Error::InitialListFailed(error) => ("list", reply(error)),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => ("watch", reply(error)),
            watcher::Error::WatchError(status) => ("watch", Reply::Status(status.clone())),
            watcher::Error::NoResourceVersion => ("watch", Reply::Text(error.to_string())),
        };
        Self { verb, reply, time }
    }

    /// Returns whether the API server denies the permission.
    fn is_refusal(&self) -> bool {
        matches!(&self.reply, Reply::Status(status) if status.code == 403)
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.time)
    }

    fn to_error(&self) -> kube::Error {
        match &self.reply {
            Reply::Status(status) => kube::Error::Api(status.clone()),
            Reply::Text(text) => kube::Error::Service(text.clone().into()),
        }
    }
}

/// Objects of one kind in one namespace, or of a kind without namespaces, as their watch has delivered them.
#[derive(Clone, Debug)]
pub(crate) struct ObjectStore<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    /// Namespace; empty for a kind without namespaces.
    namespace: String,
    store: Store<K>,
    state: watch::Receiver<WatchState>,
}

impl<K> ObjectStore<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    /// Builds a store and returns it with the events of its watch, which keep its state. `store` has to be filled by
    /// the stream that `events` come from. `namespace` is empty for a kind without namespaces.
    pub(crate) fn new<S>(namespace: &str, store: Store<K>, events: S) -> (Self, impl Stream<Item = S::Item> + use<K, S>)
    where
        S: Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    {
        let (sender, state) = watch::channel(WatchState::default());
        let events = events.inspect(move |event| sender.send_modify(|state| state.record(event, Instant::now())));
        (Self { namespace: namespace.to_owned(), store, state }, events)
    }

    /// Returns the namespace of the objects; empty for a kind without namespaces.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns whether the first list is complete.
    pub(crate) fn is_listed(&self) -> bool {
        self.state.borrow().is_listed
    }

    /// Waits until the first list is complete or has failed.
    pub(crate) async fn wait_for_list(&self) {
        self.wait_for(|state| state.is_listed || state.failure.is_some()).await;
    }

    /// Waits until the first list is complete or is refused. Returns `false` when the watch has ended.
    pub(crate) async fn wait_for_list_or_refusal(&self) -> bool {
        self.wait_for(|state| state.is_listed || state.is_refused(Instant::now())).await
    }

    /// Waits until the first list is complete. Returns `false` when the watch has ended.
    pub(crate) async fn wait_for_complete_list(&self) -> bool {
        self.wait_for(|state| state.is_listed).await
    }

    /// Waits until the state fulfils a condition. Returns `false` when the watch has ended, which is not waited for.
    async fn wait_for(&self, condition: impl FnMut(&WatchState) -> bool) -> bool {
        self.state.clone().wait_for(condition).await.is_ok()
    }

    /// Returns all objects, without copies.
    ///
    /// # Errors
    ///
    /// When the watch is refused, or when its first list is not complete.
    pub(crate) fn read(&self) -> Result<Vec<Arc<K>>, Error> {
        let kind = K::plural(&());
        let objects = if self.namespace.is_empty() { kind.into() } else { format!("{kind} in {}", self.namespace) };
        self.state.borrow().check(&objects, Instant::now())?;
        Ok(self.store.state())
    }

    /// Returns the objects that were delivered last, whether the watch goes on or not.
    pub(crate) fn last_known(&self) -> &Store<K> {
        &self.store
    }

    /// Returns the objects that a predicate selects, ordered by name.
    ///
    /// # Errors
    ///
    /// When the watch is refused, or when its first list is not complete.
    pub(crate) fn select(&self, predicate: impl Fn(&K) -> bool) -> Result<Vec<K>, Error> {
        let objects = self.read()?;
        let mut selected: Vec<K> =
            objects.iter().filter(|object| predicate(object)).map(|object| K::clone(object)).collect();
        selected.sort_by_key(|object| object.name_any());
        Ok(selected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::Event;

    fn refusal(code: u16) -> watcher::Error {
        let status = Status { code, message: "no".to_owned(), ..Status::default() };
        watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
    }

    fn check(events: Vec<Result<Event<ConfigMap>, watcher::Error>>, age: Duration) -> Result<(), Error> {
        let mut state = WatchState::default();
        let start = Instant::now();
        for event in events {
            state.record(&event, start);
        }
        state.check("configmaps in a", start + age)
    }

    #[test]
    fn nothing_is_read_before_the_first_list_is_complete() {
        assert!(check(vec![Ok(Event::Init)], Duration::ZERO).is_err());
        let text = check(vec![Ok(Event::Init), Err(refusal(500))], Duration::ZERO).unwrap_err().to_string();
        assert_eq!(text, "cannot watch configmaps in a: no");
        assert!(check(vec![Ok(Event::Init), Ok(Event::InitDone)], Duration::ZERO).is_ok());
    }

    #[test]
    fn a_watch_that_fails_leaves_its_objects_readable_and_one_that_is_refused_does_not() {
        assert!(check(vec![Ok(Event::InitDone), Err(refusal(500))], Duration::ZERO).is_ok());
        assert!(check(vec![Ok(Event::InitDone), Err(refusal(403))], Duration::ZERO).unwrap_err().is_forbidden());
    }

    #[test]
    fn a_refusal_ends_with_an_event_or_when_it_is_not_repeated() {
        let event = Ok(Event::Apply(ConfigMap::default()));
        assert!(check(vec![Ok(Event::InitDone), Err(refusal(403)), event], Duration::ZERO).is_ok());
        assert!(check(vec![Ok(Event::InitDone), Err(refusal(403))], MAX_REFUSAL_AGE).is_ok());
        assert!(check(vec![Err(refusal(403))], MAX_REFUSAL_AGE).unwrap_err().is_forbidden(), "nothing was listed");
    }
}
