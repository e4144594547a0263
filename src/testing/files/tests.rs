//! The simulated files do what their page says.

#![allow(clippy::unwrap_used)]

use super::*;

fn opened(files: &Arc<SimulatedFiles>, name: &str) -> Box<dyn File> {
    files.open(Path::new(name), true).expect("it is made")
}

fn bytes(files: &SimulatedFiles, name: &str) -> Option<Vec<u8>> {
    files.contents(Path::new(name))
}

#[test]
fn what_was_synced_survives_and_the_rest_by_sectors() {
    let (mut mixed, mut all, mut nothing) = (0, 0, 0);
    for seed in 0..60 {
        let files = SimulatedFiles::new();
        let file = opened(&files, "/a");
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        files.sync_directory(Path::new("/")).unwrap();
        file.write_at(&[2; 1536], 512).unwrap();
        files.crash(seed);
        assert!(file.length().is_err(), "handles of the life before are dead");
        let found = bytes(&files, "/a").expect("its name was synced");
        assert_eq!(found[..512], [1; 512]);
        let new = found.chunks(512).filter(|sector| sector == &[2; 512]).count();
        let old = found.chunks(512).filter(|sector| sector == &[1; 512]).count();
        assert_eq!((new + old, found.len()), (4, 2048));
        nothing += usize::from(new == 0);
        all += usize::from(new == 3);
        mixed += usize::from(new == 1 || new == 2);
        let again = files.copy();
        again.crash(seed + 1);
        assert_eq!(bytes(&again, "/a"), Some(found), "what survived is on the disk");
    }
    assert!(mixed > 5 && all > 5 && nothing > 5, "{mixed} {all} {nothing}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let files = SimulatedFiles::new();
        for name in ["/a", "/b", "/c"] {
            opened(&files, name).write_at(&[7; 5000], 100).unwrap();
        }
        files.crash(seed);
        files.paths().into_iter().map(|path| files.contents(&path)).collect::<Vec<_>>()
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
    assert!((0..20).any(|seed| run(seed) != run(seed + 1)));
}

#[test]
fn names_survive_in_order_and_a_directory_is_synced_alone() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let files = SimulatedFiles::new();
        files.create_directory(Path::new("/d/e")).unwrap();
        drop(opened(&files, "/a"));
        files.rename(Path::new("/a"), Path::new("/b")).unwrap();
        drop(opened(&files, "/d/e/c"));
        files.remove(Path::new("/b")).unwrap();
        files.crash(seed);
        seen.insert(files.paths());
        for path in files.paths() {
            assert!(files.list(path.parent().unwrap()).is_ok());
        }
    }
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let wanted = [paths(&[]), paths(&["/a"]), paths(&["/b"]), paths(&["/b", "/d/e/c"]), paths(&["/d/e/c"])];
    assert_eq!(seen, wanted.into_iter().collect());

    let files = SimulatedFiles::new();
    files.create_directory(Path::new("/d")).unwrap();
    drop(opened(&files, "/d/a"));
    files.sync_directory(Path::new("/d")).unwrap();
    let gone = (0..30).filter(|seed| {
        let files = SimulatedFiles {
            state: Arc::new(Mutex::new(State { disk: lock(&files.state).disk.clone(), ..State::default() })),
        };
        files.crash(*seed);
        files.paths().is_empty()
    });
    assert!(gone.count() > 5, "the directory's own name was not synced");
}

#[test]
fn a_directory_goes_when_it_is_empty_and_for_good_when_the_one_above_is_synced() {
    let (files, above, directory) = (SimulatedFiles::new(), Path::new("/d"), Path::new("/d/e"));
    files.create_directory(directory).unwrap();
    drop(opened(&files, "/d/e/a"));
    assert!(files.remove_directory(directory).is_err(), "it is not empty");
    files.remove(Path::new("/d/e/a")).unwrap();
    [Path::new("/"), above, directory].into_iter().for_each(|path| files.sync_directory(path).unwrap());
    files.remove_directory(directory).unwrap();
    assert!(files.list(directory).is_err() && files.remove_directory(directory).is_err());
    let is_left = |seed: u64| {
        let copy = SimulatedFiles {
            state: Arc::new(Mutex::new(State { disk: lock(&files.state).disk.clone(), ..State::default() })),
        };
        copy.crash(seed);
        copy.list(directory).is_ok()
    };
    assert!((0..30).any(is_left) && !(0..30).all(is_left));
    files.sync_directory(above).unwrap();
    assert!(!(0..30).any(is_left));
}

#[test]
fn after_a_failed_sync_bytes_are_seen_and_a_later_sync_does_not_write_them() {
    let files = SimulatedFiles::new();
    let file = opened(&files, "/a");
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync_data().unwrap();
    files.sync_directory(Path::new("/")).unwrap();
    file.write_at(&[2; 4096], 0).unwrap();
    files.fail(Call::Sync, 1, Fault::Io);
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok());
    files.restart();
    assert_eq!(bytes(&files, "/a"), Some(vec![2; 4096]));
    files.crash(3);
    let lost = bytes(&files, "/a").unwrap().chunks(512).filter(|sector| sector == &[1; 512]).count();
    assert!((1..8).contains(&lost), "{lost}");
}

#[test]
fn a_lying_sync_keeps_nothing() {
    let files = SimulatedFiles::new();
    files.set_lying(true);
    let file = opened(&files, "/a");
    file.write_at(&[1; 512], 0).unwrap();
    file.sync_data().unwrap();
    files.sync_directory(Path::new("/")).unwrap();
    assert!((0..20).any(|seed| {
        let copy = SimulatedFiles {
            state: Arc::new(Mutex::new(State { disk: lock(&files.state).disk.clone(), ..State::default() })),
        };
        copy.crash(seed);
        bytes(&copy, "/a").is_none_or(|bytes| bytes != [1; 512])
    }));
}

#[test]
fn planned_faults_meet_their_call() {
    let files = SimulatedFiles::new();
    let file = opened(&files, "/a");
    files.fail(Call::Write, 2, Fault::Io);
    files.fail(Call::Write, 3, Fault::NoSpace);
    files.fail(Call::Write, 4, Fault::Short);
    let errors: Vec<_> =
        (0..5).map(|byte| file.write_at(&[byte; 600], 0).err().map(|error| error.raw_os_error())).collect();
    assert_eq!(errors, [None, Some(Some(5)), Some(Some(28)), Some(Some(5)), None]);
    assert_eq!(files.calls(Call::Write), 5);
    for (call, run) in [
        (Call::SetLength, Box::new(|| file.set_length(3)) as Box<dyn Fn() -> io::Result<()>>),
        (Call::Read, Box::new(|| file.length().map(drop))),
        (Call::Read, Box::new(|| file.read_at(&mut [0; 2], 0))),
        (Call::Read, Box::new(|| files.read(Path::new("/a")).map(drop))),
        (Call::List, Box::new(|| files.list(Path::new("/")).map(drop))),
        (Call::Open, Box::new(|| files.open(Path::new("/a"), false).map(drop))),
        (Call::SyncDirectory, Box::new(|| files.sync_directory(Path::new("/")))),
        (Call::CreateDirectory, Box::new(|| files.create_directory(Path::new("/d")))),
        (Call::Rename, Box::new(|| files.rename(Path::new("/a"), Path::new("/a")))),
        (Call::AnyChange, Box::new(|| files.rename(Path::new("/a"), Path::new("/a")))),
        (Call::AnyChange, Box::new(|| files.open(Path::new("/new"), true).map(drop))),
        (Call::Sync, Box::new(|| file.sync_data())),
    ] {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
            files.fail(call, 1, fault);
            let code = if fault == Fault::NoSpace { 28 } else { 5 };
            assert_eq!(run().err().and_then(|error| error.raw_os_error()), Some(code), "{call:?} {fault:?}");
        }
        run().expect("once is enough");
    }
    files.fail(Call::Remove, 1, Fault::PowerCut);
    assert!(files.remove(Path::new("/a")).is_err() && files.is_off());
    assert!(file.length().is_err() && files.list(Path::new("/")).is_err());
    files.crash(1);
    assert!(files.list(Path::new("/")).is_ok());
}

#[test]
fn a_full_disk_refuses_and_says_so() {
    let files = SimulatedFiles::new();
    files.set_capacity(Some(1000));
    let file = opened(&files, "/a");
    file.write_at(&[1; 600], 0).unwrap();
    assert_eq!(files.available(Path::new("/")).unwrap(), 400);
    assert_eq!(file.write_at(&[1; 600], 500).unwrap_err().raw_os_error(), Some(28));
    assert_eq!(file.set_length(1001).unwrap_err().raw_os_error(), Some(28));
    file.write_at(&[1; 600], 400).unwrap();
    files.set_capacity(None);
    file.set_length(2000).unwrap();
    file.set_length(3).unwrap();
    file.set_length(5).unwrap();
    assert_eq!(bytes(&files, "/a"), Some(vec![1, 1, 1, 0, 0]));
}

#[test]
fn a_lock_is_held_until_dropped_or_dead() {
    let files = SimulatedFiles::new();
    let held = files.lock(Path::new("/lock")).unwrap();
    assert_eq!(files.lock(Path::new("/lock")).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    drop(held);
    let dead = files.lock(Path::new("/lock")).unwrap();
    files.restart();
    let held = files.lock(Path::new("/lock")).unwrap();
    drop(dead);
    assert!(files.lock(Path::new("/lock")).is_err(), "the dead one's end frees nothing");
    drop(held);
}

#[test]
fn bits_are_flipped_and_bytes_planted_on_the_disk() {
    let files = SimulatedFiles::new();
    files.plant(Path::new("/d/a"), 1, &[1, 2]);
    files.flip(Path::new("/d/a"), 2, 7);
    files.crash(0);
    assert_eq!(bytes(&files, "/d/a"), Some(vec![0, 1, 130]));
    assert_eq!(files.read(Path::new("/d/a")).unwrap(), [0, 1, 130]);
    assert!(files.read(Path::new("/d/b")).is_err() && files.open(Path::new("/x/b"), true).is_err());
}
