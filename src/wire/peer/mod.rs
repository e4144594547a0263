//! What nodes of a cluster say to each other: a protocol of its own, on the frames of the client's.
//!
//! A connection begins with the peer [`PREFACE`] each way, then [`PeerHello`] and [`PeerWelcome`]. Its hello names a
//! [`Lane`]: what the connection is for. On the lane of consensus and of snapshots the frames are REQUEST, RESPONSE, ERROR and
//! GOAWAY, and a request's opcode is a [`PeerOpcode`]; on the lane of requests both sides speak the client's protocol from
//! there on, with the peer's opcodes besides.
//!
//! Entries, memberships and rows are carried in the encodings that the log, the marker and the store have, as bytes.

mod commit;
mod consensus;
mod handshake;
mod join;
mod layout;
mod opcodes;
mod snapshot;

pub use commit::CommitWhole;
pub use consensus::{
    APPEND_ENTRIES_MAX, Append, AppendReply, AppendResult, PeerEntry, PeerReport, PeerVote, Transfer, TransferReply,
    Vote, VoteReply,
};
pub use handshake::{Lane, PeerHello, PeerWelcome};
pub use join::{Join, Joined};
pub use layout::{LANES, PEER_HELLO, PEER_WELCOME};
pub use opcodes::{PEER_OPCODES, PeerOpcode, PeerOpcodeRow};
pub use snapshot::{
    MEMBERSHIP_BYTES_MAX, SnapshotBegin, SnapshotBegun, SnapshotEnd, SnapshotEnded, SnapshotPart, SnapshotRow,
    SnapshotTaken,
};

use super::{
    preface::{self, PREFACE_BYTES, PrefaceError},
    registry::FRAMING_VERSION,
};
use crate::types::limits::{FRAME_PAYLOAD_BYTES_MAX, TRANSACTION_BYTES_MAX};

/// What every framing version of the peer protocol begins with: as the client's, with a P for the B.
// spec: QP-PEER-001
pub const MAGIC: [u8; 7] = [0x51, 0x44, 0x50, 0x0d, 0x0a, 0x1a, 0x0a];
/// The preface that this code sends to peers.
pub const PREFACE: [u8; PREFACE_BYTES] = [0x51, 0x44, 0x50, 0x0d, 0x0a, 0x1a, 0x0a, FRAMING_VERSION];
/// The least version of the peer protocol that this code speaks.
pub const PEER_VERSION_MIN: u8 = 1;
/// The greatest version of the peer protocol that this code speaks.
pub const PEER_VERSION_MAX: u8 = if cfg!(feature = "skew") { 2 } else { 1 };
/// The longest payload of a frame between peers once the handshake is done: an entry is one transaction more than a group
/// may have, and an append carries at least one entry.
pub const PEER_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = {
    assert!(FRAME_PAYLOAD_BYTES_MAX < PEER_PAYLOAD_BYTES_MAX, "what a client may send can be forwarded");
    assert!(2 * TRANSACTION_BYTES_MAX < PEER_PAYLOAD_BYTES_MAX, "points, and ranges with mutations, fit a frame");
};

/// Judges the first bytes of a connection between peers, as [`preface::check_preface`] does those of a client's: `false`
/// while more are wanted. A client's preface is [`PrefaceError::WrongPort`]: it is answered with a client's preface and a
/// GOAWAY.
// spec: QP-PEER-002
// spec: QP-PEER-003
pub fn check_preface(bytes: &[u8]) -> Result<bool, PrefaceError> {
    preface::check(bytes, &MAGIC, &preface::MAGIC)
}

#[cfg(test)]
mod tests;
