//! HTTP server of `/healthz`, `/readyz` and `/metrics`.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use node_cache_config::metrics_page::TextFormat;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::liveness::Liveness;
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
    liveness: Arc<Liveness>,
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
    liveness: Arc<Liveness>,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(get_healthz))
        .route("/readyz", get(get_readyz))
        .route("/metrics", get(get_metrics))
        .with_state(AdminState { liveness, metrics, readiness });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn get_healthz(State(state): State<AdminState>) -> impl IntoResponse {
    match state.liveness.check(Instant::now()) {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(reason) => {
            tracing::error!(reason, "the operator is stuck");
            (StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn healthz_fails_while_a_reconciliation_is_stuck() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let liveness = Arc::new(Liveness::default());
        let (_sender, readiness) = watch::channel(Readiness::Ready);
        tokio::spawn(serve(listener, liveness.clone(), Arc::default(), readiness, std::future::pending()));
        let get = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            response
        };
        let now = Instant::now();
        let quick = liveness.start("quick", now);
        assert!(get().await.contains(" 200 OK"), "{}", get().await);
        drop(quick);
        let Some(start) = now.checked_sub(Duration::from_secs(200)) else { return };
        let _stuck = liveness.start("stuck", start);
        let response = get().await;
        assert!(response.contains(" 503 ") && response.contains("tier stuck"), "{response}");
    }
}
