//! A server in this process: on a port that the system picks, or over a pipe without any.
//!
//! ```
//! use quantadb::testing::server::TestServer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let server = TestServer::start().await;
//! let stream = tokio::net::TcpStream::connect(server.address()).await.expect("it listens");
//! # drop(stream);
//! server.stop().await;
//! # });
//! ```

use crate::{
    consensus::Faults,
    env::{Env, Task},
    node::{Identity, Node, NodeOptions},
    server::{Options, Server},
    storage::{Engine, MemoryEngine, MemoryOptions},
    types::{ClusterId, NodeId},
};
use slog::{Discard, Logger, o};
use std::{net::SocketAddr, sync::Arc};
use tokio::{io::DuplexStream, net::TcpListener, sync::oneshot};

/// What the server is made of.
#[derive(Clone)]
pub struct TestOptions {
    /// The environment.
    pub env: Env,
    /// Where it logs; nowhere by default.
    pub log: Logger,
    /// The server's options.
    pub server: Options,
    /// The node's options.
    pub node: NodeOptions,
    /// The engine; an empty one in memory by default.
    pub engine: Option<Arc<dyn Engine>>,
    /// Every read must be confirmed by the group, as in a group of several.
    pub remote_reads: bool,
}

impl Default for TestOptions {
    fn default() -> TestOptions {
        TestOptions {
            env: Env::real(),
            log: Logger::root(Discard, o!()),
            server: Options::default(),
            node: NodeOptions::default(),
            engine: None,
            remote_reads: false,
        }
    }
}

/// A running server. Dropped without [`TestServer::stop`], it ends at once and answers nothing more.
pub struct TestServer {
    address: SocketAddr,
    env: Env,
    node: Arc<Node>,
    server: Arc<Server>,
    faults: Arc<Faults>,
    shutdown: Option<oneshot::Sender<()>>,
    task: Task,
}

impl TestServer {
    /// Starts an empty one.
    pub async fn start() -> TestServer {
        TestServer::start_with(TestOptions::default()).await
    }

    /// Starts one with options.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub async fn start_with(options: TestOptions) -> TestServer {
        let TestOptions { env, log, server, node, engine, remote_reads } = options;
        let memory = MemoryOptions { bytes_max: 1 << 30, hash_seed: 0x5eed };
        let engine = engine.unwrap_or_else(|| Arc::new(MemoryEngine::new(memory)));
        let identity = Identity { cluster: ClusterId(*b"testing testing."), node: NodeId(1) };
        let (node, faults) = Node::start_faulty(&env, &log, identity, engine, node, remote_reads);
        let node = Arc::new(node);
        let server = Arc::new(Server::new(&env, &log, Arc::clone(&node), server));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be listened on");
        let address = listener.local_addr().expect("a listener has an address");
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = Arc::clone(&server);
        let task = env.spawn("test server", async move {
            serving
                .run(listener, async {
                    let _ = told.await;
                })
                .await;
        });
        TestServer { address, env, node, server, faults: Arc::new(faults), shutdown: Some(shutdown), task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment that it runs in.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The node behind it.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The server itself.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Makes its group refuse, hold and lose what it is given.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The same, to keep.
    #[must_use]
    pub fn shared_faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// A connection without a socket: a pipe that holds `bytes_max` each way, with a session at its other end. The session
    /// ends when its task is dropped, or by itself.
    pub fn connect(&self, bytes_max: usize) -> (DuplexStream, Task) {
        let (client, end) = tokio::io::duplex(bytes_max);
        let server = Arc::clone(&self.server);
        let task = self.env.spawn("test session", async move { server.run_session(end).await });
        (client, task)
    }

    /// Refuses new work, answers what was accepted, and stops the node.
    ///
    /// # Panics
    /// If the server did.
    pub async fn stop(mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
        (&mut self.task).await.expect("the server ends by itself");
        self.node.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        types::{KeyspaceId, Version, limits::FRAME_PAYLOAD_BYTES_MAX},
        wire::{
            Codec, Frame, GetReply, Kind, Opcode, Request, RequestBody, Response, VersionReply, preface::PREFACE,
            put_frame,
        },
    };
    use bytes::BytesMut;
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpStream,
    };
    use tokio_util::codec::Decoder;

    fn hello_put_get() -> BytesMut {
        let key = KeyspaceId::DEFAULT.full_key(b"k");
        let mut out = BytesMut::from(&PREFACE[..]);
        // Versions 1 to 1, no credit, no name, no features.
        put_frame(&mut out, Kind::Hello, 0, 0, 0, |out| out.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
        let request = |out: &mut BytesMut, id, flags, body| {
            let request = Request::new(body);
            put_frame(out, Kind::Request, flags, request.opcode().number(), id, |out| request.encode(out));
        };
        request(&mut out, 1, 0, RequestBody::Put { key: &key, value: b"v" });
        request(&mut out, 2, crate::wire::registry::FLAG_AFTER, RequestBody::Get { key: &key });
        out
    }

    async fn answers(mut stream: impl AsyncRead + AsyncWrite + Unpin, pieces: &[&[u8]]) -> Vec<Frame> {
        for piece in pieces {
            stream.write_all(piece).await.expect("it reads");
            stream.flush().await.expect("it reads");
        }
        let (mut codec, mut arrived, mut frames) = (Codec::new(FRAME_PAYLOAD_BYTES_MAX), BytesMut::new(), Vec::new());
        let mut preface = [0; 8];
        stream.read_exact(&mut preface).await.expect("it answers");
        assert_eq!(preface, PREFACE);
        while frames.len() < 3 {
            match codec.decode(&mut arrived).expect("frames") {
                Some(frame) => frames.push(frame),
                None => assert!(stream.read_buf(&mut arrived).await.expect("it answers") > 0),
            }
        }
        frames
    }

    fn judge(frames: &[Frame]) {
        assert_eq!(
            frames.iter().map(|frame| frame.kind).collect::<Vec<_>>(),
            [Kind::Welcome, Kind::Response, Kind::Response]
        );
        let put = Response::decode(Opcode::Put, &frames[1].payload).expect("well formed");
        let get = Response::decode(Opcode::Get, &frames[2].payload).expect("well formed");
        let Response::Version(VersionReply { version, .. }) = put else { panic!("a put gives a version: {put:?}") };
        let Response::Get(GetReply { found: Some(row), .. }) = get else { panic!("a get gives a row: {get:?}") };
        assert!(version > Version::ZERO);
        assert_eq!((row.version, row.value), (version, &b"v"[..]));
    }

    #[tokio::test]
    async fn it_serves_a_plain_socket_and_stops() {
        let server = TestServer::start().await;
        let stream = TcpStream::connect(server.address()).await.expect("it listens");
        judge(&answers(stream, &[&hello_put_get()]).await);
        let address = server.address();
        server.stop().await;
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_pipe_gives_the_same_byte_by_byte() {
        let server = TestServer::start().await;
        let bytes = hello_put_get();
        let (stream, _session) = server.connect(16);
        let pieces: Vec<_> = bytes.chunks(1).collect();
        judge(&answers(stream, &pieces).await);
    }
}
