//! What the clients asked and were told, kept outside of the database: what must be there after a restart.
//!
//! Everything that is sent is opened here before its first byte leaves, and told what became of it. What is dropped without
//! that (its client was stopped in the middle) is of unknown outcome, and waits to be asked for.

use bytes::Bytes;
use quantadb::{
    client::{Execute, Row},
    testing::history::{Outcome, Recorder, Recording, Step},
    types::{FullKey, IdempotencyPair, Version, split_full_key},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// So many answers are kept to be asked for again.
const ANSWERS_MAX: usize = 4_096;

/// Something that may commit.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub client: u64,
    pub pair: Option<IdempotencyPair>,
    pub read_version: Option<Version>,
    /// What it did, as far as it is known without an answer.
    pub steps: Vec<Step>,
    pub again: Again,
}

impl Attempt {
    fn name(&self, recording: &mut Recording) {
        if let Some(pair) = self.pair {
            recording.pair(pair);
        }
        if let Some(version) = self.read_version {
            recording.read_version(version);
        }
    }
}

/// How it is sent a second time.
#[derive(Clone, Debug)]
pub enum Again {
    /// It cannot be, only asked about: its transaction is gone.
    Ask,
    Add(Bytes, [u8; 8]),
    Put(Bytes, Bytes),
    Execute(Execute),
}

/// A row that is written once, by one attempt.
#[derive(Clone, Debug)]
struct Fact {
    value: Bytes,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    At(Version),
    Absent,
}

/// A counter: what was added and acknowledged, and what was added or may have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub acknowledged: u64,
    pub attempted: u64,
}

#[derive(Debug, Default)]
struct Books {
    unknown: Vec<Attempt>,
    facts: BTreeMap<Bytes, Fact>,
    counters: BTreeMap<Bytes, Counter>,
    answers: VecDeque<Answer>,
    acknowledged: u64,
    seen: Version,
}

/// What was told once and must be told again.
#[derive(Clone, Debug)]
pub struct Answer {
    pub attempt: Attempt,
    pub outcome: Outcome,
    pub result: Option<Bytes>,
    pub told: Instant,
}

/// See the module. Clones share one.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub recorder: Recorder,
    books: Arc<Mutex<Books>>,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call it before the commit is sent; the recording began before the first byte of the transaction was.
    pub fn open(&self, recording: Recording, attempt: Attempt) -> Open {
        let mut books = self.books();
        for step in &attempt.steps {
            match step {
                Step::Put { key, value } if is_fact(key) => {
                    let value = value.clone();
                    books.facts.insert(name(key), Fact { value, fate: Fate::Unknown });
                }
                Step::Atomic { key, operand, .. } => {
                    books.counters.entry(name(key)).or_default().attempted += number(operand);
                }
                _ => {}
            }
        }
        drop(books);
        Open { ledger: self.clone(), parts: Some((recording, attempt)), known: false }
    }

    /// The same for an attempt that was opened before, of unknown outcome, and is asked for or sent again.
    pub fn reopen(&self, recording: Recording, attempt: Attempt) -> Open {
        Open { ledger: self.clone(), parts: Some((recording, attempt)), known: false }
    }

    /// The same for one whose outcome is known: it is written down in the history, and changes nothing here.
    pub fn repeat(&self, recording: Recording, attempt: Attempt) -> Open {
        Open { ledger: self.clone(), parts: Some((recording, attempt)), known: true }
    }

    fn learn(&self, attempt: Attempt, outcome: Outcome, result: Option<Bytes>) {
        let mut books = self.books();
        let committed = match outcome {
            Outcome::Committed(version) => Some(version),
            _ => None,
        };
        books.acknowledged += u64::from(committed.is_some());
        if let Outcome::Committed(version) | Outcome::ReadOnly(version) = outcome {
            books.seen = books.seen.max(version);
        }
        for step in &attempt.steps {
            match (step, committed) {
                (Step::Put { key, .. }, told) if is_fact(key) => {
                    if let Some(fact) = books.facts.get_mut(&name(key)) {
                        fact.fate = told.map_or(Fate::Absent, Fate::At);
                    }
                }
                (Step::Atomic { key, operand, .. }, told) => {
                    let counter = books.counters.entry(name(key)).or_default();
                    match told {
                        Some(_) => counter.acknowledged += number(operand),
                        None => counter.attempted -= number(operand),
                    }
                }
                _ => {}
            }
        }
        if attempt.pair.is_some() && matches!(outcome, Outcome::Committed(_) | Outcome::Never) {
            books.answers.push_back(Answer { attempt, outcome, result, told: Instant::now() });
            if books.answers.len() > ANSWERS_MAX {
                books.answers.pop_front();
            }
        }
    }

    /// Takes what is of unknown outcome.
    pub fn take_unknown(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.books().unknown)
    }

    /// An answer that was given, by its place from the newest.
    pub fn answer(&self, back: usize) -> Option<Answer> {
        let books = self.books();
        let at = books.answers.len().checked_sub(1 + back)?;
        books.answers.get(at).cloned()
    }

    /// How many answers are kept.
    pub fn answers(&self) -> usize {
        self.books().answers.len()
    }

    /// Nothing of what was told before is asked for again.
    pub fn forget_answers(&self) {
        self.books().answers.clear();
    }

    /// Commits that were acknowledged, at once or when they were asked for.
    pub fn acknowledged(&self) -> u64 {
        self.books().acknowledged
    }

    /// A version that some client has seen.
    pub fn seen(&self) -> Version {
        self.books().seen
    }

    pub fn saw(&self, version: Version) {
        let mut books = self.books();
        books.seen = books.seen.max(version);
    }

    /// Judges a counter: between what was acknowledged and what was attempted; exact once nothing is unknown.
    ///
    /// # Errors
    /// In words.
    pub fn judge_counter(&self, key: &[u8], value: u64) -> Result<(), String> {
        let Counter { acknowledged, attempted } = self.books().counters.get(key).copied().unwrap_or_default();
        if (acknowledged..=attempted).contains(&value) {
            return Ok(());
        }
        let key = key.escape_ascii();
        Err(format!("counter {key} is {value}: {acknowledged} was acknowledged and {attempted} attempted"))
    }

    /// Judges all facts under a prefix by the rows that are there, and settles those whose outcome nobody told.
    ///
    /// # Errors
    /// What is missing, changed, or there though it was fenced.
    pub fn judge_facts(&self, prefix: &[u8], rows: &[Row]) -> Result<usize, String> {
        let mut books = self.books();
        let mut rows = rows.iter().peekable();
        let under = books.facts.range_mut(Bytes::copy_from_slice(prefix)..);
        let mut judged = 0;
        for (key, fact) in under.take_while(|(key, _)| key.starts_with(prefix)) {
            judged += 1;
            let words = key.escape_ascii();
            if let Some(stranger) = rows.next_if(|row| row.key < *key) {
                return Err(format!("{} is there and nobody wrote it", stranger.key.escape_ascii()));
            }
            match (rows.next_if(|row| row.key == *key), fact.fate) {
                (Some(row), Fate::Absent) => {
                    return Err(format!("{words} was refused or fenced and is there, at version {}", row.version));
                }
                (Some(row), Fate::At(version)) if row.version != version => {
                    return Err(format!("{words} is of version {}, {version} was acknowledged", row.version));
                }
                (Some(row), _) if row.value != fact.value => {
                    return Err(format!("{words} has another value than was put, at version {}", row.version));
                }
                (Some(row), Fate::Unknown | Fate::At(_)) => fact.fate = Fate::At(row.version),
                (None, Fate::At(version)) => {
                    return Err(format!("{words} was acknowledged at version {version} and is gone"));
                }
                (None, Fate::Unknown | Fate::Absent) => fact.fate = Fate::Absent,
            }
        }
        match rows.next() {
            Some(stranger) => Err(format!("{} is there and nobody wrote it", stranger.key.escape_ascii())),
            None => Ok(judged),
        }
    }
}

/// An attempt that was sent, or is about to be.
#[must_use = "an attempt that is dropped counts as one of unknown outcome"]
pub struct Open {
    ledger: Ledger,
    parts: Option<(Recording, Attempt)>,
    known: bool,
}

impl Open {
    /// What became of it, with the steps as the answer tells them, or as they were known before.
    pub fn told(mut self, steps: Option<Vec<Step>>, outcome: Outcome) {
        let Some((mut recording, attempt)) = self.parts.take() else { return };
        attempt.name(&mut recording);
        let steps = steps.unwrap_or_else(|| attempt.steps.clone());
        let result = steps.iter().find_map(|step| match step {
            Step::Atomic { result, .. } => result.clone(),
            _ => None,
        });
        steps.into_iter().for_each(|step| recording.step(step));
        recording.complete(outcome);
        if !self.known {
            self.ledger.learn(attempt, outcome, result);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((mut recording, attempt)) = self.parts.take() {
            attempt.name(&mut recording);
            attempt.steps.iter().for_each(|step| recording.step(step.clone()));
            drop(recording);
            if !self.known {
                self.ledger.books().unknown.push(attempt);
            }
        }
    }
}

/// The user's key in a full key.
pub fn name(key: &FullKey) -> Bytes {
    split_full_key(key).map(|(_, key)| key.to_vec().into()).unwrap_or_default()
}

fn is_fact(key: &FullKey) -> bool {
    split_full_key(key).is_some_and(|(_, key)| key.starts_with(b"f/"))
}

/// The integer of an addition.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_be_bytes).unwrap_or_default()
}
