//! Replaying one unit: runs its steps on the model, and compares what was told with what the model says.

use super::{
    Condition, Found, Outcome, RangeEnd, RangeRead, Step, Transaction,
    checker::{Checker, Rule},
    text,
};
use crate::{
    testing::model::Stored,
    txn::AtomicOp,
    types::{FullKey, Isolation, KeyRange, Version},
};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// What a replay is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// A snapshot's reads.
    Reads,
    /// A commit.
    Commit,
    /// A commit at a place later than its own, which is not known: its mutations alone.
    Late,
}

/// Something told that the model does not say.
pub(super) struct Mismatch {
    pub rule: Rule,
    /// The keys that it is about.
    pub range: KeyRange,
    pub told: String,
    pub was: String,
    /// Versions of rows that the model has there.
    pub writers: Vec<Version>,
}

impl Mismatch {
    fn of_key(rule: Rule, key: &FullKey, told: String, row: Option<&Stored>) -> Box<Mismatch> {
        let found = row.map(|row| Found { version: row.version, value: Some(row.value.clone()) });
        Box::new(Mismatch {
            rule,
            range: KeyRange::point(key.clone()),
            told,
            was: text::found(found.as_ref()),
            writers: row.map(|row| row.version).into_iter().collect(),
        })
    }
}

/// Runs the steps of one unit on the model and compares.
pub(super) struct Replay<'c, 'a> {
    checker: &'c mut Checker<'a>,
    unit: usize,
    attempt: &'a Transaction,
    /// Label of what it writes.
    version: Version,
    pass: Pass,
    /// Whether what was read is compared in this pass.
    compares_reads: bool,
    own: HashSet<FullKey>,
    range_deletes: usize,
}

impl<'c, 'a> Replay<'c, 'a> {
    pub fn new(checker: &'c mut Checker<'a>, unit: usize, version: Version, pass: Pass) -> Replay<'c, 'a> {
        let attempt = checker.attempt(unit);
        let snapshot = attempt.isolation == Isolation::Snapshot;
        let committed = pass != Pass::Reads;
        // Nobody else's version: what a snapshot's reads see of its own writes.
        let version = if committed { version } else { Version(u64::MAX) };
        Replay {
            checker,
            unit,
            attempt,
            version,
            pass,
            compares_reads: pass == Pass::Reads || pass == Pass::Commit && !snapshot,
            own: HashSet::new(),
            range_deletes: 0,
        }
    }

    pub fn run(mut self) -> Result<(), Box<Mismatch>> {
        let mut savepoints: HashMap<&str, usize> = HashMap::new();
        let start = self.checker.model.mark();
        for step in &self.attempt.steps {
            match step {
                Step::Savepoint(name) => drop(savepoints.insert(name, self.checker.model.mark())),
                Step::RollbackTo(name) => {
                    self.checker.model.take_back_to(savepoints.get(name.as_str()).copied().unwrap_or(start));
                }
                Step::Put { key, value } => {
                    self.own.insert(key.clone());
                    self.checker.model.put(self.version, key, value);
                }
                Step::Delete { key } => {
                    self.own.insert(key.clone());
                    self.checker.model.delete(key);
                }
                Step::Atomic { op, key, operand, result } => self.atomic(*op, key, operand, result.as_ref())?,
                Step::DeleteRange { range, deleted } => self.delete_range(range, *deleted)?,
                _ if !self.compares_reads => {}
                Step::Get { key, found } => self.get(key, found.as_ref())?,
                Step::Range(read) => self.range(read)?,
                Step::Count { range, count } => self.count(range, *count)?,
                Step::Conditions { conditions, held } => self.conditions(conditions, *held)?,
            }
        }
        Ok(())
    }

    fn atomic(
        &mut self,
        op: AtomicOp,
        key: &FullKey,
        operand: &[u8],
        told: Option<&Bytes>,
    ) -> Result<(), Box<Mismatch>> {
        self.own.insert(key.clone());
        let before = self.checker.model.get(key).cloned();
        let result = self.checker.model.atomic(self.version, op, key, operand);
        match told {
            Some(told) if self.pass == Pass::Commit && *told != result => {
                let words = format!("{op:?} of {} was told to give {}", text::key(key), text::bytes(told));
                let mut mismatch = Mismatch::of_key(Rule::Result, key, words, before.as_ref());
                mismatch.was = format!("{}, which gives {}", mismatch.was, text::bytes(&result));
                Err(mismatch)
            }
            _ => Ok(()),
        }
    }

    /// Deletes what the evaluation found: of a snapshot, that of its read version.
    fn delete_range(&mut self, range: &KeyRange, told: Option<u64>) -> Result<(), Box<Mismatch>> {
        let place = self.range_deletes;
        self.range_deletes += 1;
        let (model, found) = (&mut self.checker.model, &mut self.checker.range_deletes);
        if self.pass != Pass::Reads
            && let Some(keys) = found.get(&self.unit).and_then(|lists| lists.get(place))
        {
            for key in keys {
                model.delete(key);
            }
            return Ok(());
        }
        let newest = model.range(range).map(|(_, row)| row.version).max();
        let keys = model.delete_range(range);
        self.own.extend(keys.iter().cloned());
        let was = keys.len() as u64;
        if self.pass == Pass::Reads && matches!(self.attempt.outcome, Outcome::Committed(_) | Outcome::Unknown) {
            let lists = found.entry(self.unit).or_default();
            lists.truncate(place);
            lists.push(keys);
        }
        match told {
            Some(told) if self.compares_reads && told != was => Err(Box::new(Mismatch {
                rule: Rule::Deleted,
                range: range.clone(),
                told: format!("deleting {} was told to have deleted {told} rows", text::range(range)),
                was: format!("{was} rows"),
                writers: newest.into_iter().collect(),
            })),
            _ => Ok(()),
        }
    }

    /// Whether what was told of a row is what the model has.
    fn same(&self, key: &FullKey, told: Option<&Found>, row: Option<&Stored>) -> bool {
        let (Some(told), Some(row)) = (told, row) else { return told.is_none() && row.is_none() };
        let own = told.version == Version::ZERO && self.own.contains(key);
        (own || told.version == row.version) && told.value.as_ref().is_none_or(|value| *value == row.value)
    }

    fn get(&mut self, key: &FullKey, told: Option<&Found>) -> Result<(), Box<Mismatch>> {
        self.checker.summary.reads += 1;
        let row = self.checker.model.get(key);
        if self.same(key, told, row) {
            return Ok(());
        }
        let words = format!("{} was told to be {}", text::key(key), text::found(told));
        Err(Mismatch::of_key(Rule::Get, key, words, row))
    }

    fn range(&mut self, read: &RangeRead) -> Result<(), Box<Mismatch>> {
        self.checker.summary.reads += read.rows.len() + 1;
        let told = read.told();
        let mismatch = |range: &KeyRange, told: String, was: String, writers: Vec<Version>| {
            Err(Box::new(Mismatch { rule: Rule::Range, range: range.clone(), told, was, writers }))
        };
        let rows = read.rows.len() as u64;
        if read.limit.is_some_and(|limit| rows > limit || read.end == RangeEnd::Limit && rows < limit) {
            let words = format!("{} rows were told as meeting the limit {:?}", rows, read.limit.unwrap_or(0));
            return mismatch(&told, words, "another number".into(), Vec::new());
        }
        let mut stored = self.checker.model.range(&told);
        let mut next = || if read.reverse { stored.next_back() } else { stored.next() };
        for (key, row) in &read.rows {
            let there = next();
            if there.is_some_and(|(at, stored)| at == key && self.same(key, Some(row), Some(stored))) {
                continue;
            }
            let words =
                format!("in {} {} was told to be {}", text::range(&told), text::key(key), text::found(Some(row)));
            let (was, writers) = described(there);
            return mismatch(&told, words, format!("{was} that comes there"), writers);
        }
        match next() {
            None => Ok(()),
            more => {
                let words = format!("{} was told to have {} rows", text::range(&told), read.rows.len());
                let (was, writers) = described(more);
                mismatch(&told, words, format!("{was} that follows"), writers)
            }
        }
    }

    fn count(&mut self, range: &KeyRange, told: u64) -> Result<(), Box<Mismatch>> {
        self.checker.summary.reads += 1;
        let was = self.checker.model.range(range).count() as u64;
        if was == told {
            return Ok(());
        }
        let newest = self.checker.model.range(range).map(|(_, row)| row.version).max();
        Err(Box::new(Mismatch {
            rule: Rule::Count,
            range: range.clone(),
            told: format!("{} was told to have {told} rows", text::range(range)),
            was: format!("{was} rows"),
            writers: newest.into_iter().collect(),
        }))
    }

    fn conditions(&mut self, conditions: &[(FullKey, Condition)], told: bool) -> Result<(), Box<Mismatch>> {
        self.checker.summary.reads += conditions.len();
        let failed = conditions.iter().find(|(key, condition)| !holds(condition, self.checker.model.get(key)));
        if failed.is_none() == told {
            return Ok(());
        }
        let Some((key, condition)) = failed.or(conditions.first()) else { return Ok(()) };
        let words = match told {
            true => format!("it was told to hold that {} {condition}", text::key(key)),
            false => "some condition was told not to hold".into(),
        };
        Err(Mismatch::of_key(Rule::Conditions, key, words, self.checker.model.get(key)))
    }
}

fn described(row: Option<(&FullKey, &Stored)>) -> (String, Vec<Version>) {
    match row {
        None => ("nothing".into(), Vec::new()),
        Some((key, Stored { version, value })) => {
            (format!("{} = {} at version {version}", text::key(key), text::bytes(value)), vec![*version])
        }
    }
}

fn holds(condition: &Condition, row: Option<&Stored>) -> bool {
    match condition {
        Condition::Exists => row.is_some(),
        Condition::Absent => row.is_none(),
        Condition::ValueEquals(value) => row.is_some_and(|row| row.value == *value),
        Condition::ValueDiffers(value) => row.is_none_or(|row| row.value != *value),
        Condition::VersionEquals(version) => row.map_or(Version::ZERO, |row| row.version) == *version,
        Condition::VersionAtMost(version) => row.is_none_or(|row| row.version <= *version),
    }
}
