//! Requests: admission, what each waits for, and where it is carried out.

use super::{Session, State, held::Hold};
use crate::{
    encoding::Reader,
    env::Moment,
    node::{Item, Keyed, Work},
    server::{errors, evaluate, metrics::add},
    txn::{AtomicOp, Mutation},
    types::{KeyspaceId, split_full_key},
    wire::{
        self, DecodeError, ErrorCode, Header, ListBuf, Opcode, Request, RequestBody, RequestTags, Retry, Role,
        StatusReply, Tag, WireError, peer::PeerOpcode,
    },
};
use bytes::BytesMut;
use std::{ops::Range, time::Duration};

/// A request that waits for the committer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    pub(super) opcode: Opcode,
    pub(super) deadline: Moment,
    pub(super) payload_bytes: u32,
    pub(super) keyed: bool,
    /// Whether it is marked as sent before.
    pub(super) retried: bool,
    /// Whether silence leaves its outcome unknown.
    pub(super) writes: bool,
}

/// A request being looked at: its frame, and what its tags say.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) request: u64,
    pub(super) opcode: Opcode,
    pub(super) payload: &'a [u8],
    pub(super) deadline: Moment,
    pub(super) tags: RequestTags<'a>,
}

impl Session {
    /// A REQUEST has arrived; its payload begins at `at` in `block`.
    // spec: QP-MSG-002
    pub(super) fn request(&mut self, block: &BytesMut, at: usize, header: Header) {
        let request = header.request_id;
        if request <= self.last_request {
            return self.go_away(ErrorCode::PROTOCOL_ERROR, "request ids must increase");
        }
        self.last_request = request;
        add(&self.shared.metrics.requests_total, 1);
        let payload = &block[at..at + header.payload_bytes as usize];
        if self.state == State::Draining {
            let error = of_attempt(WireError::new(ErrorCode::SHUTTING_DOWN), header.opcode, payload);
            return self.respond_error(header.opcode, request, &error);
        }
        if let Some(error) = self.overloaded(header.payload_bytes as usize) {
            self.fail_transaction_of(header.opcode, payload, &error);
            let error = of_attempt(error, header.opcode, payload);
            return self.respond_error(header.opcode, request, &error);
        }
        if self.is_peer && header.opcode == PeerOpcode::CommitWhole.number() {
            return self.commit_whole(request, payload);
        }
        // The hot path: a read of one key without tags.
        if header.opcode == Opcode::Get.number() && !header.is_after() && self.plain_get(request, payload, at) {
            return;
        }
        let decoded = Request::decode_with_fields(header.opcode, payload);
        match decoded {
            Ok((decoded, fields)) => {
                let incoming = self.incoming(request, payload, &decoded);
                if let Some(hold) = self.must_wait(&header, &incoming) {
                    self.execute_gets(block);
                    return self.hold(&header, payload, &incoming, hold);
                }
                let fields = at..at + fields.len();
                self.carry_out(block, &incoming, &decoded.body, fields);
            }
            Err(error) => self.refuse_undecoded(header.opcode, request, payload, &error),
        }
    }

    fn incoming<'a>(&self, request: u64, payload: &'a [u8], decoded: &Request<'a>) -> Incoming<'a> {
        let after = match decoded.tags.deadline_ms {
            Some(ms) => Duration::from_millis(u64::from(ms)),
            None => self.shared.options.deadline_default,
        };
        Incoming { request, opcode: decoded.opcode(), payload, deadline: self.now + after, tags: decoded.tags }
    }

    fn overloaded(&self, payload_bytes: usize) -> Option<WireError> {
        let options = &self.shared.options;
        let count = self.outstanding.len() + self.held.len() + self.streams.len();
        let over = |limit: usize, actual: usize| {
            Some(WireError {
                retry_after_ms: 5,
                ..WireError::new(ErrorCode::OVERLOADED).with_bound(limit as u64, actual as u64)
            })
        };
        if count >= options.requests_in_flight_max {
            return over(options.requests_in_flight_max, count + 1);
        }
        let bytes = self.bytes_in_flight + payload_bytes;
        if bytes > options.bytes_in_flight_max && self.bytes_in_flight > 0 {
            return over(options.bytes_in_flight_max, bytes);
        }
        if self.is_congested() {
            return over(options.bytes_in_flight_max, self.unwritten());
        }
        None
    }

    /// A request whose payload is not one. If it may have belonged to a transaction, that has failed.
    fn refuse_undecoded(&mut self, opcode: u16, request: u64, payload: &[u8], error: &DecodeError) {
        let error = WireError::from(*error);
        self.fail_transaction_of(opcode, payload, &error);
        self.respond_error(opcode, request, &error);
    }

    /// Fails the transaction that an unexecuted request names. Where that cannot be told, every open transaction of
    /// the connection may be missing what was asked of it, so every one fails.
    // spec: QP-TXN-020
    fn fail_transaction_of(&mut self, opcode: u16, payload: &[u8], error: &WireError) {
        match transaction_of(opcode, payload) {
            Ok(None) => {}
            Ok(Some(transaction)) => self.transactions.fail(transaction, error),
            Err(()) => self.transactions.fail_all(error),
        }
    }

    /// Whether the request must wait before it is begun.
    fn must_wait(&mut self, header: &Header, incoming: &Incoming<'_>) -> Option<Hold> {
        if header.is_after() && !(self.is_quiet() && self.gets.is_empty()) {
            return Some(Hold::Earlier);
        }
        if let Some(transaction) = incoming.tags.transaction {
            let queued = self.held.iter().any(|held| held.belongs_to(transaction));
            return queued.then_some(Hold::Transaction);
        }
        if incoming.opcode.is_read() { self.read_must_wait(incoming) } else { None }
    }

    /// Carries out a request that need not wait. `fields` is where its fixed fields stand in `block`.
    pub(super) fn carry_out(
        &mut self,
        block: &[u8],
        incoming: &Incoming<'_>,
        body: &RequestBody<'_>,
        fields: Range<usize>,
    ) {
        if incoming.deadline <= self.now {
            let error = WireError::new(ErrorCode::DEADLINE_EXCEEDED);
            if let Some(transaction) = incoming.tags.transaction {
                self.transactions.fail(transaction, &error);
            }
            let error = if incoming.tags.retry_mark { errors::unsettled(error) } else { error };
            return self.respond_error(incoming.opcode.number(), incoming.request, &error);
        }
        if self.shared.node.forwards() && self.belongs_to_leader(incoming, body) {
            return self.forward(incoming);
        }
        if let Err(error) = self.check_keyspaces(body) {
            if let Some(transaction) = incoming.tags.transaction {
                self.transactions.fail(transaction, &error);
            }
            return self.respond_error(incoming.opcode.number(), incoming.request, &error);
        }
        if incoming.tags.transaction.is_some() || incoming.opcode == Opcode::Begin {
            return self.in_transaction(incoming, body);
        }
        match body {
            RequestBody::Get { key } => {
                let at = fields.end - key.len();
                self.gets.push((incoming.request, at..fields.end));
            }
            RequestBody::GetMany { keys } => self.get_many(incoming, *keys),
            RequestBody::Scan(scan) => self.begin_scan(incoming, scan),
            RequestBody::Backup { credit } => self.begin_backup(incoming, *credit),
            RequestBody::Put { .. } => self.single(incoming, Mutation::KIND_PUT, fields),
            RequestBody::Delete { .. } => self.single(incoming, Mutation::KIND_DELETE, fields),
            RequestBody::Atomic { op, .. } if AtomicOp::from_u8(*op).is_none() => {
                let error = WireError::new(ErrorCode::MALFORMED).with_message("no such atomic operation");
                self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
            RequestBody::Atomic { .. } => self.single(incoming, Mutation::KIND_ATOMIC, fields),
            RequestBody::DeleteRange { range } => {
                self.decide(incoming, Work::Evaluate(evaluate::delete_range(range.to_key_range())));
            }
            RequestBody::Execute(_) => {
                let payload = bytes::Bytes::copy_from_slice(&block[fields]);
                self.decide(incoming, Work::Evaluate(evaluate::execute(payload)));
            }
            RequestBody::OpenKeyspace { create, name } => self.open_keyspace(incoming, *create, name),
            RequestBody::Outcome { pair } => self.decide(incoming, Work::Outcome(*pair)),
            RequestBody::ReadVersion => {
                let version = self.shared.node.engine().visible();
                self.respond_version(incoming.opcode, incoming.request, version);
            }
            RequestBody::Status => self.status(incoming),
            RequestBody::ClusterStatus
            | RequestBody::ClusterRemove { .. }
            | RequestBody::ClusterTransfer { .. }
            | RequestBody::ClusterPromote { .. }
            | RequestBody::ClusterAdd { .. } => self.cluster(incoming, body),
            RequestBody::Begin { .. }
            | RequestBody::Commit
            | RequestBody::Rollback
            | RequestBody::Savepoint { .. }
            | RequestBody::RollbackTo { .. } => self.in_transaction(incoming, body),
        }
    }

    fn single(&mut self, incoming: &Incoming<'_>, kind: u8, fields: Range<usize>) {
        self.decide(incoming, Work::Single { kind, fields });
    }

    /// Queues a request for the committer.
    pub(super) fn decide(&mut self, incoming: &Incoming<'_>, work: Work) {
        self.await_answer(incoming);
        let keyed = incoming.tags.idempotency.map(|pair| Keyed { pair, retry: incoming.tags.retry_mark });
        self.items.push(Item { request: incoming.request, deadline: incoming.deadline, keyed, work });
    }

    /// Notes that a request has been handed over, and what to tell where no answer comes.
    pub(super) fn await_answer(&mut self, incoming: &Incoming<'_>) {
        let keyed = incoming.tags.idempotency;
        let payload_bytes = u32::try_from(incoming.payload.len()).expect("a payload's length is a u32");
        let outstanding = Outstanding {
            opcode: incoming.opcode,
            deadline: incoming.deadline,
            payload_bytes,
            keyed: keyed.is_some(),
            retried: keyed.is_some() && incoming.tags.retry_mark,
            writes: !matches!(incoming.opcode, Opcode::Outcome | Opcode::ClusterStatus),
        };
        self.outstanding.insert(incoming.request, outstanding);
        self.bytes_in_flight += payload_bytes as usize;
    }

    fn open_keyspace(&mut self, incoming: &Incoming<'_>, create: bool, name: &str) {
        let found = crate::catalog::find(&self.shared.node.snapshot(), name);
        let version = self.shared.node.engine().visible();
        match found {
            Err(error) => {
                let error = errors::of_storage(&error);
                self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
            // A keyed request is settled by its name before anything else.
            Ok(Some(keyspace)) if incoming.tags.idempotency.is_none() => {
                self.keyspaces.insert(keyspace);
                self.respond(incoming.opcode, incoming.request, |out| {
                    wire::OpenKeyspaceReply { version, keyspace, created: false }.encode(out);
                });
            }
            Ok(None) if !create => {
                let error = WireError::new(ErrorCode::UNKNOWN_KEYSPACE);
                self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
            Ok(_) => self.decide(incoming, Work::Evaluate(evaluate::open_keyspace(name.to_owned()))),
        }
    }

    fn status(&mut self, incoming: &Incoming<'_>) {
        let shared = std::sync::Arc::clone(&self.shared);
        let node = &shared.node;
        let usage = node.engine().usage();
        let (requests, bytes) = node.under_way();
        let stored = [
            ("memory_bytes", usage.bytes),
            ("memory_bytes_max", usage.bytes_max),
            ("history_bytes", usage.history_bytes),
            ("keys", usage.keys),
            ("pins", usage.pins),
            ("oldest_pin", usage.oldest_pin.0),
            ("horizon", usage.horizon.0),
            ("deciding_requests", requests as u64),
            ("deciding_bytes", bytes as u64),
            ("snapshots_installed_total", node.snapshots_installed()),
        ];
        let mut counters = ListBuf::new();
        let all = stored.into_iter().chain(node.metrics().counters()).chain(shared.metrics.counters());
        for (name, value) in all {
            counters.push(&wire::Counter { name, value });
        }
        for (name, value) in node.log_metrics().into_iter().flat_map(|log| log.counters()) {
            counters.push(&wire::Counter { name: &format!("log_{name}"), value });
        }
        let leading = node.metrics().leading.load(std::sync::atomic::Ordering::Relaxed);
        let term = node.metrics().term.load(std::sync::atomic::Ordering::Relaxed);
        let reply = StatusReply {
            version: node.engine().visible(),
            cluster: node.identity().cluster,
            node: node.identity().node,
            role: match (leading, node.leader().is_some(), node.votes()) {
                (true, ..) => Role::Leader,
                (false, false, _) => Role::None,
                (false, true, true) => Role::Follower,
                (false, true, false) => Role::Learner,
            },
            term: crate::types::Term(term),
            uptime_ms: u64::try_from(node.uptime().as_millis()).unwrap_or(u64::MAX),
            counters: counters.as_list(),
        };
        self.respond(incoming.opcode, incoming.request, |out| reply.encode(out));
    }

    /// Whether every keyspace that the request names exists.
    // spec: QP-MSG-010
    fn check_keyspaces(&mut self, body: &RequestBody<'_>) -> Result<(), WireError> {
        let of_key = |key: &[u8]| split_full_key(key).map_or(KeyspaceId::SYSTEM, |(keyspace, _)| keyspace);
        match body {
            RequestBody::Get { key }
            | RequestBody::Put { key, .. }
            | RequestBody::Delete { key }
            | RequestBody::Atomic { key, .. } => self.check_keyspace(of_key(key)),
            RequestBody::GetMany { keys } => keys.iter().try_for_each(|key| self.check_keyspace(of_key(key.0))),
            RequestBody::Scan(scan) => self.check_keyspace(scan.range.keyspace),
            RequestBody::DeleteRange { range } => self.check_keyspace(range.keyspace),
            RequestBody::Execute(execute) => {
                execute.conditions.iter().try_for_each(|condition| self.check_keyspace(of_key(condition.key)))?;
                let ops = execute.then_ops.iter().chain(execute.else_ops.iter());
                for op in ops {
                    self.check_keyspace(match op {
                        wire::Op::Put { key, .. }
                        | wire::Op::Delete { key }
                        | wire::Op::Atomic { key, .. }
                        | wire::Op::Get { key } => of_key(key),
                        wire::Op::DeleteRange { range } | wire::Op::Range { range, .. } => range.keyspace,
                    })?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    #[inline]
    pub(super) fn check_keyspace(&mut self, keyspace: KeyspaceId) -> Result<(), WireError> {
        if keyspace == KeyspaceId::DEFAULT || self.keyspaces.contains(&keyspace) {
            return Ok(());
        }
        match crate::catalog::exists(&self.shared.node.snapshot(), keyspace) {
            Ok(true) => {
                self.keyspaces.insert(keyspace);
                Ok(())
            }
            Ok(false) => Err(WireError::new(ErrorCode::UNKNOWN_KEYSPACE)),
            Err(error) => Err(errors::of_storage(&error)),
        }
    }

    /// Answers requests whose deadline has passed: nobody here knows what becomes of those that were handed over.
    pub(super) fn expire_requests(&mut self) {
        let now = self.now;
        let late = |outstanding: &Outstanding| outstanding.deadline <= now;
        let expired: Vec<(u64, Outstanding)> = self
            .outstanding
            .iter()
            .filter(|(_, outstanding)| late(outstanding))
            .map(|(request, outstanding)| (*request, *outstanding))
            .collect();
        for (request, outstanding) in expired {
            let error = match outstanding.writes {
                true => errors::outcome_unknown(outstanding.keyed),
                false => WireError::new(ErrorCode::DEADLINE_EXCEEDED).with_retry(Retry::Backoff),
            };
            self.finish_with_error(request, &error);
        }
        self.expire_held();
    }
}

impl Opcode {
    /// Whether, outside of a transaction, it answers from the visible version, or fixes it.
    pub(super) const fn is_read(self) -> bool {
        matches!(
            self,
            Opcode::Get
                | Opcode::GetMany
                | Opcode::Scan
                | Opcode::ReadVersion
                | Opcode::OpenKeyspace
                | Opcode::Begin
                | Opcode::Backup
        )
    }
}

/// An error of a request that was not looked at: one marked as sent before may have been carried out before.
pub(super) fn of_attempt(error: WireError, opcode: u16, payload: &[u8]) -> WireError {
    let may_be_marked = Opcode::from_number(opcode).is_some_and(|opcode| opcode.tags().has(Tag::RETRY_MARK));
    let is_marked = || Request::decode_with_fields(opcode, payload).is_ok_and(|(request, _)| request.tags.retry_mark);
    if may_be_marked && is_marked() { errors::unsettled(error) } else { error }
}

/// The transaction that a request names, read without checking any limit; an error where the payload does not even
/// have the shape of its opcode.
fn transaction_of(opcode: u16, payload: &[u8]) -> Result<Option<u64>, ()> {
    let mut reader = Reader::new(payload);
    // Of an operation that is not known nobody can say where its tags begin.
    let opcode = Opcode::from_number(opcode).ok_or(())?;
    if !opcode.tags().has(Tag::TRANSACTION) {
        return Ok(None);
    }
    let read = |reader: &mut Reader<'_>| -> Result<Option<u64>, crate::encoding::ReadError> {
        skip_fields(opcode, reader)?;
        while !reader.is_empty() {
            let (tag, value) = (reader.u16()?, reader.bytes32()?);
            if tag == Tag::TRANSACTION.0 {
                return Reader::new(value).u64().map(Some);
            }
        }
        Ok(None)
    };
    read(&mut reader).map_err(|_| ())
}

fn skip_fields(opcode: Opcode, reader: &mut Reader<'_>) -> Result<(), crate::encoding::ReadError> {
    let range = |reader: &mut Reader<'_>| {
        reader.u32()?;
        reader.bytes16()?;
        reader.u8()?;
        reader.bytes16().map(|_| ())
    };
    match opcode {
        Opcode::Get | Opcode::Delete => reader.full_key().map(|_| ()),
        Opcode::Put => {
            reader.full_key()?;
            reader.bytes32().map(|_| ())
        }
        Opcode::Atomic => {
            reader.u8()?;
            reader.full_key()?;
            reader.bytes32().map(|_| ())
        }
        Opcode::GetMany => {
            let count = reader.u16()?;
            (0..count).try_for_each(|_| reader.full_key().map(|_| ()))
        }
        Opcode::DeleteRange => range(reader),
        Opcode::Scan => {
            range(reader)?;
            reader.take(1 + 8 + 4).map(|_| ())
        }
        Opcode::Savepoint | Opcode::RollbackTo => reader.bytes16().map(|_| ()),
        _ => Ok(()),
    }
}
