//! The durable engine against a model, over a base on disk and over a simulated one.

#![allow(clippy::unwrap_used)]

mod damage;
mod failures;
mod install_failures;
mod installs;
mod interrupted;
mod long_reader;
mod model;
mod pieces;
mod threads;

use super::*;
use crate::{
    testing::{base::SimulatedBase, directory::TemporaryDirectory},
    types::{KeyRange, LogId, NodeId, Term},
};
use std::collections::BTreeMap;

/// Options under which everything happens soon.
fn small() -> DurableOptions {
    DurableOptions {
        memory_bytes_max: 1024 * 1024,
        block_cache_bytes: 64 * 1024,
        slice_bytes: 2 * 1024,
        slice_age_max: Duration::from_secs(3600),
        reserve_bytes: 0,
        hash_seed: 7,
    }
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term(2), leader: NodeId(1), index }
}

fn key(name: &str) -> Vec<u8> {
    [&b"\0\0\0\x01"[..], name.as_bytes()].concat()
}

type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;
type Rows = Vec<(Vec<u8>, u64, Vec<u8>)>;

/// An entry of the log: its commits, or a membership.
#[derive(Clone, Debug)]
struct Entry {
    applied: Applied,
    /// Each with its version.
    commits: Vec<(u64, Writes)>,
    membership: Option<Bytes>,
}

impl Entry {
    fn apply(&self, engine: &DurableEngine) -> Result<(), Error> {
        if let Some(membership) = &self.membership {
            return engine.apply_membership(membership.clone(), self.applied);
        }
        let write =
            |version: u64, (key, value): &(Vec<u8>, Option<Vec<u8>>)| (Version(version), key.clone(), value.clone());
        let writes: Vec<_> =
            self.commits.iter().flat_map(|(version, writes)| writes.iter().map(|w| write(*version, w))).collect();
        let writes: Vec<_> = writes
            .iter()
            .map(|(version, key, value)| Write { version: *version, key, value: value.as_deref() })
            .collect();
        engine.apply(&writes, self.applied)
    }
}

/// Makes entries that continue each other.
#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
}

impl Log {
    fn last(&self) -> Applied {
        self.entries.last().map(|entry| entry.applied).unwrap_or_default()
    }

    fn push(&mut self, commits: Vec<Writes>, membership: Option<Bytes>) -> &Entry {
        let last = self.last();
        let index = self.entries.len() as u64;
        let commits: Vec<_> = (last.version.0 + 1..).zip(commits).collect();
        let applied = Applied {
            log_id: Some(log_id(index)),
            version: Version(last.version.0 + commits.len() as u64),
            chain: last.chain.wrapping_mul(31).wrapping_add(index),
            clock_ms: index * 10,
            idempotency_floor: Version(last.version.0 / 2),
        };
        self.entries.push(Entry { applied, commits, membership });
        self.entries.last().unwrap()
    }

    /// What lies after a marker.
    fn after(&self, applied: Applied) -> &[Entry] {
        &self.entries[applied.log_id.map_or(0, |log_id| log_id.index as usize + 1)..]
    }
}

/// Every version of every key.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>,
}

impl Model {
    fn apply(&mut self, entry: &Entry) {
        for (version, writes) in &entry.commits {
            for (key, value) in writes {
                self.keys.entry(key.clone()).or_default().insert(*version, value.clone());
            }
        }
    }

    fn get(&self, key: &[u8], at: u64) -> Option<(u64, Vec<u8>)> {
        let (version, value) = self.keys.get(key)?.range(..=at).next_back()?;
        value.clone().map(|value| (*version, value))
    }

    fn scan(&self, range: &KeyRange, reverse: bool, at: u64) -> Rows {
        if range.is_empty() {
            return Vec::new();
        }
        let keys = self.keys.range(range.start.to_vec()..range.end.to_vec()).map(|(key, _)| key);
        let mut rows: Rows =
            keys.filter_map(|key| self.get(key, at).map(|(v, value)| (key.clone(), v, value))).collect();
        if reverse {
            rows.reverse();
        }
        rows
    }
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { start: start.to_vec().into(), end: end.to_vec().into() }
}

fn everything() -> KeyRange {
    range(b"", b"\xff\xff\xff\xff")
}

fn scan(engine: &DurableEngine, pin: &Pin, range: &KeyRange, reverse: bool, max: usize) -> Rows {
    let mut rows = Vec::new();
    let mut each = |key: &[u8], row: Row<'_>| {
        rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
        if rows.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    engine.scan(pin, Scan { range, reverse }, &mut each).unwrap();
    rows
}

fn get(engine: &DurableEngine, key: &[u8]) -> Option<(u64, Vec<u8>)> {
    let mut result = None;
    engine.get_latest(&[key], &mut |_, _, row| result = row.map(|row| (row.version.0, row.value.to_vec()))).unwrap();
    result
}

fn get_at(engine: &DurableEngine, pin: &Pin, key: &[u8]) -> Option<(u64, Vec<u8>)> {
    let mut result = None;
    engine.get_at(pin, &[key], &mut |_, row| result = row.map(|row| (row.version.0, row.value.to_vec()))).unwrap();
    result
}

fn over(base: &SimulatedBase) -> DurableEngine {
    DurableEngine::over(&Env::real(), Box::new(base.clone()), small())
}

/// All work that is to do.
fn maintain_all(engine: &DurableEngine) {
    while engine.maintain().unwrap() {}
}
