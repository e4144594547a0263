use super::peer::tags;
use super::{Listening, Peer};
use crate::client::{Client, ClusterMember, ErrorKind, MemberProgress, NodeId, Outcome, Retry, Term, Version};
use crate::wire::{
    self, ClusterAddReply, ClusterStatusReply, ErrorCode, Kind, ListBuf, Opcode, Request, RequestBody, VersionReply,
    WireError,
};
use std::time::Duration;

/// Answers a request with this body; fails if another comes.
async fn answer(peer: &mut Peer, wanted: RequestBody<'_>, reply: impl FnOnce(&mut bytes::BytesMut)) {
    let frame = peer.request_frame(Request::new(wanted).opcode()).await;
    let request = Request::decode(frame.opcode, &frame.payload).expect("the client sends whole requests");
    assert_eq!(request.body, wanted);
    peer.send(Kind::Response, frame.opcode, frame.request_id, reply).await;
}

#[tokio::test]
async fn a_status_tells_who_is_known_to_have_come_how_far() {
    let (client, mut peer) = Listening::new().connected().await;
    let told = wire::ClusterMember {
        node: NodeId(1),
        voter: true,
        peer_address: "n1:7421",
        client_address: "n1:7420",
        known: true,
        matched: 42,
        lag: 3,
        contact_ms: 15,
        version: Version(77),
        chain: 9,
        level: 1,
    };
    let never = wire::ClusterMember { node: NodeId(2), contact_ms: wire::ClusterMember::NEVER, ..told };
    let unknown = wire::ClusterMember { node: NodeId(3), voter: false, known: false, ..told };
    let mut members = ListBuf::new();
    [told, never, unknown].iter().for_each(|member| members.push(member));
    let reply = |leader| ClusterStatusReply {
        version: Version(78),
        leader: NodeId(leader),
        term: Term(4),
        members: members.as_list(),
    };
    let script = answer(&mut peer, RequestBody::ClusterStatus, |out| reply(1).encode(out));
    let cluster = client.cluster();
    let (status, ()) = tokio::join!(cluster.status(), script);
    let status = status.expect("answered");
    assert_eq!((status.version, status.leader, status.term), (Version(78), Some(NodeId(1)), Term(4)));
    let progress = MemberProgress {
        matched: 42,
        lag: 3,
        last_contact: Some(Duration::from_millis(15)),
        version: Version(77),
        chain: 9,
        level: 1,
    };
    let member = |node, voter, progress| ClusterMember {
        node: NodeId(node),
        voter,
        peer_address: "n1:7421".into(),
        client_address: "n1:7420".into(),
        progress,
    };
    let silent = MemberProgress { last_contact: None, ..progress };
    let wanted = [member(1, true, Some(progress)), member(2, true, Some(silent)), member(3, false, None)];
    assert_eq!(status.members, wanted);
    let script = answer(&mut peer, RequestBody::ClusterStatus, |out| reply(0).encode(out));
    let (status, ()) = tokio::join!(cluster.status(), script);
    assert_eq!(status.expect("answered").leader, None);
}

async fn connected() -> (Client, Peer) {
    Listening::new().connected().await
}

#[tokio::test]
async fn changes_name_their_node_and_give_the_version_that_made_them() {
    let (client, mut peer) = connected().await;
    let cluster = client.cluster();
    let version = |version| move |out: &mut bytes::BytesMut| VersionReply { version: Version(version) }.encode(out);
    let node = NodeId(3);
    let script = answer(&mut peer, RequestBody::ClusterRemove { node }, version(5));
    let (done, ()) = tokio::join!(cluster.remove(node), script);
    assert_eq!(done.expect("answered"), Version(5));
    let script = answer(&mut peer, RequestBody::ClusterTransfer { node }, version(6));
    let (done, ()) = tokio::join!(cluster.transfer(Some(node)), script);
    assert_eq!(done.expect("answered"), Version(6));
    let script = answer(&mut peer, RequestBody::ClusterTransfer { node: NodeId(0) }, version(7));
    let (done, ()) = tokio::join!(cluster.transfer(None), script);
    assert_eq!(done.expect("answered"), Version(7));
    let script = answer(&mut peer, RequestBody::ClusterPromote { node }, version(8));
    let (done, ()) = tokio::join!(cluster.promote(node), script);
    assert_eq!(done.expect("answered"), Version(8));
    let reply = ClusterAddReply { version: Version(9), node: NodeId(4) };
    let script = answer(&mut peer, RequestBody::ClusterAdd { peer_address: "n4:7421" }, |out| reply.encode(out));
    let (added, ()) = tokio::join!(cluster.add("n4:7421"), script);
    let added = added.expect("answered");
    assert_eq!((added.version, added.node), (Version(9), NodeId(4)));
    assert_eq!(client.seen_version(), Version(9));
    for address in ["", &"a".repeat(256)] {
        assert_eq!(cluster.add(address).await.expect_err("no address").code(), Some(ErrorCode::MALFORMED));
    }
}

#[tokio::test]
async fn a_refused_change_says_what_is_missing_and_one_that_was_lost_is_not_made_again() {
    let (client, mut peer) = connected().await;
    let cluster = client.cluster();
    let script = async {
        let id = peer.request(Opcode::ClusterRemove).await;
        let error = WireError::new(ErrorCode::QUORUM_AT_RISK).with_bound(2, 1);
        peer.send(Kind::Error, Opcode::ClusterRemove.number(), id, |out| error.encode(out)).await;
    };
    let (refused, ()) = tokio::join!(cluster.remove(NodeId(2)), script);
    let error = refused.expect_err("refused");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Refused, Outcome::NotApplied));
    assert_eq!((error.limit(), error.actual()), (Some(2), Some(1)));
    let script = async move {
        let frame = peer.request_frame(Opcode::ClusterRemove).await;
        assert!(tags(&frame).deadline_ms.is_some());
        drop(peer);
    };
    let (lost, ()) = tokio::join!(cluster.remove(NodeId(2)), script);
    let error = lost.expect_err("lost");
    assert_eq!((error.outcome(), error.retry()), (Outcome::Unknown, Retry::Never));
}
