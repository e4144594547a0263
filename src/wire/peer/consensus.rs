//! The messages of consensus: votes, appends, transfer.

use crate::{
    encoding::{Reader, Writer},
    types::{LogId, NodeId, Term, Version},
    wire::{
        error::DecodeError,
        fields::{Field, check, read_bool},
        registry::ErrorCode,
        response::reply,
        tags::skip_tags,
    },
};
use bytes::{BufMut, Bytes, BytesMut};

/// Most entries of one APPEND.
pub const APPEND_ENTRIES_MAX: usize = 1 << 20;
/// What an entry takes without its payload: place, kind, length.
const ENTRY_BYTES_MIN: usize = 24 + 1 + 4;

impl<'a> Field<'a> for LogId {
    fn read(reader: &mut Reader<'a>) -> Result<LogId, DecodeError> {
        Ok(LogId { term: Term(reader.u64()?), leader: NodeId(reader.u64()?), index: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.term.0);
        out.put_u64(self.leader.0);
        out.put_u64(self.index);
    }
}

/// Reads what [`put_optional`] wrote.
pub(super) fn read_optional<'a, T: Field<'a>>(reader: &mut Reader<'a>) -> Result<Option<T>, DecodeError> {
    if read_bool(reader)? { T::read(reader).map(Some) } else { Ok(None) }
}

/// Appends 0, or 1 and the value.
pub(super) fn put_optional<'a, T: Field<'a>>(out: &mut BytesMut, value: Option<&T>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        value.write(out);
    }
}

/// A vote: for whom in which term, and whether a majority has given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerVote {
    /// The term.
    pub term: Term,
    /// Whom it is for.
    pub node: NodeId,
    /// Whether it is known that this node leads the term.
    pub committed: bool,
}

impl<'a> Field<'a> for PeerVote {
    fn read(reader: &mut Reader<'a>) -> Result<PeerVote, DecodeError> {
        Ok(PeerVote { term: Term(reader.u64()?), node: NodeId(reader.u64()?), committed: read_bool(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.term.0);
        out.put_u64(self.node.0);
        out.put_u8(u8::from(self.committed));
    }
}

/// VOTE and PRE_VOTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The vote that is asked for.
    pub vote: PeerVote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
}

reply!(Vote);

impl<'a> Field<'a> for Vote {
    fn read(reader: &mut Reader<'a>) -> Result<Vote, DecodeError> {
        Ok(Vote { vote: Field::read(reader)?, last: read_optional(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        put_optional(out, self.last.as_ref());
    }
}

/// The answer to [`Vote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteReply {
    /// The vote of whoever answers.
    pub vote: PeerVote,
    /// Whether it is given.
    pub granted: bool,
    /// The last entry of whoever answers.
    pub last: Option<LogId>,
}

reply!(VoteReply);

impl<'a> Field<'a> for VoteReply {
    fn read(reader: &mut Reader<'a>) -> Result<VoteReply, DecodeError> {
        Ok(VoteReply { vote: Field::read(reader)?, granted: read_bool(reader)?, last: read_optional(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        out.put_u8(u8::from(self.granted));
        put_optional(out, self.last.as_ref());
    }
}

/// An entry as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its place.
    pub id: LogId,
    /// What its payload is: the log's kind.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
}

/// APPEND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's vote.
    pub vote: PeerVote,
    /// The entry before the first of these.
    pub previous: Option<LogId>,
    /// Up to where the leader knows entries to be committed.
    pub committed: Option<LogId>,
    /// An entry after which whoever hears this has come to another state than a majority, and the majority's chain hash after
    /// it: who has another there stops.
    pub chain: Option<(LogId, u64)>,
    /// The entries: at most [`APPEND_ENTRIES_MAX`].
    pub entries: Vec<PeerEntry>,
}

impl Append {
    /// Decodes the payload; the entries share its bytes.
    // spec: QP-PEER-012
    pub fn decode(payload: &Bytes) -> Result<Append, DecodeError> {
        let mut reader = Reader::new(payload);
        let vote = Field::read(&mut reader)?;
        let (previous, committed) = (read_optional(&mut reader)?, read_optional(&mut reader)?);
        let chain = if read_bool(&mut reader)? { Some((Field::read(&mut reader)?, reader.u64()?)) } else { None };
        let count = reader.u32()? as usize;
        check(ErrorCode::TOO_MANY_ITEMS, APPEND_ENTRIES_MAX, count)?;
        // Room for what has arrived, whatever the count promises.
        let mut entries = Vec::with_capacity(count.min(reader.rest().len() / ENTRY_BYTES_MIN));
        for _ in 0..count {
            let (id, kind) = (Field::read(&mut reader)?, reader.u8()?);
            entries.push(PeerEntry { id, kind, payload: payload.slice_ref(reader.bytes32()?) });
        }
        skip_tags(&mut reader)?;
        Ok(Append { vote, previous, committed, chain, entries })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.write(out);
        put_optional(out, self.previous.as_ref());
        put_optional(out, self.committed.as_ref());
        out.put_u8(u8::from(self.chain.is_some()));
        if let Some((id, hash)) = &self.chain {
            id.write(out);
            out.put_u64(*hash);
        }
        out.put_u32(u32::try_from(self.entries.len()).expect("the caller keeps to the limit of entries"));
        for entry in &self.entries {
            entry.id.write(out);
            out.put_u8(entry.kind);
            out.put_bytes32(&entry.payload);
        }
    }
}

/// How far the node that answers has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReport {
    /// The last entry that it has applied.
    pub applied: LogId,
    /// The version after it.
    pub version: Version,
    /// The chain hash after it.
    pub chain: u64,
}

impl<'a> Field<'a> for PeerReport {
    fn read(reader: &mut Reader<'a>) -> Result<PeerReport, DecodeError> {
        Ok(PeerReport { applied: Field::read(reader)?, version: Version(reader.u64()?), chain: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        self.applied.write(out);
        out.put_u64(self.version.0);
        out.put_u64(self.chain);
    }
}

/// The answer to [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// What became of the entries.
    pub result: AppendResult,
    /// How far the node is, where it tells.
    pub report: Option<PeerReport>,
}

/// What became of the entries of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// Everything up to this entry is the leader's, and durable.
    Matched(Option<LogId>),
    /// The entry before them is another here, or none.
    Conflict(LogId),
    /// This vote is higher: who sent it leads no more.
    HigherVote(PeerVote),
}

reply!(AppendReply);

impl<'a> Field<'a> for AppendReply {
    fn read(reader: &mut Reader<'a>) -> Result<AppendReply, DecodeError> {
        let result = match reader.u8()? {
            0 => AppendResult::Matched(read_optional(reader)?),
            1 => AppendResult::Conflict(Field::read(reader)?),
            2 => AppendResult::HigherVote(Field::read(reader)?),
            _ => return Err(DecodeError::malformed("no such answer to an append")),
        };
        Ok(AppendReply { result, report: read_optional(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        match &self.result {
            AppendResult::Matched(last) => {
                out.put_u8(0);
                put_optional(out, last.as_ref());
            }
            AppendResult::Conflict(id) => {
                out.put_u8(1);
                id.write(out);
            }
            AppendResult::HigherVote(vote) => {
                out.put_u8(2);
                vote.write(out);
            }
        }
        put_optional(out, self.report.as_ref());
    }
}

/// TRANSFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The leader's vote.
    pub vote: PeerVote,
    /// Who is to lead.
    pub to: NodeId,
    /// The leader's last entry.
    pub last: Option<LogId>,
}

reply!(Transfer);

impl<'a> Field<'a> for Transfer {
    fn read(reader: &mut Reader<'a>) -> Result<Transfer, DecodeError> {
        Ok(Transfer { vote: Field::read(reader)?, to: NodeId(reader.u64()?), last: read_optional(reader)? })
    }

    fn write(&self, out: &mut BytesMut) {
        self.vote.write(out);
        out.put_u64(self.to.0);
        put_optional(out, self.last.as_ref());
    }
}

/// The answer to [`Transfer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferReply {
    /// It stands for election.
    Accepted,
    /// Its vote is another by now.
    VoteChanged(PeerVote),
    /// Its log ends here, below the leader's.
    Behind(Option<LogId>),
}

reply!(TransferReply);

impl<'a> Field<'a> for TransferReply {
    fn read(reader: &mut Reader<'a>) -> Result<TransferReply, DecodeError> {
        match reader.u8()? {
            0 => Ok(TransferReply::Accepted),
            1 => Field::read(reader).map(TransferReply::VoteChanged),
            2 => read_optional(reader).map(TransferReply::Behind),
            _ => Err(DecodeError::malformed("no such answer to a transfer")),
        }
    }

    fn write(&self, out: &mut BytesMut) {
        match self {
            TransferReply::Accepted => out.put_u8(0),
            TransferReply::VoteChanged(vote) => {
                out.put_u8(1);
                vote.write(out);
            }
            TransferReply::Behind(last) => {
                out.put_u8(2);
                put_optional(out, last.as_ref());
            }
        }
    }
}
