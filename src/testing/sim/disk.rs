//! The files of a host: those of [`files`](crate::testing::files), whose syncs take time.

use super::state::{Core, HostId};
use crate::{
    env::{File, Files, Lock},
    testing::{files::SimulatedFiles, generators::Random},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long disks take.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// The shortest sync.
    pub sync_min: Duration,
    /// The longest usual one.
    pub sync_max: Duration,
    /// One sync in so many takes `slow` instead; none if zero.
    pub slow_one_in: u64,
    /// See there.
    pub slow: Duration,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            sync_min: Duration::from_micros(100),
            sync_max: Duration::from_millis(2),
            slow_one_in: 200,
            slow: Duration::from_millis(50),
        }
    }
}

impl DiskOptions {
    fn draw(&self, random: &mut Random) -> Duration {
        if self.slow_one_in > 0 && random.once_in(self.slow_one_in) {
            return self.slow;
        }
        between(random, self.sync_min, self.sync_max)
    }
}

/// A duration from `min` to `max`, to the nanosecond.
pub(super) fn between(random: &mut Random, min: Duration, max: Duration) -> Duration {
    let span = u64::try_from(max.saturating_sub(min).as_nanos()).unwrap_or(u64::MAX - 1);
    min + Duration::from_nanos(random.below(span + 1))
}

/// The place where a host's syncs take their time.
#[derive(Clone)]
struct Delay {
    core: Arc<Core>,
    host: HostId,
}

impl Delay {
    /// The host is in the call for so long, and nothing else runs on it: as with a program of one thread, or a disk that
    /// holds up everybody.
    fn sync(&self) {
        let mut state = self.core.lock();
        let host = state.host(self.host);
        let duration = host.disk.draw(&mut host.random);
        state.occupy(self.host, duration);
    }
}

pub(super) struct Disk {
    files: Arc<SimulatedFiles>,
    delay: Delay,
}

impl Disk {
    pub(super) fn new(core: &Arc<Core>, host: HostId, files: &Arc<SimulatedFiles>) -> Disk {
        Disk { files: Arc::clone(files), delay: Delay { core: Arc::clone(core), host } }
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.read(path)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        let file = self.files.open(path, create)?;
        Ok(Box::new(SlowFile { file, delay: self.delay.clone() }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.files.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.files.create_directory(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.files.remove_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.delay.sync();
        self.files.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.files.lock(path)
    }

    fn available(&self, path: &Path) -> io::Result<u64> {
        self.files.available(path)
    }
}

struct SlowFile {
    file: Box<dyn File>,
    delay: Delay,
}

impl File for SlowFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.delay.sync();
        self.file.sync_data()
    }
}
