//! Counter of the requests to the API server, by verb and code of the response.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::{Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use crate::verb::Verb;

/// Code of a request that had no response.
const NO_RESPONSE: &str = "none";

/// Labels of a request: the name of its verb, and the status code of the response.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    code: String,
}

/// Counter of the requests of a client. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestCounter {
    requests: Family<RequestLabels, Counter>,
}

impl RequestCounter {
    /// Registers the metric.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Requests to the API server, by verb and code of the response";
        registry.register("api_requests", help, self.requests.clone());
    }

    /// Counts a request with the status code of its response, or without a response.
    fn record(&self, verb: Verb, code: Option<u16>) {
        let code = code.map_or_else(|| NO_RESPONSE.to_owned(), |code| code.to_string());
        self.requests.get_or_create(&RequestLabels { verb: verb.name(), code }).inc();
    }
}

impl<S> Layer<S> for RequestCounter {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountedService { inner, counter: self.clone() }
    }
}

/// Service whose requests are counted when their responses begin.
pub(crate) struct CountedService<S> {
    inner: S,
    counter: RequestCounter,
}

impl<S, B, C> Service<Request<B>> for CountedService<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    C: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pending = PendingRequest { verb: Verb::of(&request), counter: Some(self.counter.clone()) };
        let response = self.inner.call(request);
        response
            .inspect(move |result| pending.record(result.as_ref().ok().map(|response| response.status().as_u16())))
            .boxed()
    }
}

/// Request that has no response yet. One that is dropped, for one by a caller with a limit of its own, is counted as a
/// request without a response.
struct PendingRequest {
    verb: Verb,
    counter: Option<RequestCounter>,
}

impl PendingRequest {
    fn record(mut self, code: Option<u16>) {
        if let Some(counter) = self.counter.take() {
            counter.record(self.verb, code);
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let Some(counter) = self.counter.take() {
            counter.record(self.verb, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Limits;
    use crate::fake_api::{FakeApi, Reply};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
    use serde_json::json;
    use std::time::Duration;

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_code_and_those_without_a_response_too() {
        let server = FakeApi::start(|request| match request.uri.contains("silent") {
            true => Reply::Silence,
            false => Reply::RetryLater(429),
        })
        .await;
        let counter = RequestCounter::default();
        let limits = Limits { request: Duration::from_secs(1), ..Limits::OPERATOR };
        let client = crate::client::build(server.config(), limits, &counter).unwrap();
        let config_maps: Api<ConfigMap> = Api::namespaced(client, "a");
        config_maps.get("x").await.unwrap_err();
        config_maps.get("silent").await.unwrap_err();
        tokio::time::timeout(Duration::from_millis(50), config_maps.delete("silent", &DeleteParams::default()))
            .await
            .unwrap_err();
        config_maps.list(&ListParams::default()).await.unwrap_err();
        config_maps.patch("x", &PatchParams::default(), &Patch::Merge(json!({}))).await.unwrap_err();
        let mut registry = Registry::default();
        counter.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, &registry).unwrap();
        for labels in [
            "verb=\"get\",code=\"429\"",
            "verb=\"get\",code=\"none\"",
            "verb=\"delete\",code=\"none\"",
            "verb=\"list\",code=\"429\"",
            "verb=\"patch\",code=\"429\"",
        ] {
            assert!(text.contains(&format!("api_requests_total{{{labels}}} 1")), "{labels}: {text}");
        }
    }
}
