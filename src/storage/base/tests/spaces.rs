//! Spaces on disk: what a crash leaves of them, what cannot be gone on with, and what takes the place of what.

use super::*;
use crate::storage::tests::hooked::{copy, hooked};
use parking_lot::Mutex;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

const NAME: [u8; 16] = [7; 16];
/// Writes into a space, each of so many rows.
const WRITES: u64 = 8;
const ROWS: u64 = 20;

fn rows(write: u64) -> Vec<RunRow> {
    (write * ROWS..(write + 1) * ROWS).map(|i| RunRow::new(&key(i), Version(i + 1), Some(&[i as u8; 50]))).collect()
}

fn note(writes: u64) -> Bytes {
    Bytes::copy_from_slice(&writes.to_be_bytes())
}

/// How many writes a space holds, by its note.
fn noted(space: &dyn BaseSpace) -> u64 {
    space.progress().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn fill(space: &mut dyn BaseSpace, until: u64) {
    (noted(space)..until).for_each(|write| space.write_rows(&rows(write), note(write + 1)).unwrap());
}

fn installed() -> Marker {
    Marker { installed: true, ..marker(1, 1_000) }
}

/// That a base holds these writes of a space, and nothing else.
fn check_holds(base: &dyn Base, writes: u64) {
    let mut next = 0;
    let mut each = |found: &[u8], version: Version, value: &[u8]| {
        assert_eq!((found, version, value), (&key(next)[..], Version(next + 1), &[next as u8; 50][..]));
        next += 1;
        ControlFlow::Continue(())
    };
    base.scan(&full_keys(), false, Version(5_000), &mut each).unwrap();
    assert_eq!(next, writes * ROWS);
    let at = Version(5_000);
    assert_eq!(base.get(&key(3), at).unwrap().map(|row| row.version), (writes > 0).then_some(Version(4)));
    assert_eq!(base.get(&key(writes * ROWS), at).unwrap(), None);
}

fn open_at(path: &Path) -> Result<LsmBase, OpenError> {
    LsmBase::open(&Env::real(), path, SMALL)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_durable_in_a_space_is_there_after_a_crash_at_any_call() {
    let (directory, copies) = (TemporaryDirectory::new("space"), TemporaryDirectory::new("space-copies"));
    let (from, to) = (directory.path().to_owned(), copies.path().to_owned());
    // How many writes had returned before each call.
    let durable = Arc::new(AtomicU64::new(0));
    let before: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (seen, its_durable) = (Arc::clone(&before), Arc::clone(&durable));
    let (env, _) = hooked(move |call| {
        copy(&from, &to.join(call.to_string()));
        seen.lock().push(its_durable.load(Ordering::SeqCst));
        Ok(())
    });
    let base = LsmBase::open(&env, directory.path(), SMALL).unwrap();
    write_version(&base, 3);
    let mut space = base.begin_space(NAME).unwrap();
    for write in 0..WRITES {
        space.write_rows(&rows(write), note(write + 1)).unwrap();
        durable.store(write + 1, Ordering::SeqCst);
    }
    drop(space.switch(&installed()).unwrap());
    drop(base);
    let before = before.lock().clone();
    assert!(before.len() > 50, "{before:?}");
    let mut switched = 0;
    for (call, durable) in (1..).zip(&before) {
        let base = open_at(&copies.path().join(call.to_string())).unwrap();
        if base.marker().is_some_and(|marker| marker.installed) {
            switched += 1;
            check_holds(&base, WRITES);
            continue;
        }
        let mut space = base.begin_space(NAME).unwrap();
        let found = noted(&*space);
        assert!(found == *durable || found == durable + 1, "{found} after {durable} before call {call}");
        if base.marker().is_some() {
            assert_eq!(version_at(&base, 9), Some(3), "what is there is not touched");
        }
        fill(&mut *space, WRITES);
        check_holds(&*space.switch(&installed()).unwrap(), WRITES);
    }
    assert!(switched > 1, "the removal of what was replaced comes after the switch");
}

#[test]
fn a_tree_in_a_folder_is_a_base_like_any_other_and_makes_way_for_the_next() {
    let directory = TemporaryDirectory::new("space");
    let path = directory.path();
    let base = open(&directory);
    write_version(&base, 1);
    let mut space = base.begin_space(NAME).unwrap();
    fill(&mut *space, 3);
    write_version(&base, 2);
    while base.compact(Some(Version(3))).unwrap() {}
    let next = space.switch(&installed()).unwrap();
    check_holds(&*next, 3);
    // Who has the old one reads it still, and nobody writes it.
    assert_eq!(version_at(&base, 9), Some(2));
    assert!(matches!(run(&base, Vec::new(), &marker(3, 3)), Err(BaseError::Failed(_))));
    assert!(matches!(base.compact(None), Err(BaseError::Failed(_))));
    drop(base);
    assert_eq!(names(path), ["current", "lock", "tree-1"], "it goes with the last who has it");
    drop(next);
    let base = open(&directory);
    assert_eq!(base.marker(), Some(installed()));
    check_holds(&base, 3);
    assert_eq!(check_after(base, path), []);
    let base = open(&directory);
    run(&base, vec![RunRow::new(&key(5), Version(1_001), None)], &marker(2, 1_001)).unwrap();
    while base.compact(Some(Version(1_002))).unwrap() {}
    assert_eq!(base.get(&key(5), Version(1_001)).unwrap(), None);
    let mut space = base.begin_space([8; 16]).unwrap();
    fill(&mut *space, 2);
    drop(space.switch(&installed()).unwrap());
    drop(base);
    assert_eq!(names(path), ["current", "lock", "tree-2"]);
    let base = open(&directory);
    check_holds(&base, 2);
    assert_eq!(check_after(base, path), []);
}

/// What a check finds once a base is closed.
fn check_after(base: LsmBase, path: &Path) -> Vec<Finding> {
    drop(base);
    check_base(&Env::real(), path).unwrap()
}

#[test]
fn a_space_is_written_once_and_is_one_run() {
    let directory = TemporaryDirectory::new("space");
    let base = open(&directory);
    let mut space = base.begin_space(NAME).unwrap();
    fill(&mut *space, 30);
    let tables = directory.path().join("tree-1/tables");
    let before = names(&tables);
    let next = space.switch(&installed()).unwrap();
    assert_eq!(next.usage().runs, 0, "nothing waits to be merged, which would need as much room again");
    while next.compact(None).unwrap() {}
    let after = names(&tables);
    assert!(before.iter().all(|name| after.contains(name)), "nothing is merged: {before:?} {after:?}");
    check_holds(&*next, 30);
}

#[test]
fn a_space_under_another_name_or_that_makes_no_sense_is_begun_anew() {
    let directory = TemporaryDirectory::new("space");
    let tree = directory.path().join("tree-1");
    let filled = || {
        let base = open(&directory);
        let mut space = base.begin_space(NAME).unwrap();
        fill(&mut *space, 4);
    };
    let resumed = |name: [u8; 16]| {
        let base = open(&directory);
        let mut space = base.begin_space(name).unwrap();
        let found = noted(&*space);
        // Whatever it was, it can be filled and used.
        fill(&mut *space, 4);
        drop(space);
        assert_eq!(noted(&*base.begin_space(name).unwrap()), 4);
        found
    };
    filled();
    assert_eq!(open(&directory).space_progress(), Some(note(4)));
    assert_eq!(resumed(NAME), 4);
    assert_eq!(resumed([8; 16]), 0);
    let any_table = || fs::read_dir(tree.join("tables")).unwrap().next().unwrap().unwrap().path();
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let damages: [&dyn Fn(); 6] = [
        &|| flip(&tree.join("filling")),
        &|| fs::write(tree.join("filling"), b"").unwrap(),
        &|| fs::remove_file(tree.join("filling")).unwrap(),
        &|| flip(&tree.join("current")),
        &|| fs::remove_file(any_table()).unwrap(),
        &|| fs::write(any_table(), b"no table").unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        filled();
        assert_eq!(resumed(NAME), 4);
        damage();
        assert_eq!(resumed(NAME), 0, "damage {number}");
    }
    let base = open(&directory);
    base.discard_space().unwrap();
    assert_eq!(
        (base.space_progress(), names(directory.path())),
        (None, ["current", "lock", "tables", "v0"].map(String::from).to_vec())
    );
}

#[test]
fn a_pointer_to_a_tree_that_is_not_there_is_refused_and_so_is_a_tree_without_one() {
    let directory = TemporaryDirectory::new("space");
    let path = directory.path();
    let base = open(&directory);
    let mut space = base.begin_space(NAME).unwrap();
    fill(&mut *space, 2);
    drop(space.switch(&installed()).unwrap());
    drop(base);
    let refused = |what: &str| {
        let error = open_at(path).unwrap_err();
        let OpenError::Damaged { path: found, .. } = &error else { panic!("{error}") };
        assert!(found.ends_with(what), "{error}");
        assert_eq!(check_base(&Env::real(), path).unwrap().len(), 1);
    };
    let (current, tree) = (path.join("current"), path.join("tree-1"));
    let pointer = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    refused("current");
    fs::write(&current, &pointer[..17]).unwrap();
    refused("current");
    fs::write(&current, &pointer).unwrap();
    let inner = fs::read(tree.join("current")).unwrap();
    fs::remove_file(tree.join("current")).unwrap();
    refused("tree-1/current");
    fs::write(tree.join("current"), &inner).unwrap();
    fs::rename(&tree, path.join("tree-2")).unwrap();
    refused("tree-1/current");
    fs::rename(path.join("tree-2"), &tree).unwrap();
    check_holds(&open_at(path).unwrap(), 2);
}
