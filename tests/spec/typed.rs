//! A frame through the typed messages and back.

use bytes::{Bytes, BytesMut};
use quantadb::testing::wire::{Dialect, Message, PeerMessage};
use quantadb::wire::peer::{PEER_PAYLOAD_BYTES_MAX, PeerOpcode};
use quantadb::wire::registry::{Direction, KINDS};
use quantadb::wire::{DecodeError, FrameError, Header, Kind, Opcode, Request, peek, put_frame};

/// Why a frame does not come back.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    #[error("{0}")]
    Frame(FrameError),
    #[error("the frame is cut short, or bytes are left over")]
    CutShort,
    #[error("the other side sends this kind")]
    WrongSide,
    #[error("no message has this kind and opcode")]
    Opcode,
    #[error("{0}")]
    Message(DecodeError),
}

/// Decodes the frame, which is all of `bytes`, by the typed messages, and encodes what came of it. `client` says whether who
/// opened the connection sends it.
pub fn re_encode(dialect: Dialect, bytes: &[u8], client: Option<bool>) -> Result<BytesMut, TypedError> {
    let (header, total) =
        peek(bytes, PEER_PAYLOAD_BYTES_MAX).map_err(TypedError::Frame)?.ok_or(TypedError::CutShort)?;
    if total != bytes.len() {
        return Err(TypedError::CutShort);
    }
    if let (Some(client), Some(row)) = (client, KINDS.iter().find(|row| row.kind == header.kind)) {
        let wrong = if client { Direction::ToClient } else { Direction::ToServer };
        if row.direction == wrong {
            return Err(TypedError::WrongSide);
        }
    }
    let payload = &bytes[Header::BYTES..];
    let mut again = BytesMut::new();
    let between_nodes = match PeerOpcode::from_number(header.opcode) {
        _ if dialect == Dialect::Client => None,
        None if matches!(header.kind, Kind::Hello | Kind::Welcome) => Some(PeerOpcode::Vote),
        opcode => opcode,
    };
    let shared = Bytes::copy_from_slice(payload);
    let between_nodes = between_nodes.and_then(|opcode| PeerMessage::decode(header.kind, opcode, &shared));
    match header.kind {
        _ if between_nodes.is_some() => {
            let message = between_nodes.ok_or(TypedError::Opcode)?;
            message.map_err(TypedError::Message)?.encode(&mut again);
        }
        Kind::Request => {
            Request::decode(header.opcode, payload).map_err(TypedError::Message)?.encode(&mut again);
        }
        Kind::Other(_) => again.extend_from_slice(payload),
        kind => {
            // An ERROR may repeat an opcode that nobody knows; the others answer one that is known.
            let opcode = match Opcode::from_number(header.opcode) {
                None if matches!(kind, Kind::Response | Kind::Chunk | Kind::End) => return Err(TypedError::Opcode),
                known => known.unwrap_or(Opcode::Status),
            };
            let message = Message::decode(kind, opcode, payload).ok_or(TypedError::Opcode)?;
            message.map_err(TypedError::Message)?.encode(&mut again);
        }
    }
    let mut out = BytesMut::new();
    put_frame(&mut out, header.kind, header.flags, header.opcode, header.request_id, |out| {
        out.extend_from_slice(&again);
    });
    Ok(out)
}
