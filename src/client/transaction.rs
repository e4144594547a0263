//! A transaction that the caller drives.

use super::call::deadline_ms;
use super::connection::{Connection, Held, Posting};
use super::data::{Deleted, KeyRange, Value, checked_value, full_key, keep, value_of};
use super::error::Error;
use super::handle::{Client, CommitOutcome};
use super::keyspace::{Keyspace, key_batch, take_values};
use super::ledger::{Ledger, lost};
use super::link::Preference;
use super::options::CallOptions;
use super::scan::Scan;
use super::waiters::{Cancelling, Failure, Sink};
use crate::env::Moment;
use crate::types::AtomicOp;
use crate::types::limits::SAVEPOINT_NAME_BYTES_MAX;
use crate::types::{IdempotencyPair, Isolation, KeyspaceId, Version};
use crate::wire::{
    CommitReply, Consistency, DeleteRangeReply, ErrorCode, GetReply, Key, Outcome, Request, RequestBody, RequestTags,
    Retry,
};
use bytes::Bytes;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A transaction: reads one snapshot, sees its own writes, and changes everything or nothing when it commits.
///
/// Everything is sent at once, in order, without waiting for what was sent before. Writes do not wait for their reply:
/// what is wrong with one is told by the next read or by the commit. It is a handle; clones are the same transaction, and
/// when the last of them is dropped it is rolled back. It dies with its connection.
///
/// ```
/// # use quantadb::client::{Client, Error, Isolation};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let server = quantadb::testing::server::TestServer::start().await;
/// # let client = quantadb::client::Client::connect(server.address()).await?;
/// let tx = client.begin(Isolation::Serializable).await?;
/// if tx.get("seat/12").await?.is_none() {
///     tx.put("seat/12", "ada").await?;
///     let committed = tx.commit().await?;
///     println!("booked at {}", committed.version);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Transaction {
    inner: Arc<Inner>,
    keyspace: KeyspaceId,
}

struct Inner {
    client: Client,
    connection: Held,
    id: u64,
    ledger: Arc<Ledger>,
    until: Option<Moment>,
    wrote: AtomicBool,
    /// Whether the server has nothing to forget any more.
    ended: AtomicBool,
}

/// A committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version that it created; its read version if it changed nothing.
    pub version: Version,
    /// What its atomic operations gave, in order; `None` if the reply was lost and they were too long to be recorded.
    pub results: Option<Vec<Bytes>>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("id", &self.inner.id).field("keyspace", &self.keyspace).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let tags = RequestTags { transaction: Some(self.id), ..RequestTags::default() };
        let posting = Posting { sink: Sink::Nobody, give_up: None, cancel: Cancelling::Never, urgent: true };
        // On a connection that takes nothing more the server forgets it by itself.
        let _ = self.connection.queue(&Request { body: RequestBody::Rollback, tags }, posting);
    }
}

impl Transaction {
    pub(super) async fn begin(
        client: Client,
        isolation: Isolation,
        options: &CallOptions,
        preference: Preference,
        until: Option<Moment>,
    ) -> Result<Transaction, Error> {
        let link = client.link();
        let deadline = until.unwrap_or_else(|| link.deadline(&CallOptions::new()));
        let ledger = Arc::new(Ledger::default());
        let (connection, id) = loop {
            let connection = Held::new(link.connection(preference, deadline).await?);
            let tags = RequestTags {
                deadline_ms: deadline_ms(link.env(), deadline),
                min_version: options.min_version.max(link.seen_by(options.consistency)),
                consistency: options.consistency,
                ..RequestTags::default()
            };
            let request = Request { body: RequestBody::Begin { isolation }, tags };
            let posting = || Posting {
                sink: Sink::Transaction(ledger.clone()),
                give_up: None,
                cancel: Cancelling::Never,
                urgent: false,
            };
            match link.post(&connection, &request, deadline, posting).await {
                Ok(id) => break (connection, id),
                Err(Failure::Lost { .. }) => {}
                Err(Failure::GaveUp { .. }) => {
                    return Err(Error::deadline("too much was in flight until the deadline"));
                }
                Err(Failure::Refused(error)) => return Err(error),
            }
        };
        let (wrote, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let inner = Inner { connection, id, ledger, until, wrote, ended, client };
        Ok(Transaction { inner: Arc::new(inner), keyspace: KeyspaceId::DEFAULT })
    }

    /// Where a transaction is best begun: at the node that decides its commit; or, if it is content with what another one
    /// has, where reads go.
    pub(super) fn preference(consistency: Consistency) -> Preference {
        if consistency == Consistency::Linearizable { Preference::Leader } else { Preference::Near }
    }

    /// The same transaction in another keyspace.
    #[must_use]
    pub fn within(&self, keyspace: &Keyspace) -> Transaction {
        Transaction { inner: self.inner.clone(), keyspace: keyspace.id }
    }

    /// The version that it reads at, once the server has told it: the first answer to a read comes after it.
    #[must_use]
    pub fn read_version(&self) -> Option<Version> {
        self.inner.ledger.read_version()
    }

    pub(super) fn id(&self) -> u64 {
        self.inner.id
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.inner.connection
    }

    pub(super) fn restarts(&self) -> bool {
        self.inner.ledger.restarts()
    }

    /// What speaks against the node that it was on, if it failed for that, and `again` if one before it did.
    pub(super) fn weigh_node(&self, again: bool) {
        if let Some(error) = self.inner.ledger.failure() {
            let failure = Failure::Refused(error);
            self.inner.client.link().weigh(&self.inner.connection, &failure, again, Duration::ZERO);
        }
    }

    /// Whether it failed because another node leads, which is known.
    pub(super) fn was_redirected(&self) -> bool {
        let redirects = |error: Error| error.code() == Some(ErrorCode::NOT_LEADER) && error.leader().is_some();
        self.inner.ledger.failure().is_some_and(redirects)
    }

    /// Keeps account of a failure; the first one, if this only follows from it.
    pub(super) fn failed(&self, error: Error) -> Error {
        self.inner.ledger.first_cause(error)
    }

    fn deadline(&self) -> Moment {
        let own = self.inner.client.link().deadline(&CallOptions::new());
        self.inner.until.map_or(own, |until| until.min(own))
    }

    fn tags(&self, deadline: Moment) -> RequestTags<'static> {
        let deadline_ms = Some(deadline_ms(self.inner.client.link().env(), deadline).unwrap_or(0));
        RequestTags { deadline_ms, transaction: Some(self.inner.id), ..RequestTags::default() }
    }

    fn failure(&self, failure: Failure, began: Moment) -> Error {
        let link = self.inner.client.link();
        link.weigh(&self.inner.connection, &failure, false, link.env().now() - began);
        self.failed(match failure {
            Failure::Refused(error) => error,
            Failure::Lost { cause, .. } => lost(cause),
            Failure::GaveUp { .. } => Error::deadline("no answer came within the deadline"),
        })
    }

    /// Asks and waits.
    async fn ask(&self, body: RequestBody<'_>) -> Result<Bytes, Error> {
        let began = self.inner.client.link().env().now();
        let deadline = self.deadline();
        let request = Request { body, tags: self.tags(deadline) };
        let asked = async {
            // One that is cancelled before it was begun would fail the transaction.
            let link = self.inner.client.link();
            link.ask(&self.inner.connection, &request, deadline, Cancelling::Never).await?.await
        };
        asked.await.map_err(|failure| self.failure(failure, began))
    }

    /// Sends, and lets the ledger take the reply.
    async fn post(&self, body: RequestBody<'_>) -> Result<(), Error> {
        let began = self.inner.client.link().env().now();
        let deadline = self.deadline();
        let request = Request { body, tags: self.tags(deadline) };
        let sink = || Sink::Transaction(self.inner.ledger.clone());
        let give_up = Some(deadline + super::GRACE);
        let posting = || Posting { sink: sink(), give_up, cancel: Cancelling::Never, urgent: false };
        let posted = self.inner.client.link().post(&self.inner.connection, &request, deadline, posting).await;
        posted.map(drop).map_err(|failure| self.failure(failure, began))
    }

    async fn write(&self, body: RequestBody<'_>) -> Result<(), Error> {
        self.inner.wrote.store(true, Ordering::Relaxed);
        self.post(body).await
    }

    /// The value of a key: what this transaction wrote, else what its snapshot has.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        let key = full_key(self.keyspace, key.as_ref())?;
        let payload = self.ask(RequestBody::Get { key: &key }).await?;
        let reply = GetReply::decode(&payload).map_err(Error::reply)?;
        self.inner.client.link().saw(reply.version);
        Ok(value_of(&payload, reply.found))
    }

    /// The values of many keys, in their order.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        while values.len() < keys.len() {
            let batch = key_batch(self.keyspace, &keys[values.len()..])?;
            let payload = self.ask(RequestBody::GetMany { keys: batch.as_list::<Key<'_>>() }).await?;
            let version = take_values(&payload, batch.len(), &mut values)?;
            self.inner.client.link().saw(version);
        }
        Ok(values)
    }

    /// Writes a value.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = full_key(self.keyspace, key.as_ref())?;
        self.write(RequestBody::Put { key: &key, value: checked_value(value.as_ref())? }).await
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = full_key(self.keyspace, key.as_ref())?;
        self.write(RequestBody::Delete { key: &key }).await
    }

    /// Removes every key of a range that the transaction sees, and conflicts with who adds one. Waits for their number.
    pub async fn delete_range(&self, range: impl Into<KeyRange>) -> Result<Deleted, Error> {
        let range = range.into();
        range.check()?;
        self.inner.wrote.store(true, Ordering::Relaxed);
        let payload = self.ask(RequestBody::DeleteRange { range: range.within(self.keyspace) }).await?;
        let reply = DeleteRangeReply::decode(&payload).map_err(Error::reply)?;
        Ok(Deleted { version: reply.version, count: reply.deleted })
    }

    /// Changes a value by an atomic operation, without reading it. Its result comes with the commit.
    pub async fn atomic(&self, op: AtomicOp, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = full_key(self.keyspace, key.as_ref())?;
        let operand = checked_value(operand.as_ref())?;
        self.write(RequestBody::Atomic { op: op as u8, key: &key, operand }).await
    }

    /// Adds to an integer, modulo 2^64. The sum comes with the commit.
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<(), Error> {
        self.atomic(AtomicOp::Add, key, delta.to_be_bytes()).await
    }

    /// The rows of a range, as a stream. It shows what this transaction had written when the scan was opened, at its first
    /// poll; later writes do not disturb it.
    #[must_use]
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(self.inner.client.clone(), self.keyspace, CallOptions::new(), range.into()).within(self.clone())
    }

    /// How many keys a range has.
    pub async fn count(&self, range: impl Into<KeyRange>) -> Result<u64, Error> {
        self.scan(range).count().await
    }

    /// Names the state of the writes: 1 to 64 bytes. The same name again moves it.
    pub async fn savepoint(&self, name: impl AsRef<[u8]>) -> Result<(), Error> {
        self.post(RequestBody::Savepoint { name: savepoint_name(name.as_ref())? }).await
    }

    /// Restores the writes as they were at a savepoint, and clears an error. What was read stays read.
    pub async fn rollback_to(&self, name: impl AsRef<[u8]>) -> Result<(), Error> {
        self.ask(RequestBody::RollbackTo { name: savepoint_name(name.as_ref())? }).await?;
        self.inner.ledger.clear();
        Ok(())
    }

    /// Forgets everything and waits for the server to say so. Dropping does the same without waiting.
    pub async fn rollback(self) -> Result<(), Error> {
        self.ask(RequestBody::Rollback).await?;
        self.inner.ended.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Commits. Closes the transaction's scans.
    ///
    /// The commit carries a pair, so that when the connection is lost on the way its outcome is asked for by itself: an
    /// error whose outcome is not unknown has changed nothing. `retry` [`Retry::RestartTxn`] says that running the whole
    /// transaction again may succeed.
    pub async fn commit(self) -> Result<Committed, Error> {
        self.commit_now(None).await
    }

    /// Commits under a pair of the caller's, who can then ask for its [`Client::outcome`] whatever happens.
    pub async fn commit_as(self, pair: IdempotencyPair) -> Result<Committed, Error> {
        self.commit_now(Some(pair)).await
    }

    pub(super) async fn commit_now(&self, pair: Option<IdempotencyPair>) -> Result<Committed, Error> {
        let deadline = self.deadline();
        let pair = match pair {
            Some(pair) => Some(pair),
            // Without writes, or without a connection, there is nothing that could be done.
            None if !self.inner.wrote.load(Ordering::Relaxed) || !self.inner.connection.is_open() => None,
            None => Some(self.new_pair().await?),
        };
        let tags = RequestTags { idempotency: pair, ..self.tags(deadline) };
        let request = Request { body: RequestBody::Commit, tags };
        let began = self.inner.client.link().env().now();
        let asked = async {
            let ticket =
                self.inner.client.link().ask(&self.inner.connection, &request, deadline, Cancelling::Never).await?;
            self.inner.ended.store(true, Ordering::Relaxed);
            ticket.await
        };
        match asked.await {
            Ok(payload) => self.committed(&payload),
            Err(failure) => {
                let link = self.inner.client.link();
                link.weigh(&self.inner.connection, &failure, false, link.env().now() - began);
                self.not_committed(failure, pair, deadline).await
            }
        }
    }

    async fn new_pair(&self) -> Result<IdempotencyPair, Error> {
        if let Some(version) = self.inner.ledger.read_version() {
            self.inner.client.link().saw(version);
        }
        self.inner.client.new_pair().await
    }

    fn committed(&self, payload: &Bytes) -> Result<Committed, Error> {
        // It did commit, so that what cannot be read now is unknown only in its version.
        let reply = CommitReply::decode(payload).map_err(Error::reply)?;
        self.inner.client.link().saw(reply.version);
        let results = reply.results.iter().map(|result| keep(payload, result.0)).collect();
        Ok(Committed { version: reply.version, results: Some(results) })
    }

    async fn not_committed(
        &self,
        failure: Failure,
        pair: Option<IdempotencyPair>,
        deadline: Moment,
    ) -> Result<Committed, Error> {
        let unknown = match failure {
            Failure::Lost { sent: true, cause } => match pair {
                Some(pair) => return self.resolve(pair, deadline, cause).await,
                None => lost(cause),
            },
            Failure::GaveUp { sent: true } if pair.is_some() => {
                Error::deadline("no answer to the commit came within the deadline").with_outcome(Outcome::Unknown)
            }
            Failure::Refused(error) if error.outcome() == Outcome::Unknown => match pair {
                Some(pair) => return self.resolve(pair, deadline, error).await,
                None => error.with_outcome(Outcome::NotApplied),
            },
            Failure::Refused(error) => {
                // After a conflict the server has forgotten it; after another refusal it may still be there.
                let forgotten = error.code() == Some(ErrorCode::CONFLICT);
                self.inner.ended.store(forgotten, Ordering::Relaxed);
                // A pair that was too old is no reason to fail: the next one will not be. And what another node should do
                // it cannot: there is no such transaction there.
                let renewed = error.code() == Some(ErrorCode::KEY_EXPIRED) || error.retry() == Retry::Redirect;
                if renewed { error.with_retry(Retry::RestartTxn) } else { error }
            }
            Failure::Lost { sent: false, cause } => lost(cause),
            Failure::GaveUp { .. } => Error::deadline("the commit was not sent within the deadline"),
        };
        let told = self.failed(unknown);
        Err(if told.outcome() == Outcome::Unknown { told.with_retry(Retry::Never) } else { told })
    }

    /// Asks what became of a commit. If nothing did, that is final: it may run again.
    async fn resolve(&self, pair: IdempotencyPair, deadline: Moment, cause: Error) -> Result<Committed, Error> {
        let left = deadline - self.inner.client.link().env().now();
        let options = CallOptions::new().deadline(left);
        let lost_on_its_way = |text: &'static str| Error::lost(text).caused_by(Some(cause.clone()));
        let error = match self.inner.client.outcome_with(pair, &options).await {
            Ok(CommitOutcome::Committed { version, results }) => return Ok(Committed { version, results }),
            Ok(CommitOutcome::Never) => lost_on_its_way("the commit was lost on its way and is fenced now")
                .with_code(ErrorCode::FENCED)
                .with_retry(Retry::RestartTxn),
            Ok(CommitOutcome::Rejected { code }) => Error::local(code),
            Ok(CommitOutcome::Expired) => lost_on_its_way("the commit was lost on its way and its record has expired")
                .with_code(ErrorCode::KEY_EXPIRED)
                .with_outcome(Outcome::Unknown)
                .with_retry(Retry::Never),
            Err(error) => Error::lost("the commit was lost on its way and nobody could be asked what became of it")
                .caused_by(Some(error))
                .with_outcome(Outcome::Unknown)
                .with_retry(Retry::Never),
        };
        Err(self.failed(error))
    }
}

fn savepoint_name(name: &[u8]) -> Result<&[u8], Error> {
    if name.is_empty() || name.len() > SAVEPOINT_NAME_BYTES_MAX {
        return Err(Error::over(ErrorCode::BAD_NAME, SAVEPOINT_NAME_BYTES_MAX, name.len()));
    }
    Ok(name)
}
