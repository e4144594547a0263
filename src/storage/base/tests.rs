//! The base on disk: what it keeps, what it forgets, and what it refuses.

#![allow(clippy::unwrap_used)]

mod spaces;

use super::*;
use crate::{env::Env, testing::directory::TemporaryDirectory};
use std::fs;

const SMALL: LsmOptions = LsmOptions { block_cache_bytes: 16 * 1024, table_bytes: 4 * 1024 };

fn open(directory: &TemporaryDirectory) -> LsmBase {
    LsmBase::open(&Env::real(), directory.path(), SMALL).unwrap()
}

fn marker(sequence: u64, version: u64) -> Marker {
    let mut marker = Marker { sequence, ..Marker::default() };
    marker.applied.version = Version(version);
    marker
}

fn key(i: u64) -> Vec<u8> {
    [&b"\0\0\0\x01"[..], &i.to_be_bytes()].concat()
}

fn run(base: &LsmBase, rows: Vec<RunRow>, marker: &Marker) -> Result<(), BaseError> {
    base.write_run(&mut rows.into_iter().map(Ok), marker)
}

/// A run in which every key below 50 has this version, and the marker goes with it.
fn write_version(base: &LsmBase, version: u64) {
    let rows = (0..50).map(|i| RunRow::new(&key(i), Version(version), Some(&[version as u8; 30]))).collect();
    run(base, rows, &marker(version, version)).unwrap();
}

fn version_at(base: &LsmBase, at: u64) -> Option<u64> {
    let row = base.get(&key(7), Version(at)).unwrap()?;
    assert_eq!(row.value(), [row.version.0 as u8; 30]);
    Some(row.version.0)
}

fn table_files(directory: &TemporaryDirectory) -> usize {
    fs::read_dir(directory.path().join("tables")).unwrap().count()
}

#[test]
fn merging_keeps_every_version_that_may_not_be_forgotten() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    for version in 1..=20 {
        write_version(&base, version * 10);
        while base.compact(None).unwrap() {}
    }
    let check = |base: &LsmBase| {
        for at in 0..220 {
            assert_eq!(version_at(base, at), (at >= 10).then_some(at.min(200) / 10 * 10), "at {at}");
        }
    };
    check(&base);
    drop(base);
    let base = open(&directory);
    check(&base);
    let rows = base.usage().rows;
    // Merges come only with new runs.
    for version in 21..=40 {
        write_version(&base, version * 10);
        while base.compact(Some(Version(version * 10 + 1))).unwrap() {}
    }
    assert_eq!(version_at(&base, 400), Some(400));
    assert!(base.usage().rows < rows, "{:?}", base.usage());
    assert_eq!(base.marker(), Some(marker(400, 400)));
}

#[test]
fn a_merge_that_forgets_leaves_the_numbers_of_what_it_keeps() {
    // Were the number of an old row set to zero, a later merge for a pinned reader would take it for forgettable.
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    for version in 1..=12 {
        write_version(&base, version);
        while base.compact(Some(Version(version + 1))).unwrap() {}
    }
    let kept = version_at(&base, 12).unwrap();
    assert_eq!(version_at(&base, 0), None, "a row below its own version is not seen");
    for version in 20..=32 {
        write_version(&base, version);
        while base.compact(None).unwrap() {}
    }
    assert_eq!(version_at(&base, 19), Some(kept));
}

#[test]
fn old_states_of_the_manifest_go_although_nothing_may_be_forgotten() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    for version in 1..=30 {
        write_version(&base, version);
        let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let manifests = names.filter(|name| name.to_string_lossy().starts_with('v')).count();
        assert!(manifests <= 2, "{manifests} after {version} runs");
        while base.compact(None).unwrap() {}
    }
}

#[test]
fn the_later_of_two_markers_at_one_version_is_found() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    for sequence in 1..=9 {
        let mut marker = marker(sequence, 5);
        marker.membership = Bytes::from(vec![sequence as u8]);
        run(&base, Vec::new(), &marker).unwrap();
        while base.compact(Some(Version(6))).unwrap() {}
    }
    drop(base);
    assert_eq!(open(&directory).marker().unwrap().membership, Bytes::from(vec![9]));
}

#[test]
fn a_run_that_breaks_off_leaves_nothing() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    write_version(&base, 1);
    let tables = table_files(&directory);
    for error in [BaseError::NoSpace("as planned".into()), BaseError::Failed("as planned".into())] {
        let rows = (0..5_000).map(|i| Ok(RunRow::new(&key(i), Version(2), Some(&[2; 100]))));
        let mut rows = rows.chain([Err(error.clone())]);
        assert_eq!(base.write_run(&mut rows, &marker(2, 2)), Err(error));
        assert_eq!(table_files(&directory), tables);
        assert_eq!((base.marker(), version_at(&base, 9)), (Some(marker(1, 1)), Some(1)));
    }
    write_version(&base, 2);
    drop(base);
    let base = open(&directory);
    assert_eq!((base.marker(), version_at(&base, 9)), (Some(marker(2, 2)), Some(2)));
}

#[test]
fn a_run_whose_rows_are_out_of_order_is_refused() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    let row = |i, version| RunRow::new(&key(i), Version(version), None);
    for rows in [vec![row(2, 1), row(1, 1)], vec![row(1, 1), row(1, 2)], vec![row(1, 1), row(1, 1)]] {
        assert!(matches!(run(&base, rows, &marker(1, 2)), Err(BaseError::Failed(_))));
    }
    let short = RunRow::new(b"\0\0", Version(1), Some(b"x"));
    assert!(matches!(run(&base, vec![short], &marker(1, 2)), Err(BaseError::Failed(_))));
    assert_eq!(base.marker(), None);
}

#[test]
fn scans_go_both_ways_and_see_deletions() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    write_version(&base, 1);
    run(&base, (0..50).step_by(2).map(|i| RunRow::new(&key(i), Version(2), None)).collect(), &marker(2, 2)).unwrap();
    let range = KeyRange { start: key(10).into(), end: key(15).into() };
    let keys = |reverse: bool, at: u64, max: usize| {
        let mut keys = Vec::new();
        let mut each = |key: &[u8], version: Version, _: &[u8]| {
            assert_eq!(version, Version(1));
            keys.push(u64::from(key[11]));
            if keys.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        base.scan(&range, reverse, Version(at), &mut each).unwrap();
        keys
    };
    assert_eq!(keys(false, 2, 9), [11, 13]);
    assert_eq!(keys(true, 2, 9), [13, 11]);
    assert_eq!(keys(true, 1, 3), [14, 13, 12]);
    assert_eq!(base.get(&key(10), Version(2)), Ok(None));
    assert!(base.usage().disk_bytes > 0 && base.available().unwrap() > 0);
    assert!(format!("{base:?}").contains("directory"));
}

#[test]
fn a_base_whose_pointer_is_gone_is_not_taken_for_an_empty_one() {
    let directory = TemporaryDirectory::new("base");
    write_version(&open(&directory), 1);
    let current = directory.path().join("current");
    let bytes = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    let refused = |what: &str| {
        let error = LsmBase::open(&Env::real(), directory.path(), SMALL).unwrap_err();
        let OpenError::Damaged { path, .. } = &error else { panic!("{error}") };
        assert!(path.ends_with(what), "{error}");
    };
    refused("current");
    fs::write(&current, &bytes[..24]).unwrap();
    refused("current");
    let mut other = bytes.clone();
    other[0] ^= 64;
    fs::write(&current, &other).unwrap();
    refused("current");
    fs::write(&current, &bytes).unwrap();
    let table = fs::read_dir(directory.path().join("tables")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(table).unwrap();
    assert!(matches!(LsmBase::open(&Env::real(), directory.path(), SMALL), Err(OpenError::Damaged { .. })));
    assert_eq!(check_base(&Env::real(), directory.path()).unwrap().len(), 1);
}

#[test]
fn a_base_is_made_of_a_sorted_stream() {
    let directory = TemporaryDirectory::new("base");
    let path = directory.path().join("restored");
    let row = |i: u64| Ok(RunRow::new(&key(i), Version(i + 1), Some(&[i as u8; 30])));
    let too_new = restore_base(&Env::real(), &path, SMALL, &mut (0..50).map(row), &marker(1, 49));
    assert!(matches!(too_new, Err(OpenError::Io { .. })), "{too_new:?}");
    restore_base(&Env::real(), &path, SMALL, &mut (0..50).map(row), &marker(1, 50)).unwrap();
    let again = restore_base(&Env::real(), &path, SMALL, &mut (0..50).map(row), &marker(1, 50));
    assert!(matches!(again, Err(OpenError::NotEmpty { .. })), "{again:?}");
    let base = LsmBase::open(&Env::real(), &path, SMALL).unwrap();
    assert_eq!(base.marker(), Some(marker(1, 50)));
    assert_eq!(base.usage().runs, 0, "it does not wait to be merged, which would need as much room again");
    assert_eq!(base.get(&key(7), Version(50)).unwrap().unwrap().version, Version(8));
    let in_use = LsmBase::open(&Env::real(), &path, SMALL);
    assert!(matches!(in_use, Err(OpenError::InUse { .. })));
    drop(base);
    assert_eq!(check_base(&Env::real(), &path).unwrap(), []);
}

#[test]
fn a_merge_that_failed_after_it_was_shown_keeps_its_tables() {
    let directory = TemporaryDirectory::new("base");
    let base = open(&directory);
    for version in 1..=4 {
        write_version(&base, version);
    }
    // The state of the manifest that the merge replaces cannot be removed: here because a directory is in its place, else
    // because the disk refuses an unlink.
    let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    for path in names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('v')) {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    let merged = base.compact(Some(Version(5)));
    assert_eq!(merged, Ok(true), "what failed is only the clearing away");
    drop(base);
    let base = LsmBase::open(&Env::real(), directory.path(), SMALL);
    assert!(base.is_ok(), "{merged:?}, and then {base:?}");
    assert_eq!(version_at(&base.unwrap(), 9), Some(4));
}
