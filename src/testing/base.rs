//! A base in memory that crashes, fails and runs full where a script says so.
//!
//! What a run brings is *pending* until its last row and its marker are there, and *durable* in one step then. A crash
//! takes what is pending and leaves what is durable: [`SimulatedBase::crash`] gives the base as the next process finds it, and
//! whoever holds an older one gets errors. So it is with the writes into a space, and with the switch to it; what it has
//! replaced is read by whoever had it, until the crash.
//!
//! ```
//! use quantadb::{
//!     storage::{Base, Marker, RunRow},
//!     testing::base::{BaseCall, BaseFailure, SimulatedBase},
//!     types::Version,
//! };
//!
//! let base = SimulatedBase::new(7);
//! let row = RunRow::new(b"\0\0\0\x01k", Version(1), Some(b"v"));
//! base.fail(BaseCall::WriteRun, 1, BaseFailure::Refused);
//! assert!(base.write_run(&mut [Ok(row.clone())].into_iter(), &Marker::default()).is_err());
//! assert!(base.crash().marker().is_none());
//! ```

use super::generators::Random;
use crate::{
    storage::{Base, BaseError, BaseRow, BaseSpace, BaseUsage, EachBaseRow, Marker, RunRow},
    types::{KeyRange, Version},
};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Rows that one piece of compaction looks at.
const PIECE_ROWS: usize = 16;

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BaseCall {
    /// [`Base::get`].
    Get,
    /// [`Base::scan`].
    Scan,
    /// [`Base::write_run`].
    WriteRun,
    /// [`Base::compact`].
    Compact,
    /// [`Base::available`].
    Available,
    /// [`Base::begin_space`].
    BeginSpace,
    /// [`Base::discard_space`].
    DiscardSpace,
    /// [`BaseSpace::write_rows`].
    WriteRows,
    /// [`BaseSpace::switch`].
    Switch,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseFailure {
    /// Nothing is done, for want of space.
    NoSpace,
    /// Nothing is done, for another reason.
    Refused,
    /// It is done, and an error says that it may not be.
    Doubtful,
}

/// A handle to a simulated base, as one process has it. Clones are of the same process.
#[derive(Clone, Debug)]
pub struct SimulatedBase {
    state: Arc<Mutex<State>>,
    process: u64,
    /// Which of the stores it reads.
    store: u64,
}

#[derive(Debug)]
struct State {
    process: u64,
    /// The present one, those that it replaced and this process may read, and the space.
    stores: BTreeMap<u64, Store>,
    present: u64,
    space: Option<Space>,
    bytes_max: u64,
    random: Random,
    calls: HashMap<BaseCall, u64>,
    planned: HashMap<(BaseCall, u64), BaseFailure>,
}

#[derive(Debug, Default)]
struct Store {
    rows: BTreeMap<(Bytes, Reverse<Version>), Option<Bytes>>,
    marker: Option<Marker>,
    bytes: u64,
}

/// The store that is being filled.
#[derive(Debug)]
struct Space {
    store: u64,
    name: [u8; 16],
    progress: Bytes,
}

impl SimulatedBase {
    /// An empty one without bound. The seed decides what compaction takes.
    #[must_use]
    pub fn new(seed: u64) -> SimulatedBase {
        let state = State {
            process: 0,
            stores: BTreeMap::from([(0, Store::default())]),
            present: 0,
            space: None,
            bytes_max: u64::MAX / 2,
            random: Random::new(seed),
            calls: HashMap::new(),
            planned: HashMap::new(),
        };
        SimulatedBase { state: Arc::new(Mutex::new(state)), process: 0, store: 0 }
    }

    /// Ends this process: what is durable, for the next one.
    #[must_use]
    pub fn crash(&self) -> SimulatedBase {
        let mut state = self.state.lock();
        state.process += 1;
        let (present, space) = (state.present, state.space.as_ref().map(|space| space.store));
        state.stores.retain(|&store, _| store == present || Some(store) == space);
        SimulatedBase { state: Arc::clone(&self.state), process: state.process, store: present }
    }

    /// The `nth` call from now on fails; 1 is the next one.
    pub fn fail(&self, call: BaseCall, nth: u64, failure: BaseFailure) {
        let mut state = self.state.lock();
        let place = state.calls.get(&call).copied().unwrap_or(0) + nth;
        state.planned.insert((call, place), failure);
    }

    /// How often something was called.
    #[must_use]
    pub fn calls(&self, call: BaseCall) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many bytes it may hold.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.state.lock().bytes_max = bytes_max;
    }

    /// Whether a space stands beside it.
    #[must_use]
    pub fn has_space(&self) -> bool {
        self.state.lock().space.is_some()
    }

    /// All versions that it holds, tombstones as `None`, by key and the newest first.
    #[must_use]
    pub fn contents(&self) -> Vec<(Bytes, Version, Option<BaseRow>)> {
        let state = self.state.lock();
        let row = |stored: &Option<Bytes>| stored.clone().and_then(BaseRow::from_stored);
        state.stores[&state.present]
            .rows
            .iter()
            .map(|((key, Reverse(version)), stored)| (key.clone(), *version, row(stored)))
            .collect()
    }

    /// Begins a call: refused if the process has ended, or as planned. `true`: it is done, and then fails.
    fn begin(&self, call: BaseCall) -> Result<bool, BaseError> {
        let mut state = self.state.lock();
        if state.process != self.process {
            return Err(BaseError::Failed("this process has ended".into()));
        }
        let place = state.calls.entry(call).or_insert(0);
        *place += 1;
        let place = *place;
        match state.planned.remove(&(call, place)) {
            None => Ok(false),
            Some(BaseFailure::NoSpace) => Err(BaseError::NoSpace(format!("{call:?} as planned"))),
            Some(BaseFailure::Refused) => Err(failed(call)),
            Some(BaseFailure::Doubtful) => Ok(true),
        }
    }
}

fn failed(call: BaseCall) -> BaseError {
    BaseError::Failed(format!("{call:?} fails as planned"))
}

fn done(call: BaseCall, is_doubtful: bool) -> Result<(), BaseError> {
    if is_doubtful { Err(failed(call)) } else { Ok(()) }
}

fn cost(key: &[u8], stored: Option<&Bytes>) -> u64 {
    (key.len() + stored.map_or(0, Bytes::len) + 16) as u64
}

impl Store {
    fn newest(&self, key: &Bytes, at: Version) -> Option<(Version, Option<Bytes>)> {
        let from = (key.clone(), Reverse(at));
        let ((found, Reverse(version)), stored) = self.rows.range(from..).next()?;
        (found == key).then(|| (*version, stored.clone()))
    }

    /// Of a key, forgets what may be forgotten: versions below a threshold that have a newer one, and a tombstone that
    /// has nothing beside it.
    fn forget(&mut self, key: &Bytes, threshold: Version) -> bool {
        let from = (key.clone(), Reverse(Version(u64::MAX)));
        let of_key = self.rows.range(from..).take_while(|((found, _), _)| found == key);
        let versions: Vec<_> = of_key.map(|((_, Reverse(version)), stored)| (*version, stored.is_some())).collect();
        let is_old = |index: usize, version: Version| index > 0 && version < threshold;
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for (index, (version, is_value)) in versions.into_iter().enumerate() {
            if is_old(index, version) { gone.push(version) } else { kept.push((version, is_value)) }
        }
        if let [(version, false)] = kept[..] {
            gone.push(version);
        }
        for version in &gone {
            if let Some(stored) = self.rows.remove(&(key.clone(), Reverse(*version))) {
                self.bytes -= cost(key, stored.as_ref());
            }
        }
        !gone.is_empty()
    }
}

impl State {
    /// Bytes on the disk. What was replaced gives its room back at once.
    fn bytes(&self) -> u64 {
        let space = self.space.as_ref().map_or(0, |space| self.stores[&space.store].bytes);
        self.stores[&self.present].bytes + space
    }

    fn store(&mut self, store: u64) -> &mut Store {
        self.stores.get_mut(&store).expect("a process that lives finds what it has opened")
    }

    /// Takes rows into a store, if they fit.
    fn insert(&mut self, store: u64, rows: Vec<RunRow>) -> Result<(), BaseError> {
        let bytes: u64 = rows.iter().map(|row| cost(&row.key, row.stored.as_ref())).sum();
        if self.bytes() + bytes > self.bytes_max {
            return Err(BaseError::NoSpace(format!("{bytes} bytes do not fit")));
        }
        let store = self.store(store);
        for row in rows {
            let before = store.rows.insert((row.key, Reverse(row.version)), row.stored);
            assert!(before.is_none(), "a row is stored once");
        }
        store.bytes += bytes;
        Ok(())
    }

    fn remove_space(&mut self) {
        if let Some(space) = self.space.take() {
            self.stores.remove(&space.store);
        }
    }
}

impl SimulatedBase {
    /// The state, for a process that lives and a store that nothing has replaced.
    fn writable(&self) -> Result<MutexGuard<'_, State>, BaseError> {
        let state = self.state.lock();
        if state.process != self.process {
            return Err(BaseError::Failed("this process has ended".into()));
        }
        if state.present != self.store {
            return Err(BaseError::Failed("another has taken its place".into()));
        }
        Ok(state)
    }
}

impl Base for SimulatedBase {
    fn marker(&self) -> Option<Marker> {
        self.state.lock().store(self.store).marker.clone()
    }

    fn get(&self, key: &[u8], at: Version) -> Result<Option<BaseRow>, BaseError> {
        done(BaseCall::Get, self.begin(BaseCall::Get)?)?;
        let newest = self.state.lock().store(self.store).newest(&Bytes::copy_from_slice(key), at);
        Ok(newest.and_then(|(_, stored)| stored).and_then(BaseRow::from_stored))
    }

    fn scan(&self, range: &KeyRange, reverse: bool, at: Version, each: &mut EachBaseRow<'_>) -> Result<(), BaseError> {
        done(BaseCall::Scan, self.begin(BaseCall::Scan)?)?;
        let mut rows: Vec<(Bytes, BaseRow)> = Vec::new();
        {
            let mut state = self.state.lock();
            let mut last: Option<&Bytes> = None;
            let from = (range.start.clone(), Reverse(Version(u64::MAX)));
            for ((key, Reverse(version)), stored) in state.store(self.store).rows.range(from..) {
                if *key >= range.end {
                    break;
                }
                if *version <= at && last != Some(key) {
                    last = Some(key);
                    rows.extend(stored.clone().and_then(BaseRow::from_stored).map(|row| (key.clone(), row)));
                }
            }
        }
        if reverse {
            rows.reverse();
        }
        for (key, row) in rows {
            if each(&key, row.version, row.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write_run(
        &self,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
        marker: &Marker,
    ) -> Result<(), BaseError> {
        let is_doubtful = self.begin(BaseCall::WriteRun)?;
        let mut pending: Vec<RunRow> = Vec::new();
        for row in rows {
            let row = row?;
            if let Some(last) = pending.last() {
                assert!(
                    (&last.key, Reverse(last.version)) < (&row.key, Reverse(row.version)),
                    "{row:?} after {last:?}"
                );
            }
            pending.push(row);
        }
        let mut state = self.writable()?;
        let from = state.store(self.store).marker.as_ref().map_or(Version::ZERO, |marker| marker.applied.version);
        for row in &pending {
            assert!(row.version > from && row.version <= marker.applied.version, "{row:?} in {from:?}..{marker:?}");
        }
        state.insert(self.store, pending)?;
        state.store(self.store).marker = Some(marker.clone());
        drop(state);
        done(BaseCall::WriteRun, is_doubtful)
    }

    fn compact(&self, forget_below: Option<Version>) -> Result<bool, BaseError> {
        let is_doubtful = self.begin(BaseCall::Compact)?;
        let mut state = self.writable()?;
        let mut has_changed = false;
        let count = state.store(self.store).rows.len();
        if count > 0 {
            let first = state.random.index(count);
            let store = state.store(self.store);
            let rows = store.rows.keys().skip(first).chain(store.rows.keys().take(first)).take(PIECE_ROWS);
            let mut keys: Vec<_> = rows.map(|(key, _)| key.clone()).collect();
            keys.dedup();
            for key in keys {
                has_changed |= store.forget(&key, forget_below.unwrap_or(Version::ZERO));
            }
        }
        drop(state);
        done(BaseCall::Compact, is_doubtful)?;
        Ok(has_changed)
    }

    fn usage(&self) -> BaseUsage {
        let mut state = self.state.lock();
        let store = state.store(self.store);
        BaseUsage { disk_bytes: store.bytes, rows: store.rows.len() as u64, runs: 1, compaction_bytes: 0 }
    }

    fn available(&self) -> Result<u64, BaseError> {
        done(BaseCall::Available, self.begin(BaseCall::Available)?)?;
        let state = self.state.lock();
        Ok(state.bytes_max.saturating_sub(state.bytes()))
    }

    fn begin_space(&self, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError> {
        let is_doubtful = self.begin(BaseCall::BeginSpace)?;
        let mut state = self.writable()?;
        if state.space.as_ref().is_none_or(|space| space.name != name) {
            state.remove_space();
            let store = state.present + 1;
            state.stores.insert(store, Store::default());
            state.space = Some(Space { store, name, progress: Bytes::new() });
        }
        let store = state.space.as_ref().map_or(0, |space| space.store);
        drop(state);
        done(BaseCall::BeginSpace, is_doubtful)?;
        Ok(Box::new(SimulatedSpace { base: self.clone(), store }))
    }

    fn space_progress(&self) -> Option<Bytes> {
        self.state.lock().space.as_ref().map(|space| space.progress.clone())
    }

    fn discard_space(&self) -> Result<(), BaseError> {
        let is_doubtful = self.begin(BaseCall::DiscardSpace)?;
        self.writable()?.remove_space();
        done(BaseCall::DiscardSpace, is_doubtful)
    }
}

/// A space beside a simulated base.
struct SimulatedSpace {
    /// Beside which it stands.
    base: SimulatedBase,
    store: u64,
}

impl BaseSpace for SimulatedSpace {
    fn progress(&self) -> Bytes {
        self.base.space_progress().unwrap_or_default()
    }

    fn write_rows(&mut self, rows: &[RunRow], progress: Bytes) -> Result<(), BaseError> {
        let is_doubtful = self.base.begin(BaseCall::WriteRows)?;
        let mut state = self.base.writable()?;
        let mut last = state.store(self.store).rows.keys().next_back().map(|(key, _)| key.clone());
        for row in rows {
            assert!(last.as_ref().is_none_or(|last| *last < row.key), "{row:?} after {last:?}");
            last = Some(row.key.clone());
        }
        state.insert(self.store, rows.to_vec())?;
        state.space.as_mut().expect("whoever has it has not discarded it").progress = progress;
        drop(state);
        done(BaseCall::WriteRows, is_doubtful)
    }

    fn switch(self: Box<Self>, marker: &Marker) -> Result<Arc<dyn Base>, BaseError> {
        let is_doubtful = self.base.begin(BaseCall::Switch)?;
        let mut state = self.base.writable()?;
        state.store(self.store).marker = Some(marker.clone());
        state.present = self.store;
        state.space = None;
        drop(state);
        done(BaseCall::Switch, is_doubtful)?;
        Ok(Arc::new(SimulatedBase { store: self.store, ..self.base }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &'static [u8], version: u64, value: Option<&[u8]>) -> Result<RunRow, BaseError> {
        Ok(RunRow::new(key, Version(version), value))
    }

    fn marker(version: u64) -> Marker {
        let mut marker = Marker { sequence: version, ..Marker::default() };
        marker.applied.version = Version(version);
        marker
    }

    #[test]
    fn a_crash_leaves_what_is_durable_and_ends_who_was_there() {
        let base = SimulatedBase::new(1);
        base.write_run(&mut [row(b"aaaa", 3, Some(b"3"))].into_iter(), &marker(3)).expect("nothing is planned");
        base.fail(BaseCall::WriteRun, 1, BaseFailure::Doubtful);
        assert!(base.write_run(&mut [row(b"aaaa", 4, None)].into_iter(), &marker(4)).is_err());
        let next = base.crash();
        assert!(base.get(b"aaaa", Version(3)).is_err());
        assert_eq!(next.marker(), Some(marker(4)), "doubtful, and done");
        assert_eq!(
            next.get(b"aaaa", Version(3)).expect("it lives").map(|row| row.value().to_vec()),
            Some(b"3".to_vec())
        );
        assert_eq!(next.get(b"aaaa", Version(4)), Ok(None));
    }

    #[test]
    fn a_space_takes_the_place_of_what_its_process_goes_on_reading() {
        let base = SimulatedBase::new(1);
        base.write_run(&mut [row(b"aaaa", 3, Some(b"3"))].into_iter(), &marker(3)).expect("nothing is planned");
        let mut space = base.begin_space([7; 16]).expect("nothing is planned");
        let rows = [row(b"bbbb", 1, Some(b"1")).expect("it is one")];
        space.write_rows(&rows, Bytes::from_static(b"half")).expect("nothing is planned");
        let base = base.crash();
        assert_eq!((base.marker(), base.space_progress()), (Some(marker(3)), Some(Bytes::from_static(b"half"))));
        let space = base.begin_space([7; 16]).expect("nothing is planned");
        assert_eq!(space.progress(), Bytes::from_static(b"half"));
        let next = space.switch(&marker(9)).expect("nothing is planned");
        let version = |base: &dyn Base, key: &[u8]| base.get(key, Version(9)).map(|row| row.map(|row| row.version));
        assert_eq!(version(&base, b"aaaa"), Ok(Some(Version(3))));
        assert_eq!((version(&*next, b"aaaa"), version(&*next, b"bbbb")), (Ok(None), Ok(Some(Version(1)))));
        assert!(base.write_run(&mut [].into_iter(), &marker(4)).is_err() && base.begin_space([8; 16]).is_err());
        let last = base.crash();
        assert_eq!((last.marker(), last.has_space(), last.contents().len()), (Some(marker(9)), false, 1));
    }

    #[test]
    fn compaction_forgets_what_it_may_and_no_more() {
        let base = SimulatedBase::new(1);
        let rows = [row(b"aaaa", 7, Some(b"7")), row(b"aaaa", 3, Some(b"3")), row(b"bbbb", 5, None)];
        base.write_run(&mut rows.into_iter(), &marker(8)).expect("nothing is planned");
        while base.compact(None).expect("nothing is planned") {}
        assert_eq!(base.contents().iter().filter(|(key, ..)| key == "aaaa").count(), 2);
        while base.compact(Some(Version(9))).expect("nothing is planned") {}
        let left: Vec<_> = base.contents().into_iter().map(|(key, version, _)| (key, version)).collect();
        assert_eq!(left, [(Bytes::from_static(b"aaaa"), Version(7))]);
    }
}
