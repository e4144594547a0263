//! Any request.

use super::parts::{Parts, grease, range};
use crate::types::{IdempotencyPair, Isolation, NodeId, Version};
use crate::wire::registry::{OPCODES, TagSet};
use crate::wire::{Consistency, Execute, Grease, IfGone, Opcode, Request, RequestBody, RequestTags, Scan, Tag};
use bytes::BytesMut;
use quickcheck::{Arbitrary, Gen};

/// Any request, with any of the tags that it may carry.
#[derive(Clone, Debug)]
pub struct AnyRequest {
    opcode: Opcode,
    parts: Parts,
    /// A tag that means nothing, for whoever sends it.
    pub grease: Option<Grease>,
}

impl AnyRequest {
    /// A request of this opcode.
    pub fn of(g: &mut Gen, opcode: Opcode) -> AnyRequest {
        AnyRequest { opcode, parts: Parts::arbitrary(g), grease: grease(g) }
    }

    /// Its opcode.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        self.opcode
    }

    /// The request, which borrows from this.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        Request { body: self.body(), tags: self.tags() }
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> BytesMut {
        let mut payload = BytesMut::new();
        self.request().encode(&mut payload);
        payload
    }

    fn body(&self) -> RequestBody<'_> {
        let Parts { numbers, flags, keys, blobs, array, .. } = &self.parts;
        let range = range(numbers[0] as u32 % 99, &blobs[0], &blobs[1], flags[0]);
        let name: &[u8] = if blobs[2].is_empty() { b"name" } else { &blobs[2][..blobs[2].len().min(64)] };
        let text = if self.parts.texts[0].is_empty() { "name" } else { &self.parts.texts[0] };
        match self.opcode {
            Opcode::Status => RequestBody::Status,
            Opcode::ReadVersion => RequestBody::ReadVersion,
            Opcode::OpenKeyspace => RequestBody::OpenKeyspace { create: flags[0], name: text },
            Opcode::Get => RequestBody::Get { key: &keys[0] },
            Opcode::GetMany => RequestBody::GetMany { keys: self.parts.key_list.as_list() },
            Opcode::Scan => RequestBody::Scan(Scan {
                range,
                reverse: flags[1],
                keys_only: flags[2],
                count_only: flags[3],
                limit: numbers[1],
                credit: numbers[2] as u32,
            }),
            Opcode::Put => RequestBody::Put { key: &keys[0], value: &blobs[0] },
            Opcode::Delete => RequestBody::Delete { key: &keys[0] },
            Opcode::DeleteRange => RequestBody::DeleteRange { range },
            Opcode::Atomic => {
                RequestBody::Atomic { op: 1 + (numbers[1] % 10) as u8, key: &keys[0], operand: &blobs[0] }
            }
            Opcode::Execute => RequestBody::Execute(Execute {
                conditions: self.parts.condition_list.as_list(),
                then_ops: self.parts.op_lists[0].as_list(),
                else_ops: self.parts.op_lists[1].as_list(),
            }),
            Opcode::Begin => {
                RequestBody::Begin { isolation: if flags[0] { Isolation::Snapshot } else { Isolation::Serializable } }
            }
            Opcode::Commit => RequestBody::Commit,
            Opcode::Rollback => RequestBody::Rollback,
            Opcode::Savepoint => RequestBody::Savepoint { name },
            Opcode::RollbackTo => RequestBody::RollbackTo { name },
            Opcode::Backup => RequestBody::Backup { credit: numbers[2] as u32 },
            Opcode::ClusterStatus => RequestBody::ClusterStatus,
            Opcode::ClusterRemove => RequestBody::ClusterRemove { node: NodeId(numbers[1]) },
            Opcode::ClusterTransfer => RequestBody::ClusterTransfer { node: NodeId(numbers[1]) },
            Opcode::ClusterPromote => RequestBody::ClusterPromote { node: NodeId(numbers[1]) },
            Opcode::ClusterAdd => RequestBody::ClusterAdd { peer_address: text },
            Opcode::Outcome => {
                RequestBody::Outcome { pair: IdempotencyPair { key: *array, seen: Version(numbers[1]) } }
            }
        }
    }

    /// Tags that go together: those that need or exclude each other are chosen so.
    fn tags(&self) -> RequestTags<'_> {
        let Parts { numbers, flags, blobs, array, .. } = &self.parts;
        let allowed: TagSet = self.opcode.tags();
        let required = self.opcode > Opcode::Begin && self.opcode < Opcode::Outcome;
        let creates = self.opcode != Opcode::OpenKeyspace || flags[0];
        let transaction = allowed.has(Tag::TRANSACTION) && (required || flags[4]);
        let idempotency =
            allowed.has(Tag::IDEMPOTENCY) && flags[5] && creates && (!transaction || self.opcode == Opcode::Commit);
        let resumes = allowed.has(Tag::RESUME_TOKEN) && flags[6];
        let consistency = [
            Consistency::Linearizable,
            Consistency::BoundedStaleness { staleness_ms_max: numbers[3] as u32 },
            Consistency::Local,
        ];
        RequestTags {
            deadline_ms: flags[7].then_some(numbers[4] as u32),
            trace_parent: flags[1].then_some(&blobs[1][..blobs[1].len().min(64)]),
            min_version: (allowed.has(Tag::MIN_VERSION) && flags[3]).then_some(Version(numbers[5])),
            resume_token: resumes.then_some(&blobs[2]),
            transaction: transaction.then_some(numbers[3]),
            idempotency: idempotency.then_some(IdempotencyPair { key: *array, seen: Version(numbers[2]) }),
            retry_mark: idempotency && flags[2],
            consistency: (allowed.has(Tag::CONSISTENCY) && !transaction && flags[2])
                .then_some(consistency[(numbers[0] % 3) as usize]),
            if_gone: (resumes && allowed.has(Tag::IF_GONE) && flags[3]).then_some(if flags[2] {
                IfGone::Newer
            } else {
                IfGone::Error
            }),
        }
    }
}

impl Arbitrary for AnyRequest {
    fn arbitrary(g: &mut Gen) -> AnyRequest {
        let opcode = g.choose(OPCODES).expect("there are opcodes").opcode;
        AnyRequest::of(g, opcode)
    }
}
