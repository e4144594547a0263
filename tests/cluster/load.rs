//! What the clients do while nodes fail, through the bundled client. Every second one sits at one node, to which it sends
//! everything, and moves to another when it is not answered; the others let the client library find the leader.
//!
//! | keys | what is done | what holds |
//! |---|---|---|
//! | `bank/n` | interactive transfers | the sum, in every snapshot on every node |
//! | `list/epoch/n` | transactions that append to lists and read them | what both checkers say |
//! | `group/g/…`, `size/g` | transactions that insert or delete a row and write down how many there are | the rows of a snapshot are as many as it says |
//! | `sum/n` | additions, named | their results, in order |

use super::{
    books::{Attempt, Books},
    rig::{connect, connect_to_any, read},
};
use bytes::Bytes;
use quantadb::{
    client::{
        CallOptions, Client, Committed, Consistency, Error, ErrorKind, Isolation, KeyRange, Row, Transaction, Value,
    },
    testing::{
        generators::Random,
        history::{Found, Outcome, RangeEnd, RangeRead, Recording, Step},
    },
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, KeyspaceId, Version},
    wire,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub const ACCOUNTS: u64 = 10;
pub const BALANCE: i64 = 1_000;
const SUMS: u64 = 4;
const GROUPS: u64 = 3;
const GROUP_ROWS_MAX: u64 = 12;
/// Lists that are appended to at one time, and elements after which others take their place.
const LISTS: u64 = 6;
const LIST_ELEMENTS: u64 = 48;

/// How long one call may take.
pub const DEADLINE: Duration = Duration::from_secs(3);
/// How long something made of several calls may take before it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// How long a client waits after a refusal, so that a node without a leader is not asked at full speed.
const PAUSE: Duration = Duration::from_millis(20);

/// One client.
pub struct Worker {
    number: u64,
    random: Random,
    books: Arc<Books>,
    addresses: Arc<Vec<SocketAddr>>,
    /// Which of them it sits at, or asks first.
    at: usize,
    sits: bool,
    client: Option<Client>,
    serial: u64,
}

pub fn full(key: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(key.as_bytes())
}

fn found(row: &Option<Value>) -> Option<Found> {
    row.as_ref().map(|row| Found::new(row.version, &row.value))
}

/// All rows of a prefix that ends with a slash, as the recorder has them.
fn told_rows(prefix: &str, rows: &[Row]) -> RangeRead {
    let end = format!("{}0", prefix.strip_suffix('/').expect("a prefix ends with a slash"));
    let row = |row: &Row| (KeyspaceId::DEFAULT.full_key(&row.key), Found::new(row.version, &row.value));
    RangeRead {
        range: quantadb::types::KeyRange { start: full(prefix), end: full(&end) },
        reverse: false,
        limit: None,
        rows: rows.iter().map(row).collect(),
        end: RangeEnd::Exhausted,
    }
}

fn number(value: &[u8]) -> i64 {
    let text = std::str::from_utf8(value).expect("text");
    text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number comes first")
}

fn put(key: &str, value: &str) -> Step {
    Step::Put { key: full(key), value: Bytes::copy_from_slice(value.as_bytes()) }
}

/// What is there before anything else.
///
/// # Errors
/// The server's.
pub async fn load(client: &Client, books: &Arc<Books>) -> Result<(), Error> {
    let recording = books.recorder.begin(0);
    let pair = client.new_pair().await?;
    let mut steps = Vec::new();
    let transaction = client.begin(Isolation::Serializable).await?;
    for account in 0..ACCOUNTS {
        let (key, value) = (format!("bank/{account:02}"), format!("{BALANCE} load"));
        transaction.put(&key, &value).await?;
        steps.push(put(&key, &value));
    }
    for group in 0..GROUPS {
        let (key, value) = (format!("size/{group}"), "0 load".to_owned());
        transaction.put(&key, &value).await?;
        steps.push(put(&key, &value));
    }
    let open = books.open(recording, Attempt { client: 0, pair, read_version: None, steps });
    let committed = transaction.commit_as(pair).await?;
    open.told(Outcome::Committed(committed.version), None);
    Ok(())
}

/// Finds out what became of every attempt that nobody told the outcome of.
///
/// # Errors
/// If that cannot be found out.
pub async fn resolve(client: &Client, books: &Arc<Books>) -> Result<(usize, usize), String> {
    let (mut committed, mut never) = (0, 0);
    for attempt in books.take_unknown() {
        let recording = books.recorder.begin(attempt.client);
        let pair = attempt.pair;
        let open = books.open(recording, attempt);
        match client.outcome(pair).await {
            Ok(quantadb::client::CommitOutcome::Committed { version, results }) => {
                committed += 1;
                open.told(Outcome::Committed(version), results);
            }
            Ok(quantadb::client::CommitOutcome::Never) => {
                never += 1;
                open.told(Outcome::Never, None);
            }
            other => return Err(format!("{other:?} is what became of {pair:?}")),
        }
    }
    Ok((committed, never))
}

impl Worker {
    pub fn new(number: u64, seed: u64, books: &Arc<Books>, addresses: &Arc<Vec<SocketAddr>>) -> Worker {
        // Through the generator itself: seeds that differ by a multiple of its step give one sequence, shifted.
        let random = Random::new(Random::new(seed ^ (number + 1) << 8).bits());
        let (at, sits) = (number as usize / 2 % addresses.len(), number.is_multiple_of(2));
        let (books, addresses) = (Arc::clone(books), Arc::clone(addresses));
        Worker { number: number + 1, random, books, addresses, at, sits, client: None, serial: 0 }
    }

    /// Works until it is told to stop.
    ///
    /// # Panics
    /// If it is told what must not be, or hangs.
    pub async fn work(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let Some(client) = self.connected().await else { continue };
            let at = self.at;
            let done = tokio::time::timeout(HANGS_AFTER, self.anything(&client)).await;
            let done = done.unwrap_or_else(|_| panic!("client {} hangs at node {at}", self.number));
            if let Err(error) = done {
                self.consider(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn connected(&mut self) -> Option<Client> {
        if self.client.is_none() {
            let connected = match self.sits {
                true => connect(self.addresses[self.at], DEADLINE).await,
                false => connect_to_any(&self.addresses, self.at, DEADLINE).await,
            };
            match connected {
                Ok(client) => self.client = Some(client),
                Err(_) => {
                    self.at = self.random.index(self.addresses.len());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.client.clone()
    }

    /// Moves on when a node does not answer.
    ///
    /// # Panics
    /// If the error is none that a fault explains.
    fn consider(&mut self, error: &Error) {
        match error.kind() {
            ErrorKind::Protocol | ErrorKind::Closed => panic!("client {}: {error:?}", self.number),
            ErrorKind::Refused => {
                let never = error.retry() == wire::Retry::Never && error.outcome() != wire::Outcome::Unknown;
                assert!(!never, "client {}: a refusal that no fault explains: {error:?}", self.number);
            }
            // The library finds another by itself.
            _ if !self.sits => {}
            _ => {
                self.client = None;
                self.at = self.random.index(self.addresses.len());
            }
        }
    }

    async fn anything(&mut self, client: &Client) -> Result<(), Error> {
        match self.random.below(100) {
            0..=24 => self.transfer(client).await,
            25..=59 => self.lists(client).await,
            60..=74 => self.group(client).await,
            75..=84 => self.add(client).await,
            _ => self.audit(client).await,
        }
    }

    /// Text that nobody else writes, nor this client again.
    fn unique(&mut self) -> String {
        self.serial += 1;
        format!("c{}.{}", self.number, self.serial)
    }

    fn pair(&mut self) -> IdempotencyPair {
        let (high, low) = (u128::from(self.random.bits()), u128::from(self.random.bits()));
        IdempotencyPair { key: (high << 64 | low).to_be_bytes(), seen: self.books.seen() }
    }

    /// Commits what was recorded so far, and writes down what is told.
    async fn commit(
        &mut self,
        transaction: Transaction,
        recording: Recording,
        steps: Vec<Step>,
    ) -> Result<Committed, Error> {
        let pair = self.pair();
        let writes = steps.iter().any(Step::writes);
        let read_version = transaction.read_version();
        let open = self.books.open(recording, Attempt { client: self.number, pair, read_version, steps });
        let done = if writes { transaction.commit_as(pair).await } else { transaction.commit().await };
        match done {
            Ok(committed) => {
                let outcome = match writes {
                    true => Outcome::Committed(committed.version),
                    false => Outcome::ReadOnly(committed.version),
                };
                open.told(outcome, committed.results.clone());
                Ok(committed)
            }
            Err(error) => {
                match error.outcome() {
                    wire::Outcome::Unknown if writes => drop(open),
                    wire::Outcome::Applied => panic!("an error that says it was applied: {error:?}"),
                    _ => open.told(Outcome::NotApplied, None),
                }
                Err(error)
            }
        }
    }

    async fn transfer(&mut self, client: &Client) -> Result<(), Error> {
        let from = self.random.below(ACCOUNTS);
        let to = (from + 1 + self.random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let (amount, tag) = (self.random.below(20) as i64, self.unique());
        let keys = [format!("bank/{from:02}"), format!("bank/{to:02}")];
        let recording = self.books.recorder.begin(self.number);
        let transaction = client.begin(Isolation::Serializable).await?;
        let rows = transaction.get_many(&keys).await?;
        let mut steps = Vec::new();
        for ((key, row), change) in keys.iter().zip(&rows).zip([-amount, amount]) {
            steps.push(Step::Get { key: full(key), found: found(row) });
            let balance = number(&row.as_ref().unwrap_or_else(|| panic!("{key} is gone")).value);
            let value = format!("{} {tag}", balance + change);
            transaction.put(key, &value).await?;
            steps.push(put(key, &value));
        }
        // The second read stands before the first write.
        steps.swap(1, 2);
        self.commit(transaction, recording, steps).await.map(drop)
    }

    /// Up to four reads of lists and appends to them, in one transaction.
    async fn lists(&mut self, client: &Client) -> Result<(), Error> {
        let recording = self.books.recorder.begin(self.number);
        let transaction = client.begin(Isolation::Serializable).await?;
        let mut steps = Vec::new();
        for _ in 0..=self.random.below(4) {
            let epoch = self.books.appended.load(Ordering::Relaxed) / (LISTS * LIST_ELEMENTS);
            let key = format!("list/{epoch:04}/{}", self.random.below(LISTS));
            if self.random.once_in(2) {
                let list = transaction.get(&key).await?;
                steps.push(Step::Get { key: full(&key), found: found(&list) });
            } else {
                let element = format!("{} ", self.books.appended.fetch_add(1, Ordering::Relaxed) + 1);
                transaction.atomic(AtomicOp::Append, &key, &element).await?;
                let operand = element.into();
                steps.push(Step::Atomic { op: AtomicOp::Append, key: full(&key), operand, result: None });
            }
        }
        self.commit(transaction, recording, steps).await.map(drop)
    }

    /// Inserts a row into a range or deletes one, and writes down how many there are.
    async fn group(&mut self, client: &Client) -> Result<(), Error> {
        let group = self.random.below(GROUPS);
        let (prefix, size) = (format!("group/{group}/"), format!("size/{group}"));
        let recording = self.books.recorder.begin(self.number);
        let transaction = client.begin(Isolation::Serializable).await?;
        let told = transaction.get(&size).await?;
        let mut steps = vec![Step::Get { key: full(&size), found: found(&told) }];
        let rows = transaction.scan(KeyRange::prefix(&prefix)).collect_rows().await?;
        let count = transaction.count(KeyRange::prefix(&prefix)).await?;
        let read = told_rows(&prefix, &rows);
        steps.push(Step::Count { range: read.range.clone(), count });
        steps.push(Step::Range(read));
        let said = number(&told.expect("it is there from the beginning").value);
        assert!(
            said == rows.len() as i64 && count == rows.len() as u64,
            "in one snapshot {prefix} has {} rows, counted {count}, and was said to have {said}: {rows:?}",
            rows.len()
        );
        let tag = self.unique();
        let delete = count == GROUP_ROWS_MAX || count > 0 && self.random.once_in(3);
        let now = match delete {
            true => {
                let key = &rows[self.random.index(rows.len())].key;
                transaction.delete(key).await?;
                steps.push(Step::Delete { key: KeyspaceId::DEFAULT.full_key(key) });
                said - 1
            }
            false => {
                let key = format!("{prefix}{tag}");
                transaction.put(&key, &tag).await?;
                steps.push(put(&key, &tag));
                said + 1
            }
        };
        let value = format!("{now} {tag}");
        transaction.put(&size, &value).await?;
        steps.push(put(&size, &value));
        self.commit(transaction, recording, steps).await.map(drop)
    }

    async fn add(&mut self, client: &Client) -> Result<(), Error> {
        let key = format!("sum/{}", self.random.below(SUMS));
        let operand = (1 + self.random.below(1_000)).to_be_bytes();
        let pair = self.pair();
        let recording = self.books.recorder.begin(self.number);
        let steps = vec![Step::Atomic {
            op: AtomicOp::Add,
            key: full(&key),
            operand: Bytes::copy_from_slice(&operand),
            result: None,
        }];
        let open = self.books.open(recording, Attempt { client: self.number, pair, read_version: None, steps });
        match client.with(CallOptions::new().idempotency(pair)).atomic(AtomicOp::Add, &key, operand).await {
            Ok(done) => {
                open.told(Outcome::Committed(done.version), Some(vec![done.result]));
                Ok(())
            }
            Err(error) => {
                match error.outcome() {
                    wire::Outcome::Unknown => drop(open),
                    wire::Outcome::Applied => panic!("an error that says it was applied: {error:?}"),
                    wire::Outcome::NotApplied => open.told(Outcome::NotApplied, None),
                }
                Err(error)
            }
        }
    }

    /// The accounts in one snapshot of the node that it sits at, fresh or not.
    async fn audit(&mut self, client: &Client) -> Result<(), Error> {
        const STALENESS_MS_MAX: [u32; 3] = [200, 1_000, 5_000];
        let consistency = match self.random.below(6) {
            0 => Consistency::Local,
            1 | 2 => Consistency::BoundedStaleness { staleness_ms_max: STALENESS_MS_MAX[self.random.index(3)] },
            _ => Consistency::Linearizable,
        };
        let mut recording = self.books.recorder.begin(self.number);
        let begun = Instant::now();
        let options = CallOptions::new().consistency(consistency);
        let (version, rows) = read(client, options, KeyRange::prefix("bank/")).await?;
        judge_snapshot(&self.books, consistency, begun, version, &rows)
            .unwrap_or_else(|violation| panic!("client {} at node {}: {violation}", self.number, self.at));
        if consistency != Consistency::Linearizable {
            recording.stale_allowed();
        }
        recording.range(told_rows("bank/", &rows));
        recording.complete(Outcome::ReadOnly(version));
        self.books.saw(version);
        Ok(())
    }
}

/// Judges the accounts in a snapshot: their sum, and how old it may be.
///
/// # Errors
/// What does not hold.
pub fn judge_snapshot(
    books: &Books,
    consistency: Consistency,
    begun: Instant,
    version: Version,
    rows: &[Row],
) -> Result<(), String> {
    let staleness = match consistency {
        Consistency::Linearizable => Some(Duration::ZERO),
        Consistency::BoundedStaleness { staleness_ms_max } => Some(Duration::from_millis(staleness_ms_max.into())),
        Consistency::Local => None,
    };
    if let Some(bound) = staleness
        && let Some(moment) = begun.checked_sub(bound)
    {
        let told = books.seen_by(moment);
        if version < told {
            return Err(format!("a read of {consistency:?} is of version {version}, but {told} was told before that"));
        }
    }
    // A node that has not applied anything yet has no accounts, and may say so to whoever asks for no more.
    if rows.is_empty() && consistency == Consistency::Local {
        return Ok(());
    }
    let sum: i64 = rows.iter().map(|row| number(&row.value)).sum();
    match sum == BALANCE * ACCOUNTS as i64 {
        true => Ok(()),
        false => Err(format!("money was made or lost at version {version}: {sum}, {rows:?}")),
    }
}

/// Reads every row at one node, as a client that wants what is acknowledged.
///
/// # Errors
/// If it cannot, or does not see what it must.
pub async fn read_everything(address: SocketAddr, books: &Books) -> Result<(), String> {
    let client = connect(address, super::node::PATIENCE).await.map_err(|error| error.to_string())?;
    let recorder = &books.recorder;
    for prefix in ["bank/", "group/", "list/", "size/", "sum/"] {
        let mut recording = recorder.begin(0);
        let told = read(&client, CallOptions::new(), KeyRange::prefix(prefix)).await;
        let (version, rows) = told.map_err(|error| format!("reading {prefix} at {address}: {error:?}"))?;
        recording.range(told_rows(prefix, &rows));
        recording.complete(Outcome::ReadOnly(version));
    }
    Ok(())
}
