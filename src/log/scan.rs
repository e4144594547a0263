//! Reading one segment: its groups in order, and what stands behind the last of them.
//!
//! A *place* behind the last whole group is judged block by block. A block there is *old* (zeros, or whole and of an older
//! generation), *new* (whole, of this generation) or *damaged*. A power cut leaves each block old or new, and only the one
//! group that was being written can be torn, for no write overlaps the sync before it. So:
//!
//! | what stands there | what it is |
//! |---|---|
//! | old blocks only | the end |
//! | new blocks of one group that would stand exactly here, some blocks of it old | a torn tail |
//! | new blocks of any other group | corruption: a group is missing |
//! | new and damaged blocks of that group, none old | corruption: it may have been acknowledged |
//! | damaged blocks behind that group | corruption: no write explains them |
//! | damaged blocks, none new, beside old ones in each of their pages | a torn tail: of an acknowledged group every page but a damaged one would be new |
//! | damaged blocks, none new, a page of them without an old one | corruption |

use super::{
    block::{BLOCK_BYTES, Block, PAGE_BYTES, Stamp, judge},
    error::{CallFailed, Calling, Damage},
    group::{Contents, carried, contents},
};
use crate::env::File;
use std::path::Path;

/// What is read at once, if a group is not larger.
const WINDOW_BYTES: u64 = 1 << 20;

/// A group as it was found.
#[derive(Clone, Debug)]
pub(super) struct FoundGroup {
    /// Of its first block.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) sequence: u64,
    pub(super) contents: Contents,
}

/// What stands behind the last group of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing of this generation.
    Clean,
    /// A group that was being written when power was cut. To be zeroed up to `end`.
    Torn { end: u64 },
    /// No power cut explains it.
    Damaged { offset: u64, damage: Damage },
}

/// A segment's file, read through a window.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    path: &'a Path,
    length: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File, path: &'a Path, length: u64) -> Window<'a> {
        Window { file, path, length, buffer: Vec::new(), start: 0 }
    }

    /// Bytes of the file, which must be there.
    pub(super) fn bytes(&mut self, offset: u64, length: u64) -> Result<&[u8], CallFailed> {
        let end = offset + length;
        assert!(end <= self.length, "nothing is read past the file");
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let wanted = length.max(WINDOW_BYTES).min(self.length - offset);
            // No more than the file holds, so within memory.
            self.buffer.resize(usize::try_from(wanted).expect("a segment fits the address space"), 0);
            self.start = offset;
            self.file.read_at(&mut self.buffer, offset).calling("read", self.path)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..from + length as usize])
    }
}

/// The groups of a segment, to the first place that is none. `Err` inside is a group whose blocks are whole and whose
/// records are not understood.
pub(super) fn groups(
    window: &mut Window<'_>,
    generation: u64,
) -> Result<(Vec<FoundGroup>, Result<u64, u64>), CallFailed> {
    let (mut groups, mut string) = (Vec::<FoundGroup>::new(), Vec::new());
    let mut at = PAGE_BYTES as u64;
    while at < window.length {
        let Block::Stamped(stamp) = judge(window.bytes(at, BLOCK_BYTES as u64)?) else { break };
        let bytes = u64::from(stamp.count) * BLOCK_BYTES as u64;
        let whole_pages = bytes > 0 && bytes.is_multiple_of(PAGE_BYTES as u64);
        // Half of the sequences are more than a log gets to.
        let fits = whole_pages && bytes <= window.length - at && stamp.sequence < u64::MAX / 2;
        if stamp.generation != generation || stamp.index != 0 || !fits {
            break;
        }
        let blocks = window.bytes(at, bytes)?;
        let of_group = |(index, block): (usize, &[u8])| match judge(block) {
            Block::Stamped(found) => found.index as usize == index && Stamp { index: 0, ..found } == stamp,
            Block::Zero | Block::Damaged => false,
        };
        if !blocks.chunks_exact(BLOCK_BYTES).enumerate().all(of_group) {
            break;
        }
        carried(blocks, &mut string);
        let Ok(contents) = contents(&string) else { return Ok((groups, Err(at))) };
        groups.push(FoundGroup { offset: at, bytes, sequence: stamp.sequence, contents });
        at += bytes;
    }
    Ok((groups, Ok(at)))
}

/// Judges what stands from `from` on, behind the group of sequence `last`.
pub(super) fn tail(window: &mut Window<'_>, generation: u64, from: u64, last: u64) -> Result<Tail, CallFailed> {
    let mut seen =
        Seen { from, last, group: None, first_damaged: None, last_damaged: None, dead_page: None, end: from };
    let mut old_in_group = false;
    let mut at = from;
    while at < window.length {
        let page = window.bytes(at, PAGE_BYTES as u64)?;
        let (mut olds, mut damaged) = (0, None);
        for (number, block) in page.chunks_exact(BLOCK_BYTES).enumerate() {
            let offset = at + (number * BLOCK_BYTES) as u64;
            match judge(block) {
                Block::Zero => olds += 1,
                Block::Stamped(stamp) if stamp.generation < generation => olds += 1,
                Block::Stamped(stamp) => {
                    if let Some(damage) = seen.new_block(offset, generation, stamp) {
                        return Ok(Tail::Damaged { offset: from, damage });
                    }
                }
                Block::Damaged => damaged = damaged.or(Some(offset)),
            }
        }
        if let Some(offset) = damaged {
            seen.first_damaged = seen.first_damaged.or(Some(offset));
            seen.last_damaged = Some(at);
            seen.end = at + PAGE_BYTES as u64;
            if olds == 0 {
                seen.dead_page = seen.dead_page.or(Some(offset));
            }
        }
        // The group's extent is known from any block of it, but perhaps only from a later one.
        old_in_group |= olds > 0 && seen.group.is_none_or(|(_, end)| at < end);
        at += PAGE_BYTES as u64;
    }
    Ok(seen.verdict(window.length, old_in_group))
}

/// What has been seen behind the last group.
struct Seen {
    from: u64,
    last: u64,
    /// The one group that may stand there, and where it ends.
    group: Option<(Stamp, u64)>,
    first_damaged: Option<u64>,
    /// The last page with a damaged block.
    last_damaged: Option<u64>,
    /// A damaged block in a page without an old one.
    dead_page: Option<u64>,
    /// Behind the last page with a block that is not old.
    end: u64,
}

impl Seen {
    /// Takes in a block that is not old. Gives what is wrong, if it cannot be of the one group that was being written.
    fn new_block(&mut self, offset: u64, generation: u64, found: Stamp) -> Option<Damage> {
        let place = u64::from(found.index) * BLOCK_BYTES as u64;
        let stamp = Stamp { index: 0, ..found };
        let other = found.index >= found.count || self.group.is_some_and(|(group, _)| group != stamp);
        if other || found.generation != generation || found.sequence <= self.last || offset != self.from + place {
            return Some(Damage::GroupMissing { sequence: found.sequence });
        }
        self.group = Some((stamp, self.from + u64::from(found.count) * BLOCK_BYTES as u64));
        self.end = (offset + 1).next_multiple_of(PAGE_BYTES as u64);
        None
    }

    fn verdict(&self, length: u64, old_in_group: bool) -> Tail {
        let damage = |offset| Tail::Damaged { offset, damage: Damage::Block };
        match (self.group, self.first_damaged) {
            (None, None) => Tail::Clean,
            (None, Some(_)) => match self.dead_page {
                Some(offset) => damage(offset),
                None => Tail::Torn { end: self.end },
            },
            (Some((_, end)), _) if end > length => damage(self.from),
            (Some((_, end)), damaged) => match (damaged, self.last_damaged) {
                (Some(_), Some(last)) if last >= end => damage(last),
                _ if !old_in_group => damage(damaged.unwrap_or(self.from)),
                _ => Tail::Torn { end: self.end },
            },
        }
    }
}
