use super::{Listening, Peer, Welcomed};
use crate::client::{Client, ClientOptions, ErrorKind, Outcome, Retry};
use crate::wire::preface::PREFACE;
use crate::wire::{ErrorCode, Goaway, Hello, Kind, put_frame};
use bytes::BytesMut;
use std::{error::Error as _, time::Duration};

fn framed(kind: Kind, write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::from(&PREFACE[..]);
    put_frame(&mut out, kind, 0, 0, 0, write);
    out
}

#[tokio::test]
async fn the_client_says_who_it_is_and_what_it_knows() {
    let mut listening = Listening::with(4096, |options| {
        options.name = "é".repeat(100);
        options.credit = 0;
        options.grease = true;
    });
    let options = listening.options();
    let script = async {
        let mut peer = listening.accept_raw().await;
        let frame = peer.hello().await;
        let hello = Hello::decode(&frame.payload).expect("valid");
        assert_eq!((hello.version_min, hello.version_max), (1, 1));
        assert_eq!(hello.client_name, "é".repeat(64), "cut between characters");
        assert_eq!(hello.credit, 1, "without credit nothing could ever come");
        assert!(hello.has_feature("execute"));
        assert!(hello.features.iter().any(|feature| feature.0.starts_with("x-grease-")));
        peer.welcome(Welcomed::default()).await;
        peer
    };
    let (client, _peer) = tokio::join!(Client::connect(options), script);
    client.expect("it connects");
}

#[tokio::test]
async fn a_goaway_in_place_of_a_welcome_says_why() {
    let mut listening = Listening::new();
    let mut goaway = Goaway::new(ErrorCode::VERSION_UNSUPPORTED, 0, "versions 2 to 3 are spoken here");
    (goaway.version_min, goaway.version_max) = (Some(2), Some(3));
    let error = listening.connecting_to(&framed(Kind::Goaway, |out| goaway.encode(out))).await;
    assert_eq!((error.code(), error.retry()), (Some(ErrorCode::VERSION_UNSUPPORTED), Retry::Never));
    assert!(error.to_string().contains("versions 2 to 3"), "{error}");
    let goaway = Goaway::new(ErrorCode::TOO_MANY_CONNECTIONS, 0, "full");
    let error = listening.connecting_to(&framed(Kind::Goaway, |out| goaway.encode(out))).await;
    assert_eq!((error.retry(), error.outcome()), (Retry::Backoff, Outcome::NotApplied));
}

#[tokio::test]
async fn what_is_no_server_is_known_by_its_first_bytes() {
    let mut listening = Listening::new();
    let error = listening.connecting_to(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unreachable, Retry::Never));
    assert!(error.source().is_some_and(|source| source.to_string().contains("text")));
    let mut newer = PREFACE;
    newer[7] = 2;
    assert_eq!(listening.connecting_to(&newer).await.code(), Some(ErrorCode::VERSION_UNSUPPORTED));
    assert_eq!(listening.connecting_to(&PREFACE[..4]).await.kind(), ErrorKind::Unreachable, "it closed");
    let garbage = [&PREFACE[..], &[0; 24]].concat();
    assert_eq!(listening.connecting_to(&garbage).await.kind(), ErrorKind::Protocol);
    let pong = framed(Kind::Pong, |out| out.extend_from_slice(&[0; 8]));
    assert_eq!(listening.connecting_to(&pong).await.kind(), ErrorKind::Protocol);
    let empty = framed(Kind::Welcome, |_| {});
    assert_eq!(listening.connecting_to(&empty).await.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let mut listening = Listening::with(4096, |options| options.connect_timeout = Duration::from_millis(20));
    let options = listening.options();
    let (client, _silent) = tokio::join!(Client::connect(options), listening.accept_raw());
    let error = client.expect_err("nothing comes");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("took too long"));
}

#[tokio::test]
async fn every_address_is_tried() {
    let mut listening = Listening::with(4096, |options| options.addresses = vec!["a:1".into(), "b:1".into()]);
    let options = listening.options();
    let script = async {
        drop(listening.accept_raw().await);
        listening.accept().await
    };
    let (client, _peer): (_, Peer) = tokio::join!(Client::connect(options), script);
    client.expect("the second answers");
    let none = Client::connect(ClientOptions::new(vec![])).await.expect_err("there is none");
    assert_eq!(none.retry(), Retry::Never);
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_refused() {
    let mut listening = Listening::new();
    let (client, peer) = listening.connected().await;
    drop(peer);
    let hurried = client.with(crate::client::CallOptions::new().deadline(Duration::from_millis(100)));
    let script = async {
        let mut other = listening.accept_as(Welcomed { cluster: 2, ..Welcomed::default() }).await;
        other.closed().await;
        listening.close();
    };
    let (answer, ()) = tokio::join!(hurried.get("k"), script);
    let error = answer.expect_err("versions mean nothing there");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::NotApplied));
    assert!(error.source().is_some(), "the last failure to connect");
}
