use super::peer::tags;
use super::{Listening, Peer};
use crate::client::{Committed, Error, ErrorKind, Isolation, Outcome, Retry, TransactOptions};
use crate::types::{IdempotencyPair, Version};
use crate::wire::{Blob, CommitReply, ErrorCode, Frame, ListBuf, Opcode, OutcomeState, Request, RequestBody};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub(super) fn pair_of(frame: &Frame) -> IdempotencyPair {
    tags(frame).idempotency.expect("a commit carries a pair")
}

pub(super) async fn committed(peer: &mut Peer, id: u64, version: u64) {
    let results = ListBuf::new();
    let reply = CommitReply { version: Version(version), results: results.as_list::<Blob<'_>>() };
    peer.respond(Opcode::Commit, id, |out| reply.encode(out)).await;
}

/// Takes one BEGIN, one PUT and the COMMIT; answers the first two.
pub(super) async fn until_commit(peer: &mut Peer) -> Frame {
    let begin = peer.request(Opcode::Begin).await;
    peer.version(Opcode::Begin, begin, 3).await;
    let put = peer.request_frame(Opcode::Put).await;
    assert_eq!(tags(&put).transaction, Some(begin));
    peer.version(Opcode::Put, put.request_id, 3).await;
    let commit = peer.request_frame(Opcode::Commit).await;
    assert_eq!(tags(&commit).transaction, Some(begin));
    commit
}

pub(super) fn pair_asked(frame: &Frame) -> IdempotencyPair {
    match Request::decode(frame.opcode, &frame.payload).expect("valid").body {
        RequestBody::Outcome { pair } => pair,
        other => panic!("{other:?}"),
    }
}

/// A commit whose connection is lost, and what the next one says of it.
async fn lost_commit(state: OutcomeState<'_>) -> Result<Committed, Error> {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    let script = async {
        let commit = until_commit(&mut first).await;
        drop(first);
        let mut second = listening.accept().await;
        let asked = second.request_frame(Opcode::Outcome).await;
        assert_eq!(pair_asked(&asked), pair_of(&commit));
        second.outcome(asked.request_id, state).await;
        second
    };
    let work = async {
        tx.put("k", "v").await.expect("queued");
        // The pair carries the version that BEGIN told.
        while client.seen_version() == Version::ZERO && tx.read_version().is_none() {
            tokio::task::yield_now().await;
        }
        tx.commit().await
    };
    tokio::join!(work, script).0
}

#[tokio::test]
async fn what_was_asked_first_travels_with_the_begin() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let tx = client.begin(Isolation::Snapshot).await.expect("queued");
    tx.put("a", "1").await.expect("queued");
    tx.savepoint("here").await.expect("queued");
    let script = async {
        let begin = peer.request_frame(Opcode::Begin).await;
        let RequestBody::Begin { isolation } = Request::decode(0x30, &begin.payload).expect("valid").body else {
            panic!()
        };
        assert_eq!(isolation, Isolation::Snapshot);
        peer.request(Opcode::Put).await;
        peer.request(Opcode::Savepoint).await;
        let get = peer.request(Opcode::Get).await;
        peer.nothing(get, 1).await;
        begin.request_id
    };
    let (answer, begin) = tokio::join!(tx.get("a"), script);
    answer.expect("answered");
    drop(tx.clone());
    peer.settled().await;
    drop(tx);
    assert_eq!(tags(&peer.request_frame(Opcode::Rollback).await).transaction, Some(begin));
}

#[tokio::test]
async fn a_commit_that_was_lost_and_done_succeeds_with_its_version() {
    let mut results = ListBuf::new();
    results.push(&Blob(b"result"));
    let state = OutcomeState::Committed { version: Version(8), results: Some(results.as_list()) };
    let committed = lost_commit(state).await.expect("it was done");
    assert_eq!(committed, Committed { version: Version(8), results: Some(vec!["result".into()]) });
}

#[tokio::test]
async fn a_commit_that_was_lost_and_fenced_may_run_again() {
    let error = lost_commit(OutcomeState::Never).await.expect_err("it was not done");
    assert_eq!(
        (error.code(), error.outcome(), error.retry()),
        (Some(ErrorCode::FENCED), Outcome::NotApplied, Retry::RestartTxn)
    );
}

#[tokio::test]
async fn a_commit_that_was_lost_and_expired_is_unknown() {
    let error = lost_commit(OutcomeState::Expired).await.expect_err("nobody knows");
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
}

#[tokio::test]
async fn a_commit_that_was_lost_and_rejected_tells_why() {
    let rejected = OutcomeState::Rejected { code: ErrorCode::TRANSACTION_TOO_LARGE };
    let error = lost_commit(rejected).await.expect_err("rejected");
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::TRANSACTION_TOO_LARGE), Outcome::NotApplied));
}

#[tokio::test]
async fn transact_runs_again_under_a_new_pair_only_after_a_fence() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let lost = until_commit(&mut first).await;
        // Unknown to the server itself: the pair is asked for.
        first.refuse(Opcode::Commit, lost.request_id, ErrorCode::OUTCOME_UNKNOWN).await;
        let asked = first.request_frame(Opcode::Outcome).await;
        assert_eq!(pair_asked(&asked), pair_of(&lost));
        drop(first);
        let mut second = listening.accept().await;
        let asked = second.request_frame(Opcode::Outcome).await;
        assert_eq!(pair_asked(&asked), pair_of(&lost));
        second.outcome(asked.request_id, OutcomeState::Never).await;
        let again = until_commit(&mut second).await;
        assert_ne!(pair_of(&again).key, pair_of(&lost).key);
        committed(&mut second, again.request_id, 12).await;
        second
    };
    let runs = AtomicU32::new(0);
    let transact = client.transact(|tx| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            tx.put("k", "v").await?;
            while tx.read_version().is_none() {
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(run)
        }
    });
    let (done, _peer) = tokio::join!(transact, script);
    let done = done.expect("committed");
    assert_eq!((done.value, done.version, runs.load(Ordering::Relaxed)), (1, Version(12), 2));
}

#[tokio::test]
async fn a_transaction_that_only_read_commits_without_a_pair() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let begin = peer.request(Opcode::Begin).await;
        let commit = peer.request_frame(Opcode::Commit).await;
        assert_eq!((tags(&commit).idempotency, tags(&commit).transaction), (None, Some(begin)));
        committed(&mut peer, commit.request_id, 3).await;
        peer.request(Opcode::Begin).await;
        peer.request(Opcode::Commit).await;
        drop(peer);
    };
    let calls = async {
        let tx = client.begin(Isolation::Serializable).await.expect("queued");
        assert_eq!(tx.commit().await.expect("committed").version, Version(3));
        let tx = client.begin(Isolation::Serializable).await.expect("queued");
        tx.commit().await.expect_err("lost")
    };
    let (error, ()) = tokio::join!(calls, script);
    assert_eq!(
        (error.outcome(), error.retry()),
        (Outcome::NotApplied, Retry::RestartTxn),
        "nothing could have been done"
    );
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_at_the_deadline() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let options = TransactOptions { deadline: Some(Duration::from_millis(50)), ..TransactOptions::default() };
    let script = async { until_commit(&mut peer).await };
    let transact = client.transact_with(options, |tx| async move {
        tx.put("k", "v").await?;
        while tx.read_version().is_none() {
            tokio::task::yield_now().await;
        }
        Ok::<_, Error>(())
    });
    let (done, _commit) = tokio::join!(transact, script);
    let error = done.expect_err("nothing came");
    assert_eq!(
        (error.kind(), error.outcome(), error.retry()),
        (ErrorKind::DeadlinePassed, Outcome::Unknown, Retry::Never)
    );
}

#[tokio::test]
async fn what_passes_is_waited_out_by_running_again() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        for code in [ErrorCode::TOO_MANY_TRANSACTIONS, ErrorCode::OVERLOADED] {
            let begin = peer.request(Opcode::Begin).await;
            peer.refuse(Opcode::Begin, begin, code).await;
            let get = peer.request(Opcode::Get).await;
            let prior = crate::wire::WireError::new(ErrorCode::PRIOR_FAILED).with_cause(code);
            peer.refuse_with(Opcode::Get, get, &prior).await;
            peer.request(Opcode::Rollback).await;
        }
        peer.request(Opcode::Begin).await;
        let get = peer.request(Opcode::Get).await;
        peer.nothing(get, 1).await;
        let commit = peer.request(Opcode::Commit).await;
        committed(&mut peer, commit, 1).await;
    };
    let transact = client.transact(|tx| async move { tx.get("k").await });
    let (done, ()) = tokio::join!(transact, script);
    assert_eq!(done.expect("committed").value, None);
}

#[tokio::test]
async fn a_refused_commit_is_rolled_back_unless_it_is_forgotten() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        for code in [ErrorCode::KEY_EXPIRED, ErrorCode::CONFLICT] {
            let commit = until_commit(&mut peer).await;
            peer.refuse(Opcode::Commit, commit.request_id, code).await;
            if code == ErrorCode::KEY_EXPIRED {
                peer.request(Opcode::Rollback).await;
            }
        }
        peer.settled().await;
    };
    let calls = async {
        let mut errors = Vec::new();
        for _ in 0..2 {
            let tx = client.begin(Isolation::Serializable).await.expect("queued");
            tx.put("k", "v").await.expect("queued");
            while tx.read_version().is_none() {
                tokio::task::yield_now().await;
            }
            errors.push(tx.commit().await.expect_err("refused"));
        }
        errors
    };
    let (errors, ()) = tokio::join!(calls, script);
    assert!(errors.iter().all(|error| error.retry() == Retry::RestartTxn), "a newer pair may be accepted: {errors:?}");
}

#[tokio::test]
async fn a_client_that_has_seen_nothing_asks_for_a_version_to_make_its_pair() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let id = peer.request(Opcode::ReadVersion).await;
        peer.version(Opcode::ReadVersion, id, 6).await;
        peer.settled().await;
    };
    let calls = async { [client.new_pair().await.expect("made"), client.new_pair().await.expect("made")] };
    let ([first, second], ()) = tokio::join!(calls, script);
    assert_eq!((first.seen, second.seen), (Version(6), Version(6)));
    assert_ne!(first.key, second.key);
    drop(client);
    peer.closed().await;
}
