//! What a client asks for.

use super::cluster::read_address;
use super::error::DecodeError;
use super::execute::Execute;
use super::fields::{Field, Key, List, RangeRef, read_atomic_op, read_key, read_value};
use super::registry::{ErrorCode, OPCODES_RESERVED, Opcode, TRANSACTION_REQUIRED, Tag};
use super::scan::Scan;
use super::tags::{Grease, RequestTags};
use crate::encoding::{Reader, Writer};
use crate::types::limits::{GET_MANY_KEYS_MAX, KEYSPACE_NAME_BYTES_MAX, SAVEPOINT_NAME_BYTES_MAX};
use crate::types::{IdempotencyPair, Isolation, NodeId, Version};
use bytes::{BufMut, BytesMut};

/// The payload of a REQUEST; its header tells the opcode and the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for.
    pub body: RequestBody<'a>,
    /// How.
    pub tags: RequestTags<'a>,
}

/// What is asked for, by opcode. Keys are full keys: the keyspace, then the user's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody<'a> {
    /// How the node does.
    Status,
    /// A version at which everything acknowledged so far can be read.
    ReadVersion,
    /// The id of a keyspace.
    OpenKeyspace {
        /// Whether to make it if there is none of this name.
        create: bool,
        /// Its name.
        name: &'a str,
    },
    /// The value of a key.
    Get {
        /// The full key.
        key: &'a [u8],
    },
    /// The values of many keys, at one version.
    GetMany {
        /// The full keys.
        keys: List<'a, Key<'a>>,
    },
    /// The rows of a range, as a stream.
    Scan(Scan<'a>),
    /// Writes a value.
    Put {
        /// The full key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The full key.
        key: &'a [u8],
    },
    /// Removes every key of a range.
    DeleteRange {
        /// The range.
        range: RangeRef<'a>,
    },
    /// Changes a value by an operation that never fails.
    Atomic {
        /// Which atomic operation: a number of the registry.
        op: u8,
        /// The full key.
        key: &'a [u8],
        /// Its operand.
        operand: &'a [u8],
    },
    /// A whole transaction in one message.
    Execute(Execute<'a>),
    /// Begins a transaction.
    Begin {
        /// What its reads are checked for.
        isolation: Isolation,
    },
    /// Commits a transaction.
    Commit,
    /// Forgets a transaction.
    Rollback,
    /// Names the state of a transaction's writes.
    Savepoint {
        /// The name.
        name: &'a [u8],
    },
    /// Restores the writes to a savepoint.
    RollbackTo {
        /// The name.
        name: &'a [u8],
    },
    /// What became of a commit.
    Outcome {
        /// The pair that names it.
        pair: IdempotencyPair,
    },
    /// Every row of every keyspace as of one version, as a stream.
    Backup {
        /// Bytes of CHUNK payload that the server may send on this stream.
        credit: u32,
    },
    /// Who is a member of the cluster.
    ClusterStatus,
    /// Takes a member out of the cluster.
    ClusterRemove {
        /// Which.
        node: NodeId,
    },
    /// Hands the leader's office over.
    ClusterTransfer {
        /// To whom; 0: to whoever is best.
        node: NodeId,
    },
    /// Makes a learner a voter.
    ClusterPromote {
        /// Which.
        node: NodeId,
    },
    /// Reserves an identity for a node that will join.
    ClusterAdd {
        /// Where its peer listener is: 1 to 255 bytes.
        peer_address: &'a str,
    },
}

impl<'a> Request<'a> {
    /// A request without tags.
    #[must_use]
    pub fn new(body: RequestBody<'a>) -> Request<'a> {
        Request { body, tags: RequestTags::default() }
    }

    /// Decodes the payload of a REQUEST with this opcode.
    ///
    /// The error is that of the request: the connection goes on.
    #[inline]
    pub fn decode(opcode: u16, payload: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        Request::decode_with_fields(opcode, payload).map(|(request, _)| request)
    }

    /// The same, and the fixed fields as they stand in the payload.
    ///
    /// Those of PUT, DELETE and ATOMIC, after the byte 1, 2 or 3, are the mutation as the log has it.
    // spec: QP-MSG-001
    #[inline]
    pub fn decode_with_fields(opcode: u16, payload: &'a [u8]) -> Result<(Request<'a>, &'a [u8]), DecodeError> {
        let opcode = Opcode::from_number(opcode).ok_or_else(|| unknown_opcode(opcode))?;
        let mut reader = Reader::new(payload);
        let body = RequestBody::read(opcode, &mut reader)?;
        let fields = &payload[..reader.position()];
        let tags = RequestTags::read(&mut reader, opcode)?;
        let request = Request { body, tags };
        if tags != RequestTags::default() || opcode >= Opcode::Commit {
            request.check_tags(opcode)?;
        }
        Ok((request, fields))
    }

    /// Which tags need or exclude each other.
    // spec: QP-MSG-006
    fn check_tags(&self, opcode: Opcode) -> Result<(), DecodeError> {
        let tags = &self.tags;
        let wrong = |tag, what| Err(DecodeError::tag(ErrorCode::MALFORMED, tag, what));
        if tags.transaction.is_none() && TRANSACTION_REQUIRED.contains(&opcode) {
            return wrong(Tag::TRANSACTION, "the request names no transaction");
        }
        if tags.transaction.is_some() && tags.consistency.is_some() {
            return wrong(Tag::CONSISTENCY, "a transaction reads at its own version");
        }
        if tags.transaction.is_some() && tags.idempotency.is_some() && opcode != Opcode::Commit {
            return wrong(Tag::IDEMPOTENCY, "a pair names a commit, not a part of a transaction");
        }
        if tags.idempotency.is_some() && matches!(self.body, RequestBody::OpenKeyspace { create: false, .. }) {
            return wrong(Tag::IDEMPOTENCY, "a pair names a commit, and this request makes none");
        }
        if tags.retry_mark && tags.idempotency.is_none() {
            return wrong(Tag::RETRY_MARK, "the retry has no pair");
        }
        if tags.if_gone.is_some() && tags.resume_token.is_none() {
            return wrong(Tag::IF_GONE, "the scan does not resume");
        }
        Ok(())
    }

    /// Its opcode.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        self.body.opcode()
    }

    /// Appends the payload. The caller keeps to the limits of keys, values and names.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_greased(out, None);
    }

    /// The same with a tag that means nothing.
    #[inline]
    pub fn encode_greased(&self, out: &mut BytesMut, grease: Option<Grease>) {
        self.body.write(out);
        self.tags.write(out, grease);
    }
}

/// Why an opcode that is not assigned is refused.
fn unknown_opcode(opcode: u16) -> DecodeError {
    if OPCODES_RESERVED.iter().any(|range| range.contains(opcode)) {
        DecodeError::new(ErrorCode::UNSUPPORTED, "the opcode is reserved for what is not built yet")
    } else {
        DecodeError::new(ErrorCode::UNKNOWN_OPCODE, "no operation has this opcode")
    }
}

impl<'a> RequestBody<'a> {
    /// Its opcode.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self {
            RequestBody::Status => Opcode::Status,
            RequestBody::ReadVersion => Opcode::ReadVersion,
            RequestBody::OpenKeyspace { .. } => Opcode::OpenKeyspace,
            RequestBody::Get { .. } => Opcode::Get,
            RequestBody::GetMany { .. } => Opcode::GetMany,
            RequestBody::Scan(_) => Opcode::Scan,
            RequestBody::Put { .. } => Opcode::Put,
            RequestBody::Delete { .. } => Opcode::Delete,
            RequestBody::DeleteRange { .. } => Opcode::DeleteRange,
            RequestBody::Atomic { .. } => Opcode::Atomic,
            RequestBody::Execute(_) => Opcode::Execute,
            RequestBody::Begin { .. } => Opcode::Begin,
            RequestBody::Commit => Opcode::Commit,
            RequestBody::Rollback => Opcode::Rollback,
            RequestBody::Savepoint { .. } => Opcode::Savepoint,
            RequestBody::RollbackTo { .. } => Opcode::RollbackTo,
            RequestBody::Outcome { .. } => Opcode::Outcome,
            RequestBody::Backup { .. } => Opcode::Backup,
            RequestBody::ClusterStatus => Opcode::ClusterStatus,
            RequestBody::ClusterRemove { .. } => Opcode::ClusterRemove,
            RequestBody::ClusterTransfer { .. } => Opcode::ClusterTransfer,
            RequestBody::ClusterPromote { .. } => Opcode::ClusterPromote,
            RequestBody::ClusterAdd { .. } => Opcode::ClusterAdd,
        }
    }

    #[inline]
    fn read(opcode: Opcode, reader: &mut Reader<'a>) -> Result<RequestBody<'a>, DecodeError> {
        Ok(match opcode {
            Opcode::Get => RequestBody::Get { key: read_key(reader)? },
            Opcode::Put => RequestBody::Put { key: read_key(reader)?, value: read_value(reader)? },
            Opcode::Delete => RequestBody::Delete { key: read_key(reader)? },
            Opcode::Atomic => RequestBody::Atomic {
                op: read_atomic_op(reader)?,
                key: read_key(reader)?,
                operand: read_value(reader)?,
            },
            Opcode::GetMany => RequestBody::GetMany { keys: List::read16(reader, GET_MANY_KEYS_MAX)? },
            Opcode::Scan => RequestBody::Scan(Scan::read(reader)?),
            Opcode::DeleteRange => RequestBody::DeleteRange { range: RangeRef::read(reader)? },
            Opcode::Execute => RequestBody::Execute(Execute::read(reader)?),
            Opcode::Begin => RequestBody::Begin { isolation: read_isolation(reader)? },
            Opcode::Commit => RequestBody::Commit,
            Opcode::Rollback => RequestBody::Rollback,
            Opcode::Savepoint => RequestBody::Savepoint { name: read_savepoint(reader)? },
            Opcode::RollbackTo => RequestBody::RollbackTo { name: read_savepoint(reader)? },
            Opcode::Outcome => {
                RequestBody::Outcome { pair: IdempotencyPair { key: reader.array16()?, seen: Version(reader.u64()?) } }
            }
            Opcode::Backup => RequestBody::Backup { credit: reader.u32()? },
            Opcode::ClusterStatus => RequestBody::ClusterStatus,
            Opcode::ClusterRemove => RequestBody::ClusterRemove { node: NodeId(reader.u64()?) },
            Opcode::ClusterTransfer => RequestBody::ClusterTransfer { node: NodeId(reader.u64()?) },
            Opcode::ClusterPromote => RequestBody::ClusterPromote { node: NodeId(reader.u64()?) },
            Opcode::ClusterAdd => RequestBody::ClusterAdd { peer_address: read_address(reader)? },
            Opcode::OpenKeyspace => read_open_keyspace(reader)?,
            Opcode::Status => RequestBody::Status,
            Opcode::ReadVersion => RequestBody::ReadVersion,
        })
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        match self {
            RequestBody::Get { key } | RequestBody::Delete { key } => out.put_full_key(key),
            RequestBody::Put { key, value } => {
                out.put_full_key(key);
                out.put_bytes32(value);
            }
            RequestBody::Atomic { op, key, operand } => {
                out.put_u8(*op);
                out.put_full_key(key);
                out.put_bytes32(operand);
            }
            RequestBody::GetMany { keys } => keys.write16(out),
            RequestBody::Scan(scan) => scan.write(out),
            RequestBody::DeleteRange { range } => range.write(out),
            RequestBody::Execute(execute) => execute.write(out),
            RequestBody::Begin { isolation } => out.put_u8(*isolation as u8),
            RequestBody::Savepoint { name } | RequestBody::RollbackTo { name } => out.put_bytes16(name),
            RequestBody::Outcome { pair } => {
                out.put_slice(&pair.key);
                out.put_u64(pair.seen.0);
            }
            RequestBody::Backup { credit } => out.put_u32(*credit),
            RequestBody::OpenKeyspace { create, name } => {
                out.put_u8(u8::from(*create));
                out.put_bytes16(name.as_bytes());
            }
            RequestBody::ClusterRemove { node }
            | RequestBody::ClusterTransfer { node }
            | RequestBody::ClusterPromote { node } => out.put_u64(node.0),
            RequestBody::ClusterAdd { peer_address } => out.put_bytes16(peer_address.as_bytes()),
            RequestBody::Commit
            | RequestBody::Rollback
            | RequestBody::Status
            | RequestBody::ReadVersion
            | RequestBody::ClusterStatus => {}
        }
    }
}

fn read_isolation(reader: &mut Reader<'_>) -> Result<Isolation, DecodeError> {
    match reader.u8()? {
        0 => Ok(Isolation::Serializable),
        1 => Ok(Isolation::Snapshot),
        _ => Err(DecodeError::malformed("no such isolation")),
    }
}

// spec: QP-MSG-012
fn read_open_keyspace<'a>(reader: &mut Reader<'a>) -> Result<RequestBody<'a>, DecodeError> {
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(DecodeError::malformed("a flag of the request is not known"));
    }
    let name = checked_name(reader.bytes16()?, KEYSPACE_NAME_BYTES_MAX)?;
    let name = std::str::from_utf8(name).map_err(|_| DecodeError::new(ErrorCode::BAD_NAME, "the name is not UTF-8"))?;
    Ok(RequestBody::OpenKeyspace { create: flags == 1, name })
}

// spec: QP-MSG-013
fn read_savepoint<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    checked_name(reader.bytes16()?, SAVEPOINT_NAME_BYTES_MAX)
}

fn checked_name(name: &[u8], max: usize) -> Result<&[u8], DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::new(ErrorCode::BAD_NAME, "the name is empty"));
    }
    if name.len() > max {
        return Err(DecodeError::over(ErrorCode::BAD_NAME, max, name.len()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::tags::{Consistency, IfGone, put_tag};
    use super::*;

    const KEY: &[u8] = b"\0\0\0\x01k";
    const PAIR: IdempotencyPair = IdempotencyPair { key: [7; 16], seen: Version(3) };

    fn encoded(request: &Request<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        out
    }

    fn code(request: Request<'_>) -> Result<(), ErrorCode> {
        Request::decode(request.opcode().number(), &encoded(&request)).map(|_| ()).map_err(|error| error.code)
    }

    fn with<'a>(body: RequestBody<'a>, change: impl FnOnce(&mut RequestTags<'a>)) -> Request<'a> {
        let mut request = Request::new(body);
        change(&mut request.tags);
        request
    }

    #[test]
    fn a_put_gives_the_bytes_that_the_log_wants() {
        let request = with(RequestBody::Put { key: KEY, value: b"v" }, |tags| tags.deadline_ms = Some(5));
        let bytes = encoded(&request);
        let (read, fields) = Request::decode_with_fields(0x0020, &bytes).expect("valid");
        assert_eq!(read, request);
        assert_eq!(fields, b"\0\x01\0\0\0\x01k\0\0\0\x01v");
    }

    // spec: QP-MSG-001
    #[test]
    fn opcodes_that_are_not_assigned_are_refused() {
        let code = |opcode| Request::decode(opcode, b"").expect_err("not assigned").code;
        assert_eq!(code(0x0000), ErrorCode::UNKNOWN_OPCODE);
        assert_eq!(code(0x7777), ErrorCode::UNKNOWN_OPCODE);
        assert_eq!(code(0x0040), ErrorCode::UNSUPPORTED);
        assert_eq!(code(0x007f), ErrorCode::UNSUPPORTED);
    }

    // spec: QP-MSG-012
    // spec: QP-MSG-013
    #[test]
    fn names_have_a_length_and_a_keyspaces_name_is_text() {
        let open = |name| code(Request::new(RequestBody::OpenKeyspace { create: true, name }));
        assert_eq!(open("default"), Ok(()));
        assert_eq!(open(""), Err(ErrorCode::BAD_NAME));
        assert_eq!(open(&"n".repeat(129)), Err(ErrorCode::BAD_NAME));
        assert_eq!(Request::decode(3, b"\x01\0\x01\xff").expect_err("not text").code, ErrorCode::BAD_NAME);
        assert_eq!(Request::decode(3, b"\x02\0\x01a").expect_err("flag").code, ErrorCode::MALFORMED);
        let save = |name| code(with(RequestBody::Savepoint { name }, |tags| tags.transaction = Some(1)));
        assert_eq!(save(b"\xff"), Ok(()));
        assert_eq!(save(b""), Err(ErrorCode::BAD_NAME));
        assert_eq!(save(&[0; 65]), Err(ErrorCode::BAD_NAME));
        assert_eq!(Request::decode(0x30, &[2]).expect_err("isolation").code, ErrorCode::MALFORMED);
    }

    // spec: QP-MSG-004
    // spec: QP-MSG-005
    #[test]
    fn tags_that_are_not_taken_are_ignored_or_refused() {
        let get = |tag: u16, value: &[u8]| {
            let mut bytes = encoded(&Request::new(RequestBody::Get { key: KEY }));
            put_tag(&mut bytes, Tag(tag), value);
            let decoded = Request::decode(0x10, &bytes);
            decoded.map(|request| request.tags == RequestTags::default()).map_err(|error| (error.code, error.tag))
        };
        let none = Ok(true);
        assert_eq!(get(0x7a0a, b"anything"), none);
        assert_eq!(get(0x7777, b""), none);
        assert_eq!(get(Tag::LIMIT.0, b"short"), none, "a tag of the other direction");
        assert_eq!(get(Tag::RESUME_TOKEN.0, b"t"), none, "a tag of another opcode");
        assert_eq!(get(0x8777, b""), Err((ErrorCode::UNKNOWN_CRITICAL_TAG, Some(Tag(0x8777)))));
        assert_eq!(get(0x80f3, b""), Err((ErrorCode::UNSUPPORTED, Some(Tag(0x80f3)))));
        assert_eq!(get(Tag::IDEMPOTENCY.0, &[0; 24]), Err((ErrorCode::MALFORMED, Some(Tag::IDEMPOTENCY))));
        assert_eq!(get(Tag::DEADLINE.0, &[0; 3]), Err((ErrorCode::MALFORMED, Some(Tag::DEADLINE))));
        assert_eq!(get(Tag::TRACE_PARENT.0, &[0; 65]), Err((ErrorCode::MALFORMED, Some(Tag::TRACE_PARENT))));
        assert_eq!(get(Tag::CONSISTENCY.0, &[3]), Err((ErrorCode::MALFORMED, Some(Tag::CONSISTENCY))));
        assert_eq!(get(Tag::CONSISTENCY.0, &[1, 0]), Err((ErrorCode::MALFORMED, Some(Tag::CONSISTENCY))));
    }

    // spec: QP-MSG-003
    #[test]
    fn tags_ascend() {
        for second in [Tag::DEADLINE, Tag(0)] {
            let mut bytes = encoded(&with(RequestBody::Status, |tags| tags.deadline_ms = Some(1)));
            put_tag(&mut bytes, second, &[0; 4]);
            assert_eq!(Request::decode(1, &bytes).expect_err("descends").code, ErrorCode::MALFORMED);
        }
        let mut cut = encoded(&with(RequestBody::Status, |tags| tags.deadline_ms = Some(1)));
        cut.truncate(8);
        assert_eq!(Request::decode(1, &cut).expect_err("cut").code, ErrorCode::MALFORMED);
    }

    // spec: QP-MSG-006
    #[test]
    fn tags_that_need_or_exclude_each_other() {
        let put = RequestBody::Put { key: KEY, value: b"" };
        let get = RequestBody::Get { key: KEY };
        let bad = Err(ErrorCode::MALFORMED);
        assert_eq!(code(Request::new(RequestBody::Commit)), bad);
        assert_eq!(code(with(RequestBody::Commit, |tags| tags.transaction = Some(1))), Ok(()));
        assert_eq!(code(with(put, |tags| tags.retry_mark = true)), bad);
        assert_eq!(code(with(put, |tags| (tags.retry_mark, tags.idempotency) = (true, Some(PAIR)))), Ok(()));
        assert_eq!(code(with(put, |tags| (tags.transaction, tags.idempotency) = (Some(1), Some(PAIR)))), bad);
        let local = Some(Consistency::Local);
        assert_eq!(code(with(get, |tags| (tags.transaction, tags.consistency) = (Some(1), local))), bad);
        let open = RequestBody::OpenKeyspace { create: false, name: "n" };
        assert_eq!(code(with(open, |tags| tags.idempotency = Some(PAIR))), bad);
        let scan = RequestBody::Scan(Scan {
            range: RangeRef { keyspace: crate::types::KeyspaceId(1), start: b"", end: None },
            reverse: false,
            keys_only: false,
            count_only: false,
            limit: 0,
            credit: 0,
        });
        assert_eq!(code(with(scan, |tags| tags.if_gone = Some(IfGone::Newer))), bad);
        let resumed = with(scan, |tags| (tags.if_gone, tags.resume_token) = (Some(IfGone::Newer), Some(&b"t"[..])));
        assert_eq!(code(resumed), Ok(()));
        let mut strange = encoded(&resumed);
        *strange.last_mut().expect("not empty") = 2;
        assert!(Request::decode(0x12, &strange).is_err());
    }

    #[test]
    fn every_tag_comes_back_and_grease_is_ignored() {
        let request = with(RequestBody::Commit, |tags| {
            tags.deadline_ms = Some(1);
            tags.trace_parent = Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
            tags.transaction = Some(2);
            tags.idempotency = Some(PAIR);
            tags.retry_mark = true;
        });
        let mut greased = BytesMut::new();
        request.encode_greased(&mut greased, Grease::from_random(0x0f0f_0f0f_0f0f_0f0f));
        assert_eq!(Request::decode(0x31, &greased), Ok(request));
        assert_eq!(Grease::from_random(u64::MAX), None);
        for consistency in
            [Consistency::Linearizable, Consistency::BoundedStaleness { staleness_ms_max: 9 }, Consistency::Local]
        {
            let request = with(RequestBody::ReadVersion, |tags| {
                tags.consistency = Some(consistency);
                tags.min_version = Some(Version(4));
            });
            assert_eq!(Request::decode(2, &encoded(&request)), Ok(request));
        }
    }
}
