//! Lease: the object of the API server that a record is read from and written to.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::leader::election::{LeaseRecord, VersionedRecord};

/// Reads a Lease. One without a duration has none, and one with an empty holder is free.
#[must_use]
pub(super) fn read(lease: &Lease) -> VersionedRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
    VersionedRecord {
        record: LeaseRecord {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(seconds),
            transitions: spec.lease_transitions.unwrap_or_default(),
            acquire_time: spec.acquire_time.map(|time| time.0),
            renew_time: spec.renew_time.map(|time| time.0),
        },
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Builds a Lease with this content, and with the metadata of the one that it replaces.
#[must_use]
pub(super) fn build(record: &LeaseRecord, metadata: ObjectMeta) -> Lease {
    // The API server accepts no duration below a second.
    let seconds = i32::try_from(record.duration.as_secs()).unwrap_or(i32::MAX).max(1);
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(record.holder.clone().unwrap_or_default()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(record.transitions),
            acquire_time: record.acquire_time.map(MicroTime),
            renew_time: record.renew_time.map(MicroTime),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn a_record_survives_the_api_server() {
        let time = Some(Timestamp::from_microsecond(1_700_000_000_123_456).unwrap());
        let held = LeaseRecord {
            holder: Some("pod-a_1f".to_owned()),
            duration: Duration::from_secs(15),
            transitions: 7,
            acquire_time: time,
            renew_time: time,
        };
        let released = LeaseRecord { holder: None, duration: Duration::from_secs(1), ..held.clone() };
        for record in [held, released] {
            let metadata = ObjectMeta { resource_version: Some("42".to_owned()), ..ObjectMeta::default() };
            let text = serde_json::to_string(&build(&record, metadata)).unwrap();
            let expected = VersionedRecord { record, resource_version: "42".to_owned() };
            assert_eq!(read(&serde_json::from_str(&text).unwrap()), expected, "{text}");
        }
    }
}
