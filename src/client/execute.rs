//! A whole transaction in one message: conditions, and what to do if they hold or not.

use super::data::{KeyRange, Row, Value, checked_value, full_key, keep, row_of, value_of};
use super::error::Error;
use super::keyspace::Keyspace;
use crate::types::AtomicOp;
use crate::types::limits::{EXECUTE_ITEMS_MAX, TRANSACTION_BYTES_MAX};
use crate::types::{KeyspaceId, Version};
use crate::wire::{self, ErrorCode, ExecuteReply, ListBuf, RequestBody, Test};
use bytes::Bytes;

/// A transaction that the server does in one go: no locks, no retries.
///
/// All conditions are tested at one point of the order; if they hold the operations of `then` are done, else those of
/// `otherwise`. Each operation sees the ones before it.
///
/// ```
/// # use quantadb::client::{Client, Condition, Execute, Error, Op, OpResult};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Error> {
/// # let server = quantadb::testing::server::TestServer::start().await;
/// # let client = quantadb::client::Client::connect(server.address()).await?;
/// // Takes a lock, or tells who holds it.
/// let take = Execute::new()
///     .when("lock", Condition::Absent)
///     .then(Op::Put { key: b"lock", value: b"worker-1" })
///     .otherwise(Op::Get { key: b"lock" });
/// let done = client.execute(&take).await?;
/// match &done.results[0] {
///     OpResult::Get(holder) => println!("held: {holder:?}"),
///     _ => println!("taken at {}", done.version),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Execute {
    parts: [ListBuf; 3],
    keyspace: Option<KeyspaceId>,
    error: Option<Error>,
}

/// One operation of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Writes a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Changes a value.
    Atomic {
        /// How.
        op: AtomicOp,
        /// The key.
        key: &'a [u8],
        /// With what.
        operand: &'a [u8],
    },
    /// Removes every key of a range.
    DeleteRange {
        /// The range.
        range: KeyRange,
    },
    /// The value of a key.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// The first rows of a range.
    Range {
        /// The range.
        range: KeyRange,
        /// From the end of the range to its start.
        reverse: bool,
        /// Without values.
        keys_only: bool,
        /// Most rows, at least 1.
        limit: u32,
    },
}

/// What a one-shot transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The version that it created, or was evaluated at if it changed nothing.
    pub version: Version,
    /// Whether every condition held.
    pub held: bool,
    /// What the operations of the branch gave, in order.
    pub results: Vec<OpResult>,
}

/// What one operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// A value was written.
    Put,
    /// A key was removed, or was not there.
    Delete,
    /// An atomic operation gave this.
    Atomic(Bytes),
    /// So many keys were removed.
    DeleteRange(u64),
    /// What the key has.
    Get(Option<Value>),
    /// The rows of the range.
    Range {
        /// Whether the limit cut them short.
        more: bool,
        /// The rows.
        rows: Vec<Row>,
    },
}

const CONDITIONS: usize = 0;
const THEN: usize = 1;
const OTHERWISE: usize = 2;

impl Execute {
    /// Nothing to test, nothing to do, in the keyspace that it is executed on.
    #[must_use]
    pub fn new() -> Execute {
        Execute::default()
    }

    /// What follows is about keys of this keyspace.
    #[must_use]
    pub fn within(mut self, keyspace: &Keyspace) -> Execute {
        self.keyspace = Some(keyspace.id);
        self
    }

    /// A condition on a key.
    #[must_use]
    pub fn when(mut self, key: impl AsRef<[u8]>, condition: Test<'_>) -> Execute {
        let checked = full_key(self.id(), key.as_ref()).and_then(|key| {
            if let Test::ValueEquals(value) | Test::ValueDiffers(value) = condition {
                checked_value(value)?;
            }
            Ok(key)
        });
        match checked {
            Ok(key) => self.push(CONDITIONS, |part| part.push(&wire::Condition { key: &key, test: condition })),
            Err(error) => self.failed(error),
        }
        self
    }

    /// To be done if every condition holds.
    #[must_use]
    pub fn then(self, op: Op<'_>) -> Execute {
        self.op(THEN, op)
    }

    /// To be done if some condition does not hold.
    #[must_use]
    pub fn otherwise(self, op: Op<'_>) -> Execute {
        self.op(OTHERWISE, op)
    }

    fn id(&self) -> KeyspaceId {
        self.keyspace.unwrap_or(KeyspaceId::DEFAULT)
    }

    fn failed(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    fn push(&mut self, part: usize, push: impl FnOnce(&mut ListBuf)) {
        if self.parts[part].len() == EXECUTE_ITEMS_MAX {
            self.failed(Error::over(ErrorCode::TOO_MANY_ITEMS, EXECUTE_ITEMS_MAX, EXECUTE_ITEMS_MAX + 1));
        } else {
            push(&mut self.parts[part]);
        }
        let bytes: usize = self.parts.iter().map(ListBuf::encoded_bytes).sum();
        if bytes > TRANSACTION_BYTES_MAX {
            self.failed(Error::over(ErrorCode::TRANSACTION_TOO_LARGE, TRANSACTION_BYTES_MAX, bytes));
        }
    }

    fn op(mut self, part: usize, op: Op<'_>) -> Execute {
        let id = self.id();
        let encoded = with_wire_op(id, &op, |op| {
            self.push(part, |list| list.push(&op));
        });
        if let Err(error) = encoded {
            self.failed(error);
        }
        self
    }
}

fn with_wire_op(id: KeyspaceId, op: &Op<'_>, push: impl FnOnce(wire::Op<'_>)) -> Result<(), Error> {
    match op {
        Op::Put { key, value } => push(wire::Op::Put { key: &full_key(id, key)?, value: checked_value(value)? }),
        Op::Delete { key } => push(wire::Op::Delete { key: &full_key(id, key)? }),
        Op::Atomic { op, key, operand } => {
            let operand = checked_value(operand)?;
            push(wire::Op::Atomic { op: *op as u8, key: &full_key(id, key)?, operand });
        }
        Op::DeleteRange { range } => {
            range.check()?;
            push(wire::Op::DeleteRange { range: range.within(id) });
        }
        Op::Get { key } => push(wire::Op::Get { key: &full_key(id, key)? }),
        Op::Range { range, reverse, keys_only, limit } => {
            range.check()?;
            let (reverse, keys_only, limit) = (*reverse, *keys_only, *limit);
            push(wire::Op::Range { range: range.within(id), reverse, keys_only, limit });
        }
    }
    Ok(())
}

impl Keyspace {
    /// Does a whole transaction in one message, with the options of this handle. Keys belong to the keyspaces that
    /// [`Execute::within`] names, else to `default`.
    pub async fn execute(&self, execute: &Execute) -> Result<Executed, Error> {
        if let Some(error) = &execute.error {
            return Err(error.clone());
        }
        let body = RequestBody::Execute(wire::Execute {
            conditions: execute.parts[CONDITIONS].as_list(),
            then_ops: execute.parts[THEN].as_list(),
            else_ops: execute.parts[OTHERWISE].as_list(),
        });
        let payload = self.write(body).await?;
        let reply = ExecuteReply::decode(&payload).map_err(Error::reply)?;
        self.client.link().saw(reply.version);
        let results = reply.results.iter().map(|result| result_of(&payload, &result)).collect();
        Ok(Executed { version: reply.version, held: reply.then, results })
    }
}

fn result_of(payload: &Bytes, result: &wire::OpResult<'_>) -> OpResult {
    match *result {
        wire::OpResult::Put => OpResult::Put,
        wire::OpResult::Delete => OpResult::Delete,
        wire::OpResult::Atomic(result) => OpResult::Atomic(keep(payload, result)),
        wire::OpResult::DeleteRange(count) => OpResult::DeleteRange(count),
        wire::OpResult::Get(found) => OpResult::Get(value_of(payload, found)),
        wire::OpResult::Range { more, rows } => {
            OpResult::Range { more, rows: rows.iter().map(|row| row_of(payload, &row)).collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

    fn code(execute: &Execute) -> Option<ErrorCode> {
        execute.error.as_ref().and_then(Error::code)
    }

    #[test]
    fn what_is_over_a_limit_is_kept_for_when_it_is_executed() {
        let key = vec![0; KEY_BYTES_MAX + 1];
        let value = vec![0; VALUE_BYTES_MAX + 1];
        let key_too_large = Some(ErrorCode::KEY_TOO_LARGE);
        let value_too_large = Some(ErrorCode::VALUE_TOO_LARGE);
        assert_eq!(code(&Execute::new().when(&key, Test::Exists).when("k", Test::Absent)), key_too_large);
        assert_eq!(code(&Execute::new().when("k", Test::ValueEquals(&value))), value_too_large);
        assert_eq!(code(&Execute::new().then(Op::Get { key: &key })), key_too_large);
        assert_eq!(code(&Execute::new().otherwise(Op::Put { key: b"", value: &value })), value_too_large);
        let range = KeyRange::from("b".."a");
        assert_eq!(code(&Execute::new().then(Op::DeleteRange { range })), Some(ErrorCode::BAD_RANGE));
        let large = Op::Put { key: b"k", value: &value[1..] };
        assert_eq!(code(&Execute::new().then(large.clone())), None);
        assert_eq!(code(&Execute::new().then(large.clone()).then(large)), Some(ErrorCode::TRANSACTION_TOO_LARGE));
    }

    #[test]
    fn a_branch_has_so_many_operations() {
        let many = (0..EXECUTE_ITEMS_MAX).fold(Execute::new(), |all, _| all.then(Op::Delete { key: b"k" }));
        assert_eq!(code(&many), None);
        assert_eq!(code(&many.then(Op::Delete { key: b"k" })), Some(ErrorCode::TOO_MANY_ITEMS));
    }
}
