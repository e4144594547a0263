//! Tasks, and which of those that are ready runs next.

use super::state::HostId;
use crate::{env::BoxFuture, testing::generators::Random};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// How far from the head of the queue the next one may be.
const WINDOW: usize = 16;
/// Every so many picks it is the head: whoever is ready waits for at most so many turns of each that was ready before.
const HEAD_EVERY: u64 = 32;

/// Names a task; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(pub(super) u64);

/// The future that the test itself waits for.
pub(super) const MAIN: TaskId = TaskId(0);

/// Those who were woken since it was last looked. Wakers are called from anywhere, under anybody's locks, so they touch
/// nothing else.
#[derive(Default)]
pub(super) struct Woken(Mutex<Vec<TaskId>>);

impl Woken {
    pub(super) fn push(&self, task: TaskId) {
        self.0.lock().push(task);
    }
}

/// Wakes one task.
pub(super) struct TaskWaker {
    task: TaskId,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl TaskWaker {
    pub(super) fn new(task: TaskId, woken: &Arc<Woken>) -> Arc<TaskWaker> {
        Arc::new(TaskWaker { task, is_woken: AtomicBool::new(false), woken: Arc::clone(woken) })
    }

    /// It runs now; from here on it can be woken again.
    pub(super) fn clear(&self) {
        self.is_woken.store(false, Ordering::Release);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.woken.push(self.task);
        }
    }
}

/// A task, owned by a host.
pub(super) struct Entry {
    pub(super) host: HostId,
    pub(super) name: &'static str,
    /// `None` while it is being polled, and for the test's own.
    pub(super) future: Option<BoxFuture<()>>,
    pub(super) waker: Arc<TaskWaker>,
    pub(super) is_aborted: bool,
}

pub(super) struct Tasks {
    pub(super) entries: BTreeMap<TaskId, Entry>,
    ready: VecDeque<TaskId>,
    woken: Arc<Woken>,
    random: Random,
    next: u64,
    picks: u64,
}

impl Tasks {
    pub(super) fn new(random: Random) -> Tasks {
        Tasks {
            entries: BTreeMap::new(),
            ready: VecDeque::new(),
            woken: Arc::default(),
            random,
            next: MAIN.0 + 1,
            picks: 0,
        }
    }

    /// A new task, ready to run.
    pub(super) fn insert(&mut self, host: HostId, name: &'static str, future: BoxFuture<()>) -> TaskId {
        let task = TaskId(self.next);
        self.next += 1;
        self.put(task, host, name, Some(future));
        task
    }

    /// The test's own future, ready to run.
    pub(super) fn insert_main(&mut self, host: HostId) {
        self.put(MAIN, host, "the test", None);
    }

    fn put(&mut self, task: TaskId, host: HostId, name: &'static str, future: Option<BoxFuture<()>>) {
        let waker = TaskWaker::new(task, &self.woken);
        waker.wake_by_ref();
        self.entries.insert(task, Entry { host, name, future, waker, is_aborted: false });
    }

    /// Ends a task the next time it is its turn. `false` if it has ended.
    pub(super) fn abort(&mut self, task: TaskId) -> bool {
        let Some(entry) = self.entries.get_mut(&task).filter(|entry| !entry.is_aborted) else { return false };
        entry.is_aborted = true;
        entry.waker.wake_by_ref();
        true
    }

    /// Puts a task that was set aside back among those that are ready.
    pub(super) fn ready_again(&mut self, tasks: impl IntoIterator<Item = TaskId>) {
        self.ready.extend(tasks);
    }

    /// The next one that is ready.
    pub(super) fn pick(&mut self) -> Option<TaskId> {
        // In the order of their ids and not in that of the calls: some wake in an order that no seed decides.
        let mut woken = std::mem::take(&mut *self.woken.0.lock());
        woken.sort_unstable();
        self.ready.extend(woken);
        if self.ready.is_empty() {
            return None;
        }
        self.picks += 1;
        let at = match self.picks.is_multiple_of(HEAD_EVERY) {
            true => 0,
            false => self.random.index(self.ready.len().min(WINDOW)),
        };
        self.ready.remove(at)
    }

    /// Removes the tasks of a host.
    pub(super) fn take_of(&mut self, host: HostId) -> Vec<Entry> {
        let of_host: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.host == host).map(|(task, _)| *task).collect();
        of_host.iter().filter_map(|task| self.entries.remove(task)).collect()
    }
}

pub(super) fn waker(of: &Arc<TaskWaker>) -> Waker {
    Waker::from(Arc::clone(of))
}
