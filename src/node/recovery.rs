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

use super::Directory;
use crate::{
    consensus::Storage,
    env::Env,
    log::{self, Log, LogOptions, Owner},
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
    let marker = engine.applied().log_id;
    let at_marker = match marker.filter(|marker| log.purged().is_none_or(|purged| purged.index < marker.index)) {
        Some(marker) => log.read(marker.index, marker.index.saturating_add(1), 1)?.first().map(|entry| entry.id),
        None => None,
    };
    belong_together(marker, log.purged(), log.last(), at_marker)?;
    let first = marker.map_or(0, |marker| marker.index + 1);
    let entries = recovered.last.map_or(0, |last| (last.index + 1).saturating_sub(first));
    info!(logger, "opened"; "directory" => %directory.path().display(), "version" => engine.visible().0,
        "base_at" => name(marker), "log_ends" => name(recovered.last), "entries_to_apply" => entries,
        "ms" => (env.now() - begun).as_millis());
    Ok(Recovered { engine: Arc::new(engine), storage: Storage::Disk(log, writing), last: recovered.last })
}

/// Checks that the log goes on where the store ends. `at_marker` is the log's entry at the marker's index, where it is
/// known.
pub(super) fn belong_together(
    marker: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    at_marker: Option<LogId>,
) -> Result<(), RecoveryError> {
    let torn = |what| RecoveryError::Torn { what, marker, purged, last };
    let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
    if index(purged) > index(marker) {
        return Err(torn("entries between them are gone"));
    }
    if index(last) < index(marker) {
        return Err(torn("the log ends below what the base has applied"));
    }
    let known = [purged, last, at_marker].into_iter().flatten();
    if known.into_iter().any(|log_id| marker.is_some_and(|marker| marker.index == log_id.index && marker != log_id)) {
        return Err(torn("the entry that the base has applied last is another in the log"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NodeId, Term};

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { term: Term(term), leader: NodeId(1), index })
    }

    #[test]
    fn a_log_reaches_from_below_the_marker_to_above_it() {
        let fits = |marker, purged, last, at_marker| belong_together(marker, purged, last, at_marker).is_ok();
        assert!(fits(None, None, None, None), "both are new");
        assert!(fits(None, None, at(1, 9), None), "nothing was stored yet");
        assert!(fits(at(1, 5), at(1, 3), at(2, 9), at(1, 5)));
        assert!(fits(at(1, 5), at(1, 5), at(1, 5), None), "everything is stored");
        assert!(!fits(None, at(1, 3), at(1, 9), None), "the base was lost");
        assert!(!fits(at(1, 5), at(1, 6), at(1, 9), None), "entries are missing");
        assert!(!fits(at(1, 5), None, None, None), "the log was lost");
        assert!(!fits(at(1, 5), None, at(1, 4), None), "the log's end was lost");
        assert!(!fits(at(1, 5), at(1, 3), at(2, 9), at(2, 5)), "another history");
        assert!(!fits(at(1, 5), at(2, 5), at(2, 9), None), "another history, purged");
        assert!(!fits(at(1, 5), None, at(2, 5), None), "another history's end");
    }
}
