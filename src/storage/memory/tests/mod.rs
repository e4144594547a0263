//! The memory engine against a model, in one thread and in several.

#![allow(clippy::unwrap_used)]

mod eviction;
mod growth;
mod model;
mod threads;

use super::{order::ORDER_KEY_BYTES_MAX, *};
use crate::types::{KeyRange, LogId, NodeId, Term};

pub(super) fn engine() -> MemoryEngine {
    MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed: 7 })
}

/// An engine that keeps only these bits of a key's hash.
pub(super) fn engine_with_hash_bits(mask: u64) -> MemoryEngine {
    let engine = engine();
    engine.state.get().chains.table.hash_mask.store(mask, Ordering::Relaxed);
    engine
}

pub(super) fn log_id(index: u64) -> LogId {
    LogId { term: Term(2), leader: NodeId(1), index }
}

fn apply(engine: &MemoryEngine, version: u64, writes: &[(&[u8], Option<&[u8]>)]) {
    let version = Version(version);
    let writes: Vec<_> = writes.iter().map(|&(key, value)| Write { version, key, value }).collect();
    engine.apply(&writes, Applied { version, ..Applied::default() }).unwrap();
}

pub(super) fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { start: start.to_vec().into(), end: end.to_vec().into() }
}

type Rows = Vec<(Vec<u8>, u64, Vec<u8>)>;

pub(super) fn scan(engine: &MemoryEngine, pin: &Pin, range: &KeyRange, reverse: bool, max: usize) -> Rows {
    let mut rows = Vec::new();
    let mut each = |key: &[u8], row: Row<'_>| {
        rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
        if rows.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    engine.scan(pin, Scan { range, reverse }, &mut each).unwrap();
    rows
}

pub(super) fn get(engine: &MemoryEngine, key: &[u8]) -> Option<(u64, Vec<u8>)> {
    let mut result = None;
    engine.get_latest(&[key], &mut |_, _, row| result = row.map(|row| (row.version.0, row.value.to_vec()))).unwrap();
    result
}

/// Trims all below `target`, and until what was retired has been freed.
pub(super) fn trim_all(engine: &MemoryEngine, target: u64) {
    // Other tests' guards hold the collector up, but not for long.
    for _ in 0..1_000_000 {
        if !engine.trim(Version(target)) && engine.usage().history_bytes == 0 {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{:?} is left", engine.usage());
}

#[test]
fn the_table_of_the_module_doc_holds() {
    let engine = engine();
    apply(&engine, 3, &[(b"a", Some(b"v3"))]);
    apply(&engine, 7, &[(b"a", Some(b"v7"))]);
    apply(&engine, 9, &[(b"a", None)]);
    let read = |version| {
        let pin = engine.pin_at(Version(version)).unwrap();
        let mut result = None;
        engine.get_at(&pin, &[b"a"], &mut |_, row| result = row.map(|row| row.value.to_vec())).unwrap();
        result
    };
    assert_eq!(
        [2, 3, 6, 7, 8, 9].map(read),
        [None, Some(b"v3".to_vec()), Some(b"v3".to_vec()), Some(b"v7".to_vec()), Some(b"v7".to_vec()), None]
    );
    assert!(!engine.trim(Version(8)));
    assert_eq!(engine.pin_at(Version(7)).err(), Some(Error::Gone { asked: Version(7), horizon: Version(8) }));
    assert_eq!(read(8), Some(b"v7".to_vec()));
    assert_eq!(engine.pin_at(Version(10)).err(), Some(Error::Ahead { asked: Version(10), visible: Version(9) }));
    assert!(engine.usage().history_bytes > 0);
    trim_all(&engine, 9);
    let usage = engine.usage();
    assert_eq!((usage.keys, usage.history_bytes, usage.horizon), (0, 0, Version(9)));
    assert!(engine.state.get().chains.order.read().is_empty());
}

#[test]
fn a_pin_keeps_its_version_while_the_writer_trims() {
    let engine = engine();
    apply(&engine, 1, &[(b"a", Some(b"1")), (b"b", Some(b"1"))]);
    let pin = engine.pin();
    apply(&engine, 2, &[(b"a", Some(b"2")), (b"b", None)]);
    apply(&engine, 3, &[(b"a", None), (b"c", Some(b"3"))]);
    engine.trim(Version(3));
    assert_eq!(engine.usage().horizon, Version(1));
    assert_eq!(engine.usage().oldest_pin, Version(1));
    let all = range(b"", b"\xff");
    let rows = |reverse| scan(&engine, &pin, &all, reverse, usize::MAX);
    assert_eq!(rows(false), [(b"a".to_vec(), 1, b"1".to_vec()), (b"b".to_vec(), 1, b"1".to_vec())]);
    assert_eq!(rows(true), [(b"b".to_vec(), 1, b"1".to_vec()), (b"a".to_vec(), 1, b"1".to_vec())]);
    drop(pin);
    trim_all(&engine, 3);
    assert_eq!(engine.usage().oldest_pin, Version(3));
    assert_eq!(scan(&engine, &engine.pin(), &all, false, usize::MAX), [(b"c".to_vec(), 3, b"3".to_vec())]);
}

#[test]
fn the_marker_moves_with_the_visible_version() {
    let engine = engine();
    let applied = Applied { log_id: Some(log_id(9)), version: Version(4), chain: 5, ..Applied::default() };
    engine.apply(&[], applied).unwrap();
    assert_eq!((engine.applied(), engine.visible()), (applied, Version(4)));
    let later = Applied { log_id: Some(log_id(10)), ..applied };
    engine.apply(&[], later).unwrap();
    assert_eq!(engine.applied(), later);
}

#[test]
fn what_breaks_the_order_of_versions_is_refused_and_changes_nothing() {
    let engine = engine();
    apply(&engine, 5, &[(b"a", Some(b"5"))]);
    let write = |version| Write { version: Version(version), key: b"a", value: Some(b"x") };
    let marker = |version| Applied { version: Version(version), ..Applied::default() };
    for (writes, applied) in
        [(vec![write(5)], 5), (vec![write(7), write(6)], 7), (vec![write(7)], 6), (vec![write(4)], 9), (vec![], 4)]
    {
        assert!(matches!(engine.apply(&writes, marker(applied)), Err(Error::Failed(_))), "{writes:?} {applied}");
        assert_eq!(get(&engine, b"a"), Some((5, b"5".to_vec())));
        assert_eq!(engine.visible(), Version(5));
    }
    let long = vec![0; ORDER_KEY_BYTES_MAX + 1];
    let write = Write { version: Version(6), key: &long, value: None };
    assert!(matches!(engine.apply(&[write], marker(6)), Err(Error::Failed(_))));
}

#[test]
fn a_pair_of_key_and_version_written_twice_ends_the_engine() {
    let engine = engine();
    let write = Write { version: Version(1), key: b"a", value: Some(b"x") };
    let applied = Applied { version: Version(1), ..Applied::default() };
    assert!(matches!(engine.apply(&[write, write], applied), Err(Error::Failed(_))));
    assert!(matches!(engine.get_latest(&[b"a"], &mut |_, _, _| ()), Err(Error::Failed(_))));
    assert_eq!(engine.visible(), Version::ZERO);
}

#[test]
fn after_close_everything_fails() {
    let engine = engine();
    apply(&engine, 1, &[(b"a", Some(b"1"))]);
    let pin = engine.pin();
    engine.persist().unwrap();
    engine.close().unwrap();
    let failed = Error::Failed("the engine was closed".into());
    assert_eq!(engine.get_latest(&[b"a"], &mut |_, _, _| ()).err(), Some(failed.clone()));
    assert_eq!(engine.get_at(&pin, &[b"a"], &mut |_, _| ()).err(), Some(failed.clone()));
    let all = range(b"", b"z");
    let scan = engine.scan(&pin, Scan { range: &all, reverse: false }, &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(scan.err(), Some(failed.clone()));
    assert_eq!(engine.pin_at(Version(1)).err(), Some(failed.clone()));
    assert_eq!(engine.apply(&[], Applied::default()).err(), Some(failed.clone()));
    assert_eq!(engine.persist().err(), Some(failed));
}

#[test]
fn dropping_the_engine_frees_all_that_was_counted() {
    // The collector that all engines of a process share keeps a little of its own for ever, so Miri's leak check cannot
    // be on; instead, every byte counted when it was allocated must be counted again when it is freed.
    let engine = engine();
    let counters = Arc::clone(&engine.state.get().chains.counters);
    let keys = if cfg!(miri) { 30 } else { 3_000 };
    let key = |i: u64| (i * 7919 % keys).to_be_bytes();
    for i in 0..keys * 2 {
        let value = if i % 5 == 0 { None } else { Some(&b"value"[..]) };
        apply(&engine, i + 1, &[(&key(i), value)]);
        if i % 3 == 0 {
            engine.trim(Version(i / 2));
        }
    }
    assert!(engine.usage().history_bytes > 0);
    drop(engine);
    while counters.bytes() > 0 {
        crossbeam_epoch::pin().flush();
        std::thread::yield_now();
    }
}

#[test]
#[should_panic(expected = "a pin of another engine")]
fn a_pin_of_another_engine_is_a_bug() {
    let _ = engine().get_at(&engine().pin(), &[b"a"], &mut |_, _| ());
}

#[test]
fn a_snapshot_reads_through_its_pin() {
    let engine = engine();
    apply(&engine, 1, &[(b"a", Some(b"1")), (b"b", Some(b""))]);
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let snapshot = crate::storage::Snapshot::now(&engine);
    assert_eq!(snapshot.version(), Version(1));
    assert_eq!(snapshot.get(b"a", |row| row.map(|row| row.value.to_vec())), Ok(Some(b"1".to_vec())));
    let mut rows = Vec::new();
    snapshot.get_many(&[b"b", b"x"], &mut |i, row| rows.push((i, row.map(|row| row.value.len())))).unwrap();
    assert_eq!(rows, [(0, Some(0)), (1, None)]);
    let mut keys = Vec::new();
    let mut each = |key: &[u8], _: Row<'_>| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    };
    snapshot.scan(&range(b"a", b"b"), false, &mut each).unwrap();
    assert_eq!(keys, [b"a"]);
    assert!(crate::storage::Snapshot::at(&engine, Version(2)).is_err());
}
