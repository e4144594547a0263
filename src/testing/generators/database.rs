//! A small optimistic database and its clients, run from a seed: where histories come from.
//!
//! It keeps every state it ever had, so a snapshot is a clone; it checks each commit against every write since its read
//! version, key by key. It can be told to make one mistake: that is how the checker is shown to go red.

use super::Random;
use crate::{
    testing::{
        history::{Condition, Found, History, Outcome, RangeEnd, RangeRead, Step, Tick, Transaction},
        model::{Model, Stored},
    },
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, Isolation, KeyRange, KeyspaceId, Version},
};
use bytes::Bytes;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clients that run at once.
    pub clients: usize,
    /// Attempts to make, at least.
    pub transactions: usize,
    /// Different keys: the fewer, the more conflicts.
    pub keys: u64,
    /// Whether answers get lost, and commits are sent again under their pair.
    pub loses_answers: bool,
    /// The mistake to make.
    pub bug: Option<Bug>,
}

impl Default for Options {
    fn default() -> Options {
        Options { clients: 6, transactions: 150, keys: 12, loses_answers: true, bug: None }
    }
}

/// A mistake of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Keys that were read are not checked at commit: updates are lost, writes skew.
    PointsUnchecked,
    /// Of the keys read, only those also written are checked: writes skew.
    OnlyWritesChecked,
    /// Ranges that were read are not checked: phantoms.
    RangesUnchecked,
    /// A range that was read to its end is checked only up to its last row: phantoms behind it.
    RangeEndsAtLastRow,
    /// Some snapshots are older than what was told before they were taken.
    StaleReads,
    /// Later reads of a transaction see newer states than its first.
    ReadsMove,
    /// Reads see what another transaction is about to write.
    DirtyReads,
    /// A transaction that is refused leaves its first write.
    RefusedLeavesTrace,
    /// A commit applies all its mutations but the last.
    HalfApplied,
    /// A commit that is sent again is applied again.
    AppliedTwice,
    /// A fence is told, and the commit is applied all the same.
    FenceIgnored,
    /// An atomic operation tells its result from before the transaction's snapshot was checked.
    WrongResult,
    /// A count leaves out what the transaction itself wrote.
    WrongCount,
    /// Two commits in a row get the same version.
    VersionRepeats,
    /// A commit gets a version below that of one that was told before.
    VersionFallsBack,
    /// Under snapshot isolation, what it writes is not checked.
    FirstCommitterLoses,
    /// Deleting a range tells one row too many.
    WrongDeleted,
    /// One-shots judge their conditions on an older state.
    ConditionsOnOldState,
}

impl Bug {
    /// Every mistake.
    pub const ALL: [Bug; 18] = [
        Bug::PointsUnchecked,
        Bug::OnlyWritesChecked,
        Bug::RangesUnchecked,
        Bug::RangeEndsAtLastRow,
        Bug::StaleReads,
        Bug::ReadsMove,
        Bug::DirtyReads,
        Bug::RefusedLeavesTrace,
        Bug::HalfApplied,
        Bug::AppliedTwice,
        Bug::FenceIgnored,
        Bug::WrongResult,
        Bug::WrongCount,
        Bug::VersionRepeats,
        Bug::VersionFallsBack,
        Bug::FirstCommitterLoses,
        Bug::WrongDeleted,
        Bug::ConditionsOnOldState,
    ];
}

/// Runs clients against the small database; the same seed and options give the same history.
#[must_use]
pub fn history(seed: u64, options: &Options) -> History {
    let mut database = Database::new(seed, *options);
    let mut clients: Vec<_> = (0..options.clients).map(|_| Client::Idle).collect();
    while database.history.transactions.len() < options.transactions {
        let number = database.random.index(clients.len());
        let client = std::mem::replace(&mut clients[number], Client::Idle);
        clients[number] = database.advance(number as u64, client);
    }
    for client in clients {
        if let Client::Told(attempt, outcome) = client {
            database.tell(*attempt, outcome);
        }
    }
    database.history
}

/// Where a client stands.
enum Client {
    Idle,
    /// In a transaction, with this many steps to go.
    Active(Box<Active>, u64),
    /// Its commit was decided; it has not been told yet.
    Told(Box<Transaction>, Outcome),
}

struct Active {
    attempt: Transaction,
    /// The snapshot, with its own writes over it; those have version zero.
    view: Model,
    read_version: Version,
    points: Vec<FullKey>,
    ranges: Vec<KeyRange>,
    /// What range deletes found, in order.
    deletes: Vec<Vec<FullKey>>,
}

struct Database {
    random: Random,
    options: Options,
    history: History,
    clock: u64,
    written: u64,
    /// The state after each commit, and the keys that it changed. Place 0 is the beginning.
    states: Vec<(Version, Model, Vec<FullKey>)>,
    /// Keyed commits that were applied: what was told.
    kept: Vec<(IdempotencyPair, Version)>,
}

impl Database {
    fn new(seed: u64, options: Options) -> Database {
        let mut database = Database {
            random: Random::new(seed),
            options,
            history: History::default(),
            clock: 0,
            written: 0,
            states: Vec::new(),
            kept: Vec::new(),
        };
        let mut model = Model::default();
        for number in 0..options.keys / 2 {
            let key = key_of(number * 2);
            model.put(Version(3), &key, b"initial");
            database.history.initial.push((key, Version(3), Bytes::from_static(b"initial")));
        }
        database.states.push((Version(5), model, Vec::new()));
        database
    }

    fn bug(&self, bug: Bug) -> bool {
        self.options.bug == Some(bug)
    }

    fn tick(&mut self) -> Tick {
        self.clock += 1;
        Tick(self.clock)
    }

    fn last(&self) -> &(Version, Model, Vec<FullKey>) {
        self.states.last().expect("there is the beginning")
    }

    /// The last state at or below a version.
    fn state_at(&self, version: Version) -> &Model {
        let count = self.states.partition_point(|(at, ..)| *at <= version);
        &self.states[count.saturating_sub(1)].1
    }

    fn advance(&mut self, number: u64, client: Client) -> Client {
        match client {
            Client::Idle => {
                let invoked = self.tick();
                let attempt = Transaction::new(number, invoked);
                match self.random.below(5) {
                    0 => self.one_shot(attempt),
                    _ => self.begin(attempt),
                }
            }
            Client::Active(active, 0) => self.commit(*active),
            Client::Active(mut active, left) => {
                self.step(&mut active);
                Client::Active(active, left - 1)
            }
            Client::Told(attempt, outcome) => {
                self.tell(*attempt, outcome);
                Client::Idle
            }
        }
    }

    fn begin(&mut self, mut attempt: Transaction) -> Client {
        let mut read_version = self.last().0;
        if self.bug(Bug::StaleReads) && self.states.len() > 3 && self.random.once_in(3) {
            read_version = self.states[self.states.len() - 3].0;
        }
        if self.random.once_in(4) {
            attempt.isolation = Isolation::Snapshot;
        }
        attempt.read_version = Some(read_version);
        let view = self.state_at(read_version).clone();
        let (points, ranges, deletes) = (Vec::new(), Vec::new(), Vec::new());
        let steps = 1 + self.random.below(6);
        Client::Active(Box::new(Active { attempt, view, read_version, points, ranges, deletes }), steps)
    }

    /// Conditions and mutations, all at one moment.
    fn one_shot(&mut self, mut attempt: Transaction) -> Client {
        let state = match self.bug(Bug::ConditionsOnOldState) && self.states.len() > 2 {
            true => self.states[self.states.len() - 3].1.clone(),
            false => self.last().1.clone(),
        };
        let key = self.key();
        let row = state.get(&key).cloned();
        let condition = match (self.random.below(5), &row) {
            (0, _) => Condition::Exists,
            (1, _) => Condition::Absent,
            (2, Some(row)) => Condition::ValueEquals(row.value.clone()),
            (3, Some(row)) => Condition::ValueDiffers(row.value.clone()),
            (_, Some(row)) => Condition::VersionEquals(row.version),
            (_, None) => Condition::VersionAtMost(Version(1)),
        };
        let held = match &condition {
            Condition::Exists => row.is_some(),
            Condition::Absent | Condition::VersionAtMost(_) => row.is_none(),
            Condition::ValueDiffers(_) => false,
            _ => true,
        };
        attempt.steps.push(Step::Conditions { conditions: vec![(key.clone(), condition)], held });
        if !held {
            let version = self.last().0;
            return Client::Told(Box::new(attempt), Outcome::ReadOnly(version));
        }
        let value = self.value();
        attempt.steps.push(Step::Put { key, value });
        let (key, operand) = (self.key(), self.value());
        attempt.steps.push(Step::Atomic { op: AtomicOp::Append, key, operand, result: None });
        self.apply(attempt, &[])
    }

    fn key(&mut self) -> FullKey {
        key_of(self.random.below(self.options.keys))
    }

    /// A value that nobody else writes, of a length that few others have, so that the result of an append tells much.
    fn value(&mut self) -> Bytes {
        self.written += 1;
        let dots = ".".repeat(usize::try_from(self.written % 61).expect("it is below 61"));
        format!("{}{dots}", self.written).into()
    }

    fn any_range(&mut self) -> KeyRange {
        let (a, b) = (self.key(), self.key());
        match self.random.once_in(4) {
            true => KeyspaceId::DEFAULT.range(),
            false => KeyRange { start: a.clone().min(b.clone()), end: a.max(b) },
        }
    }

    fn step(&mut self, active: &mut Active) {
        if self.bug(Bug::ReadsMove) && !active.attempt.steps.iter().any(Step::writes) {
            active.view = self.last().1.clone();
        }
        let step = match self.random.below(14) {
            0..=3 => self.get(active),
            4..=5 => self.range(active),
            6 => self.count(active),
            7..=9 => {
                let (key, value) = (self.key(), self.value());
                active.view.put(Version::ZERO, &key, &value);
                Step::Put { key, value }
            }
            10 => {
                let key = self.key();
                active.view.delete(&key);
                Step::Delete { key }
            }
            11..=12 => {
                let (key, operand) = (self.key(), self.value());
                active.view.atomic(Version::ZERO, AtomicOp::Append, &key, &operand);
                Step::Atomic { op: AtomicOp::Append, key, operand, result: None }
            }
            _ => {
                let range = self.any_range();
                let keys = active.view.delete_range(&range);
                active.ranges.push(range.clone());
                let wrong = u64::from(self.bug(Bug::WrongDeleted));
                let deleted = Some(keys.len() as u64 + wrong);
                active.deletes.push(keys);
                Step::DeleteRange { range, deleted }
            }
        };
        active.attempt.steps.push(step);
    }

    fn get(&mut self, active: &mut Active) -> Step {
        let key = self.key();
        active.points.push(key.clone());
        if self.bug(Bug::DirtyReads) && self.random.once_in(3) {
            let value = self.value();
            let version = self.last().0.next();
            active.attempt.read_version = None;
            return Step::Get { key, found: Some(Found::new(version, &value)) };
        }
        let found = active.view.get(&key).map(|row| Found::new(row.version, &row.value));
        Step::Get { key, found }
    }

    fn range(&mut self, active: &mut Active) -> Step {
        let (range, reverse) = (self.any_range(), self.random.once_in(2));
        let limit = self.random.once_in(2).then(|| 1 + self.random.below(4));
        let most = limit.map_or(usize::MAX, |limit| limit as usize);
        let found = |(key, row): (&FullKey, &Stored)| (key.clone(), Found::new(row.version, &row.value));
        let mut rows: Vec<_> = match reverse {
            true => active.view.range(&range).rev().take(most).map(found).collect(),
            false => active.view.range(&range).take(most).map(found).collect(),
        };
        let mut end = if rows.len() == most { RangeEnd::Limit } else { RangeEnd::Exhausted };
        if self.random.once_in(4) && !rows.is_empty() {
            rows.truncate(1 + self.random.index(rows.len()));
            end = RangeEnd::Stopped(rows.last().map(|(key, _)| key.clone()));
        }
        let mut read = RangeRead { range, reverse, limit, rows, end };
        active.ranges.push(match self.bug(Bug::RangeEndsAtLastRow) {
            true => {
                let end = std::mem::replace(&mut read.end, RangeEnd::Limit);
                let cut = read.told();
                read.end = end;
                cut
            }
            false => read.told(),
        });
        Step::Range(read)
    }

    fn count(&mut self, active: &mut Active) -> Step {
        let range = self.any_range();
        active.ranges.push(range.clone());
        let own = |row: &Stored| row.version == Version::ZERO;
        let counted = active.view.range(&range).filter(|(_, row)| !(self.bug(Bug::WrongCount) && own(row)));
        let count = counted.count() as u64;
        Step::Count { range, count }
    }

    /// Whether anything that it read, or under snapshot isolation wrote, was written since.
    fn conflicts(&self, active: &Active) -> bool {
        let written: Vec<_> = active.attempt.steps.iter().filter_map(written_key).collect();
        let snapshot = active.attempt.isolation == Isolation::Snapshot;
        let since = self.states.iter().filter(|(version, ..)| *version > active.read_version);
        since.flat_map(|(_, _, keys)| keys).any(|key| {
            let wrote = written.contains(&key) || active.deletes.iter().flatten().any(|deleted| deleted == key);
            if snapshot {
                return wrote && !self.bug(Bug::FirstCommitterLoses);
            }
            let point = active.points.contains(key) && !self.bug(Bug::PointsUnchecked);
            let point = point && (wrote || !self.bug(Bug::OnlyWritesChecked));
            point || active.ranges.iter().any(|range| range.contains(key)) && !self.bug(Bug::RangesUnchecked)
        })
    }

    fn commit(&mut self, active: Active) -> Client {
        let read_version = active.read_version;
        if !active.attempt.steps.iter().any(Step::writes) {
            return Client::Told(Box::new(active.attempt), Outcome::ReadOnly(read_version));
        }
        if self.random.once_in(12) {
            return Client::Told(Box::new(active.attempt), Outcome::NotApplied);
        }
        if self.conflicts(&active) {
            if self.bug(Bug::RefusedLeavesTrace) {
                let (version, mut model) = (self.last().0.next(), self.last().1.clone());
                if let Some(Step::Put { key, value }) = active.attempt.steps.iter().find(|step| step.writes()) {
                    model.put(version, key, value);
                    self.states.push((version, model, vec![key.clone()]));
                }
            }
            return Client::Told(Box::new(active.attempt), Outcome::NotApplied);
        }
        let mut attempt = active.attempt;
        if self.options.loses_answers && self.random.once_in(3) {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&self.random.bits().to_be_bytes());
            attempt.pair = Some(IdempotencyPair { key, seen: read_version });
        }
        self.apply(attempt, &active.deletes)
    }

    /// Takes the next version and changes the state.
    fn apply(&mut self, mut attempt: Transaction, deletes: &[Vec<FullKey>]) -> Client {
        let version = self.apply_once(&mut attempt, deletes);
        if let Some(pair) = attempt.pair {
            self.kept.push((pair, version));
        }
        Client::Told(Box::new(attempt), Outcome::Committed(version))
    }

    fn apply_once(&mut self, attempt: &mut Transaction, deletes: &[Vec<FullKey>]) -> Version {
        let (last, mut model) = (self.last().0, self.last().1.clone());
        let step = 1 + self.random.below(2);
        let version = Version(last.0 + step);
        let before = model.clone();
        model.begin();
        let mutations = attempt.steps.iter().filter(|step| step.writes()).count();
        let (mut deletes, mut done, wrong) = (deletes.iter(), 0, self.bug(Bug::WrongResult));
        for step in attempt.steps.iter_mut().filter(|step| step.writes()) {
            done += 1;
            if self.options.bug == Some(Bug::HalfApplied) && mutations > 1 && done == mutations {
                continue;
            }
            match step {
                Step::Put { key, value } => model.put(version, key, value),
                Step::Delete { key } => drop(model.delete(key)),
                Step::Atomic { op, key, operand, result } => {
                    let right = model.atomic(version, *op, key, operand);
                    let length = before.get(key).map_or(0, |row| row.value.len() as u64);
                    *result = Some(if wrong { Bytes::copy_from_slice(&length.to_be_bytes()) } else { right });
                }
                Step::DeleteRange { .. } => {
                    for key in deletes.next().into_iter().flatten() {
                        model.delete(key);
                    }
                }
                _ => {}
            }
        }
        let keys = model.keep();
        self.states.push((version, model, keys));
        version
    }

    /// A key whose row tells of this commit, if it still stands.
    fn trace(&self, attempt: &Transaction, version: Version) -> Option<FullKey> {
        let there = |key: &&FullKey| self.state_at(version).get(key).is_some_and(|row| row.version == version);
        attempt.steps.iter().filter_map(written_key).find(there).cloned()
    }

    /// Nobody ever tells of this commit, but somebody reads one of its rows at its version.
    fn forget(&mut self, mut attempt: Transaction, version: Version, key: FullKey) {
        lose_results(&mut attempt);
        let mut reader = Transaction::new(attempt.client, self.tick());
        let found = self.state_at(version).get(&key).map(|row| Found::new(row.version, &row.value));
        reader.steps.push(Step::Get { key, found });
        reader.stale_allowed = true;
        reader.outcome = Outcome::ReadOnly(version);
        reader.completed = Some(self.tick());
        attempt.outcome = Outcome::Unknown;
        self.history.transactions.extend([attempt, reader]);
    }

    /// The client learns what became of it, or does not.
    fn tell(&mut self, mut attempt: Transaction, outcome: Outcome) {
        attempt.outcome = outcome;
        let lost = self.options.loses_answers && attempt.pair.is_some() && self.random.once_in(2);
        if let (Outcome::Committed(version), true) = (outcome, lost) {
            let mut first = attempt.clone();
            first.outcome = Outcome::Unknown;
            lose_results(&mut first);
            self.history.transactions.push(first);
            attempt.invoked = self.tick();
            if self.bug(Bug::AppliedTwice) {
                let again = self.apply_once(&mut attempt, &[]);
                attempt.outcome = Outcome::Committed(again);
            } else if self.bug(Bug::FenceIgnored) {
                attempt.outcome = Outcome::Never;
            } else {
                let kept = self.kept.iter().find(|(pair, _)| Some(*pair) == attempt.pair);
                assert_eq!(kept.map(|(_, kept)| *kept), Some(version), "it was kept when it was applied");
            }
        } else if let Outcome::Committed(version) = outcome
            && let Some(key) = self.trace(&attempt, version)
            && self.options.loses_answers
            && self.random.once_in(6)
        {
            self.forget(attempt, version, key);
            return;
        }
        if let (Outcome::Committed(version), true) = (attempt.outcome, self.random.once_in(6)) {
            match self.options.bug {
                Some(Bug::VersionRepeats) => {
                    let earlier = self.history.transactions.iter().rev().find_map(|other| match other.outcome {
                        Outcome::Committed(other) => Some(other),
                        _ => None,
                    });
                    attempt.outcome = Outcome::Committed(earlier.unwrap_or(version));
                }
                Some(Bug::VersionFallsBack) => attempt.outcome = Outcome::Committed(Version(4)),
                _ => {}
            }
        }
        attempt.completed = Some(self.tick());
        self.history.transactions.push(attempt);
    }
}

/// Without an answer no results were told.
fn lose_results(attempt: &mut Transaction) {
    for step in &mut attempt.steps {
        if let Step::Atomic { result, .. } = step {
            *result = None;
        }
    }
}

fn written_key(step: &Step) -> Option<&FullKey> {
    match step {
        Step::Put { key, .. } | Step::Delete { key } | Step::Atomic { key, .. } => Some(key),
        _ => None,
    }
}

fn key_of(number: u64) -> FullKey {
    KeyspaceId::DEFAULT.full_key(format!("key {number:03}").as_bytes())
}
