//! The other end: a test reads what the client sent, frame by frame, and answers as it likes.

use crate::client::{Client, ClientOptions, Connector, Error, Socket};
use crate::env::BoxFuture;
use crate::types::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::types::{ClusterId, NodeId, Version};
use crate::wire::preface::{PREFACE, PREFACE_BYTES};
use crate::wire::{
    Codec, ErrorCode, Frame, Goaway, Kind, Limit, LimitId, List, ListBuf, Notice, Opcode, OutcomeReply, OutcomeState,
    Request, RequestTags, VersionReply, Welcome, WireError, put_frame,
};
use bytes::{Buf, BytesMut};
use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::Decoder;

/// Nothing in these tests takes so long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the client's connections arrive.
pub struct Listening {
    sockets: mpsc::UnboundedReceiver<DuplexStream>,
    options: ClientOptions,
}

struct Dialler {
    /// Where each connection goes: by address, or whatever the address is.
    servers: Vec<(Option<&'static str>, mpsc::UnboundedSender<DuplexStream>)>,
    pipe_bytes: usize,
}

impl Connector for Dialler {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        let (near, far) = tokio::io::duplex(self.pipe_bytes);
        let server = self.servers.iter().find(|(at, _)| at.is_none_or(|at| at == address));
        let sent = server.is_some_and(|(_, sockets)| sockets.send(far).is_ok());
        Box::pin(async move {
            match sent {
                true => Ok(Box::new(near) as Box<dyn Socket>),
                false => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// How a peer introduces itself.
#[derive(Clone, Copy)]
pub struct Welcomed {
    pub cluster: u8,
    pub node: u64,
    pub requests_max: u64,
    pub bytes_max: u64,
    pub idle_ms: u64,
    pub leader: Option<&'static str>,
}

impl Welcomed {
    /// What this node says when that address has the leader.
    pub fn node(node: u64, leader: Option<&'static str>) -> Welcomed {
        Welcomed { node, leader, ..Welcomed::default() }
    }
}

impl Default for Welcomed {
    fn default() -> Welcomed {
        Welcomed { cluster: 1, node: 1, requests_max: 100, bytes_max: 1 << 24, idle_ms: 0, leader: None }
    }
}

impl Listening {
    pub fn new() -> Listening {
        Listening::with(256 << 10, |_| {})
    }

    /// `pipe_bytes` lie unread in each direction before a writer waits.
    pub fn with(pipe_bytes: usize, change: impl FnOnce(&mut ClientOptions)) -> Listening {
        let (sender, sockets) = mpsc::unbounded_channel();
        let mut options = ClientOptions::from("peer:1");
        options.connector = Arc::new(Dialler { servers: vec![(None, sender)], pipe_bytes });
        options.grease = false;
        change(&mut options);
        Listening { sockets, options }
    }

    /// Several servers, each at its address. The client is given all of them, in this order, unless `change` says
    /// otherwise; at any other address connections are refused.
    pub fn at<const N: usize>(addresses: [&'static str; N], change: impl FnOnce(&mut ClientOptions)) -> [Listening; N] {
        let mut servers = Vec::new();
        let sockets = addresses.map(|address| {
            let (sender, sockets) = mpsc::unbounded_channel();
            servers.push((Some(address), sender));
            sockets
        });
        let mut options = ClientOptions::new(addresses.map(str::to_owned).to_vec());
        options.connector = Arc::new(Dialler { servers, pipe_bytes: 256 << 10 });
        options.grease = false;
        change(&mut options);
        sockets.map(|sockets| Listening { sockets, options: options.clone() })
    }

    /// Whether nobody has connected and was not accepted.
    pub fn is_quiet(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Refuses connections from now on.
    pub fn close(&mut self) {
        self.sockets.close();
    }

    /// The next connection, as it comes.
    pub async fn accept_raw(&mut self) -> Peer {
        let socket = timeout(PATIENCE, self.sockets.recv()).await.expect("it connects").expect("the client is there");
        Peer { socket, arrived: BytesMut::new(), codec: Codec::new(FRAME_PAYLOAD_BYTES_MAX) }
    }

    /// The next connection, its handshake done.
    pub async fn accept(&mut self) -> Peer {
        self.accept_as(Welcomed::default()).await
    }

    pub async fn accept_as(&mut self, welcomed: Welcomed) -> Peer {
        let mut peer = self.accept_raw().await;
        peer.hello().await;
        peer.welcome(welcomed).await;
        peer
    }

    /// A client and its first connection.
    pub async fn connected(&mut self) -> (Client, Peer) {
        self.connected_as(Welcomed::default()).await
    }

    pub async fn connected_as(&mut self, welcomed: Welcomed) -> (Client, Peer) {
        let (client, peer) = tokio::join!(Client::connect(self.options.clone()), self.accept_as(welcomed));
        (client.expect("it connects"), peer)
    }

    /// Connects to a peer that answers the preface and HELLO with these bytes and closes.
    pub async fn connecting_to(&mut self, answer: &[u8]) -> Error {
        let options = self.options.clone();
        let script = async {
            let mut peer = self.accept_raw().await;
            peer.hello().await;
            peer.raw(answer).await;
        };
        let (client, ()) = tokio::join!(Client::connect(options), script);
        client.expect_err("it is refused")
    }

    pub fn options(&self) -> ClientOptions {
        self.options.clone()
    }
}

/// One connection, seen from the other end. Dropping it closes it.
pub struct Peer {
    socket: DuplexStream,
    arrived: BytesMut,
    codec: Codec,
}

impl Peer {
    /// Reads preface and HELLO.
    pub async fn hello(&mut self) -> Frame {
        while self.arrived.len() < PREFACE_BYTES {
            assert_ne!(self.read().await, 0, "the client closed the connection");
        }
        assert_eq!(self.arrived[..PREFACE_BYTES], PREFACE);
        self.arrived.advance(PREFACE_BYTES);
        let hello = self.frame().await;
        assert_eq!(hello.kind, Kind::Hello);
        hello
    }

    pub async fn welcome(&mut self, welcomed: Welcomed) {
        let mut limits = ListBuf::new();
        limits.push(&Limit { id: LimitId::REQUESTS_IN_FLIGHT, value: welcomed.requests_max });
        limits.push(&Limit { id: LimitId::BYTES_IN_FLIGHT, value: welcomed.bytes_max });
        limits.push(&Limit { id: LimitId::IDLE_MS, value: welcomed.idle_ms });
        let welcome = Welcome {
            version: 1,
            cluster: ClusterId([welcomed.cluster; 16]),
            node: NodeId(welcomed.node),
            session: 1,
            server_name: "scripted/1",
            features: List::EMPTY,
            mechanisms: List::EMPTY,
            limits: limits.as_list(),
            leader: welcomed.leader,
        };
        self.raw(&PREFACE).await;
        self.send(Kind::Welcome, 0, 0, |out| welcome.encode(out)).await;
    }

    async fn read(&mut self) -> usize {
        let read = timeout(PATIENCE, self.socket.read_buf(&mut self.arrived)).await.expect("something comes");
        read.expect("a pipe does not fail")
    }

    /// The next frame of the client.
    pub async fn frame(&mut self) -> Frame {
        self.frame_or_end().await.expect("the client keeps the connection")
    }

    /// The next frame of the client; `None` if it has closed the connection.
    pub async fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.arrived).expect("the client sends frames") {
                return Some(frame);
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// The next frame, a request with this opcode. Its id.
    pub async fn request(&mut self, opcode: Opcode) -> u64 {
        self.request_frame(opcode).await.request_id
    }

    pub async fn request_frame(&mut self, opcode: Opcode) -> Frame {
        let frame = self.frame().await;
        assert_eq!((frame.kind, frame.opcode), (Kind::Request, opcode.number()), "{opcode:?} was expected");
        Request::decode(frame.opcode, &frame.payload).expect("the client sends whole requests");
        frame
    }

    /// The next frame, which must be of this kind.
    pub async fn frame_of(&mut self, kind: Kind) -> Frame {
        let frame = self.frame().await;
        assert_eq!(frame.kind, kind);
        frame
    }

    /// Waits for the client to close the connection.
    pub async fn closed(&mut self) {
        loop {
            match timeout(PATIENCE, self.socket.read_buf(&mut self.arrived)).await.expect("it ends") {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // The client may be gone already, which is what some tests want.
        let _ = self.socket.write_all(bytes).await;
    }

    pub async fn send(&mut self, kind: Kind, opcode: u16, id: u64, write: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, 0, opcode, id, write);
        self.raw(&out).await;
    }

    pub async fn respond(&mut self, opcode: Opcode, id: u64, write: impl FnOnce(&mut BytesMut)) {
        self.send(Kind::Response, opcode.number(), id, write).await;
    }

    /// Answers with a version alone.
    pub async fn version(&mut self, opcode: Opcode, id: u64, version: u64) {
        self.respond(opcode, id, |out| VersionReply { version: Version(version) }.encode(out)).await;
    }

    /// Answers a GET with nothing found.
    pub async fn nothing(&mut self, id: u64, version: u64) {
        let reply = crate::wire::GetReply { version: Version(version), found: None };
        self.respond(Opcode::Get, id, |out| reply.encode(out)).await;
    }

    pub async fn outcome(&mut self, id: u64, state: OutcomeState<'_>) {
        self.respond(Opcode::Outcome, id, |out| OutcomeReply { state }.encode(out)).await;
    }

    pub async fn refuse(&mut self, opcode: Opcode, id: u64, code: ErrorCode) {
        self.refuse_with(opcode, id, &WireError::new(code)).await;
    }

    pub async fn refuse_with(&mut self, opcode: Opcode, id: u64, error: &WireError) {
        self.send(Kind::Error, opcode.number(), id, |out| error.encode(out)).await;
    }

    /// Refuses, for another node leads.
    pub async fn redirect(&mut self, opcode: Opcode, id: u64, leader: Option<&str>) {
        let mut error = WireError::new(ErrorCode::NOT_LEADER);
        error.leader = leader.map(Into::into);
        self.refuse_with(opcode, id, &error).await;
    }

    pub async fn notice(&mut self, code: u16, leader: Option<&str>) {
        self.send(Kind::Notice, 0, 0, |out| Notice { code, leader }.encode(out)).await;
    }

    pub async fn goaway(&mut self, code: ErrorCode, highest: u64) {
        self.send(Kind::Goaway, 0, 0, |out| Goaway::new(code, highest, "goodbye").encode(out)).await;
    }

    /// Waits until the client has taken everything that was sent to it so far.
    pub async fn settled(&mut self) {
        let ping = crate::wire::Ping { opaque: *b"settled?" };
        self.send(Kind::Ping, 0, 0, |out| ping.encode(out)).await;
        let pong = self.frame_of(Kind::Pong).await;
        assert_eq!(&pong.payload[..], b"settled?");
    }
}

/// The tags of a request.
pub fn tags(frame: &Frame) -> RequestTags<'_> {
    Request::decode(frame.opcode, &frame.payload).expect("it was checked").tags
}

/// Polls a future once.
pub async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}
