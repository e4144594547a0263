//! The version-order checker: replays a history in the order of the versions told.
//!
//! | what | is judged against the state |
//! |---|---|
//! | a serializable transaction that wrote: everything it read, results of atomics | just before its commit version |
//! | one under snapshot isolation: what it read | at its read version |
//! | … its writes | at its commit version, and nobody else may have written those keys since its read version |
//! | one that wrote nothing, or was not applied | at its read version |
//!
//! A range read is judged over everything that it speaks for, a count over all that it counted. A version that rows
//! tell of but nobody was told to have committed at is that of an attempt of unknown outcome: the checker finds which
//! one explains those rows, or there is none, and then somebody saw what was never committed. An attempt of unknown
//! outcome takes at most one place. If no row tells of it (it deleted, or was only counted), it is given the latest place
//! that explains what a reader was told. That is exact for a mutation of one key and may be wrong for several, of which others
//! overwrote some unseen: ask `outcome` for those, as a client does.
//!
//! One pass over the steps in version order, each O(log n): a million transactions take seconds.

use super::{
    Condition, Found, History, Outcome, Step, Transaction,
    order::{self, Told, Unit},
    replay::{Mismatch, Pass, Replay},
    text,
};
use crate::{
    testing::model::Model,
    types::{FullKey, Isolation, KeyRange, Version},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

/// Which rule a history breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A key read was not so.
    Get,
    /// A range read was not so, in all that it speaks for.
    Range,
    /// A count was not so.
    Count,
    /// Conditions were not so.
    Conditions,
    /// An atomic operation came to something else.
    Result,
    /// A range delete found another number of rows.
    Deleted,
    /// Two transactions have one version.
    SameVersion,
    /// A transaction's own versions contradict each other.
    Versions,
    /// A row was told of a version that nobody committed at.
    NeverCommitted,
    /// Under snapshot isolation, somebody else had written the key first.
    FirstCommitter,
    /// One pair, two fates.
    Pair,
    /// The order contradicts real time.
    RealTime,
}

/// What no serial order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// What happened, in words.
    pub text: String,
    /// Places in [`History::transactions`] of those that took part, the one that shows it last.
    pub transactions: Vec<usize>,
    /// These, in words.
    involved: Vec<String>,
}

impl Violation {
    pub(super) fn new(rule: Rule, text: String, transactions: Vec<usize>) -> Violation {
        Violation { rule, text, transactions, involved: Vec::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not strictly serializable ({:?}): {}", self.rule, self.text)?;
        self.transactions.iter().zip(&self.involved).try_for_each(|(at, text)| write!(f, "\n  #{at} {text}"))
    }
}

impl std::error::Error for Violation {}

/// What was judged, so that a test can see that its history was worth judging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Transactions that wrote and were told so.
    pub committed: usize,
    /// Transactions that only read.
    pub read_only: usize,
    /// Attempts that were not applied.
    pub not_applied: usize,
    /// Attempts of unknown outcome that took a place in the order.
    pub unknown_applied: usize,
    /// The other attempts of unknown outcome.
    pub unknown_absent: usize,
    /// Rows, absences and counts that were compared.
    pub reads: usize,
}

pub(super) fn check(history: &History) -> Result<Summary, Violation> {
    let found = Checker::new(history).and_then(|mut checker| checker.run());
    found.map_err(|mut violation| {
        violation.involved = violation.transactions.iter().map(|at| history.transactions[*at].to_string()).collect();
        violation
    })
}

/// What is replayed at a version, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The commit of a unit.
    Commit(usize),
    /// A commit that rows tell of, nobody's yet.
    Unclaimed,
    /// The reads of a unit, by a snapshot of this version.
    Reads(usize),
}

/// What a row was told to be: key, and value where it was told.
type Sighting = (FullKey, Option<Bytes>, usize);

pub(super) struct Checker<'a> {
    history: &'a History,
    units: Vec<Unit>,
    told: Told,
    pub(super) model: Model,
    /// Who stands at a version: place in the history.
    owners: BTreeMap<Version, usize>,
    /// Rows told of versions that no known commit has.
    unclaimed: BTreeMap<Version, Vec<Sighting>>,
    /// Units of unknown outcome that have no place yet, by key they would write.
    homeless: BTreeSet<usize>,
    writers: HashMap<FullKey, Vec<usize>>,
    /// When a key was last changed, deletions included. Kept where somebody runs under snapshot isolation.
    changed: Option<HashMap<FullKey, Version>>,
    /// Keys that range deletes of a unit under snapshot isolation found, in order.
    pub(super) range_deletes: HashMap<usize, Vec<Vec<FullKey>>>,
    /// The last version replayed, and whose snapshots were judged there.
    now: Version,
    judged: Vec<usize>,
    pub(super) summary: Summary,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History) -> Result<Checker<'a>, Violation> {
        let units = order::units(history)?;
        let owners = order::committed(history, &units)?;
        let told = Told::new(history, &units);
        let mut model = Model::default();
        let mut initial = HashSet::new();
        for (key, version, value) in &history.initial {
            model.put(*version, key, value);
            initial.insert(*version);
        }
        let mut unclaimed: BTreeMap<Version, Vec<Sighting>> = BTreeMap::new();
        for (at, attempt) in history.transactions.iter().enumerate() {
            for_each_row(attempt, &mut |key, version, value| {
                let known = version == Version::ZERO || owners.contains_key(&version);
                if !known && !initial.contains(&version) {
                    unclaimed.entry(version).or_default().push((key.clone(), value.cloned(), at));
                }
            });
        }
        let mut homeless = BTreeSet::new();
        let mut writers: HashMap<FullKey, Vec<usize>> = HashMap::new();
        for (number, unit) in units.iter().enumerate() {
            let attempt = &history.transactions[unit.at];
            if attempt.outcome == Outcome::Unknown && attempt.steps.iter().any(Step::writes) {
                homeless.insert(number);
                for key in attempt.steps.iter().filter_map(written_key) {
                    writers.entry(key.clone()).or_default().push(number);
                }
            }
        }
        let snapshots = history.transactions.iter().any(|attempt| attempt.isolation == Isolation::Snapshot);
        let changed = snapshots.then(HashMap::new);
        let (now, summary) = (Version::ZERO, Summary::default());
        let range_deletes = HashMap::new();
        Ok(Checker {
            history,
            units,
            told,
            model,
            owners,
            unclaimed,
            homeless,
            writers,
            changed,
            range_deletes,
            now,
            judged: Vec::new(),
            summary,
        })
    }

    fn run(&mut self) -> Result<Summary, Violation> {
        for (version, event) in self.events()? {
            if version != self.now {
                self.judged.clear();
            }
            match event {
                Event::Commit(unit) => self.commit(unit, version)?,
                Event::Unclaimed => self.claim(version)?,
                Event::Reads(unit) => {
                    self.explained(unit, version, Pass::Reads)?;
                    self.judged.push(unit);
                }
            }
            self.now = version;
        }
        order::real_time(self.history, &self.units, &self.told)?;
        self.summary.unknown_absent = self.homeless.len();
        Ok(self.summary)
    }

    /// Everything that is replayed, in order.
    fn events(&mut self) -> Result<Vec<(Version, Event)>, Violation> {
        let mut events: Vec<_> = self.unclaimed.keys().map(|version| (*version, Event::Unclaimed)).collect();
        for (number, unit) in self.units.iter().enumerate() {
            let attempt = &self.history.transactions[unit.at];
            match attempt.outcome {
                Outcome::Committed(version) => {
                    self.summary.committed += 1;
                    own_versions(attempt, version)
                        .map_err(|text| Violation::new(Rule::Versions, text, vec![unit.at]))?;
                    events.push((version, Event::Commit(number)));
                    if attempt.isolation == Isolation::Snapshot
                        && let Some(read) = attempt.read_version
                    {
                        events.push((read, Event::Reads(number)));
                    }
                }
                Outcome::ReadOnly(version) => {
                    self.summary.read_only += 1;
                    events.push((version, Event::Reads(number)));
                }
                Outcome::NotApplied | Outcome::Never | Outcome::Unknown => {
                    self.summary.not_applied += usize::from(attempt.outcome != Outcome::Unknown);
                    if let Some(read) = attempt.read_version {
                        events.push((read, Event::Reads(number)));
                    }
                }
            }
        }
        events.sort_unstable();
        Ok(events)
    }

    pub(super) fn attempt(&self, unit: usize) -> &'a Transaction {
        &self.history.transactions[self.units[unit].at]
    }

    /// A commit takes its place.
    fn commit(&mut self, unit: usize, version: Version) -> Result<(), Violation> {
        let attempt = self.attempt(unit);
        self.first_committer(unit, attempt, version)?;
        self.explained(unit, version, Pass::Commit)
    }

    /// Replays a unit; if it does not fit, tries whether attempts of unknown outcome explain why.
    fn explained(&mut self, unit: usize, version: Version, pass: Pass) -> Result<(), Violation> {
        let (mut placed, mut useless) = (Vec::new(), Vec::new());
        let mut mismatch: Option<Box<Mismatch>> = None;
        loop {
            let found = self.replay_after(&placed, unit, version, pass);
            if found.is_ok() && self.others_still_fit(&placed, version, pass) {
                self.settle(unit, version, pass, &placed);
                return Ok(());
            }
            self.model.take_back();
            match (found, &mismatch) {
                (Err(new), Some(last)) if new.told != last.told || new.was != last.was => mismatch = Some(new),
                (Err(new), None) => mismatch = Some(new),
                // The last one that was placed changes nothing about it, or contradicts what was told before.
                _ => useless.extend(placed.pop()),
            }
            let last = mismatch.as_deref().expect("without a mismatch nothing was placed");
            match self.candidate(last, unit, version, &[&placed[..], &useless].concat()) {
                Some(other) => placed.push(other),
                None => return Err(self.violation(last, unit, version, pass)),
            }
        }
    }

    /// Replays a unit on a state that others have changed before. The model still holds the changes when it returns.
    fn replay_after(
        &mut self,
        placed: &[usize],
        unit: usize,
        version: Version,
        pass: Pass,
    ) -> Result<(), Box<Mismatch>> {
        self.model.begin();
        for other in placed {
            let label = self.now;
            Replay::new(self, *other, label, Pass::Late).run()?;
        }
        Replay::new(self, unit, version, pass).run()
    }

    /// Whether the snapshots of the same version that were judged before still read what they were told, now that
    /// others were placed before this version.
    fn others_still_fit(&mut self, placed: &[usize], version: Version, pass: Pass) -> bool {
        if placed.is_empty() || pass != Pass::Reads || self.now != version {
            return true;
        }
        let judged = self.judged.clone();
        judged.into_iter().all(|other| {
            self.model.take_back();
            self.replay_after(placed, other, version, pass).is_ok()
        })
    }

    /// Makes final what a replay that fits has changed.
    fn settle(&mut self, unit: usize, version: Version, pass: Pass, placed: &[usize]) {
        for other in placed {
            self.homeless.remove(other);
            self.summary.unknown_applied += 1;
        }
        if pass == Pass::Reads {
            // What the snapshot's own writes changed goes; those of the placed come again.
            self.model.take_back();
            self.model.begin();
            for other in placed {
                let again = Replay::new(self, *other, self.now, Pass::Late).run();
                debug_assert!(again.is_ok(), "it fitted a moment ago");
            }
        }
        let keys = self.model.keep();
        if let Some(changed) = &mut self.changed {
            changed.extend(keys.into_iter().map(|key| (key, version)));
        }
        if pass == Pass::Commit {
            self.range_deletes.remove(&unit);
        }
    }

    /// An attempt of unknown outcome, none of whose rows is told of later, that would change what did not fit.
    fn candidate(&self, mismatch: &Mismatch, unit: usize, version: Version, tried: &[usize]) -> Option<usize> {
        let completed = self.units[unit].completed;
        self.homeless.iter().copied().find(|other| {
            let begins = self.units[*other].invoked;
            let attempt = self.attempt(*other);
            !tried.contains(other)
                && *other != unit
                && completed.is_none_or(|completed| begins < completed)
                && self.told.before(begins).is_none_or(|(told, _)| told < version)
                && attempt.steps.iter().any(|step| changes_in(step, &mismatch.range))
                && !attempt.steps.iter().any(|step| self.told_later(step))
        })
    }

    /// Whether a row of a version that is still to come is what this step writes.
    fn told_later(&self, step: &Step) -> bool {
        let Step::Put { key, value } = step else { return false };
        let told = |(at, told, _): &Sighting| at == key && told.as_ref().is_none_or(|told| told == value);
        self.unclaimed.values().flatten().any(told)
    }

    /// A version that rows tell of: which attempt of unknown outcome was that?
    fn claim(&mut self, version: Version) -> Result<(), Violation> {
        let sightings = self.unclaimed.remove(&version).unwrap_or_default();
        let Some((key, value, reader)) = sightings.first() else { return Ok(()) };
        for unit in self.writers.get(key).cloned().unwrap_or_default() {
            let begins = self.units[unit].invoked;
            if !self.homeless.contains(&unit) || self.told.before(begins).is_some_and(|(told, _)| told >= version) {
                continue;
            }
            self.model.begin();
            let fits = Replay::new(self, unit, version, Pass::Commit).run().is_ok()
                && sightings.iter().all(|(key, value, _)| {
                    let row = self.model.get(key).filter(|row| row.version == version);
                    row.is_some_and(|row| value.as_ref().is_none_or(|value| *value == row.value))
                });
            if fits {
                self.settle(unit, version, Pass::Commit, &[]);
                self.homeless.remove(&unit);
                self.owners.insert(version, self.units[unit].at);
                self.summary.unknown_applied += 1;
                return Ok(());
            }
            self.model.take_back();
        }
        let mut involved = Vec::new();
        let mut text = format!(
            "{} was told to be {}, but nobody committed that",
            text::key(key),
            text::found(Some(&Found { version, value: value.clone() })),
        );
        if let Some(writer) = self.aborted_writer(key, value.as_ref()) {
            text.push_str(": who wrote it was not applied, or was applied before");
            involved.push(writer);
        }
        involved.push(*reader);
        Err(Violation::new(Rule::NeverCommitted, text, involved))
    }

    /// Who wrote this value, for a report: found by looking at everything.
    fn aborted_writer(&self, key: &FullKey, value: Option<&Bytes>) -> Option<usize> {
        let wrote = |step: &Step| matches!(step, Step::Put { key: at, value: put } if at == key && Some(put) == value);
        self.history.transactions.iter().position(|attempt| attempt.steps.iter().any(wrote))
    }

    /// Under snapshot isolation nobody else wrote the keys since the read version.
    fn first_committer(&self, unit: usize, attempt: &Transaction, version: Version) -> Result<(), Violation> {
        let (Some(changed), Some(read)) = (&self.changed, attempt.read_version) else { return Ok(()) };
        if attempt.isolation != Isolation::Snapshot {
            return Ok(());
        }
        for key in written_keys(attempt) {
            let Some(other) = changed.get(key).filter(|other| **other > read) else { continue };
            let text = format!(
                "{} was written at version {other}, after the snapshot of version {read}, and again at version {version}: \
                 an update was lost",
                text::key(key),
            );
            let involved = self.owners.get(other).copied().into_iter().chain([self.units[unit].at]).collect();
            return Err(Violation::new(Rule::FirstCommitter, text, involved));
        }
        Ok(())
    }

    fn violation(&self, mismatch: &Mismatch, unit: usize, version: Version, pass: Pass) -> Violation {
        let attempt = self.attempt(unit);
        let state = match pass {
            Pass::Commit | Pass::Late => format!("just before version {version}"),
            Pass::Reads => format!("at version {version}"),
        };
        let own = attempt.steps.iter().filter_map(written_key).any(|key| mismatch.range.contains(key));
        let hint = match (pass, mismatch.rule) {
            (Pass::Commit, Rule::Get) if own => ": an update was lost",
            (Pass::Commit, Rule::Get) => ": what it read had been changed before it committed",
            (_, Rule::Range | Rule::Count) => ": the answer does not hold for all that it speaks for",
            _ => "",
        };
        let text = format!("{}; {state} it was {}{hint}", mismatch.told, mismatch.was);
        let others = mismatch.writers.iter().filter_map(|writer| self.owners.get(writer).copied());
        let mut involved: Vec<_> = others.filter(|other| *other != self.units[unit].at).collect();
        involved.dedup();
        involved.push(self.units[unit].at);
        Violation::new(mismatch.rule, text, involved)
    }
}

/// Whether a commit's own versions make sense: it reads before it commits, and sees nothing newer than its snapshot.
fn own_versions(attempt: &Transaction, version: Version) -> Result<(), String> {
    let Some(read) = attempt.read_version else { return Ok(()) };
    if version <= read {
        return Err(format!("it read at version {read} and committed at version {version}, which is not after it"));
    }
    let mut future = None;
    for_each_row(attempt, &mut |key, version, _| {
        if version > read {
            future = Some((key.clone(), version));
        }
    });
    match future {
        Some((key, version)) => {
            Err(format!("it read at version {read}, and {} was told to be of version {version}", text::key(&key)))
        }
        None => Ok(()),
    }
}

/// Every row that an attempt was told of: key, version, and value where it was told.
fn for_each_row<'a>(attempt: &'a Transaction, each: &mut dyn FnMut(&'a FullKey, Version, Option<&'a Bytes>)) {
    for step in &attempt.steps {
        match step {
            Step::Get { key, found: Some(found) } => each(key, found.version, found.value.as_ref()),
            Step::Range(read) => read.rows.iter().for_each(|(key, row)| each(key, row.version, row.value.as_ref())),
            Step::Conditions { conditions, held: true } => {
                for (key, condition) in conditions {
                    if let Condition::VersionEquals(version) = condition {
                        each(key, *version, None);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The one key that a step writes.
fn written_key(step: &Step) -> Option<&FullKey> {
    match step {
        Step::Put { key, .. } | Step::Delete { key } | Step::Atomic { key, .. } => Some(key),
        _ => None,
    }
}

/// The keys that it still writes at its end: what was rolled back is gone. Those of range deletes are not among them.
fn written_keys(attempt: &Transaction) -> Vec<&FullKey> {
    let (mut keys, mut savepoints) = (Vec::new(), HashMap::new());
    for step in &attempt.steps {
        match step {
            Step::Savepoint(name) => drop(savepoints.insert(name, keys.len())),
            Step::RollbackTo(name) => keys.truncate(savepoints.get(name).copied().unwrap_or(0)),
            step => keys.extend(written_key(step)),
        }
    }
    keys
}

fn changes_in(step: &Step, keys: &KeyRange) -> bool {
    match step {
        Step::DeleteRange { range, .. } => range.overlaps(keys),
        step => written_key(step).is_some_and(|key| keys.contains(key)),
    }
}
