//! Groups: what is written with one call and made durable with one sync.
//!
//! A group is a string of records, cut into blocks and filled up to a page. Its string begins with the sequence of the
//! group before it (the chain that shows a group to be missing) and with its own length.
//!
//! | record | fields behind its first byte |
//! |---|---|
//! | 1 entry | kind u8, log id, length u32, payload |
//! | 2 vote | term u64, node u64, committed u8 |
//! | 3 truncate | what is last from here on: 0, or 1 and a log id |
//! | 4 purge | log id, the oldest generation that is still needed u64 |
//! | 5 seal | the generation that goes on u64; the last record of its segment |
//!
//! A log id is term u64, leader u64, index u64.

use super::{
    LogEntry, Vote,
    block::{BLOCK_BYTES, Block, CARRIED_BYTES, PAGE_BYTES, STAMP_BYTES, Stamp, judge, put_stamp},
};
use crate::{
    encoding::{ReadError, Reader},
    types::{LogId, NodeId, Term},
};
use bytes::{BufMut, Bytes};

/// Sequence of the group before, and length of the whole string.
const PRELUDE_BYTES: usize = 16;
/// An entry's record without its payload.
pub(super) const ENTRY_HEAD_BYTES: usize = 30;
/// A group that has grown past this gives its memory back.
const KEPT_BYTES_MAX: usize = 16 << 20;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const SEAL: u8 = 5;

/// A record, as it is found; an entry's payload stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An entry: its record stands at `at` in the group's string, `length` bytes long.
    Entry {
        id: LogId,
        at: u64,
        length: u64,
    },
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge {
        up_to: LogId,
        first_live: u64,
    },
    Seal {
        next: u64,
    },
}

/// Why the string of a group, whose blocks are all whole, cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl From<ReadError> for Unreadable {
    fn from(_: ReadError) -> Unreadable {
        Unreadable
    }
}

/// A group being built, in the form in which it is written.
#[derive(Debug, Default)]
pub(super) struct GroupBuffer {
    blocks: Vec<u8>,
    /// Bytes of the string so far.
    length: usize,
    records: usize,
}

impl GroupBuffer {
    /// Begins a new group.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.blocks.shrink_to(KEPT_BYTES_MAX);
        self.length = 0;
        self.records = 0;
        self.put(&[0; PRELUDE_BYTES]);
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes on disk, a whole number of pages.
    pub(super) fn disk_bytes(&self) -> u64 {
        (self.blocks.len() as u64).next_multiple_of(PAGE_BYTES as u64)
    }

    /// Adds an entry. Gives the place of its record in the string, and its length.
    pub(super) fn entry(&mut self, entry: &LogEntry) -> (u64, u64) {
        let at = self.length;
        let mut head = [0; ENTRY_HEAD_BYTES];
        let mut out = &mut head[..];
        out.put_u8(ENTRY);
        out.put_u8(entry.kind);
        put_log_id(&mut out, entry.id);
        out.put_u32(u32::try_from(entry.payload.len()).expect("a payload was checked against the limit"));
        self.put(&head);
        self.put(&entry.payload);
        self.records += 1;
        (at as u64, (self.length - at) as u64)
    }

    /// Adds a record that is no entry.
    pub(super) fn record(&mut self, record: Record) {
        let mut room = [0; 64];
        let mut out = &mut room[..];
        match record {
            Record::Entry { .. } => unreachable!("entries come with their payload"),
            Record::Vote(vote) => {
                out.put_u8(VOTE);
                put_vote(&mut out, vote);
            }
            Record::Truncate(last) => {
                out.put_u8(TRUNCATE);
                out.put_u8(u8::from(last.is_some()));
                last.into_iter().for_each(|last| put_log_id(&mut out, last));
            }
            Record::Purge { up_to, first_live } => {
                out.put_u8(PURGE);
                put_log_id(&mut out, up_to);
                out.put_u64(first_live);
            }
            Record::Seal { next } => {
                out.put_u8(SEAL);
                out.put_u64(next);
            }
        }
        let left = out.len();
        self.put(&room[..room.len() - left]);
        self.records += 1;
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = self.length % CARRIED_BYTES;
            if within == 0 {
                let more = (bytes.len().div_ceil(CARRIED_BYTES)) * BLOCK_BYTES;
                self.blocks.reserve(more);
                self.blocks.resize(self.blocks.len() + BLOCK_BYTES, 0);
            }
            let start = self.blocks.len() - CARRIED_BYTES + within;
            let (now, later) = bytes.split_at(bytes.len().min(CARRIED_BYTES - within));
            self.blocks[start..start + now.len()].copy_from_slice(now);
            self.length += now.len();
            bytes = later;
        }
    }

    /// Fills up the last page, stamps every block, and gives what is to be written.
    pub(super) fn finish(&mut self, generation: u64, sequence: u64, previous: u64) -> &[u8] {
        let length = self.length as u64;
        self.blocks.resize(self.blocks.len().next_multiple_of(PAGE_BYTES), 0);
        let mut prelude = &mut self.blocks[STAMP_BYTES..STAMP_BYTES + PRELUDE_BYTES];
        prelude.put_u64(previous);
        prelude.put_u64(length);
        let count = u32::try_from(self.blocks.len() / BLOCK_BYTES).expect("a group is far below two TiB");
        for (index, block) in (0..count).zip(self.blocks.chunks_exact_mut(BLOCK_BYTES)) {
            put_stamp(block, Stamp { generation, sequence, index, count });
        }
        &self.blocks
    }
}

/// What stands in a whole group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    /// Sequence of the group before it.
    pub(super) previous: u64,
    pub(super) records: Vec<Record>,
}

/// Puts the string of whole blocks together in `string`.
pub(super) fn carried(blocks: &[u8], string: &mut Vec<u8>) {
    string.clear();
    string.reserve(blocks.len() / BLOCK_BYTES * CARRIED_BYTES);
    for block in blocks.chunks_exact(BLOCK_BYTES) {
        string.extend_from_slice(&block[STAMP_BYTES..]);
    }
}

/// Reads the string of a whole group.
pub(super) fn contents(string: &[u8]) -> Result<Contents, Unreadable> {
    let mut reader = Reader::new(string);
    let (previous, length) = (reader.u64()?, reader.u64()?);
    let length = usize::try_from(length).map_err(|_| Unreadable)?;
    let mut reader = Reader::new(string.get(..length).ok_or(Unreadable)?);
    reader.take(PRELUDE_BYTES)?;
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(record(&mut reader)?);
    }
    Ok(Contents { previous, records })
}

fn record(reader: &mut Reader<'_>) -> Result<Record, Unreadable> {
    let at = reader.position() as u64;
    match reader.u8()? {
        ENTRY => {
            reader.u8()?;
            let id = log_id(reader)?;
            reader.bytes32()?;
            Ok(Record::Entry { id, at, length: reader.position() as u64 - at })
        }
        VOTE => Ok(Record::Vote(vote(reader)?)),
        TRUNCATE => Ok(Record::Truncate(option(reader, log_id)?)),
        PURGE => Ok(Record::Purge { up_to: log_id(reader)?, first_live: reader.u64()? }),
        SEAL => Ok(Record::Seal { next: reader.u64()? }),
        _ => Err(Unreadable),
    }
}

/// Reads an entry's record, which is all of `string`.
pub(super) fn entry(string: &[u8]) -> Result<LogEntry, Unreadable> {
    let mut reader = Reader::new(string);
    if reader.u8()? != ENTRY {
        return Err(Unreadable);
    }
    let kind = reader.u8()?;
    let id = log_id(&mut reader)?;
    let payload = Bytes::copy_from_slice(reader.bytes32()?);
    reader.finish()?;
    Ok(LogEntry { id, kind, payload })
}

/// Whether these blocks are blocks `first` and following of that group: whole, and each in its place.
pub(super) fn are_of_group(blocks: &[u8], generation: u64, sequence: u64, first: u32) -> Result<(), usize> {
    for (number, block) in blocks.chunks(BLOCK_BYTES).enumerate() {
        let index = u64::from(first) + number as u64;
        let of_group = match judge(block) {
            Block::Stamped(stamp) => {
                (stamp.generation, stamp.sequence, u64::from(stamp.index)) == (generation, sequence, index)
            }
            Block::Zero | Block::Damaged => false,
        };
        if !of_group {
            return Err(number);
        }
    }
    Ok(())
}

pub(super) fn put_log_id(out: &mut impl BufMut, id: LogId) {
    out.put_u64(id.term.0);
    out.put_u64(id.leader.0);
    out.put_u64(id.index);
}

pub(super) fn log_id(reader: &mut Reader<'_>) -> Result<LogId, Unreadable> {
    let (term, leader, index) = (Term(reader.u64()?), NodeId(reader.u64()?), reader.u64()?);
    // The last index has no successor.
    if index == u64::MAX { Err(Unreadable) } else { Ok(LogId { term, leader, index }) }
}

pub(super) fn put_vote(out: &mut impl BufMut, vote: Vote) {
    out.put_u64(vote.term.0);
    out.put_u64(vote.node.0);
    out.put_u8(u8::from(vote.committed));
}

pub(super) fn vote(reader: &mut Reader<'_>) -> Result<Vote, Unreadable> {
    Ok(Vote { term: Term(reader.u64()?), node: NodeId(reader.u64()?), committed: flag(reader)? })
}

/// A value behind a byte that says whether it is there.
pub(super) fn option<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Unreadable>,
) -> Result<Option<T>, Unreadable> {
    if flag(reader)? { read(reader).map(Some) } else { Ok(None) }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Unreadable> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: Term(2), leader: NodeId(3), index }
    }

    #[test]
    fn what_a_group_was_given_is_found_in_it() {
        let mut buffer = GroupBuffer::default();
        buffer.clear();
        assert!(buffer.is_empty());
        let vote = Vote { term: Term(9), node: NodeId(1), committed: true };
        let entries: Vec<_> = [0, 1, 449, 450, 451, 5000]
            .iter()
            .enumerate()
            .map(|(index, length)| LogEntry {
                id: id(index as u64),
                kind: index as u8,
                payload: (0..*length).map(|byte| byte as u8).collect::<Vec<_>>().into(),
            })
            .collect();
        let mut wanted = Vec::new();
        for entry in &entries {
            let (at, length) = buffer.entry(entry);
            wanted.push(Record::Entry { id: entry.id, at, length });
        }
        for record in [
            Record::Vote(vote),
            Record::Truncate(None),
            Record::Truncate(Some(id(7))),
            Record::Purge { up_to: id(3), first_live: 4 },
            Record::Seal { next: 5 },
        ] {
            buffer.record(record);
            wanted.push(record);
        }
        let bytes = buffer.disk_bytes();
        let blocks = buffer.finish(6, 70, 68).to_vec();
        assert_eq!((blocks.len() as u64, blocks.len() % PAGE_BYTES), (bytes, 0));
        assert_eq!(are_of_group(&blocks, 6, 70, 0), Ok(()));
        assert_eq!(are_of_group(&blocks[BLOCK_BYTES..], 6, 70, 1), Ok(()));
        assert_eq!(are_of_group(&blocks, 6, 71, 0), Err(0));
        assert_eq!(are_of_group(&blocks, 7, 70, 0), Err(0));
        let mut string = Vec::new();
        carried(&blocks, &mut string);
        assert_eq!(contents(&string), Ok(Contents { previous: 68, records: wanted.clone() }));
        for (record, wanted) in wanted.iter().zip(&entries) {
            let Record::Entry { at, length, .. } = record else { panic!("entries come first") };
            let (at, length) = (*at as usize, *length as usize);
            assert_eq!(entry(&string[at..at + length]).as_ref(), Ok(wanted));
        }
        assert_eq!(entry(&string[..40]), Err(Unreadable));
    }

    #[test]
    fn a_string_that_makes_no_sense_is_refused() {
        let string = |records: &[u8]| {
            let mut string = vec![0; 8];
            string.put_u64((PRELUDE_BYTES + records.len()) as u64);
            string.extend_from_slice(records);
            string
        };
        assert_eq!(contents(&string(&[])).map(|contents| contents.records.len()), Ok(0));
        for wrong in [&[0][..], &[6], &[VOTE], &[TRUNCATE, 2], &[ENTRY; 29], &[&[PURGE][..], &[255; 32]].concat()] {
            assert_eq!(contents(&string(wrong)), Err(Unreadable), "{wrong:?}");
        }
        let mut short = string(&[]);
        short[15] = 17;
        assert_eq!(contents(&short), Err(Unreadable));
        assert_eq!(contents(&[0; 9]), Err(Unreadable));
    }
}
