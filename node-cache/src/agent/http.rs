//! `/status`, `/metrics` and `/probe?name=` on the addresses of the pod.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::status::{NodeStatusReporter, ProbeError};
use crate::admin::http_limits::LimitedListener;
use crate::admin::{Command, CommandHandler};

/// Between two tries to listen at an address that is taken or not there yet.
const RETRY: Duration = Duration::from_secs(1);
/// Media type of the Prometheus text format with its closing line.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves on one address of the pod, and waits as long as somebody else has the port: an earlier pod may still be
/// about to go, and the leases do not depend on this.
pub(super) async fn serve(address: IpAddr, port: u16, report: Arc<NodeStatusReporter>) {
    let address = SocketAddr::new(address, port);
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!("status and metrics at http://{address}");
                if let Err(error) = axum::serve(LimitedListener::new(listener), router(Arc::clone(&report))).await {
                    tracing::warn!("status and metrics at {address}: {error}");
                }
            }
            Err(error) if !told => {
                tracing::warn!("cannot listen at {address} for status and metrics: {error}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn router(report: Arc<NodeStatusReporter>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/probe", get(probe))
        .with_state(report)
}

async fn status(State(report): State<Arc<NodeStatusReporter>>) -> Response {
    Json(report.status().await).into_response()
}

async fn metrics(State(report): State<Arc<NodeStatusReporter>>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], report.handle(Command::Metrics).await).into_response()
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
}

async fn probe(State(report): State<Arc<NodeStatusReporter>>, Query(wanted): Query<Wanted>) -> Response {
    match report.probe(&wanted.name).await {
        Ok(probed) => Json(probed).into_response(),
        Err(error @ ProbeError::Unknown(_)) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
        Err(error @ ProbeError::SelfQueryError(_)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
