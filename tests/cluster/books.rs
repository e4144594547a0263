//! What the clients asked and were told, kept outside of the database.
//!
//! An attempt is opened before its commit is sent. One that nobody told the outcome of (its client gave up, or was stopped)
//! waits here to be asked for.

use quantadb::{
    testing::history::{Outcome, Recorder, Recording, Step},
    types::{IdempotencyPair, Version},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What was acknowledged is remembered for so long, with the moment when it was.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Something that may commit.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub client: u64,
    pub pair: IdempotencyPair,
    pub read_version: Option<Version>,
    pub steps: Vec<Step>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Books {
    pub recorder: Recorder,
    /// Elements appended to lists so far.
    pub appended: AtomicU64,
    unknown: Mutex<Vec<Attempt>>,
    /// Versions that were told, ascending, with the moment when each was.
    told: Mutex<VecDeque<(Instant, Version)>>,
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    /// Call it before the commit is sent; the recording began before the first byte of the transaction was.
    pub fn open(self: &Arc<Books>, recording: Recording, attempt: Attempt) -> Open {
        Open { books: Arc::clone(self), parts: Some((recording, attempt)) }
    }

    /// A client was told of this version.
    pub fn saw(&self, version: Version) {
        let mut told = lock(&self.told);
        let now = Instant::now();
        if told.back().is_none_or(|(_, newest)| *newest < version) {
            told.push_back((now, version));
        }
        while told.front().is_some_and(|(moment, _)| now - *moment > REMEMBERED) && told.len() > 1 {
            told.pop_front();
        }
    }

    /// The newest version that anybody was told of.
    pub fn seen(&self) -> Version {
        lock(&self.told).back().map_or(Version::ZERO, |(_, version)| *version)
    }

    /// The newest version that somebody had been told of at this moment, of those that are remembered.
    pub fn seen_by(&self, moment: Instant) -> Version {
        let told = lock(&self.told);
        let before = told.partition_point(|(at, _)| *at <= moment);
        before.checked_sub(1).map_or(Version::ZERO, |last| told[last].1)
    }

    /// Takes what is of unknown outcome.
    pub fn take_unknown(&self) -> Vec<Attempt> {
        std::mem::take(&mut lock(&self.unknown))
    }

    /// Commits that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Attempts so far that changed nothing, as their clients were told.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn learn(&self, outcome: Outcome) {
        match outcome {
            Outcome::Committed(version) => {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.saw(version);
            }
            Outcome::ReadOnly(version) => self.saw(version),
            Outcome::NotApplied | Outcome::Never => _ = self.refused.fetch_add(1, Ordering::Relaxed),
            Outcome::Unknown => {}
        }
    }
}

/// An attempt that was sent, or is about to be.
#[must_use = "an attempt that is dropped counts as one of unknown outcome"]
pub struct Open {
    books: Arc<Books>,
    parts: Option<(Recording, Attempt)>,
}

impl Open {
    /// What became of it, with what its atomic operations gave if that was told.
    pub fn told(mut self, outcome: Outcome, results: Option<Vec<bytes::Bytes>>) {
        let Some((mut recording, attempt)) = self.parts.take() else { return };
        write_down(&mut recording, &attempt);
        recording.results(results.unwrap_or_default());
        recording.complete(outcome);
        self.books.learn(outcome);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((mut recording, attempt)) = self.parts.take() {
            write_down(&mut recording, &attempt);
            drop(recording);
            lock(&self.books.unknown).push(attempt);
        }
    }
}

fn write_down(recording: &mut Recording, attempt: &Attempt) {
    recording.pair(attempt.pair);
    if let Some(version) = attempt.read_version {
        recording.read_version(version);
    }
    attempt.steps.iter().for_each(|step| recording.step(step.clone()));
}
