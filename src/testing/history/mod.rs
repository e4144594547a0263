//! Histories: what many clients asked at once and what each was told, and the checker that judges them.
//!
//! ```text
//!   clients ── Recorder ──> History ── check ──> Ok(Summary), or the first Violation in words
//! ```
//!
//! Every reply of the database carries a version, so the serial order is public and a history is judged in one pass:
//! the transactions are replayed in version order against the naive [`Model`](super::model::Model), and everything that
//! a client was told must be what the model says at that point. Then real time: what began after something else had
//! completed must not stand before it in the order.
//!
//! A worked example. One account; two clients add to it at once, and a third reads:
//!
//! ```
//! use quantadb::{testing::history::{Outcome, Recorder, Found}, types::{KeyspaceId, Version}};
//!
//! let account = KeyspaceId::DEFAULT.full_key(b"account");
//! let recorder = Recorder::new();
//! let mut first = recorder.begin(1);
//! let mut second = recorder.begin(2);
//! first.get(&account, None);
//! second.get(&account, None);
//! first.put(&account, b"10");
//! second.put(&account, b"20");
//! first.complete(Outcome::Committed(Version(1)));
//! second.complete(Outcome::Committed(Version(2)));
//! let violation = recorder.history().check().expect_err("the second overwrote what it had not seen");
//! assert!(violation.to_string().contains("lost"), "{violation}");
//! ```
//!
//! What the checker takes as given: values that a client writes are its own (so that a row tells who wrote it), and a
//! transaction's steps stand in the order in which the database had to take them (a scan where it fixed its view).

mod checker;
mod order;
mod recorder;
mod replay;
mod text;

pub use checker::{Rule, Summary, Violation};
pub use recorder::{Recorder, Recording};

use crate::{
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, Isolation, KeyRange, Version, key_after},
};
use bytes::Bytes;

/// A moment of a history: the reading of a counter that all clients share, so no two are the same and one that was
/// taken after another is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

/// What happened, as far as the clients know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The rows that were there before: key, version, value.
    pub initial: Vec<(FullKey, Version, Bytes)>,
    /// The transactions, in any order. An operation outside of a transaction is one with a single step.
    pub transactions: Vec<Transaction>,
}

/// One attempt of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who asked.
    pub client: u64,
    /// Before the first byte was sent.
    pub invoked: Tick,
    /// After the outcome was told; `None` if it never was.
    pub completed: Option<Tick>,
    /// What was asked for.
    pub isolation: Isolation,
    /// Whether the client allowed its reads to be old: then real time does not bind them.
    pub stale_allowed: bool,
    /// The version that it read at, if it was told.
    pub read_version: Option<Version>,
    /// Names the commit, where the client named it. Attempts of one commit carry the same pair.
    pub pair: Option<IdempotencyPair>,
    /// What it did, in order.
    pub steps: Vec<Step>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a client knows of the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its mutations were committed at this version.
    Committed(Version),
    /// It changed nothing and read at this version.
    ReadOnly(Version),
    /// It was refused, rolled back, or lost its place: it changed nothing.
    NotApplied,
    /// It was told that nothing under its pair will ever commit.
    Never,
    /// Nobody told: it may have been committed, or not, or may yet be.
    Unknown,
}

/// One thing that a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read one key.
    Get {
        /// The full key.
        key: FullKey,
        /// What was told to be there.
        found: Option<Found>,
    },
    /// Read rows of a range.
    Range(RangeRead),
    /// Counted the rows of a range, all of it.
    Count {
        /// What the count speaks for.
        range: KeyRange,
        /// What was told.
        count: u64,
    },
    /// Asked whether conditions hold, all of them.
    Conditions {
        /// The full key of each, and what was asked of it.
        conditions: Vec<(FullKey, Condition)>,
        /// What was told.
        held: bool,
    },
    /// Set a value.
    Put {
        /// The full key.
        key: FullKey,
        /// The value.
        value: Bytes,
    },
    /// Deleted a key.
    Delete {
        /// The full key.
        key: FullKey,
    },
    /// Ran an atomic operation.
    Atomic {
        /// Which.
        op: AtomicOp,
        /// The full key.
        key: FullKey,
        /// Its second input.
        operand: Bytes,
        /// What was told to have come of it; `None` if that was not told.
        result: Option<Bytes>,
    },
    /// Deleted the rows of a range.
    DeleteRange {
        /// The range.
        range: KeyRange,
        /// How many rows were told to have been there; `None` if that was not told.
        deleted: Option<u64>,
    },
    /// Made a savepoint, or moved it.
    Savepoint(String),
    /// Took back what was written since the savepoint.
    RollbackTo(String),
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The version that wrote it; zero for what the transaction itself wrote.
    pub version: Version,
    /// The value; `None` if only the key was asked for.
    pub value: Option<Bytes>,
}

impl Found {
    /// A row with its value.
    #[must_use]
    pub fn new(version: Version, value: &[u8]) -> Found {
        Found { version, value: Some(Bytes::copy_from_slice(value)) }
    }
}

/// What a range read was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// What was asked for.
    pub range: KeyRange,
    /// From the end to the start.
    pub reverse: bool,
    /// The most rows that were asked for.
    pub limit: Option<u64>,
    /// The rows, in the order told.
    pub rows: Vec<(FullKey, Found)>,
    /// Where it ended.
    pub end: RangeEnd,
}

/// Where a range read ended, which decides what it speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeEnd {
    /// At its bound: nothing is left.
    Exhausted,
    /// At its limit: it speaks for all up to its last row.
    Limit,
    /// The client stopped, and this is the last key that it was told of, as a row or by a resume token.
    Stopped(Option<FullKey>),
}

impl RangeRead {
    /// The keys that the answer speaks for: those that are not among the rows were absent.
    #[must_use]
    pub fn told(&self) -> KeyRange {
        let last = match &self.end {
            RangeEnd::Exhausted => return self.range.clone(),
            RangeEnd::Limit => self.rows.last().map(|(key, _)| key),
            RangeEnd::Stopped(last) => last.as_ref(),
        };
        let KeyRange { start, end } = self.range.clone();
        match (last, self.reverse) {
            (Some(last), false) => KeyRange { start, end: key_after(last) },
            (Some(last), true) => KeyRange { start: last.clone(), end },
            (None, _) => KeyRange { start: start.clone(), end: start },
        }
    }
}

/// What may be asked of a key before a one-shot transaction does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
    /// Its value is this one.
    ValueEquals(Bytes),
    /// Its value is another one, or it is not there.
    ValueDiffers(Bytes),
    /// It was written at this version; zero: it is not there.
    VersionEquals(Version),
    /// It was not written after this version.
    VersionAtMost(Version),
}

impl Step {
    /// Whether it may change something.
    #[must_use]
    pub fn writes(&self) -> bool {
        matches!(self, Step::Put { .. } | Step::Delete { .. } | Step::Atomic { .. } | Step::DeleteRange { .. })
    }
}

impl Transaction {
    /// An attempt with no steps yet, of unknown outcome.
    #[must_use]
    pub fn new(client: u64, invoked: Tick) -> Transaction {
        Transaction {
            client,
            invoked,
            completed: None,
            isolation: Isolation::Serializable,
            stale_allowed: false,
            read_version: None,
            pair: None,
            steps: Vec::new(),
            outcome: Outcome::Unknown,
        }
    }

    /// Where it stands in the serial order, if that was told: its commit version, or the version that it read at.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match self.outcome {
            Outcome::Committed(version) | Outcome::ReadOnly(version) => Some(version),
            Outcome::NotApplied | Outcome::Never | Outcome::Unknown => None,
        }
    }
}

impl History {
    /// Judges it: O(n log n) in the number of steps and rows told.
    ///
    /// # Errors
    /// The first thing that no serial order of the told versions explains.
    pub fn check(&self) -> Result<Summary, Violation> {
        checker::check(self)
    }
}

#[cfg(test)]
mod tests;
