//! Interactive transactions: they live here, named by the id of the BEGIN request, and die with the connection.

use super::{Session, reads::GetManyAnswer, requests::Incoming};
use crate::{
    env::Moment,
    node::{Rejection, Work},
    server::{Shared, errors, metrics::add},
    txn::{AtomicOp, Failure, ReadKind, ReadRow, Transaction},
    types::{Isolation, Version},
    wire::{
        self, AtomicReply, CommitReply, DeleteRangeReply, ErrorCode, Found, GetReply, Key, List, Opcode, RequestBody,
        WireError,
    },
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

/// How many ended transactions are remembered, so that the rest of a pipeline hears why.
const ENDED_MAX: usize = 1_024;

/// An open transaction and its ages.
struct Open {
    transaction: Transaction,
    begun: Moment,
    touched: Moment,
    /// What it counted when it was weighed last.
    bytes: usize,
}

/// The transactions of a session.
pub(super) struct Transactions {
    shared: Arc<Shared>,
    open: HashMap<u64, Open>,
    /// What all that are open hold together.
    bytes: usize,
    /// Those that failed to begin or were ended from here, with what later frames are told.
    ended: VecDeque<(u64, WireError)>,
}

impl Transactions {
    pub(super) fn new(shared: Arc<Shared>) -> Transactions {
        Transactions { shared, open: HashMap::new(), bytes: 0, ended: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.shared.metrics.transactions.fetch_sub(self.open.len() as u64, Ordering::Relaxed);
        self.open.clear();
        self.bytes = 0;
    }

    /// Whether an open transaction may take more, for all that the others hold.
    fn room(&self) -> Result<(), WireError> {
        let bytes_max = self.shared.options.bytes_in_flight_max;
        match self.bytes <= bytes_max {
            true => Ok(()),
            false => Err(WireError::new(ErrorCode::OVERLOADED).with_bound(bytes_max as u64, self.bytes as u64)),
        }
    }

    /// Counts what a transaction holds after a request of it.
    fn weigh(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            let bytes = open.transaction.bytes();
            self.bytes = self.bytes - open.bytes + bytes;
            open.bytes = bytes;
        }
    }

    /// An unexecuted request belonged to `id`: what follows must not commit as if it had been executed.
    pub(super) fn fail(&mut self, id: u64, error: &WireError) {
        match self.open.get_mut(&id) {
            Some(open) => open.transaction.fail(failure(error)),
            None if self.ended.iter().any(|(ended, _)| *ended == id) => {}
            None => self.end(id, errors::prior_failed(error.code)),
        }
    }

    pub(super) fn fail_all(&mut self, error: &WireError) {
        self.open.values_mut().for_each(|open| open.transaction.fail(failure(error)));
    }

    /// The transaction `id`, or why there is none.
    fn get(&mut self, id: u64, now: Moment) -> Result<&mut Transaction, WireError> {
        match self.open.get_mut(&id) {
            Some(open) => {
                open.touched = now;
                Ok(&mut open.transaction)
            }
            None => Err(why_ended(&self.ended, id)),
        }
    }

    fn begin(&mut self, id: u64, isolation: Isolation, now: Moment) -> Result<Version, WireError> {
        let transactions_max = self.shared.options.transactions_max;
        if self.open.len() >= transactions_max {
            let error = WireError::new(ErrorCode::TOO_MANY_TRANSACTIONS)
                .with_bound(transactions_max as u64, transactions_max as u64 + 1);
            self.end(id, errors::prior_failed(error.code));
            return Err(error);
        }
        let transaction = Transaction::new(self.shared.node.snapshot(), isolation);
        let version = transaction.read_version();
        self.open.insert(id, Open { transaction, begun: now, touched: now, bytes: 0 });
        add(&self.shared.metrics.transactions_total, 1);
        add(&self.shared.metrics.transactions, 1);
        Ok(version)
    }

    fn take(&mut self, id: u64) -> Option<Transaction> {
        let open = self.open.remove(&id)?;
        self.bytes -= open.bytes;
        self.shared.metrics.transactions.fetch_sub(1, Ordering::Relaxed);
        Some(open.transaction)
    }

    fn end(&mut self, id: u64, told: WireError) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((id, told));
    }

    /// Ends what is too old or was silent for too long.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<(u64, WireError)> {
        let options = &self.shared.options;
        let is_late = |open: &Open| {
            now - open.begun >= options.transaction_age_max || now - open.touched >= options.transaction_idle_max
        };
        let mut late: Vec<u64> = self.open.iter().filter(|(_, open)| is_late(open)).map(|(id, _)| *id).collect();
        // Clients are told in this order, which must not come from a hash.
        late.sort_unstable();
        let error = WireError::new(ErrorCode::TRANSACTION_EXPIRED);
        for id in &late {
            self.take(*id);
            add(&self.shared.metrics.transactions_expired_total, 1);
            self.end(*id, error.clone());
        }
        late.into_iter().map(|id| (id, error.clone())).collect()
    }

    /// For a scan: the transaction, if it may be used.
    pub(super) fn usable(&mut self, id: u64, now: Moment) -> Result<&mut Transaction, WireError> {
        let room = self.room();
        let transaction = self.get(id, now)?;
        transaction.check().map_err(|error| errors::of_transaction(&error))?;
        room.map(|()| transaction)
    }

    /// A scan's transaction, whatever its state; the scan of one that is gone is gone too.
    pub(super) fn of_scan(&mut self, id: u64) -> Option<&mut Transaction> {
        self.open.get_mut(&id).map(|open| &mut open.transaction)
    }

    /// A scan is being read: its transaction is not idle.
    pub(super) fn touch(&mut self, id: u64, now: Moment) {
        if let Some(open) = self.open.get_mut(&id) {
            open.touched = now;
        }
        self.weigh(id);
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What frames of a transaction that is not open are told.
fn why_ended(ended: &VecDeque<(u64, WireError)>, id: u64) -> WireError {
    let told = ended.iter().find(|(ended, _)| *ended == id);
    told.map_or_else(|| WireError::new(ErrorCode::UNKNOWN_TRANSACTION), |(_, error)| error.clone())
}

fn failure(error: &WireError) -> Failure {
    Failure { code: error.code.0, message: error.message.clone().into_owned() }
}

/// The version of a row that the transaction wrote itself.
const OWN: Version = Version::ZERO;

pub(super) fn own_or_stored(row: &ReadRow<'_>) -> Version {
    row.version.unwrap_or(OWN)
}

impl Session {
    /// A request that begins, continues or ends a transaction.
    pub(super) fn in_transaction(&mut self, incoming: &Incoming<'_>, body: &RequestBody<'_>) {
        if let RequestBody::Begin { isolation } = body {
            return match self.transactions.begin(incoming.request, *isolation, self.now) {
                Ok(version) => self.respond_version(Opcode::Begin, incoming.request, version),
                Err(error) => self.respond_error(Opcode::Begin.number(), incoming.request, &error),
            };
        }
        let Some(id) = incoming.tags.transaction else {
            let error = WireError::new(ErrorCode::MALFORMED).with_message("the request names no transaction");
            return self.respond_error(incoming.opcode.number(), incoming.request, &error);
        };
        match body {
            RequestBody::Commit => self.commit(incoming, id),
            RequestBody::Rollback => self.rollback(incoming, id),
            RequestBody::Scan(scan) => self.begin_scan(incoming, scan),
            RequestBody::GetMany { keys } => self.get_many_in(incoming, id, *keys),
            _ => self.operate(incoming, id, body),
        }
    }

    /// A request that is answered from the transaction alone.
    fn operate(&mut self, incoming: &Incoming<'_>, id: u64, body: &RequestBody<'_>) {
        let (opcode, request) = (incoming.opcode, incoming.request);
        let room = if matches!(body, RequestBody::RollbackTo { .. }) { Ok(()) } else { self.transactions.room() };
        let transaction = match self.transactions.get(id, self.now) {
            Ok(transaction) => transaction,
            Err(error) => return self.respond_error(opcode.number(), request, &error),
        };
        if let Err(error) = room
            && transaction.check().is_ok()
        {
            transaction.fail(failure(&error));
            return self.respond_error(opcode.number(), request, &error);
        }
        let version = transaction.read_version();
        let out = &mut self.outbound;
        let start = out.len();
        let done = match *body {
            RequestBody::Get { key } => transaction.get(ReadKind::User, key, |row| {
                let found = row.map(|row| Found { version: own_or_stored(&row), value: row.value });
                put(out, opcode, request, |out| GetReply { version, found }.encode(out));
            }),
            RequestBody::Put { key, value } => transaction.put(key, value),
            RequestBody::Delete { key } => transaction.delete(key),
            RequestBody::Atomic { op, key, operand } => match AtomicOp::from_u8(op) {
                Some(op) => transaction.atomic(op, key, operand).map(|()| {
                    put(out, opcode, request, |out| AtomicReply { version, result: None }.encode(out));
                }),
                None => transaction.check().and(Err(crate::txn::MutationError::UnknownOp(op).into())),
            },
            RequestBody::DeleteRange { range } => {
                transaction.delete_range(ReadKind::User, &range.to_key_range()).map(|deleted| {
                    put(out, opcode, request, |out| DeleteRangeReply { version, deleted }.encode(out));
                })
            }
            RequestBody::Savepoint { name } => transaction.savepoint(name),
            RequestBody::RollbackTo { name } => transaction.rollback_to(name),
            _ => Ok(()),
        };
        match done {
            Ok(()) if self.outbound.len() == start => self.respond_version(opcode, request, version),
            Ok(()) => {}
            Err(error) => {
                let wire_error = errors::of_transaction(&error);
                // A savepoint that does not exist is a failure too: a COMMIT behind it must not commit what should have
                // been taken back.
                transaction.fail(failure(&wire_error));
                self.respond_error(opcode.number(), request, &wire_error);
            }
        }
        self.transactions.weigh(id);
    }

    fn get_many_in(&mut self, incoming: &Incoming<'_>, id: u64, keys: List<'_, Key<'_>>) {
        let transaction = match self.transactions.usable(id, self.now) {
            Ok(transaction) => transaction,
            Err(error) => {
                if let Some(transaction) = self.transactions.of_scan(id) {
                    transaction.fail(failure(&error));
                }
                return self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
        };
        let mut reply = GetManyAnswer::begin(&mut self.outbound, incoming.request, transaction.read_version());
        for key in &keys {
            let read = transaction.get(ReadKind::User, key.0, |row| {
                reply.push(row.map(|row| Found { version: own_or_stored(&row), value: row.value }));
            });
            if let Err(error) = read {
                reply.abandon();
                let error = errors::of_transaction(&error);
                transaction.fail(failure(&error));
                return self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
            if reply.is_full() {
                break;
            }
        }
        reply.finish();
        self.transactions.weigh(id);
    }

    /// Commits: closes open scans, then answers at once if nothing was written, else asks the committer.
    // spec: QP-TXN-015
    fn commit(&mut self, incoming: &Incoming<'_>, id: u64) {
        let (opcode, request) = (incoming.opcode, incoming.request);
        let checked = self.transactions.get(id, self.now).and_then(|transaction| {
            transaction.check().map_err(|error| errors::of_transaction(&error))?;
            Ok(())
        });
        if let Err(error) = checked {
            // A failed transaction stays open for a rollback; a marked retry of one that is gone is judged by its pair.
            return match incoming.tags.idempotency {
                Some(_) if error.code == ErrorCode::UNKNOWN_TRANSACTION && incoming.tags.retry_mark => {
                    match self.shared.node.forwards() && !self.is_peer {
                        true => self.forward(incoming),
                        false => self.decide(incoming, Work::Recorded(gone())),
                    }
                }
                _ => self.respond_error(opcode.number(), request, &error),
            };
        }
        self.close_streams_of(id, &WireError::new(ErrorCode::TRANSACTION_CLOSED));
        let Some(transaction) = self.transactions.take(id) else { return };
        match transaction.into_commit() {
            Err(error) => {
                let error = errors::of_transaction(&error);
                self.transactions.end(id, errors::prior_failed(error.code));
                self.respond_error(opcode.number(), request, &error);
            }
            Ok(commit) if commit.mutations == 0 && incoming.tags.idempotency.is_none() => {
                self.respond(opcode, request, |out| {
                    CommitReply { version: commit.read_version, results: List::EMPTY }.encode(out);
                });
            }
            Ok(commit) if self.shared.node.forwards() => self.forward_commit(incoming, &commit),
            Ok(commit) => self.decide(incoming, Work::Commit(Box::new(commit))),
        }
    }

    fn rollback(&mut self, incoming: &Incoming<'_>, id: u64) {
        self.close_streams_of(id, &WireError::new(ErrorCode::TRANSACTION_CLOSED));
        match self.transactions.take(id) {
            Some(transaction) => {
                self.respond_version(incoming.opcode, incoming.request, transaction.read_version());
            }
            None => {
                let error = why_ended(&self.transactions.ended, id);
                self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
        }
    }
}

/// What a commit is told whose transaction is gone and whose pair nobody has recorded: it cannot be done any more.
fn gone() -> Rejection {
    let message = "the transaction is gone, and nothing is recorded under its pair";
    Rejection::new(ErrorCode::UNKNOWN_TRANSACTION.0, message)
}

fn put(out: &mut bytes::BytesMut, opcode: Opcode, request: u64, write: impl FnOnce(&mut bytes::BytesMut)) {
    wire::put_frame(out, wire::Kind::Response, 0, opcode.number(), request, write);
}
