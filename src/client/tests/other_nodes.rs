//! Transactions and scans whose node fails, and what becomes of them on another.

use super::clock::Clock;
use super::peer::tags;
use super::scans::{chunk, end};
use super::transactions::{committed, pair_asked, pair_of, until_commit};
use super::{Listening, Peer, Welcomed};
use crate::client::{CallOptions, Client, Consistency, Error, ErrorKind, Isolation, Outcome, Retry, Transacted};
use crate::types::Version;
use crate::wire::{ErrorCode, Kind, Opcode, OutcomeState, WireError};
use std::sync::atomic::{AtomicU32, Ordering};

/// Writes one key; gives how often it ran.
async fn write_one(client: &Client) -> Result<Transacted<u32>, Error> {
    let runs = AtomicU32::new(0);
    client
        .transact(|tx| {
            let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tx.put("k", "v").await?;
                // The pair carries the version that BEGIN told.
                while tx.read_version().is_none() {
                    if tx.restarts() {
                        return Err(Error::closed());
                    }
                    tokio::task::yield_now().await;
                }
                Ok(run)
            }
        })
        .await
}

async fn second_node(listening: &mut Listening) -> Peer {
    listening.accept_as(Welcomed::node(2, None)).await
}

#[tokio::test]
async fn a_transaction_dies_with_its_node_and_runs_again_on_another() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first) = a.connected().await;
    a.close();
    let script = async {
        first.request(Opcode::Begin).await;
        drop(first);
        let mut second = second_node(&mut b).await;
        let commit = until_commit(&mut second).await;
        committed(&mut second, commit.request_id, 8).await;
        second
    };
    let (done, _second) = tokio::join!(write_one(&client), script);
    let done = done.expect("committed");
    assert_eq!((done.value, done.version), (2, Version(8)));
}

#[tokio::test]
async fn another_node_says_what_became_of_a_commit() {
    for committed_before in [true, false] {
        let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
        let (client, mut first) = a.connected().await;
        a.close();
        let script = async {
            let lost = until_commit(&mut first).await;
            drop(first);
            let mut second = second_node(&mut b).await;
            // Whoever does not lead any more does not know, and whoever may not know yet is asked again.
            for code in [ErrorCode::UNAVAILABLE, ErrorCode::OUTCOME_UNKNOWN] {
                let asked = second.request_frame(Opcode::Outcome).await;
                assert_eq!(pair_asked(&asked), pair_of(&lost));
                second.refuse(Opcode::Outcome, asked.request_id, code).await;
            }
            let asked = second.request_frame(Opcode::Outcome).await;
            assert_eq!(pair_asked(&asked), pair_of(&lost));
            if committed_before {
                let state = OutcomeState::Committed { version: Version(8), results: None };
                second.outcome(asked.request_id, state).await;
                return second;
            }
            second.outcome(asked.request_id, OutcomeState::Never).await;
            let again = until_commit(&mut second).await;
            assert_ne!(pair_of(&again).key, pair_of(&lost).key, "a pair names one attempt");
            committed(&mut second, again.request_id, 8).await;
            second
        };
        let (done, mut second) = tokio::join!(write_one(&client), script);
        let done = done.expect("committed");
        assert_eq!((done.value, done.version), (if committed_before { 1 } else { 2 }, Version(8)));
        second.settled().await;
    }
}

#[tokio::test]
async fn a_commit_of_which_nobody_can_tell_is_not_run_again() {
    let clock = Clock::new();
    let [mut a] = Listening::at(["a:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut first) = a.connected().await;
        let script = async {
            until_commit(&mut first).await;
            a.close();
            drop(first);
        };
        let (done, ()) = tokio::join!(write_one(&client), script);
        let error = done.expect_err("nobody knows");
        assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn a_transaction_runs_again_at_the_leader_that_refused_it_elsewhere() {
    for at_commit in [false, true] {
        let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
        let (client, mut first) = a.connected().await;
        let script = async {
            if at_commit {
                let commit = until_commit(&mut first).await;
                first.redirect(Opcode::Commit, commit.request_id, Some("b:1")).await;
            } else {
                let begin = first.request(Opcode::Begin).await;
                first.redirect(Opcode::Begin, begin, Some("b:1")).await;
            }
            let mut second = second_node(&mut b).await;
            let commit = until_commit(&mut second).await;
            committed(&mut second, commit.request_id, 8).await;
            second
        };
        let (done, _second) = tokio::join!(write_one(&client), script);
        assert_eq!(done.expect("committed").value, 2);
    }
}

#[tokio::test]
async fn who_drives_a_transaction_is_told_to_begin_anew_when_another_node_leads() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    let script = async {
        peer.request(Opcode::Begin).await;
        let commit = peer.request(Opcode::Commit).await;
        peer.redirect(Opcode::Commit, commit, Some("b:1")).await;
    };
    let (done, ()) = tokio::join!(tx.commit(), script);
    let error = done.expect_err("refused");
    assert_eq!((error.code(), error.retry()), (Some(ErrorCode::NOT_LEADER), Retry::RestartTxn));
    assert_eq!((error.leader(), error.outcome()), (Some("b:1"), Outcome::NotApplied));
}

#[tokio::test]
async fn a_node_that_can_begin_no_transaction_is_left_for_another() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first) = a.connected().await;
    let script = async {
        let refusing = async {
            while let Some(frame) = first.frame_or_end().await {
                if frame.opcode == Opcode::Begin.number() {
                    first.refuse(Opcode::Begin, frame.request_id, ErrorCode::UNAVAILABLE).await;
                } else {
                    let opcode = Opcode::from_number(frame.opcode).expect("known");
                    let prior = WireError::new(ErrorCode::PRIOR_FAILED).with_cause(ErrorCode::UNAVAILABLE);
                    first.refuse_with(opcode, frame.request_id, &prior).await;
                }
            }
        };
        let answering = async {
            let mut second = second_node(&mut b).await;
            let commit = until_commit(&mut second).await;
            committed(&mut second, commit.request_id, 8).await;
            second
        };
        tokio::join!(refusing, answering).1
    };
    let (done, _second) = tokio::join!(write_one(&client), script);
    assert!(done.expect("committed").value > 2);
}

#[tokio::test]
async fn a_node_on_which_a_transaction_gets_no_answer_is_left_for_another() {
    let clock = Clock::new();
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut first) = a.connected().await;
        let tx = client.begin(Isolation::Serializable).await.expect("queued");
        let script = async {
            let echoing = async {
                loop {
                    let frame = first.frame().await;
                    if frame.kind == Kind::Ping {
                        first.send(Kind::Pong, 0, 0, |out| out.extend_from_slice(&frame.payload)).await;
                    }
                }
            };
            tokio::select! {
                () = echoing => unreachable!("it echoes for ever"),
                second = second_node(&mut b) => second,
            }
        };
        let (answer, mut second) = tokio::join!(tx.get("k"), script);
        assert_eq!(answer.expect_err("late").kind(), ErrorKind::DeadlinePassed);
        second.settled().await;
        let _next = client.begin(Isolation::Serializable).await.expect("queued");
        second.request(Opcode::Begin).await;
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn a_scan_goes_on_on_another_node_that_has_come_as_far() {
    for gone in [false, true] {
        let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
        let (client, mut first) = a.connected().await;
        a.close();
        let script = async {
            let frame = first.request_frame(Opcode::Scan).await;
            assert_eq!(tags(&frame).consistency, Some(Consistency::Local));
            chunk(&mut first, frame.request_id, &["a", "b"], Some("after b")).await;
            drop(first);
            let mut second = second_node(&mut b).await;
            let frame = second.request_frame(Opcode::Scan).await;
            let tags = tags(&frame);
            assert_eq!((tags.resume_token, tags.if_gone), (Some(&b"after b"[..]), None));
            assert_eq!(tags.consistency, None, "another node may be behind the token");
            if gone {
                let gone = WireError::new(ErrorCode::SNAPSHOT_GONE).with_horizon(Version(7));
                second.refuse_with(Opcode::Scan, frame.request_id, &gone).await;
            } else {
                chunk(&mut second, frame.request_id, &["c"], Some("after c")).await;
                end(&mut second, frame.request_id, 1).await;
            }
            second
        };
        let local = client.with(CallOptions::new().consistency(Consistency::Local));
        let (rows, _second) = tokio::join!(local.scan(..).collect_rows(), script);
        if gone {
            assert_eq!(rows.expect_err("gone").code(), Some(ErrorCode::SNAPSHOT_GONE));
        } else {
            assert_eq!(rows.expect("all of them").len(), 3);
        }
    }
}

#[tokio::test]
async fn a_scan_is_opened_where_it_can_be() {
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |options| options.addresses.truncate(2));
    let (client, mut first) = a.connected().await;
    let script = async {
        let refusing = async {
            while let Some(frame) = first.frame_or_end().await {
                first.refuse(Opcode::Scan, frame.request_id, ErrorCode::UNAVAILABLE).await;
            }
        };
        let naming = async {
            let mut second = second_node(&mut b).await;
            let id = second.request(Opcode::Scan).await;
            second.redirect(Opcode::Scan, id, Some("c:1")).await;
            let mut third = c.accept_as(Welcomed::node(3, None)).await;
            let id = third.request(Opcode::Scan).await;
            chunk(&mut third, id, &["a"], None).await;
            end(&mut third, id, 1).await;
            (second, third)
        };
        tokio::join!(refusing, naming).1
    };
    let (rows, (mut second, _third)) = tokio::join!(client.scan(..).collect_rows(), script);
    assert_eq!(rows.expect("all of them").len(), 1);
    second.settled().await;
}
