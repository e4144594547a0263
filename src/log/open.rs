//! Opening: what was found is put in order, made durable, and given a writer.

use super::{
    Cut, Log, LogOptions, Recovered, Writing,
    block::PAGE_BYTES,
    error::{CallFailed, Calling, OpenError},
    group::GroupBuffer,
    header::{Header, Standing},
    metrics::Metrics,
    segment::{SEGMENT_BYTES_MIN, SMALL_BYTES, Segment, prepare},
    state::State,
    supply::Supply,
    survey::{Scanned, Survey, survey},
    writer::{End, Live, Writer, begin},
};
use crate::env::{Env, Files};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::sync::mpsc::unbounded_channel;

pub(super) fn open(env: &Env, directory: &Path, options: LogOptions) -> Result<(Log, Writing, Recovered), OpenError> {
    let files = env.files();
    make_directory(files, directory)?;
    let mut survey = survey(files, directory, Some(options.owner))?;
    if let Some(first) = survey.findings.drain(..).next() {
        return Err(first.into());
    }
    for path in survey.unfinished.drain(..) {
        files.remove(&path).calling("remove", &path)?;
    }
    let segment_bytes = options.segment_bytes.next_multiple_of(PAGE_BYTES as u64).max(SEGMENT_BYTES_MIN);
    let cut = match survey.live.last() {
        Some(scanned) => settle(scanned)?,
        None => first_segment(files, directory, &options, segment_bytes, &mut survey).map(|()| None)?,
    };
    let (standing, entries) = (survey.replay.standing(), std::mem::take(&mut survey.replay.entries));
    let recovered = Recovered { vote: standing.vote, purged: standing.purged, last: standing.last, cut };
    let mut live: VecDeque<_> =
        survey.live.iter().map(|scanned| Live { segment: scanned.segment.clone(), last_index: None }).collect();
    let mut at = 0;
    for (id, place) in &entries {
        while live[at].segment.generation < place.segment.generation {
            at += 1;
        }
        live[at].last_index = Some(id.index);
    }
    let state = Arc::new(Mutex::new(State::new(&recovered, entries, options.cache_bytes_max)));
    let metrics = Arc::new(Metrics::default());
    metrics.disk_bytes.store(survey.disk_bytes, Relaxed);
    metrics.segments_live.store(live.len() as u64, Relaxed);
    let last = survey.live.last().expect("there is a segment by now");
    // One sequence is left out: that of a group that was being written, and of which nothing may be left.
    let end = End { offset: last.end, previous: last.last_unsealed(), next: last.last_sequence() + 2 };
    let (free, next_number) = (std::mem::take(&mut survey.free), survey.next_number);
    let (supply, preparer) = Supply::start(env, directory, segment_bytes, free, next_number, metrics.clone());
    let writer = Writer {
        state: state.clone(),
        metrics: metrics.clone(),
        owner: options.owner,
        segment_bytes,
        live,
        end,
        standing,
        supply,
        buffer: GroupBuffer::default(),
    };
    let (queue, messages) = unbounded_channel();
    let writing = Writing { writer: Box::new(writer), messages, aside: None };
    Ok((Log::new(state, queue, metrics, preparer), writing, recovered))
}

/// Makes the directory if there is none, durable under its name: names that a crash left visible and not durable must not be
/// built upon, so what is above it is synced even if it is there.
fn make_directory(files: &dyn Files, directory: &Path) -> Result<(), CallFailed> {
    let is_missing = |path: &Path| files.list(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let above = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(Path::to_owned),
    };
    let mut made: Vec<_> = above(directory).into_iter().collect();
    while let Some(path) = made.last().filter(|path| is_missing(path)).and_then(|path| above(path)) {
        made.push(path);
    }
    if is_missing(directory) {
        files.create_directory(directory).calling("create", directory)?;
    }
    for path in made.iter().rev() {
        files.sync_directory(path).calling("sync", path)?;
    }
    files.sync_directory(directory).calling("sync", directory)
}

/// Begins the first segment, which is small, so that an empty directory is ready at once.
fn first_segment(
    files: &dyn Files,
    directory: &Path,
    options: &LogOptions,
    segment_bytes: u64,
    survey: &mut Survey,
) -> Result<(), CallFailed> {
    let free = match survey.free.pop() {
        Some(free) => free,
        None => {
            let length = segment_bytes.min(SMALL_BYTES);
            let free = prepare(files, directory, survey.next_number, length)?;
            survey.next_number += 1;
            survey.disk_bytes += length;
            free
        }
    };
    let segment = Segment { path: free.path, file: free.file, length: free.length, generation: 1 };
    let header =
        Header { owner: options.owner, generation: 1, previous: 0, sequence: 0, standing: Standing::default() };
    begin(&segment, &header)?;
    let segment = Arc::new(segment);
    survey.live.push(Scanned { segment, header, groups: Vec::new(), end: PAGE_BYTES as u64, torn: None });
    Ok(())
}

/// Zeroes a torn tail, and makes durable what was read.
///
/// After a sync that failed the kernel shows bytes that it will never write, and calls them clean. The last thing written
/// (the last group, or the header of a segment without one) may be such: everything before it was followed by a write,
/// which is made only after a sync that succeeded. So it is written again, byte for byte as it stands.
fn settle(scanned: &Scanned) -> Result<Option<Cut>, CallFailed> {
    let Segment { path, file, .. } = &*scanned.segment;
    let (offset, length) = scanned.groups.last().map_or((0, PAGE_BYTES as u64), |group| (group.offset, group.bytes));
    let mut bytes = vec![0; usize::try_from(length).expect("a group was read into memory before")];
    file.read_at(&mut bytes, offset).calling("read", path)?;
    file.write_at(&bytes, offset).calling("write", path)?;
    let cut = scanned.torn.map(|end| Cut { path: path.clone(), offset: scanned.end, bytes: end - scanned.end });
    // All that is behind, not only what is seen to be torn: after a sync that failed zeros are seen that the disk never got.
    let zeros = vec![0; usize::try_from(SMALL_BYTES).expect("it is small")];
    let mut at = scanned.end;
    while at < scanned.segment.length {
        let now = usize::try_from(scanned.segment.length - at).unwrap_or(zeros.len()).min(zeros.len());
        file.write_at(&zeros[..now], at).calling("write", path)?;
        at += now as u64;
    }
    file.sync_data().calling("sync", path)?;
    Ok(cut)
}
