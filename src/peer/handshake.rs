//! Who is there: preface, HELLO and WELCOME between peers, from both sides.

use super::connection::{Connection, PeerError, turned_away};
use crate::{
    env::{Env, Moment, Socket},
    types::{ClusterId, NodeId, limits::HANDSHAKE_PAYLOAD_BYTES_MAX},
    wire::{
        self, Codec, ErrorCode, Frame, Goaway, Kind,
        peer::{self, Lane, PEER_VERSION_MAX, PEER_VERSION_MIN, PeerHello, PeerWelcome},
        preface, put_frame,
    },
};
use bytes::{Buf, BufMut, BytesMut};
use std::{future::poll_fn, io, pin::Pin};
use tokio_util::codec::Decoder;

/// Room for what a handshake sends.
const READ_BYTES: usize = 4 * 1024;
/// Bytes of a preface.
const PREFACE_BYTES: usize = preface::PREFACE_BYTES;

/// Who speaks for this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The cluster; zeros if it is of none yet.
    pub cluster: ClusterId,
    /// The node; 0 if it has no identity yet.
    pub node: NodeId,
    /// The greatest state-machine level that it knows.
    pub level: u16,
}

/// Opens connections to peers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Dialer {
    env: Env,
    local: Local,
}

/// A connection that a peer has opened.
pub struct Accepted {
    /// What it said.
    pub hello: PeerHello,
    /// The version that both speak.
    pub version: u8,
    /// The connection, to which WELCOME has been sent.
    pub connection: Connection,
}

/// Who was turned away, and why.
#[derive(Debug, thiserror::Error)]
pub enum Unwanted {
    /// It was told so.
    #[error("turned away: {code}: {message}")]
    Told {
        /// The code that it was told.
        code: ErrorCode,
        /// In words.
        message: String,
    },
    /// It speaks another protocol, or nothing at all.
    #[error("not a peer: {0}")]
    Stranger(String),
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Dialer {
    /// Opens connections in the name of `local`.
    #[must_use]
    pub fn new(env: &Env, local: Local) -> Dialer {
        Dialer { env: env.clone(), local }
    }

    /// The environment.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Opens a connection to a peer, and says hello. `to` is 0 for whoever answers there. Also tells who answered.
    pub async fn dial(
        &self,
        to: NodeId,
        address: &str,
        lane: Lane,
        until: Moment,
    ) -> Result<(Connection, PeerWelcome), PeerError> {
        self.env.until(until, self.shake(to, address, lane)).await.ok_or(PeerError::Late)?
    }

    async fn shake(&self, to: NodeId, address: &str, lane: Lane) -> Result<(Connection, PeerWelcome), PeerError> {
        let mut socket = self.env.connect(address).await?;
        let Local { cluster, node, level } = self.local;
        let (version_min, version_max) = (PEER_VERSION_MIN, PEER_VERSION_MAX);
        let hello = PeerHello { version_min, version_max, level, lane, cluster, from: node, to };
        let mut out = BytesMut::with_capacity(128);
        out.put_slice(&peer::PREFACE);
        put_frame(&mut out, Kind::Hello, 0, 0, 0, |out| hello.encode(out));
        write_all(&mut *socket, &out).await?;
        let mut inbound = BytesMut::with_capacity(READ_BYTES);
        fill(&mut *socket, &mut inbound, PREFACE_BYTES).await?;
        if inbound[..PREFACE_BYTES] != peer::PREFACE {
            let what = format!("what answers at {address} is no peer of this version");
            return Err(PeerError::Protocol(what));
        }
        inbound.advance(PREFACE_BYTES);
        let frame = first_frame(&mut *socket, &mut inbound).await?;
        let welcome = match frame.kind {
            Kind::Welcome => {
                PeerWelcome::decode(&frame.payload).map_err(|error| PeerError::Protocol(error.to_string()))?
            }
            Kind::Goaway => return Err(turned_away(&frame)),
            kind => return Err(PeerError::Protocol(format!("the peer began with a frame of kind {}", kind.name()))),
        };
        let elsewhere = lane != Lane::Join && (welcome.cluster != cluster || (to != NodeId(0) && welcome.node != to));
        if elsewhere {
            let what = format!("node {} of cluster {} answers at {address}", welcome.node.0, welcome.cluster);
            return Err(PeerError::Protocol(what));
        }
        Ok((Connection::new(socket, inbound), welcome))
    }
}

/// Hears who has opened a connection, and lets it in or turns it away.
pub async fn accept(env: &Env, mut socket: Box<dyn Socket>, local: Local, until: Moment) -> Result<Accepted, Unwanted> {
    let mut inbound = BytesMut::with_capacity(READ_BYTES);
    let judged = env.until(until, hear(&mut *socket, &mut inbound, local)).await;
    let judged = judged.unwrap_or_else(|| Err(told(ErrorCode::HANDSHAKE_TIMEOUT, "the handshake took too long")));
    let hello = match judged {
        Ok(hello) => hello,
        Err(unwanted) => {
            if let Unwanted::Told { code, message } = &unwanted {
                send_off(&mut *socket, *code, message).await;
            }
            return Err(unwanted);
        }
    };
    let version = hello.version_max.min(PEER_VERSION_MAX);
    let Local { cluster, node, level } = local;
    let welcome = PeerWelcome { version, level, cluster, node };
    let mut out = BytesMut::with_capacity(128);
    out.put_slice(&peer::PREFACE);
    put_frame(&mut out, Kind::Welcome, 0, 0, 0, |out| welcome.encode(out));
    write_all(&mut *socket, &out).await?;
    Ok(Accepted { hello, version, connection: Connection::new(socket, inbound) })
}

async fn hear(socket: &mut dyn Socket, inbound: &mut BytesMut, local: Local) -> Result<PeerHello, Unwanted> {
    fill(socket, inbound, PREFACE_BYTES).await?;
    let (magic, version) = (&inbound[..PREFACE_BYTES - 1], inbound[PREFACE_BYTES - 1]);
    if magic == preface::MAGIC {
        return Err(told(ErrorCode::WRONG_PORT, "this is the listener for peers; clients have another"));
    }
    if magic != peer::MAGIC {
        return Err(Unwanted::Stranger(format!("it began with {:02x?}", &inbound[..PREFACE_BYTES])));
    }
    if version != peer::PREFACE[PREFACE_BYTES - 1] {
        return Err(told(ErrorCode::VERSION_UNSUPPORTED, "no framing version is spoken by both"));
    }
    inbound.advance(PREFACE_BYTES);
    let frame = first_frame(socket, inbound).await.map_err(|error| match error {
        PeerError::Io(error) => Unwanted::Io(error),
        error => told(ErrorCode::PROTOCOL_ERROR, &error.to_string()),
    })?;
    if frame.kind != Kind::Hello {
        return Err(told(ErrorCode::PROTOCOL_ERROR, "a connection begins with HELLO"));
    }
    let hello = PeerHello::decode(&frame.payload).map_err(|error| told(error.code, error.what))?;
    judge(&hello, local)?;
    Ok(hello)
}

/// Whether whoever says this may come in.
fn judge(hello: &PeerHello, local: Local) -> Result<(), Unwanted> {
    if hello.version_min > PEER_VERSION_MAX || hello.version_max < PEER_VERSION_MIN {
        return Err(told(
            ErrorCode::VERSION_UNSUPPORTED,
            &format!("this node speaks versions {PEER_VERSION_MIN} to {PEER_VERSION_MAX} of the peer protocol"),
        ));
    }
    if hello.lane == Lane::Join {
        return Ok(());
    }
    if hello.cluster != local.cluster {
        return Err(told(ErrorCode::WRONG_CLUSTER, &format!("this node is of cluster {}", local.cluster)));
    }
    if hello.to != NodeId(0) && hello.to != local.node {
        return Err(told(ErrorCode::WRONG_NODE, &format!("this is node {}", local.node.0)));
    }
    if hello.from == local.node || hello.from == NodeId(0) {
        return Err(told(ErrorCode::WRONG_NODE, &format!("node {} cannot be a peer of this one", hello.from.0)));
    }
    Ok(())
}

fn told(code: ErrorCode, message: &str) -> Unwanted {
    Unwanted::Told { code, message: message.to_owned() }
}

/// Says why, in the protocol that the other side seems to speak, without waiting for it.
async fn send_off(socket: &mut dyn Socket, code: ErrorCode, message: &str) {
    let preface = if code == ErrorCode::WRONG_PORT { &preface::PREFACE } else { &peer::PREFACE };
    let mut out = BytesMut::from(&preface[..]);
    put_frame(&mut out, Kind::Goaway, 0, 0, 0, |out| Goaway::new(code, 0, message).encode(out));
    // The few bytes fit into the buffer of a fresh socket; one that does not take them is closed without a word.
    poll_fn(|cx| {
        let _ = Pin::new(&mut *socket).poll_write(cx, &out);
        let _ = Pin::new(&mut *socket).poll_shutdown(cx);
        std::task::Poll::Ready(())
    })
    .await;
}

async fn write_all(socket: &mut dyn Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// Reads until so many bytes are there.
async fn fill(socket: &mut dyn Socket, inbound: &mut BytesMut, count: usize) -> io::Result<()> {
    while inbound.len() < count {
        read_more(socket, inbound).await?;
    }
    Ok(())
}

async fn read_more(socket: &mut dyn Socket, inbound: &mut BytesMut) -> io::Result<()> {
    inbound.reserve(READ_BYTES);
    match poll_fn(|cx| tokio_util::io::poll_read_buf(Pin::new(&mut *socket), cx, inbound)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn first_frame(socket: &mut dyn Socket, inbound: &mut BytesMut) -> Result<Frame, PeerError> {
    let mut codec = Codec::new(HANDSHAKE_PAYLOAD_BYTES_MAX);
    loop {
        match codec.decode(inbound) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => read_more(socket, inbound).await?,
            Err(wire::CodecError::Io(error)) => return Err(error.into()),
            Err(wire::CodecError::Frame(error)) => return Err(PeerError::Protocol(error.to_string())),
        }
    }
}
