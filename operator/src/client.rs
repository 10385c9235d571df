//! Client of the API server: every request ends in bounded time, and none is repeated behind the caller's back.
//!
//! Without a limit, one unanswered request would end the reconciliation of its tier for ever. The client of kube
//! repeats a request that is answered with 429, 503 or 504 up to 15 times, as late as `Retry-After` asks for: a write
//! would leave long after the decision that it follows from. A failed request fails the reconciliation instead, which
//! is retried with fresh state.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

use crate::leader::Fence;
use crate::request_counter::RequestCounter;
use crate::verb::Verb;
use crate::write_pace::WritePace;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Time limits of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Time from a request to the end of its response.
    pub(crate) request: Duration,
    /// Time from the request of a list to the end of its response, which may be large.
    pub(crate) list: Duration,
    /// Time without any octet after which a watch ends. The API server sends a bookmark each minute.
    pub(crate) watch_silence: Duration,
}

impl Limits {
    /// Limits of the operator.
    pub(crate) const OPERATOR: Self = Self {
        request: Duration::from_secs(10),
        list: Duration::from_secs(30),
        watch_silence: Duration::from_secs(300),
    };

    /// Returns the limit of a request.
    fn limit_of<B>(&self, request: &Request<B>) -> Limit {
        match Verb::of(request) {
            Verb::Watch => Limit::Silence(self.watch_silence),
            Verb::List => Limit::Total(self.list),
            _ => Limit::Total(self.request),
        }
    }
}

/// Limit of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Time to the end of the response.
    Total(Duration),
    /// Time between two parts of the response.
    Silence(Duration),
}

/// Failure of a request that had no complete response within its limit.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs_f32())]
struct TimeoutError(Duration);

/// Clients of the API server that the environment names.
pub(crate) struct Clients {
    /// Client that writes only while this process is the leader, and at a pace.
    pub(crate) fenced: Client,
    /// Client of the Lease, with connections of its own, so that no other request delays a renewal.
    pub(crate) election: Client,
}

/// Connects to the API server that the environment names.
///
/// # Errors
///
/// When the environment names no API server, or when the configuration cannot be used.
pub(crate) async fn connect(fence: &Fence, counter: &RequestCounter) -> Result<Clients, kube::Error> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    Ok(Clients {
        fenced: build_fenced(config.clone(), Limits::OPERATOR, counter, fence)?,
        election: build(config, Limits::OPERATOR, counter)?,
    })
}

/// Builds a client without retries from a configuration.
///
/// # Errors
///
/// When the configuration cannot be used.
pub(crate) fn build(mut config: Config, limits: Limits, counter: &RequestCounter) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&limits).with_layer(counter).build())
}

/// Builds a client without retries that writes only while this process is the leader, and at a pace.
///
/// # Errors
///
/// When the configuration cannot be used.
pub(crate) fn build_fenced(
    mut config: Config,
    limits: Limits,
    counter: &RequestCounter,
    fence: &Fence,
) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&limits)
        .with_layer(counter)
        .with_layer(fence)
        .with_layer(&WritePace::default())
        .build())
}

impl<S> Layer<S> for Limits {
    type Service = LimitedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitedService { inner, limits: *self }
    }
}

/// Service whose requests end within their limits.
pub(crate) struct LimitedService<S> {
    inner: S,
    limits: Limits,
}

impl<S, B> Service<Request<Body>> for LimitedService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = self.limits.limit_of(&request);
        let response = self.inner.call(request).map(|response| response.map_err(Into::into));
        match limit {
            Limit::Total(limit) => within(limit, read_whole(response)).boxed(),
            Limit::Silence(limit) => within(limit, response)
                .map(move |response| Ok(response?.map(|body| SilenceLimit::new(body, limit).boxed_unsync())))
                .boxed(),
        }
    }
}

/// Waits for a response.
async fn within<T>(limit: Duration, response: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    tokio::time::timeout(limit, response).await.unwrap_or_else(|_| Err(TimeoutError(limit).into()))
}

/// Reads a response with its body, so that a body that stalls is within the limit, too.
async fn read_whole<B>(
    response: impl Future<Output = Result<Response<B>, BoxError>>,
) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.await?.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(parts, Full::new(body).map_err(|never| match never {}).boxed_unsync()))
}

/// Body of a watch, which ends when nothing comes. The watcher then starts the watch again where it ended.
struct SilenceLimit<B> {
    body: B,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
}

impl<B> SilenceLimit<B> {
    fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, deadline: Box::pin(tokio::time::sleep(limit)) }
    }
}

impl<B> HttpBody for SilenceLimit<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let deadline = Instant::now() + self.limit;
            self.deadline.as_mut().reset(deadline);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.deadline.as_mut().poll(context));
        tracing::warn!(limit = ?self.limit, "a watch was silent for too long and is started again");
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::{FakeApi, Reply};
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{ListParams, Patch, PatchParams};
    use kube::runtime::watcher;
    use serde_json::json;

    #[test]
    fn requests_end_after_10_seconds_lists_after_30_and_silent_watches_after_5_minutes() {
        let limit_of = |uri: &str, name: &'static str| {
            let mut request = Request::get(uri).body(()).unwrap();
            request.extensions_mut().insert(name);
            Limits::OPERATOR.limit_of(&request)
        };
        let pods = "/api/v1/namespaces/a/pods";
        let seconds = Duration::from_secs;
        assert_eq!(limit_of("/api/v1/namespaces/a/pods/watch", "get"), Limit::Total(seconds(10)));
        assert_eq!(
            limit_of("/api/v1/namespaces/a/pods/x/status?force=true", "patch_status"),
            Limit::Total(seconds(10))
        );
        assert_eq!(limit_of(&format!("{pods}?limit=500"), "list"), Limit::Total(seconds(30)));
        assert_eq!(limit_of(&format!("{pods}?limit=1"), "list_metadata"), Limit::Total(seconds(30)));
        for name in ["watch", "watch_metadata"] {
            assert_eq!(limit_of(&format!("{pods}?watch=true&timeoutSeconds=290"), name), Limit::Silence(seconds(300)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_accepts_and_never_answers_fails_each_request_in_time() {
        let server = FakeApi::start(|_| Reply::Silence).await;
        let config_maps: Api<ConfigMap> = Api::namespaced(server.client(Limits::OPERATOR), "a");
        let patch = Patch::Merge(json!({"data": {"k": "v"}}));

        let start = Instant::now();
        let error = config_maps.get("x").await.unwrap_err();
        assert_eq!(start.elapsed().as_secs(), 10);
        assert!(error.to_string().contains("did not answer within 10 s"), "{error}");

        let start = Instant::now();
        config_maps.patch("x", &PatchParams::default(), &patch).await.unwrap_err();
        assert_eq!(start.elapsed().as_secs(), 10);

        let start = Instant::now();
        config_maps.list(&ListParams::default()).await.unwrap_err();
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_within_the_limit() {
        let server = FakeApi::start(|_| Reply::Open("{\"metadata\":".to_owned())).await;
        let limits = Limits { request: Duration::from_millis(50), ..Limits::OPERATOR };
        let config_maps: Api<ConfigMap> = Api::namespaced(server.client(limits), "a");
        let error = config_maps.get("x").await.unwrap_err();
        assert!(error.to_string().contains("did not answer within"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_request_is_sent_once_whatever_the_api_server_asks_for() {
        for code in [429, 503, 504] {
            let server = FakeApi::start(move |_| Reply::RetryLater(code)).await;
            let config_maps: Api<ConfigMap> = Api::namespaced(server.client(Limits::OPERATOR), "a");
            let error = config_maps.get("x").await.unwrap_err();
            assert!(matches!(&error, kube::Error::Api(status) if status.code == code), "{error}");
            assert_eq!(server.requests().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_watch_that_falls_silent_is_started_again_where_it_ended() {
        let server = FakeApi::start(|request| {
            if request.is_watch() {
                let event = json!({"type": "BOOKMARK", "object": {
                    "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "8"},
                }});
                return Reply::Open(format!("{event}\n"));
            }
            Reply::list("ConfigMap", "7", &[])
        })
        .await;
        let limits = Limits { watch_silence: Duration::from_millis(100), ..Limits::OPERATOR };
        let config_maps: Api<ConfigMap> = Api::namespaced(server.client(limits), "a");
        let watch = tokio::spawn(watcher(config_maps, watcher::Config::default()).for_each(|_| async {}));
        let requests = server.wait_for_requests(4).await;
        watch.abort();
        let is_watch: Vec<bool> = requests.iter().take(4).map(|request| request.is_watch()).collect();
        assert_eq!(is_watch, [false, true, true, true], "the list is not repeated");
        assert!(requests[1].uri.contains("resourceVersion=7"), "{}", requests[1].uri);
        assert!(requests[2].uri.contains("resourceVersion=8"), "{}", requests[2].uri);
    }
}
