//! Transactions in words, for reports.

use super::{Condition, Found, Outcome, RangeEnd, RangeRead, Step, Transaction};
use crate::types::{Isolation, KeyRange, split_full_key};
use std::fmt::{self, Display, Formatter};

/// A full key as `keyspace/"key"`, bytes that are not text escaped.
pub(super) fn key(full: &[u8]) -> String {
    match split_full_key(full) {
        Some((keyspace, key)) => format!("{keyspace}/{}", bytes(key)),
        None => format!("?/{}", bytes(full)),
    }
}

/// Bytes as text in quotes, cut when they are long.
pub(super) fn bytes(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 48;
    match bytes.get(..SHOWN_MAX) {
        Some(front) => format!("\"{}\"... ({} bytes)", front.escape_ascii(), bytes.len()),
        None => format!("\"{}\"", bytes.escape_ascii()),
    }
}

pub(super) fn range(range: &KeyRange) -> String {
    format!("[{}, {})", key(&range.start), key(&range.end))
}

pub(super) fn found(found: Option<&Found>) -> String {
    match found {
        None => "absent".into(),
        Some(Found { version, value }) => {
            format!("{} at version {version}", value.as_ref().map_or("there".into(), |value| bytes(value)))
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Exists => write!(f, "exists"),
            Condition::Absent => write!(f, "is absent"),
            Condition::ValueEquals(value) => write!(f, "is {}", bytes(value)),
            Condition::ValueDiffers(value) => write!(f, "is not {}", bytes(value)),
            Condition::VersionEquals(version) => write!(f, "is of version {version}"),
            Condition::VersionAtMost(version) => write!(f, "is not newer than version {version}"),
        }
    }
}

impl Display for RangeRead {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let direction = if self.reverse { "backwards " } else { "" };
        write!(f, "range {direction}{}", range(&self.range))?;
        if let Some(limit) = self.limit {
            write!(f, " limit {limit}")?;
        }
        write!(f, " = {} rows", self.rows.len())?;
        const SHOWN_MAX: usize = 8;
        for (at, row) in self.rows.iter().take(SHOWN_MAX) {
            write!(f, ", {}: {}", key(at), found(Some(row)))?;
        }
        match &self.end {
            RangeEnd::Exhausted => write!(f, ", exhausted"),
            RangeEnd::Limit => write!(f, ", limit met"),
            RangeEnd::Stopped(None) => write!(f, ", stopped at once"),
            RangeEnd::Stopped(Some(last)) => write!(f, ", stopped after {}", key(last)),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Step::Get { key: at, found: told } => write!(f, "get {} = {}", key(at), found(told.as_ref())),
            Step::Range(read) => write!(f, "{read}"),
            Step::Count { range: counted, count } => write!(f, "count {} = {count}", range(counted)),
            Step::Conditions { conditions, held } => {
                write!(f, "if ")?;
                for (at, condition) in conditions {
                    write!(f, "{} {condition}, ", key(at))?;
                }
                write!(f, "{}", if *held { "which held" } else { "which did not hold" })
            }
            Step::Put { key: at, value } => write!(f, "put {} = {}", key(at), bytes(value)),
            Step::Delete { key: at } => write!(f, "delete {}", key(at)),
            Step::Atomic { op, key: at, operand, result } => {
                let told = result.as_ref().map_or("not told".into(), |result| bytes(result));
                write!(f, "{op:?} {} with {} = {told}", key(at), bytes(operand))
            }
            Step::DeleteRange { range: deleted, deleted: count } => {
                let told = count.map_or("not told".into(), |count| format!("{count} rows"));
                write!(f, "delete range {} = {told}", range(deleted))
            }
            Step::Savepoint(name) => write!(f, "savepoint {name:?}"),
            Step::RollbackTo(name) => write!(f, "rollback to {name:?}"),
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Committed(version) => write!(f, "committed at version {version}"),
            Outcome::ReadOnly(version) => write!(f, "read at version {version}"),
            Outcome::NotApplied => write!(f, "not applied"),
            Outcome::Never => write!(f, "will never be applied"),
            Outcome::Unknown => write!(f, "outcome unknown"),
        }
    }
}

/// One line for the transaction, one for each step, the steps of a long one cut.
impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "client {}, from moment {} to ", self.client, self.invoked.0)?;
        match self.completed {
            Some(completed) => write!(f, "{}", completed.0)?,
            None => write!(f, "no answer")?,
        }
        if self.isolation == Isolation::Snapshot {
            write!(f, ", snapshot isolation")?;
        }
        if let Some(version) = self.read_version {
            write!(f, ", read version {version}")?;
        }
        write!(f, ", {}:", self.outcome)?;
        const SHOWN_MAX: usize = 24;
        for step in self.steps.iter().take(SHOWN_MAX) {
            write!(f, "\n      {step}")?;
        }
        match self.steps.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n      and {more} more steps"),
        }
    }
}
