//! Files as they should be, and every way in which they are not.

mod damage;
mod forged;
mod targets;

use super::format::{BLOCK_BYTES, HEADER_BYTES};
use super::*;
use crate::testing::generators::{Random, property};
use crate::testing::wire::{from_hex, to_hex};
use crate::types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::io::{self, Read};

pub(super) const HEADER: Header =
    Header { cluster: ClusterId([7; 16]), version: Version(99), taken_ms: 1_700_000_000_000 };
pub(super) const CLOCK_MS: u64 = 1_700_000_000_123;

/// A row that owns its bytes: full key, version, value.
pub(super) type Owned = (Vec<u8>, u64, Vec<u8>);

pub(super) fn key(name: &str) -> Vec<u8> {
    [&[0, 0, 0, 1], name.as_bytes()].concat()
}

pub(super) fn written(rows: &[Owned]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), HEADER).expect("memory takes it");
    for (key, version, value) in rows {
        writer.push(&Row { key, version: Version(*version), value }).expect("rows are in order");
    }
    writer.finish(CLOCK_MS).expect("memory takes it").0
}

pub(super) fn read(file: &[u8]) -> Result<(Vec<Owned>, Summary), Error> {
    let mut rows = Vec::new();
    let summary = Reader::open(file)?.read_all(&mut |row| {
        rows.push((row.key.to_vec(), row.version.0, row.value.to_vec()));
        Ok::<_, Error>(())
    })?;
    Ok((rows, summary))
}

/// Three rows in one block.
pub(super) fn few() -> Vec<Owned> {
    vec![(key("a"), 3, b"one".to_vec()), (key("b"), 99, vec![]), (key("bb"), 1, b"three".to_vec())]
}

/// Rows in five blocks, one of which is a single long row.
pub(super) fn many() -> Vec<Owned> {
    let lengths = [40_000, 20_000, 50_000, 10, 200_000, 30_000, 10, 10, 60_000];
    let row = |(number, length): (usize, &usize)| (key(&format!("k{number}")), number as u64 + 1, vec![9; *length]);
    lengths.iter().enumerate().map(row).collect()
}

#[test]
fn what_was_written_is_read() {
    for rows in [vec![], few(), many()] {
        let file = written(&rows);
        let (again, summary) = read(&file).expect("it is whole");
        assert_eq!(again, rows);
        let bytes = rows.iter().map(|row| (row.0.len() + row.2.len()) as u64).sum();
        let file_bytes = file.len() as u64;
        let expected = Summary { header: HEADER, rows: rows.len() as u64, bytes, clock_ms: CLOCK_MS, file_bytes };
        assert_eq!(summary, expected);
    }
}

#[test]
fn any_rows_come_back() {
    fn holds(seed: u64) -> bool {
        let mut random = Random::new(seed);
        let mut rows = std::collections::BTreeMap::new();
        for _ in 0..random.below(60) {
            let key: Vec<u8> = (0..4 + random.below(6)).map(|_| random.below(3) as u8).collect();
            let length = if random.below(8) == 0 { random.below(70_000) } else { random.below(20) };
            rows.insert(key, (1 + random.below(99), vec![random.below(256) as u8; length as usize]));
        }
        let rows: Vec<Owned> = rows.into_iter().map(|(key, (version, value))| (key, version, value)).collect();
        read(&written(&rows)).is_ok_and(|(again, _)| again == rows)
    }
    property(60, holds as fn(u64) -> bool);
}

/// Format 1 as it is written today: whoever changes it writes another format, and still reads this.
#[test]
fn a_file_of_format_1_is_read_and_written_as_ever() {
    let rows = vec![(key("a"), 3, b"x".to_vec())];
    let file = include_str!("format-1.hex");
    let bytes = from_hex(file).expect("it is hexadecimal");
    assert_eq!(to_hex(&written(&rows)), to_hex(&bytes));
    let (read, summary) = read(&bytes).expect("it is whole");
    assert_eq!((read, summary.bytes, summary.file_bytes), (rows, 6, 154));
}

#[test]
fn the_longest_row_has_a_block_of_its_own() {
    let longest = ([&[0, 0, 0, 1][..], &[5; KEY_BYTES_MAX]].concat(), 1, vec![6; VALUE_BYTES_MAX]);
    let rows = vec![(key(""), 1, b"first".to_vec()), longest, (key("z"), 1, b"last".to_vec())];
    let file = written(&rows);
    let mut reader = Reader::open(&file[..]).expect("it begins");
    let mut blocks = Vec::new();
    loop {
        let mut rows = 0;
        let end = reader.next_block::<Error>(&mut |_| {
            rows += 1;
            Ok(())
        });
        if end.expect("it is whole").is_some() {
            break;
        }
        blocks.push((rows, reader.rows(), reader.offset()));
    }
    assert_eq!(blocks.iter().map(|block| (block.0, block.1)).collect::<Vec<_>>(), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(blocks[0].2, HEADER_BYTES as u64 + 25 + 14 + 4 + 5);
    assert!(many().len() > 5 && written(&many()).len() > 4 * BLOCK_BYTES);
}

#[test]
fn a_row_that_no_backup_holds_is_not_written() {
    let mut writer = Writer::begin(Vec::new(), HEADER).expect("memory takes it");
    let mut refused = |key: &[u8], version, value: &[u8]| {
        let pushed = writer.push(&Row { key, version: Version(version), value });
        pushed.expect_err("it is no row").to_string()
    };
    assert_eq!(refused(b"abc", 1, b""), "a row has no keyspace");
    assert_eq!(refused(&[0; 4 + KEY_BYTES_MAX + 1], 1, b""), "a row is longer than a row may be");
    assert_eq!(refused(&key("a"), 1, &vec![0; VALUE_BYTES_MAX + 1]), "a row is longer than a row may be");
    for version in [0, 100] {
        assert_eq!(refused(&key("a"), version, b""), "a row is of another version than the backup can hold");
    }
    writer.push(&Row { key: &key("b"), version: Version(1), value: b"" }).expect("it is in order");
    for name in ["a", "b"] {
        let pushed = writer.push(&Row { key: &key(name), version: Version(1), value: b"" });
        assert!(matches!(pushed, Err(WriteError::Row("rows do not come in the order of their keys"))), "{name}");
    }
    assert_eq!(writer.summary().rows, 1);
    let (file, _) = writer.finish(CLOCK_MS).expect("memory takes it");
    assert_eq!(read(&file).expect("it is whole").0.len(), 1);
}

/// An output that takes so many bytes.
struct Full(usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_refuses_ends_the_backup_wherever_it_does() {
    let all = written(&many()).len();
    for room in [0, HEADER_BYTES, 100_000, all - 1] {
        let write = || -> Result<(), WriteError> {
            let mut writer = Writer::begin(Full(room), HEADER)?;
            for (key, version, value) in &many() {
                writer.push(&Row { key, version: Version(*version), value })?;
            }
            writer.finish(CLOCK_MS)?;
            Ok(())
        };
        let Err(WriteError::Io(error)) = write() else { panic!("{room} bytes are not enough") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
    assert!(Writer::begin(Full(all), HEADER).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_says_how_far() {
    struct Torn<'a>(&'a [u8], bool);
    impl Read for Torn<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            if !std::mem::replace(&mut self.1, true) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.0.is_empty() { Err(io::Error::other("bad sector")) } else { self.0.read(bytes) }
        }
    }
    let file = written(&few());
    let error = Reader::open(Torn(&file[..80], false)).and_then(Reader::verify).expect_err("it ends");
    assert_eq!(error.offset(), 80);
    assert!(matches!(&error, Error::Unreadable { source, .. } if source.to_string() == "bad sector"), "{error}");
    assert_eq!(error.to_string(), "byte 80: the file cannot be read");
}

#[test]
fn a_restore_hands_out_every_row_and_says_where_the_new_timeline_begins() {
    let file = written(&many());
    let mut rows: Vec<Owned> = Vec::new();
    let open = || Reader::open(&file[..]).expect("it begins");
    let restored = restore(open(), |key, version, value| {
        rows.push((key.to_vec(), version.0, value.to_vec()));
        Ok::<_, io::Error>(())
    });
    let restored = restored.expect("it is whole");
    assert_eq!(rows, many());
    assert_eq!((restored.beginning, restored.summary.rows), (Version(99 + TIMELINE_JUMP), rows.len() as u64));
    let mut left = 4;
    let refused = restore(open(), |_, _, _| {
        left -= 1;
        if left == 0 { Err("full") } else { Ok(()) }
    });
    assert!(matches!(refused, Err(RestoreError::Sink("full"))));
    let cut = Reader::open(&file[..file.len() - 1]).expect("it begins");
    let refused = restore(cut, |_, _, _| Ok::<_, io::Error>(()));
    assert!(matches!(refused, Err(RestoreError::File(Error::Truncated { .. }))));
}

#[test]
fn a_timeline_begins_above_all_that_the_old_one_can_have_assigned_and_not_at_the_end_of_numbers() {
    assert_eq!(beginning(Version(5)), Some(Version(5 + (1 << 40))));
    let last = u64::MAX - 2 * TIMELINE_JUMP;
    assert_eq!(beginning(Version(last)), Some(Version(last + TIMELINE_JUMP)));
    for version in [last + 1, u64::MAX] {
        assert_eq!(beginning(Version(version)), None);
    }
    let header = Header { version: Version(u64::MAX), ..HEADER };
    let (file, _) = Writer::begin(Vec::new(), header).and_then(|writer| writer.finish(0)).expect("memory takes it");
    let reader = Reader::open(&file[..]).expect("it begins");
    assert_eq!(reader.header(), &header);
    let refused = restore(reader, |_, _, _| Ok::<_, io::Error>(()));
    assert!(matches!(refused, Err(RestoreError::NoVersions(Version(u64::MAX)))));
}
