//! From a fuzzer's bytes to the files of a log.
//!
//! Byte 0 odd: every block is given the checksum that it would need, so that what stands behind the checksums is reached.
//! Then come pieces of 514 bytes: which of four files, which of its 32 blocks, and what stands there. A last piece cut
//! short is filled up with zeros; a file of which no block is named is not there.

use quantadb::testing::files::SimulatedFiles;
use std::{path::PathBuf, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

const BLOCK_BYTES: usize = 512;
const BLOCKS: u8 = 32;

/// Where the log lies.
pub const DIRECTORY: &str = "/log";

/// The files, and how many bytes they hold.
pub fn files(data: &[u8]) -> Option<(Arc<SimulatedFiles>, usize)> {
    let (mode, pieces) = data.split_first()?;
    let files = SimulatedFiles::new();
    let mut there = [false; 4];
    for piece in pieces.chunks(BLOCK_BYTES + 2) {
        let [file, number, content @ ..] = piece else { continue };
        let (file, number) = (usize::from(file % 4), number % BLOCKS);
        let mut block = [0; BLOCK_BYTES];
        block[..content.len()].copy_from_slice(content);
        if mode & 1 == 1 {
            repair(&mut block, number == 0);
        }
        let path = PathBuf::from(format!("{DIRECTORY}/{:08}.seg", file + 1));
        if !there[file] {
            files.plant(&path, 0, &[0; BLOCK_BYTES * BLOCKS as usize]);
        }
        there[file] = true;
        files.plant(&path, u64::from(number) * BLOCK_BYTES as u64, &block);
    }
    let bytes = there.iter().filter(|there| **there).count() * BLOCK_BYTES * usize::from(BLOCKS);
    Some((files, bytes))
}

/// A header's checksum stands at its end, a stamp's at its beginning.
fn repair(block: &mut [u8; BLOCK_BYTES], header: bool) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    if header {
        let sum = xxh3_64(&block[..BLOCK_BYTES - 8]);
        block[BLOCK_BYTES - 8..].copy_from_slice(&sum.to_be_bytes());
    } else {
        let sum = xxh3_64(&block[8..]);
        block[..8].copy_from_slice(&sum.to_be_bytes());
    }
}
