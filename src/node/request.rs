//! What a session asks of the node: one message for everything that one read of its socket brought.

use super::{Admission, Mailbox, admission::Permit, answer::Rejection, view::View};
use crate::{
    env::Moment,
    storage, txn,
    types::{IdempotencyPair, limits},
};
use bytes::Bytes;
use std::{fmt, ops::Range, sync::Arc};

/// A pair and whether the client has sent it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The name of the attempt.
    pub pair: IdempotencyPair,
    /// Whether this is marked as a retry.
    pub retry: bool,
}

/// Why an evaluation gave no answer.
#[derive(Debug)]
pub enum EvaluationError {
    /// The layer refuses; what the evaluation wrote is dropped.
    Rejected(Rejection),
    /// It looked at more rows than one evaluation may.
    TooLong {
        /// How many it may.
        rows_max: u64,
    },
    /// The machine failed.
    Storage(storage::Error),
}

impl From<storage::Error> for EvaluationError {
    fn from(error: storage::Error) -> EvaluationError {
        EvaluationError::Storage(error)
    }
}

impl From<Rejection> for EvaluationError {
    fn from(rejection: Rejection) -> EvaluationError {
        EvaluationError::Rejected(rejection)
    }
}

/// What looks before it writes: a function over a view of everything decided before it. It may write to the view, and
/// gives the reply's content. Run once, in the committer, so it does bounded work and never waits.
pub type Evaluation = Box<dyn FnOnce(&mut View<'_>) -> Result<Bytes, EvaluationError> + Send>;

/// One thing to do.
pub enum Work {
    /// A single mutation that needs no look: its kind, and where its fields stand in the batch's block.
    Single {
        /// The mutation's kind byte.
        kind: u8,
        /// Its fields in the block, as the mutation encoding has them after the kind.
        fields: Range<usize>,
    },
    /// An interactive transaction that wants to commit.
    Commit(Box<txn::CommitRequest>),
    /// A one-shot.
    Evaluate(Evaluation),
    /// Answered from the record of its pair alone; without one, refused like this.
    Recorded(Rejection),
    /// What became of an attempt? Fences it if nobody knows.
    Outcome(IdempotencyPair),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Single { .. } => "Single",
            Work::Commit(_) => "Commit",
            Work::Evaluate(_) => "Evaluate",
            Work::Recorded(_) => "Recorded",
            Work::Outcome(_) => "Outcome",
        })
    }
}

/// One request.
#[derive(Debug)]
pub struct Item {
    /// The session's name for it; comes back in the completion.
    pub request: u64,
    /// Past this moment it is not begun.
    pub deadline: Moment,
    /// Its name, if it has one.
    pub keyed: Option<Keyed>,
    /// What to do.
    pub work: Work,
}

/// Everything that one read of a session's socket brought for the committer.
#[derive(Debug)]
pub struct Batch {
    /// Where the answers go.
    pub mailbox: Arc<Mailbox>,
    /// The bytes that single mutations stand in.
    pub block: Bytes,
    /// The requests, in order.
    pub items: Vec<Item>,
}

impl Batch {
    /// What it weighs for admission: the block, which it keeps whole and of which a one-shot has a copy, with a floor
    /// for each item and what transactions bring besides.
    #[must_use]
    pub fn weight(&self) -> usize {
        let of_item = |item: &Item| match &item.work {
            Work::Commit(commit) => commit.body.len() + 64 * (commit.points.len() + commit.ranges.len()),
            Work::Single { .. } | Work::Evaluate(_) | Work::Recorded(_) | Work::Outcome(_) => 0,
        };
        self.block.len() + self.items.iter().map(|item| 64 + of_item(item)).sum::<usize>()
    }
}

/// A batch that was admitted: its mailbox, and its share of what may be under way, given back when the last answer is
/// out.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) mailbox: Arc<Mailbox>,
    _permit: Permit,
}

/// A batch on its way to the committer.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) origin: Arc<Origin>,
    pub(super) block: Bytes,
    pub(super) items: Vec<Item>,
}

impl Admitted {
    pub(super) fn new(batch: Batch, admission: &Arc<Admission>) -> Result<Admitted, Batch> {
        match admission.enter(batch.items.len(), batch.weight()) {
            Some(permit) => Ok(Admitted {
                origin: Arc::new(Origin { mailbox: batch.mailbox, _permit: permit }),
                block: batch.block,
                items: batch.items,
            }),
            None => Err(batch),
        }
    }
}

const _: () = assert!(limits::TRANSACTION_BYTES_MAX <= super::admission::BYTES_MIN, "one transaction always fits");
