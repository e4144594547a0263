//! What drives a log over simulated files, and judges what is there afterwards.
//!
//! The judge knows the log after every call that was made. What is found must be the log after some number of them: no fewer
//! than were acknowledged, and none that was not made.

use super::*;
use crate::testing::{
    files::{SimulatedFiles, environment},
    generators::Random,
};

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: Vec<LogEntry>,
}

impl Held {
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id).or(self.purged)
    }

    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn keep(&mut self, count: usize) {
        self.entries.truncate(count);
    }
}

/// A call that changes a log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<LogEntry>),
    Vote(Vote),
    /// Keeps so many entries of those that are there.
    Keep(usize),
    Purge(LogId),
}

/// A log's directory through several lives.
pub(super) struct Driver {
    pub(super) files: Arc<SimulatedFiles>,
    pub(super) options: LogOptions,
    /// After each call, beginning with what was there before the first.
    states: Vec<Held>,
    /// Answers by the number of the call, in the order in which they came.
    answers: Arc<Mutex<Vec<(usize, bool)>>>,
    term: u64,
    made: u64,
}

/// One life: between opening and the end, whatever it is.
pub(super) struct Life {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) log: Log,
    pub(super) recovered: Recovered,
}

pub(super) const PATH: &str = "/data/log";

impl Driver {
    pub(super) fn new(segment_bytes: u64) -> Driver {
        let files = SimulatedFiles::new();
        // The database's own directory is there.
        files.plant(Path::new("/data/marker"), 0, b"x");
        Driver {
            files,
            options: options(segment_bytes),
            states: vec![Held::default()],
            answers: Arc::default(),
            term: 1,
            made: 0,
        }
    }

    /// Another, over a copy of the disk.
    pub(super) fn copy(&self) -> Driver {
        let mut copy = Driver::new(self.options.segment_bytes);
        copy.files = self.files.copy();
        copy
    }

    /// What was proposed last.
    pub(super) fn held(&self) -> &Held {
        self.states.last().expect("it begins with one")
    }

    pub(super) fn open(&self) -> Result<Life, OpenError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let env = environment(self.files.clone());
        let opened = {
            let _inside = runtime.enter();
            match self.made % 2 {
                0 => Log::open(&env, Path::new(PATH), self.options),
                // On the thread of whoever asks, and beside it what is larger than a few records.
                _ => Log::open_for(&env, Path::new(PATH), self.options).map(|(log, writing, recovered)| {
                    let writing = env.spawn("log", writing.aside(&env, Arc::new(200.into())).run());
                    log.0.tasks.lock().insert(0, writing);
                    (log, recovered)
                }),
            }
        };
        opened.map(|(log, recovered)| Life { runtime, log, recovered })
    }

    /// A new entry behind the last one, unlike any other.
    pub(super) fn entry(&mut self, bytes: usize) -> LogEntry {
        self.made += 1;
        let mut draw = Random::new(self.made);
        let payload: Vec<u8> = (0..bytes).map(|_| draw.bits() as u8).collect();
        let index = self.held().last().map_or(0, |last| last.index + 1);
        LogEntry { id: id(self.term, index), kind: self.made as u8, payload: payload.into() }
    }

    /// Makes a call.
    pub(super) fn step(&mut self, log: &Log, step: Step) {
        let mut held = self.held().clone();
        let (number, answers) = (self.states.len(), self.answers.clone());
        let done: Done = Box::new(move |result| answers.lock().push((number, result.is_ok())));
        match step {
            Step::Append(entries) => {
                held.entries.extend(entries.iter().cloned());
                log.append(entries, done);
            }
            Step::Vote(vote) => {
                held.vote = Some(vote);
                log.save_vote(vote, done);
            }
            Step::Keep(count) => {
                held.keep(count);
                self.term += 1;
                log.truncate_after(held.last(), done);
            }
            Step::Purge(up_to) => {
                let dead = (up_to.index + 1 - held.first_index()) as usize;
                held.entries.drain(..dead.min(held.entries.len()));
                held.purged = Some(up_to);
                log.purge(up_to, done);
            }
        }
        self.states.push(held);
    }

    /// A call by chance.
    pub(super) fn random_step(&mut self, draw: &mut Random) -> Step {
        let count = self.held().entries.len() as u64;
        match draw.below(16) {
            0 | 1 => Step::Vote(vote(draw.below(1000))),
            2 => Step::Keep(draw.below(count + 1) as usize),
            3 if count > 0 => Step::Purge(self.held().entries[draw.below(count) as usize].id),
            4 if draw.below(8) < 1 => {
                let past = self.held().last().map_or(0, |last| last.index) + 1 + draw.below(5);
                Step::Purge(id(self.term, past))
            }
            _ => {
                let first = self.entry(0).id.index;
                let sizes = [0, 1, 100, 400, 449, 450, 3000, 9000];
                let entries = (0..1 + draw.below(3)).map(|number| {
                    let bytes = if draw.below(60) < 1 { 40_000 } else { sizes[draw.below(8) as usize] };
                    let mut entry = self.entry(bytes);
                    entry.id.index = first + number;
                    entry
                });
                Step::Append(entries.collect())
            }
        }
    }

    /// Where the log says that it ends on disk is where it ended after some call, and none before those acknowledged.
    pub(super) fn judge_durable(&self, log: &Log) -> Result<(), String> {
        let acknowledged = self.answers.lock().iter().filter(|(_, fine)| *fine).count();
        let durable = log.durable();
        if self.states[acknowledged..].iter().any(|held| held.last() == durable) {
            return Ok(());
        }
        Err(format!("durable up to {durable:?} after {acknowledged} of {} calls", self.states.len() - 1))
    }

    /// Lets the log work until every call is answered.
    pub(super) fn settle(&self, life: &Life) {
        life.runtime.block_on(async {
            let calls = self.states.len() - 1;
            for _ in 0..10_000 {
                if self.answers.lock().len() == calls {
                    return;
                }
                tokio::task::yield_now().await;
            }
            panic!("calls are not answered");
        });
    }

    /// Lets it work a little.
    pub(super) fn turn(&self, life: &Life, times: u64) {
        life.runtime.block_on(async {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        });
    }

    /// What a log holds, read through its calls.
    pub(super) fn found(log: &Log) -> Result<Held, String> {
        let (purged, last) = (log.purged(), log.last());
        let first = purged.map_or(0, |purged| purged.index + 1);
        let end = last.map_or(0, |last| last.index + 1);
        let entries = log.read(first, end, usize::MAX).map_err(|error| format!("unreadable: {error}"))?;
        let held = Held { vote: log.vote(), purged, entries };
        if held.last() != last || held.entries.len() as u64 != end.saturating_sub(first) {
            return Err(format!("last is {last:?}, and {} entries are there", held.entries.len()));
        }
        Ok(held)
    }

    /// Judges what a log holds after a life has ended, and takes it as the beginning of the next.
    pub(super) fn judge(&mut self, life: &Life) -> Result<(), String> {
        let answers = std::mem::take(&mut *self.answers.lock());
        if !answers.is_sorted_by_key(|(number, _)| *number) {
            return Err(format!("answers out of order: {answers:?}"));
        }
        if !answers.is_sorted_by_key(|(_, fine)| !*fine) {
            return Err(format!("acknowledged after a failure: {answers:?}"));
        }
        let acknowledged = answers.iter().filter(|(_, fine)| *fine).count();
        let found = Driver::found(&life.log)?;
        let (vote, purged, last) = (found.vote, found.purged, found.last());
        let Recovered { vote: told_vote, purged: told_purged, last: told_last, .. } = life.recovered;
        if (told_vote, told_purged, told_last) != (vote, purged, last) {
            return Err(format!("told {:?}, found {vote:?} {purged:?} {last:?}", life.recovered));
        }
        if !self.states[acknowledged..].contains(&found) {
            let earlier = self.states.iter().position(|held| *held == found);
            return Err(format!(
                "found the log after {earlier:?} of {} calls, {acknowledged} acknowledged: {vote:?} {purged:?} {last:?}",
                self.states.len() - 1
            ));
        }
        // What was lost may be proposed anew, by another leader.
        self.term += 1;
        self.states = vec![found];
        Ok(())
    }
}
