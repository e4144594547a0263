//! What callers see: the log with everything that was handed to it, durable or not.
//!
//! Entries are taken in and cut off here at once; the writer follows and tells where each has come to lie. An entry that is
//! not on disk yet is always in the cache, because nothing else knows it.

use super::{
    LogEntry, Recovered, Vote,
    error::LogError,
    segment::Segment,
    writer::{Pending, Work},
};
use crate::types::LogId;
use std::{collections::VecDeque, sync::Arc};

/// What an entry costs in memory beside its payload.
const ENTRY_BYTES: usize = size_of::<LogEntry>() + size_of::<Slot>();

/// Where an entry's record lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) segment: Arc<Segment>,
    /// Offset of its group.
    pub(super) group: u64,
    pub(super) sequence: u64,
    /// Where in the group's string the record stands.
    pub(super) at: u64,
    /// Bytes of the record.
    pub(super) length: u64,
}

/// An entry of the log.
#[derive(Debug)]
struct Slot {
    id: LogId,
    place: Result<Place, Ticket>,
}

/// Tells an entry from another of the same index that came before it and was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The log as callers see it.
#[derive(Debug)]
pub(super) struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// Where the log ends on disk.
    durable: Option<LogId>,
    failed: Option<LogError>,
    /// Entries behind the purge point, without a gap.
    slots: VecDeque<Slot>,
    /// The payloads of the newest of them.
    cache: VecDeque<LogEntry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    next_ticket: u64,
}

/// What is to be read: first those on disk, then those at hand.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) places: Vec<(LogId, Place)>,
    pub(super) entries: Vec<LogEntry>,
}

impl State {
    pub(super) fn new(recovered: &Recovered, entries: VecDeque<(LogId, Place)>, cache_bytes_max: usize) -> State {
        State {
            vote: recovered.vote,
            purged: recovered.purged,
            durable: recovered.last,
            failed: None,
            slots: entries.into_iter().map(|(id, place)| Slot { id, place: Ok(place) }).collect(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            next_ticket: 0,
        }
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    pub(super) fn durable(&self) -> Option<LogId> {
        self.durable
    }

    /// What was written ends there.
    pub(super) fn set_durable(&mut self, last: Option<LogId>) {
        self.durable = last;
    }

    pub(super) fn failed(&self) -> Option<&LogError> {
        self.failed.as_ref()
    }

    /// From now on every call gets this error; the first one stays.
    pub(super) fn fail(&mut self, error: LogError) {
        self.failed.get_or_insert(error);
    }

    /// The lowest index that is not purged.
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn next_index(&self) -> u64 {
        self.first_index() + self.slots.len() as u64
    }

    /// Takes entries in. Gives the ticket of the first; the others' follow.
    pub(super) fn append(&mut self, entries: &[LogEntry]) -> Result<Ticket, LogError> {
        let first = self.next_index();
        for (expected, entry) in (first..u64::MAX).zip(entries) {
            if entry.id.index != expected {
                return Err(LogError::Gap { expected, found: entry.id.index });
            }
            if entry.payload.len() > super::ENTRY_BYTES_MAX {
                let (bytes, bytes_max) = (entry.payload.len(), super::ENTRY_BYTES_MAX);
                return Err(LogError::TooLarge { bytes, bytes_max });
            }
        }
        let ticket = Ticket(self.next_ticket);
        for entry in entries {
            self.slots.push_back(Slot { id: entry.id, place: Err(Ticket(self.next_ticket)) });
            self.next_ticket += 1;
            self.cache_bytes += entry.payload.len() + ENTRY_BYTES;
            self.cache.push_back(entry.clone());
        }
        Ok(ticket)
    }

    pub(super) fn save_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    /// Cuts off what stands behind `keep`. Gives what is last then.
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) -> Result<Option<LogId>, LogError> {
        let kept = match keep {
            None => 0,
            Some(keep) => match self.purged {
                Some(purged) if keep.index < purged.index => return Err(LogError::Purged { purged }),
                Some(purged) if keep.index == purged.index && keep == purged => 0,
                _ => {
                    let place =
                        keep.index.checked_sub(self.first_index()).and_then(|place| usize::try_from(place).ok());
                    let slot = place.and_then(|place| self.slots.get(place));
                    if slot.is_none_or(|slot| slot.id != keep) {
                        return Err(LogError::Absent { asked: keep });
                    }
                    place.map_or(0, |place| place + 1)
                }
            },
        };
        let cut = self.slots.len() - kept;
        for entry in self.cache.drain(self.cache.len().saturating_sub(cut)..) {
            self.cache_bytes -= entry.payload.len() + ENTRY_BYTES;
        }
        self.slots.truncate(kept);
        Ok(self.last())
    }

    /// Forgets everything up to `up_to`. `false` if that has been done before.
    pub(super) fn purge(&mut self, up_to: LogId) -> Result<bool, LogError> {
        if up_to.index < self.first_index() {
            return Ok(false);
        }
        if up_to.index == u64::MAX {
            return Err(LogError::Absent { asked: up_to });
        }
        let dead = usize::try_from(up_to.index - self.first_index()).unwrap_or(usize::MAX).saturating_add(1);
        if self.slots.get(dead - 1).is_some_and(|slot| slot.id != up_to) {
            return Err(LogError::Absent { asked: up_to });
        }
        let cached_from = self.slots.len() - self.cache.len();
        self.forget(dead.min(self.slots.len()).saturating_sub(cached_from));
        self.slots.drain(..dead.min(self.slots.len()));
        self.purged = Some(up_to);
        Ok(true)
    }

    /// Drops the oldest of the cache.
    fn forget(&mut self, count: usize) {
        for entry in self.cache.drain(..count) {
            self.cache_bytes -= entry.payload.len() + ENTRY_BYTES;
        }
    }

    /// Learns where entries lie that are on disk now, and lets go of payloads past the bound, oldest first.
    pub(super) fn placed(&mut self, written: impl Iterator<Item = (u64, Ticket, Place)>) {
        let first = self.first_index();
        for (index, ticket, place) in written {
            let slot = index.checked_sub(first).and_then(|at| self.slots.get_mut(usize::try_from(at).ok()?));
            // An entry that has been cut off or purged meanwhile is not there, or another stands in its place.
            if let Some(slot) = slot.filter(|slot| slot.place.as_ref().is_err_and(|waits| *waits == ticket)) {
                slot.place = Ok(place);
            }
        }
        let cached_from = self.slots.len() - self.cache.len();
        let (mut count, mut bytes) = (0, self.cache_bytes);
        for (slot, entry) in self.slots.iter().skip(cached_from).zip(&self.cache) {
            if bytes <= self.cache_bytes_max || slot.place.is_err() {
                break;
            }
            bytes -= entry.payload.len() + ENTRY_BYTES;
            count += 1;
        }
        self.forget(count);
    }

    /// What a read of these entries needs.
    pub(super) fn wanted(&self, first: u64, last_exclusive: u64, bytes_max: usize) -> Result<Wanted, LogError> {
        let mut wanted = Wanted::default();
        if let Some(purged) = self.purged.filter(|purged| first <= purged.index) {
            return Err(LogError::Purged { purged });
        }
        let (base, cached_from) = (self.first_index(), self.slots.len() - self.cache.len());
        let (mut bytes, mut any) = (0_usize, false);
        for index in first..last_exclusive.min(self.next_index()) {
            let at = (index - base) as usize;
            let cached = at.checked_sub(cached_from).and_then(|at| self.cache.get(at));
            let slot = &self.slots[at];
            let length = match (&cached, &slot.place) {
                (Some(entry), _) => entry.payload.len(),
                (None, Ok(place)) => place.length as usize - super::group::ENTRY_HEAD_BYTES,
                (None, Err(_)) => unreachable!("an entry that is not on disk is in the cache"),
            };
            bytes = bytes.saturating_add(length);
            if any && bytes > bytes_max {
                break;
            }
            any = true;
            match (cached, &slot.place) {
                (Some(entry), _) => wanted.entries.push(entry.clone()),
                (None, Ok(place)) => wanted.places.push((slot.id, place.clone())),
                (None, Err(_)) => {}
            }
        }
        Ok(wanted)
    }
}

/// Work in the order in which the state changed, and whom to tell.
pub(super) struct Message {
    pub(super) work: Work,
    pub(super) done: Pending,
}

impl Ticket {
    /// The ticket that many after this one.
    pub(super) fn plus(self, count: usize) -> Ticket {
        Ticket(self.0 + count as u64)
    }
}
