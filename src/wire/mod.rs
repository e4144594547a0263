//! The wire protocol, without sockets: bytes in, messages out, and back.
//!
//! A connection is a [`preface`] each way, then frames: a [`Header`] of 24 bytes and a payload. A payload is fixed fields
//! in order, then a tagged section. What the numbers mean stands once, in [`registry`]; the specification's tables are
//! made from it.
//!
//! ```text
//! put k = v in keyspace 1, request id 5:
//!
//! 00 00 00 0c                          payload length 12
//! 04  00  00 20                        REQUEST, no flags, PUT
//! 00 00 00 00 00 00 00 05              request id
//! xx xx xx xx  yy yy yy yy             CRC-32 of the payload, CRC-32 of the 20 bytes before
//! 00 01  00 00 00 01  6b               key: length 1, keyspace 1, "k"
//! 00 00 00 01  76                      value: length 1, "v"
//! ```
//!
//! Invariants:
//! - Decoding never panics and allocates nothing before a limit was checked; lists are checked once, when the message is
//!   decoded, and then read in place.
//! - Messages borrow from the payload. Encoding appends to a [`bytes::BytesMut`], without a buffer between.
//! - Every message has one encoding: what decodes, encodes to the same bytes, tags that are ignored aside.
//!
//! Never reads a clock, a socket or a file; never spawns, never logs.

pub mod registry;

mod codec;
mod frame;
pub mod preface;

pub mod peer;

mod backup;
mod cluster;
mod control;
mod error;
mod execute;
mod fields;
mod handshake;
mod request;
mod response;
mod scan;
mod tags;
mod token;

pub use backup::{BackupChunk, BackupEnd, BackupRow};
pub use cluster::{ClusterAddReply, ClusterMember, ClusterStatusReply};
pub use codec::{Codec, CodecError, Frame};
pub use control::{Cancel, Credit, Goaway, Notice, Ping};
pub use error::{DecodeError, WireError};
pub use execute::{Condition, Execute, Op, OpResult, Test};
pub use fields::{Blob, Field, Found, Key, List, ListBuf, ListIter, ListWriter, RangeRef, Row, Text};
pub use frame::{FrameError, FrameMark, Header, begin_frame, finish_frame, peek, put_frame};
pub use handshake::{Hello, Limit, Welcome};
pub use registry::{ErrorCode, Kind, LimitId, Opcode, Outcome, Retry, Tag};
pub use request::{Request, RequestBody};
pub use response::{
    AtomicReply, CommitReply, Counter, DeleteRangeReply, ExecuteReply, GetManyReply, GetReply, OpenKeyspaceReply,
    OutcomeReply, OutcomeState, Response, Role, StatusReply, VersionReply,
};
pub use scan::{Chunk, Scan, ScanEnd, ScanEndReason};
pub use tags::{Consistency, Grease, IfGone, RequestTags};
pub use token::{Course, ResumeToken};
