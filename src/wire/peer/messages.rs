//! The messages of consensus, of the handshake and of forwarding.

use crate::{
    encoding::{Reader, Writer},
    types::{ClusterId, LogId, NodeId, Term, Version, limits},
    wire::{
        error::DecodeError,
        registry::Opcode,
        tags::{RequestTags, skip_tags},
    },
};
use bytes::{BufMut, Bytes, BytesMut};

/// What a connection between peers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, appends, transfer.
    Consensus = 1,
    /// One snapshot.
    Snapshot = 2,
    /// Requests of clients, forwarded to the leader.
    Requests = 3,
    /// A node that wants to become a member.
    Join = 4,
}

impl Lane {
    /// The lane with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Lane> {
        match number {
            1 => Some(Lane::Consensus),
            2 => Some(Lane::Snapshot),
            3 => Some(Lane::Requests),
            4 => Some(Lane::Join),
            _ => None,
        }
    }
}

/// The first frame of whoever opens a connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The least version of the peer protocol that it speaks.
    pub version_min: u8,
    /// The greatest.
    pub version_max: u8,
    /// The greatest state-machine level that it knows.
    pub level: u16,
    /// What the connection is for.
    pub lane: Lane,
    /// The cluster that it is of; zeros on the lane of joining, where it is of none.
    pub cluster: ClusterId,
    /// Who it is; 0 on the lane of joining.
    pub from: NodeId,
    /// Whom it wants; 0 for whoever answers.
    pub to: NodeId,
}

/// The answer to [`PeerHello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerWelcome {
    /// The version that both speak from now on.
    pub version: u8,
    /// The greatest state-machine level that this side knows.
    pub level: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who this is.
    pub node: NodeId,
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

/// VOTE and PRE_VOTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The vote that is asked for.
    pub vote: PeerVote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
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
    /// The last entry that the leader has applied, and the chain hash after it, where it tells them.
    pub chain: Option<(LogId, u64)>,
    /// The entries.
    pub entries: Vec<PeerEntry>,
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

/// JOIN: a node that has no identity asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The identity that an earlier JOIN gave it; 0 for none.
    pub node: NodeId,
    /// Where its peer listener is.
    pub peer_address: String,
    /// Where its client listener is.
    pub client_address: String,
}

/// The answer to [`Join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who the node is from now on.
    pub node: NodeId,
}

/// COMMIT_WHOLE: a transaction that a session of another node holds. Its tags are those of COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitWhole<'a> {
    /// What it reads at.
    pub read_version: Version,
    /// The full keys that it read: `bytes16` each.
    pub points: &'a [u8],
    /// The ranges that it read: start and end `bytes16` each.
    pub ranges: &'a [u8],
    /// How many mutations it has.
    pub mutations: u32,
    /// The mutations, encoded as in the log.
    pub body: &'a [u8],
}

const ENTRIES_MAX: u32 = 1 << 20;
const ADDRESS_BYTES_MAX: usize = 255;

fn flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::malformed("neither 0 nor 1")),
    }
}

pub(super) fn read_log_id(reader: &mut Reader<'_>) -> Result<LogId, DecodeError> {
    Ok(LogId { term: Term(reader.u64()?), leader: NodeId(reader.u64()?), index: reader.u64()? })
}

pub(super) fn put_log_id(out: &mut BytesMut, id: &LogId) {
    out.put_u64(id.term.0);
    out.put_u64(id.leader.0);
    out.put_u64(id.index);
}

pub(super) fn read_optional(reader: &mut Reader<'_>) -> Result<Option<LogId>, DecodeError> {
    if flag(reader)? { read_log_id(reader).map(Some) } else { Ok(None) }
}

pub(super) fn put_optional(out: &mut BytesMut, id: Option<&LogId>) {
    out.put_u8(u8::from(id.is_some()));
    if let Some(id) = id {
        put_log_id(out, id);
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let bytes = reader.bytes16()?;
    if bytes.len() > ADDRESS_BYTES_MAX {
        return Err(DecodeError::malformed("an address is too long"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::malformed("an address is not UTF-8"))?;
    Ok(text.to_owned())
}

impl PeerVote {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<PeerVote, DecodeError> {
        Ok(PeerVote { term: Term(reader.u64()?), node: NodeId(reader.u64()?), committed: flag(reader)? })
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u64(self.term.0);
        out.put_u64(self.node.0);
        out.put_u8(u8::from(self.committed));
    }
}

impl PeerHello {
    /// Decodes the payload of a HELLO between peers.
    pub fn decode(payload: &[u8]) -> Result<PeerHello, DecodeError> {
        let mut reader = Reader::new(payload);
        let (version_min, version_max) = (reader.u8()?, reader.u8()?);
        if version_min > version_max {
            return Err(DecodeError::malformed("the least version is above the greatest"));
        }
        let level = reader.u16()?;
        let lane = Lane::from_number(reader.u8()?).ok_or(DecodeError::malformed("no such lane"))?;
        let cluster = ClusterId(reader.array16()?);
        let (from, to) = (NodeId(reader.u64()?), NodeId(reader.u64()?));
        skip_tags(&mut reader)?;
        Ok(PeerHello { version_min, version_max, level, lane, cluster, from, to })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u16(self.level);
        out.put_u8(self.lane as u8);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.from.0);
        out.put_u64(self.to.0);
    }
}

impl PeerWelcome {
    /// Decodes the payload of a WELCOME between peers.
    pub fn decode(payload: &[u8]) -> Result<PeerWelcome, DecodeError> {
        let mut reader = Reader::new(payload);
        let (version, level) = (reader.u8()?, reader.u16()?);
        let (cluster, node) = (ClusterId(reader.array16()?), NodeId(reader.u64()?));
        skip_tags(&mut reader)?;
        Ok(PeerWelcome { version, level, cluster, node })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.version);
        out.put_u16(self.level);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
    }
}

impl Vote {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Vote, DecodeError> {
        let mut reader = Reader::new(payload);
        let (vote, last) = (PeerVote::read(&mut reader)?, read_optional(&mut reader)?);
        skip_tags(&mut reader)?;
        Ok(Vote { vote, last })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.put(out);
        put_optional(out, self.last.as_ref());
    }
}

impl VoteReply {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<VoteReply, DecodeError> {
        let mut reader = Reader::new(payload);
        let (vote, granted) = (PeerVote::read(&mut reader)?, flag(&mut reader)?);
        let last = read_optional(&mut reader)?;
        skip_tags(&mut reader)?;
        Ok(VoteReply { vote, granted, last })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.put(out);
        out.put_u8(u8::from(self.granted));
        put_optional(out, self.last.as_ref());
    }
}

impl Append {
    /// Decodes the payload; the entries share its bytes.
    pub fn decode(payload: &Bytes) -> Result<Append, DecodeError> {
        let mut reader = Reader::new(payload);
        let vote = PeerVote::read(&mut reader)?;
        let (previous, committed) = (read_optional(&mut reader)?, read_optional(&mut reader)?);
        let chain = if flag(&mut reader)? { Some((read_log_id(&mut reader)?, reader.u64()?)) } else { None };
        let count = reader.u32()?;
        if count > ENTRIES_MAX {
            return Err(DecodeError::malformed("too many entries"));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            let (id, kind) = (read_log_id(&mut reader)?, reader.u8()?);
            entries.push(PeerEntry { id, kind, payload: payload.slice_ref(reader.bytes32()?) });
        }
        skip_tags(&mut reader)?;
        Ok(Append { vote, previous, committed, chain, entries })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.put(out);
        put_optional(out, self.previous.as_ref());
        put_optional(out, self.committed.as_ref());
        out.put_u8(u8::from(self.chain.is_some()));
        if let Some((id, hash)) = &self.chain {
            put_log_id(out, id);
            out.put_u64(*hash);
        }
        out.put_u32(u32::try_from(self.entries.len()).expect("a reader of the log gives few entries at once"));
        for entry in &self.entries {
            put_log_id(out, &entry.id);
            out.put_u8(entry.kind);
            out.put_bytes32(&entry.payload);
        }
    }
}

impl AppendReply {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<AppendReply, DecodeError> {
        let mut reader = Reader::new(payload);
        let result = match reader.u8()? {
            0 => AppendResult::Matched(read_optional(&mut reader)?),
            1 => AppendResult::Conflict(read_log_id(&mut reader)?),
            2 => AppendResult::HigherVote(PeerVote::read(&mut reader)?),
            _ => return Err(DecodeError::malformed("no such answer to an append")),
        };
        let report = match flag(&mut reader)? {
            true => Some(PeerReport {
                applied: read_log_id(&mut reader)?,
                version: Version(reader.u64()?),
                chain: reader.u64()?,
            }),
            false => None,
        };
        skip_tags(&mut reader)?;
        Ok(AppendReply { result, report })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match &self.result {
            AppendResult::Matched(last) => {
                out.put_u8(0);
                put_optional(out, last.as_ref());
            }
            AppendResult::Conflict(id) => {
                out.put_u8(1);
                put_log_id(out, id);
            }
            AppendResult::HigherVote(vote) => {
                out.put_u8(2);
                vote.put(out);
            }
        }
        out.put_u8(u8::from(self.report.is_some()));
        if let Some(report) = &self.report {
            put_log_id(out, &report.applied);
            out.put_u64(report.version.0);
            out.put_u64(report.chain);
        }
    }
}

impl Transfer {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Transfer, DecodeError> {
        let mut reader = Reader::new(payload);
        let (vote, to) = (PeerVote::read(&mut reader)?, NodeId(reader.u64()?));
        let last = read_optional(&mut reader)?;
        skip_tags(&mut reader)?;
        Ok(Transfer { vote, to, last })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        self.vote.put(out);
        out.put_u64(self.to.0);
        put_optional(out, self.last.as_ref());
    }
}

impl TransferReply {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<TransferReply, DecodeError> {
        let mut reader = Reader::new(payload);
        let reply = match reader.u8()? {
            0 => TransferReply::Accepted,
            1 => TransferReply::VoteChanged(PeerVote::read(&mut reader)?),
            2 => TransferReply::Behind(read_optional(&mut reader)?),
            _ => return Err(DecodeError::malformed("no such answer to a transfer")),
        };
        skip_tags(&mut reader)?;
        Ok(reply)
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            TransferReply::Accepted => out.put_u8(0),
            TransferReply::VoteChanged(vote) => {
                out.put_u8(1);
                vote.put(out);
            }
            TransferReply::Behind(last) => {
                out.put_u8(2);
                put_optional(out, last.as_ref());
            }
        }
    }
}

impl Join {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Join, DecodeError> {
        let mut reader = Reader::new(payload);
        let node = NodeId(reader.u64()?);
        let (peer_address, client_address) = (read_address(&mut reader)?, read_address(&mut reader)?);
        skip_tags(&mut reader)?;
        Ok(Join { node, peer_address, client_address })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.node.0);
        out.put_bytes16(self.peer_address.as_bytes());
        out.put_bytes16(self.client_address.as_bytes());
    }
}

impl Joined {
    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Joined, DecodeError> {
        let mut reader = Reader::new(payload);
        let (cluster, node) = (ClusterId(reader.array16()?), NodeId(reader.u64()?));
        skip_tags(&mut reader)?;
        Ok(Joined { cluster, node })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
    }
}

impl<'a> CommitWhole<'a> {
    /// Decodes the payload: the fields, and the tags of a COMMIT.
    pub fn decode(payload: &'a [u8]) -> Result<(CommitWhole<'a>, RequestTags<'a>), DecodeError> {
        let mut reader = Reader::new(payload);
        let commit = CommitWhole::read(&mut reader)?;
        let tags = RequestTags::read(&mut reader, Opcode::Commit)?;
        Ok((commit, tags))
    }

    /// Appends the payload.
    pub fn encode(&self, tags: &RequestTags<'_>, out: &mut BytesMut) {
        self.put(out);
        tags.write(out, None);
    }

    fn read(reader: &mut Reader<'a>) -> Result<CommitWhole<'a>, DecodeError> {
        let read_version = Version(reader.u64()?);
        let (points, ranges) = (reader.bytes32()?, reader.bytes32()?);
        let (mutations, body) = (reader.u32()?, reader.bytes32()?);
        if points.len() + ranges.len() + body.len() > limits::TRANSACTION_BYTES_MAX + limits::TRANSACTION_BYTES_MAX / 8
        {
            return Err(DecodeError::malformed("the transaction is over its limit"));
        }
        let commit = CommitWhole { read_version, points, ranges, mutations, body };
        commit
            .points()
            .chain(commit.ranges().map(|range| range.map(|(start, _)| start)))
            .try_for_each(|read| read.map(drop))?;
        Ok(commit)
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u64(self.read_version.0);
        out.put_bytes32(self.points);
        out.put_bytes32(self.ranges);
        out.put_u32(self.mutations);
        out.put_bytes32(self.body);
    }

    /// The full keys that were read.
    pub fn points(&self) -> impl Iterator<Item = Result<&'a [u8], DecodeError>> + use<'a> {
        let mut reader = Reader::new(self.points);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            let read = reader.bytes16().map_err(DecodeError::from);
            if read.is_err() {
                reader = Reader::new(&[]);
            }
            Some(read)
        })
    }

    /// The ranges that were read: start and end.
    pub fn ranges(&self) -> impl Iterator<Item = Result<(&'a [u8], &'a [u8]), DecodeError>> + use<'a> {
        let mut reader = Reader::new(self.ranges);
        std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            let mut read = || -> Result<_, DecodeError> { Ok((reader.bytes16()?, reader.bytes16()?)) };
            let read = read();
            if read.is_err() {
                reader = Reader::new(&[]);
            }
            Some(read)
        })
    }
}
