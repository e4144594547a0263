//! A base made from a sorted stream of rows: what a restored backup and a received snapshot become.

use super::{Base, BaseError, LsmBase, LsmOptions, Marker, OpenError, RunRow};
use crate::env::Env;
use std::path::Path;

/// Makes a base in `directory`, which is empty or not there, of rows in key order, one a key, none newer than the
/// marker's version. All of it becomes durable in one step at the end: interrupted before, the directory holds an empty
/// base. An error among the rows is handed back. Costs one write of everything.
pub fn restore_base(
    env: &Env,
    directory: &Path,
    options: LsmOptions,
    rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
    marker: &Marker,
) -> Result<(), OpenError> {
    let base = LsmBase::open(env, directory, options)?;
    if base.marker().is_some() {
        return Err(OpenError::NotEmpty { path: directory.to_owned() });
    }
    let newest = marker.applied.version;
    let mut rows = rows.map(|row| match row {
        Ok(row) if row.version > newest => {
            Err(BaseError::Failed(format!("a row has version {}, and the marker {newest}", row.version)))
        }
        row => row,
    });
    // The run is all that there is, so it is moved to the last level as it is. Left where runs are merged from, the whole
    // of it would count as work that needs as much room again.
    let written = base.write_run(&mut rows, marker).and_then(|()| base.compact(None));
    written
        .map(drop)
        .map_err(|error| OpenError::Io { path: directory.to_owned(), source: std::io::Error::other(error) })
}
