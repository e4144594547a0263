//! Files in memory that lose power, fail and lie, by seed and by plan.
//!
//! [`SimulatedFiles`] keeps of every file two states: what programs see, and what is on the disk. A power cut decides, from
//! a seed, what of the difference has reached the disk:
//!
//! | what was not synced | what survives |
//! |---|---|
//! | a write | of each 512-byte sector any version since the last sync, or the synced one; sectors are whole |
//! | a change of length | the synced length, or one of those it has had since |
//! | names made, renamed, removed | the first so many of them, in their order, as a journal keeps them |
//!
//! `sync_data` makes a file's bytes and length durable, not its name; `sync_directory` makes the names in that directory
//! durable, and no other's. A file whose directory did not survive is gone with it.
//!
//! After a sync that failed, a sector has reached the disk or not, and *is clean all the same*: a later sync does not write
//! it, though programs go on seeing it. That is what Linux does, and why nobody may retry a sync.
//!
//! For example, a file of two sectors, both written over, and a power cut: the disk holds old-old, new-old, old-new or
//! new-new, whichever the seed says. Another run with the same calls and the same seed gives the same bytes.
//!
//! Faults are planned by call: the nth write fails with EIO, the next sync with ENOSPC, power is cut at call 17 of any kind.

use super::generators::Random;
use crate::env::{BoxFuture, Env, File, Files, Lock, Moment, Provider, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

mod disk;

use disk::{Disk, Node};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Reading a file, whole or in part, or its length.
    Read,
    /// Opening a file.
    Open,
    /// Listing a directory.
    List,
    /// `write_at`.
    Write,
    /// `set_length`.
    SetLength,
    /// `sync_data`.
    Sync,
    /// `sync_directory`.
    SyncDirectory,
    /// Making a directory.
    CreateDirectory,
    /// Renaming a file.
    Rename,
    /// Removing a file, or a directory.
    Remove,
    /// Every call that can change something: all but reading, listing, and opening what is there.
    AnyChange,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO, and does nothing; a sync that fails leaves sectors clean that may not be on the disk.
    Io,
    /// It fails with ENOSPC, and does nothing.
    NoSpace,
    /// A write writes a part of its bytes, up to the end of a sector, and fails with EIO; any other call fails with EIO.
    Short,
    /// Power is cut in the midst of it: it may have been done, and it and every later call fail until
    /// [`SimulatedFiles::crash`].
    PowerCut,
}

/// Files in memory: see the module.
#[derive(Debug)]
pub struct SimulatedFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    disk: Disk,
    calls: BTreeMap<Call, u64>,
    /// By kind and number of the call, from the beginning.
    plan: BTreeMap<(Call, u64), Fault>,
    capacity: Option<u64>,
    lying: bool,
    off: bool,
    /// Handles and locks of an earlier life are dead.
    life: u64,
    locked: BTreeSet<PathBuf>,
    draws: u64,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io_error() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(28)
}

/// An environment with these files; clock, randomness, tasks and timers are the real ones. Threads are tasks, so that on a
/// runtime of one thread a test is repeatable.
#[must_use]
pub fn environment(files: Arc<SimulatedFiles>) -> Env {
    struct Simulated {
        files: Arc<SimulatedFiles>,
        real: Env,
    }

    impl Provider for Simulated {
        fn now(&self) -> Moment {
            self.real.now()
        }
        fn wall_ms(&self) -> u64 {
            self.real.wall_ms()
        }
        fn random(&self, bytes: &mut [u8]) {
            self.real.random(bytes);
        }
        fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
            self.real.sleep_until(when)
        }
        fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
            self.real.spawn(name, future)
        }
        fn files(&self) -> &dyn Files {
            &*self.files
        }
    }

    Env::from_provider(Arc::new(Simulated { files, real: Env::real() }))
}

impl SimulatedFiles {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Arc<SimulatedFiles> {
        Arc::new(SimulatedFiles { state: Arc::default() })
    }

    /// The `nth` call of that kind from now, counted from 1, meets this fault.
    pub fn fail(&self, call: Call, nth: u64, fault: Fault) {
        let mut state = lock(&self.state);
        let number = state.calls.get(&call).copied().unwrap_or(0) + nth;
        state.plan.insert((call, number), fault);
    }

    /// Forgets every fault that has not happened.
    pub fn forget_faults(&self) {
        lock(&self.state).plan.clear();
    }

    /// How many calls of that kind there were.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        lock(&self.state).calls.get(&call).copied().unwrap_or(0)
    }

    /// Bytes that files may hold together; past it writes fail with ENOSPC.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.state).capacity = bytes;
    }

    /// From now on syncs answer that all is well, and do nothing.
    pub fn set_lying(&self, lying: bool) {
        lock(&self.state).lying = lying;
    }

    /// Cuts power: every call fails until [`SimulatedFiles::crash`].
    pub fn cut_power(&self) {
        lock(&self.state).off = true;
    }

    /// Whether power is cut.
    #[must_use]
    pub fn is_off(&self) -> bool {
        lock(&self.state).off
    }

    /// Power is cut, and comes back: what was not synced survives as the seed says. Open files and locks are gone.
    pub fn crash(&self, seed: u64) {
        let mut state = lock(&self.state);
        state.disk.crash(&mut Random::new(seed));
        state.begin_life();
    }

    /// The process dies and the machine lives: everything that was written is seen. Open files and locks are gone.
    pub fn restart(&self) {
        lock(&self.state).begin_life();
    }

    /// Another disk takes its place: nothing is on it.
    pub fn wipe(&self) {
        let mut state = lock(&self.state);
        state.disk = Disk::default();
        state.life += 1;
        state.locked.clear();
    }

    /// Flips one bit of a file, on the disk and for programs.
    ///
    /// # Panics
    /// If it is not there, or not that long.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) {
        self.damage(path, offset, |byte| byte ^ (1 << bit));
    }

    /// Puts bytes into a file, on the disk and for programs, past all faults. The file is made if it is not there.
    pub fn plant(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = lock(&self.state);
        let node = state.disk.plant(path);
        let file = state.disk.file_mut(node);
        let end = offset as usize + bytes.len();
        for content in [&mut file.seen, &mut file.synced] {
            content.resize(content.len().max(end), 0);
            content[offset as usize..end].copy_from_slice(bytes);
        }
    }

    fn damage(&self, path: &Path, offset: u64, change: impl Fn(u8) -> u8) {
        let mut state = lock(&self.state);
        let node = state.disk.find(path).expect("the file is there");
        let file = state.disk.file_mut(node);
        let at = usize::try_from(offset).expect("it is within the file");
        file.seen[at] = change(file.seen[at]);
        if let Some(byte) = file.synced.get_mut(at) {
            *byte = change(*byte);
        }
    }

    /// What programs see of a file; `None` if it is not there.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        let node = state.disk.find(path)?;
        Some(state.disk.file_mut(node).seen.clone())
    }

    /// The files that there are.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        lock(&self.state).disk.paths()
    }

    /// Another disk with all that programs see here, synced; without faults, and with none of what happens here later.
    #[must_use]
    pub fn copy(&self) -> Arc<SimulatedFiles> {
        let state = State { disk: lock(&self.state).disk.settled(), ..State::default() };
        Arc::new(SimulatedFiles { state: Arc::new(Mutex::new(state)) })
    }

    fn call(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = lock(&self.state);
        let fault = state.count(call)?;
        Ok((state, fault))
    }
}

impl State {
    fn begin_life(&mut self) {
        self.off = false;
        self.life += 1;
        self.locked.clear();
        self.plan.clear();
    }

    /// Counts a call and says what is planned for it. Faults that leave nothing done are errors at once.
    fn count(&mut self, call: Call) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(io_error());
        }
        let mut fault = self.next(call);
        if !matches!(call, Call::Read | Call::Open | Call::List) {
            fault = self.next(Call::AnyChange).or(fault);
        }
        match fault {
            Some(Fault::Io) if call != Call::Sync => Err(io_error()),
            Some(Fault::NoSpace) if call != Call::Sync => Err(no_space()),
            Some(Fault::Short) if !matches!(call, Call::Sync | Call::Write) => Err(io_error()),
            Some(Fault::PowerCut) => {
                self.off = true;
                Ok(fault)
            }
            _ => Ok(fault),
        }
    }

    fn next(&mut self, call: Call) -> Option<Fault> {
        let count = self.calls.entry(call).or_default();
        *count += 1;
        self.plan.remove(&(call, *count))
    }

    /// Randomness for faults that need some; from the calls so far, so the same in every run.
    fn draw(&mut self) -> Random {
        self.draws += 1;
        Random::new(self.draws ^ (self.calls.values().sum::<u64>() << 20))
    }

    /// An error if so many bytes more do not fit.
    fn room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.disk.bytes().saturating_add(more) > capacity => Err(no_space()),
            _ => Ok(()),
        }
    }
}

/// What a call that has been done answers: an error, if power was cut in its midst.
fn answer(fault: Option<Fault>) -> io::Result<()> {
    if fault.is_some() { Err(io_error()) } else { Ok(()) }
}

impl Files for SimulatedFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (mut state, fault) = self.call(Call::Read)?;
        let node = state.disk.find(path).ok_or(io::ErrorKind::NotFound)?;
        answer(fault)?;
        Ok(state.disk.file_mut(node).seen.clone())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        let (mut state, fault) = self.call(Call::Open)?;
        let node = match state.disk.find(path) {
            Some(node) => node,
            None if create => {
                // Making a file changes something, and is counted as such.
                let fault = state.next(Call::AnyChange);
                state.off |= fault == Some(Fault::PowerCut);
                match fault {
                    Some(Fault::NoSpace) => return Err(no_space()),
                    Some(Fault::Io | Fault::Short) => return Err(io_error()),
                    Some(Fault::PowerCut) | None => {}
                }
                let node = state.disk.create(path)?;
                answer(fault)?;
                node
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        answer(fault)?;
        Ok(Box::new(OpenFile { state: self.state.clone(), node, life: state.life }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let (state, fault) = self.call(Call::List)?;
        answer(fault)?;
        state.disk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::CreateDirectory)?;
        state.disk.create_directory(path)?;
        answer(fault)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Rename)?;
        state.disk.rename(from, to)?;
        answer(fault)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Remove)?;
        state.disk.remove(path)?;
        answer(fault)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Remove)?;
        state.disk.remove_directory(path)?;
        answer(fault)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::SyncDirectory)?;
        if !state.disk.is_directory(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Cut in its midst, it has done nothing yet: what survives is drawn at the crash.
        answer(fault)?;
        if !state.lying {
            state.disk.sync_directory(path);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        drop(self.open(path, true)?);
        let mut state = lock(&self.state);
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock { state: self.state.clone(), path: path.to_owned(), life: state.life }))
    }

    fn available(&self, _path: &Path) -> io::Result<u64> {
        let state = lock(&self.state);
        Ok(state.capacity.map_or(u64::MAX / 2, |capacity| capacity.saturating_sub(state.disk.bytes())))
    }
}

struct HeldLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    life: u64,
}

impl Lock for HeldLock {}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.life == self.life {
            state.locked.remove(&self.path);
        }
    }
}

/// A file that a program holds open; dead after a crash.
struct OpenFile {
    state: Arc<Mutex<State>>,
    node: Node,
    life: u64,
}

impl OpenFile {
    fn call(&self, call: Call) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = lock(&self.state);
        if state.life != self.life {
            return Err(io_error());
        }
        let fault = state.count(call)?;
        Ok((state, fault))
    }
}

impl File for OpenFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Read)?;
        answer(fault)?;
        let seen = &state.disk.file_mut(self.node).seen;
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let there = from.checked_add(bytes.len()).and_then(|end| seen.get(from..end));
        bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Write)?;
        let end = offset + bytes.len() as u64;
        let length = state.disk.file_mut(self.node).seen.len() as u64;
        state.room(end.saturating_sub(length))?;
        let written = match fault {
            Some(Fault::Short) => {
                // The kernel copies page by page, so what was copied ends with a sector.
                let end = (offset + state.draw().below((bytes.len() as u64).max(1))) / 512 * 512;
                &bytes[..end.saturating_sub(offset) as usize]
            }
            _ => bytes,
        };
        state.disk.file_mut(self.node).write(written, offset);
        answer(fault)
    }

    fn length(&self) -> io::Result<u64> {
        let (mut state, fault) = self.call(Call::Read)?;
        answer(fault)?;
        Ok(state.disk.file_mut(self.node).seen.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::SetLength)?;
        let now = state.disk.file_mut(self.node).seen.len() as u64;
        state.room(length.saturating_sub(now))?;
        state.disk.file_mut(self.node).set_length(length);
        answer(fault)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut state, fault) = self.call(Call::Sync)?;
        match fault {
            None if state.lying => Ok(()),
            None => {
                state.disk.file_mut(self.node).sync();
                Ok(())
            }
            Some(Fault::PowerCut) => Err(io_error()),
            Some(fault) => {
                let mut draw = state.draw();
                state.disk.file_mut(self.node).sync_badly(&mut draw);
                Err(if fault == Fault::NoSpace { no_space() } else { io_error() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
