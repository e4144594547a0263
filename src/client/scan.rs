//! Rows as a stream.
//!
//! A scan opens when it is first polled. The server sends rows as far as the scan's credit goes, which grows as rows are
//! read, so what lies unread is bounded. After a lost connection it goes on where it was, at the same version and on
//! another node if need be, unless it belongs to a transaction. Dropping it cancels it.

use super::call::{WAIT_MAX, WAIT_MIN};
use super::connection::{Connection, Posting};
use super::data::{KeyRange, Row, row_of};
use super::error::Error;
use super::handle::Client;
use super::inbox::{Arrival, Inbox};
use super::ledger::lost;
use super::link::{Preference, backoff};
use super::options::CallOptions;
use super::transaction::Transaction;
use super::waiters::{Cancelling, Failure, Reply, Sink};
use crate::env::{BoxFuture, Moment};
use crate::types::{KeyspaceId, Version};
use crate::wire::{
    self, BackupChunk, BackupEnd, Chunk, DecodeError, IfGone, Request, RequestBody, RequestTags, ScanEnd, ScanEndReason,
};
use bytes::Bytes;
use futures_core::Stream;
use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// The rows of a range: a [`Stream`], and a builder until it is first polled.
pub struct Scan {
    plan: Plan,
    stage: Stage,
    rows: VecDeque<Row>,
    /// Bytes of the chunk whose rows are being read.
    chunk_bytes: u32,
    /// Rows received before the current opening, and in all.
    rows_before: u64,
    rows_received: u64,
    /// How often in a row it was opened again without a row in between, and when that must end.
    resumes: u32,
    resumes_until: Option<Moment>,
    /// Where to go on after the rows that were read, and after those that were received.
    token_read: Option<Bytes>,
    token_received: Option<Bytes>,
    summary: Option<ScanSummary>,
    /// What a backup tells besides.
    backup: BackupTotals,
}

/// What a backup has told so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackupTotals {
    /// Of the rows received; told by every part.
    pub(super) version: Option<Version>,
    /// Full keys and values received.
    pub(super) bytes: u64,
    /// Told at the end.
    pub(super) clock_ms: u64,
    bytes_before: u64,
}

/// What a scan tells at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanSummary {
    /// The version that its rows were read at; the last, if it went on at a newer one.
    pub version: Version,
    /// The first version that rows were read at since the scan was last opened: another only after [`IfGone::Newer`].
    pub first_version: Version,
    /// How many rows there were, or were counted.
    pub rows: u64,
    /// Whether there is no more in the range; else the limit ended it.
    pub exhausted: bool,
    /// Where it can go on, if the limit ended it.
    pub resume_token: Option<Bytes>,
}

/// Which stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The range, in this keyspace.
    Range(KeyspaceId),
    /// Every keyspace: rows have full keys, and are all of one version.
    Everything,
}

/// What is asked for; all that opening it again takes.
#[derive(Clone)]
struct Plan {
    client: Client,
    what: What,
    options: CallOptions,
    transaction: Option<Transaction>,
    range: KeyRange,
    reverse: bool,
    keys_only: bool,
    count_only: bool,
    limit: u64,
    credit: u32,
    token: Option<Bytes>,
    if_gone: IfGone,
    /// When it must have ended, if it must.
    until: Option<Moment>,
    preference: Preference,
    /// Whether rows came before it was opened again.
    goes_on: bool,
}

enum Stage {
    Idle,
    Opening(BoxFuture<Result<Open, Failure>>),
    Open(Open),
    Done,
}

/// A scan that the server works on. Dropping it cancels it.
struct Open {
    connection: Arc<Connection>,
    id: u64,
    inbox: Arc<Inbox>,
    /// Bytes of read rows whose credit was not given again.
    owed: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.forget(self.id);
    }
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("range", &self.plan.range)
            .field("rows", &self.rows_received)
            .finish_non_exhaustive()
    }
}

impl Scan {
    pub(super) fn new(client: Client, keyspace: KeyspaceId, options: CallOptions, range: KeyRange) -> Scan {
        Scan::open_later(client, What::Range(keyspace), options, range)
    }

    /// Every row of every keyspace, at one version.
    pub(super) fn everything(client: Client, options: CallOptions) -> Scan {
        Scan::open_later(client, What::Everything, options, KeyRange::all())
    }

    fn open_later(client: Client, what: What, options: CallOptions, range: KeyRange) -> Scan {
        let credit = client.link().options.scan_credit.max(1);
        let plan = Plan {
            client,
            what,
            options,
            transaction: None,
            range,
            reverse: false,
            keys_only: false,
            count_only: false,
            limit: 0,
            credit,
            token: None,
            if_gone: IfGone::Error,
            until: None,
            preference: Preference::Near,
            goes_on: false,
        };
        Scan {
            plan,
            stage: Stage::Idle,
            rows: VecDeque::new(),
            chunk_bytes: 0,
            rows_before: 0,
            rows_received: 0,
            resumes: 0,
            resumes_until: None,
            token_read: None,
            token_received: None,
            summary: None,
            backup: BackupTotals::default(),
        }
    }

    pub(super) fn within(mut self, transaction: Transaction) -> Scan {
        self.plan.transaction = Some(transaction);
        self
    }

    /// From the end of the range to its start.
    #[must_use]
    pub fn reverse(mut self) -> Scan {
        self.plan.reverse = true;
        self
    }

    /// At most so many rows; 0 is no limit.
    #[must_use]
    pub fn limit(mut self, rows: u64) -> Scan {
        self.plan.limit = rows;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self) -> Scan {
        self.plan.keys_only = true;
        self
    }

    /// Bytes of rows that may lie unread, at least 1; [`super::ClientOptions::scan_credit`] unless told otherwise.
    #[must_use]
    pub fn credit(mut self, bytes: u32) -> Scan {
        self.plan.credit = bytes.max(1);
        self
    }

    /// Goes on where another scan of the same range and direction was: see [`Scan::resume_token`].
    #[must_use]
    pub fn resume(mut self, token: impl Into<Bytes>) -> Scan {
        self.plan.token = Some(token.into());
        self
    }

    /// What a scan that goes on does when its version cannot be read any more; an error unless told otherwise.
    #[must_use]
    pub fn if_gone(mut self, if_gone: IfGone) -> Scan {
        self.plan.if_gone = if_gone;
        self
    }

    /// The next row.
    pub async fn next(&mut self) -> Option<Result<Row, Error>> {
        poll_fn(|cx| self.poll_row(cx)).await
    }

    /// All rows. Holds them all in memory.
    pub async fn collect_rows(mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await {
            rows.push(row?);
        }
        Ok(rows)
    }

    /// How many rows there are. None is sent: the server counts.
    pub async fn count(mut self) -> Result<u64, Error> {
        self.plan.count_only = true;
        while let Some(row) = self.next().await {
            row?;
        }
        Ok(self.summary.map_or(0, |summary| summary.rows))
    }

    /// Where the scan can go on later, also on another connection or in another process, as long as its version can be
    /// read. It stands after the last part whose rows were all read: who stops within a part sees its rows again.
    #[must_use]
    pub fn resume_token(&self) -> Option<&Bytes> {
        self.token_read.as_ref()
    }

    /// What the scan told at its end.
    #[must_use]
    pub fn summary(&self) -> Option<&ScanSummary> {
        self.summary.as_ref()
    }

    pub(super) fn backup_totals(&self) -> BackupTotals {
        self.backup
    }

    pub(super) fn poll_row(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Row, Error>>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Poll::Ready(Some(Ok(row)));
            }
            let arrival = match &mut self.stage {
                Stage::Idle => {
                    let link = self.plan.client.link();
                    self.plan.until = self.plan.options.deadline.map(|_| link.deadline(&self.plan.options));
                    self.stage = Stage::Opening(Box::pin(self.plan.clone().open(Duration::ZERO)));
                    continue;
                }
                Stage::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(open) => {
                        self.stage = Stage::Open(open);
                        continue;
                    }
                    Err(failure) => Arrival::End(Err(failure)),
                },
                Stage::Open(open) => {
                    open.read(std::mem::take(&mut self.chunk_bytes), self.plan.credit);
                    self.token_read.clone_from(&self.token_received);
                    ready!(open.inbox.poll(cx))
                }
                Stage::Done => return Poll::Ready(None),
            };
            let taken = match arrival {
                Arrival::Chunk(payload) => self.take_chunk(&payload),
                Arrival::End(reply) => self.take_end(reply),
            };
            if let Err(error) = taken {
                self.stage = Stage::Done;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn take_chunk(&mut self, payload: &Bytes) -> Result<(), Error> {
        let before = self.rows.len();
        let resume_token = match self.plan.what {
            What::Range(_) => {
                let chunk = Chunk::decode(payload).map_err(Error::reply)?;
                self.rows.extend(chunk.rows.iter().map(|row| row_of(payload, &row)));
                chunk.resume_token
            }
            What::Everything => {
                let chunk = BackupChunk::decode(payload).map_err(Error::reply)?;
                self.backup.is_of(chunk.version)?;
                for row in &chunk.rows {
                    self.backup.bytes += (row.key.len() + row.value.len()) as u64;
                    self.rows.push_back(row_of(
                        payload,
                        &wire::Row { key: row.key, version: row.version, value: row.value },
                    ));
                }
                chunk.resume_token
            }
        };
        let received = self.rows.len() - before;
        self.rows_received += received as u64;
        self.chunk_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if received > 0 {
            (self.resumes, self.resumes_until) = (0, None);
        }
        // The version that it reads at is told at the end only; what its rows tell counts before.
        let newest = self.rows.iter().skip(before).map(|row| row.version).max();
        self.plan.client.link().saw(newest.unwrap_or_default());
        if let Some(token) = resume_token {
            self.token_received = Some(Bytes::copy_from_slice(token));
        }
        Ok(())
    }

    fn take_end(&mut self, reply: Reply) -> Result<(), Error> {
        let payload = match reply {
            Ok(payload) => payload,
            Err(failure) => return self.resume_after(failure),
        };
        let end = self.decode_end(&payload)?;
        if !self.plan.count_only && end.rows != self.rows_received - self.rows_before {
            return Err(Error::reply(DecodeError::malformed(
                "a scan's end tells another number of rows than there were",
            )));
        }
        self.plan.client.link().saw(end.version);
        let resume_token = end.resume_token.map(Bytes::copy_from_slice);
        self.token_read.clone_from(&resume_token);
        self.summary = Some(ScanSummary {
            version: end.version,
            first_version: end.first_version,
            rows: self.rows_before + end.rows,
            exhausted: end.reason == ScanEndReason::Exhausted,
            resume_token,
        });
        self.stage = Stage::Done;
        Ok(())
    }

    /// The end of either stream, as a scan's.
    fn decode_end<'p>(&mut self, payload: &'p [u8]) -> Result<ScanEnd<'p>, Error> {
        if self.plan.what != What::Everything {
            return ScanEnd::decode(payload).map_err(Error::reply);
        }
        let end = BackupEnd::decode(payload).map_err(Error::reply)?;
        self.backup.is_of(end.version)?;
        if end.bytes != self.backup.bytes - self.backup.bytes_before {
            return Err(Error::reply(DecodeError::malformed("a backup's end tells of other rows than there were")));
        }
        self.backup.clock_ms = end.clock_ms;
        Ok(ScanEnd {
            version: end.version,
            rows: end.rows,
            reason: ScanEndReason::Exhausted,
            first_version: end.version,
            resume_token: None,
        })
    }

    /// Opens the scan again where it was, if that is possible.
    fn resume_after(&mut self, failure: Failure) -> Result<(), Error> {
        let transaction = self.plan.transaction.as_ref();
        if let Stage::Open(open) = &self.stage {
            self.plan.client.link().weigh(&open.connection, &failure, self.resumes > 0, Duration::ZERO);
        }
        let (least, error) = match failure {
            Failure::Lost { cause, .. } if transaction.is_some() => (None, lost(cause)),
            Failure::Lost { cause, .. } => {
                (Some(Duration::ZERO), Error::lost("the connection was lost").caused_by(Some(cause)))
            }
            Failure::GaveUp { .. } => (None, Error::deadline("the scan did not end within its deadline")),
            Failure::Refused(error) => (error.passes().then(|| error.retry_after().unwrap_or_default()), error),
        };
        if let Some(transaction) = transaction {
            return Err(transaction.failed(error));
        }
        let received = self.rows_received - self.rows_before;
        let placed = received == 0 || self.token_received.is_some();
        let Some(wait) = least.filter(|_| placed && !self.plan.options.once).and_then(|least| self.rest(least)) else {
            return Err(error);
        };
        self.plan.preference = match error.leader() {
            Some(_) => Preference::Redirected,
            None => self.plan.preference,
        };
        if self.plan.limit > 0 {
            self.plan.limit -= received.min(self.plan.limit);
            if self.plan.limit == 0 {
                self.stage = Stage::Done;
                return Ok(());
            }
        }
        self.rows_before = self.rows_received;
        self.backup.bytes_before = self.backup.bytes;
        if let Some(token) = &self.token_received {
            self.plan.token = Some(token.clone());
            self.plan.goes_on = true;
        }
        self.stage = Stage::Opening(Box::pin(self.plan.clone().open(wait)));
        Ok(())
    }

    /// How long to wait before it is opened again; nothing if it has failed for long enough.
    fn rest(&mut self, least: Duration) -> Option<Duration> {
        let link = self.plan.client.link();
        let usual = || self.plan.until.unwrap_or_else(|| link.deadline(&self.plan.options));
        let until = *self.resumes_until.get_or_insert_with(usual);
        self.resumes += 1;
        // One loss is an accident.
        let alone = self.resumes == 1 && least.is_zero();
        let pause = if alone { least } else { backoff(link.env(), self.resumes, WAIT_MIN, WAIT_MAX) };
        let wait = least.max(pause);
        (link.env().now() + wait < until).then_some(wait)
    }
}

impl BackupTotals {
    /// Everything is of one version.
    fn is_of(&mut self, version: Version) -> Result<(), Error> {
        if *self.version.get_or_insert(version) != version {
            return Err(Error::reply(DecodeError::malformed("a backup goes on at another version than it began")));
        }
        Ok(())
    }
}

impl Open {
    /// Gives credit again for rows that were read, once it is worth a frame.
    fn read(&mut self, bytes: u32, credit: u32) {
        self.owed = self.owed.saturating_add(bytes);
        if self.owed > 0 && self.owed >= credit / 2 {
            self.connection.grant(self.id, std::mem::take(&mut self.owed));
        }
    }
}

impl Plan {
    async fn open(self, wait: Duration) -> Result<Open, Failure> {
        let link = self.client.link();
        let deadline = self.until.unwrap_or_else(|| link.deadline(&self.options));
        if !wait.is_zero() {
            link.env().sleep(wait).await;
        }
        self.range.check().map_err(Failure::Refused)?;
        let connection = match &self.transaction {
            Some(transaction) => transaction.connection().clone(),
            None => link.connection(self.preference, deadline).await.map_err(Failure::Refused)?,
        };
        let free = self.transaction.is_none();
        // Where it goes on the node must have come as far as the token's version, which the node it was on had.
        let consistency = self.options.consistency.filter(|_| !self.goes_on);
        let tags = RequestTags {
            // A stream has a deadline only if it was given one.
            deadline_ms: self.until.map(|until| super::call::deadline_ms(link.env(), until).unwrap_or(0)),
            min_version: self.options.min_version.max(link.seen_by(consistency)).filter(|_| free),
            resume_token: self.token.as_deref(),
            transaction: self.transaction.as_ref().map(Transaction::id),
            consistency: consistency.filter(|_| free),
            if_gone: (self.token.is_some() && self.if_gone == IfGone::Newer).then_some(IfGone::Newer),
            ..RequestTags::default()
        };
        let body = match self.what {
            What::Range(keyspace) => RequestBody::Scan(wire::Scan {
                range: self.range.within(keyspace),
                reverse: self.reverse,
                keys_only: self.keys_only,
                count_only: self.count_only,
                limit: self.limit,
                credit: self.credit,
            }),
            What::Everything => RequestBody::Backup { credit: self.credit },
        };
        let inbox = Arc::new(Inbox::default());
        let give_up = self.until.map(|until| until + super::GRACE);
        let posting = || Posting {
            sink: Sink::Scan(inbox.clone()),
            give_up,
            cancel: if free { Cancelling::AtOnce } else { Cancelling::OnceStarted },
            urgent: false,
        };
        let id = link.post(&connection, &Request { body, tags }, deadline, posting).await?;
        Ok(Open { connection, id, inbox, owed: 0 })
    }
}

impl Stream for Scan {
    type Item = Result<Row, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Row, Error>>> {
        self.poll_row(cx)
    }
}
