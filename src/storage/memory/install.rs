//! A snapshot taken into memory: chains of its own, which replace the engine's when all of it is there.
//!
//! Until then both are held, and count once: the bound of the engine holds for each.

use super::{Absent, Chains, MemoryEngine, State};
use crate::storage::{CaptureTotals, CapturedRow, Install, InstallError, Write, install::Received};
use std::{mem, sync::Arc};

/// What has come of a snapshot.
pub(super) struct Partial {
    received: Received,
    chains: Chains,
}

pub(super) struct MemoryInstall {
    engine: Arc<MemoryEngine>,
    /// `None` once it has ended.
    partial: Option<Partial>,
}

impl MemoryInstall {
    /// Goes on with what the engine keeps of the same snapshot, or begins.
    pub(super) fn begin(engine: Arc<MemoryEngine>, wanted: Received) -> Result<MemoryInstall, InstallError> {
        engine.check_open()?;
        let state = engine.state.get();
        wanted.check_ahead(*state.marker.lock(), state.visible())?;
        let kept = engine.partial.lock().take().filter(|kept| kept.received.is_of(&wanted));
        let partial = kept
            .unwrap_or_else(|| Partial { received: wanted, chains: Chains::new(engine.hash_seed, Absent::Nowhere) });
        Ok(MemoryInstall { engine, partial: Some(partial) })
    }
}

impl Install for MemoryInstall {
    fn parts(&self) -> u64 {
        self.partial.as_ref().map_or(0, |partial| partial.received.totals.parts)
    }

    fn part(&mut self, number: u64, rows: &[CapturedRow]) -> Result<(), InstallError> {
        self.engine.check_open()?;
        let partial = self.partial.as_mut().expect("it ends with the call that takes it");
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.len()).sum();
        let held = partial.chains.bytes() + bytes as u64;
        if held > self.engine.bytes_max {
            return Err(InstallError::NoSpace(format!("{held} bytes, and {} are allowed", self.engine.bytes_max)));
        }
        partial.received.add(number, rows)?;
        let writes: Vec<_> =
            rows.iter().map(|row| Write { version: row.version, key: &row.key, value: Some(&row.value) }).collect();
        let guard = crossbeam_epoch::pin();
        let pushed = partial.chains.push(&mut partial.chains.writer(), &writes, &guard);
        pushed.map_err(|why| InstallError::Failed(self.engine.fail(why)))
    }

    fn seal(&mut self, sent: CaptureTotals) -> Result<(), InstallError> {
        self.engine.check_open()?;
        self.partial.as_ref().expect("it ends with the call that takes it").received.check_whole(sent)
    }

    fn finish(mut self: Box<Self>, sent: CaptureTotals) -> Result<(), InstallError> {
        self.engine.check_open()?;
        let Partial { received, chains } = self.partial.take().expect("it ends with the call that takes it");
        received.check_whole(sent)?;
        let old = self.engine.state.get();
        {
            // Held over the switch, so that nothing is applied or trimmed meanwhile.
            let _writer = old.chains.writer();
            let marker = old.marker.lock();
            received.check_ahead(*marker, old.visible())?;
            let state = State::new(chains, received.applied, received.membership);
            // First, so that nobody who sees the new state takes a pin of the old one for another engine's.
            old.pins.end();
            self.engine.state.replace(Arc::new(state));
        }
        self.engine.replaced.lock().push(old);
        Ok(())
    }

    fn abort(mut self: Box<Self>) -> Result<(), InstallError> {
        self.partial = None;
        Ok(())
    }
}

impl Drop for MemoryInstall {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            *self.engine.partial.lock() = Some(partial);
        }
    }
}

impl MemoryEngine {
    /// Frees what was replaced once nobody looks at it any more, and what came of a snapshot that this store has passed by
    /// itself. On a thread that may be busy with it: it costs a look at every row.
    pub(super) fn free_leftovers(&self) {
        let replaced: Vec<_> = {
            let mut replaced = self.replaced.lock();
            let (held, free) = mem::take(&mut *replaced).into_iter().partition(|state| Arc::strong_count(state) > 1);
            *replaced = held;
            free
        };
        drop(replaced);
        let state = self.state.get();
        let here = *state.marker.lock();
        let is_passed = |partial: &mut Partial| partial.received.check_ahead(here, state.visible()).is_err();
        let passed = self.partial.lock().take_if(is_passed);
        drop(passed);
    }

    #[cfg(test)]
    pub(in crate::storage) fn replaced_len(&self) -> usize {
        self.replaced.lock().len()
    }
}
