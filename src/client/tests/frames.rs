use super::peer::tags;
use super::{Listening, Peer, Welcomed};
use crate::client::{CallOptions, Client, ErrorKind};
use crate::types::Version;
use crate::wire::{ErrorCode, Kind, Notice, Opcode, Ping, VersionReply};
use bytes::{BufMut, BytesMut};
use std::time::Duration;

/// What breaks the protocol ends the connection; the read is made again on the next one.
async fn is_a_breach(breach: impl AsyncFnOnce(&mut Peer, u64)) {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let id = first.request(Opcode::Get).await;
        breach(&mut first, id).await;
        let mut second = listening.accept().await;
        first.closed().await;
        let id = second.request(Opcode::Get).await;
        second.nothing(id, 1).await;
        second
    };
    let (answer, _peer) = tokio::join!(client.get("k"), script);
    answer.expect("answered in the end");
}

#[tokio::test]
async fn what_no_server_may_send_ends_the_connection() {
    is_a_breach(async |peer, id| peer.nothing(id + 1, 1).await).await;
    is_a_breach(async |peer, id| peer.version(Opcode::Put, id, 1).await).await;
    is_a_breach(async |peer, id| peer.send(Kind::Chunk, Opcode::Get.number(), id, |out| out.put_u32(0)).await).await;
    is_a_breach(async |peer, id| peer.send(Kind::Chunk, Opcode::Scan.number(), id, |out| out.put_u32(0)).await).await;
    is_a_breach(async |peer, id| peer.send(Kind::Request, 0x10, id, |_| {}).await).await;
    is_a_breach(async |peer, _| peer.send(Kind::Hello, 0, 0, |_| {}).await).await;
    is_a_breach(async |peer, _| peer.send(Kind::Pong, 0, 0, |out| out.put_u64(1)).await).await;
    is_a_breach(async |peer, _| peer.send(Kind::Ping, 0, 0, |_| {}).await).await;
    is_a_breach(async |peer, id| peer.send(Kind::Error, Opcode::Get.number(), id, |_| {}).await).await;
    is_a_breach(async |peer, _| peer.send(Kind::Goaway, 0, 0, |_| {}).await).await;
    is_a_breach(async |peer, _| peer.send(Kind::Notice, 0, 0, |_| {}).await).await;
    is_a_breach(async |peer, _| peer.raw(&[0xff; 64]).await).await;
}

#[tokio::test]
async fn what_is_not_known_is_ignored() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let id = peer.request(Opcode::Get).await;
        peer.send(Kind::Other(0x9a), 0, 0, |out| out.put_slice(b"whatever")).await;
        peer.send(Kind::Notice, 0, 0, |out| Notice { code: 99, leader: None }.encode(out)).await;
        peer.nothing(id, 1).await;
    };
    let (answer, ()) = tokio::join!(client.get("k"), script);
    answer.expect("answered");
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_is_an_error_of_its_call_alone() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let id = peer.request(Opcode::Get).await;
        peer.respond(Opcode::Get, id, |out| out.put_u8(1)).await;
        let id = peer.request(Opcode::GetMany).await;
        peer.respond(Opcode::GetMany, id, |out| {
            out.put_u64(1);
            out.put_u16(0);
        })
        .await;
        let id = peer.request(Opcode::Atomic).await;
        peer.respond(Opcode::Atomic, id, |out| {
            out.put_u64(1);
            out.put_u8(0);
            out.put_u32(0);
        })
        .await;
    };
    let calls = async {
        assert_eq!(client.get("k").await.expect_err("short").kind(), ErrorKind::Protocol);
        let kind = client.get_many(&["k"]).await.expect_err("no value would be asked for again for ever").kind();
        assert_eq!(kind, ErrorKind::Protocol);
        assert_eq!(client.add("k", 1).await.expect_err("no result").kind(), ErrorKind::Protocol);
    };
    tokio::join!(calls, script);
    peer.settled().await;
}

#[tokio::test]
async fn what_a_goaway_did_not_accept_is_sent_to_the_next_connection() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let accepted = first.request(Opcode::Put).await;
        let not_accepted = first.request(Opcode::Put).await;
        assert!(not_accepted > accepted);
        first.goaway(ErrorCode::SHUTTING_DOWN, accepted).await;
        let mut second = listening.accept().await;
        let id = second.request(Opcode::Put).await;
        second.version(Opcode::Put, id, 2).await;
        // The old connection is kept until what it accepted is answered.
        first.version(Opcode::Put, accepted, 1).await;
        first.closed().await;
        second
    };
    let (one, two, _peer) = tokio::join!(client.put("a", "1"), client.put("b", "2"), script);
    assert_eq!((one.expect("accepted"), two.expect("sent again")), (Version(1), Version(2)));
}

#[tokio::test]
async fn a_goaway_explains_what_was_lost_with_it() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let id = first.request(Opcode::Put).await;
        first.goaway(ErrorCode::PROTOCOL_ERROR, id).await;
        drop(first);
        listening.accept().await
    };
    let (answer, mut second) = tokio::join!(client.put("a", "1"), script);
    let error = answer.expect_err("nobody knows");
    assert_eq!(error.outcome(), crate::client::Outcome::Unknown);
    assert!(format!("{error:?}").contains("goodbye (PROTOCOL_ERROR)"), "{error:?}");
    second.goaway(ErrorCode::NO_ERROR, 0).await;
    second.closed().await;
}

async fn notice(addresses: Vec<String>) -> (Client, Peer, Listening) {
    let mut listening = Listening::with(4096, |options| options.addresses = addresses);
    let (client, mut first) = listening.connected().await;
    let bye = Notice { code: Notice::SHUTTING_DOWN, leader: None };
    first.send(Kind::Notice, 0, 0, |out| bye.encode(out)).await;
    (client, first, listening)
}

#[tokio::test]
async fn a_server_that_will_close_is_left_if_there_is_another() {
    let (client, mut first, mut listening) = notice(vec!["a:1".into(), "b:1".into()]).await;
    let mut second = listening.accept().await;
    second.settled().await;
    let (answer, id) = tokio::join!(client.ping(), async {
        let frame = second.frame_of(Kind::Ping).await;
        let ping = Ping::decode(&frame.payload).expect("valid");
        second.send(Kind::Pong, 0, 0, |out| ping.encode(out)).await;
        frame.request_id
    });
    assert_eq!(id, 0);
    answer.expect("echoed");
    first.closed().await;
    let (client, mut only, _listening) = notice(vec!["a:1".into()]).await;
    only.settled().await;
    let (answer, ()) = tokio::join!(client.get("k"), async {
        let id = only.request(Opcode::Get).await;
        only.nothing(id, 1).await;
    });
    answer.expect("answered where it was");
}

#[tokio::test]
async fn a_silent_server_is_asked_for_a_sign_of_life_and_given_up() {
    let mut listening = Listening::with(4096, |options| options.keepalive = Duration::from_millis(1));
    let (client, mut first) = listening.connected().await;
    let frame = first.frame_of(Kind::Ping).await;
    first.send(Kind::Pong, 0, 0, |out| out.put_slice(&frame.payload)).await;
    first.frame_of(Kind::Ping).await;
    // Without an answer the connection is given up.
    first.closed().await;
    let mut second = listening.accept().await;
    second.settled().await;
    drop(client);
    second.closed().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_within_a_frame_is_given_up_too() {
    let mut listening = Listening::with(4096, |options| options.keepalive = Duration::from_millis(1));
    let (_client, mut peer) = listening.connected().await;
    peer.raw(&[0; 7]).await;
    peer.frame_of(Kind::Ping).await;
    peer.closed().await;
}

#[tokio::test]
async fn a_server_that_closes_silent_connections_hears_from_the_client_in_time() {
    let mut listening = Listening::new();
    let (_client, mut peer) = listening.connected_as(Welcomed { idle_ms: 200, ..Welcomed::default() }).await;
    let began = std::time::Instant::now();
    peer.frame_of(Kind::Ping).await;
    assert!(began.elapsed() < Duration::from_secs(5), "long before the client's own 15 seconds");
}

#[tokio::test]
async fn what_means_nothing_is_sent_now_and_then_and_changes_nothing() {
    let mut listening = Listening::with(1 << 20, |options| options.grease = true);
    let (client, mut peer) = listening.connected().await;
    let (mut greased, mut flagged) = (0, 0);
    let script = async {
        for _ in 0..400 {
            let frame = peer.request_frame(Opcode::Put).await;
            let mut plain = BytesMut::new();
            let request = crate::wire::Request::decode(frame.opcode, &frame.payload).expect("valid");
            assert!(tags(&frame).deadline_ms.is_some());
            request.encode(&mut plain);
            greased += usize::from(plain.len() != frame.payload.len());
            flagged += usize::from(frame.flags != 0);
            peer.respond(Opcode::Put, frame.request_id, |out| VersionReply { version: Version(1) }.encode(out)).await;
        }
    };
    let calls = async {
        for _ in 0..400 {
            client.with(CallOptions::new()).put("k", "v").await.expect("answered");
        }
    };
    tokio::join!(calls, script);
    assert!((5..80).contains(&greased) && (1..40).contains(&flagged), "{greased} tags, {flagged} flags of 400");
}

#[tokio::test]
async fn many_requests_of_one_turn_leave_in_one_write() {
    let mut listening = Listening::with(1 << 20, |_| {});
    let (client, mut peer) = listening.connected_as(Welcomed { requests_max: 1000, ..Welcomed::default() }).await;
    let puts: Vec<_> = (0..100).map(|_| client.put("k", "v")).collect();
    let script = async {
        for at in 0..100 {
            let id = peer.request(Opcode::Put).await;
            assert_eq!(id, at + 1, "ids rise in the order of the bytes");
            peer.version(Opcode::Put, id, id).await;
        }
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(puts), script);
    for (at, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.expect("answered"), Version(at as u64 + 1));
    }
}
