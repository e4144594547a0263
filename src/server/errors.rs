//! Every refusal from below, as the error that the specification gives it: the one place where they become codes.

use crate::{
    node::{ReadRefusal, Refusal, Rejection},
    storage,
    txn::{MutationError, TransactionError},
    types::limits,
    wire::{ErrorCode, Outcome, Retry, WireError},
};

/// Backoff that is suggested where nothing better is known.
const RETRY_AFTER_MS: u32 = 10;

/// And for a full disk, which somebody has to empty first.
const DISK_FULL_RETRY_AFTER_MS: u32 = 1_000;

fn later(code: ErrorCode) -> WireError {
    WireError { retry_after_ms: RETRY_AFTER_MS, ..WireError::new(code) }
}

/// What a refusal of the node says on the wire. `keyed`: whether the request had a pair, so that it may be sent again;
/// `retried`: whether it was marked as sent before.
pub(super) fn of_refusal(refusal: Refusal, keyed: bool, retried: bool) -> WireError {
    // What was looked up, or judged as every attempt under its pair would be, speaks for the attempts before it too.
    let settled = matches!(
        refusal,
        Refusal::Conflict { .. }
            | Refusal::TooOld { .. }
            | Refusal::KeyExpired { .. }
            | Refusal::Fenced
            | Refusal::PairReused
            | Refusal::ResultDropped { .. }
            | Refusal::TooLong { .. }
            | Refusal::Rejected(_)
            | Refusal::Relayed(_)
    );
    let error = of_first(refusal, keyed);
    if retried && !settled { unsettled(error) } else { error }
}

/// An error of a marked retry that says nothing of the attempts before it.
// spec: QP-TXN-031
pub(super) fn unsettled(error: WireError) -> WireError {
    match error.outcome {
        Outcome::NotApplied => error.with_outcome(Outcome::Unknown),
        _ => error,
    }
}

fn of_first(refusal: Refusal, keyed: bool) -> WireError {
    match refusal {
        Refusal::Conflict { key, .. } => WireError::new(ErrorCode::CONFLICT).with_conflict_key(&key),
        Refusal::TooOld { floor } => WireError::new(ErrorCode::TOO_OLD).with_horizon(floor),
        Refusal::Expired => WireError::new(ErrorCode::DEADLINE_EXCEEDED),
        Refusal::NotApplied => later(ErrorCode::NOT_APPLIED),
        Refusal::Unknown => outcome_unknown(keyed),
        Refusal::NotLeader => later(ErrorCode::NOT_LEADER),
        Refusal::Unavailable => later(ErrorCode::UNAVAILABLE),
        Refusal::MemoryFull { bytes, bytes_max } => later(ErrorCode::MEMORY_FULL).with_bound(bytes_max, bytes),
        Refusal::Behind => later(ErrorCode::OVERLOADED).with_message("what was written lately waits to be stored"),
        Refusal::DiskFull { available, reserve } => {
            WireError { retry_after_ms: DISK_FULL_RETRY_AFTER_MS, ..WireError::new(ErrorCode::DISK_FULL) }
                .with_bound(reserve, available)
        }
        Refusal::KeyExpired { floor, retried } => {
            let outcome = if retried { Outcome::Unknown } else { Outcome::NotApplied };
            WireError::new(ErrorCode::KEY_EXPIRED).with_outcome(outcome).with_horizon(floor)
        }
        Refusal::Fenced => WireError::new(ErrorCode::FENCED),
        Refusal::OtherTimeline { last } => WireError::new(ErrorCode::OTHER_TIMELINE).with_horizon(last),
        Refusal::PairReused => {
            WireError::new(ErrorCode::MALFORMED).with_message("the pair committed as a request of another kind")
        }
        Refusal::TooLong { rows_max } => WireError::new(ErrorCode::TOO_MANY_ITEMS)
            .with_message("a one-shot may look at no more rows; scan in an interactive transaction")
            .with_bound(rows_max, rows_max + 1),
        Refusal::ResultDropped { applied } => {
            let outcome = if applied { Outcome::Applied } else { Outcome::NotApplied };
            let message = "the answer under this pair was too long to be recorded";
            WireError::new(ErrorCode::RESULT_TOO_LARGE).with_outcome(outcome).with_message(message)
        }
        Refusal::Rejected(rejection) => of_rejection(rejection),
        Refusal::Relayed(error) => *error,
    }
}

/// Nobody knows what became of it: with a pair it may be sent again, marked; without one it must not.
pub(super) fn outcome_unknown(keyed: bool) -> WireError {
    let retry = if keyed { Retry::Same } else { Retry::Never };
    WireError::new(ErrorCode::OUTCOME_UNKNOWN).with_retry(retry)
}

/// Layers here reject in the server's own codes.
fn of_rejection(rejection: Rejection) -> WireError {
    let mut error = WireError::new(ErrorCode(rejection.code)).with_message(rejection.message);
    error.limit = rejection.limit;
    error.actual = rejection.actual;
    error
}

pub(super) fn of_read(refusal: ReadRefusal) -> WireError {
    match refusal {
        ReadRefusal::NotLeader => later(ErrorCode::NOT_LEADER),
        ReadRefusal::Stopped => later(ErrorCode::UNAVAILABLE),
        ReadRefusal::Expired => WireError::new(ErrorCode::DEADLINE_EXCEEDED),
    }
}

pub(super) fn of_storage(error: &storage::Error) -> WireError {
    match error {
        storage::Error::Gone { horizon, .. } => WireError::new(ErrorCode::SNAPSHOT_GONE).with_horizon(*horizon),
        storage::Error::Ahead { visible, .. } => WireError::new(ErrorCode::OTHER_TIMELINE).with_horizon(*visible),
        // The node stops for this; what the client asked for was a read or is not handed over.
        storage::Error::Failed(_) => later(ErrorCode::UNAVAILABLE),
    }
}

pub(super) fn of_mutation(error: &MutationError) -> WireError {
    let over = |code, limit: usize, actual: &usize| WireError::new(code).with_bound(limit as u64, *actual as u64);
    match error {
        MutationError::KeyTooLarge { actual } => over(ErrorCode::KEY_TOO_LARGE, limits::KEY_BYTES_MAX, actual),
        MutationError::ValueTooLarge { actual } => over(ErrorCode::VALUE_TOO_LARGE, limits::VALUE_BYTES_MAX, actual),
        MutationError::UnknownOp(_) => WireError::new(ErrorCode::MALFORMED).with_message("no such atomic operation"),
        error => WireError::new(ErrorCode::MALFORMED).with_message(error.to_string()),
    }
}

pub(super) fn of_transaction(error: &TransactionError) -> WireError {
    match error {
        TransactionError::TooLarge { actual } => WireError::new(ErrorCode::TRANSACTION_TOO_LARGE)
            .with_bound(limits::TRANSACTION_BYTES_MAX as u64, *actual as u64),
        TransactionError::Mutation(error) => of_mutation(error),
        TransactionError::TooManySavepoints => WireError::new(ErrorCode::TOO_MANY_SAVEPOINTS)
            .with_bound(limits::SAVEPOINTS_MAX as u64, limits::SAVEPOINTS_MAX as u64 + 1),
        TransactionError::NoSavepoint => WireError::new(ErrorCode::UNKNOWN_SAVEPOINT),
        TransactionError::Failed(failure) => prior_failed(ErrorCode(failure.code)),
        TransactionError::Storage(error) => of_storage(error),
    }
}

/// An earlier request of the transaction failed with `cause`.
pub(super) fn prior_failed(cause: ErrorCode) -> WireError {
    WireError::new(ErrorCode::PRIOR_FAILED).with_cause(cause)
}
