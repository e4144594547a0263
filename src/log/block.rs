//! Blocks: the 512 bytes that a disk writes whole or not at all, each with a stamp that says what it belongs to.
//!
//! ```text
//!  0        8            16         24      28      32                        512
//!  +--------+------------+----------+-------+-------+--------------------------+
//!  | xxh3   | generation | sequence | index | count | 480 bytes of the group   |
//!  +--------+------------+----------+-------+-------+--------------------------+
//! ```
//!
//! The checksum covers everything behind it, the stamp included, so a whole block cannot pass for one of another
//! generation, another group or another place in its group. A block of zeros has never been written.

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

use crate::encoding::Reader;

/// What a disk writes whole or not at all.
pub(super) const BLOCK_BYTES: usize = 512;
/// The stamp and its checksum.
pub(super) const STAMP_BYTES: usize = 32;
/// What a block carries.
pub(super) const CARRIED_BYTES: usize = BLOCK_BYTES - STAMP_BYTES;
/// What the kernel writes back, and what many disks write inside: groups begin and end at multiples of it, so that what
/// was acknowledged is never written again, and nothing has to be read to be overwritten.
pub(super) const PAGE_BYTES: usize = 4096;

const _: () = assert!(PAGE_BYTES.is_multiple_of(BLOCK_BYTES) && PAGE_BYTES / BLOCK_BYTES > 1);

/// What a block belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Of the segment, when the block was written.
    pub(super) generation: u64,
    /// Of the group.
    pub(super) sequence: u64,
    /// Its place in the group, from 0.
    pub(super) index: u32,
    /// Blocks of the group.
    pub(super) count: u32,
}

/// What 512 bytes turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Never written in this place.
    Zero,
    /// Whole.
    Stamped(Stamp),
    /// Neither: not what anybody wrote.
    Damaged,
}

/// Looks at a block: the whole of it is checked.
pub(super) fn judge(block: &[u8]) -> Block {
    let mut reader = Reader::new(block);
    let mut read = || {
        let checksum = reader.u64()?;
        let (generation, sequence) = (reader.u64()?, reader.u64()?);
        let stamp = Stamp { generation, sequence, index: reader.u32()?, count: reader.u32()? };
        Ok::<_, crate::encoding::ReadError>((checksum, stamp))
    };
    match read() {
        Ok((checksum, stamp)) if block.len() == BLOCK_BYTES && checksum == xxh3_64(&block[8..]) => {
            Block::Stamped(stamp)
        }
        _ if block.iter().all(|byte| *byte == 0) => Block::Zero,
        _ => Block::Damaged,
    }
}

/// Stamps a block whose carried bytes are in place.
pub(super) fn put_stamp(block: &mut [u8], stamp: Stamp) {
    let mut fields = &mut block[8..STAMP_BYTES];
    fields.put_u64(stamp.generation);
    fields.put_u64(stamp.sequence);
    fields.put_u32(stamp.index);
    fields.put_u32(stamp.count);
    let checksum = xxh3_64(&block[8..]);
    block[..8].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { generation: 3, sequence: 70, index: 1, count: 8 };

    #[test]
    fn a_block_is_zero_stamped_or_damaged() {
        let mut block = [0; BLOCK_BYTES];
        assert_eq!(judge(&block), Block::Zero);
        block[STAMP_BYTES..STAMP_BYTES + 5].copy_from_slice(b"hello");
        assert_eq!(judge(&block), Block::Damaged);
        put_stamp(&mut block, STAMP);
        assert_eq!(judge(&block), Block::Stamped(STAMP));
        assert_eq!(judge(&block[..100]), Block::Damaged);
        assert_eq!(judge(&[]), Block::Zero);
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_seen() {
        let mut block = [7; BLOCK_BYTES];
        put_stamp(&mut block, STAMP);
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(judge(&block), Block::Damaged, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
