//! The Rust client: one multiplexed connection, kept open by a task of its own, and typed calls on it.
//!
//! ```
//! use quantadb::client::{Client, Error};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! # let server = quantadb::testing::server::TestServer::start().await;
//! # let address = server.address();
//! let client = Client::connect(address).await?;
//! client.put("greeting", "hello").await?;
//! assert_eq!(client.get("greeting").await?.expect("it was put").value, "hello");
//!
//! // Takes a seat if it is free. Looked at and taken as one; run again by itself when another was faster.
//! let done = client
//!     .transact(|tx| async move {
//!         let free = tx.get("seat/12").await?.is_none();
//!         if free {
//!             tx.put("seat/12", "ada").await?;
//!         }
//!         Ok::<_, Error>(free)
//!     })
//!     .await?;
//! assert!(done.value, "taken at version {}", done.version);
//! # Ok(())
//! # }
//! ```
//!
//! - A [`Client`] is a handle; clone it freely. All clones share one connection, on which any number of calls are out at
//!   once. When the connection is lost it is opened again, at the next address if there are several.
//! - Every call has a deadline, which the server is told. Every [`Error`] says what became of the request and whether to
//!   send it again; what can be sent again without harm is, by itself, until the deadline.
//! - A write that must be done exactly once carries a pair: [`CallOptions::idempotency`]. [`Client::transact`] does this by
//!   itself.
//! - Dropping a future cancels a read; a write that was sent goes on.
//!
//! The client never logs, never panics, and starts tasks and timers only through [`crate::env::Env`].

mod connector;
mod data;
mod error;
mod options;

mod handle;
mod keyspace;

mod backup;
mod cluster;
mod execute;
mod scan;
mod transact;
mod transaction;

mod call;
mod connection;
mod dial;
mod draining;
mod follower;
mod inbox;
mod io;
mod keeper;
mod ledger;
mod link;
mod routes;
mod search;
mod waiters;

#[cfg(test)]
mod tests;

pub use crate::env::Socket;
pub use crate::types::AtomicOp;
pub use backup::{Backup, BackupRow, BackupSummary};
pub use cluster::{AddedNode, Cluster, ClusterMember, ClusterStatus, MemberProgress};
pub use connector::Connector;
pub use data::{Applied, Deleted, KeyRange, Row, Value};
pub use error::{Error, ErrorKind};
pub use execute::{Execute, Executed, Op, OpResult};
pub use handle::{Client, CommitOutcome, Counter, Status};
pub use keyspace::Keyspace;
pub use options::{CallOptions, ClientOptions};
pub use scan::{Scan, ScanSummary};
pub use transact::{TransactOptions, Transacted};
pub use transaction::{Committed, Transaction};

pub use crate::types::{ClusterId, IdempotencyPair, Isolation, KeyspaceId, NodeId, Term, Version};
pub use crate::wire::{Consistency, ErrorCode, IfGone, Outcome, Retry, Role, Test as Condition};

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How much longer than the deadline we wait for the server's own word on it.
const GRACE: Duration = Duration::from_millis(100);

/// Nothing is left half done under these locks, so what a panic poisoned is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
