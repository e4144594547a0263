//! The catalog: which keyspaces exist, by name and by id. Everything here is expressed as transactions on the system
//! keyspace.
//!
//! ```text
//!   'k' · name      -> id u32          by name
//!   'n' · id u32    -> name            by id
//!   'N'             -> next id u32     the id that the next keyspace gets; ids are never given twice
//! ```
//!
//! `default` exists without an entry: it is the keyspace that every database begins with.

use crate::{
    encoding::Reader,
    node::{EvaluationError, Overgrown, Rejection, View},
    storage::{self, Snapshot},
    txn::Mutation,
    types::{FullKey, KeyspaceId},
};
use bytes::{BufMut, BytesMut};

/// The name of the keyspace that every database begins with.
pub const DEFAULT_NAME: &str = "default";

fn name_key(name: &str) -> FullKey {
    let mut key = BytesMut::new();
    key.put_u8(b'k');
    key.put_slice(name.as_bytes());
    KeyspaceId::SYSTEM.full_key(&key)
}

fn id_key(id: KeyspaceId) -> FullKey {
    let mut key = BytesMut::new();
    key.put_u8(b'n');
    key.put_u32(id.0);
    KeyspaceId::SYSTEM.full_key(&key)
}

fn next_key() -> FullKey {
    KeyspaceId::SYSTEM.full_key(b"N")
}

fn read_id(value: &[u8]) -> Option<KeyspaceId> {
    Reader::new(value).u32().ok().map(KeyspaceId)
}

/// The keyspace of this name, if there is one.
pub fn find(snapshot: &Snapshot, name: &str) -> Result<Option<KeyspaceId>, storage::Error> {
    if name == DEFAULT_NAME {
        return Ok(Some(KeyspaceId::DEFAULT));
    }
    snapshot.get(&name_key(name), |row| row.and_then(|row| read_id(row.value)))
}

/// Whether users may put keys into this keyspace: it exists, and is not the system's own.
pub fn exists(snapshot: &Snapshot, id: KeyspaceId) -> Result<bool, storage::Error> {
    match id {
        KeyspaceId::SYSTEM => Ok(false),
        KeyspaceId::DEFAULT => Ok(true),
        _ => snapshot.get(&id_key(id), |row| row.is_some()),
    }
}

/// Finds the keyspace of this name or creates it, as part of a one-shot. Returns its id and whether it is new.
///
/// `rejected` is the code under which the caller wants to hear that no ids are left.
pub fn find_or_create(view: &mut View<'_>, name: &str, rejected: u16) -> Result<(KeyspaceId, bool), EvaluationError> {
    if name == DEFAULT_NAME {
        return Ok((KeyspaceId::DEFAULT, false));
    }
    if let Some((_, value)) = view.get(&name_key(name))?
        && let Some(id) = read_id(&value)
    {
        return Ok((id, false));
    }
    let next = view.get(&next_key())?.and_then(|(_, value)| read_id(&value));
    let id = next.unwrap_or(KeyspaceId::FIRST_CREATED);
    if id > KeyspaceId::LAST {
        return Err(Rejection::new(rejected, "no keyspace ids are left").into());
    }
    let refused = |error: Overgrown| Rejection::new(rejected, error.to_string());
    let following = (id.0 + 1).to_be_bytes();
    view.write(Mutation::Put { key: &name_key(name), value: &id.0.to_be_bytes() }).map_err(refused)?;
    view.write(Mutation::Put { key: &id_key(id), value: name.as_bytes() }).map_err(refused)?;
    view.write(Mutation::Put { key: &next_key(), value: &following }).map_err(refused)?;
    Ok((id, true))
}
