//! A snapshot taken into a space beside the base, which takes the place of base and memory together.
//!
//! Parts gather in memory until they are worth a write of tables, and become durable together with how far they go. At the
//! end the space becomes the base with a marker of the snapshot's entry, and an engine's state begins anew over it. The state
//! before it stays for the reads that have begun in it, and is let go by [`Engine::maintain`](crate::storage::Engine::maintain).
//!
//! The disk holds both until then. What is left free for the log and for flushes of the old state is not used up by the new
//! one: it waits for room as writes do.

use super::{DurableEngine, State};
use crate::{
    encoding::{ReadError, Reader, Writer},
    storage::{
        Applied, BaseError, BaseSpace, CaptureTotals, CapturedRow, Install, InstallError, Marker, RunRow,
        install::Received,
    },
};
use bytes::{BufMut, Bytes};
use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// The format of what is noted beside the rows.
const FORMAT: u16 = 1;

/// See the module.
pub(super) struct DurableInstall {
    engine: Arc<DurableEngine>,
    /// Shared with the engine by the latest install, the only one that may go on. Whether it is sealed, and must not be
    /// overtaken any more.
    turn: Arc<AtomicBool>,
    space: Box<dyn BaseSpace>,
    received: Received,
    /// Rows that are not durable yet.
    rows: Vec<RunRow>,
    bytes: u64,
}

/// What is noted in a space: `format u16 · id 16 · parts u64 · rows u64 · hash u64 · last key (length u32, 0 if there is
/// none) · the marker to be (length u32)`.
fn encode(received: &Received) -> Bytes {
    let Received { id, totals, last, .. } = received;
    let mut out = Vec::new();
    out.put_u16(FORMAT);
    out.put_slice(id);
    out.put_u64(totals.parts);
    out.put_u64(totals.rows);
    out.put_u64(totals.hash);
    out.put_bytes32(last.as_deref().unwrap_or_default());
    out.put_bytes32(&marker(received).encode());
    out.into()
}

fn marker(received: &Received) -> Marker {
    let Received { applied, membership, .. } = received;
    Marker { sequence: 1, applied: *applied, membership: membership.clone(), installed: true }
}

/// `None` if that is not what this program notes.
fn decode(progress: &[u8]) -> Option<Received> {
    let read = || -> Result<Option<Received>, ReadError> {
        let mut reader = Reader::new(progress);
        let (format, id) = (reader.u16()?, reader.array16()?);
        let totals = CaptureTotals { parts: reader.u64()?, rows: reader.u64()?, hash: reader.u64()? };
        let (last, marker) = (Bytes::copy_from_slice(reader.bytes32()?), Marker::decode(reader.bytes32()?));
        reader.finish()?;
        let last = (!last.is_empty()).then_some(last);
        let received = |Marker { applied, membership, .. }: Marker| Received { id, applied, membership, totals, last };
        Ok(marker.ok().filter(|_| format == FORMAT).map(received))
    };
    read().ok().flatten()
}

impl DurableInstall {
    /// Goes on with what stands beside the base of the same snapshot, or begins.
    pub(super) fn begin(engine: Arc<DurableEngine>, wanted: Received) -> Result<DurableInstall, InstallError> {
        let mut latest = engine.latest_install.lock();
        engine.check_open()?;
        if latest.upgrade().is_some_and(|turn| turn.load(Ordering::Relaxed)) {
            return Err(InstallError::Refused("another install is about to be finished".into()));
        }
        let state = engine.state.get();
        wanted.check_ahead(state.progress.lock().applied, state.visible())?;
        let turn = Arc::<AtomicBool>::default();
        *latest = Arc::downgrade(&turn);
        let begin = || {
            let space = state.base.begin_space(wanted.id)?;
            let noted = space.progress();
            match decode(&noted).filter(|noted| noted.is_of(&wanted)) {
                Some(received) => Ok((space, received)),
                None if noted.is_empty() => fill(space, &wanted),
                None => {
                    // Under the same name, and of something else.
                    drop(space);
                    state.base.discard_space()?;
                    fill(state.base.begin_space(wanted.id)?, &wanted)
                }
            }
        };
        let (space, received) = begin().map_err(|error| engine.install_failed(error))?;
        drop(latest);
        Ok(DurableInstall { engine, turn, space, received, rows: Vec::new(), bytes: 0 })
    }

    /// Whether it may go on.
    fn check_turn(&self, latest: &Weak<AtomicBool>) -> Result<(), InstallError> {
        self.engine.check_open()?;
        if latest.ptr_eq(&Arc::downgrade(&self.turn)) {
            return Ok(());
        }
        Err(InstallError::Refused("another install has begun".into()))
    }

    /// Makes durable what was taken.
    fn write(&mut self) -> Result<(), InstallError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let state = self.engine.state.get();
        let available = state.base.available().map_err(|error| self.engine.install_failed(error))?;
        let needed = self.engine.options.reserve_bytes + self.bytes + self.bytes / 4;
        if available < needed {
            return Err(InstallError::NoSpace(format!("{needed} bytes are needed, and {available} are there")));
        }
        let written = self.space.write_rows(&self.rows, encode(&self.received));
        written.map_err(|error| self.engine.install_failed(error))?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Notes in an empty space what it is to hold.
fn fill(mut space: Box<dyn BaseSpace>, wanted: &Received) -> Result<(Box<dyn BaseSpace>, Received), BaseError> {
    space.write_rows(&[], encode(wanted))?;
    Ok((space, wanted.clone()))
}

impl Install for DurableInstall {
    fn parts(&self) -> u64 {
        self.received.totals.parts
    }

    fn part(&mut self, number: u64, rows: &[CapturedRow]) -> Result<(), InstallError> {
        let engine = Arc::clone(&self.engine);
        let latest = engine.latest_install.lock();
        self.check_turn(&latest)?;
        if self.bytes >= engine.options.slice_bytes {
            // What did not fit the disk may fit it now. Before anything is taken, so that a refused part can come again.
            self.write()?;
        }
        self.received.add(number, rows)?;
        self.bytes += rows.iter().map(|row| (row.key.len() + row.value.len()) as u64).sum::<u64>();
        self.rows.extend(rows.iter().map(|row| RunRow::new(&row.key, row.version, Some(&row.value))));
        Ok(())
    }

    fn seal(&mut self, sent: CaptureTotals) -> Result<(), InstallError> {
        let engine = Arc::clone(&self.engine);
        let latest = engine.latest_install.lock();
        self.check_turn(&latest)?;
        self.received.check_whole(sent)?;
        self.write()?;
        self.turn.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn finish(mut self: Box<Self>, sent: CaptureTotals) -> Result<(), InstallError> {
        let engine = Arc::clone(&self.engine);
        let latest = engine.latest_install.lock();
        self.check_turn(&latest)?;
        if let Err(refused) = self.received.check_whole(sent) {
            discard(self)?;
            return Err(refused);
        }
        self.write()?;
        let DurableInstall { space, received, .. } = *self;
        engine.switch(space, received)
    }

    fn abort(self: Box<Self>) -> Result<(), InstallError> {
        let engine = Arc::clone(&self.engine);
        let latest = engine.latest_install.lock();
        self.check_turn(&latest)?;
        discard(self)
    }
}

/// Removes what was taken.
fn discard(install: Box<DurableInstall>) -> Result<(), InstallError> {
    let DurableInstall { engine, space, .. } = *install;
    drop(space);
    let discarded = engine.state.get().base.discard_space();
    discarded.map_err(|error| engine.install_failed(error))
}

impl DurableEngine {
    /// Makes a whole space the base, and begins anew over it.
    fn switch(&self, space: Box<dyn BaseSpace>, received: Received) -> Result<(), InstallError> {
        // Nobody flushes or merges meanwhile, and nobody applies or trims: what they would do is of what is being replaced.
        let _maintenance = self.maintenance.lock();
        self.check_open()?;
        let old = self.state.get();
        {
            let _writer = old.chains.writer();
            received.check_ahead(old.progress.lock().applied, old.visible())?;
            let base = space.switch(&marker(&received)).map_err(|error| self.install_failed(error))?;
            let state = State::over(&self.env, base, self.options);
            self.note_memory(&state);
            // First, so that nobody who sees the new state takes a pin of the old one for another engine's.
            old.pins.end();
            self.state.replace(Arc::new(state));
        }
        self.replaced.lock().push(old);
        Ok(())
    }

    /// Lets go of what was replaced once nobody reads it any more, memory and files.
    pub(super) fn free_replaced(&self) {
        let free: Vec<_> = {
            let mut replaced = self.replaced.lock();
            let (held, free) = mem::take(&mut *replaced).into_iter().partition(|state| Arc::strong_count(state) > 1);
            *replaced = held;
            free
        };
        drop(free);
    }

    /// Discards a space whose snapshot the store has passed by itself, unless somebody is at it.
    pub(super) fn discard_passed(&self, state: &State) -> Result<(), BaseError> {
        // Whoever has one is told that it was passed when it is finished, and may be at work for long.
        let Some(latest) = self.latest_install.try_lock().filter(|latest| latest.strong_count() == 0) else {
            return Ok(());
        };
        let index = |applied: Applied| applied.log_id.map(|log_id| log_id.index);
        let noted = state.base.space_progress();
        let stored = index(state.progress.lock().stored.applied);
        let is_passed = |noted: &Bytes| decode(noted).is_none_or(|noted| index(noted.applied) <= stored);
        let discarded = if noted.as_ref().is_some_and(is_passed) { state.base.discard_space() } else { Ok(()) };
        drop(latest);
        discarded
    }

    /// What the base refused for an install. But for want of space that ends the engine.
    fn install_failed(&self, error: BaseError) -> InstallError {
        match error {
            BaseError::NoSpace(what) => InstallError::NoSpace(what),
            error => InstallError::Failed(self.fail(format!("a snapshot cannot be written: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogId, NodeId, Term, Version};

    fn received() -> Received {
        let log_id = LogId { term: Term(4), leader: NodeId(5), index: 6 };
        let applied =
            Applied { log_id: Some(log_id), version: Version(7), chain: 8, clock_ms: 9, ..Applied::default() };
        let totals = CaptureTotals { parts: 2, rows: 3, hash: 0x0a0b };
        Received {
            totals,
            last: Some(Bytes::from_static(b"\0\0\0\x01m")),
            ..Received::nothing([7; 16], applied, Bytes::new())
        }
    }

    #[test]
    fn what_is_noted_stays_as_it_is_on_disk() {
        let bytes = encode(&received());
        let hex: String = bytes[..51].iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "00010707070707070707070707070707070700000000000000020000000000000003\
                      0000000000000a0b00000005000000016d";
        assert_eq!((&hex[..], bytes.len()), (golden, 51 + 4 + 75));
        assert_eq!(decode(&bytes), Some(received()));
        let nothing = Received { last: None, ..received() };
        assert_eq!(decode(&encode(&nothing)), Some(nothing));
    }

    #[test]
    fn what_makes_no_sense_is_nothing() {
        let bytes = encode(&received());
        (0..bytes.len()).for_each(|len| assert_eq!(decode(&bytes[..len]), None, "{len} bytes"));
        let later = [&[0, 2], &bytes[2..]].concat();
        assert_eq!((decode(&later), decode(b"")), (None, None));
    }
}
