//! Several servers: which of them is asked, and what becomes of a call when one of them fails.

use super::clock::Clock;
use super::peer::tags;
use super::{Listening, Peer, Welcomed};
use crate::client::link::Preference;
use crate::client::{CallOptions, Client, Error, ErrorKind, Isolation, Outcome, Retry};
use crate::types::Version;
use crate::wire::{ErrorCode, Kind, Notice, Opcode, WireError};
use std::time::Duration;

async fn put(client: &Client, peer: &mut Peer) {
    let script = async {
        let id = peer.request(Opcode::Put).await;
        peer.version(Opcode::Put, id, 1).await;
    };
    tokio::join!(client.put("k", "v"), script).0.expect("answered");
}

async fn get(client: &Client, peer: &mut Peer) {
    let script = async {
        let id = peer.request(Opcode::Get).await;
        peer.nothing(id, 1).await;
    };
    tokio::join!(client.get("k"), script).0.expect("answered");
}

/// A client whose reads go to the first server and whose writes to the second, which the first has named.
async fn following(near: &mut Listening, leader: &mut Listening) -> (Client, Peer, Peer) {
    let (client, mut first) = near.connected_as(Welcomed::node(1, Some("b:1"))).await;
    // It does not wait for the leader: any node forwards.
    put(&client, &mut first).await;
    let mut second = leader.accept_as(Welcomed::node(2, None)).await;
    second.settled().await;
    (client, first, second)
}

#[tokio::test]
async fn writes_go_to_the_node_that_leads_and_reads_stay() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    put(&client, &mut second).await;
    get(&client, &mut first).await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    second.request(Opcode::Begin).await;
    drop(tx);
    second.request(Opcode::Rollback).await;
    drop(client);
    first.closed().await;
    second.closed().await;
}

#[tokio::test]
async fn who_only_reads_needs_one_connection() {
    let [mut a, b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first) = a.connected_as(Welcomed::node(1, Some("b:1"))).await;
    get(&client, &mut first).await;
    first.settled().await;
    assert!(b.is_quiet());
}

#[tokio::test]
async fn a_leader_that_was_not_among_the_addresses_is_used() {
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |options| options.addresses = vec!["a:1".into()]);
    let (client, first, mut second) = following(&mut a, &mut b).await;
    second.notice(Notice::LEADER_CHANGED, Some("c:1")).await;
    let mut third = c.accept_as(Welcomed::node(3, None)).await;
    third.settled().await;
    put(&client, &mut third).await;
    // And it is one more address to go to, when the first is gone.
    a.close();
    drop(first);
    let mut near = tokio::select! {
        near = b.accept() => near,
        near = c.accept() => near,
    };
    near.settled().await;
    get(&client, &mut near).await;
}

#[tokio::test]
async fn a_notice_moves_writes_and_leaves_transactions_where_they_are() {
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    let begin = second.request(Opcode::Begin).await;
    second.version(Opcode::Begin, begin, 3).await;
    first.notice(Notice::LEADER_CHANGED, Some("c:1")).await;
    let mut third = c.accept_as(Welcomed::node(3, None)).await;
    third.settled().await;
    put(&client, &mut third).await;
    // The node that leads no more forwards the commit.
    second.settled().await;
    let script = async {
        let get = second.request(Opcode::Get).await;
        second.nothing(get, 3).await;
        let commit = second.request(Opcode::Commit).await;
        second.respond(Opcode::Commit, commit, |out| out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, 0, 0])).await;
    };
    let work = async {
        tx.get("k").await.expect("answered");
        tx.commit().await.expect("committed")
    };
    tokio::join!(work, script);
    second.closed().await;
}

#[tokio::test]
async fn a_refusal_that_names_the_leader_sends_the_write_there() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first) = a.connected().await;
    let script = async {
        let id = first.request(Opcode::Put).await;
        first.redirect(Opcode::Put, id, Some("b:1")).await;
        let mut second = b.accept_as(Welcomed::node(2, None)).await;
        let id = second.request(Opcode::Put).await;
        second.version(Opcode::Put, id, 7).await;
        (first, second)
    };
    let (answer, (mut first, _second)) = tokio::join!(client.put("k", "v"), script);
    assert_eq!(answer.expect("answered"), Version(7));
    first.settled().await;
}

#[tokio::test]
async fn a_leader_that_names_another_is_not_asked_twice() {
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |_| {});
    let (client, _first, mut second) = following(&mut a, &mut b).await;
    let script = async {
        let id = second.request(Opcode::Put).await;
        second.redirect(Opcode::Put, id, Some("c:1")).await;
        let mut third = c.accept_as(Welcomed::node(3, None)).await;
        let id = third.request(Opcode::Put).await;
        third.version(Opcode::Put, id, 7).await;
        assert!(second.frame_or_end().await.is_none());
        third
    };
    // On a task of its own it is awake before the one that follows the leader.
    let call = tokio::spawn(async move { client.put("k", "v").await });
    let (answer, _third) = tokio::join!(call, script);
    assert_eq!(answer.expect("it does not panic").expect("answered"), Version(7));
}

#[tokio::test]
async fn nodes_that_name_each_other_are_not_run_between_at_full_speed() {
    let clock = Clock::new();
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |options| {
        options.env = clock.env();
        options.keepalive = Duration::from_secs(3600);
    });
    let scripted = async {
        let (client, mut first) = a.connected_as(Welcomed::node(1, Some("b:1"))).await;
        put(&client, &mut first).await;
        let began = clock.now();
        for _ in 0..10 {
            b.accept_as(Welcomed::node(2, Some("c:1"))).await.closed().await;
            c.accept_as(Welcomed::node(3, Some("b:1"))).await.closed().await;
        }
        assert!(clock.now() - began > Duration::from_secs(10));
        put(&client, &mut first).await;
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_is_done_without() {
    let [mut a] = Listening::at(["a:1"], |_| {});
    let (client, mut first) = a.connected().await;
    let script = async {
        for _ in 0..3 {
            let id = first.request(Opcode::Put).await;
            first.redirect(Opcode::Put, id, Some("gone:1")).await;
        }
        let id = first.request(Opcode::Put).await;
        first.version(Opcode::Put, id, 7).await;
        first
    };
    let (answer, mut first) = tokio::join!(client.put("k", "v"), script);
    assert_eq!(answer.expect("it was forwarded"), Version(7));
    put(&client, &mut first).await;
}

#[tokio::test]
async fn when_the_leader_is_lost_writes_go_where_reads_go() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    b.close();
    let script = async {
        second.request(Opcode::Put).await;
        drop(second);
        let frame = first.request_frame(Opcode::Put).await;
        assert!(tags(&frame).retry_mark);
        first.version(Opcode::Put, frame.request_id, 4).await;
        first
    };
    let exactly_once = client.with(CallOptions::new().idempotent());
    let (answer, mut first) = tokio::join!(exactly_once.put("k", "v"), script);
    assert_eq!(answer.expect("answered"), Version(4));
    put(&client, &mut first).await;
}

#[tokio::test]
async fn when_the_near_node_is_lost_reads_go_to_the_leader_until_another_answers() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    let script = async {
        first.request(Opcode::Get).await;
        drop(first);
        let id = second.request(Opcode::Get).await;
        second.nothing(id, 2).await;
        // The lost one is there again.
        let mut first = a.accept_as(Welcomed::node(1, Some("b:1"))).await;
        first.settled().await;
        (first, second)
    };
    let (answer, (mut first, mut second)) = tokio::join!(client.get("k"), script);
    answer.expect("answered");
    get(&client, &mut first).await;
    put(&client, &mut second).await;
}

#[tokio::test]
async fn a_leader_by_another_name_is_the_node_that_is_there() {
    let [mut a, mut alias] = Listening::at(["a:1", "alias:1"], |options| options.addresses = vec!["a:1".into()]);
    let (client, mut first) = a.connected_as(Welcomed::node(1, None)).await;
    first.notice(Notice::LEADER_CHANGED, Some("alias:1")).await;
    first.settled().await;
    put(&client, &mut first).await;
    let mut same = alias.accept_as(Welcomed::node(1, None)).await;
    same.closed().await;
    put(&client, &mut first).await;
    assert!(alias.is_quiet());
}

#[tokio::test]
async fn two_connections_to_one_node_become_one() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, first, mut second) = following(&mut a, &mut b).await;
    a.close();
    drop(first);
    let mut near = b.accept_as(Welcomed::node(2, None)).await;
    second.closed().await;
    put(&client, &mut near).await;
    get(&client, &mut near).await;
}

#[tokio::test]
async fn a_node_that_can_do_nothing_is_left_for_another() {
    for leaderless in [false, true] {
        let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
        let (client, mut first) = a.connected().await;
        let script = async {
            // It is asked until the other one answers.
            let refusing = async {
                while let Some(frame) = first.frame_or_end().await {
                    if leaderless {
                        first.redirect(Opcode::Get, frame.request_id, None).await;
                    } else {
                        first.refuse(Opcode::Get, frame.request_id, ErrorCode::UNAVAILABLE).await;
                    }
                }
            };
            let answering = async {
                let mut peer = b.accept_as(Welcomed::node(2, None)).await;
                let id = peer.request(Opcode::Get).await;
                peer.nothing(id, 5).await;
                peer
            };
            tokio::join!(refusing, answering).1
        };
        let (answer, _second) = tokio::join!(client.get("k"), script);
        answer.expect("answered");
    }
}

#[tokio::test]
async fn a_doubt_about_a_connection_that_was_left_moves_nobody() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first) = a.connected().await;
    let link = client.link();
    let left = link.connection(Preference::Near, link.deadline(&CallOptions::new())).await.expect("open");
    // It was doubted, and has said goodbye by itself before anybody could act on that.
    first.goaway(ErrorCode::SHUTTING_DOWN, 0).await;
    link.doubt(&left);
    let mut second = b.accept_as(Welcomed::node(2, None)).await;
    second.settled().await;
    link.doubt(&left);
    second.settled().await;
    get(&client, &mut second).await;
    second.settled().await;
    assert!(a.is_quiet());
}

#[tokio::test]
async fn a_node_that_shuts_down_gives_way_before_it_closes() {
    let [mut a, mut b, mut c] = Listening::at(["a:1", "b:1", "c:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    second.notice(Notice::SHUTTING_DOWN, None).await;
    second.closed().await;
    put(&client, &mut first).await;
    assert!(b.is_quiet(), "nobody comes back to it");
    first.notice(Notice::SHUTTING_DOWN, None).await;
    b.close();
    let mut near = c.accept_as(Welcomed::node(3, None)).await;
    first.closed().await;
    put(&client, &mut near).await;
}

#[tokio::test]
async fn an_address_that_says_nothing_holds_up_nobody() {
    let clock = Clock::new();
    let [mut silent, mut b] = Listening::at(["silent:1", "b:1"], |options| options.env = clock.env());
    let options = silent.options();
    let began = clock.now();
    let scripted = async {
        let (client, _never, mut peer) =
            tokio::join!(Client::connect(options), silent.accept_raw(), b.accept_as(Welcomed::node(2, None)));
        get(&client.expect("the second answers"), &mut peer).await;
    };
    clock.run(scripted).await;
    assert!(clock.now() - began < Duration::from_secs(1));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_while_there_is_time_to_ask_another() {
    let clock = Clock::new();
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut first) = a.connected().await;
        a.close();
        let script = async {
            first.request(Opcode::Get).await;
            first.frame_of(Kind::Ping).await;
            let mut second = b.accept_as(Welcomed::node(2, None)).await;
            let id = second.request(Opcode::Get).await;
            second.nothing(id, 2).await;
            second
        };
        let began = clock.now();
        let (answer, _second) = tokio::join!(client.get("k"), script);
        answer.expect("answered");
        assert!(clock.now() - began < Duration::from_secs(6));
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn a_node_that_lets_deadlines_pass_is_left_for_another() {
    let clock = Clock::new();
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut first) = a.connected().await;
        let script = async {
            first.request(Opcode::Get).await;
            // It lives, and gets nothing done.
            let pings = async {
                loop {
                    let frame = first.frame().await;
                    if frame.kind == Kind::Ping {
                        first.send(Kind::Pong, 0, 0, |out| out.extend_from_slice(&frame.payload)).await;
                    }
                }
            };
            tokio::select! {
                () = pings => unreachable!("it echoes for ever"),
                second = b.accept_as(Welcomed::node(2, None)) => second,
            }
        };
        let (answer, mut second) = tokio::join!(client.get("k"), script);
        assert_eq!(answer.expect_err("late").kind(), ErrorKind::DeadlinePassed);
        second.settled().await;
        get(&client, &mut second).await;
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn the_servers_word_on_when_to_come_back_is_kept_and_the_deadline_too() {
    let clock = Clock::new();
    let [mut a] = Listening::at(["a:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut peer) = a.connected().await;
        let began = clock.now();
        let mut error = WireError::new(ErrorCode::OVERLOADED);
        error.retry_after_ms = 3_000;
        let script = async {
            for attempt in 0..4 {
                let id = peer.request(Opcode::Put).await;
                assert!(clock.now() - began >= Duration::from_secs(3 * attempt), "attempt {attempt}");
                peer.refuse_with(Opcode::Put, id, &error).await;
            }
        };
        let (answer, ()) = tokio::join!(client.put("k", "v"), script);
        // A fifth would come too late, so that nobody waits for it.
        let error = answer.expect_err("refused to the end");
        assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::OVERLOADED), Outcome::NotApplied));
        assert!(clock.now() - began < Duration::from_secs(10));
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn pauses_grow_until_the_deadline_and_then_the_last_error_is_told() {
    let clock = Clock::new();
    let [mut a] = Listening::at(["a:1"], |options| options.env = clock.env());
    let scripted = async {
        let (client, mut peer) = a.connected().await;
        let began = clock.now();
        let mut attempts = 0;
        let refusing = async {
            loop {
                let id = peer.request(Opcode::Put).await;
                peer.refuse(Opcode::Put, id, ErrorCode::UNAVAILABLE).await;
                attempts += 1;
            }
        };
        let answer = tokio::select! {
            answer = client.put("k", "v") => answer,
            () = refusing => unreachable!("it refuses for ever"),
        };
        let error = answer.expect_err("refused to the end");
        assert_eq!((error.code(), error.retry()), (Some(ErrorCode::UNAVAILABLE), Retry::Backoff));
        let took = clock.now() - began;
        assert!((Duration::from_secs(9)..Duration::from_secs(10)).contains(&took), "{took:?}");
        assert!((20..80).contains(&attempts), "{attempts} attempts");
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn a_keyless_write_of_unknown_outcome_is_never_sent_again() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut first, mut second) = following(&mut a, &mut b).await;
    let script = async {
        let id = second.request(Opcode::Put).await;
        second.refuse(Opcode::Put, id, ErrorCode::OUTCOME_UNKNOWN).await;
    };
    let (answer, ()): (Result<Version, Error>, ()) = tokio::join!(client.put("k", "v"), script);
    let error = answer.expect_err("nobody knows");
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
    first.settled().await;
    second.settled().await;
}

#[tokio::test]
async fn an_idempotent_write_gets_a_pair_and_another_if_that_is_too_old() {
    let [mut a] = Listening::at(["a:1"], |_| {});
    let (client, mut peer) = a.connected().await;
    let exactly_once = client.with(CallOptions::new().idempotent());
    let script = async {
        let id = peer.request(Opcode::ReadVersion).await;
        peer.version(Opcode::ReadVersion, id, 5).await;
        let frame = peer.request_frame(Opcode::Atomic).await;
        let old = tags(&frame).idempotency.expect("a pair");
        assert_eq!(old.seen, Version(5));
        peer.refuse(Opcode::Atomic, frame.request_id, ErrorCode::KEY_EXPIRED).await;
        let id = peer.request(Opcode::ReadVersion).await;
        peer.version(Opcode::ReadVersion, id, 900).await;
        let frame = peer.request_frame(Opcode::Atomic).await;
        let new = tags(&frame).idempotency.expect("a pair");
        assert_eq!((new.seen, tags(&frame).retry_mark), (Version(900), false));
        assert_ne!(new.key, old.key);
        // Once it may have been done, an old pair tells nothing.
        let unknown = WireError::new(ErrorCode::KEY_EXPIRED).with_outcome(Outcome::Unknown);
        peer.refuse_with(Opcode::Atomic, frame.request_id, &unknown).await;
    };
    let (answer, ()) = tokio::join!(exactly_once.add("n", 1), script);
    let error = answer.expect_err("expired");
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::KEY_EXPIRED), Outcome::Unknown));
    peer.settled().await;
}

#[tokio::test]
async fn each_idempotent_write_has_a_pair_of_its_own() {
    let [mut a] = Listening::at(["a:1"], |_| {});
    let (client, mut peer) = a.connected().await;
    get(&client, &mut peer).await;
    let exactly_once = client.with(CallOptions::new().idempotent());
    let script = async {
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let frame = peer.request_frame(Opcode::Delete).await;
            pairs.push(tags(&frame).idempotency.expect("a pair"));
            peer.version(Opcode::Delete, frame.request_id, 2).await;
        }
        pairs
    };
    let calls = async {
        exactly_once.delete("a").await.expect("answered");
        exactly_once.delete("b").await.expect("answered");
    };
    let ((), pairs) = tokio::join!(calls, script);
    assert_ne!(pairs[0].key, pairs[1].key);
}
