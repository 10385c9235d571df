//! Fake Lease on a fake API server, for tests, and times of an election that a test can wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_api::{FakeApi, FakeRequest, Reply};
use crate::leader::election::Timing;

/// Times that are shorter than the operator's, and long enough for a busy host.
pub(crate) const TIMING: Timing = Timing {
    duration: Duration::from_secs(4),
    write_limit: Duration::from_millis(2_500),
    renew_interval: Duration::from_millis(200),
    look_interval: Duration::from_millis(100),
    retry_interval: Duration::from_millis(50),
    request_limit: Duration::from_secs(1),
    close_limit: Duration::from_secs(2),
};

/// Lease of a fake API server.
#[derive(Clone, Default)]
pub(crate) struct FakeLease {
    pub(super) lease: Arc<Mutex<Option<Value>>>,
    pub(super) is_silent: Arc<AtomicBool>,
}

impl FakeLease {
    /// Starts an API server that has nothing but the Lease.
    pub(super) async fn serve(&self) -> FakeApi {
        let lease = self.clone();
        FakeApi::start(move |request| lease.reply(request)).await
    }

    /// Answers a request for the Lease.
    pub(crate) fn reply(&self, request: &FakeRequest) -> Reply {
        if self.is_silent.load(Ordering::Relaxed) {
            return Reply::Silence;
        }
        let mut lease = self.lease.lock().unwrap();
        let version = |lease: &Option<Value>| {
            let version = lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
            version.and_then(|version| version.as_str()?.parse::<u64>().ok()).unwrap_or_default()
        };
        let next = json!((version(&lease) + 1).to_string());
        match (request.method.as_str(), &*lease) {
            ("GET", Some(lease)) => return Reply::Json(200, lease.clone()),
            ("GET" | "PUT", None) => return Reply::refusal(404, "not found"),
            ("POST", Some(_)) => return Reply::refusal(409, "it exists"),
            ("PUT", Some(lease))
                if lease["metadata"]["resourceVersion"] != request.body["metadata"]["resourceVersion"] =>
            {
                return Reply::refusal(409, "it was modified");
            }
            _ => {}
        }
        let mut written = request.body.clone();
        written["metadata"]["resourceVersion"] = next;
        *lease = Some(written.clone());
        Reply::Json(200, written)
    }

    /// Returns a field of the Lease.
    pub(crate) fn get(&self, field: &str) -> Value {
        self.lease.lock().unwrap().as_ref().map_or(Value::Null, |lease| lease["spec"][field].clone())
    }
}
