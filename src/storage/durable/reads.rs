//! Point reads: recent first, then the base.

use super::DurableEngine;
use crate::{
    storage::{
        BaseRow, Engine, Error, Pin, Row,
        memory::{GROUP, row},
    },
    types::Version,
};

/// Keys that are read without a pin before any is handed out; for more a pin is taken.
const UNPINNED_KEYS_MAX: usize = 64;
/// Attempts at a read without a pin.
const UNPINNED_ATTEMPTS: usize = 4;

fn base_row(row: &BaseRow) -> Row<'_> {
    Row { version: row.version, value: row.value() }
}

impl DurableEngine {
    pub(super) fn read_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Version, Error> {
        self.check_open()?;
        if keys.len() <= UNPINNED_KEYS_MAX {
            for _ in 0..UNPINNED_ATTEMPTS {
                if let Some(version) = self.try_read_latest(keys, each)? {
                    return Ok(version);
                }
            }
        }
        let pin = self.pin();
        let version = pin.version();
        self.read_at(&pin, keys, &mut |i, row| each(i, version, row))?;
        Ok(version)
    }

    /// One attempt to read up to [`UNPINNED_KEYS_MAX`] keys without a pin.
    fn try_read_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Option<Version>, Error> {
        let guard = crossbeam_epoch::pin();
        let version = self.visible();
        let mut found = [None; UNPINNED_KEYS_MAX];
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            self.chains.read(keys, version, &mut found[..keys.len()], &guard);
        }
        let found = &found[..keys.len()];
        let mut below = Vec::new();
        for (key, _) in keys.iter().zip(found).filter(|(_, found)| found.is_none()) {
            below.push(self.base.get(key, version).map_err(|error| self.read_failed(&error))?);
        }
        // Below the floor things are cut and forgotten.
        if self.pins.floor() > version {
            return Ok(None);
        }
        let mut below = below.iter();
        for (i, found) in found.iter().enumerate() {
            match found {
                Some(node) => each(i, version, row(*node)),
                None => each(i, version, below.next().and_then(Option::as_ref).map(base_row)),
            }
        }
        Ok(Some(version))
    }

    pub(super) fn read_at(
        &self,
        pin: &Pin,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Option<Row<'_>>),
    ) -> Result<(), Error> {
        self.check_open()?;
        assert!(pin.is_of(&self.pins), "a pin of another engine keeps nothing here");
        let version = pin.version();
        for (group, keys) in keys.chunks(GROUP).enumerate() {
            let guard = crossbeam_epoch::pin();
            let mut found = [None; GROUP];
            self.chains.read(keys, version, &mut found[..keys.len()], &guard);
            for (i, (key, found)) in keys.iter().zip(found).enumerate() {
                let index = group * GROUP + i;
                match found {
                    Some(node) => each(index, row(node)),
                    None => {
                        let below = self.base.get(key, version).map_err(|error| self.read_failed(&error))?;
                        each(index, below.as_ref().map(base_row));
                    }
                }
            }
        }
        Ok(())
    }
}
