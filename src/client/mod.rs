//! The Rust client: multiplexed connections, kept open by tasks of their own, and typed calls on them.
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
//! - A [`Client`] is a handle; clone it freely. All clones share its connections, on which any number of calls are out at
//!   once.
//! - Every call has a deadline, which the server is told. Every [`Error`] says what became of the request and whether to
//!   send it again; what can be sent again without harm is, by itself, until the deadline.
//! - A write that must be done exactly once carries a pair: [`CallOptions::idempotent`], or one of the caller's,
//!   [`CallOptions::idempotency`]. [`Client::transact`] does this by itself.
//! - Dropping a future cancels a read; a write that was sent goes on.
//!
//! # When a node fails
//!
//! A client is given one address or several, and learns where the node that leads is. Every node serves reads and forwards
//! writes; so reads go to the first that answers, and writes, once there are any, straight to the one that leads, as long
//! as a connection to it can be had. A connection that is lost is opened again, at the next address if need be. A node
//! that announces its end, says again that it can do nothing, or gives no answer for long is left for another, which is
//! connected to first; transactions, scans and requests on the old connection finish there.
//!
//! What that means for what was under way, for example when the node dies between a request and its answer:
//!
//! | | |
//! |---|---|
//! | a read | is made again elsewhere |
//! | a scan | goes on after the last part that came, at the same version; [`IfGone`] says what if that is gone |
//! | a write with a pair | is sent again under the same pair, and done once |
//! | a write without | is an error whose [`Outcome`] is unknown: nobody can tell, and it may not be sent again |
//! | a transaction | is gone, and has changed nothing; [`Client::transact`] runs it again |
//! | its commit | is asked for elsewhere; `transact` runs it again only when nothing was done and nothing will be |
//!
//! A refusal that passes, or that names another node as the leader, changed nothing: the request is sent again, when the
//! server says or after a pause that grows. At the deadline the last error is told.
//!
//! # How fresh
//!
//! Reads are linearizable unless [`CallOptions::consistency`] says otherwise, per call or per transaction
//! ([`Client::begin_with`], [`TransactOptions`]). With less, a node answers what it has. Even then nothing is taken back:
//! such a read asks for the highest version that this client has seen or written, on whatever node. For example, a put
//! that was answered with version 9 and a local read on a node that has come to 8: the node waits for 9.
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
