//! From rows to a file.

use super::format::{self, BLOCK_BYTES, BlockHead, ROW_OVERHEAD_BYTES, Seal, put_block, put_row};
use super::{Header, Row, Summary};
use crate::types::{
    Version,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    split_full_key,
};
use bytes::BytesMut;
use std::io;

/// Why a backup could not be written. What was written of it is no backup.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A row that no backup holds: whoever gave it is wrong.
    #[error("{0}")]
    Row(&'static str),
    /// The output refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes rows as a backup, a block at a time. One that is dropped before [`Writer::finish`] has written no backup.
///
/// ```
/// use quantadb::backup::{Header, Reader, Row, Writer};
/// use quantadb::types::{ClusterId, Version};
///
/// let header = Header { cluster: ClusterId([7; 16]), version: Version(9), taken_ms: 1_700_000_000_000 };
/// let mut writer = Writer::begin(Vec::new(), header)?;
/// writer.push(&Row { key: b"\0\0\0\x01a", version: Version(3), value: b"x" }).expect("it is in order");
/// let (file, written) = writer.finish(1_700_000_000_000)?;
/// let read = Reader::open(&file[..]).and_then(Reader::verify).expect("it is whole");
/// assert_eq!((read, read.rows), (written, 1));
/// # Ok::<_, std::io::Error>(())
/// ```
pub struct Writer<W> {
    out: W,
    seal: Seal,
    summary: Summary,
    blocks: u64,
    /// Rows of the block that is gathered.
    rows: BytesMut,
    rows_count: u32,
    last_key: Vec<u8>,
    /// What is written at once.
    buffer: BytesMut,
}

impl<W: io::Write> Writer<W> {
    /// Begins a backup with its header.
    pub fn begin(mut out: W, header: Header) -> io::Result<Writer<W>> {
        let mut seal = Seal::new();
        let mut buffer = BytesMut::new();
        format::put_header(&mut buffer, &header, &mut seal);
        out.write_all(&buffer)?;
        let file_bytes = buffer.len() as u64;
        Ok(Writer {
            out,
            seal,
            summary: Summary { header, rows: 0, bytes: 0, clock_ms: 0, file_bytes },
            blocks: 0,
            rows: BytesMut::new(),
            rows_count: 0,
            last_key: Vec::new(),
            buffer,
        })
    }

    /// Adds a row, which must follow the last one in the order of full keys. Writes a block when one is full.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), WriteError> {
        let Some((_, key)) = split_full_key(row.key) else { return Err(WriteError::Row("a row has no keyspace")) };
        if key.len() > KEY_BYTES_MAX || row.value.len() > VALUE_BYTES_MAX {
            return Err(WriteError::Row("a row is longer than a row may be"));
        }
        if self.summary.rows > 0 && row.key <= &self.last_key[..] {
            return Err(WriteError::Row("rows do not come in the order of their keys"));
        }
        if row.version == Version::ZERO || row.version > self.summary.header.version {
            return Err(WriteError::Row("a row is of another version than the backup can hold"));
        }
        let length = ROW_OVERHEAD_BYTES + row.key.len() + row.value.len();
        if self.rows_count > 0 && self.rows.len() + length > BLOCK_BYTES {
            self.write_block()?;
        }
        put_row(&mut self.rows, row);
        self.rows_count += 1;
        self.summary.rows += 1;
        self.summary.bytes += (row.key.len() + row.value.len()) as u64;
        self.last_key.clear();
        self.last_key.extend_from_slice(row.key);
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.rows.len()).expect("a block is bounded by the longest row");
        let head = BlockHead { sequence: self.blocks, rows: self.rows_count, length };
        self.buffer.clear();
        put_block(&mut self.buffer, head, &self.rows, &mut self.seal);
        self.rows.clear();
        self.rows_count = 0;
        self.blocks += 1;
        self.put()
    }

    fn put(&mut self) -> io::Result<()> {
        self.summary.file_bytes += self.buffer.len() as u64;
        self.out.write_all(&self.buffer)
    }

    /// What was added so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Ends the backup. `clock_ms` is a reading of the cluster's clock no earlier than the version. The output is flushed,
    /// not synced.
    pub fn finish(mut self, clock_ms: u64) -> io::Result<(W, Summary)> {
        if self.rows_count > 0 {
            self.write_block()?;
        }
        self.summary.clock_ms = clock_ms;
        self.buffer.clear();
        format::put_footer(&mut self.buffer, self.blocks, &self.summary, &mut self.seal);
        self.put()?;
        self.out.flush()?;
        Ok((self.out, self.summary))
    }
}
