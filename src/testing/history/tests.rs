//! The checker takes what is right and tells what is wrong.

use super::*;
use crate::{
    testing::generators::{Bug, Options, history},
    types::KeyspaceId,
};

const SEEDS: u64 = 60;

fn key(name: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(name.as_bytes())
}

fn span(start: &str, end: &str) -> KeyRange {
    KeyRange { start: key(start), end: key(end) }
}

fn at(version: u64, value: &str) -> Option<Found> {
    Some(Found::new(Version(version), value.as_bytes()))
}

fn rows(rows: &[(&str, u64)]) -> Vec<(FullKey, Found)> {
    rows.iter().map(|(name, version)| (key(name), Found::new(Version(*version), b"v"))).collect()
}

/// A recorder of a database that holds `a`, `b`, `c` = `v`, written at versions 1, 2, 3.
fn three_rows() -> Recorder {
    let recorder = Recorder::new();
    for (name, version) in [("a", 1), ("b", 2), ("c", 3)] {
        recorder.initial(&key(name), Version(version), b"v");
    }
    recorder
}

fn committed(version: u64) -> Outcome {
    Outcome::Committed(Version(version))
}

fn read_at(version: u64) -> Outcome {
    Outcome::ReadOnly(Version(version))
}

/// The rule that the history breaks.
fn broken(recorder: &Recorder) -> Rule {
    match recorder.history().check() {
        Ok(summary) => panic!("it was taken: {summary:?}"),
        Err(violation) => {
            assert!(violation.to_string().contains("client"), "it names who took part: {violation}");
            violation.rule
        }
    }
}

#[test]
fn correct_histories_are_taken() {
    let mut whole = Summary::default();
    for seed in 0..SEEDS {
        match history(seed, &Options::default()).check() {
            Ok(summary) => {
                whole.committed += summary.committed;
                whole.read_only += summary.read_only;
                whole.not_applied += summary.not_applied;
                whole.unknown_applied += summary.unknown_applied;
                whole.reads += summary.reads;
            }
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    let enough = whole.committed > 1000 && whole.read_only > 200 && whole.not_applied > 500 && whole.reads > 5000;
    assert!(enough && whole.unknown_applied > 10, "the histories are worth judging: {whole:?}");
}

#[test]
fn every_mistake_is_found() {
    for bug in Bug::ALL {
        let options = Options { bug: Some(bug), ..Options::default() };
        let found = (0..SEEDS).filter(|seed| history(*seed, &options).check().is_err()).count();
        assert!(found >= 10, "{bug:?} was found in {found} of {SEEDS} histories");
    }
}

#[test]
fn a_lost_update() {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    first.get(&key("a"), at(1, "v"));
    second.get(&key("a"), at(1, "v"));
    first.put(&key("a"), b"1");
    second.put(&key("a"), b"2");
    first.complete(committed(4));
    second.complete(committed(5));
    assert_eq!(broken(&recorder), Rule::Get);
}

#[test]
fn a_lost_update_under_snapshot_isolation() {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    for recording in [&mut first, &mut second] {
        recording.isolation(Isolation::Snapshot);
        recording.read_version(Version(3));
        recording.get(&key("a"), at(1, "v"));
        recording.put(&key("a"), b"1");
    }
    first.complete(committed(4));
    second.complete(committed(5));
    assert_eq!(broken(&recorder), Rule::FirstCommitter);
}

/// Two doctors each see the other on call, and leave.
fn skew(isolation: Isolation) -> Recorder {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    for (recording, own) in [(&mut first, "a"), (&mut second, "b")] {
        recording.isolation(isolation);
        recording.read_version(Version(3));
        recording.get(&key("a"), at(1, "v"));
        recording.get(&key("b"), at(2, "v"));
        recording.delete(&key(own));
    }
    first.complete(committed(4));
    second.complete(committed(5));
    recorder
}

#[test]
fn write_skew_is_wrong_unless_snapshot_isolation_was_asked_for() {
    assert_eq!(broken(&skew(Isolation::Serializable)), Rule::Get);
    assert!(skew(Isolation::Snapshot).history().check().is_ok());
}

/// A reader sees some of `a`, `b`, `c` and commits at 5; meanwhile somebody wrote `other` at 4.
fn phantom(other: &str, read: RangeRead) -> Recorder {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    first.put(&key(other), b"v");
    second.range(read);
    second.put(&key("z"), b"v");
    first.complete(committed(4));
    second.complete(committed(5));
    recorder
}

#[test]
fn a_phantom_is_wrong_in_all_that_the_read_speaks_for() {
    let whole = |end| RangeRead {
        range: span("a", "m"),
        reverse: false,
        limit: None,
        rows: rows(&[("a", 1), ("b", 2), ("c", 3)]),
        end,
    };
    assert_eq!(broken(&phantom("bb", whole(RangeEnd::Exhausted))), Rule::Range, "between two rows");
    assert_eq!(broken(&phantom("d", whole(RangeEnd::Exhausted))), Rule::Range, "just past the last row");
    assert!(phantom("m", whole(RangeEnd::Exhausted)).history().check().is_ok(), "past the bound");
    assert!(phantom("d", whole(RangeEnd::Stopped(Some(key("c"))))).history().check().is_ok(), "past what was told");
    assert_eq!(broken(&phantom("d", whole(RangeEnd::Stopped(Some(key("e")))))), Rule::Range, "told by a resume token");
    let limited = |reverse, names: &[(&str, u64)]| RangeRead {
        range: span("a", "m"),
        reverse,
        limit: Some(2),
        rows: rows(names),
        end: RangeEnd::Limit,
    };
    assert!(phantom("bb", limited(false, &[("a", 1), ("b", 2)])).history().check().is_ok());
    assert_eq!(broken(&phantom("aa", limited(false, &[("a", 1), ("b", 2)]))), Rule::Range);
    assert_eq!(broken(&phantom("d", limited(true, &[("c", 3), ("b", 2)]))), Rule::Range, "backwards");
    assert!(phantom("aa", limited(true, &[("c", 3), ("b", 2)])).history().check().is_ok());
    assert_eq!(broken(&phantom("m", limited(false, &[("a", 1)]))), Rule::Range, "one row does not meet the limit of 2");
}

#[test]
fn a_count_speaks_for_all_it_counted() {
    let counted = |count| {
        let recorder = three_rows();
        let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
        first.put(&key("d"), b"v");
        second.count(&span("a", "m"), count);
        second.put(&key("z"), b"v");
        first.complete(committed(4));
        second.complete(committed(5));
        recorder
    };
    assert_eq!(broken(&counted(3)), Rule::Count);
    assert!(counted(4).history().check().is_ok());
}

#[test]
fn a_stale_read_contradicts_real_time() {
    let stale = |allowed: bool| {
        let recorder = three_rows();
        let mut first = recorder.begin(1);
        first.put(&key("a"), b"new");
        first.complete(committed(4));
        let mut second = recorder.begin(2);
        if allowed {
            second.stale_allowed();
        }
        second.get(&key("a"), at(1, "v"));
        second.complete(read_at(3));
        recorder
    };
    assert_eq!(broken(&stale(false)), Rule::RealTime);
    assert!(stale(true).history().check().is_ok());
}

#[test]
fn a_read_that_overlaps_a_commit_may_miss_it() {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    first.put(&key("a"), b"new");
    first.complete(committed(4));
    second.get(&key("a"), at(1, "v"));
    second.complete(read_at(3));
    assert!(recorder.history().check().is_ok());
}

#[test]
fn a_read_of_what_was_refused() {
    let recorder = three_rows();
    let mut first = recorder.begin(1);
    first.put(&key("a"), b"refused");
    first.complete(Outcome::NotApplied);
    let mut second = recorder.begin(2);
    second.get(&key("a"), at(4, "refused"));
    second.complete(read_at(4));
    assert_eq!(broken(&recorder), Rule::NeverCommitted);
}

#[test]
fn a_dirty_read() {
    let recorder = three_rows();
    let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
    first.put(&key("a"), b"1");
    second.get(&key("a"), at(4, "1"));
    second.complete(read_at(3));
    first.put(&key("a"), b"2");
    first.complete(committed(4));
    assert_eq!(broken(&recorder), Rule::Get);
}

#[test]
fn versions_that_fall_back_or_repeat() {
    let two = |first_version: u64, second_version: u64| {
        let recorder = three_rows();
        for version in [first_version, second_version] {
            let mut recording = recorder.begin(version);
            recording.put(&key(&format!("of {version}")), b"v");
            recording.complete(committed(version));
        }
        recorder
    };
    assert!(two(4, 5).history().check().is_ok());
    assert_eq!(broken(&two(5, 4)), Rule::RealTime);
    assert_eq!(broken(&two(4, 4)), Rule::SameVersion);
}

#[test]
fn a_commit_that_is_not_after_what_it_read() {
    let recorder = three_rows();
    let mut recording = recorder.begin(1);
    recording.read_version(Version(4));
    recording.put(&key("a"), b"x");
    recording.complete(committed(4));
    assert_eq!(broken(&recorder), Rule::Versions);
}

#[test]
fn half_a_transaction() {
    let recorder = three_rows();
    let mut first = recorder.begin(1);
    first.put(&key("a"), b"new");
    first.put(&key("b"), b"new");
    first.complete(committed(4));
    let mut second = recorder.begin(2);
    second.get(&key("a"), at(4, "new"));
    second.get(&key("b"), at(2, "v"));
    second.complete(read_at(4));
    assert_eq!(broken(&recorder), Rule::Get);
}

/// A keyed append, sent twice.
fn keyed(first_outcome: Outcome, second_outcome: Outcome) -> Recorder {
    let recorder = three_rows();
    for outcome in [first_outcome, second_outcome] {
        let mut recording = recorder.begin(1);
        recording.pair(IdempotencyPair { key: [7; 16], seen: Version(3) });
        recording.atomic(AtomicOp::Append, &key("a"), b"x", None);
        if outcome != Outcome::Unknown {
            recording.complete(outcome);
        }
    }
    recorder
}

#[test]
fn a_pair_has_one_fate() {
    assert!(keyed(Outcome::Unknown, committed(4)).history().check().is_ok());
    assert!(keyed(committed(4), committed(4)).history().check().is_ok());
    assert!(keyed(Outcome::NotApplied, committed(4)).history().check().is_ok());
    assert_eq!(broken(&keyed(committed(4), committed(5))), Rule::Pair);
    assert_eq!(broken(&keyed(Outcome::Never, committed(5))), Rule::Pair, "a fence was ignored");
}

#[test]
fn a_commit_applied_twice_shows_in_what_is_read() {
    let recorder = keyed(Outcome::Unknown, committed(4));
    let mut reader = recorder.begin(2);
    reader.get(&key("a"), at(5, "vxx"));
    reader.complete(read_at(5));
    assert_eq!(broken(&recorder), Rule::NeverCommitted);
}

#[test]
fn a_wrong_result_of_an_atomic_operation() {
    let recorder = three_rows();
    for (client, result) in [(1, 2_u64), (2, 2)] {
        let mut recording = recorder.begin(client);
        recording.atomic(AtomicOp::Append, &key("a"), b"x", None);
        recording.results([Bytes::copy_from_slice(&result.to_be_bytes())]);
        recording.complete(committed(3 + client));
    }
    assert_eq!(broken(&recorder), Rule::Result, "the second is three bytes long");
}

#[test]
fn a_wrong_number_of_rows_deleted() {
    let deleting = |told| {
        let recorder = three_rows();
        let mut recording = recorder.begin(1);
        recording.delete_range(&span("a", "c"), Some(told));
        recording.count(&KeyspaceId::DEFAULT.range(), 1);
        recording.complete(committed(4));
        recorder
    };
    assert!(deleting(2).history().check().is_ok());
    assert_eq!(broken(&deleting(3)), Rule::Deleted);
}

#[test]
fn conditions_are_judged_where_the_commit_stands() {
    let swapped = |held| {
        let recorder = three_rows();
        let (mut first, mut second) = (recorder.begin(1), recorder.begin(2));
        first.put(&key("a"), b"new");
        second.conditions(vec![(key("a"), Condition::ValueEquals("v".into()))], held);
        first.complete(committed(4));
        match held {
            true => {
                second.put(&key("b"), b"w");
                second.complete(committed(5));
            }
            false => second.complete(read_at(4)),
        }
        recorder
    };
    assert_eq!(broken(&swapped(true)), Rule::Conditions);
    assert!(swapped(false).history().check().is_ok());
}

#[test]
fn an_unknown_outcome_may_be_either_but_once() {
    let reading = |found: &[Option<Found>]| {
        let recorder = three_rows();
        let mut lost = recorder.begin(1);
        lost.put(&key("a"), b"perhaps");
        lost.put(&key("b"), b"perhaps");
        drop(lost);
        for (version, found) in found.iter().enumerate() {
            let mut reader = recorder.begin(2);
            reader.get(&key("a"), found.clone());
            reader.complete(read_at(3 + version as u64));
        }
        recorder
    };
    let absent = reading(&[at(1, "v"), at(1, "v")]).history().check().expect("it never happened");
    assert_eq!((absent.unknown_applied, absent.unknown_absent), (0, 1));
    let present = reading(&[at(1, "v"), at(4, "perhaps")]).history().check().expect("it happened at 4");
    assert_eq!((present.unknown_applied, present.unknown_absent), (1, 0));
    assert_eq!(broken(&reading(&[at(1, "v"), at(4, "perhaps"), at(5, "perhaps")])), Rule::NeverCommitted);
    assert_eq!(broken(&reading(&[at(1, "v"), at(4, "perhaps"), at(1, "v")])), Rule::Get, "it does not go away");
}

#[test]
fn a_deletion_of_unknown_outcome_explains_an_absence() {
    let reading = |reads: &[(u64, Option<Found>)]| {
        let recorder = three_rows();
        let mut lost = recorder.begin(1);
        lost.delete(&key("a"));
        drop(lost);
        for (version, found) in reads {
            let mut reader = recorder.begin(2);
            reader.get(&key("a"), found.clone());
            reader.complete(read_at(*version));
        }
        recorder
    };
    assert!(reading(&[(3, at(1, "v")), (4, None), (4, None), (5, None)]).history().check().is_ok());
    assert_eq!(broken(&reading(&[(4, at(1, "v")), (4, None)])), Rule::Get, "one version, two states");
    assert_eq!(broken(&reading(&[(4, None), (5, at(1, "v"))])), Rule::Get, "it came back");
}

#[test]
fn own_writes_are_seen_until_they_are_rolled_back() {
    let reading = |after: Option<Found>| {
        let recorder = three_rows();
        let mut recording = recorder.begin(1);
        recording.read_version(Version(3));
        recording.put(&key("a"), b"kept");
        recording.step(Step::Savepoint("s".into()));
        recording.put(&key("a"), b"taken back");
        recording.get(&key("a"), at(0, "taken back"));
        recording.step(Step::RollbackTo("s".into()));
        recording.get(&key("a"), after);
        recording.complete(committed(4));
        recorder
    };
    assert!(reading(at(0, "kept")).history().check().is_ok());
    assert_eq!(broken(&reading(at(0, "taken back"))), Rule::Get);
}

#[test]
fn a_hundred_thousand_operations_are_judged_in_one_pass() {
    let recorder = Recorder::new();
    let mut newest: Vec<Option<Found>> = vec![None; 1000];
    for version in 1..=25_000_u64 {
        let (place, other) = (version as usize * 7 % 1000, version as usize * 13 % 1000);
        let mut recording = recorder.begin(version % 8);
        recording.get(&key(&format!("{place:04}")), newest[place].clone());
        recording.get(&key(&format!("{other:04}")), newest[other].clone());
        recording.put(&key(&format!("{place:04}")), &version.to_be_bytes());
        recording.put(&key(&format!("{other:04}")), &version.to_be_bytes());
        newest[place] = Some(Found::new(Version(version), &version.to_be_bytes()));
        newest[other] = newest[place].clone();
        recording.complete(committed(version));
    }
    let summary = recorder.take().check().expect("it is serial");
    assert_eq!((summary.committed, summary.reads), (25_000, 50_000));
}
