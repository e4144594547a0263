//! The versioned store: what is at every key as of every version that a reader may still ask for.
//!
//! An [`Engine`] holds, for each full key, a chain of versions. One writer applies batches in version order; readers
//! are never disturbed by it and never see part of a batch. Three versions matter:
//!
//! ```text
//!   horizon  <=  every pin  <=  visible
//! ```
//!
//! *visible* is the version of the last batch applied: what a reader that asks for "now" gets. A [`Pin`] keeps one
//! version readable for as long as it lives. Below the *horizon* history is gone: of each key only the newest version
//! at or below the horizon is kept, and of a deleted key nothing.
//!
//! For example, with `a` written at versions 3 and 7 and deleted at 9:
//!
//! | read at | 2 | 3 | 6 | 7 | 8 | 9 |
//! |---|---|---|---|---|---|---|
//! | `a` | absent | v3 | v3 | v7 | v7 | absent |
//!
//! With the horizon at 8, a read at 7 is refused as [`Error::Gone`]; one at 8 still sees v7; once the horizon is 9
//! nothing of `a` is left in memory.
//!
//! A replica that lags too far is sent the whole state: one engine is captured and read in parts ([`Capture`]), the other takes
//! them beside what it holds, and exchanges the one for the other in one step ([`Install`]).
//!
//! The engine never decides anything: it neither checks conflicts nor assigns versions, and knows no clock.

mod memory;
mod pins;

mod base;
mod durable;

mod capture;
mod install;
#[cfg(test)]
mod tests;

pub use capture::{Capture, CaptureTotals, CapturedPart, CapturedRow};
pub use install::{Install, InstallError};

pub(crate) use memory::prefetch;
pub use memory::{MemoryEngine, MemoryOptions};
pub use pins::{Pin, Pins};

pub use base::{
    Base, BaseError, BaseRow, BaseSpace, BaseUsage, EachBaseRow, Finding, LsmBase, LsmOptions, Marker, MarkerError,
    OpenError, RunRow, check_base, restore_base,
};
pub use durable::{DurableEngine, DurableOptions};

use crate::types::{KeyRange, LogId, Version};
use bytes::Bytes;
use std::{ops::ControlFlow, sync::Arc};

/// Why the engine refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The version asked for lies below the horizon.
    #[error("version {asked} is gone: history begins at {horizon}")]
    Gone {
        /// The version asked for.
        asked: Version,
        /// The oldest version that can be read.
        horizon: Version,
    },
    /// The version asked for has not been applied.
    #[error("version {asked} is not here yet: {visible} is the last applied")]
    Ahead {
        /// The version asked for.
        asked: Version,
        /// The last version applied.
        visible: Version,
    },
    /// A failure of this machine. The node must stop.
    #[error("storage failed: {0}")]
    Failed(String),
}

/// A value and the version that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The commit version of the transaction that wrote it.
    pub version: Version,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// One change of one key. A batch holds at most one for each pair of key and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The commit version of the transaction that wrote it.
    pub version: Version,
    /// The full key.
    pub key: &'a [u8],
    /// The new value; `None` deletes.
    pub value: Option<&'a [u8]>,
}

/// How far the store has come: moves in the same step as the batch that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; `None` before the first.
    pub log_id: Option<LogId>,
    /// The last version applied.
    pub version: Version,
    /// Hash over all entries and their results so far.
    pub chain: u64,
    /// Replicated clock, milliseconds since the Unix epoch, never decreasing.
    pub clock_ms: u64,
    /// Idempotency records below this version have expired.
    pub idempotency_floor: Version,
}

/// Whether the store can take more writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// It can.
    #[default]
    None,
    /// What was written lately waits to be stored: writes must pause for a moment.
    Behind,
    /// The disk has less room than the reserve: writes must wait until there is room again.
    DiskFull {
        /// Bytes that the file system still has.
        available: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
}

/// What the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whether it can take more.
    pub pressure: Pressure,
    /// Bytes held, keys, values and overhead, as an upper estimate.
    pub bytes: u64,
    /// The bound that admission keeps `bytes` below.
    pub bytes_max: u64,
    /// Bytes of versions that are not the newest of their key: what trimming could give back.
    pub history_bytes: u64,
    /// Keys that exist at the visible version.
    pub keys: u64,
    /// Live pins.
    pub pins: u64,
    /// Oldest pinned version, or the visible one.
    pub oldest_pin: Version,
    /// History begins here.
    pub horizon: Version,
}

/// One step of a scan: a range of full keys, in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// The keys to visit.
    pub range: &'a KeyRange,
    /// From the end to the start.
    pub reverse: bool,
}

/// Gives the last entry that a log has on disk. Cheap: it is asked with every entry.
pub type DurableEnd = Box<dyn Fn() -> Option<LogId> + Send + Sync>;

/// A versioned, ordered store. Two implementations stand behind it: memory, and memory over a base on
/// disk.
///
/// `apply` and `trim` are called by one writer at a time; everything else by any thread.
pub trait Engine: Send + Sync + 'static {
    /// The version of the last batch applied. O(1), no lock.
    fn visible(&self) -> Version;

    /// How far the store has come.
    fn applied(&self) -> Applied;

    /// Pins the visible version.
    fn pin(&self) -> Pin;

    /// Pins an older version, unless it is below the horizon ([`Error::Gone`]) or not applied yet ([`Error::Ahead`]).
    fn pin_at(&self, version: Version) -> Result<Pin, Error>;

    /// Reads a group of keys at one visible version, which it returns. `each` is called once for every key, in order,
    /// with the key's index. Needs no pin and takes no lock that a writer holds for long; lookups of a group are
    /// interleaved, so a group costs less than its keys one by one.
    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error>;

    /// The same at a pinned version.
    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error>;

    /// Visits the rows of a range in order until `each` breaks. `each` runs inside the engine: it copies what it wants
    /// and returns; it never waits and never calls the engine.
    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// Applies one entry's writes, in version order, and moves the marker with them in one step: a reader sees all of
    /// it or nothing. Fails only for a failure of this machine.
    fn apply(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error>;

    /// Notes an entry that changes no key: a change of membership, in the encoding of whoever orders entries. Kept, stored
    /// and given back with the marker.
    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error>;

    /// The membership applied last; empty before the first.
    fn membership(&self) -> Bytes;

    /// How far what is stored has come: after a restart the store begins there, so the log is needed only above it. For a
    /// store in memory, how far it has come.
    fn stored(&self) -> Applied;

    /// The membership as of [`Engine::stored`].
    fn stored_membership(&self) -> Bytes;

    /// Says whom to ask how far the log is durable on this machine: nothing above is stored, for after a crash the log would
    /// end below what is. An entry may be applied before that, when other replicas have it. Until somebody says so,
    /// everything that is applied counts as durable; who says it first is asked from then on.
    fn follow_log(&self, durable_end: DurableEnd);

    /// Does a bounded piece of the work that storing needs: moves what was written lately to disk, or merges what is there.
    /// Blocks; called from one thread of its own, again and again. Returns whether work is left.
    fn maintain(&self) -> Result<bool, Error>;

    /// Raises the horizon to `target`, or to the oldest pin if that is lower, and gives back memory, a bounded amount of
    /// work at a time. Returns whether work is left.
    fn trim(&self, target: Version) -> bool;

    /// What it holds. O(1).
    fn usage(&self) -> Usage;

    /// Begins to take a snapshot of another replica, as it was after an entry that is not applied here; or goes on with it,
    /// if parts under the same `id` are here already. What is here of another one is discarded. Blocks.
    fn begin_install(
        self: Arc<Self>,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError>;

    /// Makes everything applied so far durable, where the engine can, and as far as [`Engine::follow_log`] allows.
    fn persist(&self) -> Result<(), Error>;

    /// Ends the engine's own work. Reads and writes after it fail.
    fn close(&self) -> Result<(), Error>;
}

/// A consistent view at one version, kept readable for as long as it lives.
#[derive(Clone)]
pub struct Snapshot {
    engine: Arc<dyn Engine>,
    pin: Pin,
}

impl Snapshot {
    /// A view of the visible version.
    #[must_use]
    pub fn now(engine: &Arc<dyn Engine>) -> Snapshot {
        Snapshot { pin: engine.pin(), engine: Arc::clone(engine) }
    }

    /// A view of an older version.
    pub fn at(engine: &Arc<dyn Engine>, version: Version) -> Result<Snapshot, Error> {
        Ok(Snapshot { pin: engine.pin_at(version)?, engine: Arc::clone(engine) })
    }

    /// The version seen.
    #[must_use]
    pub fn version(&self) -> Version {
        self.pin.version()
    }

    /// Reads one key.
    pub fn get<T>(&self, key: &[u8], read: impl FnOnce(Option<Row<'_>>) -> T) -> Result<T, Error> {
        let mut read = Some(read);
        let mut result = None;
        self.engine.get_at(&self.pin, &[key], &mut |_, row| {
            if let Some(read) = read.take() {
                result = Some(read(row));
            }
        })?;
        result.ok_or_else(|| Error::Failed("the engine answered no key of one".into()))
    }

    /// Reads a group of keys; `each` gets a key's index and what is there.
    pub fn get_many(&self, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        self.engine.get_at(&self.pin, keys, each)
    }

    /// Visits the rows of a range until `each` breaks.
    pub fn scan(
        &self,
        range: &KeyRange,
        reverse: bool,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.engine.scan(&self.pin, Scan { range, reverse }, each)
    }
}
