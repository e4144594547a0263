//! What the groups of a log amount to, taken one record after the other.
//!
//! The segments before the oldest that is needed are gone, and so are entries that stood in them; what is still needed of
//! them stands in the header of the oldest. Entries found begin at `base`. Truncating below it is fine as long as a purge
//! point comes to stand there in the end, which is checked.

use super::{
    Vote,
    error::{Corruption, Damage},
    group::Record,
    header::Standing,
    segment::Segment,
    state::Place,
    survey::Scanned,
};
use crate::types::LogId;
use std::{collections::VecDeque, sync::Arc};

/// The sum of a log.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// The entries that are left, from the one after `purged` on.
    pub(super) entries: VecDeque<(LogId, Place)>,
    /// Index of the first of `entries`, or of the one that would follow `last`.
    base: u64,
    /// The oldest generation that is still needed.
    pub(super) first_live: u64,
}

/// Replays what was found.
pub(super) fn replay(live: &[Scanned], findings: &mut Vec<Corruption>) -> Replay {
    let mut replay = Replay::default();
    for (number, scanned) in live.iter().enumerate() {
        let standing = scanned.header.standing;
        let wrong = |offset, damage| Corruption { path: scanned.segment.path.clone(), offset, damage };
        if number == 0 {
            replay.vote = standing.vote;
            replay.purged = standing.purged;
            replay.last = standing.last;
            replay.first_live = standing.first_live;
            replay.base = standing.last.map_or(0, |last| last.index + 1);
        } else if replay.standing() != standing {
            findings.push(wrong(0, Damage::Contradiction));
        }
        for group in &scanned.groups {
            for record in &group.contents.records {
                if !replay.record(&scanned.segment, (group.offset, group.sequence), record) {
                    findings.push(wrong(group.offset, Damage::Contradiction));
                }
            }
        }
    }
    if let Some(scanned) = live.last()
        && replay.last != replay.entries.back().map(|(id, _)| *id).or(replay.purged)
    {
        let path = scanned.segment.path.clone();
        findings.push(Corruption { path, offset: 0, damage: Damage::Contradiction });
    }
    let first = replay.purged.map_or(0, |purged| purged.index + 1);
    if let Some(scanned) = live.first()
        && replay.base > first
    {
        let (path, damage) = (scanned.segment.path.clone(), Damage::EntriesMissing { index: first });
        findings.push(Corruption { path, offset: 0, damage });
    }
    replay
}

impl Replay {
    /// How the log stands.
    pub(super) fn standing(&self) -> Standing {
        Standing { vote: self.vote, purged: self.purged, last: self.last, first_live: self.first_live }
    }

    /// Takes a record; `false` if it contradicts what came before.
    fn record(&mut self, segment: &Arc<Segment>, (group, sequence): (u64, u64), record: &Record) -> bool {
        match *record {
            Record::Entry { id, at, length } => {
                if id.index != self.last.map_or(0, |last| last.index + 1) {
                    return false;
                }
                self.entries.push_back((id, Place { segment: segment.clone(), group, sequence, at, length }));
                self.last = Some(id);
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Truncate(last) => {
                let next = last.map_or(0, |last| last.index + 1);
                let (least, most) = (self.purged, self.last);
                if next < least.map_or(0, |id| id.index + 1) || next > most.map_or(0, |id| id.index + 1) {
                    return false;
                }
                self.entries.truncate(usize::try_from(next.saturating_sub(self.base)).unwrap_or(usize::MAX));
                self.base = self.base.min(next);
                self.last = last;
                if self.entries.back().is_some_and(|(id, _)| Some(*id) != last) {
                    return false;
                }
            }
            Record::Purge { up_to, first_live } => {
                let back = self.purged.is_some_and(|purged| up_to.index <= purged.index);
                if back || first_live > segment.generation || first_live < self.first_live {
                    return false;
                }
                self.first_live = first_live;
                let dead = (up_to.index + 1).saturating_sub(self.base);
                let dead = usize::try_from(dead).unwrap_or(usize::MAX).min(self.entries.len());
                self.entries.drain(..dead);
                self.base += dead as u64;
                if self.last.is_none_or(|last| last.index <= up_to.index) {
                    self.last = Some(up_to);
                    self.base = up_to.index + 1;
                }
                self.purged = Some(up_to);
            }
            Record::Seal { .. } => {}
        }
        true
    }
}
