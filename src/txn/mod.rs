//! The transaction machine: what a transaction writes and reads, and the leader's judgement of conflicts.
//!
//! A transaction reads a snapshot, keeps what it read and what it writes, and commits as one message. The leader's
//! [`Resolver`] compares what it read with everything written since; an accepted commit is logged, and every replica
//! applies it blindly.
//!
//! ```text
//!   Transaction ── get, scan ──> Snapshot + WriteBuffer      every read leaves a point or a range in the ReadSet
//!        │
//!        └─ into_commit ──> CommitRequest { read version, points, ranges, body }
//!                                │
//!                           Resolver::check          a write above the read version on any of them: conflict
//!                                │
//!                           Resolver::record         every key of an accepted commit, at its commit version
//! ```
//!
//! For example: `a` was last written at version 7. A transaction that began at 7 and read `a` may commit; one that
//! began at 6 may not; and once the first has committed `a` at 8, another that read `a` at 7 may not either.
//!
//! Everything here is pure: no clock, no randomness, no I/O but reading a snapshot, no waiting.

pub mod apply;
pub mod entry;
pub mod idempotency;
pub mod mutation;
pub mod read_set;
pub mod resolver;
pub mod scan;
pub mod transaction;
pub mod write_buffer;

pub use crate::types::AtomicOp;
pub use apply::{ApplyError, EntryResult, apply, read_record};
pub use entry::{EntryBuilder, EntryError, EntryHeader, Item, LEVEL, LEVEL_FIRST};
pub use idempotency::{Record, Recorded, is_record_key};
pub use mutation::{Change, Effect, Mutation, MutationError, Mutations, evaluate};
pub use read_set::{ReadKind, ReadSet};
pub use resolver::{Conflict, Resolver, ResolverOptions};
pub use scan::{ReadRow, Step, TransactionScan, Visit};
pub use transaction::{CommitRequest, Failure, Transaction, TransactionError};
pub use write_buffer::{FrozenOverlay, Mark, Overlay, WriteBuffer};

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod testing;
