//! The file that a backup is written to.

use super::super::{Target, TargetError};
use crate::env::{BoxFuture, Env, File, Files, Lock, Moment, Provider, Task};
use crate::testing::directory::TemporaryDirectory;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

fn names(directory: &TemporaryDirectory) -> Vec<PathBuf> {
    Env::real().files().list(directory.path()).expect("it is there")
}

#[test]
fn a_file_appears_when_it_is_whole() {
    let (env, directory) = (Env::real(), TemporaryDirectory::new("target"));
    let path = directory.path().join("b");
    let mut target = Target::create(&env, &path, false).expect("nothing is there");
    target.write_all(b"one").expect("it is written");
    target.write_all(b" two").expect("it is written");
    assert_eq!(names(&directory), [Path::new("b.partial")]);
    let busy = Target::create(&env, &path, true).err().expect("it is being written");
    assert!(busy.to_string().ends_with("b.partial is being written by another process"), "{busy}");
    target.publish().expect("nothing is in the way");
    assert_eq!(names(&directory), [Path::new("b")]);
    assert_eq!(fs::read(&path).expect("it is there"), b"one two");
}

#[test]
fn a_file_that_is_there_is_replaced_only_if_asked() {
    let (env, directory) = (Env::real(), TemporaryDirectory::new("target"));
    let path = directory.path().join("b");
    fs::write(&path, b"old").expect("it is written");
    let refused = Target::create(&env, &path, false).err().expect("it is there");
    assert!(refused.to_string().ends_with("b is there already"), "{refused}");
    assert_eq!(names(&directory), [Path::new("b")]);
    // What a process left that was killed.
    fs::write(directory.path().join("b.partial"), b"much longer than what is written").expect("it is written");
    let mut target = Target::create(&env, &path, true).expect("it may be replaced");
    target.write_all(b"new").expect("it is written");
    assert_eq!(fs::read(&path).expect("it is there"), b"old");
    target.publish().expect("it may be replaced");
    assert_eq!(fs::read(&path).expect("it is there"), b"new");
}

#[test]
fn what_appeared_meanwhile_is_not_replaced() {
    let (env, directory) = (Env::real(), TemporaryDirectory::new("target"));
    let path = directory.path().join("b");
    let target = Target::create(&env, &path, false).expect("nothing is there");
    fs::write(&path, b"other").expect("it is written");
    assert!(matches!(target.publish(), Err(TargetError::Exists(there)) if there == path));
    assert_eq!(names(&directory), [Path::new("b")]);
    assert_eq!(fs::read(&path).expect("it is there"), b"other");
}

#[test]
fn a_file_that_is_given_up_leaves_nothing() {
    let (env, directory) = (Env::real(), TemporaryDirectory::new("target"));
    let mut target = Target::create(&env, &directory.path().join("b"), false).expect("nothing is there");
    target.write_all(b"some").expect("it is written");
    drop(target);
    assert_eq!(names(&directory), [] as [&Path; 0]);
    let nowhere = Target::create(&env, &directory.path().join("no/b"), false).err().expect("no directory");
    assert!(
        matches!(&nowhere, TargetError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound),
        "{nowhere}"
    );
    let file = directory.path().join("file");
    fs::write(&file, b"").expect("it is written");
    let below_a_file = Target::create(&env, &file.join("b"), false).err().expect("no directory");
    assert!(matches!(below_a_file, TargetError::Io { .. }), "{below_a_file}");
    let a_directory = Target::create(&env, directory.path(), false).err().expect("it is a directory");
    assert!(matches!(a_directory, TargetError::Exists(_)), "{a_directory}");
}

/// A disk with room for so many bytes, whose files cannot be synced once none is left.
struct Disk {
    outside: Env,
    room: Arc<AtomicU64>,
}

struct DiskFile(Box<dyn File>, Arc<AtomicU64>);

impl Provider for Disk {
    fn now(&self) -> Moment {
        self.outside.now()
    }
    fn wall_ms(&self) -> u64 {
        self.outside.wall_ms()
    }
    fn random(&self, bytes: &mut [u8]) {
        self.outside.random(bytes);
    }
    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        self.outside.sleep_until(when)
    }
    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.outside.spawn(name, future)
    }
    fn files(&self) -> &dyn Files {
        self
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.outside.files().read(path)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        let file = self.outside.files().open(path, create)?;
        Ok(Box::new(DiskFile(file, Arc::clone(&self.room))))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.outside.files().list(directory)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.outside.files().create_directory(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.outside.files().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.outside.files().remove(path)
    }
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.outside.files().remove_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.outside.files().sync_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.outside.files().lock(path)
    }
    fn available(&self, path: &Path) -> io::Result<u64> {
        self.outside.files().available(path)
    }
}

impl File for DiskFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let length = bytes.len() as u64;
        let fits = |room: u64| room.checked_sub(length);
        self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map_err(|_| io::ErrorKind::StorageFull)?;
        self.0.write_at(bytes, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) == 0 { Err(io::ErrorKind::StorageFull.into()) } else { self.0.sync_data() }
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let directory = TemporaryDirectory::new("target");
    let path = directory.path().join("b");
    for (room, fits) in [(4, false), (5, true), (6, true)] {
        let env = Env::from_provider(Arc::new(Disk { outside: Env::real(), room: Arc::new(AtomicU64::new(room)) }));
        let mut target = Target::create(&env, &path, false).expect("nothing is there");
        let written = target.write_all(b"abcde");
        assert_eq!(written.is_ok(), fits, "{room}");
        if !fits {
            assert_eq!(written.expect_err("no room").kind(), io::ErrorKind::StorageFull);
            continue;
        }
        let published = target.publish();
        assert_eq!(published.is_ok(), room == 6, "{room}");
        if let Err(error) = published {
            assert!(matches!(&error, TargetError::Io { path, .. } if path.ends_with("b.partial")), "{error}");
            assert_eq!(names(&directory), [] as [&Path; 0]);
        }
    }
    assert_eq!(names(&directory), [Path::new("b")]);
}
