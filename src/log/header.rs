//! The first block of a segment: whose it is, which generation, and how the log stood when it began.
//!
//! It is written and synced before anything else of its generation, so whatever else bears a generation has a header on
//! disk. Vote, purge point and last entry stand in it because the segments before it may be gone.
//!
//! ```text
//!  0       8         12                                                504      512
//!  +-------+---------+-------------------------------------------------+--------+
//!  | magic | version | cluster 16 · node · generation · oldest needed  | xxh3   |
//!  |       |  u32    | · previous · sequence · vote? · purged? · last? |        |
//!  +-------+---------+-------------------------------------------------+--------+
//! ```
//!
//! Magic, version and checksum stand in these places in every version, so that a newer format is told from damage.

use super::{
    Owner, Vote,
    block::BLOCK_BYTES,
    group::{Unreadable, log_id, option, put_log_id, put_vote, vote},
};
use crate::{
    encoding::Reader,
    types::{ClusterId, LogId, NodeId},
};
use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"QDBLOG\r\n";
const VERSION: u32 = 1;
const SUM_AT: usize = BLOCK_BYTES - 8;

/// How the log stands at some point of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    /// The last entry; what is purged, if there is none above.
    pub(super) last: Option<LogId>,
    /// The oldest generation that is still needed.
    pub(super) first_live: u64,
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) owner: Owner,
    pub(super) generation: u64,
    /// Sequence of the last group before this segment, seals aside.
    pub(super) previous: u64,
    /// The sequence that the old segment's seal bears, if it came to that; every group here bears a greater one.
    pub(super) sequence: u64,
    pub(super) standing: Standing,
}

/// What the first block of a file turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstBlock {
    /// Prepared, and never begun.
    Zero,
    /// A header.
    Header(Header),
    /// A whole header of a format that this program does not know.
    Newer(u32),
    /// Anything else.
    Damaged,
}

impl Header {
    /// The block.
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut out = &mut block[..];
        out.put_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_slice(&self.owner.cluster.0);
        out.put_u64(self.owner.node.0);
        out.put_u64(self.generation);
        out.put_u64(self.standing.first_live);
        out.put_u64(self.previous);
        out.put_u64(self.sequence);
        out.put_u8(u8::from(self.standing.vote.is_some()));
        self.standing.vote.into_iter().for_each(|vote| put_vote(&mut out, vote));
        for id in [self.standing.purged, self.standing.last] {
            out.put_u8(u8::from(id.is_some()));
            id.into_iter().for_each(|id| put_log_id(&mut out, id));
        }
        let sum = xxh3_64(&block[..SUM_AT]);
        block[SUM_AT..].copy_from_slice(&sum.to_be_bytes());
        block
    }

    /// Looks at the first block of a file.
    pub(super) fn decode(block: &[u8; BLOCK_BYTES]) -> FirstBlock {
        if block.iter().all(|byte| *byte == 0) {
            return FirstBlock::Zero;
        }
        let (fields, sum) = block.split_at(SUM_AT);
        if sum != xxh3_64(fields).to_be_bytes() || fields[..8] != MAGIC {
            return FirstBlock::Damaged;
        }
        let mut reader = Reader::new(&fields[8..]);
        match reader.u32() {
            Ok(VERSION) => fields_of(&mut reader).map_or(FirstBlock::Damaged, FirstBlock::Header),
            Ok(version) => FirstBlock::Newer(version),
            Err(_) => FirstBlock::Damaged,
        }
    }
}

fn fields_of(reader: &mut Reader<'_>) -> Result<Header, Unreadable> {
    let owner = Owner { cluster: ClusterId(reader.array16()?), node: NodeId(reader.u64()?) };
    let (generation, first_live) = (reader.u64()?, reader.u64()?);
    let (previous, sequence) = (reader.u64()?, reader.u64()?);
    let (vote, purged, last) = (option(reader, vote)?, option(reader, log_id)?, option(reader, log_id)?);
    let last_follows = match (purged, last) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(purged), Some(last)) => last.index > purged.index || last == purged,
    };
    // Generations begin with 1, and none has been needed that is not there yet. Half of the numbers are more than a log gets
    // to, and so nothing overflows.
    let numbers_fit = generation > 0
        && generation < u64::MAX / 2
        && first_live <= generation
        && previous <= sequence
        && sequence < u64::MAX / 2;
    if !last_follows || !numbers_fit {
        return Err(Unreadable);
    }
    Ok(Header { owner, generation, previous, sequence, standing: Standing { vote, purged, last, first_live } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn header() -> Header {
        Header {
            owner: Owner { cluster: ClusterId([7; 16]), node: NodeId(3) },
            generation: 5,
            previous: 40,
            sequence: 41,
            standing: Standing {
                vote: Some(Vote { term: Term(2), node: NodeId(3), committed: true }),
                purged: None,
                last: Some(LogId { term: Term(1), leader: NodeId(3), index: 11 }),
                first_live: 4,
            },
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut other = header();
        other.standing = Standing { purged: other.standing.last, vote: None, first_live: 0, ..other.standing };
        for header in [header(), other] {
            assert_eq!(Header::decode(&header.encode()), FirstBlock::Header(header));
        }
        assert_eq!(Header::decode(&[0; BLOCK_BYTES]), FirstBlock::Zero);
        assert_eq!(Header::decode(&[1; BLOCK_BYTES]), FirstBlock::Damaged);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let mut block = header().encode();
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&block), FirstBlock::Damaged, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_newer_format_is_not_taken_for_damage_and_nonsense_is() {
        let seal = |block: &mut [u8; BLOCK_BYTES]| {
            let sum = xxh3_64(&block[..SUM_AT]);
            block[SUM_AT..].copy_from_slice(&sum.to_be_bytes());
        };
        let mut block = header().encode();
        block[11] = 2;
        seal(&mut block);
        assert_eq!(Header::decode(&block), FirstBlock::Newer(2));
        let mut block = header().encode();
        block[0] = b'X';
        seal(&mut block);
        assert_eq!(Header::decode(&block), FirstBlock::Damaged);
        let purged = header().standing.last;
        for change in [
            &(|header: &mut Header| header.generation = 0) as &dyn Fn(&mut Header),
            &|header| header.generation = u64::MAX,
            &|header| header.standing.first_live = 6,
            &|header| header.previous = 42,
            &|header| header.sequence = u64::MAX,
            &|header| header.standing = Standing { purged, last: None, ..header.standing },
            &|header| header.standing.purged = purged.map(|purged| LogId { index: 12, ..purged }),
            &|header| header.standing.purged = purged.map(|purged| LogId { term: Term(9), ..purged }),
        ] {
            let mut header = header();
            change(&mut header);
            assert_eq!(Header::decode(&header.encode()), FirstBlock::Damaged, "{header:?}");
        }
    }
}
