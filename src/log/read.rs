//! Reading entries back from disk, checked again.

use super::{
    LogEntry,
    block::{BLOCK_BYTES, CARRIED_BYTES},
    error::{Calling, Corruption, Damage, LogError},
    group::{are_of_group, carried, entry},
    state::Place,
};
use crate::types::LogId;

/// Reads entries that follow each other. Those of one group are read with one call.
pub(super) fn read(places: &[(LogId, Place)], into: &mut Vec<LogEntry>) -> Result<(), LogError> {
    let same = |(_, a): &(LogId, Place), (_, b): &(LogId, Place)| {
        (a.segment.generation, a.group) == (b.segment.generation, b.group)
    };
    for run in places.chunk_by(same) {
        one_group(run, into)?;
    }
    Ok(())
}

fn one_group(run: &[(LogId, Place)], into: &mut Vec<LogEntry>) -> Result<(), LogError> {
    let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
    let segment = &first.segment;
    let carried_bytes = CARRIED_BYTES as u64;
    let (from, end) = (first.at / carried_bytes, (last.at + last.length).div_ceil(carried_bytes));
    let offset = first.group + from * BLOCK_BYTES as u64;
    let damaged = |number: usize, damage| Corruption {
        path: segment.path.clone(),
        offset: offset + (number * BLOCK_BYTES) as u64,
        damage,
    };
    let mut blocks = vec![0; (end - from) as usize * BLOCK_BYTES];
    segment.file.read_at(&mut blocks, offset).calling("read", &segment.path)?;
    let index = u32::try_from(from).expect("a group has no more blocks than its stamps can count");
    are_of_group(&blocks, segment.generation, first.sequence, index)
        .map_err(|number| damaged(number, Damage::Block))?;
    let mut string = Vec::new();
    carried(&blocks, &mut string);
    for (id, place) in run {
        let at = (place.at - from * carried_bytes) as usize;
        let found = entry(&string[at..at + place.length as usize]).ok().filter(|found| found.id == *id);
        into.push(found.ok_or_else(|| damaged(0, Damage::Records))?);
    }
    Ok(())
}
