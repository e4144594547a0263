//! What a client has seen, on whatever node, is not taken back by a read that is content with less than the newest.

use super::peer::tags;
use super::scans::{chunk, end};
use super::transactions::committed;
use super::{Listening, Peer, Welcomed};
use crate::client::{CallOptions, Client, Consistency, Error, Isolation, TransactOptions};
use crate::types::Version;
use crate::wire::{BackupEnd, Frame, GetManyReply, Kind, ListBuf, Opcode};

const BOUNDED: Consistency = Consistency::BoundedStaleness { staleness_ms_max: 500 };

/// What a request asks for: how fresh, and which version at least.
fn asked(frame: &Frame) -> (Option<Consistency>, Option<Version>) {
    (tags(frame).consistency, tags(frame).min_version)
}

/// A client that has written version 9 at the leader, and the node that its reads go to.
async fn written_elsewhere(near: &mut Listening, leader: &mut Listening) -> (Client, Peer, Peer) {
    let (client, mut first) = near.connected_as(Welcomed::node(1, Some("b:1"))).await;
    let script = async {
        let id = first.request(Opcode::Put).await;
        first.redirect(Opcode::Put, id, Some("b:1")).await;
        let mut second = leader.accept_as(Welcomed::node(2, None)).await;
        let id = second.request(Opcode::Put).await;
        second.version(Opcode::Put, id, 9).await;
        second
    };
    let (put, second) = tokio::join!(client.put("k", "v"), script);
    assert_eq!(put.expect("answered"), Version(9));
    (client, first, second)
}

/// Makes every kind of read with these options, and tells what each of them asked for.
async fn every_read(
    client: &Client,
    peer: &mut Peer,
    options: CallOptions,
) -> Vec<(Option<Consistency>, Option<Version>)> {
    let keyspace = client.with(options);
    let calls = async {
        keyspace.get("k").await.expect("answered");
        keyspace.get_many(&["k"]).await.expect("answered");
        keyspace.scan(..).collect_rows().await.expect("answered");
        keyspace.count(..).await.expect("answered");
        client.read_version_with(&options).await.expect("answered");
        let mut backup = client.backup_with(options);
        assert!(backup.next().await.is_none());
        assert!(backup.summary().is_some());
    };
    let script = async {
        let mut all = Vec::new();
        let frame = peer.request_frame(Opcode::Get).await;
        all.push(asked(&frame));
        peer.nothing(frame.request_id, 9).await;
        let frame = peer.request_frame(Opcode::GetMany).await;
        all.push(asked(&frame));
        let mut answered = ListBuf::new();
        answered.push(&None::<crate::wire::Found<'_>>);
        let reply = GetManyReply { version: Version(9), answered: answered.as_list() };
        peer.respond(Opcode::GetMany, frame.request_id, |out| reply.encode(out)).await;
        for _ in 0..2 {
            let frame = peer.request_frame(Opcode::Scan).await;
            all.push(asked(&frame));
            end(peer, frame.request_id, 0).await;
        }
        let frame = peer.request_frame(Opcode::ReadVersion).await;
        all.push(asked(&frame));
        peer.version(Opcode::ReadVersion, frame.request_id, 9).await;
        let frame = peer.request_frame(Opcode::Backup).await;
        all.push(asked(&frame));
        let told = BackupEnd { version: Version(9), rows: 0, bytes: 0, clock_ms: 1 };
        peer.send(Kind::End, Opcode::Backup.number(), frame.request_id, |out| told.encode(out)).await;
        all
    };
    tokio::join!(calls, script).1
}

#[tokio::test]
async fn reads_that_need_not_be_fresh_ask_for_what_was_seen_on_another_node() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut near, _leader) = written_elsewhere(&mut a, &mut b).await;
    for consistency in [Consistency::Local, BOUNDED] {
        let options = CallOptions::new().consistency(consistency);
        let expected = (Some(consistency), Some(Version(9)));
        assert_eq!(every_read(&client, &mut near, options).await, [expected; 6]);
        let newer = options.min_version(Version(12));
        assert_eq!(every_read(&client, &mut near, newer).await, [(Some(consistency), Some(Version(12))); 6]);
        let older = options.min_version(Version(3));
        assert_eq!(every_read(&client, &mut near, older).await, [expected; 6]);
    }
    // What shows everything that was acknowledged needs no such word.
    assert_eq!(every_read(&client, &mut near, CallOptions::new()).await, [(None, None); 6]);
}

#[tokio::test]
async fn a_client_that_has_seen_nothing_asks_for_nothing() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let local = client.with(CallOptions::new().consistency(Consistency::Local));
    let script = async {
        let frame = peer.request_frame(Opcode::Get).await;
        assert_eq!(asked(&frame), (Some(Consistency::Local), None));
        peer.nothing(frame.request_id, 0).await;
    };
    tokio::join!(local.get("k"), script).0.expect("answered");
}

#[tokio::test]
async fn a_transaction_that_need_not_be_fresh_begins_where_reads_go() {
    let [mut a, mut b] = Listening::at(["a:1", "b:1"], |_| {});
    let (client, mut near, mut leader) = written_elsewhere(&mut a, &mut b).await;
    let local = CallOptions::new().consistency(Consistency::Local);
    let tx = client.begin_with(Isolation::Serializable, &local).await.expect("queued");
    let begin = near.request_frame(Opcode::Begin).await;
    assert_eq!(asked(&begin), (Some(Consistency::Local), Some(Version(9))));
    let get = tokio::join!(tx.get("k"), async {
        let get = near.request_frame(Opcode::Get).await;
        assert_eq!(asked(&get), (None, None), "the transaction says it");
        near.nothing(get.request_id, 11).await;
    });
    get.0.expect("answered");
    assert_eq!(client.seen_version(), Version(11), "what a transaction has read was seen");
    drop(tx);
    near.request(Opcode::Rollback).await;
    let fresh = client.begin_with(Isolation::Serializable, &CallOptions::new()).await.expect("queued");
    assert_eq!(asked(&leader.request_frame(Opcode::Begin).await), (None, None));
    drop(fresh);
    leader.request(Opcode::Rollback).await;

    let script = async {
        let begin = near.request_frame(Opcode::Begin).await;
        assert_eq!(asked(&begin), (Some(BOUNDED), Some(Version(11))));
        let commit = near.request(Opcode::Commit).await;
        committed(&mut near, commit, 11).await;
    };
    let options = TransactOptions { consistency: BOUNDED, ..TransactOptions::default() };
    let transact = client.transact_with(options, |_| async { Ok::<_, Error>(()) });
    tokio::join!(transact, script).0.expect("committed");
}

#[tokio::test]
async fn rows_of_a_scan_that_has_not_ended_were_seen() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let mut scan = client.scan(..);
    let (row, ()) = tokio::join!(scan.next(), async {
        let id = peer.request(Opcode::Scan).await;
        chunk(&mut peer, id, &["a"], None).await;
    });
    assert_eq!(row.expect("a row").expect("a row").version, client.seen_version());
    assert_eq!(client.seen_version(), Version(1));
}
