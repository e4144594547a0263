//! A space of the base on disk: a tree in a folder of its own, filled by rows in key order.
//!
//! Rows go straight into tables, as those of a run do. Since keys ascend, the tables of all writes together are one run:
//! they are moved to the last level as they are, and nothing is merged or written twice. How far the caller has come cannot lie among the rows: a row of its own in every
//! write would make the writes overlap. It lies in a file beside the tree, which is replaced *before* rows are written, and
//! says both what holds if they are there and what holds if they are not; the last key of the tree tells which:
//!
//! ```text
//! filling:  name · settled { last key "m", progress } · next { last key "z", progress }
//! tree:     … ends with "m": the write broke off       … ends with "z": it is durable
//! ```
//!
//! What cannot be made sense of is removed and begun anew: it is a copy of what another replica has.
//!
//! On disk `filling` is: `format u16 · name 16 · settled · next · CRC-32 of all before u32`; each of the two is the last
//! key (length u32, 0 if there is none, bytes) and the progress (length u32, bytes).

use super::{
    Base, BaseError, BaseSpace, LsmBase, Marker, OpenError, RunRow, full_keys,
    integrity::{check_manifest, settle},
    layout::{PointError, TreeNumber, point_to, remove_filling, remove_tree, space_beside, write_synced},
    lsm::io_error,
};
use crate::{
    encoding::{ReadError, Reader, Writer},
    env::Files,
    types::Version,
};
use bytes::{BufMut, Bytes};
use std::{
    io,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The file that says how far a space has come.
pub(super) const FILLING: &str = "filling";
pub(super) const FILLING_AGAIN: &str = "filling.again";
const FORMAT: u16 = 1;
/// A longer file is not ours.
const FILLING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How far a space has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Point {
    /// The last key in it; empty if there is none.
    last: Bytes,
    progress: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Filling {
    name: [u8; 16],
    settled: Point,
    next: Point,
}

impl Filling {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u16(FORMAT);
        out.put_slice(&self.name);
        for point in [&self.settled, &self.next] {
            out.put_bytes32(&point.last);
            out.put_bytes32(&point.progress);
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// `None` if that is not what was written, or not by this program.
    fn decode(bytes: &[u8]) -> Option<Filling> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let mut reader = Reader::new(body);
        let read = |reader: &mut Reader<'_>| -> Result<(u16, Filling), ReadError> {
            let (format, name) = (reader.u16()?, reader.array16()?);
            let point = |reader: &mut Reader<'_>| -> Result<Point, ReadError> {
                let last = Bytes::copy_from_slice(reader.bytes32()?);
                Ok(Point { last, progress: Bytes::copy_from_slice(reader.bytes32()?) })
            };
            let (settled, next) = (point(reader)?, point(reader)?);
            reader.finish()?;
            Ok((format, Filling { name, settled, next }))
        };
        read(&mut reader).ok().filter(|(format, _)| *format == FORMAT).map(|(_, filling)| filling)
    }

    /// What lies in a folder; `None` if nothing does that can be gone on with.
    fn read(files: &dyn Files, tree: &Path) -> io::Result<Option<Filling>> {
        let path = tree.join(FILLING);
        if files.open(&path, false)?.length()? > FILLING_BYTES_MAX {
            return Ok(None);
        }
        Ok(Filling::decode(&files.read(&path)?))
    }

    /// Puts it in the place of what there was.
    fn write(&self, files: &dyn Files, tree: &Path) -> io::Result<()> {
        let again = tree.join(FILLING_AGAIN);
        write_synced(files, &again, &self.encode())?;
        files.rename(&again, &tree.join(FILLING))?;
        files.sync_directory(tree)
    }
}

/// See the module.
struct LsmSpace {
    base: LsmBase,
    number: u64,
    name: [u8; 16],
    point: Point,
    /// Tells the base that it stands beside that another has taken its place.
    replaces: Arc<AtomicBool>,
}

/// What somebody noted last in the space beside a base.
pub(super) fn progress_beside(base: &LsmBase) -> io::Result<Option<Bytes>> {
    let (files, root) = (base.env().files(), base.root());
    let Some(number) = space_beside(files, root, base.number())? else { return Ok(None) };
    let filling = Filling::read(files, &TreeNumber(Some(number)).directory(root))?;
    Ok(filling.map(|filling| filling.next.progress))
}

/// Removes the space beside a base.
pub(super) fn discard(base: &LsmBase) -> io::Result<()> {
    let (files, root) = (base.env().files(), base.root());
    while let Some(number) = space_beside(files, root, base.number())? {
        remove_tree(files, root, TreeNumber(Some(number)))?;
    }
    Ok(())
}

/// The space of this name beside a base, as far as it goes.
pub(super) fn begin(base: &LsmBase, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError> {
    if let Some(space) = resume(base, name)? {
        return Ok(Box::new(space));
    }
    discard(base).map_err(|error| io_error(&error))?;
    let (files, root) = (base.env().files(), base.root());
    let number = base.number().0.map_or(1, |number| number + 1);
    let tree = TreeNumber(Some(number)).directory(root);
    let filling = Filling { name, settled: Point::default(), next: Point::default() };
    // What an earlier one left, should it have been interrupted where it was made or removed.
    remove_tree(files, root, TreeNumber(Some(number))).map_err(|error| io_error(&error))?;
    files.create_directory(&tree).map_err(|error| io_error(&error))?;
    let space = open(base, number).map_err(failed)?;
    let made = filling.write(files, &tree).and_then(|()| files.sync_directory(root));
    made.map_err(|error| io_error(&error))?;
    Ok(Box::new(LsmSpace { base: space, number, name, point: Point::default(), replaces: base.is_replaced() }))
}

/// What stands beside a base under this name, if sense can be made of it.
fn resume(base: &LsmBase, name: [u8; 16]) -> Result<Option<LsmSpace>, BaseError> {
    let (files, root) = (base.env().files(), base.root());
    let Some(number) = space_beside(files, root, base.number()).map_err(|error| io_error(&error))? else {
        return Ok(None);
    };
    let filling = Filling::read(files, &TreeNumber(Some(number)).directory(root)).map_err(|error| io_error(&error))?;
    let Some(filling) = filling.filter(|filling| filling.name == name) else { return Ok(None) };
    let space = match open(base, number) {
        Ok(space) => space,
        Err(OpenError::Damaged { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let Ok(last) = last_key(&space) else { return Ok(None) };
    let point = [filling.next, filling.settled].into_iter().find(|point| point.last == last);
    Ok(point.map(|point| LsmSpace { base: space, number, name, point, replaces: base.is_replaced() }))
}

/// The tree of a space.
fn open(base: &LsmBase, number: u64) -> Result<LsmBase, OpenError> {
    let tree = TreeNumber(Some(number)).directory(base.root());
    check_manifest(base.env(), &tree, false)?;
    settle(base.env(), &tree)?;
    base.open_beside(TreeNumber(Some(number)))
}

/// The last full key of a tree; empty if it has none.
fn last_key(base: &LsmBase) -> Result<Bytes, BaseError> {
    let mut last = Bytes::new();
    base.scan(&full_keys(), true, Version((1 << 62) - 1), &mut |key, _, _| {
        last = Bytes::copy_from_slice(key);
        ControlFlow::Break(())
    })?;
    Ok(last)
}

/// Moves tables to the last level. Left where runs are merged from, the whole of a space would count as work that needs as
/// much room again.
fn move_down(base: &LsmBase) -> Result<(), BaseError> {
    match base.compact(None) {
        // The next one moves them too.
        Ok(_) | Err(BaseError::NoSpace(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn failed(error: OpenError) -> BaseError {
    match error {
        OpenError::Io { source, .. } => io_error(&source),
        error => BaseError::Failed(error.to_string()),
    }
}

impl BaseSpace for LsmSpace {
    fn progress(&self) -> Bytes {
        self.point.progress.clone()
    }

    fn write_rows(&mut self, rows: &[RunRow], progress: Bytes) -> Result<(), BaseError> {
        let last = rows.last().map_or_else(|| self.point.last.clone(), |row| row.key.clone());
        let next = Point { last, progress };
        let filling = Filling { name: self.name, settled: self.point.clone(), next: next.clone() };
        let directory = TreeNumber(Some(self.number)).directory(self.base.root());
        filling.write(self.base.env().files(), &directory).map_err(|error| io_error(&error))?;
        if !rows.is_empty() {
            self.base.write_rows(rows)?;
        }
        self.point = next;
        move_down(&self.base)
    }

    fn switch(self: Box<Self>, marker: &Marker) -> Result<Arc<dyn Base>, BaseError> {
        let LsmSpace { base, number, replaces, .. } = *self;
        // One that was interrupted here has a marker, and the later of two is the one that is found.
        let sequence = base.marker().map_or(marker.sequence, |before| before.sequence + 1);
        base.write_run(&mut std::iter::empty(), &Marker { sequence, ..marker.clone() })?;
        move_down(&base)?;
        match point_to(base.env(), base.root(), number) {
            Ok(()) => {}
            Err(PointError::Before(error)) => return Err(io_error(&error)),
            Err(PointError::Within(error)) => {
                return Err(BaseError::Failed(format!("{error}; which tree is present is not known until a reopen")));
            }
        }
        replaces.store(true, Ordering::Release);
        // Nothing goes on with it any more. What stays is removed by the next open.
        let directory = TreeNumber(Some(number)).directory(base.root());
        let _ = remove_filling(base.env().files(), &directory);
        Ok(Arc::new(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling() -> Filling {
        let point = |last, progress| Point { last: Bytes::from_static(last), progress: Bytes::from_static(progress) };
        Filling { name: [7; 16], settled: point(b"", b""), next: point(b"\0\0\0\x01m", b"half") }
    }

    #[test]
    fn how_far_a_space_is_stays_as_it_is_on_disk() {
        let bytes = filling().encode();
        let golden = "0001070707070707070707070707070707070000000000000000000000050000\
                      00016d0000000468616c66";
        let hex: String = bytes[..bytes.len() - 4].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(Filling::decode(&bytes), Some(filling()));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_makes_no_sense() {
        let bytes = filling().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Filling::decode(&bytes), None, "bit {bit}");
        }
        (0..bytes.len()).for_each(|len| assert_eq!(Filling::decode(&bytes[..len]), None, "{len} bytes"));
    }
}
