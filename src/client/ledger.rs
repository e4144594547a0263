//! What a transaction has heard of the requests that it did not wait for.

use super::error::Error;
use super::lock;
use super::waiters::{Failure, Reply};
use crate::types::Version;
use crate::wire::{Opcode, Retry, VersionReply};
use std::sync::Mutex;

/// The account of one transaction.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    read_version: Option<Version>,
    failure: Option<Error>,
    restarts: bool,
}

impl Ledger {
    /// Takes the reply to a request that nobody waits for.
    pub(super) fn note(&self, opcode: u16, reply: Reply) {
        match reply {
            Ok(payload) if opcode == Opcode::Begin.number() => match VersionReply::decode(&payload) {
                Ok(reply) => lock(&self.0).read_version = Some(reply.version),
                Err(error) => self.failed(&Error::reply(error)),
            },
            Ok(_) => {}
            Err(Failure::Refused(error)) => self.failed(&error),
            Err(Failure::Lost { cause, .. }) => self.failed(&lost(cause)),
            Err(Failure::GaveUp { .. }) => self.failed(&Error::deadline("no answer to a part of the transaction")),
        }
    }

    /// Keeps the first failure. One that only follows from it says less.
    pub(super) fn failed(&self, error: &Error) {
        let mut account = lock(&self.0);
        account.restarts |= error.restarts_transaction();
        let tells_more = |kept: &Error| kept.follows() && !error.follows();
        if account.failure.as_ref().is_none_or(tells_more) {
            account.failure = Some(error.clone());
        }
    }

    /// The first failure in place of one that only follows from it.
    pub(super) fn first_cause(&self, error: Error) -> Error {
        self.failed(&error);
        if !error.follows() {
            return error;
        }
        lock(&self.0).failure.clone().unwrap_or(error)
    }

    /// The first failure.
    pub(super) fn failure(&self) -> Option<Error> {
        lock(&self.0).failure.clone()
    }

    /// Rolling back to a savepoint clears an error.
    pub(super) fn clear(&self) {
        let mut account = lock(&self.0);
        account.failure = None;
        account.restarts = false;
    }

    /// Whether it failed in a way that running it again may mend.
    pub(super) fn restarts(&self) -> bool {
        lock(&self.0).restarts
    }

    pub(super) fn read_version(&self) -> Option<Version> {
        lock(&self.0).read_version
    }
}

/// A transaction dies with its connection, and has changed nothing.
pub(super) fn lost(cause: Error) -> Error {
    Error::lost("the connection was lost, and the transaction with it")
        .with_retry(Retry::RestartTxn)
        .caused_by(Some(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ErrorCode, WireError};
    use bytes::{BufMut, Bytes, BytesMut};

    fn prior() -> Error {
        Error::refused(WireError::new(ErrorCode::PRIOR_FAILED).with_cause(ErrorCode::VALUE_TOO_LARGE))
    }

    #[test]
    fn the_first_failure_is_told_in_place_of_what_follows_from_it() {
        let ledger = Ledger::default();
        ledger.note(Opcode::Put.number(), Ok(Bytes::new()));
        assert_eq!(ledger.first_cause(prior()).code(), Some(ErrorCode::PRIOR_FAILED), "nothing better is known");
        ledger.note(Opcode::Put.number(), Err(Failure::Refused(Error::local(ErrorCode::VALUE_TOO_LARGE))));
        ledger.note(Opcode::Put.number(), Err(Failure::Refused(prior())));
        assert_eq!(ledger.first_cause(prior()).code(), Some(ErrorCode::VALUE_TOO_LARGE));
        assert!(!ledger.restarts());
        ledger.clear();
        assert_eq!(ledger.first_cause(prior()).code(), Some(ErrorCode::PRIOR_FAILED));
    }

    #[test]
    fn a_lost_connection_restarts_the_transaction() {
        let ledger = Ledger::default();
        ledger.note(1, Err(Failure::Lost { sent: true, cause: Error::lost("reset") }));
        assert!(ledger.restarts());
        ledger.note(1, Err(Failure::GaveUp { sent: true }));
        assert_eq!(ledger.first_cause(prior()).retry(), Retry::RestartTxn);
    }

    #[test]
    fn the_read_version_comes_with_the_reply_to_begin() {
        let ledger = Ledger::default();
        assert_eq!(ledger.read_version(), None);
        let mut payload = BytesMut::new();
        payload.put_u64(7);
        ledger.note(Opcode::Begin.number(), Ok(payload.freeze()));
        assert_eq!(ledger.read_version(), Some(Version(7)));
        ledger.note(Opcode::Begin.number(), Ok(Bytes::new()));
        assert!(ledger.first_cause(prior()).code().is_none(), "a reply that cannot be read is a failure");
    }
}
