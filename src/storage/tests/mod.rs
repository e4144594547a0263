//! Snapshots from one engine into another, whatever the two are: what arrives, and what readers see meanwhile.

#![allow(clippy::unwrap_used)]

pub(super) mod hooked;
mod threads;
mod transfers;

use super::*;
use crate::{
    env::Env,
    testing::{base::SimulatedBase, directory::TemporaryDirectory},
    types::{KeyspaceId, NodeId, Term},
};

type Rows = Vec<(Vec<u8>, u64, Vec<u8>)>;

/// An engine, and where it lies.
struct Placed {
    engine: Arc<dyn Engine>,
    _directory: Option<TemporaryDirectory>,
}

fn in_memory() -> Placed {
    let engine = MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed: 7 });
    Placed { engine: Arc::new(engine), _directory: None }
}

fn options() -> DurableOptions {
    DurableOptions { slice_bytes: 4 * 1024, reserve_bytes: 0, ..DurableOptions::default() }
}

fn simulated() -> Placed {
    let engine = DurableEngine::over(&Env::real(), Box::new(SimulatedBase::new(1)), options());
    Placed { engine: Arc::new(engine), _directory: None }
}

fn on_disk() -> Placed {
    let directory = TemporaryDirectory::new("engines");
    let engine = DurableEngine::open(&Env::real(), directory.path(), options()).unwrap();
    Placed { engine: Arc::new(engine), _directory: Some(directory) }
}

const ALL: [fn() -> Placed; 3] = [in_memory, simulated, on_disk];

fn key(name: &str) -> Vec<u8> {
    KeyspaceId::DEFAULT.full_key(name.as_bytes()).to_vec()
}

/// The writes of one version, which is one entry's.
fn apply(engine: &dyn Engine, version: u64, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let write = |(key, value): &'_ (Vec<u8>, Option<Vec<u8>>)| (key.clone(), value.clone());
    let owned: Vec<_> = writes.iter().map(write).collect();
    let writes: Vec<_> =
        owned.iter().map(|(key, value)| Write { version: Version(version), key, value: value.as_deref() }).collect();
    engine.apply(&writes, applied(version)).unwrap();
}

fn applied(version: u64) -> Applied {
    let log_id = LogId { term: Term(2), leader: NodeId(1), index: version };
    Applied {
        log_id: Some(log_id),
        version: Version(version),
        chain: version * 31,
        clock_ms: version * 10,
        idempotency_floor: Version(version / 2),
    }
}

fn rows_at(engine: &dyn Engine, pin: &Pin, range: &KeyRange, reverse: bool) -> Result<Rows, Error> {
    let mut rows = Vec::new();
    engine.scan(pin, Scan { range, reverse }, &mut |key, row| {
        rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(rows)
}

fn everything() -> KeyRange {
    KeyRange { start: Bytes::from_static(&[0; 4]), end: Bytes::from_static(&[0xff; 4]) }
}

/// All parts of a capture, and what they amount to.
fn parts(capture: &Capture) -> (Vec<Vec<CapturedRow>>, CaptureTotals) {
    let (mut parts, mut totals, mut start) = (Vec::new(), CaptureTotals::default(), Bytes::new());
    loop {
        let part = capture.part(&start).unwrap();
        totals.add(&part.rows);
        parts.push(part.rows);
        match part.next {
            Some(next) => start = next,
            None => return (parts, totals),
        }
    }
}

fn begin(capture: &Capture, to: &Arc<dyn Engine>, id: u8) -> Result<Box<dyn Install>, InstallError> {
    Arc::clone(to).begin_install([id; 16], capture.applied(), capture.membership().clone())
}

/// Sends all of what one engine holds to another.
fn send(from: &Arc<dyn Engine>, to: &Arc<dyn Engine>) -> Result<(), InstallError> {
    let capture = Capture::now(from);
    let mut install = begin(&capture, to, 1)?;
    let (parts, totals) = parts(&capture);
    for (number, rows) in (0..).zip(&parts) {
        install.part(number, rows)?;
    }
    install.finish(totals)
}

/// A base once nobody has it any more: what a snapshot has replaced is held by the collector until other tests' guards let
/// it go.
pub(super) fn reopened(open: impl Fn() -> Result<LsmBase, OpenError>) -> LsmBase {
    loop {
        match open() {
            Err(OpenError::InUse { .. }) => crossbeam_epoch::pin().flush(),
            base => return base.unwrap(),
        }
        std::thread::yield_now();
    }
}
