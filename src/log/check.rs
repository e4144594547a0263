//! Checking a log offline: every checksum and every rule, without changing a byte.

use super::{
    Cut, Owner, Vote,
    error::{Corruption, OpenError},
    group::Record,
    survey::survey,
};
use crate::{env::Files, types::LogId};
use std::path::Path;

/// What was found in a log's directory.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that no power cut explains; a log opens only if there is nothing.
    pub findings: Vec<Corruption>,
    /// A failure to read, another's log, or a newer format: nothing below was counted then.
    pub refused: Option<OpenError>,
    /// Whose log it is.
    pub owner: Option<Owner>,
    /// A torn tail, which opening will cut off. No damage: a power cut leaves one.
    pub torn: Option<Cut>,
    /// Segments that are needed.
    pub segments: u64,
    /// Segments that wait to be begun.
    pub segments_free: u64,
    /// Groups in the segments that are needed.
    pub groups: u64,
    /// Records in them: entries, those truncated and purged since included.
    pub entry_records: u64,
    /// Entries that the log holds.
    pub entries: u64,
    /// Bytes of their records.
    pub entry_bytes: u64,
    /// Bytes of all segments.
    pub disk_bytes: u64,
    /// The vote.
    pub vote: Option<Vote>,
    /// The purge point.
    pub purged: Option<LogId>,
    /// The last entry; the purge point, if there is none above.
    pub last: Option<LogId>,
}

impl Report {
    /// Whether the log would open.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.refused.is_none()
    }
}

/// Reads everything. Costs a read of all segments that are needed, and memory for the places of their entries.
#[must_use]
pub fn check(files: &dyn Files, directory: &Path) -> Report {
    let survey = match survey(files, directory, None) {
        Ok(survey) => survey,
        Err(refused) => return Report { refused: Some(refused), ..Report::default() },
    };
    let groups = || survey.live.iter().flat_map(|scanned| &scanned.groups);
    let records = groups().flat_map(|group| &group.contents.records);
    let torn = survey.live.last().and_then(|scanned| {
        let end = scanned.torn?;
        Some(Cut { path: scanned.segment.path.clone(), offset: scanned.end, bytes: end - scanned.end })
    });
    let replay = &survey.replay;
    Report {
        refused: None,
        owner: survey.owner,
        torn,
        segments: survey.live.len() as u64,
        segments_free: survey.free.len() as u64,
        groups: groups().count() as u64,
        entry_records: records.filter(|record| matches!(record, Record::Entry { .. })).count() as u64,
        entries: replay.entries.len() as u64,
        entry_bytes: replay.entries.iter().map(|(_, place)| place.length).sum(),
        disk_bytes: survey.disk_bytes,
        vote: replay.vote,
        purged: replay.purged,
        last: replay.last,
        findings: survey.findings,
    }
}
