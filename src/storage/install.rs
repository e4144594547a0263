//! A snapshot on its way in: parts of another replica's state, taken beside what is here until all of them are.
//!
//! ```text
//! begin ── part 0 ── part 1 ── … ── finish          what is here is read and applied to as ever
//!   ▲                                  │
//!   └── the connection breaks ─────────┤            begun again under the same id: goes on after what is durable
//!                                      ▼
//!                                   the switch      one durable step; what was here is gone
//! ```
//!
//! Until the switch nothing of the new state can be seen, and after it nothing of the old one. A reader that pinned a
//! version before gets [`Error::Gone`] for every read that begins after: the new state is of one version, and history
//! begins there. A read that was on its way goes on in the old state, all of it.
//!
//! What was applied while the parts came is superseded, for the snapshot holds it; if the store has come as far as the
//! snapshot by itself, there is nothing to install ([`InstallError::Reached`]), and it never goes back.

use super::{
    Applied, CaptureTotals, CapturedRow, Error,
    base::{FULL_KEYS_END, MEMBERSHIP_BYTES_MAX},
};
use crate::types::{
    FullKey, Version,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use bytes::Bytes;

/// Why a snapshot was not taken. But for a failure what is here stays as it is, and serves on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// There is no room for it. What is durable of it stays: begin again when there is room, or abort it.
    #[error("no space is left for the snapshot: {0}")]
    NoSpace(String),
    /// What came is not what was sent, or does not follow what is here.
    #[error("the snapshot is refused: {0}")]
    Refused(String),
    /// The store has come this far by itself.
    #[error("the store has come as far as the snapshot by itself")]
    Reached,
    /// A failure of this machine. The node must stop.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// An install that has begun. Every call may block on the disk. Dropped, it can be begun again.
pub trait Install: Send {
    /// How many parts have been taken: the number of the next one. At the beginning, those that are durable here.
    fn parts(&self) -> u64;

    /// Takes the part of this number, which is the next one. What it holds becomes durable sooner or later, at the latest
    /// when all of it does.
    ///
    /// # Errors
    /// [`InstallError::Refused`] for another number, and for rows that cannot stand there: nothing of the part was taken.
    fn part(&mut self, number: u64, rows: &[CapturedRow]) -> Result<(), InstallError>;

    /// Makes sure that all of it is here and durable, so that nothing but the switch is left for [`Install::finish`]: what
    /// can be refused is refused now, where a refusal costs a repetition and not the node. Until this install has ended no
    /// other begins.
    ///
    /// # Errors
    /// [`InstallError::NoSpace`]; [`InstallError::Refused`] if what was taken does not amount to what was sent: abort it then.
    fn seal(&mut self, sent: CaptureTotals) -> Result<(), InstallError>;

    /// Makes the new state the engine's own in one durable step. Called by whoever applies, and not while an entry is being
    /// applied. When it returns `Ok`, the log below the snapshot is of no use any more; see [`super::Marker::installed`].
    ///
    /// # Errors
    /// [`InstallError::Refused`] if what was taken does not amount to what was sent, and it is discarded then;
    /// [`InstallError::Reached`].
    fn finish(self: Box<Self>, sent: CaptureTotals) -> Result<(), InstallError>;

    /// Discards everything that was taken.
    ///
    /// # Errors
    /// If it could not be removed.
    fn abort(self: Box<Self>) -> Result<(), InstallError>;
}

/// What an install is of, and how much of it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) id: [u8; 16],
    pub(super) applied: Applied,
    pub(super) membership: Bytes,
    pub(super) totals: CaptureTotals,
    /// The last key.
    pub(super) last: Option<FullKey>,
}

impl Received {
    pub(super) fn nothing(id: [u8; 16], applied: Applied, membership: Bytes) -> Received {
        Received { id, applied, membership, totals: CaptureTotals::default(), last: None }
    }

    /// Whether it is part of the same snapshot as another.
    pub(super) fn is_of(&self, other: &Received) -> bool {
        (self.id, self.applied, &self.membership) == (other.id, other.applied, &other.membership)
    }

    /// Notes a part, or refuses it.
    pub(super) fn add(&mut self, number: u64, rows: &[CapturedRow]) -> Result<(), InstallError> {
        let refused = |what: String| Err(InstallError::Refused(what));
        if number != self.totals.parts {
            return refused(format!("part {number} came in place of part {}", self.totals.parts));
        }
        let mut last = self.last.as_ref();
        for row in rows {
            if row.key.len() < 4 || row.key.len() > 4 + KEY_BYTES_MAX || row.key[..] >= *FULL_KEYS_END {
                return refused(format!("part {number} has a key of {} bytes, or one without keyspace", row.key.len()));
            }
            if row.value.len() > VALUE_BYTES_MAX {
                return refused(format!("part {number} has a value of {} bytes", row.value.len()));
            }
            if last.is_some_and(|last| *last >= row.key) {
                return refused(format!("the rows of part {number} are out of order"));
            }
            if row.version > self.applied.version {
                return refused(format!(
                    "a row has version {}, and the snapshot {}",
                    row.version, self.applied.version
                ));
            }
            last = Some(&row.key);
        }
        // A copy, for a row may be a piece of something large.
        self.last = last.map(|last| Bytes::copy_from_slice(last));
        self.totals.add(rows);
        Ok(())
    }

    /// Whether all of it is here.
    pub(super) fn check_whole(&self, sent: CaptureTotals) -> Result<(), InstallError> {
        if self.totals == sent {
            return Ok(());
        }
        let found = self.totals;
        Err(InstallError::Refused(format!("what was sent is {sent:?}, and what is here {found:?}")))
    }

    /// Whether it may be taken, and goes on from where a store is.
    pub(super) fn check_ahead(&self, here: Applied, visible: Version) -> Result<(), InstallError> {
        let index = |applied: Applied| applied.log_id.map(|log_id| log_id.index);
        if index(self.applied) <= index(here) {
            return Err(InstallError::Reached);
        }
        if self.membership.len() > MEMBERSHIP_BYTES_MAX {
            return Err(InstallError::Refused(format!("its membership has {} bytes", self.membership.len())));
        }
        if self.applied.version < visible {
            let version = self.applied.version;
            return Err(InstallError::Refused(format!("it is of version {version}, and {visible} is here")));
        }
        Ok(())
    }
}
