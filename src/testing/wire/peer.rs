//! Any message between nodes.

use super::parts::{Parts, blob, grease};
use crate::types::{ClusterId, IdempotencyPair, KeyspaceId, LogId, NodeId, Term, Version, key_after};
use crate::wire::peer::{
    Append, AppendReply, AppendResult, CommitWhole, Join, Joined, Lane, PEER_OPCODES, PeerEntry, PeerHello, PeerOpcode,
    PeerReport, PeerVote, PeerWelcome, SnapshotBegin, SnapshotBegun, SnapshotEnd, SnapshotEnded, SnapshotPart,
    SnapshotRow, SnapshotTaken, Transfer, TransferReply, Vote, VoteReply,
};
use crate::wire::{CommitReply, DecodeError, Field, Grease, Kind, Op, RequestTags};
use bytes::{Bytes, BytesMut};
use quickcheck::{Arbitrary, Gen};
use std::collections::BTreeMap;

/// A message between nodes, typed. ERROR and GOAWAY are those of [`super::Message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// HELLO.
    Hello(PeerHello),
    /// WELCOME.
    Welcome(PeerWelcome),
    /// VOTE and PRE_VOTE.
    Vote(Vote),
    /// Their answer.
    VoteReply(VoteReply),
    /// APPEND.
    Append(Append),
    /// Its answer.
    AppendReply(AppendReply),
    /// TRANSFER.
    Transfer(Transfer),
    /// Its answer.
    TransferReply(TransferReply),
    /// SNAPSHOT_BEGIN.
    SnapshotBegin(SnapshotBegin),
    /// Its answer.
    SnapshotBegun(SnapshotBegun),
    /// SNAPSHOT_PART.
    SnapshotPart(SnapshotPart),
    /// Its answer.
    SnapshotTaken(SnapshotTaken),
    /// SNAPSHOT_END.
    SnapshotEnd(SnapshotEnd),
    /// Its answer.
    SnapshotEnded(SnapshotEnded),
    /// JOIN.
    Join(Join),
    /// Its answer.
    Joined(Joined),
    /// COMMIT_WHOLE and its tags.
    CommitWhole(CommitWhole<'a>, RequestTags<'a>),
    /// Its answer.
    Committed(CommitReply<'a>),
}

impl<'a> PeerMessage<'a> {
    /// Decodes the payload of a frame of this kind and opcode. `None` for a kind that is not here.
    pub fn decode(kind: Kind, opcode: PeerOpcode, payload: &'a Bytes) -> Option<Result<PeerMessage<'a>, DecodeError>> {
        use PeerMessage as M;
        Some(match (kind, opcode) {
            (Kind::Hello, _) => PeerHello::decode(payload).map(M::Hello),
            (Kind::Welcome, _) => PeerWelcome::decode(payload).map(M::Welcome),
            (Kind::Request, PeerOpcode::Vote | PeerOpcode::PreVote) => Vote::decode(payload).map(M::Vote),
            (Kind::Response, PeerOpcode::Vote | PeerOpcode::PreVote) => VoteReply::decode(payload).map(M::VoteReply),
            (Kind::Request, PeerOpcode::Append) => Append::decode(payload).map(M::Append),
            (Kind::Response, PeerOpcode::Append) => AppendReply::decode(payload).map(M::AppendReply),
            (Kind::Request, PeerOpcode::Transfer) => Transfer::decode(payload).map(M::Transfer),
            (Kind::Response, PeerOpcode::Transfer) => TransferReply::decode(payload).map(M::TransferReply),
            (Kind::Request, PeerOpcode::SnapshotBegin) => SnapshotBegin::decode(payload).map(M::SnapshotBegin),
            (Kind::Response, PeerOpcode::SnapshotBegin) => SnapshotBegun::decode(payload).map(M::SnapshotBegun),
            (Kind::Request, PeerOpcode::SnapshotPart) => SnapshotPart::decode(payload).map(M::SnapshotPart),
            (Kind::Response, PeerOpcode::SnapshotPart) => SnapshotTaken::decode(payload).map(M::SnapshotTaken),
            (Kind::Request, PeerOpcode::SnapshotEnd) => SnapshotEnd::decode(payload).map(M::SnapshotEnd),
            (Kind::Response, PeerOpcode::SnapshotEnd) => SnapshotEnded::decode(payload).map(M::SnapshotEnded),
            (Kind::Request, PeerOpcode::Join) => Join::decode(payload).map(M::Join),
            (Kind::Response, PeerOpcode::Join) => Joined::decode(payload).map(M::Joined),
            (Kind::Request, PeerOpcode::CommitWhole) => {
                CommitWhole::decode(payload).map(|(commit, tags)| M::CommitWhole(commit, tags))
            }
            (Kind::Response, PeerOpcode::CommitWhole) => CommitReply::decode(payload).map(M::Committed),
            _ => return None,
        })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            PeerMessage::Hello(message) => message.encode(out),
            PeerMessage::Welcome(message) => message.encode(out),
            PeerMessage::Vote(message) => message.encode(out),
            PeerMessage::VoteReply(message) => message.encode(out),
            PeerMessage::Append(message) => message.encode(out),
            PeerMessage::AppendReply(message) => message.encode(out),
            PeerMessage::Transfer(message) => message.encode(out),
            PeerMessage::TransferReply(message) => message.encode(out),
            PeerMessage::SnapshotBegin(message) => message.encode(out),
            PeerMessage::SnapshotBegun(message) => message.encode(out),
            PeerMessage::SnapshotPart(message) => message.encode(out),
            PeerMessage::SnapshotTaken(message) => message.encode(out),
            PeerMessage::SnapshotEnd(message) => message.encode(out),
            PeerMessage::SnapshotEnded(message) => message.encode(out),
            PeerMessage::Join(message) => message.encode(out),
            PeerMessage::Joined(message) => message.encode(out),
            PeerMessage::CommitWhole(message, tags) => message.encode(tags, out),
            PeerMessage::Committed(message) => message.encode(out),
        }
    }
}

/// Any message between nodes.
#[derive(Clone, Debug)]
pub struct AnyPeerMessage {
    kind: Kind,
    opcode: PeerOpcode,
    parts: Parts,
    log_ids: [LogId; 4],
    entries: Vec<PeerEntry>,
    rows: Vec<SnapshotRow>,
    reads: [Bytes; 2],
    body: Bytes,
    mutations: u32,
    /// A tag that means nothing, for whoever sends it.
    pub grease: Option<Grease>,
}

fn log_id(g: &mut Gen) -> LogId {
    let mut number = || u64::arbitrary(g) >> (u32::arbitrary(g) % 64);
    LogId { term: Term(number()), leader: NodeId(number()), index: number() }
}

fn full_key(g: &mut Gen) -> Bytes {
    KeyspaceId(*g.choose(&[0, 1, 16, u32::MAX - 1]).expect("there are keyspaces")).full_key(&blob(g))
}

/// Keys and ranges as COMMIT_WHOLE carries them.
fn reads(g: &mut Gen) -> [Bytes; 2] {
    let (mut points, mut ranges) = (BytesMut::new(), BytesMut::new());
    for _ in 0..u8::arbitrary(g) % 4 {
        CommitWhole::put_point(&mut points, &full_key(g));
        let start = full_key(g);
        let keyspace = KeyspaceId(u32::from_be_bytes([start[0], start[1], start[2], start[3]]));
        let end = if bool::arbitrary(g) { key_after(&start) } else { keyspace.upper_bound() };
        CommitWhole::put_range(&mut ranges, &start, &end);
    }
    [points.freeze(), ranges.freeze()]
}

fn body(g: &mut Gen) -> (u32, Bytes) {
    let mut body = BytesMut::new();
    let mutations = u32::arbitrary(g) % 5;
    for _ in 0..mutations {
        let (key, value) = (full_key(g), blob(g));
        let ops = [
            Op::Put { key: &key, value: &value },
            Op::Delete { key: &key },
            Op::Atomic { op: 1 + u8::arbitrary(g) % 10, key: &key, operand: &value },
        ];
        g.choose(&ops).expect("there are mutations").write(&mut body);
    }
    (mutations, body.freeze())
}

impl AnyPeerMessage {
    /// A message of this kind; the opcode matters where the kind has one.
    pub fn of(g: &mut Gen, kind: Kind, opcode: PeerOpcode) -> AnyPeerMessage {
        let entry = |g: &mut Gen| PeerEntry { id: log_id(g), kind: u8::arbitrary(g), payload: blob(g).into() };
        let rows: BTreeMap<Bytes, (Version, Bytes)> =
            (0..u8::arbitrary(g) % 5).map(|_| (full_key(g), (Version(u64::arbitrary(g)), blob(g).into()))).collect();
        let (mutations, body) = body(g);
        AnyPeerMessage {
            kind,
            opcode,
            parts: Parts::arbitrary(g),
            log_ids: std::array::from_fn(|_| log_id(g)),
            entries: (0..u8::arbitrary(g) % 5).map(|_| entry(g)).collect(),
            rows: rows.into_iter().map(|(key, (version, value))| SnapshotRow { key, version, value }).collect(),
            reads: reads(g),
            body,
            mutations,
            grease: grease(g),
        }
    }

    /// The kind of its frame.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its opcode, where its kind has one.
    #[must_use]
    pub fn opcode(&self) -> PeerOpcode {
        self.opcode
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> BytesMut {
        let mut payload = BytesMut::new();
        self.message().encode(&mut payload);
        payload
    }

    /// The message, which borrows from this.
    #[must_use]
    pub fn message(&self) -> PeerMessage<'_> {
        let Parts { numbers, flags, .. } = &self.parts;
        let (cluster, node) = (ClusterId(self.parts.array), NodeId(numbers[0]));
        match self.kind {
            Kind::Hello => PeerMessage::Hello(PeerHello {
                version_min: flags[0].into(),
                version_max: 1 + u8::from(flags[1]),
                level: numbers[1] as u16,
                lane: [Lane::Consensus, Lane::Snapshot, Lane::Requests, Lane::Join][(numbers[2] % 4) as usize],
                cluster,
                from: node,
                to: NodeId(numbers[3]),
            }),
            Kind::Welcome => PeerMessage::Welcome(PeerWelcome { version: 1, level: numbers[1] as u16, cluster, node }),
            Kind::Request => self.request(),
            _ => self.response(),
        }
    }

    fn vote(&self) -> PeerVote {
        let Parts { numbers, flags, .. } = &self.parts;
        PeerVote { term: Term(numbers[4]), node: NodeId(numbers[5]), committed: flags[7] }
    }

    /// One of the log ids, or none.
    fn maybe(&self, at: usize) -> Option<LogId> {
        self.parts.flags[at].then_some(self.log_ids[at])
    }

    fn request(&self) -> PeerMessage<'_> {
        let Parts { numbers, flags, blobs, texts, array, .. } = &self.parts;
        let vote = self.vote();
        match self.opcode {
            PeerOpcode::Vote | PeerOpcode::PreVote => PeerMessage::Vote(Vote { vote, last: self.maybe(0) }),
            PeerOpcode::Append => PeerMessage::Append(Append {
                vote,
                previous: self.maybe(0),
                committed: self.maybe(1),
                chain: self.maybe(2).map(|id| (id, numbers[0])),
                entries: self.entries.clone(),
            }),
            PeerOpcode::Transfer => {
                PeerMessage::Transfer(Transfer { vote, to: NodeId(numbers[0]), last: self.maybe(0) })
            }
            PeerOpcode::SnapshotBegin => PeerMessage::SnapshotBegin(SnapshotBegin {
                vote,
                snapshot: *array,
                log_id: self.maybe(0),
                version: Version(numbers[0]),
                chain: numbers[1],
                clock_ms: numbers[2],
                idempotency_floor: Version(numbers[3]),
                membership: blobs[0].clone().into(),
            }),
            PeerOpcode::SnapshotPart => {
                PeerMessage::SnapshotPart(SnapshotPart { part: numbers[0], rows: self.rows.clone() })
            }
            PeerOpcode::SnapshotEnd => {
                PeerMessage::SnapshotEnd(SnapshotEnd { parts: numbers[0], rows: numbers[1], hash: numbers[2] })
            }
            PeerOpcode::Join => PeerMessage::Join(Join {
                node: NodeId(numbers[0]),
                peer_address: texts[0].clone(),
                client_address: texts[1].clone(),
            }),
            PeerOpcode::CommitWhole => {
                let commit = CommitWhole {
                    read_version: Version(numbers[0]),
                    points: &self.reads[0],
                    ranges: &self.reads[1],
                    mutations: self.mutations,
                    body: &self.body,
                };
                let pair = IdempotencyPair { key: *array, seen: Version(numbers[1]) };
                let tags = RequestTags {
                    deadline_ms: flags[0].then_some(numbers[2] as u32),
                    trace_parent: flags[1].then_some(&blobs[1][..blobs[1].len().min(64)]),
                    idempotency: flags[2].then_some(pair),
                    retry_mark: flags[2] && flags[3],
                    ..RequestTags::default()
                };
                PeerMessage::CommitWhole(commit, tags)
            }
        }
    }

    fn response(&self) -> PeerMessage<'_> {
        let Parts { numbers, flags, array, .. } = &self.parts;
        let vote = self.vote();
        match self.opcode {
            PeerOpcode::Vote | PeerOpcode::PreVote => {
                PeerMessage::VoteReply(VoteReply { vote, granted: flags[1], last: self.maybe(0) })
            }
            PeerOpcode::Append => {
                let result = match numbers[0] % 3 {
                    0 => AppendResult::Matched(self.maybe(0)),
                    1 => AppendResult::Conflict(self.log_ids[0]),
                    _ => AppendResult::HigherVote(vote),
                };
                let report = |applied| PeerReport { applied, version: Version(numbers[1]), chain: numbers[2] };
                PeerMessage::AppendReply(AppendReply { result, report: self.maybe(1).map(report) })
            }
            PeerOpcode::Transfer => PeerMessage::TransferReply(match numbers[0] % 3 {
                0 => TransferReply::Accepted,
                1 => TransferReply::VoteChanged(vote),
                _ => TransferReply::Behind(self.maybe(0)),
            }),
            PeerOpcode::SnapshotBegin => PeerMessage::SnapshotBegun(match flags[0] {
                true => SnapshotBegun::GoOn { part: numbers[0] },
                false => SnapshotBegun::HigherVote(vote),
            }),
            PeerOpcode::SnapshotPart => PeerMessage::SnapshotTaken(SnapshotTaken),
            PeerOpcode::SnapshotEnd => PeerMessage::SnapshotEnded(SnapshotEnded { vote }),
            PeerOpcode::Join => PeerMessage::Joined(Joined { cluster: ClusterId(*array), node: NodeId(numbers[0]) }),
            PeerOpcode::CommitWhole => {
                let (version, results) = (Version(numbers[0]), self.parts.blob_list.as_list());
                PeerMessage::Committed(CommitReply { version, results })
            }
        }
    }
}

impl Arbitrary for AnyPeerMessage {
    fn arbitrary(g: &mut Gen) -> AnyPeerMessage {
        let kinds = [Kind::Hello, Kind::Welcome, Kind::Request, Kind::Request, Kind::Request, Kind::Response];
        let kind = *g.choose(&kinds).expect("there are kinds");
        let opcode = g.choose(PEER_OPCODES).expect("there are opcodes").opcode;
        AnyPeerMessage::of(g, kind, opcode)
    }
}
