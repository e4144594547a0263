use super::peer::is_pending;
use super::{Listening, Welcomed};
use crate::client::{CallOptions, ErrorKind, Outcome};
use crate::types::Version;
use crate::wire::Opcode;
use std::time::Duration;

#[tokio::test]
async fn no_more_requests_are_out_than_the_server_takes() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected_as(Welcomed { requests_max: 2, ..Welcomed::default() }).await;
    let script = async {
        let first = peer.request(Opcode::Put).await;
        let second = peer.request(Opcode::Put).await;
        peer.settled().await;
        peer.version(Opcode::Put, second, 2).await;
        let third = peer.request(Opcode::Put).await;
        peer.version(Opcode::Put, first, 1).await;
        peer.version(Opcode::Put, third, 3).await;
    };
    let (a, b, c, ()) = tokio::join!(client.put("a", ""), client.put("b", ""), client.put("c", ""), script);
    assert_eq!([a, b, c].map(|answer| answer.expect("answered").0), [1, 2, 3]);
}

#[tokio::test]
async fn no_more_bytes_are_out_than_the_server_takes_unless_one_request_is_larger() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected_as(Welcomed { bytes_max: 1000, ..Welcomed::default() }).await;
    let large = vec![0; 5000];
    let script = async {
        let first = peer.request(Opcode::Put).await;
        peer.settled().await;
        peer.version(Opcode::Put, first, 1).await;
        let second = peer.request(Opcode::Put).await;
        peer.version(Opcode::Put, second, 2).await;
    };
    let (a, b, ()) = tokio::join!(client.put("a", &large), client.put("b", ""), script);
    assert_eq!([a, b].map(|answer| answer.expect("answered").0), [1, 2]);
}

#[tokio::test]
async fn who_waits_for_room_waits_until_the_deadline() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected_as(Welcomed { requests_max: 1, ..Welcomed::default() }).await;
    let hurried = client.with(CallOptions::new().deadline(Duration::from_millis(20)));
    let script = async { peer.request(Opcode::Put).await };
    let first = client.put("a", "");
    tokio::pin!(first);
    assert!(is_pending(first.as_mut()).await);
    let (second, id) = tokio::join!(hurried.put("b", ""), script);
    let error = second.expect_err("no room");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::DeadlinePassed, Outcome::NotApplied));
    peer.version(Opcode::Put, id, 1).await;
    assert_eq!(first.await.expect("answered"), Version(1));
}
