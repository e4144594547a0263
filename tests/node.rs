//! The node on bad days: entries refused, skipped and lost, terms that end, pairs sent twice, memory that runs out.
//!
//! The group is one that a test commands: it holds what it is handed, refuses, loses, changes its term.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "node/rig.rs"]
mod rig;

use bytes::Bytes;
use quantadb::{
    node::{Batch, Body, HistoryOptions, Item, ReadRefusal, Refusal, Work},
    storage::Engine,
    testing::faults::{Call, FaultyEngine},
    txn::{AtomicOp, Mutation, Record},
    types::{Version, limits},
};
use rig::{
    Made, Rig, again, engine, first, key, look, pair, payload, put_if_absent, reads_and_puts, single, taken, until,
};
use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

// ---- the order has a hole ----

#[test]
fn an_entry_refused_in_mid_pipeline_takes_those_behind_it_with_it() {
    let mut rig = Rig::start();
    let before = rig.put("before", b"1");
    let before = rig.version(before);
    rig.faults.hold();
    let (a, b, c) = (rig.put("a", b"1"), rig.put("b", b"2"), rig.put("c", b"3"));
    rig.until_held(3);
    rig.faults.refuse(&[false, true, false]);
    rig.faults.release();
    assert_eq!(rig.version(a), before.next());
    assert_eq!(rig.answer(b), Err(Refusal::NotApplied));
    assert_eq!(rig.answer(c), Err(Refusal::NotApplied));
    assert_eq!((rig.stored("b"), rig.stored("c")), (None, None));
    assert_eq!(rig.node.metrics().entries_skipped.load(Ordering::SeqCst), 1);
    assert_eq!(rig.node.engine().visible(), before.next());
    let after = rig.put("c", b"4");
    assert_eq!(rig.version(after), before.next().next(), "versions go on where they were");
}

#[test]
fn what_was_in_flight_and_is_lost_is_unknown_and_nothing_seen_on_it_leaves() {
    for applied in [0, 1] {
        let mut rig = Rig::start();
        let transaction = rig.begin();
        rig.faults.hold();
        let put = rig.put("a", b"1");
        rig.until_held(1);
        let conflict = rig.commit(reads_and_puts(transaction, "a", "b"));
        let failed = rig.evaluate(None, put_if_absent("a", b"2"));
        rig.until_evaluated(1);
        assert_eq!(rig.answered(), [1], "only what the rig asked at its start");
        rig.faults.new_term(applied);
        assert_eq!(rig.answer(put), Err(Refusal::Unknown));
        assert_eq!(rig.answer(conflict), Err(Refusal::NotApplied));
        assert_eq!(rig.answer(failed), Err(Refusal::NotApplied));
        let seen = rig.evaluate(None, look("a"));
        assert_eq!(&payload(rig.answer(seen))[..], if applied == 0 { &b"-"[..] } else { &b"1"[..] });
    }
}

#[test]
fn a_new_term_goes_on_from_what_was_applied_of_the_old() {
    let mut rig = Rig::start();
    let transaction = rig.begin();
    rig.faults.hold();
    let (a, b) = (rig.put("a", b"1"), rig.put("b", b"2"));
    rig.until_held(2);
    rig.faults.new_term(1);
    assert_eq!(rig.answer(a), Err(Refusal::Unknown));
    assert_eq!(rig.answer(b), Err(Refusal::Unknown));
    assert_eq!((rig.stored("a").as_deref(), rig.stored("b")), (Some(&b"1"[..]), None));
    let floor = rig.node.engine().visible();
    let old = rig.commit(reads_and_puts(transaction, "z", "y"));
    assert_eq!(rig.answer(old), Err(Refusal::TooOld { floor }), "the resolver begins anew");
    let fresh = reads_and_puts(rig.begin(), "z", "y");
    let fresh = rig.commit(fresh);
    assert_eq!(rig.version(fresh), floor.next());
}

#[test]
fn stepping_down_refuses_and_leading_again_recovers() {
    let mut rig = Rig::start();
    rig.faults.hold();
    let held = rig.put("a", b"1");
    rig.until_held(1);
    rig.faults.step_down();
    assert_eq!(rig.answer(held), Err(Refusal::Unknown));
    until(|| !rig.node.metrics().leading.load(Ordering::SeqCst));
    let refused = rig.put("a", b"2");
    assert_eq!(rig.answer(refused), Err(Refusal::NotLeader));
    assert!(!rig.node.reads_locally());
    rig.faults.new_term(0);
    until(|| rig.node.metrics().leading.load(Ordering::SeqCst));
    let taken = rig.put("a", b"3");
    rig.version(taken);
    assert_eq!(rig.stored("a").as_deref(), Some(&b"3"[..]));
}

#[test]
fn a_failing_machine_answers_unknown_and_stops() {
    let faulty = Arc::new(FaultyEngine::new(engine(1 << 30)));
    let mut rig = Rig::start_with(Made { engine: Arc::clone(&faulty) as Arc<dyn Engine>, ..Made::default() });
    faulty.fail(Call::Apply, 1);
    let transaction = rig.begin();
    rig.faults.hold();
    let put = rig.put("a", b"1");
    rig.until_held(1);
    let conflict = rig.commit(reads_and_puts(transaction, "a", "b"));
    rig.until_decided();
    rig.faults.release();
    assert_eq!(rig.answer(put), Err(Refusal::Unknown));
    assert_eq!(rig.answer(conflict), Err(Refusal::NotApplied));
    rig.block_on(rig.node.failed());
    assert!(rig.node.failure().is_some());
    let later = rig.put("a", b"2");
    assert_eq!(rig.answer(later), Err(Refusal::Unavailable));
    let deadline = rig.now() + Duration::from_secs(5);
    assert!(rig.block_on(rig.node.confirm_read(deadline)).is_err());
    rig.block_on(rig.node.stop());
}

// ---- what looks before it writes ----

#[test]
fn a_one_shot_sees_commits_in_flight_and_waits_for_them() {
    let mut rig = Rig::start();
    rig.faults.hold();
    let put = rig.put("a", b"1");
    rig.until_held(1);
    let look = rig.evaluate(None, look("a"));
    let rejected = rig.evaluate(None, put_if_absent("a", b"2"));
    let written = rig.evaluate(None, put_if_absent("b", b"3"));
    let too = rig.evaluate(None, put_if_absent("b", b"4"));
    rig.until_evaluated(4);
    assert_eq!(rig.answered(), [1]);
    rig.faults.release();
    let version = rig.version(put);
    let looked = rig.answer(look).unwrap();
    assert!(looked.version >= version);
    assert_eq!(looked.body, Body::Payload(Bytes::from_static(b"1")));
    assert_eq!(rig.answer(rejected), Err(Refusal::Rejected(taken())));
    assert_eq!(&payload(rig.answer(written))[..], b"put");
    assert_eq!(rig.answer(too), Err(Refusal::Rejected(taken())), "the second sees the first");
    assert_eq!(rig.stored("b").as_deref(), Some(&b"3"[..]));
}

#[test]
fn a_read_waits_for_its_confirmation_where_others_have_a_say() {
    let mut rig = Rig::start_with(Made { remote_reads: true, ..Made::default() });
    let put = rig.put("a", b"1");
    rig.version(put);
    rig.faults.hold();
    let looked = rig.evaluate(None, look("a"));
    let rejected = rig.evaluate(None, put_if_absent("a", b"2"));
    rig.until_evaluated(2);
    assert_eq!(rig.answered(), [1, 2]);
    let node = Arc::clone(&rig.node);
    let deadline = rig.now() + Duration::from_millis(30);
    assert_eq!(rig.block_on(node.confirm_read(deadline)), Err(ReadRefusal::Expired));
    rig.faults.release();
    assert_eq!(&payload(rig.answer(looked))[..], b"1");
    assert_eq!(rig.answer(rejected), Err(Refusal::Rejected(taken())));
    rig.faults.hold();
    let looked = rig.evaluate(None, look("a"));
    rig.until_evaluated(3);
    rig.faults.step_down();
    assert_eq!(rig.answer(looked), Err(Refusal::NotApplied), "nobody confirmed it");
}

#[test]
fn a_transaction_without_writes_commits_though_its_reads_have_changed_since() {
    let mut rig = Rig::start();
    let mut transaction = rig.begin();
    transaction.get(quantadb::txn::ReadKind::User, &key("a"), |_| ()).unwrap();
    let put = rig.put("a", b"1");
    let put = rig.version(put);
    let commit = transaction.into_commit().unwrap();
    let read_version = commit.read_version;
    let request = rig.send(first(pair(1, put)), Work::Commit(Box::new(commit)));
    assert_eq!(rig.version(request), read_version);
}

// ---- pairs ----

#[test]
fn a_duplicate_waits_for_the_attempt_in_flight_and_hears_the_same() {
    let mut rig = Rig::start();
    let pair = pair(1, Version(0));
    let add = |rig: &mut Rig, keyed| {
        let mutation = Mutation::Atomic { op: AtomicOp::Add, key: &key("n"), operand: &5_u64.to_be_bytes() };
        let (block, work) = single(mutation);
        rig.try_send(keyed, block, work).unwrap()
    };
    rig.faults.hold();
    let handed = rig.handed();
    let original = add(&mut rig, first(pair));
    rig.until_held(1);
    let (duplicate, asked) = (add(&mut rig, again(pair)), rig.outcome(pair));
    rig.faults.release();
    let result = rig.answer(original);
    assert!(matches!(&result, Ok(reply) if matches!(&reply.body, Body::Results(of) if of.len() == 1)), "{result:?}");
    assert_eq!(rig.answer(duplicate), result);
    let version = result.as_ref().unwrap().version;
    let asked = rig.answer(asked).unwrap();
    assert!(matches!(asked.body, Body::Outcome(Some(Record::Committed(at, _))) if at == version), "{asked:?}");
    let late = add(&mut rig, again(pair));
    assert_eq!(rig.answer(late), result);
    assert_eq!(rig.handed(), handed + 1, "it was made once");
}

#[test]
fn a_lost_attempt_leaves_its_retry_unknown_and_its_question_open() {
    let mut rig = Rig::start();
    let pair = pair(1, Version(0));
    rig.faults.hold();
    let original = rig.put_keyed(first(pair), "a", b"1");
    rig.until_held(1);
    let (retry, asked) = (rig.put_keyed(again(pair), "a", b"1"), rig.outcome(pair));
    // Heard after the loss they would be answered from the record, which is as true and not what this is about.
    rig.until_decided();
    rig.faults.new_term(1);
    assert_eq!(rig.answer(original), Err(Refusal::Unknown));
    assert_eq!(rig.answer(retry), Err(Refusal::Unknown));
    assert_eq!(rig.answer(asked), Err(Refusal::NotApplied));
    let answer = rig.ask(pair).unwrap();
    assert!(matches!(answer.body, Body::Outcome(Some(Record::Committed(..)))), "it had been applied: {answer:?}");
    let once_more = rig.put_keyed(again(pair), "a", b"1");
    rig.version(once_more);
}

#[test]
fn a_fence_keeps_a_late_commit_out() {
    let mut rig = Rig::start();
    let pair = pair(1, Version(0));
    rig.faults.hold();
    let asked = rig.outcome(pair);
    rig.until_held(1);
    let (late, asked_too) = (rig.put_keyed(first(pair), "a", b"1"), rig.outcome(pair));
    rig.faults.release();
    assert_eq!(rig.answer(asked).unwrap().body, Body::Outcome(Some(Record::Never)));
    assert_eq!(rig.answer(late), Err(Refusal::Fenced));
    assert_eq!(rig.answer(asked_too).unwrap().body, Body::Outcome(Some(Record::Never)));
    let later = rig.put_keyed(again(pair), "a", b"1");
    assert_eq!(rig.answer(later), Err(Refusal::Fenced));
    assert_eq!(rig.stored("a"), None);
}

#[test]
fn a_marked_retry_s_rejection_is_recorded_and_repeated() {
    let mut rig = Rig::start();
    let put = rig.put("a", b"1");
    let pair = pair(1, rig.version(put));
    let rejected = rig.evaluate(again(pair), put_if_absent("a", b"2"));
    assert_eq!(rig.answer(rejected), Err(Refusal::Rejected(taken())));
    let deleted = rig.delete("a");
    rig.version(deleted);
    let repeated = rig.evaluate(again(pair), put_if_absent("a", b"2"));
    assert_eq!(rig.answer(repeated), Err(Refusal::Rejected(taken())));
    assert_eq!(rig.stored("a"), None);
    let asked = rig.ask(pair).unwrap();
    assert!(matches!(asked.body, Body::Outcome(Some(Record::Answered(..)))), "{asked:?}");
}

#[test]
fn what_is_recorded_of_an_answer_is_bounded() {
    const LONG: usize = 4 * limits::RECORDED_RESULT_BYTES_MAX;
    let mut rig = Rig::start();
    let long = || -> quantadb::node::Evaluation { Box::new(|_| Ok(Bytes::from(vec![7; LONG]))) };
    let before = rig.node.engine().usage().bytes;
    let wrote = pair(9, Version(0));
    let writes = || -> quantadb::node::Evaluation {
        Box::new(|view| {
            view.write(Mutation::Put { key: &key("w"), value: b"1" }).unwrap();
            Ok(Bytes::from(vec![7; LONG]))
        })
    };
    for name in 1..=8 {
        let request = rig.evaluate(again(pair(name, Version(0))), long());
        assert_eq!(payload(rig.answer(request)).len(), LONG);
    }
    let grown = rig.node.engine().usage().bytes - before;
    assert!(grown < 2 * LONG as u64, "eight answers of {LONG} bytes left {grown}");
    let repeated = rig.evaluate(again(pair(1, Version(0))), long());
    assert_eq!(rig.answer(repeated), Err(Refusal::ResultDropped { applied: false }));
    let request = rig.evaluate(first(wrote), writes());
    assert_eq!(payload(rig.answer(request)).len(), LONG);
    let repeated = rig.evaluate(again(wrote), writes());
    assert_eq!(rig.answer(repeated), Err(Refusal::ResultDropped { applied: true }), "it was made, and must say so");
}

#[test]
fn a_pair_above_the_last_version_assigned_is_of_another_history() {
    let mut rig = Rig::start();
    let put = rig.put("a", b"1");
    let last = rig.version(put);
    let ahead = rig.put_keyed(first(pair(1, last.next())), "a", b"2");
    assert_eq!(rig.answer(ahead), Err(Refusal::OtherTimeline { last }));
    assert_eq!(rig.ask(pair(1, last.next())), Err(Refusal::OtherTimeline { last }));
    let at_it = rig.put_keyed(first(pair(2, last)), "a", b"3");
    rig.version(at_it);
}

#[test]
fn below_the_floor_a_pair_has_expired() {
    let mut made = Made::default();
    made.options.committer.idempotency_window = Duration::from_secs(10);
    let mut rig = Rig::start_with(made);
    let old = pair(1, rig.node.engine().visible());
    let request = rig.put_keyed(first(old), "a", b"1");
    rig.version(request);
    for _ in 0..12 {
        rig.clock.put_forward(Duration::from_secs(2));
        let request = rig.put("b", b"1");
        rig.version(request);
    }
    let never_sent = pair(2, old.seen);
    let request = rig.put_keyed(first(never_sent), "a", b"2");
    assert!(matches!(rig.answer(request), Err(Refusal::KeyExpired { retried: false, .. })));
    for expired in [old, never_sent] {
        let request = rig.put_keyed(again(expired), "a", b"2");
        assert!(matches!(rig.answer(request), Err(Refusal::KeyExpired { retried: true, .. })));
        assert_eq!(rig.ask(expired).unwrap().body, Body::Outcome(None));
    }
    assert_eq!(rig.stored("a").as_deref(), Some(&b"1"[..]));
    let fresh = pair(3, rig.node.engine().visible());
    let request = rig.put_keyed(first(fresh), "a", b"3");
    rig.version(request);
}

#[test]
fn a_question_that_waits_while_the_floor_passes_its_pair_hears_that_it_expired() {
    let mut made = Made::default();
    made.options.committer.idempotency_window = Duration::from_secs(10);
    let mut rig = Rig::start_with(made);
    let old = pair(1, rig.node.engine().visible());
    for _ in 0..3 {
        let request = rig.put("b", b"1");
        rig.version(request);
        rig.clock.put_forward(Duration::from_secs(2));
    }
    rig.faults.hold();
    let request = rig.put_keyed(first(old), "a", b"1");
    rig.until_held(1);
    let (asked, repeated) = (rig.outcome(old), rig.put_keyed(again(old), "a", b"1"));
    rig.clock.put_forward(Duration::from_secs(20));
    let raises = rig.put("b", b"2");
    rig.until_held(2);
    rig.faults.release();
    rig.version(raises);
    rig.version(request);
    let asked = rig.answer(asked);
    assert!(matches!(&asked, Ok(reply) if matches!(reply.body, Body::Outcome(_))), "{asked:?}");
    let repeated = rig.answer(repeated);
    assert!(matches!(repeated, Ok(_) | Err(Refusal::KeyExpired { retried: true, .. })), "{repeated:?}");
}

// ---- bounds ----

#[test]
fn a_full_store_refuses_puts_admits_deletes_and_recovers() {
    let history = HistoryOptions { keep: Duration::ZERO, bytes_max: 64 * 1024 };
    let mut made = Made { engine: engine(4 * 1024 * 1024), ..Made::default() };
    made.options.history = history;
    let mut rig = Rig::start_with(made);
    let value = vec![7; 16 * 1024];
    let mut stored = 0;
    loop {
        let request = rig.put(&format!("k{stored}"), &value);
        match rig.answer(request) {
            Ok(_) => stored += 1,
            Err(Refusal::MemoryFull { bytes, bytes_max }) => {
                assert!(bytes_max == 4 * 1024 * 1024 && bytes <= bytes_max);
                break;
            }
            other => panic!("{other:?}"),
        }
        assert!(stored < 1_000);
    }
    assert!(stored > 100, "{stored}");
    assert!(rig.node.engine().usage().bytes <= 4 * 1024 * 1024);
    let refused = rig.evaluate(None, {
        let value = value.clone();
        Box::new(move |view| {
            view.write(Mutation::Put { key: &key("e"), value: &value }).unwrap();
            Ok(Bytes::new())
        })
    });
    assert!(matches!(rig.answer(refused), Err(Refusal::MemoryFull { .. })));
    for place in 0..stored {
        let request = rig.delete(&format!("k{place}"));
        rig.version(request);
    }
    // The keeper of history trims on its own; until it has, puts are refused.
    until(|| rig.node.engine().usage().bytes < 2 * 1024 * 1024);
    let request = rig.put("again", &value);
    rig.version(request);
}

#[test]
fn questions_and_recorded_answers_are_refused_too_when_memory_is_full() {
    let faulty = Arc::new(FaultyEngine::new(engine(1 << 30)));
    let mut rig = Rig::start_with(Made { engine: Arc::clone(&faulty) as Arc<dyn Engine>, ..Made::default() });
    faulty.set_memory_full(true);
    assert!(matches!(rig.ask(pair(1, Version(0))), Err(Refusal::MemoryFull { .. })));
    let request = rig.evaluate(again(pair(2, Version(0))), look("a"));
    assert!(matches!(rig.answer(request), Err(Refusal::MemoryFull { .. })));
    faulty.set_memory_full(false);
    assert_eq!(rig.ask(pair(1, Version(0))).unwrap().body, Body::Outcome(Some(Record::Never)));
}

#[test]
fn what_does_not_fit_is_refused_and_fits_once_the_rest_is_answered() {
    let mut made = Made::default();
    made.options.admission.requests_max = 3;
    let mut rig = Rig::start_with(made);
    until(|| rig.node.under_way() == (0, 0));
    rig.faults.hold();
    let held: Vec<u64> = (0..3).map(|_| rig.put("a", b"1")).collect();
    let (block, work) = single(Mutation::Delete { key: &key("a") });
    assert_eq!(rig.try_send(None, block, work), None);
    assert_eq!(rig.node.metrics().overloaded.load(Ordering::SeqCst), 1);
    rig.faults.release();
    for request in held {
        rig.version(request);
    }
    until(|| rig.node.under_way() == (0, 0));
    let request = rig.put("a", b"2");
    rig.version(request);
}

#[test]
fn what_waits_past_its_deadline_is_not_begun() {
    let mut made = Made::default();
    made.options.committer.pipeline_entries_max = 1;
    let mut rig = Rig::start_with(made);
    rig.faults.hold();
    let (held, built) = (rig.put("a", b"1"), rig.put("b", b"2"));
    rig.until_held(1);
    let deadline = rig.now() + Duration::from_secs(5);
    let (block, work) = single(Mutation::Put { key: &key("c"), value: b"3" });
    let late = rig.send_until(deadline, None, block, work).unwrap();
    rig.clock.put_forward(Duration::from_secs(6));
    rig.faults.release();
    rig.version(held);
    rig.version(built);
    assert_eq!(rig.answer(late), Err(Refusal::Expired));
    assert_eq!(rig.stored("c"), None);
}

#[test]
fn what_waits_behind_a_slow_decision_past_its_deadline_is_not_begun() {
    let mut rig = Rig::start();
    let clock = Arc::clone(&rig.clock);
    let slow: quantadb::node::Evaluation = Box::new(move |_| {
        clock.put_forward(Duration::from_secs(10));
        Ok(Bytes::new())
    });
    let deadline = rig.now() + Duration::from_secs(5);
    let item = |request, evaluation| Item { request, deadline, keyed: None, work: Work::Evaluate(evaluation) };
    let items = vec![item(1_000, slow), item(1_001, put_if_absent("a", b"1"))];
    let batch = Batch { mailbox: Arc::clone(&rig.mailbox), block: Bytes::new(), items };
    rig.node.submit(batch).unwrap();
    assert!(rig.answer(1_000).is_ok());
    assert_eq!(rig.answer(1_001), Err(Refusal::Expired));
    assert_eq!(rig.stored("a"), None);
}

#[test]
fn stopping_answers_what_was_accepted() {
    let mut rig = Rig::start();
    rig.faults.hold();
    let requests: Vec<u64> = (0..20).map(|_| rig.put("a", b"1")).collect();
    rig.until_held(8);
    rig.faults.release();
    rig.block_on(rig.node.stop());
    for request in requests {
        rig.version(request);
    }
    let (block, work) = single(Mutation::Delete { key: &key("a") });
    assert_eq!(rig.try_send(None, block, work), None, "nothing is accepted from here on");
}

#[test]
fn a_panic_of_the_committer_is_a_failure_of_the_node() {
    let mut rig = Rig::start();
    rig.evaluate(None, Box::new(|_| panic!("on purpose")));
    let node = Arc::clone(&rig.node);
    let failed = rig.block_on(async { tokio::time::timeout(Duration::from_secs(10), node.failed()).await });
    assert!(failed.is_ok_and(|failed| failed.to_string().contains("panic")));
}
