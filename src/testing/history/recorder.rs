//! Recording: a handle that all clients share, and one recording per attempt.

use super::{Condition, Found, History, Outcome, RangeRead, Step, Tick, Transaction};
use crate::{
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, Isolation, KeyRange, Version},
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Collects what clients do, from any thread. Clones share one history.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    clock: AtomicU64,
    history: Mutex<History>,
}

impl Recorder {
    /// An empty history.
    #[must_use]
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// A moment after every one taken before.
    fn tick(&self) -> Tick {
        Tick(self.shared.clock.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// States a row that was there before the first transaction.
    pub fn initial(&self, key: &FullKey, version: Version, value: &[u8]) {
        self.shared.history.lock().initial.push((key.clone(), version, Bytes::copy_from_slice(value)));
    }

    /// An attempt of a client begins: call it before anything is sent.
    pub fn begin(&self, client: u64) -> Recording {
        let transaction = Transaction::new(client, self.tick());
        Recording { recorder: self.clone(), transaction: Some(transaction) }
    }

    /// What has been recorded. Attempts that are still under way are not in it.
    #[must_use]
    pub fn history(&self) -> History {
        self.shared.history.lock().clone()
    }

    /// Takes what has been recorded, without copying it.
    #[must_use]
    pub fn take(&self) -> History {
        std::mem::take(&mut self.shared.history.lock())
    }

    /// How many attempts have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.history.lock().transactions.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One attempt under way. Dropped before [`Recording::complete`], it is kept as one of unknown outcome.
#[derive(Debug)]
#[must_use = "a recording that is dropped counts as one of unknown outcome"]
pub struct Recording {
    recorder: Recorder,
    transaction: Option<Transaction>,
}

impl Recording {
    fn edit(&mut self) -> &mut Transaction {
        self.transaction.as_mut().expect("it is there until it completes")
    }

    /// It asked for this isolation.
    pub fn isolation(&mut self, isolation: Isolation) {
        self.edit().isolation = isolation;
    }

    /// It allowed its reads to be old.
    pub fn stale_allowed(&mut self) {
        self.edit().stale_allowed = true;
    }

    /// It was told the version that it reads at.
    pub fn read_version(&mut self, version: Version) {
        self.edit().read_version = Some(version);
    }

    /// It named its commit.
    pub fn pair(&mut self, pair: IdempotencyPair) {
        self.edit().pair = Some(pair);
    }

    /// It did this.
    pub fn step(&mut self, step: Step) {
        self.edit().steps.push(step);
    }

    /// It read a key.
    pub fn get(&mut self, key: &FullKey, found: Option<Found>) {
        self.step(Step::Get { key: key.clone(), found });
    }

    /// It read a range.
    pub fn range(&mut self, read: RangeRead) {
        self.step(Step::Range(read));
    }

    /// It counted a range.
    pub fn count(&mut self, range: &KeyRange, count: u64) {
        self.step(Step::Count { range: range.clone(), count });
    }

    /// It asked whether conditions hold, and was told.
    pub fn conditions(&mut self, conditions: Vec<(FullKey, Condition)>, held: bool) {
        self.step(Step::Conditions { conditions, held });
    }

    /// It sets a value.
    pub fn put(&mut self, key: &FullKey, value: &[u8]) {
        self.step(Step::Put { key: key.clone(), value: Bytes::copy_from_slice(value) });
    }

    /// It deletes a key.
    pub fn delete(&mut self, key: &FullKey) {
        self.step(Step::Delete { key: key.clone() });
    }

    /// It runs an atomic operation; a result that is told at the commit goes to [`Recording::results`].
    pub fn atomic(&mut self, op: AtomicOp, key: &FullKey, operand: &[u8], result: Option<Bytes>) {
        self.step(Step::Atomic { op, key: key.clone(), operand: Bytes::copy_from_slice(operand), result });
    }

    /// It deletes a range.
    pub fn delete_range(&mut self, range: &KeyRange, deleted: Option<u64>) {
        self.step(Step::DeleteRange { range: range.clone(), deleted });
    }

    /// The commit told the results of the atomic operations, in order. For a transaction without savepoints.
    pub fn results(&mut self, results: impl IntoIterator<Item = Bytes>) {
        let atomics = self.edit().steps.iter_mut().filter_map(|step| match step {
            Step::Atomic { result, .. } => Some(result),
            _ => None,
        });
        for (told, result) in atomics.zip(results) {
            *told = Some(result);
        }
    }

    /// It ended so: call it when the answer is there.
    pub fn complete(mut self, outcome: Outcome) {
        let completed = self.recorder.tick();
        let transaction = self.edit();
        transaction.outcome = outcome;
        transaction.completed = Some(completed);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.recorder.shared.history.lock().transactions.push(transaction);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyspaceId;

    #[test]
    fn attempts_of_many_threads_are_kept_with_their_moments() {
        let recorder = Recorder::new();
        std::thread::scope(|scope| {
            for client in 0..4 {
                let recorder = recorder.clone();
                scope.spawn(move || {
                    for _ in 0..100 {
                        let mut recording = recorder.begin(client);
                        recording.put(&KeyspaceId::DEFAULT.full_key(b"k"), b"v");
                        recording.complete(Outcome::NotApplied);
                    }
                });
            }
        });
        let history = recorder.take();
        assert_eq!(history.transactions.len(), 400);
        let mut moments: Vec<_> =
            history.transactions.iter().flat_map(|attempt| [Some(attempt.invoked), attempt.completed]).collect();
        moments.sort();
        moments.dedup();
        assert_eq!(moments.len(), 800, "no two are the same");
        assert!(recorder.is_empty());
    }

    #[test]
    fn an_attempt_that_is_dropped_has_an_unknown_outcome() {
        let recorder = Recorder::new();
        drop(recorder.begin(1));
        let history = recorder.history();
        assert_eq!(history.transactions[0].outcome, Outcome::Unknown);
        assert_eq!(history.transactions[0].completed, None);
    }
}
