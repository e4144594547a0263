//! Both ends of the handshake over a pipe.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use crate::{
    env::{BoxFuture, Env, Files, Moment, Provider, Socket, Task},
    types::{ClusterId, NodeId},
    wire::{ErrorCode, Kind, peer::Lane, preface},
};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const HERE: Local = Local { cluster: ClusterId([7; 16]), node: NodeId(1), level: 1 };
const THERE: Local = Local { cluster: ClusterId([7; 16]), node: NodeId(2), level: 1 };

/// The real environment, whose next connection is one end of a pipe.
struct Piped {
    env: Env,
    near: Mutex<Option<DuplexStream>>,
}

impl Provider for Piped {
    fn now(&self) -> Moment {
        self.env.now()
    }
    fn wall_ms(&self) -> u64 {
        self.env.wall_ms()
    }
    fn random(&self, bytes: &mut [u8]) {
        self.env.random(bytes);
    }
    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        self.env.sleep_until(when)
    }
    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.env.spawn(name, future)
    }
    fn files(&self) -> &dyn Files {
        self.env.files()
    }
    fn connect(&self, _: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        let near = self.near.lock().unwrap().take();
        Box::pin(async move {
            let near = near.ok_or(io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(near) as Box<dyn Socket>)
        })
    }
}

async fn meet(
    from: Local,
    to: NodeId,
    lane: Lane,
    at: Local,
) -> (Result<Connection, PeerError>, Result<Accepted, Unwanted>) {
    let (near, far) = duplex(4096);
    let env = Env::real();
    let dialing = Env::from_provider(Arc::new(Piped { env: env.clone(), near: Mutex::new(Some(near)) }));
    let until = env.now() + Duration::from_secs(5);
    let dialer = Dialer::new(&dialing, from);
    let dialed = dialer.dial(to, "there", lane, until);
    let (dialed, accepted) = tokio::join!(dialed, accept(&env, Box::new(far), at, until));
    (dialed.map(|(connection, _)| connection), accepted)
}

#[tokio::test]
async fn two_of_a_cluster_meet_and_exchange_frames() {
    let (near, far) = meet(HERE, NodeId(2), Lane::Consensus, THERE).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!((far.hello.from, far.hello.lane), (NodeId(1), Lane::Consensus));
    near.put(Kind::Request, 0x8003, 9, |out| out.extend_from_slice(b"entries"));
    near.send().await.unwrap();
    let frame = far.connection.next().await.unwrap().unwrap();
    assert_eq!((frame.opcode, frame.request_id, &frame.payload[..]), (0x8003, 9, &b"entries"[..]));
    drop(near);
    assert!(far.connection.next().await.unwrap().is_none());
}

#[tokio::test]
async fn whoever_is_wrong_is_told_so() {
    let elsewhere = Local { cluster: ClusterId([8; 16]), ..HERE };
    let cases = [
        (elsewhere, NodeId(2), ErrorCode::WRONG_CLUSTER),
        (HERE, NodeId(3), ErrorCode::WRONG_NODE),
        (THERE, NodeId(2), ErrorCode::WRONG_NODE),
        (Local { node: NodeId(0), ..HERE }, NodeId(2), ErrorCode::WRONG_NODE),
    ];
    for (from, to, expected) in cases {
        let (near, far) = meet(from, to, Lane::Consensus, THERE).await;
        assert!(matches!(far, Err(Unwanted::Told { code, .. }) if code == expected), "{expected}");
        assert!(matches!(near, Err(PeerError::TurnedAway { code, .. }) if code == expected), "{expected}");
    }
    // Who has no identity yet may ask for one.
    let stranger = Local { cluster: ClusterId::default(), node: NodeId(0), level: 1 };
    let (near, far) = meet(stranger, NodeId(0), Lane::Join, THERE).await;
    assert!(near.is_ok() && far.is_ok());
}

#[tokio::test]
async fn a_client_is_told_that_this_is_the_wrong_port() {
    let (mut near, far) = duplex(4096);
    let env = Env::real();
    near.write_all(&preface::PREFACE).await.unwrap();
    let accepted = accept(&env, Box::new(far), THERE, env.now() + Duration::from_secs(5)).await;
    assert!(matches!(accepted, Err(Unwanted::Told { code: ErrorCode::WRONG_PORT, .. })));
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    // In the client's own protocol, so that it understands.
    assert_eq!(answer[..8], preface::PREFACE);
    assert_eq!(answer[12], Kind::Goaway.number());
}

#[tokio::test]
async fn a_stranger_and_a_silent_one_are_let_go() {
    let env = Env::real();
    let (mut near, far) = duplex(4096);
    near.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let accepted = accept(&env, Box::new(far), THERE, env.now() + Duration::from_secs(5)).await;
    assert!(matches!(accepted, Err(Unwanted::Stranger(_))));
    let (_near, far) = duplex(4096);
    let accepted = accept(&env, Box::new(far), THERE, env.now() + Duration::from_millis(5)).await;
    assert!(matches!(accepted, Err(Unwanted::Told { code: ErrorCode::HANDSHAKE_TIMEOUT, .. })));
}
