//! A transaction against a map: random writes, savepoints, reads and interleaved scans.
//!
//! The model applies every operation to a `BTreeMap` at once, copies it whole at each savepoint, and says by itself which
//! of a small universe of keys the transaction's reads must cover.

use super::{testing::snapshot_of, *};
use crate::types::{FullKey, Isolation, KeyRange, KeyspaceId};
use quickcheck::{Arbitrary, Gen, TestResult};
use std::collections::{BTreeMap, BTreeSet};

type Map = BTreeMap<FullKey, Vec<u8>>;

/// A short key over a small alphabet: any two of them often meet.
#[derive(Clone, Debug)]
struct Key(FullKey);

fn universe() -> Vec<FullKey> {
    let tails = |a: u8| (b'a'..b'e').map(move |b| vec![a, b]).chain([vec![a]]);
    let mut keys: Vec<FullKey> = (b'a'..b'e').flat_map(tails).map(|key| KeyspaceId(1).full_key(&key)).collect();
    keys.push(KeyspaceId(1).full_key(b""));
    keys.sort();
    keys
}

impl Arbitrary for Key {
    fn arbitrary(g: &mut Gen) -> Key {
        Key(g.choose(&universe()).expect("it is not empty").clone())
    }
}

#[derive(Clone, Debug)]
enum Act {
    Put(Key, Vec<u8>),
    Delete(Key),
    Atomic(u8, Key, Vec<u8>),
    Get(Key),
    Savepoint(u8),
    RollbackTo(u8),
    BeginScan { from: Key, to: Key, reverse: bool },
    StepScan { which: u8, examined_max: u8, rows: u8, stop_before: bool },
    Count(Key, Key),
    DeleteRange(Key, Key),
}

impl Arbitrary for Act {
    fn arbitrary(g: &mut Gen) -> Act {
        let any = |g: &mut Gen| u8::arbitrary(g);
        let key = |g: &mut Gen| Key::arbitrary(g);
        let value = |g: &mut Gen| (0..any(g) % 12).map(|_| any(g) % 3).collect::<Vec<u8>>();
        match any(g) % 24 {
            0..4 => Act::Put(key(g), value(g)),
            4..6 => Act::Delete(key(g)),
            6..11 => Act::Atomic(any(g) % 10, key(g), value(g)),
            11..13 => Act::Get(key(g)),
            13 => Act::Savepoint(any(g) % 3),
            14 => Act::RollbackTo(any(g) % 3),
            15..17 => Act::BeginScan { from: key(g), to: key(g), reverse: bool::arbitrary(g) },
            17..22 => Act::StepScan {
                which: any(g),
                examined_max: 1 + any(g) % 6,
                rows: any(g) % 6,
                stop_before: bool::arbitrary(g),
            },
            22 => Act::Count(key(g), key(g)),
            _ => Act::DeleteRange(key(g), key(g)),
        }
    }
}

/// What the transaction must look like.
#[derive(Clone, Default)]
struct View {
    rows: Map,
    /// Keys that were written, and whether that alone decides their value.
    written: BTreeMap<FullKey, bool>,
    atomics: u32,
}

struct ScanModel {
    scan: TransactionScan,
    /// Keys still to be passed, in the scan's order, with what is seen there.
    ahead: Vec<(FullKey, Option<Vec<u8>>)>,
    /// Keys of the universe that no step has told, in the scan's order.
    untold: Vec<FullKey>,
}

struct Harness {
    transaction: Transaction,
    stored: Map,
    view: View,
    savepoints: Vec<(u8, View)>,
    read: BTreeSet<FullKey>,
    scans: Vec<ScanModel>,
}

fn range(from: &Key, to: &Key) -> KeyRange {
    KeyRange { start: from.0.clone(), end: to.0.clone() }
}

impl Harness {
    fn new(stored: Map, isolation: Isolation) -> Harness {
        let snapshot = snapshot_of(stored.iter().map(|(key, value)| (&key[..], &value[..])));
        Harness {
            transaction: Transaction::new(snapshot, isolation),
            view: View { rows: stored.clone(), ..View::default() },
            stored,
            savepoints: Vec::new(),
            read: BTreeSet::new(),
            scans: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), TransactionError> {
        match act {
            Act::Put(key, value) => {
                self.transaction.put(&key.0, value)?;
                self.view.rows.insert(key.0.clone(), value.clone());
                self.view.written.insert(key.0.clone(), true);
            }
            Act::Delete(key) => {
                self.transaction.delete(&key.0)?;
                self.delete(&key.0);
            }
            Act::Atomic(op, key, operand) => {
                let op = AtomicOp::ALL[usize::from(*op)];
                self.transaction.atomic(op, &key.0, operand)?;
                apply_atomic(&mut self.view.rows, op, &key.0, operand);
                self.view.written.entry(key.0.clone()).or_insert(false);
                self.view.atomics += 1;
            }
            Act::Get(key) => {
                let got = self.transaction.get(ReadKind::User, &key.0, |row| row.map(|row| row.value.to_vec()))?;
                assert_eq!(got.as_ref(), self.view.rows.get(&key.0), "get {key:?}");
                if self.view.written.get(&key.0) != Some(&true) {
                    self.read.insert(key.0.clone());
                }
            }
            Act::Savepoint(name) => {
                self.transaction.savepoint(&[*name])?;
                self.savepoints.push((*name, self.view.clone()));
            }
            Act::RollbackTo(name) => {
                let at = self.savepoints.iter().rposition(|(other, _)| other == name);
                let rolled = self.transaction.rollback_to(&[*name]);
                assert_eq!(rolled.is_ok(), at.is_some());
                if let Some(at) = at {
                    self.savepoints.truncate(at + 1);
                    self.view = self.savepoints[at].1.clone();
                }
            }
            Act::BeginScan { from, to, reverse } => self.begin_scan(&range(from, to), *reverse)?,
            Act::StepScan { which, examined_max, rows, stop_before } => {
                if let Some(which) = usize::from(*which).checked_rem(self.scans.len()) {
                    self.step_scan(which, usize::from(*examined_max), usize::from(*rows), *stop_before)?;
                }
            }
            Act::Count(from, to) => {
                let range = range(from, to);
                let count = self.transaction.count(ReadKind::User, &range)?;
                assert_eq!(count, self.view.rows.keys().filter(|key| range.contains(key)).count() as u64);
                self.read_all(&range);
            }
            Act::DeleteRange(from, to) => {
                let range = range(from, to);
                let deleted = self.transaction.delete_range(ReadKind::User, &range)?;
                let keys: Vec<FullKey> = self.view.rows.keys().filter(|key| range.contains(key)).cloned().collect();
                assert_eq!(deleted, keys.len() as u64);
                keys.iter().for_each(|key| self.delete(key));
                self.read_all(&range);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &FullKey) {
        self.view.rows.remove(key);
        self.view.written.insert(key.clone(), true);
    }

    fn read_all(&mut self, range: &KeyRange) {
        self.read.extend(universe().into_iter().filter(|key| range.contains(key)));
    }

    fn begin_scan(&mut self, range: &KeyRange, reverse: bool) -> Result<(), TransactionError> {
        let keys: BTreeSet<&FullKey> = self.stored.keys().chain(self.view.written.keys()).collect();
        let keys = keys.into_iter().filter(|key| range.contains(key));
        let mut ahead: Vec<_> = keys.map(|key| (key.clone(), self.view.rows.get(key).cloned())).collect();
        let mut untold: Vec<_> = universe().into_iter().filter(|key| range.contains(key)).collect();
        if reverse {
            ahead.reverse();
            untold.reverse();
        }
        let scan = self.transaction.scan(range, reverse)?;
        assert_eq!((scan.is_reverse(), scan.remaining()), (reverse, range));
        self.scans.push(ScanModel { scan, ahead, untold });
        Ok(())
    }

    fn step_scan(
        &mut self,
        which: usize,
        examined_max: usize,
        rows_max: usize,
        stop_before: bool,
    ) -> Result<(), TransactionError> {
        let ScanModel { scan, ahead, untold } = &mut self.scans[which];
        let mut rows = Vec::new();
        let step = scan.step(examined_max, &mut |key, row| {
            if stop_before && rows.len() == rows_max {
                return Visit::StopBefore;
            }
            rows.push((FullKey::copy_from_slice(key), Some(row.value.to_vec())));
            if rows.len() > rows_max { Visit::StopAfter } else { Visit::Continue }
        })?;
        let passed: Vec<_> = ahead.drain(..step.examined).collect();
        let seen: Vec<_> = passed.iter().filter(|(_, value)| value.is_some()).cloned().collect();
        assert_eq!(rows, seen);
        assert!(step.examined <= examined_max);
        assert!(!step.exhausted || ahead.is_empty());
        assert_eq!(step.exhausted, scan.is_exhausted());
        let told = match (step.exhausted, passed.last()) {
            (true, _) => untold.len(),
            (false, Some((last, _))) => untold.iter().position(|key| key == last).map_or(0, |at| at + 1),
            (false, None) => 0,
        };
        let told: Vec<FullKey> = untold.drain(..told).collect();
        for key in universe() {
            assert_eq!(step.told.contains(&key), told.contains(&key), "{key:?} in {:?}", step.told);
            assert_eq!(scan.remaining().contains(&key), untold.contains(&key));
        }
        self.read.extend(told);
        self.transaction.told(ReadKind::User, step.told)
    }

    fn commit(self) -> Result<(), TransactionError> {
        let commit = self.transaction.into_commit()?;
        let mut after = self.stored;
        let mut atomics = 0;
        for mutation in Mutations::new(&commit.body) {
            match mutation? {
                Mutation::Put { key, value } => {
                    after.insert(FullKey::copy_from_slice(key), value.to_vec());
                }
                Mutation::Delete { key } => {
                    after.remove(key);
                }
                Mutation::Atomic { op, key, operand } => {
                    apply_atomic(&mut after, op, &FullKey::copy_from_slice(key), operand);
                    atomics += 1;
                }
            }
        }
        assert_eq!(after, self.view.rows, "what is committed is what was seen");
        assert_eq!((commit.atomics, commit.mutations as usize), (atomics, Mutations::new(&commit.body).count()));
        assert_eq!(atomics, self.view.atomics);
        let covered = |key: &FullKey| commit.points.contains(key) || commit.ranges.iter().any(|r| r.contains(key));
        for key in universe() {
            let expected = match commit.isolation {
                Isolation::Serializable => self.read.contains(&key),
                Isolation::Snapshot => self.view.written.contains_key(&key),
            };
            assert_eq!(covered(&key), expected, "{key:?} read");
        }
        Ok(())
    }
}

fn apply_atomic(rows: &mut Map, op: AtomicOp, key: &FullKey, operand: &[u8]) {
    match evaluate(op, rows.get(key).map(|value| &value[..]), operand).change {
        Change::Unchanged => {}
        Change::Set(value) => {
            rows.insert(key.clone(), value.to_vec());
        }
        Change::Delete => {
            rows.remove(key);
        }
    }
}

#[test]
fn a_transaction_sees_tells_and_commits_what_a_map_does() {
    fn check(stored: Vec<(Key, Vec<u8>)>, acts: Vec<Act>, snapshot: bool) -> TestResult {
        let stored = stored.into_iter().take(12).map(|(key, value)| (key.0, value)).collect();
        let isolation = if snapshot { Isolation::Snapshot } else { Isolation::Serializable };
        let mut harness = Harness::new(stored, isolation);
        let run = acts.iter().try_for_each(|act| harness.act(act));
        match run.and_then(|()| harness.commit()) {
            Ok(()) => TestResult::passed(),
            Err(error) => TestResult::error(error.to_string()),
        }
    }
    quickcheck::QuickCheck::new()
        .rng(Gen::new(120))
        .tests(2_000)
        .quickcheck(check as fn(Vec<(Key, Vec<u8>)>, Vec<Act>, bool) -> _);
}
