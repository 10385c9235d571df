//! Time in seconds of the Unix epoch, which the test has in common with the API server's log.

use k8s_openapi::jiff::Timestamp;

/// Returns the present time.
pub(crate) fn now() -> f64 {
    Timestamp::now().as_microsecond() as f64 / 1e6
}
