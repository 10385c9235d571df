//! HTTP server of `/healthz`, `/readyz` and `/metrics`.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use node_cache_config::metrics_page::TextFormat;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Readiness of the operator, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Tiers are reconciled.
    Ready,
    /// Tiers are not reconciled yet, for this reason.
    NotReady(String),
}

#[derive(Clone)]
struct AdminState {
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
}

/// Serves until `stop` resolves.
///
/// # Errors
///
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(get_readyz))
        .route("/metrics", get(get_metrics))
        .with_state(AdminState { metrics, readiness });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn get_readyz(State(state): State<AdminState>) -> impl IntoResponse {
    match &*state.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok".to_owned()),
        Readiness::NotReady(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason.clone()),
    }
}

async fn get_metrics(State(state): State<AdminState>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = TextFormat::negotiate(accept);
    let headers = [(header::CONTENT_TYPE, format.media_type()), (header::VARY, "Accept")];
    (headers, format.convert(state.metrics.encode()))
}
