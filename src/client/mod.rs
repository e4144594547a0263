//! The Rust client: one multiplexed connection, kept open by a task of its own, and typed calls on it.
//!
//! ```no_run
//! use quantadb::client::{Client, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect("127.0.0.1:7420").await?;
//! client.put("greeting", "hello").await?;
//! assert_eq!(client.get("greeting").await?.expect("it was put").value, "hello");
//!
//! // Moves 10 from one account to another: all of it, or nothing. Run again by itself when another was faster.
//! let moved = client
//!     .transact(|tx| async move {
//!         let has = |value: Option<quantadb::client::Value>| value.map_or(0, |value| value.value.len());
//!         let (from, to) = (has(tx.get("from").await?), has(tx.get("to").await?));
//!         tx.put("from", "x".repeat(from.saturating_sub(10))).await?;
//!         tx.put("to", "x".repeat(to + 10)).await?;
//!         Ok::<_, Error>(10)
//!     })
//!     .await?;
//! println!("moved {} at version {}", moved.value, moved.version);
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

mod execute;
mod scan;
mod transact;
mod transaction;

mod call;
mod connection;
mod dial;
mod inbox;
mod io;
mod ledger;
mod link;
mod waiters;

pub use connector::{Connector, Socket};
pub use data::{Applied, AtomicOp, Deleted, KeyRange, Row, Value};
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
