//! What a disk or a transfer does to a file.

use super::super::format::{BLOCK_HEAD_BYTES, FOOTER_BYTES, HEADER_BYTES};
use super::super::{Error, Writer};
use super::{CLOCK_MS, HEADER, Owned, few, key, many, read, written};
use crate::testing::generators::{Random, property};
use std::ops::Range;

/// Where the parts of a file stand: header, blocks, footer.
fn parts(file: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut parts: Vec<_> = std::iter::once(0..HEADER_BYTES).collect();
    loop {
        let start = parts.last().expect("it has a header").end;
        let end = match file[start] {
            b'B' => start + BLOCK_HEAD_BYTES + number(start + 13) + 4,
            _ => start + FOOTER_BYTES,
        };
        parts.push(start..end);
        if end == file.len() {
            return parts;
        }
    }
}

/// A flipped bit is found, and the offset that is told is the beginning of the part that it stands in.
fn assert_found(file: &mut [u8], parts: &[Range<usize>], bit: usize) {
    let at = bit / 8;
    file[at] ^= 1 << (bit % 8);
    let error = read(file).expect_err("a bit is flipped");
    file[at] ^= 1 << (bit % 8);
    let part = parts.iter().find(|part| part.contains(&at)).expect("every byte is of a part");
    let told = usize::try_from(error.offset()).expect("files are short here");
    assert_eq!(told, part.start, "bit {bit}: {error}");
}

#[test]
fn every_flipped_bit_of_a_small_file_is_found_and_placed() {
    let mut file = written(&few());
    let parts = parts(&file);
    assert_eq!(parts.len(), 3);
    for bit in 0..file.len() * 8 {
        assert_found(&mut file, &parts, bit);
    }
    assert_eq!(read(&file).expect("all are as they were").0, few());
}

#[test]
fn a_thousand_flipped_bits_of_a_long_file_are_found_and_placed() {
    fn holds(seed: u64) -> bool {
        let mut random = Random::new(seed);
        let mut file = long();
        let parts = parts(&file);
        assert!(parts.len() > 4);
        for _ in 0..100 {
            let bit = random.index(8 * file.len());
            assert_found(&mut file, &parts, bit);
        }
        true
    }
    property(10, holds as fn(u64) -> bool);
}

fn long() -> Vec<u8> {
    let rows: Vec<Owned> = (0..40).map(|row| (key(&format!("k{row:02}")), 1 + row, vec![row as u8; 5_000])).collect();
    written(&rows)
}

#[test]
fn a_file_cut_at_any_length_is_no_backup() {
    let file = written(&few());
    for length in 0..file.len() {
        let error = read(&file[..length]).expect_err("it is cut");
        assert!(matches!(error, Error::Truncated { offset, .. } if offset == length as u64), "{length}: {error}");
    }
    let file = written(&many());
    for part in parts(&file) {
        for length in [part.start, part.start + 1, part.start + BLOCK_HEAD_BYTES, part.end - 1] {
            let error = read(&file[..length]).expect_err("it is cut");
            assert_eq!(error.offset(), length as u64, "{error}");
        }
    }
}

#[test]
fn blocks_that_are_moved_doubled_or_missing_are_found_where_they_stand() {
    let file = written(&many());
    let parts = parts(&file);
    let made = |order: &[usize]| order.iter().flat_map(|part| file[parts[*part].clone()].to_vec()).collect::<Vec<u8>>();
    let all: Vec<usize> = (0..parts.len()).collect();
    assert_eq!(made(&all), file);
    let places = parts.len();
    for (changed, at) in [
        ([&[0, 2, 1][..], &all[3..]].concat(), 1),
        ([&[0, 1, 1][..], &all[2..]].concat(), 2),
        ([&[0][..], &all[2..]].concat(), 1),
        ([&all[..places - 2], &all[places - 1..]].concat(), places - 2),
        ([&all[..], &all[..]].concat(), places),
        ([&all[..], &[1][..]].concat(), places),
        ([&all[..], &all[places - 1..]].concat(), places),
    ] {
        let error = read(&made(&changed)).expect_err("it is not what was written");
        let offset = changed[..at].iter().map(|part| parts[*part].len() as u64).sum::<u64>();
        assert_eq!(error.offset(), offset, "{changed:?}: {error}");
    }
}

#[test]
fn a_block_of_another_backup_is_found_where_it_stands() {
    let other_header = super::Header { version: super::Version(100), ..HEADER };
    let mut writer = Writer::begin(Vec::new(), other_header).expect("memory takes it");
    for (key, version, value) in &many() {
        let row = super::Row { key, version: super::Version(*version), value };
        writer.push(&row).expect("rows are in order");
    }
    let (other, _) = writer.finish(CLOCK_MS).expect("memory takes it");
    let mut file = written(&many());
    let parts = parts(&file);
    let place = parts[2].clone();
    file[place.clone()].copy_from_slice(&other[place.clone()]);
    let error = read(&file).expect_err("a block is of another file");
    assert_eq!(error.offset(), place.start as u64, "{error}");
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut file = written(&few());
    let length = file.len() as u64;
    file.push(0);
    let error = read(&file).expect_err("a byte too many");
    assert_eq!(error.to_string(), format!("byte {length}: something follows the end of the backup"));
}

#[test]
fn what_is_no_backup_says_so() {
    for (bytes, text) in [
        (&b""[..], "byte 0: the file ends within the header"),
        (b"QDBB", "byte 4: the file ends within the header"),
        (b"{\"key\":\"a\"}", "byte 0: not the beginning of a backup"),
        (b"QDBB\n\x1a\n and what follows it, as a text transfer leaves it", "byte 0: not the beginning of a backup"),
    ] {
        assert_eq!(read(bytes).expect_err("no backup").to_string(), text);
    }
}
