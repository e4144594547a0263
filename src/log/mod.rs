//! The durable Raft log: what a node has promised, in the order in which it promised it.
//!
//! It holds entries, the vote and the purge point, and it is the one thing that must not lie: what it has called durable is
//! there after any power cut, or it refuses to open. It never decides anything, knows no clock, and does not know what is
//! in an entry.
//!
//! # Writing
//!
//! Calls come from any thread, change what callers see at once, and queue. One task, on a thread of its own or of its caller's ([`Log::open_for`]), takes all that
//! is queued, makes it one *group*, writes it with one call, syncs it, and only then tells those who wait, in the order of
//! their calls. Votes, truncations and purges go through the same queue. Nothing is written before the sync of what was
//! written before has answered, so at a power cut at most one group is at stake. The first write or sync that fails is the
//! last one made: nothing is retried, nothing is acknowledged any more, and every later call gets the error.
//!
//! # On disk
//!
//! A directory of *segments*: files that were filled with zeros and synced before they are used, and that are used again
//! when their entries are purged. Overwriting blocks that exist changes no metadata, so a sync costs the data alone: 1.5 to
//! 1.9 times as many groups a second as with a growing file, and space that was only reserved gains nothing, because its
//! blocks are still marked as unwritten.
//!
//! ```text
//!  a segment, in pages of 4096 bytes, each of eight blocks of 512
//!  +--------+---------------+--------+---------------------+- - - - - - - - - - - -+
//!  | header | group         | group  | group               |  zeros, or what an    |
//!  |        | 8, 16, … blocks, each a stamp and 480 bytes  |  older generation left|
//!  +--------+---------------+--------+---------------------+- - - - - - - - - - - -+
//!  stamp: checksum of the block · generation of the segment · sequence of the group · place in it · blocks of it
//! ```
//!
//! - A *generation* is given to a segment when it is begun, one greater than the one before; a file that is used again gets
//!   a new one, so what an older generation left in it is told from what belongs there.
//! - A *sequence* is given to a group, and never again once the group is whole. One that was cut off may have had the number
//!   of a later one: opening writes zeros over everything behind the last whole group, whatever it sees there, so nothing of
//!   it is left to be mistaken. Each group names the one before it.
//! - A group begins on a fresh page and ends with one, so no page that was acknowledged is ever written again, and no block
//!   twice in a generation. It never spans segments; one that is larger than a segment gets a file of its own size.
//! - The header is synced before anything else of its generation is written. It says how the log stood then (vote, purge
//!   point, last entry, oldest generation needed), so that the segments before it may go.
//! - Before a segment is left it is *sealed* with a last small group that names the next generation, after the next header
//!   was synced, so that a file that vanished is missed even if it was the newest.
//!
//! Big-endian throughout. The fields are in `block`, `group` and `header`.
//!
//! # Opening
//!
//! All segments that are needed are read and every block is checked. What stands behind the last whole group is a *torn
//! tail* only if it may come from one group that was being written: all of its blocks there are of that group, nothing of a
//! later one is behind it, and some block in it still bears what stood there before (zeros or an older generation). It is
//! zeroed, synced, and reported as [`Recovered::cut`]. Everything else that is not as it was written is [`Corruption`], and
//! the log does not open; nothing is repaired by guessing.
//!
//! For example, with groups 7, 8 and 9 behind each other:
//!
//! | on disk | what it is |
//! |---|---|
//! | 7, 8, and of the three blocks of 9 that follow one is zeros | 9 was being written: cut |
//! | 7, 8, and of 9 one bit is flipped, the rest whole | 9 may have been acknowledged: corruption |
//! | 7, zeros, 9 | 8 was lost and 9 came later: corruption |
//! | 7, 8, and blocks of generation 3 in a segment of generation 5 | an older use of the file: the end |
//!
//! # What remains
//!
//! No log of one copy can know everything. Not told from a power cut: a disk that answers a sync and then loses whole blocks
//! of the very last group, back to what they were, or all of it. Not told from a new log: a directory that vanished, or the
//! only file in it. A newest file that vanished is missed because the one before it is sealed; it is not if power was cut in
//! the moment between beginning it and sealing the other. A write that stopped *within* 512 bytes is cut off like any other,
//! but for one: where only its last block is half written nothing tells it from damage, and the log refuses to open. The
//! vote and the entries of a node that lost its disk are the business of whoever gives out node ids.
//!
//! The caller holds the lock of the directory: two logs over one would destroy each other.

mod error;

mod block;
mod group;
mod header;
mod segment;

mod replay;
mod scan;
mod survey;

mod metrics;
mod open;
mod read;
mod state;
mod supply;
mod writer;

mod check;

#[cfg(test)]
mod tests;

pub use check::{Report, check};
pub use error::{Corruption, Damage, LogError, OpenError};
pub use metrics::Metrics;
pub use writer::Done;

use crate::{
    env::{Env, Task},
    types::{ClusterId, LogId, NodeId, Term},
};
use bytes::Bytes;
use parking_lot::Mutex;
use state::{Message, State};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender},
    oneshot,
};
use writer::{Aside, Pending, Work, Writer};

/// Bytes that one entry may carry.
pub const ENTRY_BYTES_MAX: usize = 256 << 20;

/// Whose log it is. It stands in every segment, and a log of another is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Bytes of a segment: rounded up to whole pages of 4096 bytes, at least three.
    pub segment_bytes: u64,
    /// Bytes of entries kept in memory for readers: the newest. Those that are not durable yet are kept in any case.
    pub cache_bytes_max: usize,
    /// Whose log it is.
    pub owner: Owner,
}

impl LogOptions {
    /// Segments of 64 MiB, and 64 MiB of entries in memory.
    #[must_use]
    pub fn new(owner: Owner) -> LogOptions {
        LogOptions { segment_bytes: 64 << 20, cache_bytes_max: 64 << 20, owner }
    }
}

/// Whom a node voted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: Term,
    /// For whom.
    pub node: NodeId,
    /// Whether a quorum has granted it.
    pub committed: bool,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place, and who put it there.
    pub id: LogId,
    /// The caller's: the log does not look at it.
    pub kind: u8,
    /// At most [`ENTRY_BYTES_MAX`] bytes.
    pub payload: Bytes,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In which file.
    pub path: PathBuf,
    /// From where on.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote.
    pub vote: Option<Vote>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// The last entry; what is purged, if there is none above.
    pub last: Option<LogId>,
    /// A group that was being written when power was cut, and has been cut off: nobody was told that it was durable.
    pub cut: Option<Cut>,
}

/// A log. Cheap to clone; the last one dropped ends its tasks at once, so [`close`](Log::close) it to have what is queued
/// written.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

/// A log's writing, for whoever opened it to [`run`](Writing::run).
#[must_use = "nothing is durable while it does not run"]
pub struct Writing {
    writer: Box<Writer>,
    messages: UnboundedReceiver<Message>,
    aside: Option<Aside>,
}

impl Writing {
    /// Gives it a thread beside, for groups of more than so many bytes: while one of those is written and synced, whoever
    /// shares the thread of this goes on. How many can be changed while it runs.
    ///
    /// A group that waits for nothing else is written faster where it is: the way to another thread and back costs about as
    /// much as a third of a sync. A large one stands for many who have more to ask, and beside other members there is
    /// always something to do: they are sent what is being synced here.
    pub fn aside(mut self, env: &Env, above_bytes: Arc<AtomicU64>) -> Writing {
        self.aside = Some(Aside::start(env, above_bytes));
        self
    }

    /// Writes until the log is closed or its last handle is gone.
    pub async fn run(self) {
        self.writer.run(self.messages, self.aside).await;
    }
}

struct Handle {
    state: Arc<Mutex<State>>,
    queue: UnboundedSender<Message>,
    metrics: Arc<Metrics>,
    /// The writer, if it has a thread of its own, and the preparer that ends with it.
    tasks: Mutex<Vec<Task>>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({:?}..={:?})", self.purged(), self.last())
    }
}

impl Log {
    /// Opens the log in a directory, made if it is not there. Reads all that the log holds.
    ///
    /// # Errors
    /// [`OpenError`] if a call failed, or the log is another's, of a newer format, or damaged.
    pub fn open(env: &Env, directory: &Path, options: LogOptions) -> Result<(Log, Recovered), OpenError> {
        let (log, writing, recovered) = open::open(env, directory, options)?;
        log.0.tasks.lock().insert(0, env.spawn_on_thread("log", writing.run()));
        Ok((log, recovered))
    }

    /// The same, but the writing is left to whoever awaits what comes with it, on the thread that this may block: nothing is
    /// durable, and nothing answered, while nobody does. For a caller who has nothing better to do while a group is synced,
    /// and is spared two wake-ups a group.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_for(env: &Env, directory: &Path, options: LogOptions) -> Result<(Log, Writing, Recovered), OpenError> {
        open::open(env, directory, options)
    }

    fn new(state: Arc<Mutex<State>>, queue: UnboundedSender<Message>, metrics: Arc<Metrics>, preparer: Task) -> Log {
        Log(Arc::new(Handle { state, queue, metrics, tasks: Mutex::new(vec![preparer]) }))
    }

    /// Appends entries, which follow the last one without a gap; the first of a log has index 0. They can be read at once,
    /// and are durable when `done` is called, all or none. The queue has no bound of its own: it holds what its callers let
    /// be in flight.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        self.submit(done, |state| {
            let first = state.append(&entries)?;
            Ok(if entries.is_empty() { Work::Nothing } else { Work::Append { entries, first } })
        });
    }

    /// Saves the vote. Whether it may be cast is for the caller to know.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.submit(done, |state| {
            state.save_vote(vote);
            Ok(Work::Vote(vote))
        });
    }

    /// Keeps entries up to and with `last`, which must be in the log or be the purge point; with `None`, nothing that is
    /// not purged.
    pub fn truncate_after(&self, last: Option<LogId>, done: Done) {
        self.submit(done, |state| state.truncate_after(last).map(Work::Truncate));
    }

    /// Forgets entries up to and with `up_to`. It may lie past the last entry, whose place it takes then. Segments without
    /// any entry left are used again.
    pub fn purge(&self, up_to: LogId, done: Done) {
        self.submit(done, |state| {
            let purged = state.purge(up_to)?;
            Ok(if purged { Work::Purge(up_to) } else { Work::Nothing })
        });
    }

    /// Entries from `first` on, up to `last_exclusive`, as many as there are and as `bytes_max` bytes of payload hold, but
    /// at least one if there is one. From memory where they are there, else from disk with one call a group, which blocks.
    ///
    /// # Errors
    /// [`LogError::Purged`] if `first` is gone, and whatever the log has failed with.
    pub fn read(&self, first: u64, last_exclusive: u64, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let wanted = {
            let state = self.0.state.lock();
            state.failed().cloned().map_or(Ok(()), Err)?;
            state.wanted(first, last_exclusive, bytes_max)?
        };
        let mut entries = Vec::with_capacity(wanted.places.len() + wanted.entries.len());
        if let Err(error) = read::read(&wanted.places, &mut entries) {
            // Purged meanwhile, its segment may have been begun anew.
            let purged = self.purged().filter(|purged| first <= purged.index);
            return Err(purged.map_or(error, |purged| LogError::Purged { purged }));
        }
        entries.extend(wanted.entries);
        Ok(entries)
    }

    /// The last entry; what is purged, if there is none above. Durable or not.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        self.0.state.lock().last()
    }

    /// The last entry that is durable, in the same sense: what a crash leaves ends there or later.
    #[must_use]
    pub fn durable(&self) -> Option<LogId> {
        self.0.state.lock().durable()
    }

    /// The same as something to be asked again and again, by whoever must not keep the log open.
    pub fn durable_end(&self) -> impl Fn() -> Option<LogId> + Send + Sync + use<> {
        let state = Arc::clone(&self.0.state);
        move || state.lock().durable()
    }

    /// Entries up to here are gone.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.0.state.lock().purged()
    }

    /// The last vote handed in, durable or not.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.0.state.lock().vote()
    }

    /// What the log counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Waits until everything queued is done and the log's tasks have ended. Whoever calls afterwards is told that it is
    /// closed.
    ///
    /// # Errors
    /// What the log has failed with, if it has.
    pub async fn close(&self) -> Result<(), LogError> {
        let (sender, closed) = oneshot::channel();
        // Whoever has failed is waiting too, to answer what comes.
        let done = Pending::new(Box::new(move |result| drop(sender.send(result))));
        drop(self.0.queue.send(Message { work: Work::Close, done }));
        let result = closed.await.unwrap_or(Err(LogError::Closed));
        let tasks = std::mem::take(&mut *self.0.tasks.lock());
        for task in tasks {
            // One that panicked has told everybody who waited for it.
            let _ = task.await;
        }
        result
    }

    /// Changes the state and queues the work, so that both are in one order.
    fn submit(&self, done: Done, change: impl FnOnce(&mut State) -> Result<Work, LogError>) {
        let done = Pending::new(done);
        let mut state = self.0.state.lock();
        let work = match state.failed() {
            Some(error) => Err(error.clone()),
            None => change(&mut state),
        };
        match work {
            Ok(work) => {
                let refused = self.0.queue.send(Message { work, done });
                // Told outside the lock: whoever is told may call again.
                drop(state);
                drop(refused);
            }
            Err(error) => {
                drop(state);
                done.tell(Err(error));
            }
        }
    }
}
