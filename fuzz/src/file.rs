//! From a fuzzer's bytes to the file of a backup.
//!
//! An even first byte: the rest is the file. An odd one: its format, its blocks' numbers and lengths, its checksums and its
//! hash are made right first, as far as its parts go, so that what stands behind them is reached.

use crate::input::checksum_on;

const MAGIC: &[u8] = b"QDBB\r\n\x1a\n\0\0\0\x01";
const HEADER_BYTES: usize = 48;
const HEAD_BYTES: usize = 21;
const FOOTER_BYTES: usize = 61;

/// The file that these bytes stand for; `None` if there are none.
pub fn file(data: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = data.split_first()?;
    let mut file = rest.to_vec();
    if first & 1 == 1 {
        repair(&mut file);
    }
    Some(file)
}

fn repair(file: &mut [u8]) {
    if file.len() < HEADER_BYTES {
        return;
    }
    file[..MAGIC.len()].copy_from_slice(MAGIC);
    let mut sum = checksum_on(0, &file[..HEADER_BYTES - 4]);
    file[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
    let (mut at, mut blocks) = (HEADER_BYTES, 0_u64);
    while let Some(mark) = file.get(at).copied() {
        let left = file.len() - at;
        match mark {
            b'B' if left >= HEAD_BYTES + 4 => {
                let told = u32::from_be_bytes(file[at + 13..at + 17].try_into().expect("four bytes"));
                let length = usize::try_from(told).unwrap_or(usize::MAX).min(left - HEAD_BYTES - 4);
                file[at + 1..at + 9].copy_from_slice(&blocks.to_be_bytes());
                file[at + 13..at + 17].copy_from_slice(&(length as u32).to_be_bytes());
                sum = checksum_on(sum, &file[at..at + HEAD_BYTES - 4]);
                file[at + HEAD_BYTES - 4..at + HEAD_BYTES].copy_from_slice(&sum.to_be_bytes());
                let end = at + HEAD_BYTES + length;
                sum = checksum_on(sum, &file[at + HEAD_BYTES..end]);
                file[end..end + 4].copy_from_slice(&sum.to_be_bytes());
                at = end + 4;
                blocks += 1;
            }
            b'E' if left >= FOOTER_BYTES => {
                file[at + 1..at + 9].copy_from_slice(&blocks.to_be_bytes());
                let hash = xxhash_rust::xxh3::xxh3_128(&file[..at + 33]);
                file[at + 33..at + 49].copy_from_slice(&hash.to_be_bytes());
                sum = checksum_on(sum, &file[at..at + 49]);
                file[at + 49..at + 53].copy_from_slice(&sum.to_be_bytes());
                file[at + 53..at + 61].copy_from_slice(b"QDBBEND\n");
                return;
            }
            _ => return,
        }
    }
}
