//! Election: what a process asks of the Lease and when, and until when it may write.
//!
//! The election has no clock and no client. Expiry is what this process has observed by its monotonic clock: wall
//! clocks in the Lease are written for people and never read.
//!
//! Two processes never may write at the same time: a leader stops 10 s after the *start* of its last successful
//! renewal, and others wait for 15 s from the moment in which they have *seen* its result.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Longest duration of a Lease that is believed, so that a typing error in it does not end all reconciliations.
const MAX_DURATION: Duration = Duration::from_secs(60);
/// Duration in a Lease that was released.
const RELEASED_DURATION: Duration = Duration::from_secs(1);

/// Times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Time without a change of the Lease after which another process takes it.
    pub(crate) duration: Duration,
    /// Time from the start of a renewal after which the leader writes nothing more.
    pub(crate) write_limit: Duration,
    /// Time between the starts of two renewals.
    pub(crate) renew_interval: Duration,
    /// Time between two looks of a process that is not the leader.
    pub(crate) look_interval: Duration,
    /// Time after which the leader tries again after a failure.
    pub(crate) retry_interval: Duration,
    /// Limit of each request.
    pub(crate) request_limit: Duration,
    /// How long a process that stops waits for the end of its writes.
    pub(crate) close_limit: Duration,
}

impl Timing {
    /// Times of the operator.
    pub(crate) const OPERATOR: Self = Self {
        duration: Duration::from_secs(15),
        write_limit: Duration::from_secs(10),
        renew_interval: Duration::from_secs(2),
        look_interval: Duration::from_secs(1),
        retry_interval: Duration::from_millis(500),
        request_limit: Duration::from_secs(2),
        close_limit: Duration::from_secs(1),
    };
}

/// Content of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseRecord {
    /// Identity of the holder; `None` while nobody holds it.
    pub(crate) holder: Option<String>,
    /// Time without a change after which it expires.
    pub(crate) duration: Duration,
    /// Number of changes of the holder.
    pub(crate) transitions: i32,
    /// Wall-clock time at which the holder took it.
    pub(crate) acquire_time: Option<Timestamp>,
    /// Wall-clock time of the last renewal.
    pub(crate) renew_time: Option<Timestamp>,
}

/// Lease as the API server has returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionedRecord {
    /// Content.
    pub(crate) record: LeaseRecord,
    /// Version, which every change of the Lease changes.
    pub(crate) resource_version: String,
}

/// Request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Read the Lease.
    Read,
    /// Create the Lease, which must not exist.
    Create(LeaseRecord),
    /// Replace the Lease, which must have this version.
    Replace {
        /// New content.
        record: LeaseRecord,
        /// Version that is replaced.
        resource_version: String,
    },
}

/// Result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The Lease as read or written.
    Lease(VersionedRecord),
    /// No Lease exists.
    Missing,
    /// Another process has written in between.
    Conflict,
    /// An error or no response: a write may have been carried out, or may be later.
    Failed,
}

/// Lease as it was last seen.
#[derive(Clone, Debug)]
struct Sight {
    lease: VersionedRecord,
    /// Time at which it was first seen with this version.
    since: Instant,
}

/// Kind of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    /// Take or renew the Lease.
    Write,
}

/// Election, as one process takes part in it.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    timing: Timing,
    /// Whether the process takes a Lease that nobody holds.
    stands: bool,
    sight: Option<Sight>,
    /// Whether the Lease was missing when it was last looked for.
    is_missing: bool,
    /// Start of the last successful renewal; `None` while another process holds the Lease, or none.
    renewal: Option<Instant>,
    step: Step,
    next_start: Instant,
}

impl Election {
    /// Builds the election of a process that looks but does not stand yet.
    pub(crate) fn new(identity: String, timing: Timing, now: Instant) -> Self {
        Self {
            identity,
            timing,
            stands: false,
            sight: None,
            is_missing: false,
            renewal: None,
            step: Step::Read,
            next_start: now,
        }
    }

    /// Lets the process take the Lease from now on.
    pub(crate) fn stand(&mut self, now: Instant) {
        if !self.stands {
            self.stands = true;
            self.next_start = now;
        }
    }

    /// Returns when the next request starts.
    #[must_use]
    pub(crate) fn next_start(&self) -> Instant {
        self.next_start
    }

    /// Returns the start of the last successful renewal; `None` when another process holds the Lease, or none.
    #[must_use]
    pub(crate) fn renewal(&self) -> Option<Instant> {
        self.renewal
    }

    /// Returns the time from which the process writes nothing; `None` when it does not hold the Lease.
    #[must_use]
    pub(crate) fn write_end(&self) -> Option<Instant> {
        self.renewal.map(|renewal| renewal + self.timing.write_limit)
    }

    /// Returns the holder of the Lease, as last seen.
    #[must_use]
    pub(crate) fn holder(&self) -> Option<&str> {
        self.sight.as_ref().filter(|_| !self.is_missing)?.lease.record.holder.as_deref()
    }

    /// Returns when the Lease was last seen to change.
    #[must_use]
    pub(crate) fn last_change(&self) -> Option<Instant> {
        self.sight.as_ref().map(|sight| sight.since)
    }

    /// Returns the next request. `wall_clock` is only told to people.
    #[must_use]
    pub(crate) fn request(&self, wall_clock: Timestamp) -> Request {
        match (self.step, &self.sight) {
            (Step::Read, _) => Request::Read,
            (Step::Write, Some(sight)) if !self.is_missing => Request::Replace {
                record: self.claim(wall_clock),
                resource_version: sight.lease.resource_version.clone(),
            },
            (Step::Write, _) => Request::Create(self.claim(wall_clock)),
        }
    }

    /// Returns the request that releases the Lease; `None` when the process does not hold it. The election is over
    /// then.
    #[must_use]
    pub(crate) fn release(&self, wall_clock: Timestamp) -> Option<Request> {
        let sight = self.sight.as_ref().filter(|_| self.renewal.is_some())?;
        let record = LeaseRecord {
            holder: None,
            duration: RELEASED_DURATION,
            renew_time: Some(wall_clock),
            ..sight.lease.record.clone()
        };
        Some(Request::Replace { record, resource_version: sight.lease.resource_version.clone() })
    }

    /// Records the result of a request that was started at `start`.
    pub(crate) fn finish(&mut self, request: &Request, response: Response, start: Instant, now: Instant) {
        match (request, response) {
            (Request::Read, Response::Lease(lease)) => self.look_at(lease, now),
            (Request::Read, Response::Missing) => self.miss(now),
            (_, Response::Lease(lease)) => {
                self.see(lease, now);
                self.renewal = Some(start);
                self.plan(Step::Write, start + self.timing.renew_interval);
            }
            (_, Response::Missing) => {
                // Somebody has deleted the Lease, and another process may create it at any time.
                self.renewal = None;
                self.miss(now);
            }
            (_, Response::Conflict | Response::Failed) => {
                let holds = self.renewal.is_some();
                let delay = if holds { self.timing.retry_interval } else { self.timing.look_interval };
                self.plan(Step::Read, now + delay);
            }
        }
    }

    /// Decides what follows from a Lease that was read.
    fn look_at(&mut self, lease: VersionedRecord, now: Instant) {
        self.see(lease, now);
        let holder = self.holder().map(str::to_owned);
        if holder.as_deref() != Some(&self.identity) {
            self.renewal = None;
        }
        // A renewal that has failed here may have arrived there: who is named as the holder renews again.
        self.take_at(if holder.is_some_and(|holder| holder != self.identity) { self.expiry(now) } else { now }, now);
    }

    /// Decides what follows from a Lease that does not exist. One that another process has held ends as it would have
    /// ended without the deletion, because its holder learns of that only with its next renewal.
    fn miss(&mut self, now: Instant) {
        let is_foreign = self.holder_in_memory().is_some_and(|holder| holder != self.identity);
        self.is_missing = true;
        self.renewal = None;
        self.take_at(if is_foreign { self.expiry(now) } else { now }, now);
    }

    /// Plans to take the Lease at a time, and to look until then.
    fn take_at(&mut self, time: Instant, now: Instant) {
        if self.stands && time <= now {
            self.plan(Step::Write, now);
        } else if self.stands {
            self.plan(Step::Read, time.min(now + self.timing.look_interval));
        } else {
            self.plan(Step::Read, now + self.timing.look_interval);
        }
    }

    fn plan(&mut self, step: Step, start: Instant) {
        (self.step, self.next_start) = (step, start);
    }

    fn see(&mut self, lease: VersionedRecord, now: Instant) {
        self.is_missing = false;
        match &mut self.sight {
            Some(sight) if sight.lease.resource_version == lease.resource_version => sight.lease = lease,
            sight => *sight = Some(Sight { lease, since: now }),
        }
    }

    fn holder_in_memory(&self) -> Option<&str> {
        self.sight.as_ref()?.lease.record.holder.as_deref()
    }

    /// Returns when the Lease expires. One that says less than this election does is no reason to hurry.
    fn expiry(&self, now: Instant) -> Instant {
        let expiry = |sight: &Sight| {
            let duration = sight.lease.record.duration;
            sight.since + duration.clamp(self.timing.duration, MAX_DURATION.max(self.timing.duration))
        };
        self.sight.as_ref().map_or(now, expiry)
    }

    /// Returns the content of a Lease that this process holds.
    fn claim(&self, wall_clock: Timestamp) -> LeaseRecord {
        let before = self.sight.as_ref().map(|sight| &sight.lease.record);
        let is_renewal = before.is_some_and(|before| before.holder.as_deref() == Some(&self.identity));
        let mut renew_time = wall_clock;
        if before.is_some_and(|before| before.renew_time == Some(wall_clock)) {
            // A write that changes nothing leaves the version as it is, and nobody sees a renewal.
            renew_time = wall_clock.saturating_add(SignedDuration::from_micros(1)).unwrap_or(wall_clock);
        }
        LeaseRecord {
            holder: Some(self.identity.clone()),
            duration: self.timing.duration,
            transitions: match before {
                Some(before) if is_renewal => before.transitions,
                Some(before) => before.transitions.saturating_add(1),
                None => 0,
            },
            acquire_time: before.and_then(|before| before.acquire_time).filter(|_| is_renewal).or(Some(wall_clock)),
            renew_time: Some(renew_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing::OPERATOR;

    fn record(holder: Option<&str>) -> LeaseRecord {
        let holder = holder.map(str::to_owned);
        LeaseRecord { holder, duration: TIMING.duration, transitions: 3, ..LeaseRecord::default() }
    }

    fn lease(holder: Option<&str>, version: u32) -> Response {
        Response::Lease(VersionedRecord { record: record(holder), resource_version: version.to_string() })
    }

    fn standing(now: Instant) -> Election {
        let mut election = Election::new("me".to_owned(), TIMING, now);
        election.stand(now);
        election
    }

    /// Carries out a write as the API server does.
    fn carry_out(request: &Request, version: u32) -> Response {
        let (Request::Create(record) | Request::Replace { record, .. }) = request else { panic!("{request:?}") };
        Response::Lease(VersionedRecord { record: record.clone(), resource_version: version.to_string() })
    }

    #[test]
    fn a_lease_that_does_not_exist_is_created_and_renewed_every_two_seconds() {
        let start = Instant::now();
        let mut election = standing(start);
        election.finish(&Request::Read, Response::Missing, start, start);
        assert_eq!(election.next_start(), start);
        let request = election.request(Timestamp::UNIX_EPOCH);
        assert!(matches!(&request, Request::Create(record) if record.transitions == 0), "{request:?}");
        assert_eq!(election.write_end(), None);
        let end = start + Duration::from_secs(1);
        election.finish(&request, carry_out(&request, 1), start, end);
        assert_eq!(election.write_end(), Some(start + Duration::from_secs(10)), "from the start of the request on");
        assert_eq!(election.next_start(), start + Duration::from_secs(2));
        let renewal = election.request(Timestamp::UNIX_EPOCH);
        let Request::Replace { record, resource_version } = &renewal else { panic!("{renewal:?}") };
        assert_eq!((resource_version.as_str(), record.transitions), ("1", 0));
        assert_ne!(record.renew_time, Some(Timestamp::UNIX_EPOCH), "also with a clock that stands");
    }

    #[test]
    fn a_foreign_lease_is_taken_fifteen_seconds_after_its_last_change_by_this_process_clock() {
        let start = Instant::now();
        let mut election = standing(start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..60 {
            election.finish(&Request::Read, lease(Some("other"), second as u32 / 2), at(second), at(second));
            assert_eq!(election.request(Timestamp::MAX), Request::Read, "it is renewed, whatever clocks say");
        }
        for second in 60..73 {
            election.finish(&Request::Read, lease(Some("other"), 29), at(second), at(second));
            assert_eq!(election.request(Timestamp::MAX), Request::Read, "{second}");
            assert_eq!(election.next_start(), at(second + 1));
        }
        election.finish(&Request::Read, lease(Some("other"), 29), at(73), at(73));
        let request = election.request(Timestamp::UNIX_EPOCH);
        assert!(matches!(&request, Request::Replace { record, .. } if record.transitions == 4), "{request:?}");
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let start = Instant::now();
        let mut election = standing(start);
        election.finish(&Request::Read, lease(None, 1), start, start);
        assert!(matches!(election.request(Timestamp::UNIX_EPOCH), Request::Replace { .. }));
        assert_eq!(election.next_start(), start);
    }

    #[test]
    fn a_leader_that_reads_another_holder_writes_nothing_from_then_on() {
        let start = Instant::now();
        let mut election = standing(start);
        election.finish(&Request::Read, Response::Missing, start, start);
        let request = election.request(Timestamp::UNIX_EPOCH);
        election.finish(&request, carry_out(&request, 1), start, start);
        let renewal = election.request(Timestamp::UNIX_EPOCH);
        election.finish(&renewal, Response::Conflict, start, start);
        assert!(election.write_end().is_some(), "its own renewal may have caused the conflict");
        election.finish(&Request::Read, lease(Some("other"), 2), start, start);
        assert_eq!(election.write_end(), None);
    }

    #[test]
    fn a_renewal_without_a_response_does_not_extend_the_time_to_write() {
        let start = Instant::now();
        let mut election = standing(start);
        election.finish(&Request::Read, Response::Missing, start, start);
        let request = election.request(Timestamp::UNIX_EPOCH);
        election.finish(&request, carry_out(&request, 1), start, start);
        let later = start + Duration::from_secs(4);
        let renewal = election.request(Timestamp::UNIX_EPOCH);
        election.finish(&renewal, Response::Failed, start, later);
        election.finish(&Request::Read, lease(Some("me"), 2), later, later);
        assert_eq!(election.write_end(), Some(start + Duration::from_secs(10)));
        let request = election.request(Timestamp::UNIX_EPOCH);
        assert!(
            matches!(&request, Request::Replace { resource_version, .. } if resource_version == "2"),
            "{request:?}"
        );
    }

    #[test]
    fn a_deleted_lease_ends_the_term_of_its_holder_and_is_created_by_others_when_it_would_have_expired() {
        let start = Instant::now();
        let mut leader = standing(start);
        leader.finish(&Request::Read, Response::Missing, start, start);
        let request = leader.request(Timestamp::UNIX_EPOCH);
        leader.finish(&request, carry_out(&request, 1), start, start);
        let renewal = leader.request(Timestamp::UNIX_EPOCH);
        leader.finish(&renewal, Response::Missing, start, start);
        assert_eq!(leader.write_end(), None);
        let mut other = standing(start);
        other.finish(&Request::Read, lease(Some("leader"), 1), start, start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        other.finish(&Request::Read, Response::Missing, at(5), at(5));
        assert_eq!(other.request(Timestamp::UNIX_EPOCH), Request::Read);
        other.finish(&Request::Read, Response::Missing, at(15), at(15));
        assert!(matches!(other.request(Timestamp::UNIX_EPOCH), Request::Create(_)));
    }

    #[test]
    fn a_process_that_does_not_stand_takes_nothing() {
        let start = Instant::now();
        let mut election = Election::new("me".to_owned(), TIMING, start);
        for response in [Response::Missing, lease(None, 1)] {
            election.finish(&Request::Read, response, start, start);
            assert_eq!(election.request(Timestamp::UNIX_EPOCH), Request::Read);
            assert_eq!(election.next_start(), start + Duration::from_secs(1));
        }
        election.stand(start);
        assert_eq!(election.next_start(), start);
    }

    #[test]
    fn an_odd_duration_in_a_lease_neither_hurries_nor_blocks_anybody() {
        let start = Instant::now();
        for (duration, expected) in [(0, 15), (1, 15), (30, 30), (86_400, 60)] {
            let mut election = standing(start);
            let record = LeaseRecord { duration: Duration::from_secs(duration), ..record(Some("other")) };
            let lease = VersionedRecord { record, resource_version: "1".to_owned() };
            election.finish(&Request::Read, Response::Lease(lease), start, start);
            assert_eq!(election.expiry(start), start + Duration::from_secs(expected), "{duration}");
        }
    }
}
