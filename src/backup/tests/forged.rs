//! Files whose checksums are right and whose content is not: what a wrong writer would make.

use super::super::format::{BLOCK_BYTES_MAX, BlockHead, Seal, put_block, put_footer, put_header, put_row};
use super::super::{Error, Reader, Row, Summary};
use super::{CLOCK_MS, HEADER, key, read};
use crate::types::{
    Version,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use bytes::BytesMut;

/// A file in the making, with right checksums whatever it holds.
struct Forge {
    out: BytesMut,
    seal: Seal,
    summary: Summary,
    blocks: u64,
}

impl Forge {
    fn new() -> Forge {
        let (mut out, mut seal) = (BytesMut::new(), Seal::new());
        put_header(&mut out, &HEADER, &mut seal);
        let summary = Summary { header: HEADER, rows: 0, bytes: 0, clock_ms: CLOCK_MS, file_bytes: 0 };
        Forge { out, seal, summary, blocks: 0 }
    }

    fn head(&self, rows: u32, length: usize) -> BlockHead {
        BlockHead { sequence: self.blocks, rows, length: length as u32 }
    }

    fn block(mut self, rows: &[(&[u8], u64, &[u8])]) -> Forge {
        let mut bytes = BytesMut::new();
        for (key, version, value) in rows {
            put_row(&mut bytes, &Row { key, version: Version(*version), value });
            self.summary.rows += 1;
            self.summary.bytes += (key.len() + value.len()) as u64;
        }
        let head = self.head(rows.len() as u32, bytes.len());
        self.raw(head, &bytes)
    }

    fn raw(mut self, head: BlockHead, rows: &[u8]) -> Forge {
        put_block(&mut self.out, head, rows, &mut self.seal);
        self.blocks += 1;
        self
    }

    fn end(mut self) -> Vec<u8> {
        put_footer(&mut self.out, self.blocks, &self.summary, &mut self.seal);
        self.out.to_vec()
    }
}

fn refused(file: &[u8]) -> (u64, String) {
    let error = read(file).expect_err("it is not right");
    let text = error.to_string();
    (error.offset(), text.split_once(": ").map(|(_, what)| what.to_owned()).unwrap_or_default())
}

#[test]
fn a_forged_file_that_is_right_is_read() {
    let (a, b) = (key("a"), key("b"));
    let file = Forge::new().block(&[(&a, 1, b"x")]).block(&[(&b, 2, b"y")]).end();
    assert_eq!(read(&file).expect("it is right").0, [(a, 1, b"x".to_vec()), (b, 2, b"y".to_vec())]);
}

#[test]
fn rows_that_no_backup_holds_are_refused_where_they_stand() {
    let (a, b) = (key("a"), key("b"));
    let long_key = [&[0, 0, 0, 1][..], &[5; KEY_BYTES_MAX + 1]].concat();
    let long_value = vec![0; VALUE_BYTES_MAX + 1];
    let (order, version) =
        ("a row does not follow the one before it", "a row is of another version than the backup can hold");
    let long = "a row is longer than a row may be";
    // The first row of a file stands at byte 69, behind the header and the head of its block.
    for (rows, offset, what) in [
        (&[(&b[..], 1, &b""[..]), (&a, 1, b"")][..], 69 + 19, order),
        (&[(&a, 1, b""), (&a, 1, b"")], 69 + 19, order),
        (&[(&a, 0, b"")], 69, version),
        (&[(&a, 1, b"x"), (&b, 100, b"")], 69 + 20, version),
        (&[(&long_key, 1, b"")], 69, long),
        (&[(b"\0\0\0\x01", 1, &long_value)], 69, long),
    ] {
        assert_eq!(refused(&Forge::new().block(rows).end()), (offset, what.to_owned()));
    }
    let file = Forge::new().block(&[(&b, 1, b"")]).block(&[(&a, 1, b"")]).end();
    assert_eq!(refused(&file), (69 + 19 + 4 + 21, order.to_owned()));
}

#[test]
fn blocks_that_do_not_hold_what_they_say_are_refused() {
    let mut row = BytesMut::new();
    put_row(&mut row, &Row { key: &key("a"), version: Version(1), value: b"x" });
    let forge = Forge::new;
    let length = row.len();
    let wrong_number = BlockHead { sequence: 1, ..forge().head(1, length) };
    for (head, rows, offset, what) in [
        (forge().head(2, length), &row[..], 69, "the block has another number of rows than it says"),
        (forge().head(0, 0), b"", 48, "the block has no rows"),
        (wrong_number, &row, 48, "the block has another number than comes next"),
        (forge().head(1, length - 1), &row[..length - 1], 69, "a row is longer than its block"),
        (forge().head(1, BLOCK_BYTES_MAX + 1), b"", 48, "the block is longer than a block may be"),
    ] {
        assert_eq!(refused(&forge().raw(head, rows).end()), (offset, what.to_owned()));
    }
}

#[test]
fn a_length_that_lies_allocates_no_more_than_has_come() {
    let forge = Forge::new();
    let head = forge.head(1, BLOCK_BYTES_MAX);
    let file = forge.raw(head, &[0; 3_000]).end();
    let mut reader = Reader::open(&file[..]).expect("it begins");
    let error = reader.next_block::<Error>(&mut |_| Ok(())).expect_err("it ends early");
    assert_eq!(error.offset(), file.len() as u64);
    assert!(reader.capacity() <= 2 * file.len(), "{} bytes", reader.capacity());
}

#[test]
fn a_footer_that_counts_something_else_is_refused() {
    let what = "the footer counts other blocks, rows or bytes than there are";
    for change in [
        |forge: &mut Forge| forge.blocks += 1,
        |forge: &mut Forge| forge.summary.rows += 1,
        |forge: &mut Forge| forge.summary.bytes -= 1,
    ] {
        let mut forge = Forge::new().block(&[(&key("a"), 1, b"x")]);
        change(&mut forge);
        assert_eq!(refused(&forge.end()), (93, what.to_owned()));
    }
}

#[test]
fn a_hash_that_is_not_the_files_is_refused() {
    let mut forge = Forge::new().block(&[(&key("a"), 1, b"x")]);
    // The checksums go on as they should; only the hash has seen something else.
    forge.seal.hash_something_else();
    let what = "the hash of the file is wrong: something before it is not what was written";
    assert_eq!(refused(&forge.end()), (93, what.to_owned()));
}

#[test]
fn a_later_format_is_told_apart_from_a_damaged_one() {
    let mut file = Forge::new().end();
    file[11] = 2;
    assert_eq!(refused(&file), (0, "the checksum of the header is wrong".into()));
    let crc = crc32fast::hash(&file[..44]);
    file[44..48].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(refused(&file), (8, "the file has format 2; this program reads format 1".into()));
}
