//! Any message that is not a request.

use super::parts::{Parts, grease};
use crate::types::{ClusterId, KeyspaceId, NodeId, Term, Version};
use crate::wire::registry::{ERRORS, OPCODES};
use crate::wire::{
    AtomicReply, BackupChunk, BackupEnd, Cancel, Chunk, ClusterAddReply, ClusterStatusReply, CommitReply, Credit,
    DecodeError, DeleteRangeReply, ErrorCode, ExecuteReply, Found, GetManyReply, GetReply, Goaway, Grease, Hello, Kind,
    ListBuf, Notice, Opcode, OpenKeyspaceReply, Outcome, OutcomeReply, OutcomeState, Ping, Response, Retry, Role,
    ScanEnd, ScanEndReason, StatusReply, Tag, VersionReply, Welcome, WireError,
};
use bytes::BytesMut;
use quickcheck::{Arbitrary, Gen};

/// A message that is not a request, typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// HELLO.
    Hello(Hello<'a>),
    /// WELCOME.
    Welcome(Welcome<'a>),
    /// RESPONSE.
    Response(Response<'a>),
    /// CHUNK of a SCAN.
    Chunk(Chunk<'a>),
    /// END of a SCAN.
    End(ScanEnd<'a>),
    /// CHUNK of a BACKUP.
    BackupChunk(BackupChunk<'a>),
    /// END of a BACKUP.
    BackupEnd(BackupEnd),
    /// ERROR.
    Error(WireError),
    /// CREDIT.
    Credit(Credit),
    /// CANCEL.
    Cancel(Cancel),
    /// PING or PONG.
    Ping(Ping),
    /// NOTICE.
    Notice(Notice<'a>),
    /// GOAWAY.
    Goaway(Goaway<'a>),
}

impl<'a> Message<'a> {
    /// Decodes the payload of a frame of this kind and opcode. `None` for a kind that is not here.
    pub fn decode(kind: Kind, opcode: Opcode, payload: &'a [u8]) -> Option<Result<Message<'a>, DecodeError>> {
        Some(match kind {
            Kind::Hello => Hello::decode(payload).map(Message::Hello),
            Kind::Welcome => Welcome::decode(payload).map(Message::Welcome),
            Kind::Response => Response::decode(opcode, payload).map(Message::Response),
            Kind::Chunk if opcode == Opcode::Backup => BackupChunk::decode(payload).map(Message::BackupChunk),
            Kind::End if opcode == Opcode::Backup => BackupEnd::decode(payload).map(Message::BackupEnd),
            Kind::Chunk => Chunk::decode(payload).map(Message::Chunk),
            Kind::End => ScanEnd::decode(payload).map(Message::End),
            Kind::Error => WireError::decode(payload).map(Message::Error),
            Kind::Credit => Credit::decode(payload).map(Message::Credit),
            Kind::Cancel => Cancel::decode(payload).map(Message::Cancel),
            Kind::Ping | Kind::Pong => Ping::decode(payload).map(Message::Ping),
            Kind::Notice => Notice::decode(payload).map(Message::Notice),
            Kind::Goaway => Goaway::decode(payload).map(Message::Goaway),
            Kind::Auth | Kind::Request | Kind::Other(_) | Kind::Invalid(_) => return None,
        })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Message::Hello(message) => message.encode(out),
            Message::Welcome(message) => message.encode(out),
            Message::Response(message) => message.encode(out),
            Message::Chunk(message) => message.encode(out),
            Message::End(message) => message.encode(out),
            Message::BackupChunk(message) => message.encode(out),
            Message::BackupEnd(message) => message.encode(out),
            Message::Error(message) => message.encode(out),
            Message::Credit(message) => message.encode(out),
            Message::Cancel(message) => message.encode(out),
            Message::Ping(message) => message.encode(out),
            Message::Notice(message) => message.encode(out),
            Message::Goaway(message) => message.encode(out),
        }
    }
}

/// The kinds that [`AnyReply`] makes.
const KINDS: &[Kind] = &[
    Kind::Hello,
    Kind::Welcome,
    Kind::Response,
    Kind::Response,
    Kind::Response,
    Kind::Chunk,
    Kind::End,
    Kind::Error,
    Kind::Credit,
    Kind::Cancel,
    Kind::Ping,
    Kind::Pong,
    Kind::Notice,
    Kind::Goaway,
];

/// Any message that is not a request.
#[derive(Clone, Debug)]
pub struct AnyReply {
    kind: Kind,
    opcode: Opcode,
    parts: Parts,
    limits: ListBuf,
    counters: ListBuf,
    retry: Retry,
    outcome: Outcome,
    code: ErrorCode,
    /// A tag that means nothing, for whoever sends it.
    pub grease: Option<Grease>,
}

impl AnyReply {
    /// A message of this kind; the opcode matters where the kind has one.
    pub fn of(g: &mut Gen, kind: Kind, opcode: Opcode) -> AnyReply {
        let parts = Parts::arbitrary(g);
        let mut limits = ListBuf::new();
        limits.push(&crate::wire::Limit { id: crate::wire::LimitId(u16::arbitrary(g)), value: u64::arbitrary(g) });
        let mut counters = ListBuf::new();
        counters.push(&crate::wire::Counter { name: &parts.texts[1], value: u64::arbitrary(g) });
        let retries = [Retry::Never, Retry::Same, Retry::Backoff, Retry::Redirect, Retry::RestartTxn];
        let outcomes = [Outcome::NotApplied, Outcome::Applied, Outcome::Unknown];
        AnyReply {
            kind,
            opcode,
            parts,
            limits,
            counters,
            retry: *g.choose(&retries).expect("there are retries"),
            outcome: *g.choose(&outcomes).expect("there are outcomes"),
            code: g.choose(ERRORS).expect("there are errors").code,
            grease: grease(g),
        }
    }

    /// The kind of its frame.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The opcode that it answers, where its kind has one.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
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
    pub fn message(&self) -> Message<'_> {
        let Parts { numbers, flags, blobs, texts, array, .. } = &self.parts;
        let version = Version(numbers[0]);
        let token = flags[0].then_some(&blobs[0][..]);
        match self.kind {
            Kind::Hello => Message::Hello(Hello {
                version_min: flags[1].into(),
                version_max: 1 + u8::from(flags[2]),
                credit: numbers[1] as u32,
                client_name: &texts[0],
                features: self.parts.text_list.as_list(),
            }),
            Kind::Welcome => Message::Welcome(Welcome {
                version: 1,
                cluster: ClusterId(*array),
                node: NodeId(numbers[1]),
                session: numbers[2],
                server_name: &texts[0],
                features: self.parts.text_list.as_list(),
                mechanisms: self.parts.text_list.as_list(),
                limits: self.limits.as_list(),
                leader: flags[1].then_some(&texts[1]),
            }),
            Kind::Response => Message::Response(self.response()),
            Kind::Chunk if self.opcode == Opcode::Backup => Message::BackupChunk(BackupChunk {
                version,
                rows: self.parts.backup_row_list.as_list(),
                resume_token: token,
            }),
            Kind::End if self.opcode == Opcode::Backup => {
                Message::BackupEnd(BackupEnd { version, rows: numbers[1], bytes: numbers[2], clock_ms: numbers[3] })
            }
            Kind::Chunk => Message::Chunk(Chunk { rows: self.parts.row_list.as_list(), resume_token: token }),
            Kind::End => Message::End(ScanEnd {
                version,
                rows: numbers[1],
                reason: if flags[1] { ScanEndReason::Limit } else { ScanEndReason::Exhausted },
                first_version: Version(numbers[2]),
                resume_token: token,
            }),
            Kind::Credit => Message::Credit(Credit { bytes: numbers[1] as u32 }),
            Kind::Cancel => Message::Cancel(Cancel),
            Kind::Notice => Message::Notice(Notice { code: numbers[1] as u16, leader: flags[1].then_some(&texts[1]) }),
            Kind::Goaway => Message::Goaway(Goaway {
                code: self.code,
                highest_request_id: numbers[1],
                message: &texts[0],
                limit: flags[1].then_some(numbers[2]),
                actual: flags[1].then_some(numbers[3]),
                tag: flags[2].then_some(Tag(numbers[4] as u16)),
                version_min: flags[3].then_some(1),
                version_max: flags[3].then_some(2),
            }),
            Kind::Error => Message::Error(self.error()),
            _ => Message::Ping(Ping { opaque: numbers[1].to_be_bytes() }),
        }
    }

    fn error(&self) -> WireError {
        let Parts { numbers, flags, keys, texts, .. } = &self.parts;
        WireError {
            code: self.code,
            retry: self.retry,
            outcome: self.outcome,
            retry_after_ms: numbers[1] as u32,
            message: texts[0].clone().into(),
            limit: flags[0].then_some(numbers[2]),
            actual: flags[1].then_some(numbers[3]),
            horizon: flags[2].then_some(Version(numbers[4])),
            conflict_key: flags[3].then(|| keys[0][..].into()),
            leader: flags[4].then(|| texts[1].as_str().into()),
            cause: flags[5].then_some(ErrorCode(numbers[5] as u16)),
            tag: flags[6].then_some(Tag(numbers[5] as u16)),
        }
    }

    fn response(&self) -> Response<'_> {
        let Parts { numbers, flags, blobs, array, .. } = &self.parts;
        let version = Version(numbers[0]);
        match self.opcode {
            Opcode::Status => Response::Status(StatusReply {
                version,
                cluster: ClusterId(*array),
                node: NodeId(numbers[1]),
                role: [Role::None, Role::Leader, Role::Follower, Role::Learner][(numbers[2] % 4) as usize],
                term: Term(numbers[3]),
                uptime_ms: numbers[4],
                counters: self.counters.as_list(),
            }),
            Opcode::OpenKeyspace => Response::OpenKeyspace(OpenKeyspaceReply {
                version,
                keyspace: KeyspaceId(numbers[1] as u32),
                created: flags[0],
            }),
            Opcode::Get => {
                let found = Found { version: Version(numbers[1]), value: &blobs[0] };
                Response::Get(GetReply { version, found: flags[0].then_some(found) })
            }
            Opcode::GetMany => Response::GetMany(GetManyReply { version, answered: self.parts.found_list.as_list() }),
            Opcode::DeleteRange => Response::DeleteRange(DeleteRangeReply { version, deleted: numbers[1] }),
            Opcode::Atomic => Response::Atomic(AtomicReply { version, result: flags[0].then_some(&blobs[0]) }),
            Opcode::Execute => {
                Response::Execute(ExecuteReply { version, then: flags[0], results: self.parts.result_list.as_list() })
            }
            Opcode::Commit => Response::Commit(CommitReply { version, results: self.parts.blob_list.as_list() }),
            Opcode::Outcome => {
                let results = flags[0].then(|| self.parts.blob_list.as_list());
                let state = match numbers[1] % 4 {
                    0 => OutcomeState::Committed { version, results },
                    1 => OutcomeState::Never,
                    2 => OutcomeState::Expired,
                    _ => OutcomeState::Rejected { code: self.code },
                };
                Response::Outcome(OutcomeReply { state })
            }
            Opcode::ClusterStatus => Response::ClusterStatus(ClusterStatusReply {
                version,
                leader: NodeId(numbers[1]),
                term: Term(numbers[2]),
                members: self.parts.member_list.as_list(),
            }),
            Opcode::ClusterAdd => Response::ClusterAdd(ClusterAddReply { version, node: NodeId(numbers[1]) }),
            _ => Response::Version(VersionReply { version }),
        }
    }
}

impl Arbitrary for AnyReply {
    fn arbitrary(g: &mut Gen) -> AnyReply {
        let kind = *g.choose(KINDS).expect("there are kinds");
        let opcode = match kind {
            Kind::Chunk | Kind::End => *g.choose(&[Opcode::Scan, Opcode::Backup]).expect("there are streams"),
            _ => g.choose(OPCODES).expect("there are opcodes").opcode,
        };
        // A stream has no RESPONSE.
        let kind = if kind == Kind::Response && opcode.is_stream() { Kind::End } else { kind };
        AnyReply::of(g, kind, opcode)
    }
}
