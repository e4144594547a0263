//! The state machine: entries applied blindly to the memory engine leave what a serial model leaves, however commits are
//! grouped into entries, and every replica comes to the same hash.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::{Bytes, BytesMut};
use quantadb::{
    env::Env,
    storage::{Applied, DurableEngine, DurableOptions, Engine, MemoryEngine, MemoryOptions, Snapshot},
    testing::{base::SimulatedBase, model::Model},
    txn::{
        ApplyError, AtomicOp, EntryBuilder, EntryError, EntryResult, Mutation, Record, Recorded, apply, read_record,
    },
    types::{IdempotencyPair, KeyspaceId, LogId, NodeId, Term, Version},
};
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::{ops::ControlFlow, sync::Arc};

fn engine(hash_seed: u64) -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed }))
}

fn log_id(index: u64) -> LogId {
    LogId { term: Term(1), leader: NodeId(1), index }
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, Vec<u8>),
    Delete(u8),
    Atomic(AtomicOp, u8, Vec<u8>),
}

/// What one item of an entry is.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    Keyed(u8, Vec<Change>),
    KeyedReply(u8, Vec<Change>, Vec<u8>),
    Fence(u8),
    Answer(u8, Vec<u8>),
    /// The entry ends here and the next one begins.
    Cut,
    /// An entry that does not continue the applied version comes between.
    Hole,
}

fn full(key: u8) -> Bytes {
    KeyspaceId::DEFAULT.full_key(&[key % 6])
}

impl Arbitrary for Change {
    fn arbitrary(g: &mut Gen) -> Change {
        let value = |g: &mut Gen| (0..usize::arbitrary(g) % 10).map(|_| u8::arbitrary(g)).collect();
        match u8::arbitrary(g) % 4 {
            0 => Change::Delete(u8::arbitrary(g)),
            1 => Change::Put(u8::arbitrary(g), value(g)),
            _ => Change::Atomic(*g.choose(&AtomicOp::ALL).unwrap(), u8::arbitrary(g), value(g)),
        }
    }
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Step {
        let changes = |g: &mut Gen| (0..usize::arbitrary(g) % 5).map(|_| Change::arbitrary(g)).collect::<Vec<_>>();
        match u8::arbitrary(g) % 12 {
            0 => Step::Fence(u8::arbitrary(g)),
            1 => Step::Answer(u8::arbitrary(g), Vec::arbitrary(g)),
            2 => Step::Keyed(u8::arbitrary(g), changes(g)),
            3 => Step::KeyedReply(u8::arbitrary(g), changes(g), Vec::arbitrary(g)),
            4 | 5 => Step::Cut,
            6 => Step::Hole,
            _ => Step::Commit(changes(g)),
        }
    }
}

fn pair(number: u8) -> IdempotencyPair {
    IdempotencyPair { key: [number; 16], seen: Version(u64::from(number % 4)) }
}

fn encode(changes: &[Change]) -> (BytesMut, bool) {
    let mut body = BytesMut::new();
    for change in changes {
        match change {
            Change::Put(key, value) => Mutation::Put { key: &full(*key), value }.encode(&mut body),
            Change::Delete(key) => Mutation::Delete { key: &full(*key) }.encode(&mut body),
            Change::Atomic(op, key, operand) => {
                Mutation::Atomic { op: *op, key: &full(*key), operand }.encode(&mut body);
            }
        }
    }
    (body, changes.iter().any(|change| matches!(change, Change::Atomic(..))))
}

fn change_model(model: &mut Model, version: Version, changes: &[Change]) -> Vec<Bytes> {
    let mut results = Vec::new();
    for change in changes {
        match change {
            Change::Put(key, value) => model.put(version, &full(*key), value),
            Change::Delete(key) => drop(model.delete(&full(*key))),
            Change::Atomic(op, key, operand) => results.push(model.atomic(version, *op, &full(*key), operand)),
        }
    }
    results
}

/// Applies entries and keeps the model beside them.
struct Run {
    engine: Arc<dyn Engine>,
    model: Model,
    index: u64,
    builder: Option<EntryBuilder>,
    /// What the items of the entry being built did, by place.
    expected: Vec<(u32, Vec<Bytes>)>,
    records: std::collections::HashMap<IdempotencyPair, Record>,
    /// Every entry, and where it left the marker.
    entries: Vec<(Bytes, Applied)>,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            engine: engine(seed),
            model: Model::default(),
            index: 0,
            builder: None,
            expected: Vec::new(),
            records: Default::default(),
            entries: Vec::new(),
        }
    }

    fn builder(&mut self) -> &mut EntryBuilder {
        let next = self.engine.visible().next();
        self.builder.get_or_insert_with(|| EntryBuilder::new(next, 7, Version::ZERO, 0))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Cut => self.cut(),
            Step::Hole => {
                self.cut();
                let before = self.engine.applied();
                let mut hole = EntryBuilder::new(Version(before.version.0 + 2), 9, Version::ZERO, 0);
                let (body, _) = encode(&[Change::Put(0, vec![1])]);
                hole.push_commit(1, &[&body], false);
                self.index += 1;
                let hole = hole.finish();
                let result = apply(&*self.engine, log_id(self.index), &hole).unwrap();
                assert_eq!(result, EntryResult::Skipped { applied: before.version });
                let after = self.engine.applied();
                self.entries.push((hole, after));
                assert_eq!(
                    (after.version, after.chain, after.log_id),
                    (before.version, before.chain, Some(log_id(self.index)))
                );
            }
            Step::Commit(changes) => {
                let (body, atomics) = encode(changes);
                let version = self.builder().push_commit(changes.len() as u32, &[&body], atomics);
                self.note(version, changes);
            }
            Step::Keyed(number, changes) => {
                let (body, atomics) = encode(changes);
                let version = self.builder().push_keyed(pair(*number), None, changes.len() as u32, &[&body], atomics);
                let results = self.note(version, changes);
                self.records.insert(pair(*number), Record::Committed(version, Recorded::Results(results)));
            }
            Step::KeyedReply(number, changes, reply) => {
                let (body, atomics) = encode(changes);
                let count = changes.len() as u32;
                let version = self.builder().push_keyed(pair(*number), Some(reply), count, &[&body], atomics);
                self.note(version, changes);
                let recorded = Recorded::Reply(Bytes::from(reply.clone()));
                self.records.insert(pair(*number), Record::Committed(version, recorded));
            }
            Step::Fence(number) => {
                self.builder().push_fence(pair(*number));
                self.records.insert(pair(*number), Record::Never);
            }
            Step::Answer(number, answer) => {
                let version = self.builder().push_answer(pair(*number), answer);
                self.records.insert(pair(*number), Record::Answered(version, Bytes::from(answer.clone())));
            }
        }
    }

    fn note(&mut self, version: Version, changes: &[Change]) -> Vec<Bytes> {
        let results = change_model(&mut self.model, version, changes);
        if !results.is_empty() {
            let place = self.builder().count() - 1;
            self.expected.push((place, results.clone()));
        }
        results
    }

    fn cut(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        let (count, entry) = (builder.count(), builder.finish());
        let before = self.engine.visible();
        self.index += 1;
        let result = apply(&*self.engine, log_id(self.index), &entry).unwrap();
        let last = Version(before.0 + u64::from(count));
        let expected = EntryResult::Applied { first: before.next(), last, results: std::mem::take(&mut self.expected) };
        assert_eq!(result, expected);
        assert_eq!(self.engine.visible(), last);
        self.entries.push((entry, self.engine.applied()));
    }

    fn check(&self) {
        let snapshot = Snapshot::now(&self.engine);
        let mut stored = Vec::new();
        snapshot
            .scan(&KeyspaceId::DEFAULT.range(), false, &mut |key, row| {
                stored.push((key.to_vec(), row.version, row.value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        let expected: Vec<_> = self
            .model
            .range(&KeyspaceId::DEFAULT.range())
            .map(|(key, stored)| (key.to_vec(), stored.version, stored.value.to_vec()))
            .collect();
        assert_eq!(stored, expected);
        for (pair, record) in &self.records {
            assert_eq!(read_record(&self.engine, *pair).unwrap().as_ref(), Some(record));
        }
    }
}

fn equals_the_model(steps: Vec<Step>) -> bool {
    let (mut one, mut two) = (Run::new(1), Run::new(2));
    for step in &steps {
        one.step(step);
        two.step(step);
    }
    one.cut();
    two.cut();
    one.check();
    assert_eq!(one.engine.applied(), two.engine.applied(), "replicas agree, hash included");
    true
}

#[test]
fn any_sequence_of_commits_in_any_grouping_equals_the_model() {
    QuickCheck::new().tests(2_000).quickcheck(equals_the_model as fn(Vec<Step>) -> bool);
}

/// What a store that is never asked to keep anything, one that keeps everything and those in between have in common: after
/// a restart between any two entries they hold, and go on to hold, what the one that never stopped does.
fn survives_restarts(steps: Vec<Step>, keeping: Vec<u8>) -> bool {
    let mut never_stopped = Run::new(1);
    for step in &steps {
        never_stopped.step(step);
    }
    never_stopped.cut();
    let options = DurableOptions {
        memory_bytes_max: 1 << 20,
        slice_bytes: 1 << 10,
        reserve_bytes: 0,
        ..DurableOptions::default()
    };
    let mut base = SimulatedBase::new(3);
    let mut engine: Arc<dyn Engine> = Arc::new(DurableEngine::over(&Env::real(), Box::new(base.clone()), options));
    for (at, (entry, after)) in never_stopped.entries.iter().enumerate() {
        apply(&*engine, log_id(at as u64 + 1), entry).unwrap();
        assert_eq!(engine.applied(), *after, "before the restart after entry {at}");
        match keeping.get(at % keeping.len().max(1)).map_or(0, |keep| keep % 3) {
            0 => {}
            1 => engine.persist().unwrap(),
            _ => drop(engine.maintain().unwrap()),
        }
        base = base.crash();
        engine = Arc::new(DurableEngine::over(&Env::real(), Box::new(base.clone()), options));
        let stored = engine.applied().log_id.map_or(0, |log_id| log_id.index as usize);
        for (place, (entry, after)) in never_stopped.entries[stored..=at].iter().enumerate() {
            apply(&*engine, log_id((stored + place) as u64 + 1), entry).unwrap();
            assert_eq!(engine.applied(), *after, "entry {} applied again", stored + place);
        }
    }
    never_stopped.engine = engine;
    never_stopped.check();
    true
}

#[test]
fn a_restart_between_any_two_entries_changes_nothing() {
    QuickCheck::new().tests(300).quickcheck(survives_restarts as fn(Vec<Step>, Vec<u8>) -> bool);
}

#[test]
fn a_different_result_or_entry_gives_another_hash() {
    let chain_of = |value: &[u8]| {
        let engine = engine(1);
        let mut builder = EntryBuilder::new(Version(1), 0, Version::ZERO, 0);
        let (body, _) = encode(&[Change::Put(0, value.to_vec())]);
        builder.push_commit(1, &[&body], false);
        apply(&*engine, log_id(1), &builder.finish()).unwrap();
        engine.applied().chain
    };
    assert_eq!(chain_of(b"a"), chain_of(b"a"));
    assert_ne!(chain_of(b"a"), chain_of(b"b"));
    assert_ne!(chain_of(b"a"), 0);
}

#[test]
fn records_below_the_floor_expire_with_the_entry_that_raises_it() {
    let engine = engine(1);
    let mut builder = EntryBuilder::new(Version(1), 0, Version::ZERO, 0);
    let (old, young) = (pair(1), pair(3));
    builder.push_fence(old);
    builder.push_fence(young);
    apply(&*engine, log_id(1), &builder.finish()).unwrap();
    assert_eq!(read_record(&engine, old).unwrap(), Some(Record::Never));
    let mut builder = EntryBuilder::new(Version(3), 0, Version(2), 0);
    // Made in the very entry whose floor is above it: never kept.
    builder.push_fence(IdempotencyPair { key: [9; 16], seen: Version(1) });
    apply(&*engine, log_id(2), &builder.finish()).unwrap();
    assert_eq!(engine.applied().idempotency_floor, Version(2));
    assert_eq!(read_record(&engine, old).unwrap(), None);
    assert_eq!(read_record(&engine, IdempotencyPair { key: [9; 16], seen: Version(1) }).unwrap(), None);
    assert_eq!(read_record(&engine, young).unwrap(), Some(Record::Never));
    let lower = EntryBuilder::new(Version(4), 0, Version(1), 0).finish();
    apply(&*engine, log_id(3), &lower).unwrap();
    assert_eq!(engine.applied().idempotency_floor, Version(2), "a floor never goes down");
}

#[test]
fn the_clock_that_entries_carry_never_goes_back() {
    let engine = engine(1);
    for (index, clock_ms, expected) in [(1, 50, 50), (2, 20, 50), (3, 60, 60)] {
        let entry = EntryBuilder::new(Version(1), clock_ms, Version::ZERO, 0).finish();
        apply(&*engine, log_id(index), &entry).unwrap();
        assert_eq!(engine.applied().clock_ms, expected);
    }
}

#[test]
fn an_entry_that_cannot_be_read_fails_the_machine_and_changes_nothing() {
    let engine = engine(1);
    let mut builder = EntryBuilder::new(Version(1), 0, Version::ZERO, 0);
    builder.push_commit(1, &[b"\x09nonsense"], false);
    let entry = builder.finish();
    assert!(matches!(apply(&*engine, log_id(1), &entry), Err(ApplyError::Entry(EntryError::Mutation(_)))));
    for cut in 0..entry.len() {
        assert!(apply(&*engine, log_id(1), &entry[..cut]).is_err());
    }
    let mut longer = EntryBuilder::new(Version(1), 0, Version::ZERO, 0).finish().to_vec();
    longer.push(0);
    assert!(matches!(apply(&*engine, log_id(1), &longer), Err(ApplyError::Entry(EntryError::Read(_)))));
    assert_eq!(engine.visible(), Version::ZERO);
}
