//! What stands in the serial order, and what real time says about it: attempts of one commit become one, versions are
//! told apart, and nothing stands before what had completed when it began.

use super::{
    History, Outcome, Tick,
    checker::{Rule, Violation},
};
use crate::types::{Isolation, Version};
use std::collections::{BTreeMap, HashMap};

/// One place in the order, or one that may have one: an attempt, or several under one pair.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// The attempt that speaks for it.
    pub at: usize,
    /// When the first attempt began.
    pub invoked: Tick,
    /// When the commit was first told.
    pub completed: Option<Tick>,
}

/// The attempts of a history, those of one pair together.
pub(super) fn units(history: &History) -> Result<Vec<Unit>, Violation> {
    let mut units = Vec::with_capacity(history.transactions.len());
    let mut named: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, attempt) in history.transactions.iter().enumerate() {
        match attempt.pair {
            Some(pair) => named.entry(pair).or_default().push(at),
            None => units.push(Unit { at, invoked: attempt.invoked, completed: attempt.completed }),
        }
    }
    let mut groups: Vec<_> = named.into_values().collect();
    groups.sort();
    for group in groups {
        units.push(settle(history, &group)?);
    }
    Ok(units)
}

/// What became of a commit that was attempted several times.
fn settle(history: &History, group: &[usize]) -> Result<Unit, Violation> {
    let outcome = |at: &usize| history.transactions[*at].outcome;
    let committed: Vec<_> = group
        .iter()
        .copied()
        .filter(|at| matches!(outcome(at), Outcome::Committed(_) | Outcome::ReadOnly(_)))
        .collect();
    let pair_error = |text: String| Violation::new(Rule::Pair, text, group.to_vec());
    if let Some((first, other)) = committed.iter().zip(committed.iter().skip(1)).find(|(a, b)| outcome(a) != outcome(b))
    {
        let text = format!("one pair was committed twice: {}, and {}", outcome(first), outcome(other));
        return Err(pair_error(text));
    }
    if let (Some(first), true) = (committed.first(), group.iter().any(|at| outcome(at) == Outcome::Never)) {
        return Err(pair_error(format!("a pair was fenced, and yet it was {}", outcome(first))));
    }
    let fenced = group.iter().copied().find(|at| outcome(at) == Outcome::Never);
    let unknown = group.iter().copied().find(|at| outcome(at) == Outcome::Unknown);
    let at = committed.first().copied().or(fenced).or(unknown).unwrap_or(group[0]);
    let attempts = || group.iter().map(|at| &history.transactions[*at]);
    let told = |at: &usize| history.transactions[*at].completed;
    Ok(Unit {
        at,
        invoked: attempts().map(|attempt| attempt.invoked).min().unwrap_or_default(),
        completed: if committed.is_empty() { told(&at) } else { committed.iter().filter_map(told).min() },
    })
}

/// Who committed at which version. Two never share one.
pub(super) fn committed(history: &History, units: &[Unit]) -> Result<BTreeMap<Version, usize>, Violation> {
    let mut versions = BTreeMap::new();
    for unit in units {
        let Outcome::Committed(version) = history.transactions[unit.at].outcome else { continue };
        if let Some(other) = versions.insert(version, unit.at) {
            let text = format!("two transactions were committed at version {version}");
            return Err(Violation::new(Rule::SameVersion, text, vec![other, unit.at]));
        }
    }
    Ok(versions)
}

/// What had been told by any moment.
#[derive(Debug)]
pub(super) struct Told {
    /// Moment, the greatest version told by then, and who was told.
    steps: Vec<(Tick, Version, usize)>,
}

impl Told {
    pub(super) fn new(history: &History, units: &[Unit]) -> Told {
        let mut steps: Vec<_> = units
            .iter()
            .filter_map(|unit| {
                let attempt = &history.transactions[unit.at];
                let version = attempt.version().or(attempt.read_version)?;
                Some((unit.completed?, version, unit.at))
            })
            .collect();
        steps.sort();
        for at in 1..steps.len() {
            if steps[at].1 < steps[at - 1].1 {
                (steps[at].1, steps[at].2) = (steps[at - 1].1, steps[at - 1].2);
            }
        }
        Told { steps }
    }

    /// The greatest version that had been told before a moment, and who was told.
    pub(super) fn before(&self, moment: Tick) -> Option<(Version, usize)> {
        let count = self.steps.partition_point(|(told, ..)| *told < moment);
        count.checked_sub(1).map(|last| (self.steps[last].1, self.steps[last].2))
    }
}

/// Nothing stands before what had completed when it began: a commit stands after it, a read not before it.
pub(super) fn real_time(history: &History, units: &[Unit], told: &Told) -> Result<(), Violation> {
    for unit in units {
        let attempt = &history.transactions[unit.at];
        let Some((before, other)) = told.before(unit.invoked) else { continue };
        let late = |what: String| {
            let text = format!("{what}, but version {before} had been told before it began");
            Err(Violation::new(Rule::RealTime, text, vec![other, unit.at]))
        };
        match attempt.outcome {
            Outcome::Committed(version) if version <= before => return late(format!("committed at version {version}")),
            Outcome::ReadOnly(version) if version < before && !attempt.stale_allowed => {
                return late(format!("a stale read: it read at version {version}"));
            }
            _ => {}
        }
        let snapshot = attempt.isolation == Isolation::Snapshot || !matches!(attempt.outcome, Outcome::Committed(_));
        if let Some(version) = attempt.read_version
            && snapshot
            && !attempt.stale_allowed
            && version < before
        {
            return late(format!("a stale read: its snapshot is of version {version}"));
        }
    }
    Ok(())
}
