//! The durable engine: recent versions in memory, and everything older in a [`Base`](super::Base).
//!
//! ```text
//!    apply ──> recent: chains of versions by key           everything above F, and perhaps some below
//!                │
//!                │ flush: of every key the newest version <= B, and what pinned readers need, with the marker of B
//!                ▼
//!              base: sorted runs on disk                   everything up to F
//! ```
//!
//! *F* is the version of the base's marker. The log is the journal of what lies above it: after a crash the engine opens at
//! F, and the log is applied again from the marker's entry on. Everything that is applied has one place or both; never none.
//!
//! # Reading at a version
//!
//! Recent first: the newest version of the key at or below, a tombstone included, decides. Only if recent has none, the
//! base is asked. This order is right whatever happens meanwhile, for recent gives up a version only after the base has
//! it. For example, with F = 8, `a` written at 3, 7 and 9:
//!
//! ```text
//! recent: 9          base: 7, and 3 if somebody had pinned a version below 7 when 7 was stored
//! read at 9: recent's 9.   read at 8: recent has nothing that old; the base's 7.
//! ```
//!
//! # Flushing
//!
//! A flush chooses its target B, a boundary between entries (`boundaries`), and in the same step closes everything below
//! it to new readers ([`Pins::close_below`](super::Pins::close_below)). What is pinned below B at that moment is stored too,
//! for each pin the version that it sees; a read without a pin that began below is repeated. While the flush runs nothing
//! is cut above the pins, nor above B: what it stores is exact. Once the run is durable, F is B, and everything up
//! to F leaves memory, though pins live below it: they read the base, and while they live the base forgets nothing. So a
//! reader that stays for a minute costs disk and no memory.
//!
//! No flush passes the durable end of the log ([`Engine::follow_log`]): a base that has come further than the log after a
//! crash could not be told from a log that has lost its end.
//!
//! Applying never waits for the base's disk, except for what an atomic operation must read.
//!
//! # Installing
//!
//! A snapshot of another replica is written into a space beside the base (`install`). It replaces base and memory in one step,
//! which is why all of an engine's state hangs on one pointer (`State`): a read looks it up once, and sees one of the two
//! states whole. Readers of the old one keep it, and its files, until they end.
//!
//! # Bounds
//!
//! | what | bound |
//! |---|---|
//! | bytes in memory | flushed without regard to history above half of `memory_bytes_max`; writes pause ([`Pressure::Behind`]) from three quarters down to half |
//! | bytes of a run | about `slice_bytes`, or half of `memory_bytes_max` where more than that is in a hurry |
//! | bytes of a snapshot in memory | `slice_bytes`, and a part |
//! | bytes on disk | [`Pressure::DiskFull`] below `reserve_bytes`; reads go on, and writes do again when there is room |
//!
//! Evicted at once is what was flushed: no clean rows stay in memory, the base's block cache serves them.
//!
//! Never here: a journal, a decision about what is visible, a thread. [`Engine::maintain`] is called from outside.

mod boundaries;
mod flush;
mod install;
mod reads;
mod scan;
#[cfg(test)]
mod tests;

use super::{
    Applied, Base, BaseError, DurableEnd, Engine, Error, Install, InstallError, LsmBase, LsmOptions, Marker, OpenError,
    Pin, Pins, Pressure, Row, Scan, Usage, Write,
    install::Received,
    memory::{Absent, Chains, Current, check_writes},
};
use crate::{
    env::Env,
    storage::base::{FULL_KEYS_END, FULL_KEYS_START},
    types::{LogId, NodeId, Term, Version},
};
use boundaries::Boundaries;
use bytes::Bytes;
use install::DurableInstall;
use parking_lot::Mutex;
use std::{
    fmt,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Why an engine ended that was asked to.
const CLOSED: &str = "the engine was closed";
/// Superseded versions that one call of `trim` handles.
const TRIM_ITEMS_MAX: usize = 1024;
/// Superseded versions that `apply` handles for each write, so that chains do not grow between calls of `trim`.
const APPLY_TRIM_ITEMS: usize = 2;

/// After every entry.
const EVERYTHING: LogId = LogId { term: Term(u64::MAX), leader: NodeId(u64::MAX), index: u64::MAX };

/// What the engine is told when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct DurableOptions {
    /// Bytes that recent versions may take.
    pub memory_bytes_max: u64,
    /// Bytes of the base's blocks that are kept in memory, beside `memory_bytes_max`.
    pub block_cache_bytes: u64,
    /// What was written is flushed when this many bytes of it can be.
    pub slice_bytes: u64,
    /// Fewer bytes are flushed when the last flush is this long ago.
    pub slice_age_max: Duration,
    /// Bytes of the file system that are left free.
    pub reserve_bytes: u64,
    /// Seeds the hash of keys. Unpredictable where keys come from strangers.
    pub hash_seed: u64,
}

impl Default for DurableOptions {
    fn default() -> DurableOptions {
        DurableOptions {
            memory_bytes_max: 1024 * 1024 * 1024,
            block_cache_bytes: 256 * 1024 * 1024,
            slice_bytes: 64 * 1024 * 1024,
            slice_age_max: Duration::from_secs(300),
            reserve_bytes: 512 * 1024 * 1024,
            hash_seed: 0,
        }
    }
}

/// A versioned, ordered store that outlives its process.
///
/// Lock order: `latest_install`, `maintenance`, the writer of `chains`, `boundaries`, `progress`; none is held while the base
/// works, but the first two, and the writer's over the switch to a snapshot.
pub struct DurableEngine {
    env: Env,
    state: Current<State>,
    /// What was replaced by snapshots and may still be read.
    replaced: Mutex<Vec<Arc<State>>>,
    /// Alive while somebody has the install that was begun last; held while that does something.
    latest_install: Mutex<Weak<AtomicBool>>,
    /// Held by whoever moves something to the base.
    maintenance: Mutex<()>,
    /// Says how far the log is durable.
    durable_end: OnceLock<DurableEnd>,
    is_behind: AtomicBool,
    space: Space,
    options: DurableOptions,
    /// Why the engine has ended, once it has.
    ended: OnceLock<String>,
}

/// What it holds: exchanged as a whole when a snapshot is installed.
struct State {
    base: Arc<dyn Base>,
    /// Everything above `flushed`.
    chains: Chains,
    visible: AtomicU64,
    /// F: everything up to this version stands in the base.
    flushed: AtomicU64,
    pins: Arc<Pins>,
    boundaries: Mutex<Boundaries>,
    progress: Mutex<Progress>,
    base_rows: AtomicU64,
}

/// How far the store has come; `applied` moves under its lock together with `visible`.
struct Progress {
    applied: Applied,
    membership: Bytes,
    stored: Marker,
}

/// The room on disk, as it was when somebody last looked.
#[derive(Default)]
struct Space {
    is_full: AtomicBool,
    available: AtomicU64,
}

impl fmt::Debug for DurableEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableEngine").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl DurableEngine {
    /// Opens the store in a directory, or makes an empty one there. It begins at [`Engine::stored`]: the log's entries after
    /// that are to be applied again. Costs a look at every table; a few milliseconds for a gigabyte.
    pub fn open(env: &Env, directory: &Path, options: DurableOptions) -> Result<DurableEngine, OpenError> {
        let base_options =
            LsmOptions { block_cache_bytes: options.block_cache_bytes, table_bytes: options.slice_bytes };
        let base = LsmBase::open(env, directory, base_options)?;
        Ok(DurableEngine::over(env, Box::new(base), options))
    }

    /// The engine over a base of the caller's.
    #[must_use]
    pub fn over(env: &Env, base: Box<dyn Base>, options: DurableOptions) -> DurableEngine {
        DurableEngine {
            env: env.clone(),
            state: Current::new(Arc::new(State::over(env, Arc::from(base), options))),
            replaced: Mutex::default(),
            latest_install: Mutex::default(),
            maintenance: Mutex::default(),
            durable_end: OnceLock::new(),
            is_behind: AtomicBool::new(false),
            space: Space::default(),
            options,
            ended: OnceLock::new(),
        }
    }

    /// Whether what is stored is a snapshot of another replica, and nothing later: see [`Marker::installed`].
    #[must_use]
    pub fn is_installed(&self) -> bool {
        self.state.get().progress.lock().stored.installed
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.ended.get() {
            None => Ok(()),
            Some(why) => Err(Error::Failed(why.clone())),
        }
    }

    /// Ends the engine, for it can no longer do what it promises.
    fn fail(&self, why: String) -> Error {
        Error::Failed(self.ended.get_or_init(|| why).clone())
    }

    /// A read that the base refused.
    fn read_failed(&self, error: &BaseError) -> Error {
        self.fail(format!("the base cannot be read: {error}"))
    }

    /// The last entry that the log has on disk.
    fn durable(&self) -> Option<LogId> {
        self.durable_end.get().map_or(Some(EVERYTHING), |durable_end| durable_end())
    }

    /// Writes pause from three quarters of the memory on, until it is half empty again.
    fn note_memory(&self, state: &State) {
        let (bytes, max) = (state.chains.bytes(), self.options.memory_bytes_max);
        if bytes > max / 4 * 3 {
            self.is_behind.store(true, Ordering::Relaxed);
        } else if bytes < max / 2 {
            self.is_behind.store(false, Ordering::Relaxed);
        }
    }

    fn pressure(&self) -> Pressure {
        if self.space.is_full.load(Ordering::Acquire) {
            let available = self.space.available.load(Ordering::Relaxed);
            Pressure::DiskFull { available, reserve: self.options.reserve_bytes }
        } else if self.is_behind.load(Ordering::Relaxed) {
            Pressure::Behind
        } else {
            Pressure::None
        }
    }
}

impl State {
    /// What a base holds, and nothing above it.
    fn over(env: &Env, base: Arc<dyn Base>, options: DurableOptions) -> State {
        let stored = base.marker().unwrap_or_default();
        let version = stored.applied.version;
        let pins = Arc::new(Pins::default());
        pins.raise_horizon(version);
        State {
            chains: Chains::new(options.hash_seed, Absent::Below),
            visible: AtomicU64::new(version.0),
            flushed: AtomicU64::new(version.0),
            pins,
            boundaries: Mutex::new(Boundaries::new(options.slice_bytes, env.now())),
            progress: Mutex::new(Progress { applied: stored.applied, membership: stored.membership.clone(), stored }),
            base_rows: AtomicU64::new(base.usage().rows),
            base,
        }
    }

    fn visible(&self) -> Version {
        Version(self.visible.load(Ordering::Acquire))
    }

    /// Everything up to here stands in the base.
    fn flushed(&self) -> Version {
        Version(self.flushed.load(Ordering::Acquire))
    }

    fn pin(&self) -> Pin {
        self.pins.pin_latest(|| self.visible())
    }

    /// How far chains may be cut: what the base has, and what neither pins nor a flush need.
    fn cut_horizon(&self) -> Version {
        self.pins.horizon().max(self.flushed())
    }
}

impl Engine for DurableEngine {
    fn visible(&self) -> Version {
        self.state.load(&crossbeam_epoch::pin()).visible()
    }

    fn applied(&self) -> Applied {
        self.state.get().progress.lock().applied
    }

    fn pin(&self) -> Pin {
        self.state.get().pin()
    }

    fn pin_at(&self, version: Version) -> Result<Pin, Error> {
        self.check_open()?;
        let state = self.state.get();
        let visible = state.visible();
        if version > visible {
            return Err(Error::Ahead { asked: version, visible });
        }
        state.pins.pin(version)
    }

    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        self.read_latest(keys, each)
    }

    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        self.check_open()?;
        let state = self.state.get();
        state.pins.check(pin)?;
        self.read_at(&state, pin.version(), keys, each)
    }

    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let state = self.state.get();
        state.pins.check(pin)?;
        self.scan_at(&state, pin.version(), scan, each)
    }

    fn apply(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
        let state = self.state.get();
        let mut writer = state.chains.writer();
        self.check_open()?;
        assert!(!state.pins.have_ended(), "one caller applies and installs");
        check_writes(state.visible(), writes, applied)?;
        if writes.iter().any(|write| write.key < FULL_KEYS_START || write.key >= FULL_KEYS_END) {
            return Err(Error::Failed("a key has no keyspace".into()));
        }
        let guard = crossbeam_epoch::pin();
        state.chains.push(&mut writer, writes, &guard).map_err(|why| self.fail(why))?;
        let membership = {
            let mut progress = state.progress.lock();
            state.visible.store(applied.version.0, Ordering::Release);
            progress.applied = applied;
            progress.membership.clone()
        };
        state.boundaries.lock().note(writes, applied, &membership);
        state.chains.cut(&mut writer, state.cut_horizon(), state.flushed(), writes.len() * APPLY_TRIM_ITEMS, &guard);
        self.note_memory(&state);
        Ok(())
    }

    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error> {
        let state = self.state.get();
        let _writer = state.chains.writer();
        self.check_open()?;
        assert!(!state.pins.have_ended(), "one caller applies and installs");
        check_writes(state.visible(), &[], applied)?;
        let mut progress = state.progress.lock();
        state.visible.store(applied.version.0, Ordering::Release);
        progress.applied = applied;
        progress.membership = membership;
        Ok(())
    }

    fn membership(&self) -> Bytes {
        self.state.get().progress.lock().membership.clone()
    }

    fn stored(&self) -> Applied {
        self.state.get().progress.lock().stored.applied
    }

    fn stored_membership(&self) -> Bytes {
        self.state.get().progress.lock().stored.membership.clone()
    }

    fn follow_log(&self, durable_end: DurableEnd) {
        // Who said it first is asked.
        let _ = self.durable_end.set(durable_end);
    }

    fn maintain(&self) -> Result<bool, Error> {
        self.maintain_piece()
    }

    fn trim(&self, target: Version) -> bool {
        let (state, durable) = (self.state.get(), self.durable());
        let mut writer = state.chains.writer();
        let goal = {
            let mut boundaries = state.boundaries.lock();
            let progress = state.progress.lock();
            boundaries.keep_from(target, progress.applied, &progress.membership, durable).unwrap_or(Version::ZERO)
        };
        state.pins.raise_horizon(goal);
        let guard = crossbeam_epoch::pin();
        let is_left = state.chains.cut(&mut writer, state.cut_horizon(), state.flushed(), TRIM_ITEMS_MAX, &guard);
        writer.hand_over(&guard);
        self.note_memory(&state);
        is_left
    }

    /// `keys` is an upper estimate: what stands in the base and in memory counts twice, as do rows of the base that wait
    /// to be cleared away.
    fn usage(&self) -> Usage {
        let state = self.state.get();
        let (pins, oldest) = state.pins.live();
        Usage {
            pressure: self.pressure(),
            bytes: state.chains.bytes(),
            bytes_max: self.options.memory_bytes_max,
            history_bytes: state.chains.history_bytes(),
            keys: state.base_rows.load(Ordering::Relaxed) + state.chains.keys(),
            pins,
            oldest_pin: oldest.unwrap_or_else(|| state.visible()),
            horizon: state.pins.floor(),
        }
    }

    fn begin_install(
        self: Arc<Self>,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError> {
        Ok(Box::new(DurableInstall::begin(self, Received::nothing(id, applied, membership))?))
    }

    fn persist(&self) -> Result<(), Error> {
        self.flush_all()
    }

    fn close(&self) -> Result<(), Error> {
        // Whoever is flushing or installing is waited for, so that nothing moves once this has returned.
        let _install = self.latest_install.lock();
        let _maintenance = self.maintenance.lock();
        match self.ended.set(CLOSED.into()) {
            Err(_) if self.ended.get().is_some_and(|why| why != CLOSED) => Err(self.fail(CLOSED.into())),
            _ => Ok(()),
        }
    }
}
