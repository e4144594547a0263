//! From a fuzzer's bytes to a stream of frames in pieces.
//!
//! The first byte says how the rest is read, the next three how the stream is split:
//!
//! | first byte | the rest |
//! |---|---|
//! | even | the stream itself |
//! | odd | the stream, whose lengths are cut to what is there and whose checksums are made right before it is used |
//!
//! So a mutated frame reaches what stands behind the checksums, and wrong checksums are tried as well.

use quantadb::wire::Header;

/// How long the part before the stream is.
pub const PREFIX_BYTES: usize = 4;

/// A stream and where it is split.
pub struct Input {
    /// The bytes.
    pub stream: Vec<u8>,
    splits: [u8; 3],
}

impl Input {
    /// Reads a fuzzer's bytes; `None` if they are too few.
    pub fn new(data: &[u8], preface_bytes: usize) -> Option<Input> {
        let (prefix, stream) = data.split_first_chunk::<PREFIX_BYTES>()?;
        let mut stream = stream.to_vec();
        if prefix[0] & 1 == 1 && stream.len() > preface_bytes {
            repair(&mut stream[preface_bytes..]);
        }
        Some(Input { stream, splits: [prefix[1], prefix[2], prefix[3]] })
    }

    /// The stream in pieces: lengths come from the three bytes in turn, 0 standing for all that is left.
    pub fn pieces(&self) -> Vec<&[u8]> {
        let (mut pieces, mut rest) = (Vec::new(), &self.stream[..]);
        for split in self.splits.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let length = if *split == 0 { rest.len() } else { usize::from(*split).min(rest.len()) };
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// Makes lengths and checksums right, frame by frame, as far as headers go.
fn repair(mut stream: &mut [u8]) {
    while stream.len() >= Header::BYTES {
        let (header, rest) = stream.split_at_mut(Header::BYTES);
        let told = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(told).unwrap_or(usize::MAX).min(rest.len());
        let (payload, after) = rest.split_at_mut(length);
        header[..4].copy_from_slice(&(length as u32).to_be_bytes());
        header[16..20].copy_from_slice(&checksum(payload).to_be_bytes());
        let sum = checksum(&header[..20]);
        header[20..24].copy_from_slice(&sum.to_be_bytes());
        stream = after;
    }
}

/// CRC-32 as zlib has it, by a table of its own: another implementation than the one that is fuzzed.
fn checksum(bytes: &[u8]) -> u32 {
    checksum_on(0, bytes)
}

/// The same, going on from the checksum of what came before.
pub(crate) fn checksum_on(before: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut sum, mut bit) = (byte as u32, 0);
            while bit < 8 {
                sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!before, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}
