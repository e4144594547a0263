//! From a file to its rows, checking everything on the way.

use super::format::{self, BLOCK, BLOCK_HEAD_BYTES, FOOTER, FOOTER_BYTES, FORMAT, HEADER_BYTES, MAGIC, Part, Seal};
use super::{Error, Header, Row, Summary};
use crate::{
    encoding,
    types::{
        Version,
        limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    },
};
use std::io::{self, Read};

/// Reads a backup from front to back. Holds one block; never allocates more than has arrived.
///
/// Rows that were handed out before an error are no backup: whoever keeps them waits for the end.
pub struct Reader<R> {
    source: Counted<R>,
    seal: Seal,
    header: Header,
    blocks: u64,
    rows: u64,
    bytes: u64,
    block: Vec<u8>,
    last_key: Vec<u8>,
}

/// A source, and how far it was read.
struct Counted<R> {
    source: R,
    offset: u64,
}

impl<R: Read> Counted<R> {
    /// As many bytes as there are, up to all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Unreadable { offset: self.offset, source }),
            }
        }
        Ok(filled)
    }

    fn fill_all(&mut self, bytes: &mut [u8], part: &'static str) -> Result<(), Error> {
        let whole = self.fill(bytes)? == bytes.len();
        if whole { Ok(()) } else { Err(Error::Truncated { offset: self.offset, part }) }
    }

    /// So many bytes, in place of what `bytes` held. Grows it with what arrives.
    fn replace(&mut self, bytes: &mut Vec<u8>, length: usize, part: &'static str) -> Result<(), Error> {
        const STEP_BYTES: usize = 1024;
        bytes.clear();
        while bytes.len() < length {
            let start = bytes.len();
            // Doubled, so that a long block is not copied again and again, but never ahead of what has come.
            let step = start.max(STEP_BYTES).min(length - start);
            bytes.reserve_exact(step);
            bytes.resize(start + step, 0);
            self.fill_all(&mut bytes[start..], part)?;
        }
        Ok(())
    }
}

/// What a part says, or where it is damaged.
fn good<T>(part: Result<Part<T>, encoding::ReadError>, offset: u64) -> Result<T, Error> {
    match part {
        Ok(Part::Good(value)) => Ok(value),
        Ok(Part::Damaged(what)) => Err(Error::Damaged { offset, what }),
        Err(_) => Err(Error::Damaged { offset, what: "a part is shorter than its fields" }),
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn open(source: R) -> Result<Reader<R>, Error> {
        let mut source = Counted { source, offset: 0 };
        let mut bytes = [0; HEADER_BYTES];
        let there = source.fill(&mut bytes)?;
        let begins = &bytes[..there.min(MAGIC.len())];
        if !MAGIC.starts_with(begins) {
            return Err(Error::Stranger);
        }
        if there < HEADER_BYTES {
            return Err(Error::Truncated { offset: there as u64, part: "the header" });
        }
        let mut seal = Seal::new();
        let (format, header) = good(format::read_header(&bytes, &mut seal), 0)?;
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let (block, last_key) = (Vec::new(), Vec::new());
        Ok(Reader { source, seal, header, blocks: 0, rows: 0, bytes: 0, block, last_key })
    }

    /// What the backup is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How far the file was read, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.source.offset
    }

    /// Rows read so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads the next block and hands its rows to `each`, in order, once the checksum has spoken for all of them. Returns
    /// what the whole file holds when the end was read instead; after that, and after an error, it is not called again.
    pub fn next_block<E: From<Error>>(
        &mut self,
        each: &mut dyn FnMut(Row<'_>) -> Result<(), E>,
    ) -> Result<Option<Summary>, E> {
        let offset = self.source.offset;
        let mut mark = [0];
        self.source.fill_all(&mut mark, "what follows a block, without its end")?;
        match mark[0] {
            BLOCK => {
                self.read_block(offset)?;
                self.hand_out(offset + BLOCK_HEAD_BYTES as u64, each)?;
                Ok(None)
            }
            FOOTER => Ok(Some(self.read_footer(offset)?)),
            _ => Err(Error::Damaged { offset, what: "neither a block nor the end begins here" }.into()),
        }
    }

    /// Goes on to the end, handing every row to `each`.
    pub fn read_all<E: From<Error>>(mut self, each: &mut dyn FnMut(Row<'_>) -> Result<(), E>) -> Result<Summary, E> {
        loop {
            if let Some(summary) = self.next_block(each)? {
                return Ok(summary);
            }
        }
    }

    /// Checks all of it.
    pub fn verify(self) -> Result<Summary, Error> {
        self.read_all(&mut |_| Ok(()))
    }

    /// What the block in memory takes.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.block.capacity()
    }

    fn read_block(&mut self, offset: u64) -> Result<(), Error> {
        let mut head = [0; BLOCK_HEAD_BYTES];
        head[0] = BLOCK;
        self.source.fill_all(&mut head[1..], "the head of a block")?;
        let head = good(format::read_block_head(&head, self.blocks, &mut self.seal), offset)?;
        self.source.replace(&mut self.block, head.length as usize, "the rows of a block")?;
        let mut crc = [0; 4];
        self.source.fill_all(&mut crc, "the checksum of a block")?;
        if self.seal.check(&self.block) != u32::from_be_bytes(crc) {
            return Err(Error::Damaged { offset, what: "the checksum of the block's rows is wrong" });
        }
        self.check_rows(head.rows, offset + BLOCK_HEAD_BYTES as u64)?;
        self.blocks += 1;
        Ok(())
    }

    /// Whether the block holds so many rows, each within its limits and behind the one before it.
    fn check_rows(&mut self, rows: u32, offset: u64) -> Result<(), Error> {
        let mut reader = encoding::Reader::new(&self.block);
        let mut last_of_block: Option<&[u8]> = None;
        let mut count = 0;
        while !reader.is_empty() {
            let at = offset + reader.position() as u64;
            let wrong = |what| Err(Error::Damaged { offset: at, what });
            let Ok(row) = read_row(&mut reader) else { return wrong("a row is longer than its block") };
            if row.key.len() > 4 + KEY_BYTES_MAX || row.value.len() > VALUE_BYTES_MAX {
                return wrong("a row is longer than a row may be");
            }
            let last = last_of_block.or((self.rows > 0).then_some(&self.last_key[..]));
            if last.is_some_and(|last| row.key <= last) {
                return wrong("a row does not follow the one before it");
            }
            if row.version == Version::ZERO || row.version > self.header.version {
                return wrong("a row is of another version than the backup can hold");
            }
            last_of_block = Some(row.key);
            self.bytes += (row.key.len() + row.value.len()) as u64;
            count += 1;
        }
        if count != rows {
            return Err(Error::Damaged { offset, what: "the block has another number of rows than it says" });
        }
        self.rows += u64::from(rows);
        self.last_key.clear();
        self.last_key.extend_from_slice(last_of_block.unwrap_or_default());
        Ok(())
    }

    fn hand_out<E: From<Error>>(&self, offset: u64, each: &mut dyn FnMut(Row<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut reader = encoding::Reader::new(&self.block);
        while !reader.is_empty() {
            let at = offset + reader.position() as u64;
            let row = read_row(&mut reader);
            each(row.map_err(|_| Error::Damaged { offset: at, what: "a row is longer than its block" })?)?;
        }
        Ok(())
    }

    fn read_footer(&mut self, offset: u64) -> Result<Summary, Error> {
        let mut footer = [0; FOOTER_BYTES];
        footer[0] = FOOTER;
        self.source.fill_all(&mut footer[1..], "the footer")?;
        let read = (self.blocks, self.rows, self.bytes);
        let clock_ms = good(format::read_footer(&footer, read, &mut self.seal), offset)?;
        let file_bytes = self.source.offset;
        if self.source.fill(&mut [0])? > 0 {
            return Err(Error::Damaged { offset: file_bytes, what: "something follows the end of the backup" });
        }
        Ok(Summary { header: self.header, rows: self.rows, bytes: self.bytes, clock_ms, file_bytes })
    }
}

fn read_row<'a>(reader: &mut encoding::Reader<'a>) -> Result<Row<'a>, encoding::ReadError> {
    Ok(Row { key: reader.full_key()?, version: Version(reader.u64()?), value: reader.bytes32()? })
}
