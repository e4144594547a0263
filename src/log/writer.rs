//! The one that writes: takes all that is queued, makes it one group, writes it, syncs it, and says so.
//!
//! Nothing is written before the sync of what was written before has answered, so at most one group is ever at stake. The
//! first call that fails is the last one made.

use super::{
    LogEntry, Owner, Vote,
    block::{BLOCK_BYTES, PAGE_BYTES},
    error::{CallFailed, Calling, LogError},
    group::{GroupBuffer, Record},
    header::{Header, Standing},
    metrics::Metrics,
    segment::{Free, Segment},
    state::{Message, Place, State, Ticket},
    supply::Supply,
};
use crate::{
    env::{Env, Task},
    types::LogId,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A group takes in what is queued until it is this large. One message is never divided.
const GROUP_BYTES_MAX: u64 = 8 << 20;

/// Called once, on the thread that the writing runs on: it must not block. `Ok` means durable.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// Somebody who waits to be told. Dropped, it tells that the log is closed.
pub(super) struct Pending(Option<Done>);

impl Pending {
    pub(super) fn new(done: Done) -> Pending {
        Pending(Some(done))
    }

    pub(super) fn tell(mut self, result: Result<(), LogError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(LogError::Closed));
        }
    }
}

/// What is asked of the writer.
pub(super) enum Work {
    Append {
        entries: Vec<LogEntry>,
        first: Ticket,
    },
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    /// Changes nothing, and is answered in its turn.
    Nothing,
    /// The last one.
    Close,
}

impl Work {
    /// About how much it adds to a group.
    fn bytes(&self) -> u64 {
        match self {
            Work::Append { entries, .. } => entries.iter().map(|entry| entry.payload.len() as u64 + 32).sum(),
            _ => 64,
        }
    }
}

/// A segment that is needed.
pub(super) struct Live {
    pub(super) segment: Arc<Segment>,
    /// The greatest index of the entries in it that are neither cut off nor known to be elsewhere.
    pub(super) last_index: Option<u64>,
}

/// Where the log ends.
pub(super) struct End {
    /// In the last segment.
    pub(super) offset: u64,
    /// Sequence of the last group, seals aside.
    pub(super) previous: u64,
    /// Sequence of the next one.
    pub(super) next: u64,
}

/// The writer.
pub(super) struct Writer {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) owner: Owner,
    pub(super) segment_bytes: u64,
    /// From the oldest needed to the one that is being filled.
    pub(super) live: VecDeque<Live>,
    pub(super) end: End,
    /// As of the last group.
    pub(super) standing: Standing,
    pub(super) supply: Supply,
    pub(super) buffer: GroupBuffer,
}

/// An entry in the group that is being written: its index, its ticket, where its record stands and how long it is.
struct Placing {
    index: u64,
    ticket: Ticket,
    at: u64,
    length: u64,
}

/// A thread beside the writer's, for groups that are worth the way there and back.
pub(super) struct Aside {
    /// A group of no more than so many bytes is written where the writer runs.
    above_bytes: Arc<AtomicU64>,
    given: UnboundedSender<(Box<Writer>, Vec<Message>)>,
    taken: UnboundedReceiver<Written>,
    /// Ends with it.
    _thread: Task,
}

/// A group, and the writer that wrote it.
type Written = (Box<Writer>, Vec<Message>, Result<(), CallFailed>);

impl Aside {
    pub(super) fn start(env: &Env, above_bytes: Arc<AtomicU64>) -> Aside {
        let (given, mut todo) = unbounded_channel::<(Box<Writer>, Vec<Message>)>();
        let (results, taken) = unbounded_channel();
        let thread = env.spawn_on_thread("log", async move {
            while let Some((mut writer, messages)) = todo.recv().await {
                let written = writer.group(&messages);
                // Whoever waited may be gone: then nobody is told, as if power had been cut.
                let _ = results.send((writer, messages, written));
            }
        });
        Aside { above_bytes, given, taken, _thread: thread }
    }

    /// Makes one group of these, on that thread. `None` if it is gone.
    async fn group(&mut self, writer: Box<Writer>, messages: Vec<Message>) -> Option<Written> {
        self.given.send((writer, messages)).ok()?;
        self.taken.recv().await
    }
}

impl Writer {
    /// Works until it is told to close, or nobody is left who could ask.
    pub(super) async fn run(mut self: Box<Self>, mut queue: UnboundedReceiver<Message>, mut aside: Option<Aside>) {
        let bytes_max = GROUP_BYTES_MAX.min(self.segment_bytes / 4);
        while let Some(first) = queue.recv().await {
            let mut bytes = first.work.bytes();
            let mut messages = vec![first];
            while bytes < bytes_max && !matches!(messages.last(), Some(Message { work: Work::Close, .. })) {
                let Ok(message) = queue.try_recv() else { break };
                bytes += message.work.bytes();
                messages.push(message);
            }
            let closing = matches!(messages.last(), Some(Message { work: Work::Close, .. }));
            let failed = self.state.lock().failed().cloned();
            let result = match failed {
                Some(error) => Err(error),
                None => {
                    let written = match aside.as_mut().filter(|aside| bytes > aside.above_bytes.load(Relaxed)) {
                        Some(aside) => {
                            let Some((writer, same, written)) = aside.group(self, messages).await else { return };
                            (self, messages) = (writer, same);
                            written
                        }
                        None => self.group(&messages),
                    };
                    written.map_err(|failed| {
                        let error = LogError::from(failed);
                        self.state.lock().fail(error.clone());
                        error
                    })
                }
            };
            for message in messages {
                message.done.tell(result.clone());
            }
            if closing {
                self.state.lock().fail(LogError::Closed);
                return;
            }
        }
    }

    /// Makes one group of these, durable when it returns.
    fn group(&mut self, messages: &[Message]) -> Result<(), CallFailed> {
        self.buffer.clear();
        let mut standing = self.standing;
        let mut placings = Vec::new();
        for message in messages {
            match &message.work {
                Work::Append { entries, first } => {
                    for (number, entry) in entries.iter().enumerate() {
                        let (at, length) = self.buffer.entry(entry);
                        placings.push(Placing { index: entry.id.index, ticket: first.plus(number), at, length });
                        standing.last = Some(entry.id);
                    }
                }
                Work::Vote(vote) => {
                    self.buffer.record(Record::Vote(*vote));
                    standing.vote = Some(*vote);
                }
                Work::Truncate(last) => {
                    self.buffer.record(Record::Truncate(*last));
                    standing.last = *last;
                }
                Work::Purge(up_to) => {
                    standing.first_live = self.first_live(*up_to);
                    self.buffer.record(Record::Purge { up_to: *up_to, first_live: standing.first_live });
                    standing.purged = Some(*up_to);
                    if standing.last.is_none_or(|last| last.index <= up_to.index) {
                        standing.last = Some(*up_to);
                    }
                }
                Work::Nothing | Work::Close => {}
            }
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        // The last page of every segment is for its seal.
        if self.end.offset + self.buffer.disk_bytes() + PAGE_BYTES as u64 > self.active().length {
            self.roll(self.buffer.disk_bytes())?;
        }
        let (offset, sequence) = (self.end.offset, self.end.next);
        self.write()?;
        self.end.previous = sequence;
        self.standing = standing;
        self.metrics.entries.fetch_add(placings.len() as u64, Relaxed);
        self.follow(messages);
        self.release();
        let segment = self.active().clone();
        let mut state = self.state.lock();
        state.set_durable(standing.last);
        state.placed(placings.into_iter().map(|placing| {
            let Placing { index, ticket, at, length } = placing;
            (index, ticket, Place { segment: segment.clone(), group: offset, sequence, at, length })
        }));
        Ok(())
    }

    fn active(&self) -> &Arc<Segment> {
        &self.live.back().expect("an open log has a segment").segment
    }

    /// Writes what is in the buffer at the log's end, and syncs it.
    fn write(&mut self) -> Result<(), CallFailed> {
        let segment = self.active().clone();
        let blocks = self.buffer.finish(segment.generation, self.end.next, self.end.previous);
        let bytes = blocks.len() as u64;
        segment.file.write_at(blocks, self.end.offset).calling("write", &segment.path)?;
        segment.file.sync_data().calling("sync", &segment.path)?;
        count(&self.metrics, bytes);
        self.metrics.groups.fetch_add(1, Relaxed);
        self.end.offset += bytes;
        self.end.next += 1;
        Ok(())
    }

    /// Begins the next segment, with room for a group of so many bytes: its header, synced, then the seal of the old one,
    /// synced. So where there is a seal the next segment's header was durable, and a file that vanished is missed.
    fn roll(&mut self, bytes: u64) -> Result<(), CallFailed> {
        let Free { path, file, length, .. } = self.supply.take(bytes + 2 * PAGE_BYTES as u64)?;
        let generation = self.active().generation + 1;
        let segment = Segment { path, file, length, generation };
        let End { previous, next: sequence, .. } = self.end;
        let header = Header { owner: self.owner, generation, previous, sequence, standing: self.standing };
        let recycled = begin(&segment, &header)?;
        count(&self.metrics, PAGE_BYTES as u64);
        let mut group = std::mem::take(&mut self.buffer);
        self.buffer.clear();
        self.buffer.record(Record::Seal { next: generation });
        self.write()?;
        std::mem::swap(&mut self.buffer, &mut group);
        self.live.push_back(Live { segment: Arc::new(segment), last_index: None });
        self.end.offset = PAGE_BYTES as u64;
        self.metrics.rolls.fetch_add(1, Relaxed);
        self.metrics.segments_recycled.fetch_add(u64::from(recycled), Relaxed);
        self.metrics.segments_live.store(self.live.len() as u64, Relaxed);
        Ok(())
    }

    /// The oldest generation that would be needed if everything up to there were purged.
    fn first_live(&self, up_to: LogId) -> u64 {
        let dead = |live: &&Live| live.last_index.is_none_or(|last| last <= up_to.index);
        let count = self.live.iter().take(self.live.len() - 1).take_while(dead).count();
        self.live[count].segment.generation
    }

    /// Keeps account of which segment holds entries up to where.
    fn follow(&mut self, messages: &[Message]) {
        for message in messages {
            match &message.work {
                Work::Append { entries, .. } => {
                    let active = self.live.back_mut().expect("an open log has a segment");
                    active.last_index = entries.last().map(|entry| entry.id.index).or(active.last_index);
                }
                Work::Truncate(last) => {
                    for live in &mut self.live {
                        let kept = last.map(|last| last.index);
                        live.last_index = live.last_index.min(kept);
                    }
                }
                _ => {}
            }
        }
    }

    /// Hands back the segments that the purge on disk has made superfluous.
    fn release(&mut self) {
        while let Some(oldest) = self.live.front()
            && oldest.segment.generation < self.standing.first_live
            && self.live.len() > 1
        {
            let Segment { path, file, length, .. } = (*oldest.segment).clone();
            self.supply.put(Free { path, file, length, used: true });
            self.live.pop_front();
        }
        self.metrics.segments_live.store(self.live.len() as u64, Relaxed);
    }
}

/// Begins a segment: its header alone, durable when this returns. Gives whether the file had been used before.
pub(super) fn begin(segment: &Segment, header: &Header) -> Result<bool, CallFailed> {
    let mut before = [0; BLOCK_BYTES];
    segment.file.read_at(&mut before, 0).calling("read", &segment.path)?;
    let mut page = [0; PAGE_BYTES];
    page[..BLOCK_BYTES].copy_from_slice(&header.encode());
    segment.file.write_at(&page, 0).calling("write", &segment.path)?;
    segment.file.sync_data().calling("sync", &segment.path)?;
    Ok(before != [0; BLOCK_BYTES])
}

fn count(metrics: &Metrics, bytes: u64) {
    metrics.syncs.fetch_add(1, Relaxed);
    add(&metrics.bytes_written, bytes);
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Relaxed);
}
