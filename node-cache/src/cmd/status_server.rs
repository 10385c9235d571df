//! The HTTP side of a zone resolver: `/status` and `/metrics`, and what the kubelet asks, `/live` and `/ready`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use node_cache_config::status::ResolverStatus;
use tokio::net::TcpListener;

use super::ProcessError;
use super::status_reporter::{Readiness, StatusReporter};
use crate::admin::http_limits::LimitedListener;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens at an address.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, ProcessError> {
    TcpListener::bind(address).await.map_err(|source| ProcessError::Listen { address, source })
}

/// Answers at `listener` for ever.
pub(super) async fn serve<R: Readiness>(listener: TcpListener, account: Arc<StatusReporter<R>>) {
    let router = Router::new()
        .route("/status", get(status::<R>))
        .route("/metrics", get(metrics::<R>))
        .route("/live", get(live::<R>))
        .route("/ready", get(ready::<R>))
        .with_state(account);
    if let Err(error) = axum::serve(LimitedListener::new(listener), router).await {
        tracing::error!("status server: {error}");
    }
}

async fn status<R: Readiness>(State(account): State<Arc<StatusReporter<R>>>) -> Json<ResolverStatus> {
    let identity = account.resolver.identity();
    let zone = account.in_force.borrow().zone.clone();
    Json(ResolverStatus {
        pod_uid: identity.pod_uid.clone(),
        node: identity.node.clone(),
        zone,
        ready: account.readiness.missing().await.is_none(),
        instance: account.instance().await,
    })
}

async fn metrics<R: Readiness>(State(account): State<Arc<StatusReporter<R>>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], account.metrics())
}

/// Whether it reads what it should; if not, who does not.
async fn live<R: Readiness>(State(account): State<Arc<StatusReporter<R>>>) -> (StatusCode, String) {
    shown(account.dead().await, "it answers\n")
}

/// Whether it is ready; if not, what is missing.
async fn ready<R: Readiness>(State(account): State<Arc<StatusReporter<R>>>) -> (StatusCode, String) {
    shown(account.readiness.missing().await, "ready\n")
}

fn shown(wrong: Option<String>, well: &str) -> (StatusCode, String) {
    match wrong {
        None => (StatusCode::OK, well.to_owned()),
        Some(wrong) => (StatusCode::SERVICE_UNAVAILABLE, wrong + "\n"),
    }
}
