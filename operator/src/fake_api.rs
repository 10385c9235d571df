//! Fake API server on loopback, for tests: it answers as a function says, and keeps the requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream, StreamExt};
use http_body_util::BodyExt;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::client::{self, Limits};
use crate::request_counter::RequestCounter;

/// Request that the fake API server has received.
#[derive(Clone, Debug)]
pub(crate) struct FakeRequest {
    /// Method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) uri: String,
    /// Body; null without one.
    pub(crate) body: Value,
}

impl FakeRequest {
    /// Returns whether the request starts a watch.
    pub(crate) fn is_watch(&self) -> bool {
        self.uri.contains("watch=true")
    }

    /// Returns the path without the query.
    pub(crate) fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

/// Response of the fake API server.
pub(crate) enum Reply {
    /// Status and body.
    Json(u16, Value),
    /// Status and the demand to come back in an hour.
    RetryLater(u16),
    /// Start of a body that never ends.
    Open(String),
    /// Parts of a body.
    Stream(BoxStream<'static, String>),
    /// No response at all.
    Silence,
}

impl Reply {
    /// Returns a refusal with this message.
    pub(crate) fn refusal(code: u16, message: &str) -> Self {
        let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "x"});
        Self::Json(code, status)
    }

    /// Returns a list of these objects.
    pub(crate) fn list(kind: &str, resource_version: &str, items: &[Value]) -> Self {
        let metadata = json!({"resourceVersion": resource_version});
        Self::Json(
            200,
            json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": metadata, "items": items}),
        )
    }

    async fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        match self {
            Self::Json(code, body) => (status(code), json, body.to_string()).into_response(),
            Self::RetryLater(code) => {
                let Self::Json(_, body) = Self::refusal(code, "not now") else { unreachable!() };
                (status(code), [(header::RETRY_AFTER, "3600")], body.to_string()).into_response()
            }
            Self::Open(start) => {
                let start = stream::iter([Ok::<Bytes, Infallible>(start.into())]);
                (json, Body::from_stream(start.chain(stream::pending()))).into_response()
            }
            Self::Stream(parts) => {
                (json, Body::from_stream(parts.map(Bytes::from).map(Ok::<Bytes, Infallible>))).into_response()
            }
            Self::Silence => std::future::pending().await,
        }
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

/// Fake API server, which ends with the runtime of its test.
pub(crate) struct FakeApi {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<FakeRequest>>>,
}

impl FakeApi {
    /// Starts a server that answers as `reply` says.
    pub(crate) async fn start(reply: impl Fn(&FakeRequest) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        let reply = Arc::new(reply);
        let router = Router::new().fallback(move |request: Request| {
            let (received, reply) = (received.clone(), reply.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let request = FakeRequest {
                    method: parts.method.to_string(),
                    uri: parts.uri.to_string(),
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                };
                received.lock().unwrap().push(request.clone());
                reply(&request).into_response().await
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, requests }
    }

    /// Returns a client of the server.
    pub(crate) fn client(&self, limits: Limits) -> Client {
        client::build(self.config(), limits, &RequestCounter::default()).unwrap()
    }

    /// Returns the configuration of a client of the server.
    pub(crate) fn config(&self) -> Config {
        Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    /// Returns the requests so far.
    pub(crate) fn requests(&self) -> Vec<FakeRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until the server has received so many requests, and returns them.
    pub(crate) async fn wait_for_requests(&self, count: usize) -> Vec<FakeRequest> {
        for _ in 0..600 {
            if self.requests().len() >= count {
                return self.requests();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} requests came: {:#?}", self.requests().len(), self.requests());
    }
}
