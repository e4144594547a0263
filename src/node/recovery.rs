//! From a data directory to a running replica: opens the store and the log, and makes sure that they belong together.
//!
//! ```text
//! log      purged ──────┬─────────────── entries ───────────────> last
//! store                 marker: everything up to here is on disk
//! ```
//!
//! The log must reach down to the store's marker and up past it: `purged <= marker <= last`, and the entry at the marker's
//! index is the marker's. Then the entries above the marker are applied again once the group knows that they are
//! committed, which a group of one knows when it leads. Anything else means that a part was lost or exchanged, and is
//! refused.
//!
//! But for one case. A snapshot of another replica becomes the store in one step, and the log is purged up to it in another;
//! a crash between the two leaves a log that ends below the snapshot, or went on there without those who committed it:
//!
//! ```text
//! log      purged ─────────── entries ──> last
//! store                                            marker, of a snapshot
//! ```
//!
//! Such a log is *superseded*: everything committed that it holds is in the snapshot. It is emptied and purged up to the
//! marker, as would have been done without the crash, and keeps its vote. It is known from one that was lost by that vote:
//! before a node takes a snapshot it has voted, or has seen a leader, in the term of its entries or later.

#[cfg(test)]
mod tests;

use super::Directory;
use crate::{
    consensus::Storage,
    env::Env,
    log::{self, Log, LogOptions, Owner, Vote},
    storage::{self, DurableEngine, DurableOptions, Engine},
    types::LogId,
};
use slog::{Logger, info, warn};
use std::sync::Arc;

/// What a replica on disk is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageOptions {
    /// The store's.
    pub engine: DurableOptions,
    /// Bytes of a segment of the log; `None` for the log's own choice.
    pub log_segment_bytes: Option<u64>,
    /// Bytes of entries that the log keeps in memory for those who read it; `None` for the log's own choice.
    pub log_cache_bytes_max: Option<usize>,
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log refuses.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// The store refuses.
    #[error(transparent)]
    Storage(#[from] storage::OpenError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] log::LogError),
    /// Log and store do not belong together.
    #[error("log and base do not belong together: {what} (base at {}, log purged up to {} and ends at {}); restore this node from a backup or another node", name(*marker), name(*purged), name(*last))]
    Torn {
        /// What is wrong.
        what: &'static str,
        /// The store's marker.
        marker: Option<LogId>,
        /// Up to where the log was purged.
        purged: Option<LogId>,
        /// The log's last entry.
        last: Option<LogId>,
    },
}

fn name(log_id: Option<LogId>) -> String {
    log_id.map_or_else(|| "nothing".into(), |log_id| log_id.to_string())
}

/// An opened replica: what [`super::Node::start`] wants.
pub struct Recovered {
    /// The store, at its marker.
    pub engine: Arc<dyn Engine>,
    /// The log.
    pub storage: Storage,
    /// The last entry of the log, up to which it will be applied again.
    pub last: Option<LogId>,
}

/// Opens what lies in a data directory. Blocks while it reads the log.
pub fn recover(
    env: &Env,
    logger: &Logger,
    directory: &Directory,
    options: StorageOptions,
) -> Result<Recovered, RecoveryError> {
    let engine = DurableEngine::open(env, &directory.base(), options.engine)?;
    recover_over(env, logger, directory, options, engine)
}

/// The same over a store that was opened elsewhere.
pub fn recover_over(
    env: &Env,
    logger: &Logger,
    directory: &Directory,
    options: StorageOptions,
    engine: DurableEngine,
) -> Result<Recovered, RecoveryError> {
    let begun = env.now();
    let identity = directory.identity();
    let mut log_options = LogOptions::new(Owner { cluster: identity.cluster, node: identity.node });
    log_options.segment_bytes = options.log_segment_bytes.unwrap_or(log_options.segment_bytes);
    log_options.cache_bytes_max = options.log_cache_bytes_max.unwrap_or(log_options.cache_bytes_max);
    let (log, writing, recovered) = Log::open_for(env, &directory.log(), log_options)?;
    if let Some(cut) = &recovered.cut {
        warn!(logger, "the log ended in a write that was never acknowledged; it was cut";
            "file" => %cut.path.display(), "offset" => cut.offset, "bytes" => cut.bytes);
    }
    let base = BaseEnd { marker: engine.applied().log_id, is_installed: engine.is_installed() };
    let marker = base.marker;
    let at_marker = match marker.filter(|marker| log.purged().is_none_or(|purged| purged.index < marker.index)) {
        Some(marker) => log.read(marker.index, marker.index.saturating_add(1), 1)?.first().map(|entry| entry.id),
        None => None,
    };
    let ends = LogEnds { purged: log.purged(), last: log.last(), vote: log.vote(), at_marker };
    if let (Fit::Superseded, Some(marker)) = (belong_together(base, ends)?, marker) {
        warn!(logger, "the log was superseded by a snapshot and is emptied";
            "snapshot_at" => %marker, "log_ends" => name(ends.last));
        // Durable before anything that comes later, for all of it is one queue; whoever waits for that hears of a failure.
        log.truncate_after(None, Box::new(|_| {}));
        log.purge(marker, Box::new(|_| {}));
    }
    let last = log.last();
    let first = marker.map_or(0, |marker| marker.index + 1);
    let entries = last.map_or(0, |last| (last.index + 1).saturating_sub(first));
    info!(logger, "opened"; "directory" => %directory.path().display(), "version" => engine.visible().0,
        "base_at" => name(marker), "log_ends" => name(last), "entries_to_apply" => entries,
        "ms" => (env.now() - begun).as_millis());
    Ok(Recovered { engine: Arc::new(engine), storage: Storage::Disk(log, writing), last })
}

/// Where a base ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseEnd {
    pub(super) marker: Option<LogId>,
    /// See [`storage::Marker::installed`].
    pub(super) is_installed: bool,
}

/// What a log has to say of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogEnds {
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) vote: Option<Vote>,
    /// The entry at the marker's index, where it is known.
    pub(super) at_marker: Option<LogId>,
}

/// How a log and a base belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The log goes on where the base ends.
    GoesOn,
    /// Everything in the log is of no use any more.
    Superseded,
}

/// Checks that the log goes on where the base ends, or was superseded by it.
pub(super) fn belong_together(base: BaseEnd, log: LogEnds) -> Result<Fit, RecoveryError> {
    let (BaseEnd { marker, is_installed }, LogEnds { purged, last, vote, at_marker }) = (base, log);
    let torn = |what| RecoveryError::Torn { what, marker, purged, last };
    let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
    let is_other = |log_id: LogId| marker.is_some_and(|marker| marker.index == log_id.index && marker != log_id);
    if index(purged) > index(marker) {
        return Err(torn("entries between them are gone"));
    }
    let (is_below, is_another) = (index(last) < index(marker), [last, at_marker].into_iter().flatten().any(is_other));
    let has_voted = vote.is_some_and(|vote| marker.is_some_and(|marker| vote.term >= marker.term));
    if is_installed && has_voted && (is_below || is_another) && !purged.is_some_and(is_other) {
        return Ok(Fit::Superseded);
    }
    if is_below {
        return Err(torn("the log ends below what the base has applied"));
    }
    if is_another || purged.is_some_and(is_other) {
        return Err(torn("the entry that the base has applied last is another in the log"));
    }
    Ok(Fit::GoesOn)
}
