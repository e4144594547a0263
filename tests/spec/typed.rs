//! A frame through the typed messages and back.

use bytes::BytesMut;
use quantadb::testing::wire::Message;
use quantadb::types::limits::FRAME_PAYLOAD_BYTES_MAX;
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

/// Decodes the frame, which is all of `bytes`, by the typed messages, and encodes what came of it. `client` says who sends it.
pub fn re_encode(bytes: &[u8], client: Option<bool>) -> Result<BytesMut, TypedError> {
    let (header, total) =
        peek(bytes, FRAME_PAYLOAD_BYTES_MAX).map_err(TypedError::Frame)?.ok_or(TypedError::CutShort)?;
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
    match header.kind {
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
