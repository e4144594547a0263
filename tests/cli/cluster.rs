//! `quantactl cluster`, against a server that follows a script: what a cluster would answer.

use crate::examples::{examples, shell};
use crate::programs::{Ended, QUANTACTL, Server, ended, piped, run};
use bytes::BytesMut;
use quantadb::types::limits::FRAME_PAYLOAD_BYTES_MAX;
use quantadb::types::{ClusterId, NodeId, Term, Version};
use quantadb::wire::preface::{PREFACE, PREFACE_BYTES};
use quantadb::wire::{
    ClusterAddReply, ClusterMember, ClusterStatusReply, Codec, ErrorCode, Kind, List, ListBuf, Request, RequestBody,
    VersionReply, Welcome, WireError, put_frame,
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};
use tokio_util::codec::Decoder;

type Answer = Result<BytesMut, WireError>;

/// Runs a program against a server that takes one connection and answers every request like this.
fn against(answer: fn(&RequestBody<'_>) -> Answer, client: impl FnOnce(&str) -> Ended) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = thread::spawn(move || serve(listener.accept().expect("somebody connects").0, answer));
    let ended = client(&address);
    server.join().expect("the script holds");
    ended
}

fn serve(mut socket: TcpStream, answer: fn(&RequestBody<'_>) -> Answer) {
    let mut preface = [0; PREFACE_BYTES];
    socket.read_exact(&mut preface).expect("the client begins");
    assert_eq!(preface, PREFACE);
    let (mut codec, mut arrived, mut part) = (Codec::new(FRAME_PAYLOAD_BYTES_MAX), BytesMut::new(), [0; 4096]);
    loop {
        let mut out = BytesMut::new();
        while let Some(frame) = codec.decode(&mut arrived).expect("the client sends frames") {
            match frame.kind {
                Kind::Hello => {
                    out.extend_from_slice(&PREFACE);
                    put_frame(&mut out, Kind::Welcome, 0, 0, 0, |out| welcome().encode(out));
                }
                Kind::Request => {
                    let request = Request::decode(frame.opcode, &frame.payload).expect("whole requests");
                    let (kind, payload) = match answer(&request.body) {
                        Ok(payload) => (Kind::Response, payload),
                        Err(error) => (Kind::Error, written(|out| error.encode(out))),
                    };
                    put_frame(&mut out, kind, 0, frame.opcode, frame.request_id, |out| out.extend_from_slice(&payload));
                }
                _ => {}
            }
        }
        if socket.write_all(&out).is_err() {
            return;
        }
        match socket.read(&mut part) {
            Ok(0) | Err(_) => return,
            Ok(read) => arrived.extend_from_slice(&part[..read]),
        }
    }
}

fn welcome() -> Welcome<'static> {
    Welcome {
        version: 1,
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        session: 1,
        server_name: "scripted/1",
        features: List::EMPTY,
        mechanisms: List::EMPTY,
        limits: List::EMPTY,
        leader: None,
    }
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    write(&mut out);
    out
}

/// A cluster of two voters and a learner of which little is known.
fn three(body: &RequestBody<'_>) -> Answer {
    let version = |version| Ok(written(|out| VersionReply { version: Version(version) }.encode(out)));
    match body {
        RequestBody::ClusterStatus => {
            let leader = ClusterMember {
                node: NodeId(1),
                voter: true,
                peer_address: "n1:7421",
                client_address: "n1:7420",
                known: true,
                matched: 42,
                lag: 0,
                contact_ms: 0,
                version: Version(77),
                chain: 0xab,
                level: 1,
            };
            let follower = ClusterMember {
                node: NodeId(2),
                peer_address: "n2:7421",
                client_address: "n2:7420",
                matched: 40,
                lag: 2,
                contact_ms: ClusterMember::NEVER,
                ..leader
            };
            let learner = ClusterMember { node: NodeId(3), voter: false, known: false, ..leader };
            let mut members = ListBuf::new();
            [leader, follower, learner].iter().for_each(|member| members.push(member));
            let status = ClusterStatusReply {
                version: Version(77),
                leader: NodeId(1),
                term: Term(3),
                members: members.as_list(),
            };
            Ok(written(|out| status.encode(out)))
        }
        RequestBody::ClusterAdd { peer_address } => {
            assert_eq!(*peer_address, "10.0.0.4:7421");
            Ok(written(|out| ClusterAddReply { version: Version(80), node: NodeId(4) }.encode(out)))
        }
        RequestBody::ClusterRemove { node: NodeId(3) } => version(81),
        RequestBody::ClusterRemove { node: NodeId(2) } => {
            Err(WireError::new(ErrorCode::QUORUM_AT_RISK).with_bound(2, 1))
        }
        RequestBody::ClusterTransfer { node: NodeId(0 | 2) } => version(82),
        RequestBody::ClusterPromote { node: NodeId(4) } => version(83),
        RequestBody::ClusterRemove { .. } | RequestBody::ClusterPromote { .. } => {
            Err(WireError::new(ErrorCode::UNKNOWN_NODE))
        }
        other => panic!("nobody asked for {other:?}"),
    }
}

fn ctl(words: &[&str]) -> Ended {
    against(three, |address| run(QUANTACTL, &[&["--addr", address, "cluster"], words].concat(), b""))
}

#[test]
fn the_status_of_a_cluster_is_a_table() {
    ctl(&["status"]).prints(
        "leader 1, term 3, version 77\n\
         NODE  ROLE     LEADER  PEER     CLIENT   MATCH  LAG  LAST CONTACT  VERSION  CHAIN             LEVEL\n\
         1     voter    yes     n1:7421  n1:7420  42     0    0 ms          77       00000000000000ab  1\n\
         2     voter    no      n2:7421  n2:7420  40     2    never         77       00000000000000ab  1\n\
         3     learner  no      n1:7421  n1:7420  -      -    -             -        -                 -\n",
    );
    let raw = ctl(&["status", "--output", "raw"]).code(0);
    assert_eq!(
        raw.text().lines().next(),
        Some("1\tvoter\tyes\tn1:7421\tn1:7420\t42\t0\t0 ms\t77\t00000000000000ab\t1")
    );
}

#[test]
fn the_status_of_a_cluster_is_json_for_programs() {
    let status = ctl(&["--output", "json", "status"]).code(0);
    let status: serde_json::Value = serde_json::from_str(status.text()).expect("it is JSON");
    let member = |node: u64, role: &str, leader: bool, progress: serde_json::Value| {
        let own = if node == 2 { "n2" } else { "n1" };
        let mut member = serde_json::json!({
            "node": node, "role": role, "leader": leader,
            "peer_address": format!("{own}:7421"), "client_address": format!("{own}:7420"),
        });
        let (member_fields, progress) = (member.as_object_mut().expect("it is one"), progress);
        member_fields.extend(progress.as_object().expect("it is one").clone());
        member
    };
    let progress = |matched: u64, lag: u64, contact: Option<u64>| {
        serde_json::json!({"match": matched, "lag": lag, "last_contact_ms": contact, "version": 77,
                           "chain": "00000000000000ab", "level": 1})
    };
    let unknown = serde_json::json!({"match": null, "lag": null, "last_contact_ms": null, "version": null,
                                     "chain": null, "level": null});
    let members = [
        member(1, "voter", true, progress(42, 0, Some(0))),
        member(2, "voter", false, progress(40, 2, None)),
        member(3, "learner", false, unknown),
    ];
    assert_eq!(status, serde_json::json!({"leader": 1, "term": 3, "version": 77, "members": members}));
}

#[test]
fn changes_of_a_cluster_tell_the_version_that_made_them() {
    ctl(&["add", "10.0.0.4:7421"]).prints("node 4, version 80\n");
    ctl(&["add", "10.0.0.4:7421", "--output", "json"]).prints("{\"node\":4,\"version\":80}\n");
    ctl(&["add", "10.0.0.4:7421", "--output", "raw"]).prints("4\n");
    ctl(&["remove", "3"]).prints("version 81\n");
    ctl(&["transfer"]).prints("version 82\n");
    ctl(&["transfer", "2"]).prints("version 82\n");
    ctl(&["promote", "4", "--output", "json"]).prints("{\"version\":83}\n");
}

#[test]
fn a_change_of_a_cluster_that_is_refused_is_exit_code_three() {
    ctl(&["remove", "2"]).fails(3, &["QUORUM_AT_RISK", "limit 2", "actual 1"]);
    ctl(&["remove", "9"]).fails(3, &["UNKNOWN_NODE"]);
    ctl(&["promote", "9"]).fails(3, &["UNKNOWN_NODE"]);
}

#[test]
fn a_change_of_a_cluster_without_an_answer_is_exit_code_five() {
    let silent = |_: &RequestBody<'_>| -> Answer { Err(WireError::new(ErrorCode::OUTCOME_UNKNOWN)) };
    let removed = against(silent, |address| run(QUANTACTL, &["--addr", address, "cluster", "remove", "3"], b""));
    removed.fails(5, &["OUTCOME_UNKNOWN"]);
}

#[test]
fn a_server_that_is_of_no_cluster_says_so() {
    let server = Server::start(&[]);
    server.ctl(&["cluster", "status"]).fails(3, &["UNSUPPORTED", "no cluster"]);
    server.ctl(&["cluster", "remove", "2"]).fails(3, &["UNSUPPORTED"]);
}

#[test]
fn wrong_arguments_for_a_cluster_are_exit_code_two() {
    let ctl = |words: &[&str]| run(QUANTACTL, &[&["cluster"], words].concat(), b"");
    ctl(&[]).fails(2, &["quantactl --help"]);
    ctl(&["dance"]).fails(2, &["dance"]);
    ctl(&["remove"]).fails(2, &["node"]);
    ctl(&["remove", "n3"]).fails(2, &["n3"]);
    ctl(&["promote", "-1"]).fails(2, &["-1"]);
    assert!(ctl(&["--help"]).code(0).text().contains("transfer"));
}

#[test]
fn the_examples_of_the_cluster_work() {
    let commands = ["status", "add", "remove", "transfer", "promote"].map(|command| vec!["cluster", command]);
    for words in std::iter::once(vec!["cluster"]).chain(commands) {
        for line in examples(QUANTACTL, &words) {
            let ended = against(three, |address| {
                let mut command = shell("quantactl", QUANTACTL, &format!("--addr {address}"), &line);
                ended(piped(&mut command))
            });
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line}");
        }
    }
}
