//! What happened, as a running hash and as lines.

use super::{state::Time, tasks::TaskId};
use std::{collections::VecDeque, fmt};
use xxhash_rust::xxh3::Xxh3;

/// The events of a run. Two runs of one seed have the same hash, or something in them does not come from the seed.
pub(super) struct Trace {
    hash: Xxh3,
    /// The last of them.
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    pub(super) fn new(lines_max: usize) -> Trace {
        Trace { hash: Xxh3::new(), lines: VecDeque::new(), lines_max }
    }

    /// Notes an event, in a line.
    pub(super) fn event(&mut self, now: Time, event: fmt::Arguments<'_>) {
        // A line that is given up is written over, so that a long run does not allocate for each event.
        let full = self.lines.len() >= self.lines_max.max(1);
        let mut line = full.then(|| self.lines.pop_front()).flatten().unwrap_or_default();
        line.clear();
        fmt::write(&mut line, format_args!("{now} {event}\n")).expect("a string takes everything");
        self.hash.update(line.as_bytes());
        line.pop();
        self.lines.push_back(line);
    }

    /// Notes which task runs next: in the hash alone, for there are too many for lines.
    pub(super) fn poll(&mut self, now: Time, task: TaskId) {
        self.hash.update(&now.0.to_le_bytes());
        self.hash.update(&task.0.to_le_bytes());
    }

    /// Notes what is sent, in the hash alone.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
