//! What must hold of a cluster at every moment, whatever happens to it.
//!
//! | invariant | how it is seen |
//! |---|---|
//! | one leader a term | every node that leads, and its term, are remembered |
//! | log matching | of every entry of every log, by index and term, its content and the term before it are remembered |
//! | what is applied is final | of every applied index the entry and the chain hash after it are remembered, for ever |
//! | versions only grow | of each node, within one life |
//!
//! The last but one contains more: a replica that applied what was not committed, a snapshot whose metadata are wrong, an
//! entry lost after it was acknowledged, all end in two hashes at one index.

use super::replica::Replica;
use crate::types::{LogId, NodeId, Term, Version};
use std::collections::{BTreeMap, HashMap};

/// Indexes below the newest by more than this are forgotten.
const REMEMBERED: u64 = 200_000;

/// What was seen so far.
#[derive(Default)]
pub struct Watch {
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<u64, (LogId, u64, Version)>,
    /// By index and term: the term of the entry before.
    entries: HashMap<(u64, u64), u64>,
    /// The last entry of each host that was looked at, and where its log was cut since.
    looked: BTreeMap<String, u64>,
    /// Snapshots that each host's process has installed.
    installed: BTreeMap<String, u64>,
    /// Observations made.
    pub looks: u64,
    /// Snapshots that were installed.
    pub snapshots: u64,
}

impl Watch {
    /// Looks at every node that runs.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn look(&mut self, replicas: &[Replica]) -> Result<(), String> {
        self.looks += 1;
        for replica in replicas {
            let Some(node) = replica.node() else { continue };
            let name = replica.host.name();
            let id = node.identity().node;
            if node.leads() {
                let term = Term(node.metrics().term.load(std::sync::atomic::Ordering::Relaxed));
                let other = *self.leaders.entry(term).or_insert(id);
                if other != id {
                    return Err(format!("nodes {} and {} both lead term {}", other.0, id.0, term.0));
                }
            }
            let applied = node.engine().applied();
            if let Some(log_id) = applied.log_id {
                let installed = node.snapshots_installed();
                let before = self.installed.insert(name.clone(), installed).unwrap_or(0);
                // A new process counts from nothing.
                self.snapshots += if installed < before { installed } else { installed - before };
                let seen = (log_id, applied.chain, applied.version);
                let known = *self.applied.entry(log_id.index).or_insert(seen);
                if known != seen {
                    return Err(format!("{name} applied {seen:?}, another {known:?}"));
                }
                if let Some((oldest, _)) = self.applied.first_key_value()
                    && oldest + REMEMBERED < log_id.index
                {
                    self.applied.pop_first();
                }
            }
            self.look_at_log(&name, &node)?;
        }
        Ok(())
    }

    fn look_at_log(&mut self, name: &str, node: &crate::node::Node) -> Result<(), String> {
        let Some(log) = node.log() else { return Ok(()) };
        let last = log.last().map_or(0, |last| last.index);
        let first = log.purged().map_or(0, |purged| purged.index + 1);
        // A log that was cut and has grown again is looked at from where it may have changed.
        let looked = self.looked.get(name).copied().unwrap_or(0);
        let from = looked.saturating_sub(64).max(first);
        let Ok(entries) = log.read(from, last + 1, usize::MAX) else { return Ok(()) };
        for pair in entries.windows(2) {
            let (before, entry) = (pair[0].id, pair[1].id);
            let known = *self.entries.entry((entry.index, entry.term.0)).or_insert(before.term.0);
            if known != before.term.0 {
                return Err(format!("{name} has {before} before {entry}, another has term {known} there"));
            }
        }
        self.looked.insert(name.to_owned(), last);
        Ok(())
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }
}
