//! The parts of a file between blocks, and what they promise: used by the writer and by the reader.

use super::{Header, Summary};
use crate::{
    encoding::{ReadError, Reader, Writer as _},
    types::{
        ClusterId, Version,
        limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    },
};
use bytes::{BufMut, BytesMut};
use xxhash_rust::xxh3::Xxh3;

/// The format that is written.
pub(super) const FORMAT: u32 = 1;

/// A line end in either form and the byte that ends a text file: a transfer as text changes it.
pub(super) const MAGIC: [u8; 8] = *b"QDBB\r\n\x1a\n";
pub(super) const END_MARK: [u8; 8] = *b"QDBBEND\n";

pub(super) const HEADER_BYTES: usize = 8 + 4 + 16 + 8 + 8 + 4;
pub(super) const BLOCK_HEAD_BYTES: usize = 1 + 8 + 4 + 4 + 4;
pub(super) const FOOTER_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 16 + 4 + 8;
/// Of the footer, what the hash speaks for.
const FOOTER_HASHED_BYTES: usize = 1 + 8 + 8 + 8 + 8;
/// Of the footer, what its checksum speaks for.
const FOOTER_CHECKED_BYTES: usize = FOOTER_HASHED_BYTES + 16;

/// First byte of a block.
pub(super) const BLOCK: u8 = b'B';
/// First byte of the footer. It differs from a block's in more than one bit.
pub(super) const FOOTER: u8 = b'E';

/// Rows that a block gathers, in bytes, unless a single one is longer.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
/// The longest row.
const ROW_BYTES_MAX: usize = ROW_OVERHEAD_BYTES + 4 + KEY_BYTES_MAX + VALUE_BYTES_MAX;
/// The longest rows of a block: nothing longer is read.
pub(super) const BLOCK_BYTES_MAX: usize = ROW_BYTES_MAX;
/// What a row takes besides its full key and its value.
pub(super) const ROW_OVERHEAD_BYTES: usize = 2 + 8 + 4;

const _: () = assert!(BLOCK_BYTES <= BLOCK_BYTES_MAX, "a block of many rows is no longer than the longest row");

/// What speaks for everything up to here: the checksum so far, and the hash.
pub(super) struct Seal {
    crc: u32,
    hash: Xxh3,
}

impl Seal {
    pub(super) fn new() -> Seal {
        Seal { crc: 0, hash: Xxh3::new() }
    }

    /// Goes on over these bytes. Returns the checksum that belongs behind them.
    pub(super) fn check(&mut self, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(bytes);
        self.crc = crc.finalize();
        self.hash.update(bytes);
        self.hash.update(&self.crc.to_be_bytes());
        self.crc
    }

    /// As if a damage had left every checksum right.
    #[cfg(test)]
    pub(super) fn hash_something_else(&mut self) {
        self.hash.update(b"else");
    }

    /// The hash and the checksum of a footer that begins with these bytes.
    fn close(&mut self, hashed: &[u8]) -> ([u8; 16], u32) {
        self.hash.update(hashed);
        let hash = self.hash.digest128().to_be_bytes();
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(hashed);
        crc.update(&hash);
        (hash, crc.finalize())
    }
}

/// What a part says, if its checksum is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<T> {
    Good(T),
    Damaged(&'static str),
}

pub(super) fn put_header(out: &mut BytesMut, header: &Header, seal: &mut Seal) {
    let start = out.len();
    out.put_slice(&MAGIC);
    out.put_u32(FORMAT);
    out.put_slice(&header.cluster.0);
    out.put_u64(header.version.0);
    out.put_u64(header.taken_ms);
    let crc = seal.check(&out[start..]);
    out.put_u32(crc);
}

/// The header and its format, which may be another.
pub(super) fn read_header(bytes: &[u8; HEADER_BYTES], seal: &mut Seal) -> Result<Part<(u32, Header)>, ReadError> {
    let mut reader = Reader::new(&bytes[MAGIC.len()..]);
    let format = reader.u32()?;
    let header =
        Header { cluster: ClusterId(reader.array16()?), version: Version(reader.u64()?), taken_ms: reader.u64()? };
    let right = seal.check(&bytes[..HEADER_BYTES - 4]) == reader.u32()?;
    Ok(if right { Part::Good((format, header)) } else { Part::Damaged("the checksum of the header is wrong") })
}

/// What the head of a block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) sequence: u64,
    pub(super) rows: u32,
    pub(super) length: u32,
}

/// Writes a block around rows; the caller keeps to the limit of their length.
pub(super) fn put_block(out: &mut BytesMut, head: BlockHead, rows: &[u8], seal: &mut Seal) {
    let start = out.len();
    out.put_u8(BLOCK);
    out.put_u64(head.sequence);
    out.put_u32(head.rows);
    out.put_u32(head.length);
    let crc = seal.check(&out[start..]);
    out.put_u32(crc);
    out.put_slice(rows);
    let crc = seal.check(rows);
    out.put_u32(crc);
}

/// The head of the block that comes next.
pub(super) fn read_block_head(
    bytes: &[u8; BLOCK_HEAD_BYTES],
    sequence: u64,
    seal: &mut Seal,
) -> Result<Part<BlockHead>, ReadError> {
    let mut reader = Reader::new(&bytes[1..]);
    let head = BlockHead { sequence: reader.u64()?, rows: reader.u32()?, length: reader.u32()? };
    let right = seal.check(&bytes[..BLOCK_HEAD_BYTES - 4]) == reader.u32()?;
    Ok(match head {
        _ if !right => Part::Damaged("the checksum of the block's head is wrong"),
        head if head.sequence != sequence => Part::Damaged("the block has another number than comes next"),
        head if head.length as usize > BLOCK_BYTES_MAX => Part::Damaged("the block is longer than a block may be"),
        head if head.rows == 0 => Part::Damaged("the block has no rows"),
        head => Part::Good(head),
    })
}

pub(super) fn put_row(out: &mut BytesMut, row: &super::Row<'_>) {
    out.put_full_key(row.key);
    out.put_u64(row.version.0);
    out.put_bytes32(row.value);
}

/// Ends a file. `blocks` is how many it has.
pub(super) fn put_footer(out: &mut BytesMut, blocks: u64, summary: &Summary, seal: &mut Seal) {
    let start = out.len();
    out.put_u8(FOOTER);
    out.put_u64(blocks);
    out.put_u64(summary.rows);
    out.put_u64(summary.bytes);
    out.put_u64(summary.clock_ms);
    let (hash, crc) = seal.close(&out[start..]);
    out.put_slice(&hash);
    out.put_u32(crc);
    out.put_slice(&END_MARK);
}

/// The clock's reading, if the footer says what was read: so many blocks, rows and bytes.
pub(super) fn read_footer(
    bytes: &[u8; FOOTER_BYTES],
    (blocks, rows, total): (u64, u64, u64),
    seal: &mut Seal,
) -> Result<Part<u64>, ReadError> {
    let mut reader = Reader::new(&bytes[1..]);
    let told = (reader.u64()?, reader.u64()?, reader.u64()?);
    let clock_ms = reader.u64()?;
    let told_hash = reader.array16()?;
    let told_crc = reader.u32()?;
    let (hash, _) = seal.close(&bytes[..FOOTER_HASHED_BYTES]);
    let mut crc = crc32fast::Hasher::new_with_initial(seal.crc);
    crc.update(&bytes[..FOOTER_CHECKED_BYTES]);
    Ok(if crc.finalize() != told_crc {
        Part::Damaged("the checksum of the footer is wrong")
    } else if hash != told_hash {
        Part::Damaged("the hash of the file is wrong: something before it is not what was written")
    } else if told != (blocks, rows, total) {
        Part::Damaged("the footer counts other blocks, rows or bytes than there are")
    } else if reader.rest() != END_MARK {
        Part::Damaged("the end mark is not one")
    } else {
        Part::Good(clock_ms)
    })
}
