//! One behaviour at a time.

use super::*;
use crate::{
    storage::Snapshot,
    testing::{
        base::{BaseCall, BaseFailure},
        generators::Random,
    },
};

fn put(log: &mut Log, engine: &DurableEngine, name: &str, value: &[u8]) {
    log.push(vec![vec![(key(name), Some(value.to_vec()))]], None).apply(engine).unwrap();
}

fn delete(log: &mut Log, engine: &DurableEngine, name: &str) {
    log.push(vec![vec![(key(name), None)]], None).apply(engine).unwrap();
}

fn open(directory: &TemporaryDirectory) -> DurableEngine {
    DurableEngine::open(&Env::real(), directory.path(), small()).unwrap()
}

#[test]
fn the_example_of_the_module_doc_holds() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = over(&base);
    for version in 1..=8 {
        put(&mut log, &engine, if version == 3 || version == 7 { "a" } else { "b" }, &[version]);
    }
    let pin = engine.pin_at(Version(5)).unwrap();
    engine.persist().unwrap();
    put(&mut log, &engine, "a", &[9]);
    assert_eq!(get(&engine, &key("a")), Some((9, vec![9])));
    assert_eq!(get_at(&engine, &pin, &key("a")), Some((3, vec![3])));
    let at_8 = engine.pin_at(Version(8)).unwrap();
    assert_eq!(get_at(&engine, &at_8, &key("a")), Some((7, vec![7])));
    assert_eq!(engine.pin_at(Version(7)).err(), Some(Error::Gone { asked: Version(7), horizon: Version(8) }));
    let of_a: Vec<_> =
        base.contents().into_iter().filter(|(found, ..)| found[..] == key("a")).map(|row| row.1.0).collect();
    assert_eq!(of_a, [7, 3], "what the pin needs is stored, and nothing else");
}

#[test]
fn closing_tells_of_a_read_that_failed_before() {
    let (directory, mut log) = (TemporaryDirectory::new("durable"), Log::default());
    let engine = open(&directory);
    // Many blocks: those that opening reads are not all.
    let mut random = Random::new(1);
    let values: Vec<Vec<u8>> = (0..200).map(|_| (0..1_000).map(|_| random.bits() as u8).collect()).collect();
    values.iter().enumerate().for_each(|(row, value)| put(&mut log, &engine, &format!("k{row:03}"), value));
    engine.persist().unwrap();
    engine.close().unwrap();
    engine.close().unwrap();
    drop(engine);
    let table = std::fs::read_dir(directory.path().join("tables")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&table).unwrap();
    let at = bytes.windows(16).position(|window| window == &values[100][..16]).expect("it cannot be compressed");
    bytes[at] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let engine = open(&directory);
    assert!(matches!(engine.get_latest(&[&key("k100")], &mut |_, _, _| ()), Err(Error::Failed(_))));
    let told = engine.close();
    assert!(matches!(&told, Err(Error::Failed(why)) if why.contains("cannot be read")), "{told:?}");
}

#[test]
fn a_closed_engine_opens_where_it_was_persisted() {
    let (directory, mut log) = (TemporaryDirectory::new("durable"), Log::default());
    let engine = open(&directory);
    assert_eq!(engine.stored(), Applied::default());
    put(&mut log, &engine, "a", b"1");
    log.push(vec![], Some(Bytes::from_static(b"members"))).apply(&engine).unwrap();
    engine.persist().unwrap();
    put(&mut log, &engine, "b", b"2");
    assert_eq!(engine.stored(), log.entries[1].applied);
    engine.close().unwrap();
    assert!(matches!(engine.maintain(), Err(Error::Failed(_))));
    assert!(matches!(engine.persist(), Err(Error::Failed(_))));
    assert!(matches!(engine.pin_at(Version(1)), Err(Error::Failed(_))));
    assert!(matches!(engine.apply(&[], log.last()), Err(Error::Failed(_))));
    assert!(matches!(engine.get_latest(&[b"a"], &mut |_, _, _| ()), Err(Error::Failed(_))));
    let in_use = DurableEngine::open(&Env::real(), directory.path(), small()).err();
    assert!(matches!(in_use, Some(OpenError::InUse { .. })), "{in_use:?}");
    drop(engine);
    let engine = open(&directory);
    assert_eq!((engine.applied(), engine.stored()), (log.entries[1].applied, log.entries[1].applied));
    assert_eq!((engine.membership(), engine.stored_membership()), (Bytes::from("members"), Bytes::from("members")));
    assert_eq!(engine.visible(), Version(1));
    assert_eq!((get(&engine, &key("a")), get(&engine, &key("b"))), (Some((1, b"1".to_vec())), None));
    assert_eq!(engine.pin_at(Version(2)).err(), Some(Error::Ahead { asked: Version(2), visible: Version(1) }));
    assert_eq!(engine.pin_at(Version(0)).err(), Some(Error::Gone { asked: Version(0), horizon: Version(1) }));
}

#[test]
fn a_deletion_of_what_only_the_base_has_is_remembered() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = over(&base);
    put(&mut log, &engine, "a", b"1");
    put(&mut log, &engine, "b", b"2");
    engine.persist().unwrap();
    let before = engine.pin();
    delete(&mut log, &engine, "a");
    // Trimmed before it is stored: the tombstone must outlive that.
    while engine.trim(engine.visible()) {}
    assert_eq!(get(&engine, &key("a")), None);
    assert_eq!(scan(&engine, &engine.pin(), &everything(), false, 9), [(key("b"), 2, b"2".to_vec())]);
    assert_eq!(get_at(&engine, &before, &key("a")), Some((1, b"1".to_vec())));
    engine.persist().unwrap();
    drop((before, engine));
    let engine = over(&base.crash());
    assert_eq!(get(&engine, &key("a")), None);
    maintain_all(&engine);
    assert_eq!(get(&engine, &key("a")), None);
}

#[test]
fn a_slice_is_flushed_when_it_is_full_and_its_history_outlived() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = over(&base);
    for i in 0..10 {
        put(&mut log, &engine, &format!("{i}"), &[1; 100]);
    }
    engine.trim(engine.visible());
    assert!(!engine.maintain().unwrap(), "less than a slice");
    for i in 10..40 {
        put(&mut log, &engine, &format!("{i}"), &[1; 100]);
    }
    let before = engine.visible();
    assert!(!engine.maintain().unwrap(), "somebody may still want what lies between");
    for i in 40..50 {
        put(&mut log, &engine, &format!("{i}"), &[1; 100]);
    }
    engine.trim(before);
    assert!(engine.maintain().unwrap());
    let stored = engine.stored();
    assert!(stored.version <= before && stored.version.0 > before.0 - 3, "{stored:?} and {before}");
    assert_eq!(stored, log.entries[stored.log_id.unwrap().index as usize].applied);
    assert_eq!(engine.state.get().chains.keys(), 50 - stored.version.0);
}

#[test]
fn cutting_stops_at_a_boundary_so_that_a_flush_can_end_there() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    // A boundary behind every third entry.
    let options = DurableOptions { slice_bytes: 64 * 400, ..small() };
    let engine = DurableEngine::over(&Env::real(), Box::new(base), options);
    (0..300).for_each(|i| put(&mut log, &engine, &format!("{}", i % 290), &[1; 105]));
    for target in 280..283 {
        engine.trim(Version(target));
        let horizon = engine.usage().horizon.0;
        assert!(horizon <= target && horizon + 4 > target && horizon.is_multiple_of(3), "{horizon} for {target}");
    }
    assert!(engine.maintain().unwrap());
    assert_eq!(engine.stored().version, engine.usage().horizon);
}

#[test]
fn what_is_old_is_flushed_however_little_it_is() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let options = DurableOptions { slice_age_max: Duration::ZERO, ..small() };
    let engine = DurableEngine::over(&Env::real(), Box::new(base), options);
    assert!(!engine.maintain().unwrap(), "nothing was applied");
    put(&mut log, &engine, "a", b"1");
    assert!(engine.maintain().unwrap());
    assert_eq!(engine.stored(), log.last());
    log.push(vec![], None).apply(&engine).unwrap();
    assert!(engine.maintain().unwrap(), "an entry without writes moves the marker");
    assert_eq!(engine.stored(), log.last());
    assert!(!engine.maintain().unwrap());
}

#[test]
fn writes_pause_while_memory_is_nearly_full_and_go_on_when_it_is_half_empty() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = over(&base);
    let mut i = 0;
    while engine.usage().pressure == Pressure::None {
        i += 1;
        put(&mut log, &engine, &format!("{i}"), &[1; 1000]);
        assert!(i < 2000, "{:?}", engine.usage());
    }
    assert_eq!(engine.usage().pressure, Pressure::Behind);
    let usage = engine.usage();
    assert!(usage.bytes > usage.bytes_max / 4 * 3 && usage.bytes < usage.bytes_max, "{usage:?}");
    // The collector gives back what was retired as soon as other tests' guards let it.
    for _ in 0..1_000_000 {
        engine.maintain().unwrap();
        if engine.usage().pressure == Pressure::None {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(engine.usage().pressure, Pressure::None);
    assert_eq!(engine.stored(), log.last(), "in a hurry history does not count");
    assert!(engine.usage().bytes < usage.bytes_max / 2);
}

#[test]
fn a_full_disk_stops_writes_and_loses_nothing_until_there_is_room() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let options = DurableOptions { reserve_bytes: 4_000, ..small() };
    let engine = DurableEngine::over(&Env::real(), Box::new(base.clone()), options);
    base.set_bytes_max(10_000);
    for i in 0..20 {
        put(&mut log, &engine, &format!("{i}"), &[1; 300]);
    }
    engine.persist().unwrap();
    put(&mut log, &engine, "later", &[1; 300]);
    engine.maintain().unwrap();
    let Pressure::DiskFull { available, reserve: 4_000 } = engine.usage().pressure else {
        panic!("{:?}", engine.usage())
    };
    assert!(available < 4_000);
    for i in 0..20 {
        put(&mut log, &engine, &format!("{i}"), &[2; 300]);
    }
    assert!(matches!(engine.persist(), Err(Error::Failed(_))), "it does not fit");
    assert_eq!(get(&engine, &key("later")).map(|row| row.0), Some(21));
    assert_eq!(get(&engine, &key("3")).map(|row| row.0), Some(25));
    assert!(!engine.maintain().unwrap());
    base.set_bytes_max(20_000);
    engine.maintain().unwrap();
    assert_eq!(engine.usage().pressure, Pressure::None);
    engine.persist().unwrap();
    assert_eq!(engine.stored(), log.last());
}

#[test]
fn a_base_that_cannot_be_read_ends_the_engine() {
    for call in [BaseCall::Get, BaseCall::Scan] {
        let (base, mut log) = (SimulatedBase::new(1), Log::default());
        let engine = over(&base);
        put(&mut log, &engine, "a", b"1");
        engine.persist().unwrap();
        let pin = engine.pin();
        base.fail(call, 1, BaseFailure::Refused);
        let failed = match call {
            BaseCall::Get => engine.get_latest(&[&key("a")], &mut |_, _, _| ()).map(|_| ()),
            _ => {
                engine.scan(&pin, Scan { range: &everything(), reverse: false }, &mut |_, _| ControlFlow::Continue(()))
            }
        };
        assert!(matches!(failed, Err(Error::Failed(_))));
        assert_eq!(engine.get_at(&pin, &[&key("a")], &mut |_, _| ()), failed);
        assert_eq!(engine.apply(&[], log.last()), failed);
    }
}

#[test]
fn keys_outside_of_all_keyspaces_are_refused() {
    let engine = over(&SimulatedBase::new(1));
    for key in [&b""[..], b"\0", b"\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xffa"] {
        let write = Write { version: Version(1), key, value: Some(b"x") };
        let applied = Applied { version: Version(1), ..Applied::default() };
        assert!(matches!(engine.apply(&[write], applied), Err(Error::Failed(_))), "{key:?}");
        assert_eq!(engine.visible(), Version::ZERO);
    }
}

#[test]
fn scans_merge_long_rows_and_many_from_both_sides() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let options = DurableOptions { memory_bytes_max: 1 << 30, ..small() };
    let engine = DurableEngine::over(&Env::real(), Box::new(base), options);
    let mut model = Model::default();
    let mut put = |engine: &DurableEngine, i: u32, length: usize| {
        let value = (length < 400_000 || i > 0).then(|| vec![i as u8; length]);
        let entry = log.push(vec![vec![(key(&format!("{i:05}")), value)]], None);
        entry.apply(engine).unwrap();
        model.apply(entry);
    };
    (0..3000).step_by(2).for_each(|i| put(&engine, i, 10));
    engine.persist().unwrap();
    // Every third in memory, some in both; some are longer than a window may copy.
    (0..3000).step_by(3).for_each(|i| put(&engine, i, if i % 60 == 0 { 400_000 } else { 20 }));
    let pin = engine.pin();
    for reverse in [false, true] {
        let rows = scan(&engine, &pin, &everything(), reverse, usize::MAX);
        assert!(rows == model.scan(&everything(), reverse, pin.version().0), "{} rows", rows.len());
        for (start, end) in [("00100", "00101"), ("00999", "02001"), ("02998", "9"), ("1", "0")] {
            let range = range(&key(start), &key(end));
            assert!(scan(&engine, &pin, &range, reverse, usize::MAX) == model.scan(&range, reverse, pin.version().0));
        }
    }
}

#[test]
fn a_snapshot_reads_through_both() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = over(&base);
    put(&mut log, &engine, "a", b"1");
    engine.persist().unwrap();
    put(&mut log, &engine, "b", b"2");
    assert!(format!("{engine:?}").contains("pressure"));
    assert_eq!(engine.usage().keys, 2);
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let snapshot = Snapshot::now(&engine);
    let mut rows = Vec::new();
    snapshot
        .get_many(&[&key("b"), &key("x"), &key("a")], &mut |i, row| rows.push((i, row.map(|row| row.version.0))))
        .unwrap();
    assert_eq!(rows, [(0, Some(2)), (1, None), (2, Some(1))]);
    // More keys than are read without a pin.
    let keys: Vec<_> = (0..100).map(|i| key(if i % 2 == 0 { "a" } else { "b" })).collect();
    let keys: Vec<_> = keys.iter().map(|key| &key[..]).collect();
    let mut sum = 0;
    engine.get_latest(&keys, &mut |_, _, row| sum += row.unwrap().version.0).unwrap();
    assert_eq!(sum, 150);
}

/// A hot key of a few bytes never fills a slice of memory, and its log is long all the same: nothing would let go of it until
/// the age of the last flush did.
#[test]
fn what_is_written_over_and_over_leaves_the_log() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let options = DurableOptions { memory_bytes_max: 1 << 30, slice_bytes: 1 << 20, ..small() };
    let engine = DurableEngine::over(&Env::real(), Box::new(base), options);
    let (value, of_slices) = ([7; 50_000], |slices: u64| slices * options.slice_bytes / 50_000);
    for _ in 0..of_slices(20) {
        put(&mut log, &engine, "hot", &value);
        let visible = engine.visible();
        engine.trim(visible);
        maintain_all(&engine);
    }
    let behind = engine.visible().0 - engine.stored().version.0;
    assert!(behind <= of_slices(9), "{behind} entries are only in the log");
}

/// Lets an engine follow a log that has nothing on disk; gives who says otherwise.
fn follow(engine: &DurableEngine) -> impl Fn(Option<LogId>) + use<> {
    let end: Arc<Mutex<Option<LogId>>> = Arc::default();
    let asked = Arc::clone(&end);
    engine.follow_log(Box::new(move || *asked.lock()));
    move |durable| *end.lock() = durable
}

/// An entry that others have can be applied before this machine's own log has it.
#[test]
fn nothing_is_stored_that_the_log_may_lose() {
    for seed in 1..30 {
        let (base, mut log, mut model) = (SimulatedBase::new(seed), Log::default(), Model::default());
        let mut random = Random::new(seed);
        // Boundaries behind every entry, or behind many.
        let options = DurableOptions { slice_bytes: [256, 64 << 10][seed as usize % 2], ..small() };
        let engine = DurableEngine::over(&Env::real(), Box::new(base.clone()), options);
        let set_durable = follow(&engine);
        let mut durable = 0;
        for _ in 0..100 {
            match random.below(8) {
                0..4 => {
                    let commits = random.below(2);
                    let writes = vec![(key(&format!("{}", random.below(9))), Some(vec![7; 90]))];
                    model.apply(log.push(vec![writes; commits as usize], None));
                    log.entries.last().unwrap().apply(&engine).unwrap();
                }
                4 => {
                    let unsynced = log.entries.len() as u64 - durable;
                    durable += random.below(unsynced + 1);
                    set_durable(durable.checked_sub(1).map(log_id));
                }
                5 => drop(engine.trim(Version(engine.visible().0.saturating_sub(random.below(5))))),
                6 => drop(engine.maintain().unwrap()),
                _ => engine.persist().unwrap(),
            }
            let stored = engine.stored();
            assert!(stored.log_id <= durable.checked_sub(1).map(log_id), "{stored:?}, durable below {durable}");
            let rows = scan(&engine, &engine.pin(), &everything(), false, usize::MAX);
            assert_eq!(rows, model.scan(&everything(), false, engine.visible().0));
        }
        let stored = engine.stored();
        drop(engine);
        let engine = over(&base.crash());
        assert_eq!(engine.stored(), stored);
        let rows = scan(&engine, &engine.pin(), &everything(), false, usize::MAX);
        assert_eq!(rows, model.scan(&everything(), false, stored.version.0));
        log.after(stored).iter().for_each(|entry| entry.apply(&engine).unwrap());
        engine.persist().unwrap();
        assert_eq!(engine.stored(), log.last());
    }
}

/// Trimming stops where a flush can still end: a log that is always a little behind holds no flush up.
#[test]
fn a_log_that_lags_behind_holds_no_flush_up() {
    let (base, mut log) = (SimulatedBase::new(1), Log::default());
    let engine = DurableEngine::over(&Env::real(), Box::new(base), DurableOptions { slice_bytes: 1024, ..small() });
    let set_durable = follow(&engine);
    for i in 0..500 {
        put(&mut log, &engine, "hot", &[7; 100]);
        set_durable((i >= 3_u64).then(|| log_id(i - 3)));
        engine.trim(engine.visible());
        engine.persist().unwrap();
        assert!(engine.stored().version.0 + 4 >= engine.visible().0, "{:?} at {i}", engine.stored());
    }
}
