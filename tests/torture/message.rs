//! What a client asks in one message, owned, so that it can be sent again; and what its answers say happened.

use bytes::{Bytes, BytesMut};
use quantadb::{
    testing::history::{Condition, Found, Outcome, RangeEnd, RangeRead, Step},
    txn::AtomicOp,
    types::{FullKey, KeyRange, KeyspaceId, Version},
    wire::{
        self, DeleteRangeReply, Execute, ExecuteReply, ListBuf, Op, OpResult, RangeRef, Request, RequestBody,
        RequestTags, Response, Test,
    },
};

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Do {
    Put(FullKey, Bytes),
    Delete(FullKey),
    Atomic(AtomicOp, FullKey, Bytes),
    DeleteRange(KeyRange),
    Get(FullKey),
    Range { range: KeyRange, reverse: bool, keys_only: bool, limit: u32 },
}

/// What may be committed.
#[derive(Clone, Debug)]
pub enum Message {
    /// A request of its own that writes.
    Single(Do),
    /// A one-shot transaction. Its else branch never writes, so one that committed did `then`.
    OneShot { conditions: Vec<(FullKey, Condition)>, then: Vec<Do>, otherwise: Vec<Do> },
    /// The end of an interactive transaction, whose steps were recorded as they went.
    Commit { transaction: u64, steps: Vec<Step>, read_version: Version },
}

/// The range as the protocol has it. All ranges here have an end in the default keyspace.
pub fn range_ref(range: &KeyRange) -> RangeRef<'_> {
    RangeRef { keyspace: KeyspaceId::DEFAULT, start: &range.start[4..], end: Some(&range.end[4..]) }
}

fn op(what: &Do) -> Op<'_> {
    match what {
        Do::Put(key, value) => Op::Put { key, value },
        Do::Delete(key) => Op::Delete { key },
        Do::Atomic(op, key, operand) => Op::Atomic { op: *op as u8, key, operand },
        Do::DeleteRange(range) => Op::DeleteRange { range: range_ref(range) },
        Do::Get(key) => Op::Get { key },
        Do::Range { range, reverse, keys_only, limit } => {
            Op::Range { range: range_ref(range), reverse: *reverse, keys_only: *keys_only, limit: *limit }
        }
    }
}

fn ops(what: &[Do]) -> ListBuf {
    let mut list = ListBuf::new();
    what.iter().for_each(|what| list.push(&op(what)));
    list
}

fn test(condition: &Condition) -> Test<'_> {
    match condition {
        Condition::Exists => Test::Exists,
        Condition::Absent => Test::Absent,
        Condition::ValueEquals(value) => Test::ValueEquals(value),
        Condition::ValueDiffers(value) => Test::ValueDiffers(value),
        Condition::VersionEquals(version) => Test::VersionEquals(*version),
        Condition::VersionAtMost(version) => Test::VersionAtMost(*version),
    }
}

pub fn found(found: Option<wire::Found<'_>>) -> Option<Found> {
    found.map(|found| Found::new(found.version, found.value))
}

/// A row of a scan; without its value where keys alone were asked for.
pub fn row(row: &wire::Row<'_>, keys_only: bool) -> (FullKey, Found) {
    let value = (!keys_only).then(|| Bytes::copy_from_slice(row.value));
    (KeyspaceId::DEFAULT.full_key(row.key), Found { version: row.version, value })
}

impl Message {
    /// Makes the request and hands it to `send`.
    pub fn with_request<T>(&self, mut tags: RequestTags<'_>, send: impl FnOnce(&Request<'_>) -> T) -> T {
        let body = match self {
            Message::Commit { transaction, .. } => {
                tags.transaction = Some(*transaction);
                RequestBody::Commit
            }
            Message::Single(Do::Put(key, value)) => RequestBody::Put { key, value },
            Message::Single(Do::Delete(key)) => RequestBody::Delete { key },
            Message::Single(Do::Atomic(op, key, operand)) => RequestBody::Atomic { op: *op as u8, key, operand },
            Message::Single(Do::DeleteRange(range)) => RequestBody::DeleteRange { range: range_ref(range) },
            Message::Single(read) => panic!("not a write: {read:?}"),
            Message::OneShot { conditions, then, otherwise } => {
                let mut list = ListBuf::new();
                for (key, condition) in conditions {
                    list.push(&wire::Condition { key, test: test(condition) });
                }
                let (then, otherwise) = (ops(then), ops(otherwise));
                let execute =
                    Execute { conditions: list.as_list(), then_ops: then.as_list(), else_ops: otherwise.as_list() };
                return send(&Request { body: RequestBody::Execute(execute), tags });
            }
        };
        send(&Request { body, tags })
    }

    /// Whether it can be sent again on another connection, or only asked about.
    pub fn repeats(&self) -> bool {
        !matches!(self, Message::Commit { .. })
    }

    /// What it does if it commits and nobody tells more.
    pub fn untold(&self) -> Vec<Step> {
        match self {
            Message::Single(what) => untold(std::slice::from_ref(what)),
            Message::OneShot { then, .. } => untold(then),
            Message::Commit { steps, .. } => steps.clone(),
        }
    }

    /// What a response says happened.
    pub fn told(&self, response: &Response<'_>) -> (Vec<Step>, Outcome) {
        match (self, response) {
            (Message::Single(Do::Put(..) | Do::Delete(_)), Response::Version(reply)) => {
                (self.untold(), Outcome::Committed(reply.version))
            }
            (Message::Single(Do::Atomic(..)), Response::Atomic(reply)) => {
                let results: Vec<_> = reply.result.map(Bytes::copy_from_slice).into_iter().collect();
                (with_results(self.untold(), results), Outcome::Committed(reply.version))
            }
            (Message::Single(Do::DeleteRange(range)), Response::DeleteRange(reply)) => {
                let steps = vec![Step::DeleteRange { range: range.clone(), deleted: Some(reply.deleted) }];
                (steps, settled(reply.deleted > 0, reply.version))
            }
            (Message::OneShot { .. }, Response::Execute(reply)) => self.executed(reply),
            (Message::Commit { steps, read_version, .. }, Response::Commit(reply)) => {
                let results = reply.results.iter().map(|blob| Bytes::copy_from_slice(blob.0)).collect();
                let wrote = reply.version != *read_version;
                (with_results(steps.clone(), results), settled(wrote, reply.version))
            }
            other => panic!("an answer of another kind: {other:?}"),
        }
    }

    fn executed(&self, reply: &ExecuteReply<'_>) -> (Vec<Step>, Outcome) {
        let Message::OneShot { conditions, then, otherwise } = self else { panic!("not a one-shot") };
        let mut steps = Vec::new();
        if !conditions.is_empty() {
            steps.push(Step::Conditions { conditions: conditions.clone(), held: reply.then });
        }
        let branch = if reply.then { then } else { otherwise };
        assert_eq!(branch.len(), reply.results.len(), "one result for each operation");
        let mut wrote = false;
        for (what, result) in branch.iter().zip(&reply.results) {
            wrote |= match result {
                OpResult::Put | OpResult::Delete | OpResult::Atomic(_) => true,
                OpResult::DeleteRange(deleted) => deleted > 0,
                OpResult::Get(_) | OpResult::Range { .. } => false,
            };
            steps.push(step(what, Some(&result)));
        }
        (steps, settled(wrote, reply.version))
    }

    /// What a record of the commit says happened: the results of its atomic operations, or its reply without version.
    pub fn recorded(&self, version: Version, results: Option<Vec<Bytes>>) -> (Vec<Step>, Outcome) {
        let committed = Outcome::Committed(version);
        let Some(results) = results else { return (self.untold(), committed) };
        match self {
            Message::OneShot { .. } | Message::Single(Do::DeleteRange(_)) => {
                let mut payload = BytesMut::from(&version.0.to_be_bytes()[..]);
                payload.extend_from_slice(results.first().expect("the reply was recorded"));
                let malformed = "a recorded reply is whole";
                match self {
                    Message::OneShot { .. } => self.executed(&ExecuteReply::decode(&payload).expect(malformed)),
                    _ => self.told(&Response::DeleteRange(DeleteRangeReply::decode(&payload).expect(malformed))),
                }
            }
            _ => (with_results(self.untold(), results), committed),
        }
    }
}

fn settled(wrote: bool, version: Version) -> Outcome {
    if wrote { Outcome::Committed(version) } else { Outcome::ReadOnly(version) }
}

fn untold(what: &[Do]) -> Vec<Step> {
    let writes = what.iter().filter(|what| !matches!(what, Do::Get(_) | Do::Range { .. }));
    writes.map(|what| step(what, None)).collect()
}

fn step(what: &Do, result: Option<&OpResult<'_>>) -> Step {
    match (what, result) {
        (Do::Put(key, value), _) => Step::Put { key: key.clone(), value: value.clone() },
        (Do::Delete(key), _) => Step::Delete { key: key.clone() },
        (Do::Atomic(op, key, operand), result) => {
            let result = match result {
                Some(OpResult::Atomic(result)) => Some(Bytes::copy_from_slice(result)),
                _ => None,
            };
            Step::Atomic { op: *op, key: key.clone(), operand: operand.clone(), result }
        }
        (Do::DeleteRange(range), result) => {
            let deleted = match result {
                Some(OpResult::DeleteRange(deleted)) => Some(*deleted),
                _ => None,
            };
            Step::DeleteRange { range: range.clone(), deleted }
        }
        (Do::Get(key), Some(OpResult::Get(there))) => Step::Get { key: key.clone(), found: found(*there) },
        (Do::Range { range, reverse, keys_only, limit }, Some(OpResult::Range { more, rows })) => {
            Step::Range(RangeRead {
                range: range.clone(),
                reverse: *reverse,
                limit: Some(u64::from(*limit)),
                rows: rows.iter().map(|there| row(&there, *keys_only)).collect(),
                end: if *more { RangeEnd::Limit } else { RangeEnd::Exhausted },
            })
        }
        other => panic!("a result of another kind: {other:?}"),
    }
}

/// Gives the atomic operations their results, in order: of those that were not rolled back.
fn with_results(mut steps: Vec<Step>, results: Vec<Bytes>) -> Vec<Step> {
    let (mut live, mut savepoints) = (Vec::new(), std::collections::HashMap::new());
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Atomic { .. } => live.push(at),
            Step::Savepoint(name) => drop(savepoints.insert(name.clone(), live.len())),
            Step::RollbackTo(name) => live.truncate(savepoints.get(name).copied().unwrap_or(0)),
            _ => {}
        }
    }
    assert_eq!(live.len(), results.len(), "one result for each atomic operation that is left: {steps:?}");
    for (at, told) in live.into_iter().zip(results) {
        if let Step::Atomic { result, .. } = &mut steps[at] {
            *result = Some(told);
        }
    }
    steps
}
