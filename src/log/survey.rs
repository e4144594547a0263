//! What lies in a log's directory: every segment read, its place in the order found, every contradiction noted.
//!
//! It changes nothing. Opening takes its first finding as the reason to refuse; `check` reports all.

use super::{
    Owner,
    block::{BLOCK_BYTES, Block, PAGE_BYTES, judge},
    error::{CallFailed, Calling, Corruption, Damage, OpenError},
    group::Record,
    header::{FirstBlock, Header},
    replay::{Replay, replay},
    scan::{FoundGroup, Tail, Window, groups, tail},
    segment::{Free, Name, SEGMENT_BYTES_MIN, Segment, is_zero, name},
};
use crate::env::{File, Files};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A segment that is still needed, and what is in it.
pub(super) struct Scanned {
    pub(super) segment: Arc<Segment>,
    pub(super) header: Header,
    pub(super) groups: Vec<FoundGroup>,
    /// Behind its last group.
    pub(super) end: u64,
    /// A torn tail is to be zeroed from `end` to here.
    pub(super) torn: Option<u64>,
}

impl Scanned {
    /// The greatest sequence that is known to have been given out.
    pub(super) fn last_sequence(&self) -> u64 {
        self.groups.last().map_or(self.header.sequence, |group| group.sequence)
    }

    /// Sequence of the last group up to here, seals aside.
    pub(super) fn last_unsealed(&self) -> u64 {
        let sealed = usize::from(self.sealed().is_some());
        self.groups.iter().rev().nth(sealed).map_or(self.header.previous, |group| group.sequence)
    }

    /// The generation that goes on, if the segment is sealed.
    pub(super) fn sealed(&self) -> Option<u64> {
        match self.groups.last()?.contents.records[..] {
            [Record::Seal { next }] => Some(next),
            _ => None,
        }
    }
}

/// All that was found.
pub(super) struct Survey {
    /// By generation.
    pub(super) live: Vec<Scanned>,
    /// Segments that may be begun.
    pub(super) free: Vec<Free>,
    /// Preparations that a crash interrupted.
    pub(super) unfinished: Vec<PathBuf>,
    /// Greater than the number of every file.
    pub(super) next_number: u64,
    pub(super) owner: Option<Owner>,
    /// What no power cut explains.
    pub(super) findings: Vec<Corruption>,
    /// What the groups amount to.
    pub(super) replay: Replay,
    /// Bytes of all files.
    pub(super) disk_bytes: u64,
}

/// A file whose header was looked at.
struct Looked {
    free: Free,
    first: FirstBlock,
    /// Generation of the first block behind the header's page.
    behind: u64,
}

/// Reads a directory. `wanted` is whose log it must be, if that is known.
pub(super) fn survey(files: &dyn Files, directory: &Path, wanted: Option<Owner>) -> Result<Survey, OpenError> {
    let mut survey = Survey {
        live: Vec::new(),
        free: Vec::new(),
        unfinished: Vec::new(),
        next_number: 1,
        owner: wanted,
        findings: Vec::new(),
        replay: Replay::default(),
        disk_bytes: 0,
    };
    let mut looked = Vec::new();
    for found in files.list(directory).calling("list", directory)? {
        let path = directory.join(&found);
        match name(&found) {
            Name::Segment(number) => {
                survey.next_number = survey.next_number.max(number.saturating_add(1));
                looked.extend(survey.look(files, path)?);
            }
            Name::Unfinished(number) => {
                survey.next_number = survey.next_number.max(number.saturating_add(1));
                survey.unfinished.push(path);
            }
            Name::Other => {}
        }
    }
    survey.order(looked)?;
    survey.connect();
    survey.replay = replay(&survey.live, &mut survey.findings);
    Ok(survey)
}

impl Survey {
    fn find(&mut self, path: &Path, offset: u64, damage: Damage) {
        self.findings.push(Corruption { path: path.to_owned(), offset, damage });
    }

    /// Looks at a file's header, and whether it is newer than what stands behind it.
    fn look(&mut self, files: &dyn Files, path: PathBuf) -> Result<Option<Looked>, OpenError> {
        let file: Arc<dyn File> = files.open(&path, false).calling("open", &path)?.into();
        let length = file.length().calling("length", &path)?;
        self.disk_bytes += length;
        if length < SEGMENT_BYTES_MIN || !length.is_multiple_of(PAGE_BYTES as u64) {
            self.find(&path, 0, Damage::Length { bytes: length });
            return Ok(None);
        }
        let mut block = [0; BLOCK_BYTES];
        file.read_at(&mut block, 0).calling("read", &path)?;
        let first = Header::decode(&block);
        match first {
            FirstBlock::Newer(version) => return Err(OpenError::Newer { path, version }),
            FirstBlock::Header(Header { owner: found, .. }) => {
                let wanted = *self.owner.get_or_insert(found);
                if found != wanted {
                    return Err(OpenError::Foreign { path, found, wanted });
                }
            }
            FirstBlock::Zero | FirstBlock::Damaged => {}
        }
        let mut behind = 0;
        let mut page = [0; PAGE_BYTES];
        file.read_at(&mut page, PAGE_BYTES as u64).calling("read", &path)?;
        for block in page.chunks_exact(BLOCK_BYTES) {
            if let Block::Stamped(stamp) = judge(block) {
                behind = behind.max(stamp.generation);
            }
        }
        Ok(Some(Looked { free: Free { path, file, length, used: false }, first, behind }))
    }

    /// Puts the segments that are needed in order and reads them.
    fn order(&mut self, looked: Vec<Looked>) -> Result<(), OpenError> {
        let mut begun = BTreeMap::new();
        let headers = |first: &FirstBlock| match first {
            FirstBlock::Header(header) => Some(*header),
            _ => None,
        };
        let newest = looked.iter().filter_map(|file| headers(&file.first)).map(|header| header.generation).max();
        let newest = newest.unwrap_or(0);
        for Looked { free, first, behind } in looked {
            // Nothing is written behind a header that is not on disk.
            match first {
                FirstBlock::Header(header) if behind <= header.generation => {
                    let Free { path, file, length, .. } = free;
                    let segment = Segment { path, file, length, generation: header.generation };
                    if let Some((_, double)) = begun.insert(header.generation, (header, segment)) {
                        self.find(&double.path, 0, Damage::Doubled { generation: header.generation });
                    }
                }
                // Among segments one that lost more than its first pages is missed: the seal before it names it. Where there
                // is none, all of it must be as it was prepared.
                FirstBlock::Zero if behind == 0 && (newest > 0 || is_zero(&free)?) => self.free.push(free),
                FirstBlock::Zero | FirstBlock::Header(_) if behind > 0 => {
                    self.find(&free.path, 0, Damage::HeaderLost { generation: behind });
                }
                _ => self.find(&free.path, 0, Damage::Header),
            }
        }
        let mut first_live = begun.values().map(|(header, _)| header.standing.first_live).max().unwrap_or(0);
        let mut scanned = Vec::new();
        // From the newest down: what a newer one says about purging spares reading the older ones.
        for (generation, (header, segment)) in begun.into_iter().rev() {
            if generation < first_live {
                let Segment { path, file, length, .. } = segment;
                self.free.push(Free { path, file, length, used: true });
                continue;
            }
            let after = scanned.last().map(|after: &Scanned| after.header.previous);
            let found = self.scan(header, Arc::new(segment), after)?;
            first_live = first_live.max(purged_below(&found.groups));
            scanned.push(found);
        }
        scanned.reverse();
        self.live = scanned;
        self.contiguous(first_live);
        Ok(())
    }

    /// Reads a segment. `after` is where the next one says that this one ends.
    fn scan(&mut self, header: Header, segment: Arc<Segment>, after: Option<u64>) -> Result<Scanned, CallFailed> {
        let mut window = Window::new(&*segment.file, &segment.path, segment.length);
        let (groups, end) = groups(&mut window, header.generation)?;
        let mut scanned = Scanned { segment: segment.clone(), header, groups, end: 0, torn: None };
        match end {
            Ok(end) => scanned.end = end,
            Err(offset) => {
                self.find(&segment.path, offset, Damage::Records);
                scanned.end = offset;
                return Ok(scanned);
            }
        }
        if after == Some(scanned.last_unsealed()) {
            // What stands behind belongs to nobody.
            return Ok(scanned);
        }
        match (tail(&mut window, header.generation, scanned.end, scanned.last_sequence())?, after) {
            (Tail::Damaged { offset, damage }, _) => self.find(&segment.path, offset, damage),
            // The next segment knows of groups that are not here.
            (_, Some(sequence)) => self.find(&segment.path, scanned.end, Damage::GroupMissing { sequence }),
            (Tail::Clean, None) => {}
            (Tail::Torn { end }, None) => scanned.torn = Some(end),
        }
        Ok(scanned)
    }

    /// Every generation from the oldest needed to the newest must be there.
    fn contiguous(&mut self, first_live: u64) {
        let Some(newest) = self.live.last() else { return };
        let (newest, next) = (newest.header.generation, newest.sealed());
        let mut missing = Vec::new();
        let mut expected = first_live.max(1);
        for scanned in &self.live {
            missing.extend(expected..scanned.header.generation.min(expected.saturating_add(100)));
            expected = scanned.header.generation + 1;
        }
        missing.extend(next.filter(|next| *next > newest));
        let at = self.live[0].segment.path.clone();
        for generation in missing {
            self.find(&at, 0, Damage::SegmentMissing { generation });
        }
    }

    /// Each group names the one before it, seals aside; each segment begins where the last one ends.
    fn connect(&mut self) {
        let mut found = Vec::new();
        let mut wrong = |scanned: &Scanned, offset, damage| {
            found.push(Corruption { path: scanned.segment.path.clone(), offset, damage });
        };
        let mut before: Option<&Scanned> = None;
        for scanned in &self.live {
            let header = &scanned.header;
            let follows = |before: &Scanned| {
                header.previous == before.last_unsealed() && header.sequence >= before.last_sequence()
            };
            if !before.is_none_or(follows) {
                wrong(scanned, 0, Damage::Contradiction);
            }
            let (mut previous, mut sequence) = (header.previous, header.sequence);
            for (number, group) in scanned.groups.iter().enumerate() {
                if group.sequence <= sequence || group.contents.previous != previous {
                    wrong(scanned, group.offset, Damage::GroupMissing { sequence: group.sequence });
                }
                let seals = group.contents.records.iter().any(|record| matches!(record, Record::Seal { .. }));
                if seals && (number + 1 < scanned.groups.len() || scanned.sealed() != Some(header.generation + 1)) {
                    wrong(scanned, group.offset, Damage::Contradiction);
                }
                (previous, sequence) = (group.sequence, group.sequence);
            }
            before = Some(scanned);
        }
        self.findings.append(&mut found);
    }
}

/// The oldest generation that these groups leave needed.
fn purged_below(groups: &[FoundGroup]) -> u64 {
    let records = groups.iter().flat_map(|group| &group.contents.records);
    let generations = records.filter_map(|record| match record {
        Record::Purge { first_live, .. } => Some(*first_live),
        _ => None,
    });
    generations.max().unwrap_or(0)
}
