//! Applying an entry: a pure function of the entry and of the state that the entries before it made.
//!
//! Every replica runs this, blindly: nothing is checked but that the entry's first version continues the version
//! applied before it. An entry that does not continue it changes nothing, on every replica alike; its commits did not
//! happen. Never reads a clock, never draws a random number, never looks at the resolver.
//!
//! Within an entry later items see earlier ones: two increments of one key in one entry add up.

use super::{
    entry::{self, EntryError, Item},
    idempotency::{self, Record, Recorded},
    mutation::{self, Change, Mutation},
};
use crate::{
    encoding::Reader,
    storage::{self, Applied, Engine, Write},
    types::{AtomicOp, FullKey, IdempotencyPair, KeyRange, LogId, Version},
};
use bytes::Bytes;
use std::{collections::HashMap, ops::ControlFlow, sync::Arc};
use xxhash_rust::xxh3;

/// Why an entry could not be applied. A failure of this machine: the node stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The entry cannot be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryResult {
    /// It did not continue the applied version and changed nothing.
    Skipped {
        /// The version it should have continued.
        applied: Version,
    },
    /// It was applied.
    Applied {
        /// The version of its first item.
        first: Version,
        /// The last version applied now.
        last: Version,
        /// For each item (by its place in the entry) that held atomic operations, their results in order.
        results: Vec<(u32, Vec<Bytes>)>,
    },
}

/// Applies one entry and moves the marker with it.
///
/// Cost: one pass over the entry, one lookup for each atomic operation, one write for each key of each item.
pub fn apply<E: Engine + ?Sized>(engine: &E, log_id: LogId, bytes: &[u8]) -> Result<EntryResult, ApplyError> {
    let before = engine.applied();
    let mut reader = Reader::new(bytes);
    let header = entry::read_header(&mut reader)?;
    if header.first_version != before.version.next() {
        engine.apply(&[], Applied { log_id: Some(log_id), ..before })?;
        return Ok(EntryResult::Skipped { applied: before.version });
    }
    let floor = before.idempotency_floor.max(header.idempotency_floor);
    let mut staged = Staged::new(engine, floor, header.count as usize);
    if header.atomics {
        staged.fetch_old_values(reader.clone(), header.count)?;
    }
    for place in 0..header.count {
        let version = Version(header.first_version.0 + u64::from(place));
        let item = entry::read_item(&mut reader)?;
        staged.item(place, version, &item, header.atomics)?;
    }
    reader.finish().map_err(EntryError::from)?;
    let last = Version(before.version.0 + u64::from(header.count));
    if floor > before.idempotency_floor && header.count > 0 {
        staged.expire(before.idempotency_floor, floor, last)?;
    }
    let applied = Applied {
        log_id: Some(log_id),
        version: last,
        chain: chain(before.chain, bytes, &staged.results),
        clock_ms: before.clock_ms.max(header.clock_ms),
        idempotency_floor: floor,
    };
    engine.apply(&staged.writes(), applied)?;
    Ok(EntryResult::Applied { first: header.first_version, last, results: staged.results })
}

/// The chain hash after an entry: XXH3-64 of the entry seeded with the hash before it, then of each result.
fn chain(before: u64, entry: &[u8], results: &[(u32, Vec<Bytes>)]) -> u64 {
    let with_entry = xxh3::xxh3_64_with_seed(entry, before);
    let of_all = results.iter().flat_map(|(_, of_item)| of_item);
    of_all.fold(with_entry, |hash, result| xxh3::xxh3_64_with_seed(result, hash))
}

/// A value to be written: still in the entry where it can be, made here where it must.
#[derive(Clone, Debug)]
enum Value<'a> {
    Absent,
    InEntry(&'a [u8]),
    Made(Bytes),
}

impl Value<'_> {
    fn as_slice(&self) -> Option<&[u8]> {
        match self {
            Value::Absent => None,
            Value::InEntry(bytes) => Some(bytes),
            Value::Made(bytes) => Some(bytes),
        }
    }
}

enum Key<'a> {
    InEntry(&'a [u8]),
    Made(FullKey),
}

impl Key<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Key::InEntry(bytes) => bytes,
            Key::Made(bytes) => bytes,
        }
    }
}

struct StagedWrite<'a> {
    version: Version,
    key: Key<'a>,
    value: Value<'a>,
}

/// The writes of one entry as they are worked out.
struct Staged<'a, E: ?Sized> {
    engine: &'a E,
    /// Records below it are not kept.
    idempotency_floor: Version,
    writes: Vec<StagedWrite<'a>>,
    /// The last write to each key in this entry; kept only when the entry holds atomic operations.
    last: HashMap<&'a [u8], usize>,
    /// What the keys of atomic operations held before this entry.
    old: HashMap<&'a [u8], Option<Bytes>>,
    results: Vec<(u32, Vec<Bytes>)>,
}

impl<'a, E: Engine + ?Sized> Staged<'a, E> {
    fn new(engine: &'a E, idempotency_floor: Version, items: usize) -> Staged<'a, E> {
        let writes = Vec::with_capacity(items.min(1 << 16));
        Staged { engine, idempotency_floor, writes, last: HashMap::new(), old: HashMap::new(), results: Vec::new() }
    }

    /// Reads, as one group, what the keys of atomic operations hold.
    fn fetch_old_values(&mut self, mut reader: Reader<'a>, count: u32) -> Result<(), ApplyError> {
        let mut keys = Vec::new();
        for _ in 0..count {
            if let Item::Commit { mutations, body, .. } = entry::read_item(&mut reader)? {
                let mut body = Reader::new(body);
                for _ in 0..mutations {
                    if let Mutation::Atomic { key, .. } = Mutation::decode(&mut body).map_err(EntryError::from)? {
                        keys.push(key);
                    }
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let old = &mut self.old;
        self.engine.get_latest(&keys, &mut |place, _, row| {
            old.insert(keys[place], row.map(|row| Bytes::copy_from_slice(row.value)));
        })?;
        Ok(())
    }

    fn item(&mut self, place: u32, version: Version, item: &Item<'a>, atomics: bool) -> Result<(), ApplyError> {
        match *item {
            Item::Commit { keyed, mutations, body } => {
                let results = self.commit(version, mutations, body, atomics)?;
                if let Some((pair, reply)) = keyed {
                    let recorded = match reply {
                        Some(reply) => Recorded::Reply(Bytes::copy_from_slice(reply)),
                        None => Recorded::Results(results.clone()),
                    };
                    self.record(version, pair, &Record::committed(version, recorded));
                }
                if !results.is_empty() {
                    self.results.push((place, results));
                }
            }
            Item::Fence(pair) => self.record(version, pair, &Record::Never),
            Item::Answer(pair, answer) => {
                self.record(version, pair, &Record::Answered(version, Bytes::copy_from_slice(answer)));
            }
        }
        Ok(())
    }

    /// Stages one commit's mutations; each key is written once, with what its last mutation leaves.
    fn commit(
        &mut self,
        version: Version,
        mutations: u32,
        body: &'a [u8],
        atomics: bool,
    ) -> Result<Vec<Bytes>, ApplyError> {
        let mut reader = Reader::new(body);
        let mut own: HashMap<&'a [u8], usize> = HashMap::new();
        let mut results = Vec::new();
        for _ in 0..mutations {
            let (key, value) = match Mutation::decode(&mut reader).map_err(EntryError::from)? {
                Mutation::Put { key, value } => (key, Value::InEntry(value)),
                Mutation::Delete { key } => (key, Value::Absent),
                Mutation::Atomic { op, key, operand } => match self.evaluate(op, key, operand, &mut results) {
                    Some(value) => (key, value),
                    None => continue,
                },
            };
            let again = if mutations > 1 { own.get(key).copied() } else { None };
            let place = again.unwrap_or(self.writes.len());
            if again.is_some() {
                self.writes[place].value = value;
            } else {
                self.writes.push(StagedWrite { version, key: Key::InEntry(key), value });
            }
            if mutations > 1 {
                own.insert(key, place);
            }
            if atomics {
                self.last.insert(key, place);
            }
        }
        reader.finish().map_err(EntryError::from)?;
        Ok(results)
    }

    /// The value that an atomic operation leaves, or `None` where it leaves the key as it is.
    fn evaluate(&self, op: AtomicOp, key: &'a [u8], operand: &'a [u8], results: &mut Vec<Bytes>) -> Option<Value<'a>> {
        let in_entry = self.last.get(key).map(|place| &self.writes[*place].value);
        let current = match in_entry {
            Some(value) => value.as_slice(),
            None => self.old.get(key).and_then(|old| old.as_deref()),
        };
        let effect = mutation::evaluate(op, current, operand);
        results.push(effect.result);
        match effect.change {
            Change::Unchanged => None,
            Change::Set(value) => Some(Value::Made(value)),
            Change::Delete => Some(Value::Absent),
        }
    }

    fn record(&mut self, version: Version, pair: IdempotencyPair, record: &Record) {
        if pair.seen < self.idempotency_floor {
            return;
        }
        let key = Key::Made(idempotency::record_key(pair));
        self.writes.push(StagedWrite { version, key, value: Value::Made(record.encode()) });
    }

    /// Deletes the records that the new floor leaves behind.
    fn expire(&mut self, from: Version, to: Version, version: Version) -> Result<(), ApplyError> {
        let range: KeyRange = idempotency::records_between(from, to);
        let mut gone: Vec<FullKey> = Vec::new();
        let pin = self.engine.pin();
        self.engine.scan(&pin, storage::Scan { range: &range, reverse: false }, &mut |key, _| {
            gone.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })?;
        let deletes = gone.into_iter().map(|key| StagedWrite { version, key: Key::Made(key), value: Value::Absent });
        self.writes.extend(deletes);
        Ok(())
    }

    fn writes(&self) -> Vec<Write<'_>> {
        self.writes
            .iter()
            .map(|staged| Write { version: staged.version, key: staged.key.as_slice(), value: staged.value.as_slice() })
            .collect()
    }
}

/// What became of the attempt that `pair` names, as far as it has been applied; `None` if there is no record.
pub fn read_record(engine: &Arc<dyn Engine>, pair: IdempotencyPair) -> Result<Option<Record>, ApplyError> {
    let key = idempotency::record_key(pair);
    let mut found = None;
    engine.get_latest(&[&key], &mut |_, _, row| found = row.map(|row| Record::decode(row.value)))?;
    Ok(found.transpose().map_err(EntryError::from)?)
}
