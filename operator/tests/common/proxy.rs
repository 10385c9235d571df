//! Proxy between one operator and the API server: plain HTTP on loopback. What it does with a request is decided in
//! `decision`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::decision::{Distortion, EventFilter, Fault, Kind, OldLists, Once, Output, Placement, Script};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// Time between two ends of a moment, for events that are held or lost.
const MOMENT: Duration = Duration::from_millis(1_500);
/// Time for which an operator with an old list gets no event.
const LAG: Duration = Duration::from_millis(2_500);
/// Time after which a late write is carried out.
const LATE: Duration = Duration::from_secs(2);

/// Proxy, which ends on drop.
pub(crate) struct Proxy {
    /// Address of the proxy.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// State that all connections share.
struct Shared {
    upstream: Client,
    /// Parts of a query that show the operator its own world only, by the collection.
    scope: BTreeMap<&'static str, String>,
    state: Mutex<State>,
    distortion: watch::Sender<Option<Distortion>>,
    /// Kills the operator.
    kill: Box<dyn Fn() + Send + Sync>,
    /// Told after each kill.
    killed: Notify,
    /// Whether the operator was killed and none was started since: nothing is let through.
    is_dead: AtomicBool,
    /// Number of the life of the operator; connections of an earlier one are closed.
    life: AtomicU64,
}

#[derive(Default)]
struct State {
    script: Script,
    distorted: Once,
    /// Requests for lists so far, which are repeated to record them.
    lists: BTreeMap<String, String>,
    recorded: BTreeMap<String, Bytes>,
    old: Option<OldLists>,
    /// Paths whose old list was served.
    served: Once,
    /// Number of old lists that were served in this phase.
    old_lists: usize,
    /// Number of disturbed events in this phase, and of requests that had a fault before another one was placed.
    hits: usize,
    log: Vec<String>,
}

impl Proxy {
    /// Starts a proxy. `scope` are parameters that are added to lists and watches of a collection; `kill` ends the
    /// operator at once.
    pub(crate) async fn start(
        upstream: Client,
        scope: BTreeMap<&'static str, String>,
        kill: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            scope,
            state: Mutex::default(),
            distortion: watch::Sender::new(None),
            kill: Box::new(kill),
            killed: Notify::new(),
            is_dead: AtomicBool::new(false),
            life: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// Begins a phase with these faults, and counts its requests from 1.
    pub(crate) fn begin_phase(&self, placements: Vec<Placement>, distortion: Option<Distortion>) {
        let mut state = self.shared.lock();
        state.script = Script::new(placements);
        state.distorted = Once::default();
        state.old_lists = 0;
        state.hits = 0;
        state.log.clear();
        drop(state);
        self.shared.distortion.send_replace(distortion);
    }

    /// Ends the faults of a phase.
    pub(crate) fn end_faults(&self) {
        self.shared.lock().script.end_faults();
        self.shared.distortion.send_replace(None);
    }

    /// Returns the number of writes in this phase.
    pub(crate) fn writes(&self) -> usize {
        self.shared.lock().script.count(Kind::Write)
    }

    /// Replaces the fault of this phase, and counts requests from 1 again.
    pub(crate) fn place(&self, placement: Placement) {
        let mut state = self.shared.lock();
        state.hits += state.script.hits;
        state.script = Script::new(Some(placement));
    }

    /// Returns the number of requests, lists and events in this phase that had a fault.
    pub(crate) fn hits(&self) -> usize {
        let state = self.shared.lock();
        state.script.hits + state.old_lists + state.hits
    }

    /// Returns the number of old lists that were served in this phase.
    pub(crate) fn old_lists(&self) -> usize {
        self.shared.lock().old_lists
    }

    /// Returns the places of the faults that a request of this phase had.
    pub(crate) fn met(&self) -> Vec<Placement> {
        self.shared.lock().script.met.clone()
    }

    /// Returns what was asked in this phase, one request a line.
    pub(crate) fn log(&self) -> Vec<String> {
        self.shared.lock().log.clone()
    }

    /// Waits until the proxy has killed the operator.
    pub(crate) async fn killed(&self) {
        self.shared.killed.notified().await;
    }

    /// Kills the operator. Returns once nothing more of it reaches the API server.
    pub(crate) fn kill(&self) {
        self.shared.kill();
    }

    /// Lets the requests of a new operator through; its first lists may be old ones.
    pub(crate) fn begin_life(&self, old: Option<OldLists>) {
        let mut state = self.shared.lock();
        state.old = old;
        state.served = Once::default();
        drop(state);
        self.shared.life.fetch_add(1, Ordering::SeqCst);
        self.shared.is_dead.store(false, Ordering::SeqCst);
    }

    /// Records every list that the operator has asked for, as it is now.
    pub(crate) async fn record_lists(&self) {
        let lists = self.shared.lock().lists.clone();
        for (path, uri) in lists {
            let Ok(request) = Request::get(&uri).body(Body::empty()) else { continue };
            let Ok(response) = self.shared.upstream.send(request).await else { continue };
            if let Ok(body) = response.into_body().collect().await {
                self.shared.lock().recorded.insert(path, body.to_bytes());
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with the proxy.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let life = shared.life.load(Ordering::SeqCst);
    let answer = move |request| {
        let shared = shared.clone();
        async move { shared.answer(request, life).await }
    };
    let connection = hyper::server::conn::http1::Builder::new();
    // A connection that is cut is what the proxy is for.
    drop(connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
}

/// Why a connection is closed without a response.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the connection is cut")
    }
}

impl std::error::Error for Cut {}

impl Shared {
    /// Answers a request of the operator; an error closes the connection.
    async fn answer(self: Arc<Self>, request: Request<Incoming>, life: u64) -> Result<Response<ResponseBody>, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let method = parts.method.as_str().to_owned();
        let uri = self.in_scope(parts.uri.path_and_query().map_or("/", |uri| uri.as_str()));
        let path = uri.split('?').next().unwrap_or_default().to_owned();
        let kind = Kind::of(&method, &uri, &body);
        let fault = {
            let mut state = self.lock();
            if self.is_dead.load(Ordering::SeqCst) || life != self.life.load(Ordering::SeqCst) {
                return Err(Cut);
            }
            let fault = state.script.decide(kind);
            if kind == Kind::List {
                // The first list of a path is that of its watch; later ones may be of one object.
                state.lists.entry(path.clone()).or_insert_with(|| uri.clone());
            }
            if kind != Kind::Election {
                state
                    .log
                    .push(format!("{method} {path} {kind:?} {}", fault.map_or(String::new(), |f| format!("{f:?}"))));
            }
            if fault == Some(Fault::KillBefore) {
                self.kill_locked();
            }
            fault
        };
        let mut upstream = Request::builder().method(parts.method).uri(&uri);
        for (name, value) in parts.headers.iter().filter(|(name, _)| **name != HOST) {
            upstream = upstream.header(name, value);
        }
        let upstream = upstream.body(Body::from(body.to_vec())).map_err(|_| Cut)?;
        match fault {
            Some(Fault::KillBefore | Fault::CutBefore) => return Err(Cut),
            Some(Fault::Refuse(code)) => return Ok(refusal(code)),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Late) => {
                let client = self.upstream.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    drop(client.send(upstream).await);
                });
                return Err(Cut);
            }
            Some(Fault::KillAfter | Fault::CutAfter) | None => {}
        }
        let old = if kind == Kind::List { self.old_list(&path) } else { None };
        let response = match (kind, old) {
            (_, Some(old)) => respond(200, full(old)),
            (Kind::Watch, _) => {
                if self.lags_behind(&path) {
                    tokio::time::sleep(LAG).await;
                }
                self.clone().watch(upstream, path).await?
            }
            _ => self.forward(upstream).await?,
        };
        match fault {
            Some(Fault::KillAfter) => {
                self.kill();
                Err(Cut)
            }
            Some(Fault::CutAfter) => Err(Cut),
            _ => Ok(response),
        }
    }

    /// Forwards a request and reads its response. A write that has begun is carried out whatever its client does.
    async fn forward(&self, request: Request<Body>) -> Result<Response<ResponseBody>, Cut> {
        let client = self.upstream.clone();
        let forwarded = tokio::spawn(async move {
            let (parts, body) = client.send(request).await.map_err(|_| Cut)?.into_parts();
            let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
            let mut response = respond(parts.status.as_u16(), full(body));
            if let Some(content) = parts.headers.get(CONTENT_TYPE) {
                response.headers_mut().insert(CONTENT_TYPE, content.clone());
            }
            Ok(response)
        });
        forwarded.await.map_err(|_| Cut)?
    }

    /// Forwards a watch, whose events go through a filter.
    async fn watch(self: Arc<Self>, request: Request<Body>, path: String) -> Result<Response<ResponseBody>, Cut> {
        let (parts, body) = self.upstream.send(request).await.map_err(|_| Cut)?.into_parts();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move { self.pump(body, &path, sender).await });
        let parts_of_body = futures::stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
            let part: Result<Frame<Bytes>, BoxError> = receiver.recv().await?;
            Some((part, receiver))
        });
        Ok(respond(parts.status.as_u16(), StreamBody::new(parts_of_body).boxed_unsync()))
    }

    /// Passes the events of a watch on until either side ends.
    async fn pump(&self, body: Body, path: &str, sender: mpsc::Sender<Result<Frame<Bytes>, BoxError>>) {
        let mut chunks = BodyStream::new(body);
        let mut filter = EventFilter::default();
        let mut buffer = Vec::new();
        let mut moments = tokio::time::interval(MOMENT);
        let mut distortions = self.distortion.subscribe();
        let mut current = self.distortion_of(path);
        if current == Some(Distortion::Silence) {
            // It was opened in place of one that is silent.
            self.lock().distorted.is_first(path);
            current = None;
        }
        loop {
            let mut outputs = Vec::new();
            tokio::select! {
                () = sender.closed() => return,
                _ = moments.tick() => outputs = filter.end_moment(),
                changed = distortions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = self.distortion_of(path);
                    if current == Some(Distortion::Silence) && next.is_none() {
                        return;
                    }
                    current = next;
                }
                chunk = chunks.next() => {
                    let Some(Ok(chunk)) = chunk else { return };
                    buffer.extend_from_slice(&chunk.into_data().unwrap_or_default());
                    while let Some(end) = buffer.iter().position(|octet| *octet == b'\n') {
                        let line: Vec<u8> = buffer.drain(..=end).collect();
                        outputs.extend(filter.push(String::from_utf8_lossy(&line).into_owned(), current));
                    }
                }
            }
            let hits = filter.take_hits();
            if hits > 0 {
                self.lock().hits += hits;
            }
            for output in outputs {
                let part = match output {
                    Output::Send(text) => Ok(Frame::data(Bytes::from(text))),
                    Output::End => {
                        self.lock().distorted.is_first(path);
                        return;
                    }
                    Output::Abort => {
                        self.lock().distorted.is_first(path);
                        Err(Cut.into())
                    }
                };
                let is_end = part.is_err();
                if sender.send(part).await.is_err() || is_end {
                    return;
                }
            }
        }
    }

    /// Returns the distortion of the watches of a path, if it has not met them yet.
    fn distortion_of(&self, path: &str) -> Option<Distortion> {
        let distortion = *self.distortion.borrow();
        distortion.filter(|_| !self.lock().distorted.has(path))
    }

    /// Returns the old list of a path, once in the life of an operator.
    fn old_list(&self, path: &str) -> Option<Bytes> {
        let mut state = self.lock();
        state.old.filter(|old| old.has(path))?;
        let list = state.recorded.get(path).cloned()?;
        let is_first = state.served.is_first(path);
        state.old_lists += usize::from(is_first);
        is_first.then_some(list)
    }

    fn lags_behind(&self, path: &str) -> bool {
        self.lock().served.has(path)
    }

    fn kill(&self) {
        let _state = self.lock();
        self.kill_locked();
    }

    /// Kills the operator while no other request is decided on.
    fn kill_locked(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        (self.kill)();
        self.killed.notify_one();
    }

    /// Adds what shows the operator its own world only.
    fn in_scope(&self, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let scope = path.rsplit('/').next().and_then(|collection| self.scope.get(collection));
        match scope {
            Some(scope) if query.is_empty() => format!("{path}?{scope}"),
            Some(scope) => format!("{path}?{query}&{scope}"),
            None => uri.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(body: impl Into<Bytes>) -> ResponseBody {
    Full::new(body.into()).map_err(|error: Infallible| match error {}).boxed_unsync()
}

fn respond(code: u16, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn refusal(code: u16) -> Response<ResponseBody> {
    let (reason, message) = match code {
        409 => ("Conflict", "the object has been modified"),
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "too many requests"),
        _ => ("InternalError", "an error on the server"),
    };
    let status: Value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    let mut response = respond(code, full(status.to_string()));
    if code == 429 {
        response.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("1"));
    }
    response
}
