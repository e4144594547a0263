//! What can go wrong, and what a caller may do about it.

use crate::types::{KeyspaceId, Version, split_full_key};
use crate::wire::{DecodeError, ErrorCode, Outcome, Retry, WireError};
use std::{borrow::Cow, fmt, io, sync::Arc, time::Duration};

type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a call failed.
///
/// Every error answers three questions: what became of the request ([`Error::outcome`]), whether to send it again
/// ([`Error::retry`]), and what it met ([`Error::code`], [`Error::limit`], [`Error::conflict_key`]). The text is for
/// people and may change.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    kind: ErrorKind,
    code: Option<ErrorCode>,
    retry: Retry,
    outcome: Outcome,
    retry_after: Duration,
    message: Cow<'static, str>,
    limit: Option<u64>,
    actual: Option<u64>,
    horizon: Option<Version>,
    conflict_key: Option<Box<[u8]>>,
    leader: Option<Box<str>>,
    cause: Option<ErrorCode>,
    source: Option<Source>,
}

/// What sort of failure an [`Error`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server refused it and says why; or this client did before it was sent, for the server would have.
    Refused,
    /// No server could be reached in time. The request was not sent.
    Unreachable,
    /// The connection was lost while the request was on its way.
    ConnectionLost,
    /// The deadline passed without an answer.
    DeadlinePassed,
    /// The server sent what the protocol forbids. The connection was given up.
    Protocol,
    /// The client's task is gone: its runtime was shut down.
    Closed,
}

impl Error {
    fn new(kind: ErrorKind, retry: Retry, outcome: Outcome, message: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Details {
            kind,
            code: None,
            retry,
            outcome,
            retry_after: Duration::ZERO,
            message: message.into(),
            limit: None,
            actual: None,
            horizon: None,
            conflict_key: None,
            leader: None,
            cause: None,
            source: None,
        }))
    }

    /// What the server said, or would have said.
    pub(super) fn refused(error: WireError) -> Error {
        let mut told = Error::new(ErrorKind::Refused, error.retry, error.outcome, error.message);
        told.0.code = Some(error.code);
        told.0.retry_after = Duration::from_millis(u64::from(error.retry_after_ms));
        told.0.limit = error.limit;
        told.0.actual = error.actual;
        told.0.horizon = error.horizon;
        told.0.conflict_key = error.conflict_key;
        told.0.leader = error.leader;
        told.0.cause = error.cause;
        told
    }

    /// What is over a limit, found before it was sent.
    pub(super) fn over(code: ErrorCode, limit: usize, actual: usize) -> Error {
        Error::refused(WireError::new(code).with_bound(limit as u64, actual as u64))
    }

    /// What the server would refuse with this code.
    pub(super) fn local(code: ErrorCode) -> Error {
        Error::refused(WireError::new(code))
    }

    pub(super) fn unreachable(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Unreachable, Retry::Backoff, Outcome::NotApplied, message)
    }

    pub(super) fn connecting(address: &str, error: io::Error) -> Error {
        Error::unreachable(format!("connecting to {address}")).with_source(error)
    }

    pub(super) fn lost(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::ConnectionLost, Retry::Same, Outcome::NotApplied, message)
    }

    pub(super) fn deadline(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::DeadlinePassed, Retry::Backoff, Outcome::NotApplied, message)
    }

    pub(super) fn protocol(message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Protocol, Retry::Never, Outcome::Unknown, message)
    }

    /// A reply that is not what it should be.
    pub(super) fn reply(error: DecodeError) -> Error {
        Error::protocol("the server's reply cannot be read").with_source(error)
    }

    pub(super) fn closed() -> Error {
        Error::new(ErrorKind::Closed, Retry::Never, Outcome::NotApplied, "the client's task has ended")
    }

    pub(super) fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Arc::new(source));
        self
    }

    pub(super) fn caused_by(mut self, source: Option<Error>) -> Error {
        if let Some(source) = source {
            self.0.source = Some(Arc::new(source));
        }
        self
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Error {
        self.0.outcome = outcome;
        self
    }

    pub(super) fn with_retry(mut self, retry: Retry) -> Error {
        self.0.retry = retry;
        self
    }

    pub(super) fn with_code(mut self, code: ErrorCode) -> Error {
        self.0.code = Some(code);
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The protocol's code, if a server gave one, or would have.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        self.0.code
    }

    /// Whether to try again, and how.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// What became of the request.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// How long to wait before trying again, if the server said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (!self.0.retry_after.is_zero()).then_some(self.0.retry_after)
    }

    /// The limit that was met.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// The value that met the limit.
    #[must_use]
    pub fn actual(&self) -> Option<u64> {
        self.0.actual
    }

    /// The oldest version that can be read.
    #[must_use]
    pub fn horizon(&self) -> Option<Version> {
        self.0.horizon
    }

    /// A key that was changed by another, and its keyspace.
    #[must_use]
    pub fn conflict_key(&self) -> Option<(KeyspaceId, &[u8])> {
        split_full_key(self.0.conflict_key.as_deref()?)
    }

    /// The address of the node that leads, if this one does not.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.0.leader.as_deref()
    }

    /// The code of the transaction's first error, where this one only follows from it.
    #[must_use]
    pub fn cause(&self) -> Option<ErrorCode> {
        self.0.cause
    }

    /// The server's words, or ours. For people, never for parsing.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether it is a refusal that passes by itself: sent again, here or to another node, the request may succeed.
    // spec: QP-ERR-003
    pub(super) fn passes(&self) -> bool {
        self.kind() == ErrorKind::Refused && self.code().is_some_and(|code| passes(code, self.retry()))
    }

    /// Whether nothing was done because the pair was too old.
    pub(super) fn is_expired_pair(&self) -> bool {
        self.code() == Some(ErrorCode::KEY_EXPIRED) && self.outcome() == Outcome::NotApplied
    }

    /// Whether it only follows from an earlier failure of its transaction.
    pub(super) fn follows(&self) -> bool {
        self.code() == Some(ErrorCode::PRIOR_FAILED)
    }

    /// Whether running the whole transaction again may succeed.
    pub(super) fn restarts_transaction(&self) -> bool {
        let mends = |code: ErrorCode, retry: Retry| {
            retry == Retry::RestartTxn || passes(code, retry) || code == ErrorCode::TOO_MANY_TRANSACTIONS
        };
        if self.follows() {
            let usual = |code: ErrorCode| code.row().is_some_and(|row| mends(code, row.retry));
            return self.cause().is_some_and(usual);
        }
        let mends = self.code().map_or(self.retry() == Retry::RestartTxn, |code| mends(code, self.retry()));
        self.outcome() == Outcome::NotApplied && mends
    }
}

/// Whether what the server says of sending again holds within a call. Some failures pass only by what somebody does: the
/// operator makes room, or the caller ends a scan or a transaction. They are told at once.
fn passes(code: ErrorCode, retry: Retry) -> bool {
    const STAYING: [ErrorCode; 5] = [
        ErrorCode::MEMORY_FULL,
        ErrorCode::DISK_FULL,
        ErrorCode::DEADLINE_EXCEEDED,
        ErrorCode::TOO_MANY_TRANSACTIONS,
        ErrorCode::TOO_MANY_SCANS,
    ];
    matches!(retry, Retry::Same | Retry::Backoff | Retry::Redirect) && !STAYING.contains(&code)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &self.0;
        let mut letters = details.message.chars();
        if let Some(first) = letters.next() {
            write!(f, "{}{}", first.to_lowercase(), letters.as_str())?;
        }
        if let Some(code) = details.code {
            write!(f, " ({code})")?;
        }
        if let Some(limit) = details.limit {
            write!(f, ", limit {limit}")?;
        }
        if let Some(actual) = details.actual {
            write!(f, ", actual {actual}")?;
        }
        if let Some(cause) = details.cause {
            write!(f, ", caused by {cause}")?;
        }
        write!(f, "; outcome {}, retry {}", details.outcome.name(), details.retry.name())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_tells_what_the_server_told() {
        let mut wire = WireError::new(ErrorCode::CONFLICT)
            .with_conflict_key(b"\0\0\0\x01key")
            .with_bound(1, 2)
            .with_horizon(Version(9))
            .with_cause(ErrorCode::TOO_OLD);
        wire.retry_after_ms = 20;
        wire.leader = Some("node:7420".into());
        let error = Error::refused(wire);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Refused, Some(ErrorCode::CONFLICT)));
        assert_eq!((error.retry(), error.outcome()), (Retry::RestartTxn, Outcome::NotApplied));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(20)));
        assert_eq!(error.conflict_key(), Some((KeyspaceId::DEFAULT, &b"key"[..])));
        assert_eq!((error.limit(), error.actual(), error.horizon()), (Some(1), Some(2), Some(Version(9))));
        assert_eq!((error.leader(), error.cause()), (Some("node:7420"), Some(ErrorCode::TOO_OLD)));
        assert!(error.to_string().starts_with("something that the transaction read was changed by another"));
        assert!(
            error
                .to_string()
                .ends_with("(CONFLICT), limit 1, actual 2, caused by TOO_OLD; outcome not_applied, retry restart_txn")
        );
    }

    #[test]
    fn an_error_names_its_source() {
        let error = Error::connecting("host:1", io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.source().is_some_and(|source| source.to_string().contains("refused")));
        assert!(format!("{error:?}").starts_with("Unreachable: connecting to host:1; outcome not_applied"));
        let outer = Error::deadline("no answer").caused_by(Some(error));
        assert!(outer.source().is_some());
        assert_eq!((outer.code(), outer.retry_after(), outer.conflict_key()), (None, None, None));
        assert!(outer.clone().caused_by(None).source().is_some(), "a source is kept");
    }

    #[test]
    fn a_failure_that_follows_from_a_conflict_restarts_the_transaction_too() {
        let prior = |cause| Error::refused(WireError::new(ErrorCode::PRIOR_FAILED).with_cause(cause));
        assert!(prior(ErrorCode::CONFLICT).restarts_transaction());
        assert!(!prior(ErrorCode::KEY_TOO_LARGE).restarts_transaction());
        assert!(prior(ErrorCode::OVERLOADED).restarts_transaction());
        assert!(Error::local(ErrorCode::TOO_OLD).restarts_transaction());
        assert!(!Error::local(ErrorCode::CONFLICT).with_outcome(Outcome::Unknown).restarts_transaction());
        assert!(!Error::local(ErrorCode::PRIOR_FAILED).restarts_transaction());
    }
}
