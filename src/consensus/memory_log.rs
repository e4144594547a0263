//! A log in memory: gone with the process, so it is for nodes whose whole store is.

use super::types::{Payload, RaftEntry, RaftLogId, RaftVote};
use std::collections::VecDeque;

/// Entries above the purge point, without a gap.
#[derive(Debug, Default)]
pub(super) struct MemoryLog {
    entries: VecDeque<RaftEntry>,
    purged: Option<RaftLogId>,
    vote: Option<RaftVote>,
}

impl MemoryLog {
    /// Index of the first entry that is or will be here.
    fn first(&self) -> u64 {
        let next = self.purged.map_or(0, |purged| purged.index + 1);
        self.entries.front().map_or(next, |first| first.log_id.index)
    }

    pub(super) fn last(&self) -> Option<RaftLogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn purged(&self) -> Option<RaftLogId> {
        self.purged
    }

    pub(super) fn vote(&self) -> Option<RaftVote> {
        self.vote
    }

    pub(super) fn save_vote(&mut self, vote: RaftVote) {
        self.vote = Some(vote);
    }

    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = RaftEntry>) {
        for entry in entries {
            // A log that never held anything may begin anywhere.
            let gap = self.last().is_some_and(|last| last.index + 1 != entry.log_id.index);
            assert!(!gap, "a log has no gap");
            self.entries.push_back(entry);
        }
    }

    /// Keeps entries up to `last` inclusive.
    pub(super) fn truncate_after(&mut self, last: Option<RaftLogId>) {
        let end = last.map_or(0, |last| last.index + 1);
        let kept = usize::try_from(end.saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.entries.truncate(kept);
    }

    /// Forgets entries up to `up_to` inclusive, which need not be here.
    pub(super) fn purge(&mut self, up_to: RaftLogId) {
        let gone = usize::try_from((up_to.index + 1).saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.entries.drain(..gone.min(self.entries.len()));
        self.purged = self.purged.max(Some(up_to));
    }

    /// The entries of `first..end` that are here, as many as `bytes_max` bytes hold, but one if there is one.
    pub(super) fn read(&self, first: u64, end: u64, bytes_max: usize) -> Vec<RaftEntry> {
        let place = |index: u64| usize::try_from(index.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let (from, to) = (place(first), place(end).min(self.entries.len()));
        if from >= to {
            return Vec::new();
        }
        let (mut bytes, mut count) = (0_usize, 0);
        let fits = |entry: &&RaftEntry| {
            if let Payload::Normal(command) = &entry.payload {
                bytes = bytes.saturating_add(command.0.len());
            }
            count += 1;
            count == 1 || bytes <= bytes_max
        };
        self.entries.range(from..to).take_while(fits).cloned().collect()
    }
}
