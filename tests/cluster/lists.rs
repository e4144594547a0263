//! Histories for the crate `adya`, which knows nothing of versions: it finds the order of the appends to a list in what was
//! read of it, and looks for cycles. The transactions that touch lists are written as it (and Elle) wants them.

use super::evidence::Evidence;
use adya::{Opts, Valid, Workload};
use quantadb::{
    testing::history::{History, Outcome, Step, Tick, Transaction},
    types::{FullKey, IdempotencyPair, split_full_key},
};
use std::{collections::HashMap, fmt::Write as _, time::Duration};

/// How long it may look for the worst cycle in one component.
const SEARCH: Duration = Duration::from_secs(10);

/// One transaction over lists, all attempts of it together.
struct Unit<'a> {
    invoked: Tick,
    /// When its outcome was told, and which attempt speaks for it.
    told: Option<Tick>,
    speaks: &'a Transaction,
}

/// What was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub transactions: usize,
    pub committed: usize,
    pub unknown: usize,
}

/// Judges the lists of a history, which stays beside the other evidence in adya's own form.
///
/// # Errors
/// The anomalies in words, or that the history says nothing.
pub fn check(history: &History, evidence: &Evidence) -> Result<Summary, String> {
    let units = units(history);
    let mut summary = Summary { transactions: units.len(), ..Summary::default() };
    for unit in &units {
        match unit.speaks.outcome {
            Outcome::Committed(_) | Outcome::ReadOnly(_) => summary.committed += 1,
            Outcome::Unknown => summary.unknown += 1,
            Outcome::NotApplied | Outcome::Never => {}
        }
    }
    let text = lines(&units);
    evidence.keep("lists.jsonl", &text);
    let parsed = adya::History::from_json(&text).map_err(|error| format!("adya does not read it: {error}"))?;
    let options = Opts { models: vec!["strict-serializable".into()], timeout: SEARCH, ..Opts::default() };
    let report = adya::check(&parsed, Workload::ListAppend, &options);
    if report.valid == Valid::True {
        return Ok(summary);
    }
    let mut text = format!("adya: {:?}, {:?}, not {:?}", report.valid, report.anomaly_types, report.not);
    for anomaly in report.anomalies.values().flatten().take(5) {
        let _ = write!(text, "\n{}: {}", anomaly.kind, anomaly.explanation);
    }
    Err(text)
}

fn list_of(key: &FullKey) -> Option<&str> {
    let (_, key) = split_full_key(key)?;
    std::str::from_utf8(key.strip_prefix(b"list/")?).ok()
}

fn is_about_lists(step: &Step) -> bool {
    match step {
        Step::Get { key, .. } | Step::Atomic { key, .. } => list_of(key).is_some(),
        _ => false,
    }
}

fn units(history: &History) -> Vec<Unit<'_>> {
    let mut units: Vec<Unit<'_>> = Vec::new();
    let mut named: HashMap<IdempotencyPair, usize> = HashMap::new();
    for transaction in &history.transactions {
        if transaction.steps.is_empty() || !transaction.steps.iter().all(is_about_lists) {
            continue;
        }
        let Transaction { invoked, completed: told, outcome, .. } = *transaction;
        let at = transaction.pair.map(|pair| *named.entry(pair).or_insert(units.len())).unwrap_or(units.len());
        match units.get_mut(at) {
            None => units.push(Unit { invoked, told, speaks: transaction }),
            Some(unit) => {
                unit.invoked = unit.invoked.min(invoked);
                if outcome != Outcome::Unknown {
                    (unit.told, unit.speaks) = (told, transaction);
                }
            }
        }
    }
    units
}

/// One line for each event, in the order in which they happened. Every transaction is a process of its own: one whose outcome
/// was asked for later overlaps with what its client did meanwhile.
fn lines(units: &[Unit<'_>]) -> String {
    let mut events: Vec<(Tick, bool, usize)> = Vec::with_capacity(2 * units.len());
    for (at, unit) in units.iter().enumerate() {
        events.push((unit.invoked, false, at));
        events.push((unit.told.unwrap_or(Tick(u64::MAX)), true, at));
    }
    events.sort();
    let mut text = String::new();
    for (_, ends, at) in events {
        let transaction = units[at].speaks;
        let (kind, told) = match (ends, transaction.outcome) {
            (false, _) => ("invoke", false),
            (true, Outcome::Committed(_) | Outcome::ReadOnly(_)) => ("ok", true),
            (true, Outcome::NotApplied | Outcome::Never) => ("fail", false),
            (true, Outcome::Unknown) => ("info", false),
        };
        let steps: Vec<_> = transaction.steps.iter().map(|step| step_text(step, told)).collect();
        let steps = steps.join(",");
        let _ = writeln!(text, r#"{{"type":"{kind}","process":{at},"value":[{steps}]}}"#);
    }
    text
}

fn step_text(step: &Step, told: bool) -> String {
    match step {
        Step::Get { key, found } => {
            let list = list_of(key).unwrap_or_default();
            if !told {
                return format!(r#"["r","{list}",null]"#);
            }
            let value = found.as_ref().and_then(|found| found.value.as_deref()).unwrap_or_default();
            let elements: Vec<_> = String::from_utf8_lossy(value).split_whitespace().map(str::to_owned).collect();
            format!(r#"["r","{list}",[{}]]"#, elements.join(","))
        }
        Step::Atomic { key, operand, .. } => {
            let element = String::from_utf8_lossy(operand).trim().to_owned();
            format!(r#"["append","{}",{element}]"#, list_of(key).unwrap_or_default())
        }
        _ => String::new(),
    }
}

mod tests {
    use super::*;
    use crate::load::full;
    use quantadb::{
        testing::history::{Found, Recorder},
        txn::AtomicOp,
        types::Version,
    };

    fn append(recording: &mut quantadb::testing::history::Recording, list: &str, element: u64) {
        recording.atomic(AtomicOp::Append, &full(list), format!("{element} ").as_bytes(), None);
    }

    /// Two appends to one list, one transaction that reads it, and one that reads both lists.
    fn history(read: &str, other: Option<&str>) -> History {
        let recorder = Recorder::new();
        for (version, list) in [(1, "list/0/a"), (2, "list/0/a"), (3, "list/0/b")] {
            let mut recording = recorder.begin(1);
            append(&mut recording, list, version);
            recording.complete(Outcome::Committed(Version(version)));
        }
        let versions = [("1 ", 1), ("1 2 ", 2), ("3 ", 3)];
        let found = |text: &str| {
            let version = versions.iter().find(|(told, _)| *told == text).map_or(2, |(_, version)| *version);
            Some(Found::new(Version(version), text.as_bytes()))
        };
        let mut reader = recorder.begin(2);
        reader.get(&full("list/0/a"), found(read));
        reader.get(&full("list/0/b"), other.and_then(found));
        reader.complete(Outcome::ReadOnly(Version(3)));
        recorder.take()
    }

    /// What both checkers say: ours, adya.
    fn verdicts(history: &History) -> (bool, bool) {
        let evidence = Evidence::new("checkers");
        let verdicts = (history.check().is_ok(), check(history, &evidence).is_ok());
        evidence.discard();
        verdicts
    }

    #[test]
    fn a_right_history_is_green_in_both_checkers() {
        assert_eq!(verdicts(&history("1 2 ", Some("3 "))), (true, true));
    }

    #[test]
    fn a_stale_read_is_red_in_both_checkers() {
        assert_eq!(verdicts(&history("1 ", Some("3 "))), (false, false), "an element is missing");
        assert_eq!(verdicts(&history("1 2 ", None)), (false, false), "a list is missing");
    }

    #[test]
    fn a_lost_append_is_red_in_both_checkers() {
        assert_eq!(verdicts(&history("2 ", Some("3 "))), (false, false));
    }

    #[test]
    fn a_reordered_or_repeated_append_is_red_in_both_checkers() {
        assert_eq!(verdicts(&history("2 1 ", Some("3 "))), (false, false));
        assert_eq!(verdicts(&history("1 2 2 ", Some("3 "))), (false, false));
    }

    #[test]
    fn write_skew_is_red_in_both_checkers() {
        let recorder = Recorder::new();
        let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
        for (recording, read, written) in [(&mut first, "list/0/a", "list/0/b"), (&mut second, "list/0/b", "list/0/a")]
        {
            recording.get(&full(read), None);
            append(recording, written, 1);
        }
        first.complete(Outcome::Committed(Version(1)));
        second.complete(Outcome::Committed(Version(2)));
        let mut reader = recorder.begin(3);
        reader.get(&full("list/0/a"), Some(Found::new(Version(2), b"1 ")));
        reader.get(&full("list/0/b"), Some(Found::new(Version(1), b"1 ")));
        reader.complete(Outcome::ReadOnly(Version(2)));
        assert_eq!(verdicts(&recorder.take()), (false, false));
    }

    #[test]
    fn an_unknown_outcome_that_was_asked_for_has_one_place() {
        let pair = IdempotencyPair { key: [1; 16], seen: Version(0) };
        let with = |outcome: Outcome, read: &str| {
            let recorder = Recorder::new();
            for outcome in [Outcome::Unknown, outcome] {
                let mut recording = recorder.begin(1);
                recording.pair(pair);
                append(&mut recording, "list/0/a", 1);
                if outcome != Outcome::Unknown {
                    recording.complete(outcome);
                }
            }
            let mut reader = recorder.begin(2);
            let found = (!read.is_empty()).then(|| Found::new(Version(1), read.as_bytes()));
            reader.get(&full("list/0/a"), found);
            reader.complete(Outcome::ReadOnly(Version(1)));
            verdicts(&recorder.take())
        };
        assert_eq!(with(Outcome::Committed(Version(1)), "1 "), (true, true));
        assert_eq!(with(Outcome::Never, "1 "), (false, false), "what was fenced is read");
        assert_eq!(with(Outcome::Committed(Version(1)), ""), (false, false), "what was committed is not read");
    }
}
