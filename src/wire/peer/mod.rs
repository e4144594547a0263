//! What nodes of a cluster say to each other: a protocol of its own, on the frames of the client's.
//!
//! A connection begins with the peer [`PREFACE`] each way, then [`PeerHello`] and [`PeerWelcome`]. Its hello names a
//! [`Lane`]: what the connection is for. On the lane of consensus and of snapshots the frames are REQUEST, RESPONSE, ERROR and
//! GOAWAY, and a request's opcode is a [`PeerOpcode`]; on the lane of requests both sides speak the client's protocol from
//! there on, with the peer's opcodes besides.
//!
//! Entries, memberships and rows are carried in the encodings that the log, the marker and the store have, as bytes.

mod messages;
mod opcodes;
mod snapshot;

pub use messages::{
    Append, AppendReply, AppendResult, CommitWhole, Join, Joined, Lane, PeerEntry, PeerHello, PeerReport, PeerVote,
    PeerWelcome, Transfer, TransferReply, Vote, VoteReply,
};
pub use opcodes::{PEER_OPCODES, PeerOpcode, PeerOpcodeRow};
pub use snapshot::{SnapshotBegin, SnapshotBegun, SnapshotEnd, SnapshotEnded, SnapshotPart, SnapshotRow};

use super::registry::FRAMING_VERSION;

/// What every framing version of the peer protocol begins with: as the client's, with a P for the B.
pub const MAGIC: [u8; 7] = [0x51, 0x44, 0x50, 0x0d, 0x0a, 0x1a, 0x0a];
/// The preface that this code sends to peers.
pub const PREFACE: [u8; 8] = [0x51, 0x44, 0x50, 0x0d, 0x0a, 0x1a, 0x0a, FRAMING_VERSION];
/// The least version of the peer protocol that this code speaks.
pub const PEER_VERSION_MIN: u8 = 1;
/// The greatest version of the peer protocol that this code speaks.
pub const PEER_VERSION_MAX: u8 = 1;
/// The longest payload of a frame between peers once the handshake is done: an entry is one transaction more than a group
/// may have, and an append carries at least one entry.
pub const PEER_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
