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
//! Raft is openraft's, and this is the only place that names it. A group of one voter is the same code as a group of
//! many. Its log is in memory, or on disk ([`Storage`]).
//!
//! ```text
//!   committer ── proposals ──> driver ──> openraft ── append ──> log (one sync a group)
//!       ▲                                    │                     │
//!       └────────── fates ── state machine <─┴────── flushed <─────┘
//! ```
//!
//! Under the feature `testing` a second group ([`Faults`]) stands in its place: one that behaves as a real one does on a
//! bad day, on command.

mod adapter;
mod disk_log;
mod driver;
mod membership;
mod memory_log;
mod peers;
#[cfg(feature = "testing")]
mod sequencer;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use driver::Group;
#[cfg(feature = "testing")]
pub use sequencer::Faults;

use crate::{
    log,
    storage::{Applied, Capture, Install, InstallError},
    txn::EntryResult,
    types::{LogId, NodeId, Term, Version},
};
use bytes::Bytes;
use std::fmt;

/// What consensus calls: applies entries in order. A handle: clones speak of the same state.
///
/// Only one caller applies at a time. Every error is a failure of this machine: the group stops.
pub trait StateMachine: Clone + Send + Sync + 'static {
    /// Applies the entry at `log_id`.
    fn apply(&self, log_id: LogId, entry: &[u8]) -> Result<EntryResult, Failed>;

    /// Notes an entry that carries nothing: the first of a term.
    fn apply_blank(&self, log_id: LogId) -> Result<(), Failed>;

    /// Notes a change of membership, in the group's own encoding, to be given back by [`StateMachine::applied`].
    fn apply_membership(&self, log_id: LogId, membership: Bytes) -> Result<(), Failed>;

    /// How far it has come.
    fn applied(&self) -> Position;

    /// How far it would come by itself after a crash: the log is needed only above.
    fn stored(&self) -> Position;

    /// Everything as of the entry applied last, to be sent to another replica. Called by whoever applies.
    fn capture(&self) -> Capture;

    /// Begins to take what another replica has sent, or goes on with it: see [`Engine::begin_install`]. Blocks, and so does
    /// what it gives; its end is called by whoever applies.
    ///
    /// [`Engine::begin_install`]: crate::storage::Engine::begin_install
    fn begin_install(
        &self,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError>;
}

/// How far a state machine has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last entry; `None` before the first.
    pub log_id: Option<LogId>,
    /// The version after it.
    pub version: Version,
    /// The membership as of it; empty before the first.
    pub membership: Bytes,
}

/// Where the log of a group is kept.
pub enum Storage {
    /// In memory: gone with the process.
    Memory,
    /// On disk, as it was opened. The group's thread does the writing: alone in its group a node has nothing better to do while
    /// it syncs, and what comes meanwhile goes into the next group; but see [`log::Writing::aside`]. *Seam*: with peers to hear, the log gets a thread of its
    /// own.
    Disk(log::Log, log::Writing),
}

/// A failure of this machine. The group has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica stopped: {0}")]
pub struct Failed(pub String);

/// What became of a proposal.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// Committed and applied.
    Applied(EntryResult),
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
pub type Respond = Box<dyn FnOnce(Fate) + Send>;

/// Called when a read is confirmed (`true`) or cannot be (`false`).
pub type Confirm = Box<dyn FnOnce(bool) + Send>;

/// Called with every change of leadership.
pub type Observe = Box<dyn FnMut(Leadership) + Send>;

/// Called once, with why the group stopped, if it does by itself.
pub type Stopped = Box<dyn FnOnce(Failed) + Send>;

/// Who takes part, and with what.
pub struct Member {
    /// This node.
    pub node: NodeId,
    /// Its log.
    pub storage: Storage,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, {}", self.term.0, if self.ready { "leading" } else { "not leading" })
    }
}
