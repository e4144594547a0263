//! One call: queue it, wait, and decide what a failure means.
//!
//! | what happened | a read | a write with a pair | a write without |
//! |---|---|---|---|
//! | the connection was lost before it was sent | again | again | again |
//! | the connection was lost after it was sent | again | again, marked | unknown |
//! | another node leads, nothing done | there | there | there |
//! | refused for now, nothing done | again, later | again, later | again, later |
//! | the server does not know the outcome | – | again, marked, later | unknown |
//! | the deadline passed | not applied | unknown if it was sent | unknown if it was sent |
//!
//! "Again" ends at the deadline, with the last failure, and is on whatever connection is there then: to another node, if
//! the one before was lost or could do nothing. Once an outcome is unknown, no refusal of a later attempt makes it known,
//! but that of a fence.

use super::connection::Connection;
use super::error::Error;
use super::link::{Link, Preference, backoff};
use super::options::CallOptions;
use super::waiters::{Cancelling, Failure};
use crate::env::{Env, Moment};
use crate::wire::{ErrorCode, Outcome, Request, RequestBody, RequestTags, Retry, Tag};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// The first wait after a refusal; it doubles.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(2);
pub(super) const WAIT_MAX: Duration = Duration::from_millis(500);
/// A node that gave no answer for so long is in doubt.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// What a request does if it is done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// The same as once.
    Repeatable,
    /// More than once, unless it has a pair.
    Write,
}

/// What is known of a call after its attempts so far.
#[derive(Debug)]
struct Attempts {
    nature: Nature,
    keyed: bool,
    once: bool,
    /// An attempt may have been done.
    unknown: bool,
    /// Attempts that were refused, or lost after they were sent.
    failures: u32,
    /// Why the last of them failed.
    last: Option<Error>,
}

/// What to do after a failed attempt.
#[derive(Debug)]
enum Verdict {
    /// At once.
    Again,
    /// After this long at least.
    Later(Duration),
    Fail(Error),
}

impl Attempts {
    /// The one place that decides what a failure means.
    fn judge(&mut self, failure: Failure) -> Verdict {
        match failure {
            Failure::Lost { sent: false, .. } if !self.once => Verdict::Again,
            Failure::Lost { sent, cause } => {
                self.unknown |= sent && self.nature == Nature::Write;
                let again = !self.once && (self.nature == Nature::Repeatable || self.keyed);
                let error = Error::lost("the connection was lost").caused_by(Some(cause));
                if again && sent {
                    self.failed(error);
                    // One loss is an accident. A server that is lost again and again is not asked at full speed.
                    return if self.failures == 1 { Verdict::Again } else { Verdict::Later(Duration::ZERO) };
                }
                Verdict::Fail(self.final_error(error))
            }
            Failure::GaveUp { sent: false } => Verdict::Fail(self.ended()),
            Failure::GaveUp { sent: true } => {
                self.unknown |= self.nature == Nature::Write;
                let error = Error::deadline("no answer came within the deadline").caused_by(self.last.take());
                Verdict::Fail(self.final_error(error))
            }
            Failure::Refused(error) => {
                self.unknown |= error.outcome() == Outcome::Unknown && self.nature == Nature::Write;
                if self.once || !self.may_pass(&error) {
                    return Verdict::Fail(self.final_error(error));
                }
                let least = error.retry_after().unwrap_or_default();
                self.failed(error);
                // Two nodes that name each other are not asked at full speed.
                if self.failures == 1 && self.redirected() { Verdict::Again } else { Verdict::Later(least) }
            }
        }
    }

    fn failed(&mut self, error: Error) {
        self.failures += 1;
        self.last = Some(error);
    }

    /// Whether the last attempt was refused by a node that names another as leader.
    fn redirected(&self) -> bool {
        self.last.as_ref().is_some_and(|error| error.retry() == Retry::Redirect && error.leader().is_some())
    }

    /// There is no time for another attempt. What the last one met says more than that.
    fn ended(&mut self) -> Error {
        let error = self.last.take().unwrap_or_else(|| Error::deadline("no answer came within the deadline"));
        self.final_error(error)
    }

    /// Whether the same request may be sent again, and meet something else.
    fn may_pass(&self, error: &Error) -> bool {
        if error.code() == Some(ErrorCode::OUTCOME_UNKNOWN) {
            return self.keyed || self.nature == Nature::Repeatable;
        }
        let harmless = error.outcome() == Outcome::NotApplied || self.keyed || self.nature == Nature::Repeatable;
        harmless && error.passes()
    }

    /// What is told when nothing is tried again.
    fn final_error(&self, error: Error) -> Error {
        if !self.unknown || error.code() == Some(ErrorCode::FENCED) || error.outcome() == Outcome::Applied {
            return error;
        }
        error.with_outcome(Outcome::Unknown).with_retry(if self.keyed { Retry::Same } else { Retry::Never })
    }
}

/// How many milliseconds are left; `None` if the moment has passed.
pub(super) fn deadline_ms(env: &Env, deadline: Moment) -> Option<u32> {
    let left = deadline - env.now();
    let whole = left.as_nanos().div_ceil(1_000_000);
    (whole > 0).then(|| u32::try_from(whole).unwrap_or(u32::MAX))
}

/// Which node does it best.
fn preference(body: &RequestBody<'_>) -> Preference {
    match body {
        RequestBody::Put { .. }
        | RequestBody::Delete { .. }
        | RequestBody::DeleteRange { .. }
        | RequestBody::Atomic { .. }
        | RequestBody::Execute(_)
        | RequestBody::OpenKeyspace { create: true, .. }
        | RequestBody::Outcome { .. } => Preference::Leader,
        _ => Preference::Near,
    }
}

impl Link {
    /// When a call that begins now must be done.
    pub(super) fn deadline(&self, options: &CallOptions) -> Moment {
        self.env().now() + options.deadline.unwrap_or(self.options.deadline)
    }

    /// Makes a call; the payload of its RESPONSE.
    pub(super) async fn call(
        &self,
        body: RequestBody<'_>,
        options: &CallOptions,
        nature: Nature,
    ) -> Result<Bytes, Error> {
        self.call_until(self.deadline(options), body, options, nature).await.map(|(payload, _)| payload)
    }

    /// Makes a call that must be done at a moment, whatever its options say of it; the payload of its RESPONSE, and the
    /// connection that it came on.
    pub(super) async fn call_until(
        &self,
        deadline: Moment,
        body: RequestBody<'_>,
        options: &CallOptions,
        nature: Nature,
    ) -> Result<(Bytes, Arc<Connection>), Error> {
        let began = self.env().now();
        let taken = body.opcode().tags();
        let consistency = options.consistency.filter(|_| taken.has(Tag::CONSISTENCY));
        let pair = options.pair.filter(|_| nature == Nature::Write);
        let cancel = if nature == Nature::Repeatable { Cancelling::AtOnce } else { Cancelling::Never };
        let (keyed, once) = (pair.is_some(), options.once);
        let mut attempts = Attempts { nature, keyed, once, unknown: false, failures: 0, last: None };
        let mut preference = preference(&body);
        loop {
            let tags = RequestTags {
                min_version: options.min_version.max(self.seen_by(consistency)),
                idempotency: pair,
                retry_mark: pair.is_some() && attempts.unknown,
                consistency,
                ..RequestTags::default()
            };
            let failure = match self.connection_for(preference, deadline).await {
                Ok(connection) => match self.attempt(&connection, Request { body, tags }, deadline, cancel).await {
                    Ok(payload) => return Ok((payload, connection)),
                    Err(failure) => {
                        self.weigh(&connection, &failure, attempts.failures > 0, self.env().now() - began);
                        failure
                    }
                },
                Err(failure) => failure,
            };
            match attempts.judge(failure) {
                Verdict::Again => {}
                Verdict::Later(least) => {
                    let wait = least.max(backoff(self.env(), attempts.failures, WAIT_MIN, WAIT_MAX));
                    if self.env().now() + wait >= deadline {
                        return Err(attempts.ended());
                    }
                    self.env().sleep(wait).await;
                }
                Verdict::Fail(error) => return Err(error),
            }
            if attempts.redirected() {
                preference = Preference::Redirected;
            }
        }
    }

    async fn connection_for(&self, preference: Preference, deadline: Moment) -> Result<Arc<Connection>, Failure> {
        self.left(deadline)?;
        self.connection(preference, deadline).await.map_err(Failure::Refused)
    }

    async fn attempt(
        &self,
        connection: &Arc<Connection>,
        mut request: Request<'_>,
        deadline: Moment,
        cancel: Cancelling,
    ) -> Result<Bytes, Failure> {
        request.tags.deadline_ms = Some(self.left(deadline)?);
        self.ask(connection, &request, deadline, cancel).await?.await
    }

    fn left(&self, deadline: Moment) -> Result<u32, Failure> {
        deadline_ms(self.env(), deadline).ok_or(Failure::GaveUp { sent: false })
    }

    /// Doubts the node behind a connection if the failure speaks against it: it says, and says again, that it can do
    /// nothing, or it was silent for long.
    pub(super) fn weigh(&self, connection: &Arc<Connection>, failure: &Failure, again: bool, waited: Duration) {
        let doubtful = match failure {
            Failure::Refused(error) => match error.code() {
                Some(ErrorCode::UNAVAILABLE) => again,
                Some(ErrorCode::NOT_LEADER) => again && error.leader().is_none(),
                Some(ErrorCode::DEADLINE_EXCEEDED) => waited >= SILENCE_MAX,
                _ => false,
            },
            Failure::GaveUp { sent } => *sent && waited >= SILENCE_MAX,
            Failure::Lost { .. } => false,
        };
        if doubtful {
            self.doubt(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ErrorKind;
    use super::*;

    fn attempts(nature: Nature, keyed: bool) -> Attempts {
        Attempts { nature, keyed, once: false, unknown: false, failures: 0, last: None }
    }

    fn lost(sent: bool) -> Failure {
        Failure::Lost { sent, cause: Error::lost("reset") }
    }

    fn refused(code: ErrorCode) -> Failure {
        Failure::Refused(Error::local(code))
    }

    fn failed(verdict: Verdict) -> Error {
        match verdict {
            Verdict::Fail(error) => error,
            other => panic!("tried again: {other:?}"),
        }
    }

    #[test]
    fn what_was_not_sent_is_sent_again_whatever_it_is() {
        for nature in [Nature::Repeatable, Nature::Write] {
            let mut attempts = attempts(nature, false);
            assert!(matches!(attempts.judge(lost(false)), Verdict::Again));
            assert!(!attempts.unknown);
            attempts.once = true;
            let error = failed(attempts.judge(lost(false)));
            assert_eq!((error.outcome(), error.retry()), (Outcome::NotApplied, Retry::Same));
        }
    }

    #[test]
    fn what_was_sent_and_lost_is_sent_again_if_that_does_no_harm() {
        let mut read = attempts(Nature::Repeatable, false);
        assert!(matches!(read.judge(lost(true)), Verdict::Again));
        assert!(matches!(read.judge(lost(true)), Verdict::Later(_)), "a second loss is no accident");
        let mut keyed = attempts(Nature::Write, true);
        assert!(matches!(keyed.judge(lost(true)), Verdict::Again));
        assert!(keyed.unknown, "the next one is marked");
        let error = failed(attempts(Nature::Write, false).judge(lost(true)));
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
    }

    #[test]
    fn after_an_unknown_outcome_only_a_fence_says_that_nothing_was_done() {
        let unknown_after = |code| {
            let mut keyed = attempts(Nature::Write, true);
            assert!(matches!(keyed.judge(lost(true)), Verdict::Again));
            failed(keyed.judge(refused(code)))
        };
        let error = unknown_after(ErrorCode::MEMORY_FULL);
        assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Same));
        assert_eq!(unknown_after(ErrorCode::FENCED).outcome(), Outcome::NotApplied);
        let mut keyed = attempts(Nature::Write, true);
        assert!(matches!(keyed.judge(refused(ErrorCode::OUTCOME_UNKNOWN)), Verdict::Later(_)));
        assert_eq!(failed(keyed.judge(Failure::GaveUp { sent: false })).outcome(), Outcome::Unknown);
    }

    #[test]
    fn refusals_that_pass_are_tried_again_and_others_are_told() {
        let mut write = attempts(Nature::Write, false);
        assert!(matches!(write.judge(refused(ErrorCode::OVERLOADED)), Verdict::Later(_)));
        assert!(matches!(write.judge(refused(ErrorCode::NOT_APPLIED)), Verdict::Later(_)));
        assert_eq!(failed(write.judge(refused(ErrorCode::MEMORY_FULL))).outcome(), Outcome::NotApplied);
        assert_eq!(failed(write.judge(refused(ErrorCode::DEADLINE_EXCEEDED))).retry(), Retry::Backoff);
        let error = failed(write.judge(refused(ErrorCode::OUTCOME_UNKNOWN)));
        assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
        let mut once = attempts(Nature::Repeatable, false);
        once.once = true;
        assert_eq!(failed(once.judge(refused(ErrorCode::OVERLOADED))).code(), Some(ErrorCode::OVERLOADED));
    }

    #[test]
    fn a_deadline_leaves_a_sent_write_unknown_and_a_read_not_applied() {
        let sent = Failure::GaveUp { sent: true };
        assert_eq!(failed(attempts(Nature::Write, false).judge(sent.clone())).outcome(), Outcome::Unknown);
        let error = failed(attempts(Nature::Repeatable, false).judge(sent));
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::DeadlinePassed, Outcome::NotApplied));
        let unsent = Failure::GaveUp { sent: false };
        assert_eq!(failed(attempts(Nature::Write, false).judge(unsent)).outcome(), Outcome::NotApplied);
    }
}
