//! Reading and writing one keyspace, a request at a time.

use super::call::Nature;
use super::data::{Applied, Deleted, KeyRange, Value, checked_value, full_key, integer, keep, value_of};
use super::error::Error;
use super::handle::Client;
use super::options::CallOptions;
use super::scan::Scan;
use crate::types::AtomicOp;
use crate::types::limits::GET_MANY_KEYS_MAX;
use crate::types::{KeyspaceId, Version};
use crate::wire::{
    AtomicReply, DecodeError, DeleteRangeReply, GetManyReply, GetReply, Key, ListBuf, RequestBody, VersionReply,
};
use bytes::Bytes;
use std::fmt;

/// Keys of one GET_MANY end once they take so many bytes.
const GET_MANY_BYTES: usize = 1 << 20;

/// A keyspace: a handle, cheap to clone. Each call is a transaction of its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), quantadb::client::Error> {
/// # let server = quantadb::testing::server::TestServer::start().await;
/// # let address = server.address();
/// let client = quantadb::client::Client::connect(address).await?;
/// let carts = client.open_keyspace("carts", true).await?;
/// let version = carts.put("cart/7", "apples").await?;
/// let cart = carts.get("cart/7").await?.expect("it was put");
/// assert_eq!((&cart.value[..], cart.version), (&b"apples"[..], version));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Keyspace {
    pub(super) client: Client,
    pub(super) id: KeyspaceId,
    pub(super) options: CallOptions,
    pub(super) created: bool,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyspace").field(&self.id.0).finish()
    }
}

impl Keyspace {
    /// Its number, which stands for its name and is never reused.
    #[must_use]
    pub fn id(&self) -> KeyspaceId {
        self.id
    }

    /// Whether opening it made it.
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// The same keyspace, its calls made with these options.
    ///
    /// ```
    /// # use quantadb::client::{CallOptions, Client};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), quantadb::client::Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = quantadb::client::Client::connect(server.address()).await?;
    /// // Done once, however often the connection breaks on the way.
    /// let pair = client.new_pair().await?;
    /// client.with(CallOptions::new().idempotency(pair)).add("visits", 1).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with(&self, options: CallOptions) -> Keyspace {
        Keyspace { options, ..self.clone() }
    }

    async fn read(&self, body: RequestBody<'_>) -> Result<Bytes, Error> {
        self.client.link().call(body, &self.options, Nature::Repeatable).await
    }

    pub(super) async fn write(&self, body: RequestBody<'_>) -> Result<Bytes, Error> {
        let link = self.client.link();
        if !self.options.idempotent || self.options.pair.is_some() {
            return link.call(body, &self.options, Nature::Write).await;
        }
        let deadline = link.deadline(&self.options);
        let mut pair = self.client.new_pair_until(deadline).await?;
        let mut renewed = false;
        loop {
            let options = self.options.idempotency(pair);
            match link.call_until(deadline, body, &options, Nature::Write).await {
                Err(error) if !renewed && error.is_expired_pair() => {
                    // Whoever was silent for long has seen an old version only. Nobody else knows the pair.
                    renewed = true;
                    self.client.read_version_until(deadline, &CallOptions::new()).await?;
                    pair = self.client.new_pair_until(deadline).await?;
                }
                answered => return answered.map(|(payload, _)| payload),
            }
        }
    }

    fn saw(&self, version: Version) -> Version {
        self.client.link().saw(version);
        version
    }

    /// The value of a key, or `None`.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        let key = full_key(self.id, key.as_ref())?;
        let payload = self.read(RequestBody::Get { key: &key }).await?;
        let reply = GetReply::decode(&payload).map_err(Error::reply)?;
        self.saw(reply.version);
        Ok(value_of(&payload, reply.found))
    }

    /// The values of many keys, in their order.
    ///
    /// Asked for in as few requests as fit (4096 keys, 1 MiB of values); each is answered at one version, two may not be.
    /// In a transaction all are read at its read version.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        while values.len() < keys.len() {
            let batch = key_batch(self.id, &keys[values.len()..])?;
            let payload = self.read(RequestBody::GetMany { keys: batch.as_list::<Key<'_>>() }).await?;
            let version = take_values(&payload, batch.len(), &mut values)?;
            self.saw(version);
        }
        Ok(values)
    }

    /// Writes a value. Returns the version that it created.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, Error> {
        let key = full_key(self.id, key.as_ref())?;
        let value = checked_value(value.as_ref())?;
        let payload = self.write(RequestBody::Put { key: &key, value }).await?;
        self.version(&payload)
    }

    /// Removes a key, there or not. Returns the version that this created.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Version, Error> {
        let key = full_key(self.id, key.as_ref())?;
        let payload = self.write(RequestBody::Delete { key: &key }).await?;
        self.version(&payload)
    }

    /// Removes every key of a range: those that are there when its turn comes. Past the transaction limit it is refused.
    pub async fn delete_range(&self, range: impl Into<KeyRange>) -> Result<Deleted, Error> {
        let range = range.into();
        range.check()?;
        let payload = self.write(RequestBody::DeleteRange { range: range.within(self.id) }).await?;
        let reply = DeleteRangeReply::decode(&payload).map_err(Error::reply)?;
        Ok(Deleted { version: self.saw(reply.version), count: reply.deleted })
    }

    /// Changes a value by an atomic operation. No read, no conflict, no retry.
    pub async fn atomic(
        &self,
        op: AtomicOp,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> Result<Applied, Error> {
        let key = full_key(self.id, key.as_ref())?;
        let operand = checked_value(operand.as_ref())?;
        let payload = self.write(RequestBody::Atomic { op: op as u8, key: &key, operand }).await?;
        let reply = AtomicReply::decode(&payload).map_err(Error::reply)?;
        let missing = || Error::reply(DecodeError::malformed("an atomic operation has no result"));
        let result = keep(&payload, reply.result.ok_or_else(missing)?);
        Ok(Applied { version: self.saw(reply.version), result })
    }

    async fn integer(&self, op: AtomicOp, key: impl AsRef<[u8]>, operand: i64) -> Result<i64, Error> {
        let applied = self.atomic(op, key, operand.to_be_bytes()).await?;
        integer(&applied.result).map(u64::cast_signed)
    }

    /// Adds to an integer, modulo 2^64; a missing one counts as 0. Returns the sum.
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        self.integer(AtomicOp::Add, key, delta).await
    }

    /// Keeps the lesser integer. Returns it.
    pub async fn min(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<i64, Error> {
        self.integer(AtomicOp::Min, key, operand).await
    }

    /// Keeps the greater integer. Returns it.
    pub async fn max(&self, key: impl AsRef<[u8]>, operand: i64) -> Result<i64, Error> {
        self.integer(AtomicOp::Max, key, operand).await
    }

    /// Appends bytes to a value. Returns its length afterwards: unchanged if it would have been too long.
    pub async fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<u64, Error> {
        integer(&self.atomic(AtomicOp::Append, key, bytes).await?.result)
    }

    /// Deletes a key if its value is the one given. Returns whether it did.
    pub async fn compare_and_delete(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.atomic(AtomicOp::CompareAndDelete, key, value).await?.result[..] == [1])
    }

    /// The rows of a range, as a stream from one snapshot.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), quantadb::client::Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = quantadb::client::Client::connect(server.address()).await?;
    /// let mut rows = client.scan("a".."c").reverse().limit(100);
    /// while let Some(row) = rows.next().await {
    ///     let row = row?;
    ///     println!("{:?} = {:?}", row.key, row.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        Scan::new(self.client.clone(), self.id, self.options, range.into())
    }

    /// How many keys a range has. Reads all of them, on the server.
    pub async fn count(&self, range: impl Into<KeyRange>) -> Result<u64, Error> {
        self.scan(range).count().await
    }

    fn version(&self, payload: &[u8]) -> Result<Version, Error> {
        let reply = VersionReply::decode(payload).map_err(Error::reply)?;
        Ok(self.saw(reply.version))
    }
}

/// As many of the keys as go into one request; at least one.
pub(super) fn key_batch<K: AsRef<[u8]>>(keyspace: KeyspaceId, keys: &[K]) -> Result<ListBuf, Error> {
    let mut batch = ListBuf::new();
    for key in keys.iter().take(GET_MANY_KEYS_MAX) {
        batch.push(&Key(&full_key(keyspace, key.as_ref())?));
        if batch.encoded_bytes() >= GET_MANY_BYTES {
            break;
        }
    }
    Ok(batch)
}

/// Takes the values of a GET_MANY reply. Returns the version that they were read at.
pub(super) fn take_values(payload: &Bytes, asked: usize, values: &mut Vec<Option<Value>>) -> Result<Version, Error> {
    let reply = GetManyReply::decode(payload).map_err(Error::reply)?;
    if reply.answered.is_empty() || reply.answered.len() > asked {
        return Err(Error::reply(DecodeError::malformed("a reply has no values, or more than were asked for")));
    }
    values.extend(reply.answered.iter().map(|found| value_of(payload, found)));
    Ok(reply.version)
}
