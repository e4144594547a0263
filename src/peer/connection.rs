//! Frames over a socket, both ways, with a buffer each.

use crate::{
    env::Socket,
    wire::{Codec, CodecError, ErrorCode, Frame, Kind, WireError, peer::PEER_PAYLOAD_BYTES_MAX, put_frame},
};
use bytes::{Buf, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_util::codec::Decoder;

/// Room that a read is given at least.
const READ_BYTES: usize = 64 * 1024;
/// A buffer larger than this is given back once it is empty.
const KEEP_BYTES: usize = 1024 * 1024;

/// Why a connection between peers failed, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The socket failed, or nobody answered.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not what a peer says.
    #[error("{0}")]
    Protocol(String),
    /// The other side ended the connection, and said why.
    #[error("turned away: {code}: {message}")]
    TurnedAway {
        /// The code.
        code: ErrorCode,
        /// In words.
        message: String,
    },
    /// The other side refused a request.
    #[error("refused: {}: {}", .0.code, .0.message)]
    Refused(Box<WireError>),
    /// It took too long.
    #[error("no answer in time")]
    Late,
}

/// A connection whose handshake is done. Whoever holds it sends and reads by turns, or polls both.
pub struct Connection {
    socket: Box<dyn Socket>,
    inbound: BytesMut,
    outbound: BytesMut,
    codec: Codec,
}

impl Connection {
    pub(super) fn new(socket: Box<dyn Socket>, inbound: BytesMut) -> Connection {
        Connection { socket, inbound, outbound: BytesMut::new(), codec: Codec::new(PEER_PAYLOAD_BYTES_MAX) }
    }

    /// The socket and what was read beyond the handshake, for who goes on by other means.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn Socket>, BytesMut) {
        (self.socket, self.inbound)
    }

    /// Adds a frame to what is to be sent.
    pub fn put(&mut self, kind: Kind, opcode: u16, id: u64, write: impl FnOnce(&mut BytesMut)) {
        put_frame(&mut self.outbound, kind, 0, opcode, id, write);
    }

    /// Adds what another has framed.
    pub fn put_raw(&mut self, frames: &[u8]) {
        self.outbound.extend_from_slice(frames);
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outbound.len()
    }

    /// Sends what was put.
    pub async fn send(&mut self) -> Result<(), PeerError> {
        std::future::poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Sends as much as the socket takes; ready once nothing is left.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        while !self.outbound.is_empty() {
            let count = ready!(Pin::new(&mut *self.socket).poll_write(cx, &self.outbound))?;
            if count == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.outbound.advance(count);
        }
        if self.outbound.capacity() > KEEP_BYTES {
            self.outbound = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame; `None` once the other side has closed. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Frame>, PeerError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next frame, if it has arrived. A GOAWAY is an error that says what it says.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, PeerError>> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.inbound).map_err(of_codec)? {
                return Poll::Ready(match frame.kind {
                    Kind::Goaway => Err(turned_away(&frame)),
                    _ => Ok(Some(frame)),
                });
            }
            if self.inbound.capacity() - self.inbound.len() < READ_BYTES / 2 {
                self.inbound.reserve(READ_BYTES.max(self.inbound.len()));
            }
            let read = tokio_util::io::poll_read_buf(Pin::new(&mut *self.socket), cx, &mut self.inbound);
            if ready!(read)? == 0 {
                return Poll::Ready(match self.inbound.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                });
            }
        }
    }
}

fn of_codec(error: CodecError) -> PeerError {
    match error {
        CodecError::Io(error) => PeerError::Io(error),
        CodecError::Frame(error) => PeerError::Protocol(error.to_string()),
    }
}

pub(super) fn turned_away(frame: &Frame) -> PeerError {
    match crate::wire::Goaway::decode(&frame.payload) {
        Ok(goaway) => PeerError::TurnedAway { code: goaway.code, message: goaway.message.to_owned() },
        Err(error) => PeerError::Protocol(error.to_string()),
    }
}
