//! Fence: a layer of the client that lets no write through unless this process is the leader.

use std::error::Error as StdError;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::Request;
use tower::{Layer, Service};

use crate::leader::leadership::{Leadership, NotLeaderError};
use crate::verb::Verb;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Layer that refuses writes of a process that is not the leader, before they are sent, and drops those that are in
/// flight when its term ends.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    leadership: Leadership,
}

impl Fence {
    /// Builds the fence of this leadership.
    pub(crate) fn new(leadership: Leadership) -> Self {
        Self { leadership }
    }
}

impl<S> Layer<S> for Fence {
    type Service = FencedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FencedService { inner, leadership: self.leadership.clone() }
    }
}

/// Service whose writes are fenced.
pub(crate) struct FencedService<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, B> Service<Request<B>> for FencedService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !Verb::of(&request).is_write() {
            return self.inner.call(request).map(|response| response.map_err(Into::into)).boxed();
        }
        // Nothing is sent before the future is polled. What waits for its turn is not in flight yet.
        let (leadership, response) = (self.leadership.clone(), self.inner.call(request));
        async move {
            let write = leadership.begin_write()?;
            tokio::select! {
                biased;
                () = write.lost() => Err(NotLeaderError.into()),
                response = response => response.map_err(Into::into),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Limits};
    use crate::fake_api::{FakeApi, Reply};
    use crate::request_counter::RequestCounter;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
    use serde_json::json;
    use std::time::Duration;

    fn client(server: &FakeApi, leadership: &Leadership) -> Api<ConfigMap> {
        let client = client::build_fenced(
            server.config(),
            Limits::OPERATOR,
            &RequestCounter::default(),
            &Fence::new(leadership.clone()),
        )
        .unwrap();
        Api::namespaced(client, "a")
    }

    #[tokio::test]
    async fn no_write_of_a_process_that_is_not_the_leader_is_sent_and_every_read_is() {
        let config_map = json!({"metadata": {"name": "x"}});
        let server = FakeApi::start(move |request| match request.path().ends_with("/x") {
            true => Reply::Json(200, config_map.clone()),
            false => Reply::list("ConfigMap", "1", &[]),
        })
        .await;
        let leadership = Leadership::default();
        let config_maps = client(&server, &leadership);
        let write_all = async || {
            let patch = Patch::Merge(json!({"data": {"k": "v"}}));
            let object = ConfigMap::default();
            let mut errors = Vec::new();
            errors.extend(config_maps.patch("x", &PatchParams::default(), &patch).await.err());
            errors.extend(config_maps.patch_status("x", &PatchParams::default(), &patch).await.err());
            errors.extend(config_maps.delete("x", &DeleteParams::default()).await.err());
            errors.extend(config_maps.create(&PostParams::default(), &object).await.err());
            errors
        };
        let errors = write_all().await;
        assert_eq!(errors.len(), 4);
        assert!(errors.iter().all(|error| error.to_string().contains("not the leader")), "{errors:?}");
        assert!(server.requests().is_empty(), "{:?}", server.requests());
        config_maps.get("x").await.unwrap();
        config_maps.list(&ListParams::default()).await.unwrap();
        leadership.lead(Duration::from_secs(60));
        write_all().await;
        let sent = server.requests().into_iter().filter(|request| request.method != "GET").count();
        assert_eq!(sent, 4);
        leadership.lose();
        assert_eq!(write_all().await.len(), 4);
    }

    #[tokio::test]
    async fn writes_that_wait_for_their_turn_do_not_keep_a_leader_from_releasing_its_lease() {
        let server = FakeApi::start(|_| Reply::Json(200, json!({"metadata": {"name": "x"}}))).await;
        let leadership = Leadership::permanent();
        let config_maps = client(&server, &leadership);
        let writes: Vec<_> = (0..60)
            .map(|_| {
                let config_maps = config_maps.clone();
                tokio::spawn(async move { config_maps.delete("x", &DeleteParams::default()).await })
            })
            .collect();
        server.wait_for_requests(1).await;
        leadership.close();
        assert!(leadership.writes_end(Duration::from_secs(1)).await);
        let sent = server.requests().len();
        let mut refused = 0;
        for write in writes {
            refused +=
                usize::from(write.await.unwrap().is_err_and(|error| error.to_string().contains("not the leader")));
        }
        assert_eq!(server.requests().len(), sent, "nothing is sent after that");
        assert_eq!(sent + refused, 60);
    }

    #[tokio::test]
    async fn a_write_in_flight_is_dropped_with_the_term() {
        let server = FakeApi::start(|_| Reply::Silence).await;
        let leadership = Leadership::permanent();
        let config_maps = client(&server, &leadership);
        let write = tokio::spawn(async move { config_maps.delete("x", &DeleteParams::default()).await });
        server.wait_for_requests(1).await;
        leadership.lose();
        let error = write.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("not the leader"), "{error}");
    }
}
