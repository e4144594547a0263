//! One call: queue it, wait, and decide what a failure means.
//!
//! | what happened | a read | a write with a pair | a write without |
//! |---|---|---|---|
//! | the connection was lost before it was sent | again | again | again |
//! | the connection was lost after it was sent | again | again, marked | unknown |
//! | refused for now, nothing done | again, later | again, later | again, later |
//! | the server does not know the outcome | – | again, marked, later | unknown |
//! | the deadline passed | not applied | unknown if it was sent | unknown if it was sent |
//!
//! "Again" ends at the deadline. Once an outcome is unknown, no refusal of a later attempt makes it known, but that of a
//! fence.

use super::error::Error;
use super::link::{Link, backoff};
use super::options::CallOptions;
use super::waiters::{Cancelling, Failure};
use crate::env::{Env, Moment};
use crate::types::Version;
use crate::wire::{ErrorCode, Outcome, Request, RequestBody, RequestTags, Retry};
use bytes::Bytes;
use std::time::Duration;

/// The first wait after a refusal; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(2);
const WAIT_MAX: Duration = Duration::from_millis(500);

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
                if again && sent {
                    self.failures += 1;
                    // One loss is an accident. A server that is lost again and again is not asked at full speed.
                    return if self.failures == 1 { Verdict::Again } else { Verdict::Later(Duration::ZERO) };
                }
                Verdict::Fail(self.final_error(Error::lost("the connection was lost").caused_by(Some(cause))))
            }
            Failure::GaveUp { sent } => {
                self.unknown |= sent && self.nature == Nature::Write;
                Verdict::Fail(self.final_error(Error::deadline("no answer came within the deadline")))
            }
            Failure::Refused(error) => {
                self.unknown |= error.outcome() == Outcome::Unknown && self.nature == Nature::Write;
                let marked = self.keyed && error.code() == Some(ErrorCode::OUTCOME_UNKNOWN);
                if !self.once && (error.passes() || marked) {
                    self.failures += 1;
                    return Verdict::Later(error.retry_after().unwrap_or_default());
                }
                Verdict::Fail(self.final_error(error))
            }
        }
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
        let deadline = self.deadline(options);
        let pair = options.pair.filter(|_| nature == Nature::Write);
        let mut attempts = Attempts { nature, keyed: pair.is_some(), once: options.once, unknown: false, failures: 0 };
        loop {
            let tags = RequestTags {
                min_version: options.min_version,
                idempotency: pair,
                retry_mark: pair.is_some() && attempts.unknown,
                consistency: options.consistency.filter(|_| nature == Nature::Repeatable),
                ..RequestTags::default()
            };
            let failure = match self.attempt(body, tags, deadline, nature).await {
                Ok(payload) => return Ok(payload),
                Err(failure) => failure,
            };
            match attempts.judge(failure) {
                Verdict::Again => {}
                Verdict::Later(least) => {
                    let wait = least.max(backoff(self.env(), attempts.failures, WAIT_MIN, WAIT_MAX));
                    self.env().until(deadline, self.env().sleep(wait)).await;
                }
                Verdict::Fail(error) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        body: RequestBody<'_>,
        mut tags: RequestTags<'_>,
        deadline: Moment,
        nature: Nature,
    ) -> Result<Bytes, Failure> {
        let left = || deadline_ms(self.env(), deadline).ok_or(Failure::GaveUp { sent: false });
        left()?;
        let connection = self.connection(deadline).await.map_err(Failure::Refused)?;
        tags.deadline_ms = Some(left()?);
        if nature == Nature::Repeatable && connection.floor > Version::ZERO {
            tags.min_version = tags.min_version.max(Some(connection.floor));
        }
        let cancel = if nature == Nature::Repeatable { Cancelling::AtOnce } else { Cancelling::Never };
        let ticket = self.ask(&connection, &Request { body, tags }, deadline, cancel).await?;
        ticket.await
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ErrorKind;
    use super::*;

    fn attempts(nature: Nature, keyed: bool) -> Attempts {
        Attempts { nature, keyed, once: false, unknown: false, failures: 0 }
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
