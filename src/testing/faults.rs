//! An engine that fails where a script says so: what the floors above do then can be tested.
//!
//! ```
//! use quantadb::{
//!     storage::{Applied, DurableEnd, Engine, MemoryEngine, MemoryOptions},
//!     testing::faults::{Call, FaultyEngine},
//! };
//! use std::sync::Arc;
//!
//! let engine = FaultyEngine::new(Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 20, hash_seed: 7 })));
//! engine.fail(Call::Apply, 2);
//! assert!(engine.apply(&[], Applied::default()).is_ok());
//! assert!(engine.apply(&[], Applied::default()).is_err(), "the second one");
//! ```

use crate::{
    storage::{Applied, DurableEnd, Engine, Error, Install, InstallError, Pin, Row, Scan, Usage, Write},
    types::Version,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Engine::get_latest`] and [`Engine::get_at`].
    Get,
    /// [`Engine::scan`].
    Scan,
    /// [`Engine::pin_at`].
    PinAt,
    /// [`Engine::apply`]: nothing of the batch is applied.
    Apply,
    /// [`Engine::maintain`].
    Maintain,
    /// [`Engine::persist`].
    Persist,
    /// [`Engine::close`].
    Close,
}

/// An engine with a script of failures over another engine.
pub struct FaultyEngine {
    inner: Arc<dyn Engine>,
    faults: Mutex<Faults>,
    memory_full: AtomicBool,
}

#[derive(Default)]
struct Faults {
    /// How often each was called.
    calls: HashMap<Call, u64>,
    /// Which call fails, and with what.
    planned: HashMap<(Call, u64), Error>,
}

impl FaultyEngine {
    /// No failures yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> FaultyEngine {
        FaultyEngine { inner, faults: Mutex::default(), memory_full: AtomicBool::new(false) }
    }

    /// The `nth` call from now on fails as a machine does; 1 is the next one.
    pub fn fail(&self, call: Call, nth: u64) {
        self.fail_with(call, nth, Error::Failed(format!("{call:?} fails as planned")));
    }

    /// The `nth` call from now on fails with this error.
    pub fn fail_with(&self, call: Call, nth: u64, error: Error) {
        let mut faults = self.faults.lock();
        let place = faults.calls.get(&call).copied().unwrap_or(0) + nth;
        faults.planned.insert((call, place), error);
    }

    /// From now on it says that its memory is full, or no longer.
    pub fn set_memory_full(&self, full: bool) {
        self.memory_full.store(full, Ordering::SeqCst);
    }

    /// How often something was called.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.faults.lock().calls.get(&call).copied().unwrap_or(0)
    }

    fn count(&self, call: Call) -> Result<(), Error> {
        let mut faults = self.faults.lock();
        let place = faults.calls.entry(call).or_insert(0);
        *place += 1;
        let place = *place;
        faults.planned.remove(&(call, place)).map_or(Ok(()), Err)
    }
}

impl Engine for FaultyEngine {
    fn visible(&self) -> Version {
        self.inner.visible()
    }

    fn applied(&self) -> Applied {
        self.inner.applied()
    }

    fn pin(&self) -> Pin {
        self.inner.pin()
    }

    fn pin_at(&self, version: Version) -> Result<Pin, Error> {
        self.count(Call::PinAt)?;
        self.inner.pin_at(version)
    }

    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        self.count(Call::Get)?;
        self.inner.get_latest(keys, each)
    }

    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        self.count(Call::Get)?;
        self.inner.get_at(pin, keys, each)
    }

    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.count(Call::Scan)?;
        self.inner.scan(pin, scan, each)
    }

    fn apply(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
        self.count(Call::Apply)?;
        self.inner.apply(writes, applied)
    }

    fn apply_membership(&self, membership: Bytes, applied: Applied) -> Result<(), Error> {
        self.count(Call::Apply)?;
        self.inner.apply_membership(membership, applied)
    }

    fn membership(&self) -> Bytes {
        self.inner.membership()
    }

    fn stored(&self) -> Applied {
        self.inner.stored()
    }

    fn stored_membership(&self) -> Bytes {
        self.inner.stored_membership()
    }

    fn follow_log(&self, durable_end: DurableEnd) {
        self.inner.follow_log(durable_end);
    }

    fn maintain(&self) -> Result<bool, Error> {
        self.count(Call::Maintain)?;
        self.inner.maintain()
    }

    fn trim(&self, target: Version) -> bool {
        self.inner.trim(target)
    }

    fn usage(&self) -> Usage {
        let usage = self.inner.usage();
        match self.memory_full.load(Ordering::SeqCst) {
            true => Usage { bytes: usage.bytes.max(usage.bytes_max), ..usage },
            false => usage,
        }
    }

    fn begin_install(
        self: Arc<Self>,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError> {
        Arc::clone(&self.inner).begin_install(id, applied, membership)
    }

    fn persist(&self) -> Result<(), Error> {
        self.count(Call::Persist)?;
        self.inner.persist()
    }

    fn close(&self) -> Result<(), Error> {
        self.count(Call::Close)?;
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryEngine, MemoryOptions};

    fn engine() -> FaultyEngine {
        FaultyEngine::new(Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1000, hash_seed: 7 })))
    }

    fn put(engine: &FaultyEngine, version: u64) -> Result<(), Error> {
        let write = Write { version: Version(version), key: b"\0\0\0\x01k", value: Some(b"v") };
        engine.apply(&[write], Applied { version: Version(version), ..Applied::default() })
    }

    #[test]
    fn a_planned_call_fails_and_changes_nothing() {
        let engine = engine();
        assert_eq!(put(&engine, 1), Ok(()));
        engine.fail(Call::Apply, 2);
        assert_eq!(put(&engine, 2), Ok(()));
        assert!(matches!(put(&engine, 3), Err(Error::Failed(_))));
        assert_eq!(engine.visible(), Version(2));
        assert_eq!(put(&engine, 3), Ok(()));
        assert_eq!((engine.calls(Call::Apply), engine.applied().version), (4, Version(3)));
    }

    #[test]
    fn every_call_can_fail() {
        let engine = engine();
        let pin = engine.pin();
        let gone = Error::Gone { asked: Version(0), horizon: Version(9) };
        for call in [Call::Get, Call::Scan, Call::PinAt, Call::Persist, Call::Close] {
            engine.fail_with(call, 1, gone.clone());
        }
        engine.fail(Call::Get, 2);
        let range = crate::types::KeyspaceId::DEFAULT.range();
        let scan = Scan { range: &range, reverse: false };
        assert_eq!(engine.get_latest(&[b"k"], &mut |_, _, _| {}).err(), Some(gone.clone()));
        assert!(matches!(engine.get_at(&pin, &[b"k"], &mut |_, _| {}), Err(Error::Failed(_))));
        assert_eq!(engine.scan(&pin, scan, &mut |_, _| ControlFlow::Continue(())).err(), Some(gone.clone()));
        assert_eq!(engine.pin_at(Version(0)).err(), Some(gone.clone()));
        assert_eq!(engine.persist().err(), Some(gone.clone()));
        assert_eq!(engine.close().err(), Some(gone));
        assert!(engine.pin_at(Version(0)).is_ok() && engine.persist().is_ok(), "once is enough");
        assert!(!engine.trim(Version(0)) && engine.close().is_ok());
    }

    #[test]
    fn memory_is_full_when_told_so() {
        let engine = engine();
        assert!(engine.usage().bytes < engine.usage().bytes_max);
        engine.set_memory_full(true);
        assert!(engine.usage().bytes >= engine.usage().bytes_max);
        engine.set_memory_full(false);
        assert!(engine.usage().bytes < engine.usage().bytes_max);
    }
}
