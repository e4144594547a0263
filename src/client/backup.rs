//! Every row of every keyspace, as of one version, as a stream.
//!
//! It is a scan of the one ordered space below the keyspaces and behaves like one: it opens when it is first polled, what
//! lies unread is bounded by its credit, it goes on where it was after a lost connection, and dropping it cancels it. What
//! it never does is to go on at another version: when the one that it reads is gone before it could go on, it fails with
//! SNAPSHOT_GONE, and has to begin anew.

use super::error::Error;
use super::handle::Client;
use super::options::CallOptions;
use super::scan::Scan;
use crate::types::{KeyspaceId, Version, split_full_key};
use bytes::Bytes;
use futures_core::Stream;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// The rows of a backup, a [`Stream`]: the catalog's rows, in the system's keyspace, are among them, what is recorded of
/// keyed commits is not.
///
/// ```
/// # use quantadb::client::{Client, Error};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let server = quantadb::testing::server::TestServer::start().await;
/// # let client = Client::connect(server.address()).await?;
/// client.put("greeting", "hello").await?;
/// let mut backup = client.backup();
/// while let Some(row) = backup.next().await {
///     let row = row?;
///     println!("{:?} in keyspace {}, written at {}", row.key(), row.keyspace(), row.version);
/// }
/// let summary = backup.summary().expect("it has ended");
/// assert_eq!((summary.version, summary.rows), (client.seen_version(), 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Backup(Scan);

/// A row of a backup. It shares the memory of the part of the backup that it came in, at most 64 KiB unless a row is
/// longer; copy what is kept for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupRow {
    /// The full key: four big-endian bytes of keyspace, then the key. Rows ascend by it.
    pub full_key: Bytes,
    /// The version that wrote the value.
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

impl BackupRow {
    /// The keyspace.
    #[must_use]
    pub fn keyspace(&self) -> KeyspaceId {
        split_full_key(&self.full_key).map_or(KeyspaceId::SYSTEM, |(keyspace, _)| keyspace)
    }

    /// The key, without its keyspace.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        split_full_key(&self.full_key).map_or(&[][..], |(_, key)| key)
    }
}

/// What a backup tells at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The version that every row was read at.
    pub version: Version,
    /// How many rows there were.
    pub rows: u64,
    /// How long their full keys and values are together, in bytes.
    pub bytes: u64,
    /// A reading of the cluster's clock no earlier than the version, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
}

impl Backup {
    pub(super) fn new(client: Client, options: CallOptions) -> Backup {
        Backup(Scan::everything(client, options))
    }

    /// Bytes of rows that may lie unread, at least 1; [`super::ClientOptions::scan_credit`] unless told otherwise.
    #[must_use]
    pub fn credit(self, bytes: u32) -> Backup {
        Backup(self.0.credit(bytes))
    }

    /// Goes on where another backup was: see [`Backup::resume_token`]. Its totals are of what it tells itself.
    #[must_use]
    pub fn resume(self, token: impl Into<Bytes>) -> Backup {
        Backup(self.0.resume(token))
    }

    /// The next row.
    pub async fn next(&mut self) -> Option<Result<BackupRow, Error>> {
        poll_fn(|cx| self.poll_row(cx)).await
    }

    /// The version that every row is read at; known from the first row on, or at the end of an empty database.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.0.backup_totals().version
    }

    /// Where the backup can go on later, as long as its version can be read. It stands after the last part whose rows were
    /// all read.
    #[must_use]
    pub fn resume_token(&self) -> Option<&Bytes> {
        self.0.resume_token()
    }

    /// What the backup told at its end; nothing before it, and nothing if it failed.
    #[must_use]
    pub fn summary(&self) -> Option<BackupSummary> {
        let totals = self.0.backup_totals();
        let summary = self.0.summary()?;
        Some(BackupSummary {
            version: summary.version,
            rows: summary.rows,
            bytes: totals.bytes,
            clock_ms: totals.clock_ms,
        })
    }

    fn poll_row(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BackupRow, Error>>> {
        let row = ready!(self.0.poll_row(cx));
        Poll::Ready(
            row.map(|row| row.map(|row| BackupRow { full_key: row.key, version: row.version, value: row.value })),
        )
    }
}

impl Stream for Backup {
    type Item = Result<BackupRow, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_row(cx)
    }
}
