//! What a server answers.

use super::cluster::{ClusterAddReply, ClusterStatusReply};
use super::error::DecodeError;
use super::execute::OpResult;
use super::fields::{Blob, Field, Found, List, ListWriter, read_bool, read_text, read_value};
use super::registry::{ErrorCode, Opcode};
use crate::encoding::{Reader, Writer};
use crate::types::limits::{EXECUTE_ITEMS_MAX, GET_MANY_KEYS_MAX};
use crate::types::{ClusterId, KeyspaceId, NodeId, Term, Version};
use bytes::{BufMut, BytesMut};

/// Every list of a reply may be as long as its count allows.
const MANY: usize = u16::MAX as usize;

/// The payload of a RESPONSE, by its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// To STATUS.
    Status(StatusReply<'a>),
    /// To OPEN_KEYSPACE.
    OpenKeyspace(OpenKeyspaceReply),
    /// To GET.
    Get(GetReply<'a>),
    /// To GET_MANY.
    GetMany(GetManyReply<'a>),
    /// To DELETE_RANGE.
    DeleteRange(DeleteRangeReply),
    /// To ATOMIC.
    Atomic(AtomicReply<'a>),
    /// To EXECUTE.
    Execute(ExecuteReply<'a>),
    /// To COMMIT.
    Commit(CommitReply<'a>),
    /// To OUTCOME.
    Outcome(OutcomeReply<'a>),
    /// To CLUSTER_STATUS.
    ClusterStatus(ClusterStatusReply<'a>),
    /// To CLUSTER_ADD.
    ClusterAdd(ClusterAddReply),
    /// To READ_VERSION, PUT, DELETE, BEGIN, ROLLBACK, SAVEPOINT, ROLLBACK_TO, CLUSTER_REMOVE, CLUSTER_TRANSFER,
    /// CLUSTER_PROMOTE.
    Version(VersionReply),
}

impl<'a> Response<'a> {
    /// Decodes the payload of a RESPONSE with this opcode. A stream has none: that is malformed.
    pub fn decode(opcode: Opcode, payload: &'a [u8]) -> Result<Response<'a>, DecodeError> {
        Ok(match opcode {
            Opcode::Status => Response::Status(StatusReply::decode(payload)?),
            Opcode::OpenKeyspace => Response::OpenKeyspace(OpenKeyspaceReply::decode(payload)?),
            Opcode::Get => Response::Get(GetReply::decode(payload)?),
            Opcode::GetMany => Response::GetMany(GetManyReply::decode(payload)?),
            Opcode::DeleteRange => Response::DeleteRange(DeleteRangeReply::decode(payload)?),
            Opcode::Atomic => Response::Atomic(AtomicReply::decode(payload)?),
            Opcode::Execute => Response::Execute(ExecuteReply::decode(payload)?),
            Opcode::Commit => Response::Commit(CommitReply::decode(payload)?),
            Opcode::Outcome => Response::Outcome(OutcomeReply::decode(payload)?),
            Opcode::ClusterStatus => Response::ClusterStatus(ClusterStatusReply::decode(payload)?),
            Opcode::ClusterAdd => Response::ClusterAdd(ClusterAddReply::decode(payload)?),
            Opcode::Scan | Opcode::Backup => {
                return Err(DecodeError::malformed("a stream is answered by chunks and an end"));
            }
            Opcode::ReadVersion
            | Opcode::Put
            | Opcode::Delete
            | Opcode::Begin
            | Opcode::Rollback
            | Opcode::Savepoint
            | Opcode::RollbackTo
            | Opcode::ClusterRemove
            | Opcode::ClusterTransfer
            | Opcode::ClusterPromote => Response::Version(VersionReply::decode(payload)?),
        })
    }

    /// Appends the payload.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Response::Status(reply) => reply.encode(out),
            Response::OpenKeyspace(reply) => reply.encode(out),
            Response::Get(reply) => reply.encode(out),
            Response::GetMany(reply) => reply.encode(out),
            Response::DeleteRange(reply) => reply.encode(out),
            Response::Atomic(reply) => reply.encode(out),
            Response::Execute(reply) => reply.encode(out),
            Response::Commit(reply) => reply.encode(out),
            Response::Outcome(reply) => reply.encode(out),
            Response::ClusterStatus(reply) => reply.encode(out),
            Response::ClusterAdd(reply) => reply.encode(out),
            Response::Version(reply) => reply.encode(out),
        }
    }
}

/// Gives a message `decode` and `encode` around its fixed fields.
macro_rules! reply {
    ($name:ident $(<$life:lifetime>)?) => {
        impl<'a> $name $(<$life>)? {
            /// Decodes the payload.
            #[inline]
            pub fn decode(payload: &'a [u8]) -> Result<Self, $crate::wire::DecodeError> {
                let mut reader = $crate::encoding::Reader::new(payload);
                let reply = <Self as $crate::wire::Field<'a>>::read(&mut reader)?;
                $crate::wire::tags::skip_tags(&mut reader)?;
                Ok(reply)
            }

            /// Appends the payload.
            #[inline]
            pub fn encode(&self, out: &mut bytes::BytesMut) {
                <Self as $crate::wire::Field<'a>>::write(self, out);
            }
        }
    };
}

pub(super) use reply;

/// The version that a request read at, or created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionReply {
    /// The version.
    pub version: Version,
}

reply!(VersionReply);

impl<'a> Field<'a> for VersionReply {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<VersionReply, DecodeError> {
        Ok(VersionReply { version: Version(reader.u64()?) })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
    }
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// None yet.
    None = 0,
    /// It decides what commits.
    Leader = 1,
    /// It follows the leader and votes.
    Follower = 2,
    /// It follows the leader and does not vote.
    Learner = 3,
}

/// A number that the node counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: u64,
}

impl<'a> Field<'a> for Counter<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Counter<'a>, DecodeError> {
        Ok(Counter { name: read_text(reader, MANY)?, value: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_bytes16(self.name.as_bytes());
        out.put_u64(self.value);
    }
}

/// How the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusReply<'a> {
    /// The last version applied.
    pub version: Version,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// What the node is.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// How long the node has been up, in milliseconds.
    pub uptime_ms: u64,
    /// What it counts.
    pub counters: List<'a, Counter<'a>>,
}

reply!(StatusReply<'a>);

impl<'a> Field<'a> for StatusReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<StatusReply<'a>, DecodeError> {
        Ok(StatusReply {
            version: Version(reader.u64()?),
            cluster: ClusterId(reader.array16()?),
            node: NodeId(reader.u64()?),
            role: match reader.u8()? {
                0 => Role::None,
                1 => Role::Leader,
                2 => Role::Follower,
                3 => Role::Learner,
                _ => return Err(DecodeError::malformed("no such role")),
            },
            term: Term(reader.u64()?),
            uptime_ms: reader.u64()?,
            counters: List::read16(reader, MANY)?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
        out.put_u8(self.role as u8);
        out.put_u64(self.term.0);
        out.put_u64(self.uptime_ms);
        self.counters.write16(out);
    }
}

/// A keyspace, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenKeyspaceReply {
    /// The version that it was read at, or created.
    pub version: Version,
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// Whether this request made it.
    pub created: bool,
}

reply!(OpenKeyspaceReply);

impl<'a> Field<'a> for OpenKeyspaceReply {
    fn read(reader: &mut Reader<'a>) -> Result<OpenKeyspaceReply, DecodeError> {
        Ok(OpenKeyspaceReply {
            version: Version(reader.u64()?),
            keyspace: KeyspaceId(reader.u32()?),
            created: read_bool(reader)?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u32(self.keyspace.0);
        out.put_u8(u8::from(self.created));
    }
}

/// The value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetReply<'a> {
    /// The version that it was read at.
    pub version: Version,
    /// What the key has.
    pub found: Option<Found<'a>>,
}

reply!(GetReply<'a>);

impl<'a> Field<'a> for GetReply<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<GetReply<'a>, DecodeError> {
        Ok(GetReply { version: Version(reader.u64()?), found: Field::read(reader)? })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        self.found.write(out);
    }
}

/// The values of many keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetManyReply<'a> {
    /// The version that they were read at.
    pub version: Version,
    /// What the first keys have, in order: fewer than were asked for when the reply would have been too long.
    pub answered: List<'a, Option<Found<'a>>>,
}

reply!(GetManyReply<'a>);

impl GetManyReply<'_> {
    /// Begins a payload whose values are written where they are sent from: push `Option<Found>`s, then finish the list.
    pub fn begin(out: &mut BytesMut, version: Version) -> ListWriter {
        out.put_u64(version.0);
        ListWriter::begin16(out)
    }
}

impl<'a> Field<'a> for GetManyReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<GetManyReply<'a>, DecodeError> {
        Ok(GetManyReply { version: Version(reader.u64()?), answered: List::read16(reader, GET_MANY_KEYS_MAX)? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        self.answered.write16(out);
    }
}

/// How many keys a range had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteRangeReply {
    /// The version that removed them; in a transaction, the read version.
    pub version: Version,
    /// How many were removed.
    pub deleted: u64,
}

reply!(DeleteRangeReply);

impl<'a> Field<'a> for DeleteRangeReply {
    fn read(reader: &mut Reader<'a>) -> Result<DeleteRangeReply, DecodeError> {
        Ok(DeleteRangeReply { version: Version(reader.u64()?), deleted: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u64(self.deleted);
    }
}

/// What an atomic operation gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicReply<'a> {
    /// The version that it created; in a transaction, the read version.
    pub version: Version,
    /// What it gave; `None` in a transaction, where it comes with COMMIT.
    pub result: Option<&'a [u8]>,
}

reply!(AtomicReply<'a>);

impl<'a> Field<'a> for AtomicReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<AtomicReply<'a>, DecodeError> {
        let version = Version(reader.u64()?);
        let has_result = read_bool(reader)?;
        let result = read_value(reader)?;
        if !has_result && !result.is_empty() {
            return Err(DecodeError::malformed("a reply without a result has one"));
        }
        Ok(AtomicReply { version, result: has_result.then_some(result) })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u8(u8::from(self.result.is_some()));
        out.put_bytes32(self.result.unwrap_or_default());
    }
}

/// What a one-shot transaction gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecuteReply<'a> {
    /// The version that it created, or was evaluated at if it changed nothing.
    pub version: Version,
    /// Whether every condition held, so that `then` was done.
    pub then: bool,
    /// What the branch's operations gave, in order.
    pub results: List<'a, OpResult<'a>>,
}

reply!(ExecuteReply<'a>);

impl ExecuteReply<'_> {
    /// Begins a payload whose results are written where they are sent from: push `OpResult`s, then finish the list.
    pub fn begin(out: &mut BytesMut, version: Version, then: bool) -> ListWriter {
        out.put_u64(version.0);
        out.put_u8(u8::from(then));
        ListWriter::begin16(out)
    }
}

impl<'a> Field<'a> for ExecuteReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<ExecuteReply<'a>, DecodeError> {
        Ok(ExecuteReply {
            version: Version(reader.u64()?),
            then: read_bool(reader)?,
            results: List::read16(reader, EXECUTE_ITEMS_MAX)?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u8(u8::from(self.then));
        self.results.write16(out);
    }
}

/// What a commit gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitReply<'a> {
    /// The version that it created; the read version if it changed nothing.
    pub version: Version,
    /// What its atomic operations gave, in order.
    pub results: List<'a, Blob<'a>>,
}

reply!(CommitReply<'a>);

impl<'a> Field<'a> for CommitReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<CommitReply<'a>, DecodeError> {
        Ok(CommitReply { version: Version(reader.u64()?), results: List::read16(reader, MANY)? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        self.results.write16(out);
    }
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeState<'a> {
    /// It committed.
    Committed {
        /// The version that it created.
        version: Version,
        /// What its atomic operations gave; `None` if that was too long to be recorded.
        results: Option<List<'a, Blob<'a>>>,
    },
    /// It did not, and never will.
    Never,
    /// Its record is gone.
    Expired,
    /// It was rejected.
    Rejected {
        /// Why.
        code: ErrorCode,
    },
}

/// The answer to OUTCOME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeReply<'a> {
    /// What became of the commit.
    pub state: OutcomeState<'a>,
}

reply!(OutcomeReply<'a>);

impl<'a> Field<'a> for OutcomeReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<OutcomeReply<'a>, DecodeError> {
        let state = reader.u8()?;
        let version = Version(reader.u64()?);
        let code = ErrorCode(reader.u16()?);
        let has_results = read_bool(reader)?;
        let results: List<'a, Blob<'a>> = List::read16(reader, MANY)?;
        let results = match (has_results, results.is_empty()) {
            (true, _) => Some(results),
            (false, true) => None,
            (false, false) => return Err(DecodeError::malformed("an outcome without results has some")),
        };
        let state = match (state, version, code, results) {
            (1, version, ErrorCode(0), results) => OutcomeState::Committed { version, results },
            (2, Version::ZERO, ErrorCode(0), None) => OutcomeState::Never,
            (3, Version::ZERO, ErrorCode(0), None) => OutcomeState::Expired,
            (4, Version::ZERO, code, None) => OutcomeState::Rejected { code },
            _ => return Err(DecodeError::malformed("an outcome that makes no sense")),
        };
        Ok(OutcomeReply { state })
    }

    fn write(&self, out: &mut BytesMut) {
        let (number, version, code, results) = match self.state {
            OutcomeState::Committed { version, results } => (1, version, 0, results),
            OutcomeState::Never => (2, Version::ZERO, 0, None),
            OutcomeState::Expired => (3, Version::ZERO, 0, None),
            OutcomeState::Rejected { code } => (4, Version::ZERO, code.0, None),
        };
        out.put_u8(number);
        out.put_u64(version.0);
        out.put_u16(code);
        out.put_u8(u8::from(results.is_some()));
        results.unwrap_or(List::EMPTY).write16(out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::ListBuf;
    use super::super::registry::OPCODES;
    use super::*;

    fn round_trip(opcode: Opcode, response: Response<'_>) {
        let mut out = BytesMut::new();
        response.encode(&mut out);
        assert_eq!(Response::decode(opcode, &out), Ok(response));
        for length in 0..out.len() {
            assert!(Response::decode(opcode, &out[..length]).is_err(), "{opcode:?} cut at {length}");
        }
        out.extend_from_slice(&[0x87, 0x77, 0, 0, 0, 0]);
        assert_eq!(Response::decode(opcode, &out).expect_err("critical").code, ErrorCode::UNKNOWN_CRITICAL_TAG);
    }

    #[test]
    fn every_response_comes_back_and_is_refused_when_cut() {
        let (mut counters, mut found, mut results, mut blobs) = Default::default();
        ListBuf::push(&mut counters, &Counter { name: "commits", value: 1 });
        ListBuf::push(&mut found, &Some(Found { version: Version(2), value: b"v" }));
        ListBuf::push(&mut found, &None::<Found<'_>>);
        ListBuf::push(&mut results, &OpResult::DeleteRange(1));
        ListBuf::push(&mut blobs, &Blob(b"r"));
        let version = Version(7);
        let committed = |results| OutcomeState::Committed { version, results };
        for role in [Role::None, Role::Leader, Role::Follower, Role::Learner] {
            let status = StatusReply {
                version,
                cluster: ClusterId([1; 16]),
                node: NodeId(1),
                role,
                term: Term(2),
                uptime_ms: 3,
                counters: counters.as_list(),
            };
            round_trip(Opcode::Status, Response::Status(status));
        }
        let open = OpenKeyspaceReply { version, keyspace: KeyspaceId(16), created: true };
        round_trip(Opcode::OpenKeyspace, Response::OpenKeyspace(open));
        for item in [None, Some(Found { version: Version(2), value: b"v" })] {
            round_trip(Opcode::Get, Response::Get(GetReply { version, found: item }));
        }
        round_trip(Opcode::GetMany, Response::GetMany(GetManyReply { version, answered: found.as_list() }));
        round_trip(Opcode::DeleteRange, Response::DeleteRange(DeleteRangeReply { version, deleted: 5 }));
        for result in [None, Some(&b""[..]), Some(&b"r"[..])] {
            round_trip(Opcode::Atomic, Response::Atomic(AtomicReply { version, result }));
        }
        let execute = ExecuteReply { version, then: true, results: results.as_list() };
        round_trip(Opcode::Execute, Response::Execute(execute));
        round_trip(Opcode::Commit, Response::Commit(CommitReply { version, results: blobs.as_list() }));
        for state in [
            committed(None),
            committed(Some(blobs.as_list())),
            committed(Some(List::EMPTY)),
            OutcomeState::Never,
            OutcomeState::Expired,
            OutcomeState::Rejected { code: ErrorCode::BAD_NAME },
        ] {
            round_trip(Opcode::Outcome, Response::Outcome(OutcomeReply { state }));
        }
        for row in OPCODES.iter().filter(|row| row.response.len() == 1) {
            round_trip(row.opcode, Response::Version(VersionReply { version }));
        }
    }

    #[test]
    fn lists_written_in_place_are_the_replies_that_are_read() {
        let mut out = BytesMut::new();
        let mut list = GetManyReply::begin(&mut out, Version(3));
        list.push(&mut out, &Some(Found { version: Version(1), value: b"v" }));
        list.finish(&mut out);
        let reply = GetManyReply::decode(&out).expect("valid");
        assert_eq!((reply.version, reply.answered.len()), (Version(3), 1));
        let mut out = BytesMut::new();
        let mut list = ExecuteReply::begin(&mut out, Version(3), false);
        list.push(&mut out, &OpResult::Put);
        list.finish(&mut out);
        let reply = ExecuteReply::decode(&out).expect("valid");
        assert_eq!((reply.then, reply.results.iter().next()), (false, Some(OpResult::Put)));
    }

    #[test]
    fn replies_that_make_no_sense_are_refused() {
        let code = |opcode, bytes: &[u8]| Response::decode(opcode, bytes).expect_err("no sense").code;
        assert_eq!(code(Opcode::Scan, b""), ErrorCode::MALFORMED);
        assert_eq!(code(Opcode::Backup, b""), ErrorCode::MALFORMED);
        assert_eq!(code(Opcode::Atomic, b"\0\0\0\0\0\0\0\x01\0\0\0\0\x01r"), ErrorCode::MALFORMED);
        let outcome = |state, version, code, has, count: &[u8]| {
            [&[state, 0, 0, 0, 0, 0, 0, 0, version, 0, code, has][..], count].concat()
        };
        for bad in [
            outcome(0, 0, 0, 0, &[0, 0]),
            outcome(1, 1, 9, 0, &[0, 0]),
            outcome(1, 1, 0, 0, &[0, 1, 0, 0, 0, 0]),
            outcome(2, 1, 0, 0, &[0, 0]),
            outcome(3, 0, 0, 1, &[0, 0]),
            outcome(4, 1, 9, 0, &[0, 0]),
        ] {
            assert_eq!(code(Opcode::Outcome, &bad), ErrorCode::MALFORMED);
        }
        let mut status = [0; 51];
        status[32] = 4;
        assert_eq!(code(Opcode::Status, &status), ErrorCode::MALFORMED);
    }
}
