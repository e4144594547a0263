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
mod agreement;
mod changes;
mod contacts;
mod disk_log;
mod driver;
mod group;
mod membership;
mod memory_log;
mod peers;
mod runtime;
#[cfg(feature = "testing")]
mod sequencer;
mod serve;
mod snapshots;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use group::Group;
#[cfg(feature = "testing")]
pub use sequencer::Faults;

use crate::{
    log,
    peer::Dialer,
    storage::{Applied, Capture, Install, InstallError},
    txn::EntryResult,
    types::{LogId, NodeId, Term, Version},
};
use bytes::Bytes;
use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

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
    /// The chain hash after it.
    pub chain: u64,
    /// The membership as of it; empty before the first.
    pub membership: Bytes,
}

/// Where the log of a group is kept.
pub enum Storage {
    /// In memory: gone with the process.
    Memory,
    /// On disk, as it was opened. The group's thread does the writing: alone in its group a node has nothing better to do while
    /// it syncs, and what comes meanwhile goes into the next group; but see [`log::Writing::aside`].
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
    /// How it reaches others; `None` for a group of one that never grows.
    pub dialer: Option<Dialer>,
    /// Where others reach it.
    pub addresses: Addresses,
    /// Whether it forms a group of one where its log is empty; else it waits for a leader that has taken it in.
    pub founds: bool,
    /// Bytes of entries that are kept for members who lag, though they are stored.
    pub log_keep_bytes: u64,
    /// Which groups the log writes aside: set to nothing while there are other members, and to `aside_above_alone` else.
    pub aside_above: Arc<AtomicU64>,
    /// See there.
    pub aside_above_alone: u64,
}

impl Member {
    /// The one member of a group that never grows.
    #[must_use]
    pub fn alone(node: NodeId, storage: Storage) -> Member {
        Member {
            node,
            storage,
            dialer: None,
            addresses: Addresses::default(),
            founds: true,
            log_keep_bytes: 0,
            aside_above: Arc::default(),
            aside_above_alone: 0,
        }
    }
}

/// Where a member is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Its listener for peers.
    pub peer: String,
    /// Its listener for clients.
    pub client: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// Where it is.
    pub addresses: Addresses,
}

/// A change of membership, or of who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node joins as a learner, or a member has moved.
    Add {
        /// The node.
        node: NodeId,
        /// Where it is.
        addresses: Addresses,
    },
    /// A learner votes from now on.
    Promote(NodeId),
    /// A member goes.
    Remove(NodeId),
    /// A member leads from now on; `None` for whoever is best.
    Transfer(Option<NodeId>),
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// No member has this id.
    #[error("no such member")]
    UnknownNode,
    /// Too few of the voters there would be are heard.
    #[error("{needed} voters must be heard after the change, {heard} would be")]
    QuorumAtRisk {
        /// How many are needed.
        needed: u64,
        /// How many are heard.
        heard: u64,
    },
    /// Another change is being made. Nothing happened.
    #[error("another change of the membership is being made")]
    InProgress,
    /// The group has as many members as it may. Nothing happened.
    #[error("a cluster has at most {members_max} members; remove those that are gone")]
    TooMany {
        /// How many it may have.
        members_max: u64,
    },
    /// The member is too far behind. Nothing happened.
    #[error("the member has not caught up, or is not heard")]
    Behind,
    /// It was begun, and may or may not be made.
    #[error("{0}")]
    Failed(String),
}

/// What is known of the group, by this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: Term,
    /// The members, by id.
    pub members: Vec<MemberStatus>,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The node.
    pub node: NodeId,
    /// Whether it votes; else it learns.
    pub voter: bool,
    /// Where it is.
    pub addresses: Addresses,
    /// What the leader, or the node itself, knows of its progress.
    pub progress: Option<Progress>,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// It holds the log up to this entry.
    pub matched: Option<u64>,
    /// So many entries are missing.
    pub lag: u64,
    /// So long ago it was heard; `None` if never.
    pub heard: Option<Duration>,
    /// It has applied this version, when it was heard.
    pub version: Version,
    /// The chain hash after the last entry that it has applied.
    pub chain: u64,
    /// The greatest state-machine level that it knows; 0 if it has not said.
    pub level: u16,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, {}", self.term.0, if self.ready { "leading" } else { "not leading" })
    }
}
