//! HTTP server of all three programs: `/status` as JSON and `/metrics` in the text format that the request asks for.
//! Programs add their own routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use axum::{Json, Router};
use bytes::Bytes;
use node_cache_config::metrics_page::TextFormat;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::admin::http_limits::LimitedListener;
use crate::admin::node_addresses;
use crate::admin::shared_probes::{ProbeOutcome, ProbeRefusal};

/// Pause between two tries to listen at an address that is taken or not there yet.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Parameters of `/probe`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbeParameters {
    pub(super) name: String,
    /// Type; by default the first one that the configuration has for the name.
    #[serde(rename = "type")]
    pub(super) rtype: Option<String>,
}

impl ProbeParameters {
    /// Returns the response to a request with other parameters.
    pub(super) fn usage() -> Response {
        let usage = "a probe has the parameters `name` and, if need be, `type`, of a name of the configuration";
        (StatusCode::BAD_REQUEST, usage).into_response()
    }
}

/// Returns the response to a probe.
pub(super) fn probe_response(outcome: ProbeOutcome) -> Response {
    let refusal = match outcome {
        Ok(result) => return Json(result).into_response(),
        Err(refusal) => refusal,
    };
    let status = match refusal {
        ProbeRefusal::Unknown(_) => StatusCode::NOT_FOUND,
        ProbeRefusal::Busy => StatusCode::TOO_MANY_REQUESTS,
        ProbeRefusal::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, refusal.to_string()).into_response()
}

/// Address of the client of a connection, in canonical form.
#[derive(Clone, Copy, Debug)]
pub(super) struct HttpClient(pub(super) IpAddr);

impl Connected<IncomingStream<'_, LimitedListener>> for HttpClient {
    fn connect_info(stream: IncomingStream<'_, LimitedListener>) -> Self {
        Self(stream.remote_addr().ip().to_canonical())
    }
}

/// Source of the two pages.
pub(super) trait StatusPages: Send + Sync + 'static {
    /// Returns the status as JSON.
    fn status(&self) -> impl Future<Output = Bytes> + Send;

    /// Returns the metrics in OpenMetrics.
    fn metrics(&self) -> impl Future<Output = String> + Send;
}

/// Returns a router with `/status` and `/metrics`.
pub(super) fn routes<S: StatusPages>() -> Router<Arc<S>> {
    Router::new().route("/status", get(status::<S>)).route("/metrics", get(metrics::<S>))
}

async fn status<S: StatusPages>(State(pages): State<Arc<S>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], pages.status().await)
}

async fn metrics<S: StatusPages>(State(pages): State<Arc<S>>, headers: HeaderMap) -> impl IntoResponse {
    let format = TextFormat::negotiate(headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()));
    ([(CONTENT_TYPE, format.media_type()), (VARY, "Accept")], format.convert(pages.metrics().await))
}

/// Serves requests until it is dropped.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let listener = LimitedListener::new(listener, node_addresses::read());
    if let Err(error) = axum::serve(listener, router.into_make_service_with_connect_info::<HttpClient>()).await {
        tracing::error!(%error, "the status server ended");
    }
}

/// Listens at `address` and serves. Waits as long as another process has the port: an earlier pod may still be about to
/// end, and the leases do not depend on this server.
pub(super) async fn serve_when_free(address: SocketAddr, router: Router) {
    let mut is_logged = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "serving status and metrics");
                serve(listener, router.clone()).await;
            }
            Err(error) if !is_logged => {
                tracing::warn!(%address, %error, "cannot listen for status and metrics; trying again");
                is_logged = true;
            }
            Err(_) => {}
        }
        sleep(LISTEN_RETRY_INTERVAL).await;
    }
}
