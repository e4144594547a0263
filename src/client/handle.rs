//! The handle that everything begins with.

use super::backup::Backup;
use super::call::Nature;
use super::cluster::Cluster;
use super::data::{Applied, Deleted, KeyRange, Value};
use super::error::Error;
use super::execute::{Execute, Executed};
use super::keyspace::Keyspace;
use super::link::{Link, Preference};
use super::lock;
use super::options::{CallOptions, ClientOptions};
use super::scan::Scan;
use super::transaction::Transaction;
use crate::env::{Moment, Task};
use crate::types::AtomicOp;
use crate::types::limits::KEYSPACE_NAME_BYTES_MAX;
use crate::types::{ClusterId, IdempotencyPair, Isolation, KeyspaceId, NodeId, Term, Version};
use crate::wire::{
    ErrorCode, OpenKeyspaceReply, OutcomeReply, OutcomeState, RequestBody, Role, StatusReply, VersionReply,
};
use bytes::Bytes;
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::oneshot;

/// A handle to one database; cheap to clone, all clones share their connections: one, or two while another node leads than
/// the one that reads go to. When the last handle, scan and transaction is gone they are closed.
///
/// The calls on it act on the keyspace `default`; [`Client::keyspace`] gives another.
#[derive(Clone)]
pub struct Client(Arc<Owner>);

struct Owner {
    link: Arc<Link>,
    /// End with their owner.
    tasks: Mutex<[Task; 2]>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.link.options.addresses).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.tasks).iter_mut().for_each(Task::abort);
    }
}

/// How the node that answers does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last version applied.
    pub version: Version,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Name and version of the server.
    pub server_name: String,
    /// What the node is in its cluster.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// How long it has been up.
    pub uptime: Duration,
    /// What it counts, in its order.
    pub counters: Vec<Counter>,
}

/// A number that a node counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It committed.
    Committed {
        /// The version that it created.
        version: Version,
        /// What its atomic operations gave; `None` if that was too long to be recorded.
        results: Option<Vec<Bytes>>,
    },
    /// It did not, and never will.
    Never,
    /// Its record is gone; nobody can say any more.
    Expired,
    /// It was rejected.
    Rejected {
        /// Why.
        code: ErrorCode,
    },
}

impl Client {
    /// Connects to a server: an address `host:port`, several with commas between, a list, or [`ClientOptions`].
    ///
    /// Tries every address once and fails with the last one's error. Later losses are mended by tasks that this spawns; so
    /// call it in the runtime that is to run them.
    ///
    /// ```
    /// # use quantadb::client::{Client, ClientOptions, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let address = server.address();
    /// let client = Client::connect(address).await?;
    /// let named = Client::connect(ClientOptions { name: "billing".into(), ..ClientOptions::from(address) }).await?;
    /// # let _ = (client, named);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(options: impl Into<ClientOptions>) -> Result<Client, Error> {
        let (link, tasks) = Link::start(options.into()).await?;
        Ok(Client(Arc::new(Owner { link, tasks: Mutex::new(tasks) })))
    }

    pub(super) fn link(&self) -> &Link {
        &self.0.link
    }

    fn default_keyspace(&self) -> Keyspace {
        self.with(CallOptions::new())
    }

    /// The keyspace `default`, its calls made with these options.
    #[must_use]
    pub fn with(&self, options: CallOptions) -> Keyspace {
        Keyspace { client: self.clone(), id: KeyspaceId::DEFAULT, options, created: false }
    }

    /// The keyspace of this name; UNKNOWN_KEYSPACE if there is none.
    pub async fn keyspace(&self, name: &str) -> Result<Keyspace, Error> {
        self.open_keyspace(name, false).await
    }

    /// The keyspace of this name, made if there is none and `create` is set. Names are 1 to 128 bytes.
    pub async fn open_keyspace(&self, name: &str, create: bool) -> Result<Keyspace, Error> {
        if name.is_empty() || name.len() > KEYSPACE_NAME_BYTES_MAX {
            return Err(Error::over(ErrorCode::BAD_NAME, KEYSPACE_NAME_BYTES_MAX, name.len()));
        }
        // Making it again gives the one that is there, so this may be repeated.
        let body = RequestBody::OpenKeyspace { create, name };
        let payload = self.link().call(body, &CallOptions::new(), Nature::Repeatable).await?;
        let reply = OpenKeyspaceReply::decode(&payload).map_err(Error::reply)?;
        self.link().saw(reply.version);
        let (id, created) = (reply.keyspace, reply.created);
        Ok(Keyspace { client: self.clone(), id, options: CallOptions::new(), created })
    }

    /// The keyspace of this number, which the caller has from [`Keyspace::id`].
    #[must_use]
    pub fn keyspace_by_id(&self, id: KeyspaceId) -> Keyspace {
        Keyspace { id, ..self.default_keyspace() }
    }

    /// Sends a PING and waits for its echo. Returns how long that took.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let env = self.link().env();
        let began = env.now();
        let deadline = self.link().deadline(&CallOptions::new());
        loop {
            let connection = self.link().connection(Preference::Near, deadline).await?;
            let (sender, receiver) = oneshot::channel();
            if connection.ping(Some(sender)).is_err() {
                continue;
            }
            match env.until(deadline, receiver).await {
                Some(Ok(())) => return Ok(env.now() - began),
                Some(Err(_)) => {}
                None => return Err(Error::deadline("no echo of a ping came within the deadline")),
            }
        }
    }

    /// How the node that answers does.
    pub async fn status(&self) -> Result<Status, Error> {
        let (options, link) = (CallOptions::new(), self.link());
        let deadline = link.deadline(&options);
        let (payload, connection) =
            link.call_until(deadline, RequestBody::Status, &options, Nature::Repeatable).await?;
        let reply = StatusReply::decode(&payload).map_err(Error::reply)?;
        let counter =
            |counter: crate::wire::Counter<'_>| Counter { name: counter.name.to_owned(), value: counter.value };
        Ok(Status {
            version: reply.version,
            cluster: reply.cluster,
            node: reply.node,
            server_name: connection.peer.server_name.clone(),
            role: reply.role,
            term: reply.term,
            uptime: Duration::from_millis(reply.uptime_ms),
            counters: reply.counters.iter().map(counter).collect(),
        })
    }

    /// A version at which everything can be read that was acknowledged before this was called.
    pub async fn read_version(&self) -> Result<Version, Error> {
        self.read_version_with(&CallOptions::new()).await
    }

    /// The same with options: with less than linearizable consistency, a version that the node has now.
    pub async fn read_version_with(&self, options: &CallOptions) -> Result<Version, Error> {
        self.read_version_until(self.link().deadline(options), options).await
    }

    pub(super) async fn read_version_until(&self, deadline: Moment, options: &CallOptions) -> Result<Version, Error> {
        let body = RequestBody::ReadVersion;
        let (payload, _) = self.link().call_until(deadline, body, options, Nature::Repeatable).await?;
        let reply = VersionReply::decode(&payload).map_err(Error::reply)?;
        self.link().saw(reply.version);
        Ok(reply.version)
    }

    /// The highest version that this client has seen.
    #[must_use]
    pub fn seen_version(&self) -> Version {
        self.link().seen()
    }

    /// A pair that names one write: random bytes, and a version that this client has seen (asked for if there is none).
    pub async fn new_pair(&self) -> Result<IdempotencyPair, Error> {
        self.new_pair_until(self.link().deadline(&CallOptions::new())).await
    }

    pub(super) async fn new_pair_until(&self, deadline: Moment) -> Result<IdempotencyPair, Error> {
        let seen = match self.link().seen() {
            Version::ZERO => self.read_version_until(deadline, &CallOptions::new()).await?,
            seen => seen,
        };
        let mut key = [0; 16];
        self.link().env().random(&mut key);
        Ok(IdempotencyPair { key, seen })
    }

    /// What became of the write with this pair. If nothing did yet, nothing will: it is fenced.
    ///
    /// ```
    /// # use quantadb::client::{CallOptions, Client, CommitOutcome, Error, Outcome};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = quantadb::client::Client::connect(server.address()).await?;
    /// let pair = client.new_pair().await?;
    /// match client.with(CallOptions::new().idempotency(pair)).put("order/9", "paid").await {
    ///     Err(error) if error.outcome() == Outcome::Unknown => match client.outcome(pair).await? {
    ///         CommitOutcome::Committed { version, .. } => println!("it was done at {version}"),
    ///         other => println!("it was not done, and will not be: {other:?}"),
    ///     },
    ///     other => println!("known at once: {other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn outcome(&self, pair: IdempotencyPair) -> Result<CommitOutcome, Error> {
        self.outcome_with(pair, &CallOptions::new()).await
    }

    pub(super) async fn outcome_with(
        &self,
        pair: IdempotencyPair,
        options: &CallOptions,
    ) -> Result<CommitOutcome, Error> {
        let payload = self.link().call(RequestBody::Outcome { pair }, options, Nature::Repeatable).await?;
        let reply = OutcomeReply::decode(&payload).map_err(Error::reply)?;
        Ok(match reply.state {
            OutcomeState::Committed { version, results } => {
                self.link().saw(version);
                let copied = |list: crate::wire::List<'_, crate::wire::Blob<'_>>| {
                    list.iter().map(|result| super::data::keep(&payload, result.0)).collect()
                };
                CommitOutcome::Committed { version, results: results.map(copied) }
            }
            OutcomeState::Never => CommitOutcome::Never,
            OutcomeState::Expired => CommitOutcome::Expired,
            OutcomeState::Rejected { code } => CommitOutcome::Rejected { code },
        })
    }

    /// Does a whole transaction in one message: see [`Execute`].
    pub async fn execute(&self, execute: &Execute) -> Result<Executed, Error> {
        self.default_keyspace().execute(execute).await
    }

    /// Begins a transaction, without waiting for the server: what is asked of it travels behind.
    ///
    /// [`Client::transact`] is what most want: it runs a transaction again when another was faster.
    pub async fn begin(&self, isolation: Isolation) -> Result<Transaction, Error> {
        self.begin_with(isolation, &CallOptions::new()).await
    }

    /// The same with options: how fresh the version that it reads at must be ([`CallOptions::consistency`],
    /// [`CallOptions::min_version`]), and how long the transaction may take, its commit included
    /// ([`CallOptions::deadline`]; without it each of its requests has the client's). An older read version is as
    /// serializable as a newer one, and meets more conflicts.
    ///
    /// ```
    /// # use quantadb::client::{CallOptions, Client, Consistency, Error, Isolation};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = quantadb::client::Client::connect(server.address()).await?;
    /// // Reads what the nearest node has, and at least what this client has seen.
    /// let options = CallOptions::new().consistency(Consistency::Local);
    /// let tx = client.begin_with(Isolation::Serializable, &options).await?;
    /// println!("{:?}", tx.get("greeting").await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_with(&self, isolation: Isolation, options: &CallOptions) -> Result<Transaction, Error> {
        let until = options.deadline.map(|_| self.link().deadline(options));
        let preference = Transaction::preference(options.consistency.unwrap_or_default());
        Transaction::begin(self.clone(), isolation, options, preference, until).await
    }

    /// See [`Keyspace::get`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        self.default_keyspace().get(key).await
    }

    /// See [`Keyspace::get_many`].
    pub async fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>, Error> {
        self.default_keyspace().get_many(keys).await
    }

    /// See [`Keyspace::put`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, Error> {
        self.default_keyspace().put(key, value).await
    }

    /// See [`Keyspace::delete`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Version, Error> {
        self.default_keyspace().delete(key).await
    }

    /// See [`Keyspace::delete_range`].
    pub async fn delete_range(&self, range: impl Into<KeyRange>) -> Result<Deleted, Error> {
        self.default_keyspace().delete_range(range).await
    }

    /// See [`Keyspace::atomic`].
    pub async fn atomic(
        &self,
        op: AtomicOp,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> Result<Applied, Error> {
        self.default_keyspace().atomic(op, key, operand).await
    }

    /// See [`Keyspace::add`].
    pub async fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        self.default_keyspace().add(key, delta).await
    }

    /// See [`Keyspace::append`].
    pub async fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<u64, Error> {
        self.default_keyspace().append(key, bytes).await
    }

    /// See [`Keyspace::scan`].
    #[must_use]
    pub fn scan(&self, range: impl Into<KeyRange>) -> Scan {
        self.default_keyspace().scan(range)
    }

    /// Every row of every keyspace, as of one version: see [`Backup`].
    #[must_use]
    pub fn backup(&self) -> Backup {
        self.backup_with(CallOptions::new())
    }

    /// The same with options.
    #[must_use]
    pub fn backup_with(&self, options: CallOptions) -> Backup {
        Backup::new(self.clone(), options)
    }

    /// The members of the cluster, and changes of them: see [`Cluster`].
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    /// See [`Keyspace::count`].
    pub async fn count(&self, range: impl Into<KeyRange>) -> Result<u64, Error> {
        self.default_keyspace().count(range).await
    }
}
