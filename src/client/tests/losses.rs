use super::peer::{is_pending, tags};
use super::{Listening, Peer};
use crate::client::{CallOptions, CommitOutcome, Error, ErrorKind, Outcome, Retry};
use crate::types::{IdempotencyPair, Version};
use crate::wire::{ErrorCode, Opcode, OutcomeState, WireError};
use std::time::Duration;

const PAIR: IdempotencyPair = IdempotencyPair { key: [7; 16], seen: Version(3) };

#[tokio::test]
async fn a_read_that_was_sent_and_lost_is_sent_again() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        first.request(Opcode::Get).await;
        drop(first);
        let mut second = listening.accept().await;
        let id = second.request(Opcode::Get).await;
        assert_eq!(id, 1, "ids begin anew");
        second.nothing(id, 5).await;
        second
    };
    let (answer, _peer) = tokio::join!(client.get("k"), script);
    assert_eq!(answer.expect("answered"), None);
    assert_eq!(client.seen_version(), Version(5));
}

#[tokio::test]
async fn a_write_that_was_sent_and_lost_is_unknown_and_not_sent_again() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        first.request(Opcode::Put).await;
        drop(first);
        listening.accept().await
    };
    let (answer, mut second): (Result<Version, Error>, Peer) = tokio::join!(client.put("k", "v"), script);
    let error = answer.expect_err("nobody knows");
    assert_eq!(
        (error.kind(), error.outcome(), error.retry()),
        (ErrorKind::ConnectionLost, Outcome::Unknown, Retry::Never)
    );
    second.settled().await;
}

#[tokio::test]
async fn a_write_that_was_not_sent_whole_is_sent_again() {
    let mut listening = Listening::with(256, |_| {});
    let (client, first) = listening.connected().await;
    let value = vec![b'v'; 4096];
    let script = async {
        // The pipe holds a part of the frame; the peer never reads it.
        drop(first);
        let mut second = listening.accept().await;
        let frame = second.request_frame(Opcode::Put).await;
        second.version(Opcode::Put, frame.request_id, 1).await;
        second
    };
    let put = client.put("k", &value);
    tokio::pin!(put);
    // So far that the first part is in the pipe.
    assert!(is_pending(put.as_mut()).await);
    tokio::task::yield_now().await;
    let (answer, _peer) = tokio::join!(put, script);
    assert_eq!(answer.expect("answered"), Version(1));
}

#[tokio::test]
async fn once_means_once() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let once = client.with(CallOptions::new().once());
    let script = async {
        first.request(Opcode::Get).await;
        drop(first);
        listening.accept().await
    };
    let (answer, mut second) = tokio::join!(once.get("k"), script);
    let error = answer.expect_err("lost");
    assert_eq!((error.outcome(), error.retry()), (Outcome::NotApplied, Retry::Same));
    let script = async {
        let id = second.request(Opcode::Get).await;
        second.refuse(Opcode::Get, id, ErrorCode::OVERLOADED).await;
    };
    let (answer, ()) = tokio::join!(once.get("k"), script);
    assert_eq!(answer.expect_err("refused").code(), Some(ErrorCode::OVERLOADED));
}

#[tokio::test]
async fn a_write_with_a_pair_is_sent_again_and_marked() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let keyed = client.with(CallOptions::new().idempotency(PAIR));
    let script = async {
        let frame = first.request_frame(Opcode::Put).await;
        assert_eq!((tags(&frame).idempotency, tags(&frame).retry_mark), (Some(PAIR), false));
        drop(first);
        let mut second = listening.accept().await;
        let frame = second.request_frame(Opcode::Put).await;
        assert_eq!((tags(&frame).idempotency, tags(&frame).retry_mark), (Some(PAIR), true));
        // The server knows no more; the client asks again.
        let unknown = WireError::new(ErrorCode::OUTCOME_UNKNOWN).with_retry(Retry::Same);
        second.refuse_with(Opcode::Put, frame.request_id, &unknown).await;
        let frame = second.request_frame(Opcode::Put).await;
        assert!(tags(&frame).retry_mark);
        second.version(Opcode::Put, frame.request_id, 8).await;
        second
    };
    let (answer, _peer) = tokio::join!(keyed.put("k", "v"), script);
    assert_eq!(answer.expect("answered"), Version(8));
}

#[tokio::test]
async fn a_refusal_after_a_loss_does_not_say_that_nothing_was_done() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let keyed = client.with(CallOptions::new().idempotency(PAIR));
    let script = async {
        first.request(Opcode::Delete).await;
        drop(first);
        let mut second = listening.accept().await;
        let id = second.request(Opcode::Delete).await;
        second.refuse(Opcode::Delete, id, ErrorCode::MEMORY_FULL).await;
        second
    };
    let (answer, _peer) = tokio::join!(keyed.delete("k"), script);
    let error = answer.expect_err("refused");
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::MEMORY_FULL), Outcome::Unknown));
    assert_eq!(error.retry(), Retry::Same, "under the same pair");
}

#[tokio::test]
async fn refusals_that_pass_are_waited_out() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        for code in [ErrorCode::OVERLOADED, ErrorCode::UNAVAILABLE, ErrorCode::NOT_APPLIED] {
            let id = peer.request(Opcode::Put).await;
            let mut error = WireError::new(code);
            error.retry_after_ms = 1;
            peer.refuse_with(Opcode::Put, id, &error).await;
        }
        let id = peer.request(Opcode::Put).await;
        peer.version(Opcode::Put, id, 2).await;
    };
    let (answer, ()) = tokio::join!(client.put("k", "v"), script);
    assert_eq!(answer.expect("answered"), Version(2));
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_cancels_reads_alone() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let hurried = client.with(CallOptions::new().deadline(Duration::from_millis(20)));
    let script = async {
        let frame = peer.request_frame(Opcode::Get).await;
        assert!(tags(&frame).deadline_ms.is_some_and(|ms| ms <= 20));
        let cancel = peer.frame_of(crate::wire::Kind::Cancel).await;
        assert_eq!(cancel.request_id, frame.request_id);
        // The answer that is no longer wanted is taken without a word.
        peer.refuse(Opcode::Get, frame.request_id, ErrorCode::CANCELLED).await;
    };
    let (answer, ()) = tokio::join!(hurried.get("k"), script);
    let error = answer.expect_err("nothing came");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::DeadlinePassed, Outcome::NotApplied));
    let (answer, id) = tokio::join!(hurried.put("k", "v"), peer.request(Opcode::Put));
    let error = answer.expect_err("nothing came");
    assert_eq!(
        (error.kind(), error.outcome(), error.retry()),
        (ErrorKind::DeadlinePassed, Outcome::Unknown, Retry::Never)
    );
    peer.version(Opcode::Put, id, 1).await;
    peer.settled().await;
}

#[tokio::test]
async fn a_dropped_future_cancels_a_read_and_lets_a_write_go_on() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let id = tokio::select! {
        _ = client.get("k") => panic!("nothing answers"),
        id = peer.request(Opcode::Get) => id,
    };
    assert_eq!(peer.frame_of(crate::wire::Kind::Cancel).await.request_id, id);
    peer.nothing(id, 1).await;
    let id = tokio::select! {
        _ = client.put("k", "v") => panic!("nothing answers"),
        id = peer.request(Opcode::Put) => id,
    };
    peer.version(Opcode::Put, id, 1).await;
    peer.settled().await;
}

#[tokio::test]
async fn an_outcome_is_asked_for_until_it_is_known() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        first.request(Opcode::Outcome).await;
        drop(first);
        let mut peer = listening.accept().await;
        let version = Version(4);
        for state in [
            OutcomeState::Committed { version, results: None },
            OutcomeState::Never,
            OutcomeState::Expired,
            OutcomeState::Rejected { code: ErrorCode::RESULT_TOO_LARGE },
        ] {
            let id = peer.request(Opcode::Outcome).await;
            peer.outcome(id, state).await;
        }
        peer
    };
    let calls = async {
        let mut told = Vec::new();
        for _ in 0..4 {
            told.push(client.outcome(PAIR).await.expect("answered"));
        }
        told
    };
    let (told, _peer) = tokio::join!(calls, script);
    let expected = [
        CommitOutcome::Committed { version: Version(4), results: None },
        CommitOutcome::Never,
        CommitOutcome::Expired,
        CommitOutcome::Rejected { code: ErrorCode::RESULT_TOO_LARGE },
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_client_whose_runtime_is_gone_says_so() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let first = runtime();
    let (client, _peer) = first.block_on(async { Listening::new().connected().await });
    drop(first);
    let error = runtime().block_on(client.get("k")).expect_err("its task is gone");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::Never));
}
