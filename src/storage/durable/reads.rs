//! Point reads: recent first, then the base.

use super::{DurableEngine, State};
use crate::{
    storage::{
        BaseRow, Error, Row,
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
        let state = self.state.get();
        let pin = state.pin();
        let version = pin.version();
        self.read_at(&state, version, keys, &mut |i, row| each(i, version, row))?;
        Ok(version)
    }

    /// One attempt to read up to [`UNPINNED_KEYS_MAX`] keys without a pin.
    fn try_read_latest(
        &self,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Version, Option<Row<'_>>),
    ) -> Result<Option<Version>, Error> {
        let guard = crossbeam_epoch::pin();
        let state = self.state.load(&guard);
        let version = state.visible();
        let mut found = [None; UNPINNED_KEYS_MAX];
        for (keys, found) in keys.chunks(GROUP).zip(found.chunks_mut(GROUP)) {
            state.chains.read(keys, version, &mut found[..keys.len()], &guard);
        }
        let found = &found[..keys.len()];
        let mut below = Vec::new();
        for (key, _) in keys.iter().zip(found).filter(|(_, found)| found.is_none()) {
            below.push(state.base.get(key, version).map_err(|error| self.read_failed(&error))?);
        }
        // Below the floor things are cut and forgotten.
        if state.pins.floor() > version {
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

    /// Reads at a version that is pinned in this state.
    pub(super) fn read_at(
        &self,
        state: &State,
        version: Version,
        keys: &[&[u8]],
        each: &mut dyn FnMut(usize, Option<Row<'_>>),
    ) -> Result<(), Error> {
        for (group, keys) in keys.chunks(GROUP).enumerate() {
            let guard = crossbeam_epoch::pin();
            let mut found = [None; GROUP];
            state.chains.read(keys, version, &mut found[..keys.len()], &guard);
            for (i, (key, found)) in keys.iter().zip(found).enumerate() {
                let index = group * GROUP + i;
                match found {
                    Some(node) => each(index, row(node)),
                    None => {
                        let below = state.base.get(key, version).map_err(|error| self.read_failed(&error))?;
                        each(index, below.as_ref().map(base_row));
                    }
                }
            }
        }
        Ok(())
    }
}
