//! A naive engine for the tests of this floor: a map from key to all its versions.

use crate::{
    storage::{
        Applied, DurableEnd, Engine, Error, Install, InstallError, Pin, Pins, Row, Scan, Snapshot, Usage, Write,
    },
    types::Version,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

type Chains = BTreeMap<Vec<u8>, BTreeMap<Version, Option<Vec<u8>>>>;

#[derive(Default)]
pub(super) struct NaiveEngine {
    broken: bool,
    chains: Mutex<Chains>,
    applied: Mutex<Applied>,
    pins: Arc<Pins>,
}

/// A snapshot of rows that were all written at version 1.
pub(super) fn snapshot_of<'a>(rows: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Snapshot {
    let engine = NaiveEngine::default();
    let writes: Vec<Write<'_>> =
        rows.into_iter().map(|(key, value)| Write { version: Version(1), key, value: Some(value) }).collect();
    engine.apply(&writes, Applied { version: Version(1), ..Applied::default() }).expect("it cannot fail");
    let engine: Arc<dyn Engine> = Arc::new(engine);
    Snapshot::now(&engine)
}

/// A snapshot of an engine whose reads fail.
pub(super) fn broken_snapshot() -> Snapshot {
    let engine: Arc<dyn Engine> = Arc::new(NaiveEngine { broken: true, ..NaiveEngine::default() });
    Snapshot::now(&engine)
}

fn at(chain: &BTreeMap<Version, Option<Vec<u8>>>, version: Version) -> Option<Row<'_>> {
    let (version, value) = chain.range(..=version).next_back()?;
    Some(Row { version: *version, value: value.as_deref()? })
}

impl Engine for NaiveEngine {
    fn visible(&self) -> Version {
        self.applied.lock().version
    }

    fn applied(&self) -> Applied {
        *self.applied.lock()
    }

    fn pin(&self) -> Pin {
        self.pins.pin(self.visible()).expect("nothing is trimmed")
    }

    fn pin_at(&self, version: Version) -> Result<Pin, Error> {
        self.pins.pin(version)
    }

    fn get_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        let pin = self.pin();
        self.get_at(&pin, keys, &mut |i, row| each(i, pin.version(), row))?;
        Ok(pin.version())
    }

    fn get_at(&self, pin: &Pin, keys: &[&[u8]], each: &mut dyn FnMut(usize, Option<Row<'_>>)) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Failed("broken".into()));
        }
        let chains = self.chains.lock();
        for (i, key) in keys.iter().enumerate() {
            each(i, chains.get(*key).and_then(|chain| at(chain, pin.version())));
        }
        Ok(())
    }

    fn scan(
        &self,
        pin: &Pin,
        scan: Scan<'_>,
        each: &mut dyn FnMut(&[u8], Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Failed("broken".into()));
        }
        let chains = self.chains.lock();
        let mut rows: Vec<_> = chains
            .iter()
            .filter(|(key, _)| scan.range.contains(key))
            .filter_map(|(key, chain)| Some((key, at(chain, pin.version())?)))
            .collect();
        if scan.reverse {
            rows.reverse();
        }
        let _ = rows.into_iter().try_for_each(|(key, row)| each(key, row));
        Ok(())
    }

    fn apply(&self, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
        let mut chains = self.chains.lock();
        for write in writes {
            chains.entry(write.key.to_vec()).or_default().insert(write.version, write.value.map(<[u8]>::to_vec));
        }
        *self.applied.lock() = applied;
        Ok(())
    }

    fn apply_membership(&self, _membership: Bytes, applied: Applied) -> Result<(), Error> {
        self.apply(&[], applied)
    }

    fn membership(&self) -> Bytes {
        Bytes::new()
    }

    fn stored(&self) -> Applied {
        self.applied()
    }

    fn stored_membership(&self) -> Bytes {
        self.membership()
    }

    fn follow_log(&self, _durable_end: DurableEnd) {}

    fn maintain(&self) -> Result<bool, Error> {
        Ok(false)
    }

    fn trim(&self, _: Version) -> bool {
        false
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn begin_install(
        self: Arc<Self>,
        _id: [u8; 16],
        _applied: Applied,
        _membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError> {
        Err(InstallError::Refused("a naive engine takes no snapshots".into()))
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
