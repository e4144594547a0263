//! The order of entries: who may propose, what became of a proposal, and when a read may speak for the whole group.
//!
//! A [`Group`] orders entries for one node and drives its state machine. It promises what Raft does and no more:
//!
//! - A proposal names the term that it was made in. It may be *refused* (not in the order, now or ever), and the next
//!   one of the same term taken: the state machine is what makes a hole harmless.
//! - What was taken is applied in order, several proposals being under way at once.
//! - A proposal may be *lost*: taken, and then of unknown fate because leadership went away.
//! - A read is confirmed only after everything that was committed when it was asked for has been applied.
//!
//! Today the group has one member, this node, and lives in memory: [`Group::start`] runs a sequencer task. Nothing above
//! this floor knows that.

mod sequencer;

#[cfg(feature = "testing")]
pub use sequencer::Faults;
pub use sequencer::Group;

use crate::types::{LogId, Term, Version};
use std::fmt;

/// What consensus calls: applies entries in order.
pub trait StateMachine: Send + 'static {
    /// What an entry did.
    type Outcome: Send + 'static;

    /// Applies the entry at `log_id`. An error is a failure of this machine: the group stops.
    fn apply(&mut self, log_id: LogId, entry: &[u8]) -> Result<Self::Outcome, Failed>;

    /// The version applied last.
    fn applied_version(&self) -> Version;
}

/// A failure of this machine. The group has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica stopped: {0}")]
pub struct Failed(pub String);

/// What became of a proposal.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate<T> {
    /// Committed and applied.
    Applied(T),
    /// Not in the order, now or ever.
    Refused,
    /// Unknown: it may be applied, here or after the next election, or never.
    Lost,
}

/// The group's word on who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: Term,
    /// Whether this node leads it *and* has applied its first entry, so that its state is complete.
    pub ready: bool,
    /// The version applied when that was so.
    pub applied: Version,
}

/// Called with what became of a proposal; runs on the group's task and must not wait.
pub type Respond<T> = Box<dyn FnOnce(Fate<T>) + Send>;

/// Called when a read is confirmed (`true`) or cannot be (`false`).
pub type Confirm = Box<dyn FnOnce(bool) + Send>;

/// Called with every change of leadership.
pub type Observe = Box<dyn FnMut(Leadership) + Send>;

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, {}", self.term.0, if self.ready { "leading" } else { "not leading" })
    }
}
