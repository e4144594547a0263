//! An open transaction: a snapshot, what was read of it, what is to be written, and savepoints.
//!
//! Reads see the snapshot with the transaction's own writes over it, and each leaves a point or a range among its reads,
//! unless its own write alone decides the answer. Nothing leaves the transaction until
//! [`into_commit`](Transaction::into_commit) makes one message of it.
//!
//! | state | accepts |
//! |---|---|
//! | open | everything |
//! | failed, after [`fail`](Transaction::fail) | `rollback_to`, which opens it again; dropping it |
//!
//! Rolling back to a savepoint restores the writes, never the reads: what was told has been acted upon. For example:
//!
//! ```text
//!   put a 1 · savepoint s · get b · put a 2 · rollback_to s · get a -> 1     commits a = 1, if b is unchanged
//! ```
//!
//! It neither checks conflicts nor knows time; a maximum age is its owner's business.

use super::{
    AtomicOp,
    mutation::{Mutation, MutationError},
    read_set::{ReadKind, ReadSet},
    scan::{ReadRow, TransactionScan, Visit},
    write_buffer::{Mark, Overlay, WriteBuffer},
};
use crate::{
    storage::{self, Snapshot},
    types::{
        FullKey, Isolation, KeyRange, Version,
        limits::{SAVEPOINTS_MAX, TRANSACTION_BYTES_MAX},
    },
};
use bytes::Bytes;

/// Keys examined in one step of [`Transaction::count`] and [`Transaction::delete_range`].
const STEP_KEYS: usize = 4_096;

/// Why a transaction refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Mutations, reads and savepoint names together are longer than [`TRANSACTION_BYTES_MAX`].
    #[error("transaction of {actual} bytes, at most {TRANSACTION_BYTES_MAX} are allowed")]
    TooLarge {
        /// How long it is, or would have become.
        actual: usize,
    },
    /// A key or value is too long.
    #[error(transparent)]
    Mutation(#[from] MutationError),
    /// There are [`SAVEPOINTS_MAX`] savepoints already.
    #[error("at most {SAVEPOINTS_MAX} savepoints are allowed")]
    TooManySavepoints,
    /// No savepoint has this name.
    #[error("no such savepoint")]
    NoSavepoint,
    /// An earlier request of the transaction failed, and it was not rolled back.
    #[error("an earlier request of the transaction failed: {0}")]
    Failed(Failure),
    /// The snapshot could not be read.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// The first failure in a transaction, as its owner described it. Not interpreted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The owner's number for it.
    pub code: u16,
    /// For people.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// What is sent to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The version that everything was read at.
    pub read_version: Version,
    /// What its points and ranges stand for.
    pub isolation: Isolation,
    /// Single keys that must be unchanged since the read version; under [`Isolation::Snapshot`] every key written is one.
    pub points: Vec<FullKey>,
    /// Ranges that must be unchanged since the read version.
    pub ranges: Vec<KeyRange>,
    /// The mutations, encoded, in request order.
    pub body: Bytes,
    /// How many mutations there are. Without any there is nothing to commit.
    pub mutations: u32,
    /// How many of them are atomic: as many results come with the outcome.
    pub atomics: u32,
}

/// An open transaction.
pub struct Transaction {
    snapshot: Snapshot,
    isolation: Isolation,
    writes: WriteBuffer,
    reads: ReadSet,
    savepoints: Vec<Savepoint>,
    savepoint_bytes: usize,
    failure: Option<Failure>,
}

struct Savepoint {
    name: Bytes,
    mark: Mark,
}

impl Transaction {
    /// A transaction that reads `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot, isolation: Isolation) -> Transaction {
        Transaction {
            snapshot,
            isolation,
            writes: WriteBuffer::new(),
            reads: ReadSet::new(isolation),
            savepoints: Vec::new(),
            savepoint_bytes: 0,
            failure: None,
        }
    }

    /// The version that it reads.
    #[must_use]
    pub fn read_version(&self) -> Version {
        self.snapshot.version()
    }

    /// What its reads are checked for.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// What it reads, without its own writes.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Bytes that count against [`TRANSACTION_BYTES_MAX`]: mutations as encoded, reads, names of savepoints.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.writes.bytes() + self.reads.bytes() + self.savepoint_bytes
    }

    /// How many mutations it holds.
    #[must_use]
    pub fn mutations(&self) -> usize {
        self.writes.len()
    }

    /// Reads one full key. It becomes a read unless the transaction's own writes alone decide its value.
    pub fn get<T>(
        &mut self,
        kind: ReadKind,
        key: &[u8],
        read: impl FnOnce(Option<ReadRow<'_>>) -> T,
    ) -> Result<T, TransactionError> {
        self.check()?;
        let overlay = self.writes.overlay(key);
        if let Overlay::Determined(value) = &overlay {
            return Ok(read(value.as_deref().map(own_row)));
        }
        let own = overlay == Overlay::NeedsBase;
        self.reads.add_point(kind, key);
        self.check_bytes(0)?;
        let writes = &self.writes;
        Ok(self.snapshot.get(key, |row| match own {
            true => read(writes.read(key, row.map(|row| row.value)).as_deref().map(own_row)),
            false => read(row.map(|row| ReadRow { version: Some(row.version), value: row.value })),
        })?)
    }

    /// Adds a mutation as the client sent it. A refused one changes nothing.
    pub fn write(&mut self, mutation: Mutation<'_>) -> Result<(), TransactionError> {
        self.check()?;
        mutation.check()?;
        self.check_bytes(mutation.encoded_len())?;
        self.writes.push(mutation);
        Ok(())
    }

    /// Puts a value at a full key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), TransactionError> {
        self.write(Mutation::Put { key, value })
    }

    /// Deletes a full key.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), TransactionError> {
        self.write(Mutation::Delete { key })
    }

    /// Adds an atomic operation on a full key. Reads nothing: its result comes with the outcome.
    pub fn atomic(&mut self, op: AtomicOp, key: &[u8], operand: &[u8]) -> Result<(), TransactionError> {
        self.write(Mutation::Atomic { op, key, operand })
    }

    /// Begins a scan of what is seen now. What it tells becomes a read by [`told`](Transaction::told), step by step.
    pub fn scan(&mut self, range: &KeyRange, reverse: bool) -> Result<TransactionScan, TransactionError> {
        self.check()?;
        let overlay = self.writes.snapshot_range(range);
        Ok(TransactionScan::new(self.snapshot.clone(), overlay, range.clone(), reverse))
    }

    /// Adds a range that was told: by a step of a scan, before its rows leave, or by whatever else read it. Accepted in
    /// every state, for what was told stays told; over the limit it is added and the error returned.
    pub fn told(&mut self, kind: ReadKind, range: KeyRange) -> Result<(), TransactionError> {
        self.reads.add_range(kind, range);
        self.check_bytes(0)
    }

    /// How many keys of `range` have a value. The whole range becomes a read. O(keys), without a pause: what may be long
    /// is counted by stepping a [scan](Transaction::scan).
    pub fn count(&mut self, kind: ReadKind, range: &KeyRange) -> Result<u64, TransactionError> {
        let mut scan = self.scan(range, false)?;
        let mut count = 0;
        while !scan.is_exhausted() {
            let step = scan.step(STEP_KEYS, &mut |_, _| {
                count += 1;
                Visit::Continue
            })?;
            self.told(kind, step.told)?;
        }
        Ok(count)
    }

    /// Deletes every key of `range` that has a value, and returns how many. The whole range becomes a read. Past the
    /// transaction's limit it is refused and deletes nothing. O(keys), without a pause; the limit bounds it.
    pub fn delete_range(&mut self, kind: ReadKind, range: &KeyRange) -> Result<u64, TransactionError> {
        let mut scan = self.scan(range, false)?;
        self.told(kind, range.clone())?;
        let before = self.writes.mark();
        let limit = TRANSACTION_BYTES_MAX - self.reads.bytes() - self.savepoint_bytes;
        let writes = &mut self.writes;
        let mut count = 0;
        let mut too_large = None;
        while too_large.is_none() && !scan.is_exhausted() {
            let stepped = scan.step(STEP_KEYS, &mut |key, _| {
                let mutation = Mutation::Delete { key };
                let actual = writes.bytes() + mutation.encoded_len();
                if actual > limit {
                    too_large = Some(TRANSACTION_BYTES_MAX - limit + actual);
                    return Visit::StopBefore;
                }
                writes.push(mutation);
                count += 1;
                Visit::Continue
            });
            if let Err(error) = stepped {
                writes.truncate(before);
                return Err(error.into());
            }
        }
        match too_large {
            None => Ok(count),
            Some(actual) => {
                writes.truncate(before);
                Err(TransactionError::TooLarge { actual })
            }
        }
    }

    /// Sets a savepoint. A later one of the same name hides it.
    pub fn savepoint(&mut self, name: &[u8]) -> Result<(), TransactionError> {
        self.check()?;
        if self.savepoints.len() == SAVEPOINTS_MAX {
            return Err(TransactionError::TooManySavepoints);
        }
        self.check_bytes(name.len())?;
        self.savepoint_bytes += name.len();
        self.savepoints.push(Savepoint { name: Bytes::copy_from_slice(name), mark: self.writes.mark() });
        Ok(())
    }

    /// Takes back every write since the last savepoint of this name, and every savepoint after it; it stays. Clears a
    /// failure. Reads are not taken back. Accepted in every state; without such a savepoint nothing changes.
    pub fn rollback_to(&mut self, name: &[u8]) -> Result<(), TransactionError> {
        let at = self.savepoints.iter().rposition(|savepoint| savepoint.name == name);
        let at = at.ok_or(TransactionError::NoSavepoint)?;
        self.writes.truncate(self.savepoints[at].mark);
        let gone = self.savepoints.drain(at + 1..);
        self.savepoint_bytes -= gone.map(|savepoint| savepoint.name.len()).sum::<usize>();
        self.failure = None;
        Ok(())
    }

    /// Marks the transaction as failed; the first failure is the one kept.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Errors with the first failure if the transaction has failed.
    pub fn check(&self) -> Result<(), TransactionError> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => Err(TransactionError::Failed(failure.clone())),
        }
    }

    /// The message that commits it. A failed or too large one is refused, and gone: [`check`](Transaction::check) first.
    pub fn into_commit(self) -> Result<CommitRequest, TransactionError> {
        self.check()?;
        self.check_bytes(0)?;
        let mut points: Vec<FullKey> = self.reads.points().cloned().collect();
        if self.isolation == Isolation::Snapshot {
            points.extend(self.writes.keys().map(Bytes::copy_from_slice));
        }
        Ok(CommitRequest {
            read_version: self.snapshot.version(),
            isolation: self.isolation,
            points,
            ranges: self.reads.ranges().collect(),
            mutations: u32::try_from(self.writes.len()).expect("a mutation is longer than a byte"),
            atomics: self.writes.atomics(),
            body: self.writes.into_body(),
        })
    }

    fn check_bytes(&self, more: usize) -> Result<(), TransactionError> {
        let actual = self.bytes() + more;
        if actual > TRANSACTION_BYTES_MAX { Err(TransactionError::TooLarge { actual }) } else { Ok(()) }
    }
}

fn own_row(value: &[u8]) -> ReadRow<'_> {
    ReadRow { version: None, value }
}

#[cfg(test)]
mod tests;
