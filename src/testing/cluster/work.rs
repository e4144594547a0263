//! What clients do to a simulated cluster, recorded for the checker.
//!
//! | keys | what is done | what holds, besides the history |
//! |---|---|---|
//! | `bank/n` | transfers, and reads of all accounts at one version | the sum |
//! | `list/n` | read, and written with one more item | – |
//! | `group/n/` | counted, and inserted into while there are few | – |
//! | `sum` | adds, each under a pair that is settled | it is what was settled |
//! | `blind/n` | puts without a pair | – |

use crate::{
    client::{CallOptions, Client, ClientOptions, CommitOutcome, Consistency, Error, Isolation, Transaction},
    env::Env,
    testing::{
        generators::Random,
        history::{Found, Outcome, Recorder, Recording},
        sim::Host,
    },
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, KeyRange, KeyspaceId, Version},
    wire,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const ACCOUNTS: u64 = 5;
const BALANCE: i64 = 100;
const LISTS: u64 = 3;
const LIST_BYTES_MAX: usize = 400;
const GROUPS: u64 = 2;
const GROUP_MAX: u64 = 5;
const BLIND: u64 = 3;
/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long a client rests between two transactions, at most.
const REST_MS_MAX: u64 = 60;

/// What all workers know together.
#[derive(Debug, Default)]
pub struct Totals {
    /// Adds to `sum` that were committed.
    pub added: u64,
    /// Adds of which nobody knows, because the record had expired.
    pub unsettled: u64,
    /// Attempts by their end: committed or read, refused, unknown.
    pub done: u64,
    /// See there.
    pub refused: u64,
    /// See there.
    pub unknown: u64,
    /// Versions of commits that clients were told of lately, and when, in the milliseconds of clients' clocks.
    told: VecDeque<(u64, Version)>,
}

/// For how long it is known what was told when.
const TOLD_FOR_MS: u64 = 5_000;
/// What a bounded staleness is given beyond its bound: replicas' clocks run up to one in a hundred too slow.
const STALENESS_SLACK_MS: u64 = 20;

impl Totals {
    fn tell(&mut self, now_ms: u64, version: Version) {
        while self.told.front().is_some_and(|(when, _)| when + TOLD_FOR_MS < now_ms) {
            self.told.pop_front();
        }
        self.told.push_back((now_ms, version));
    }

    /// The greatest version that somebody had been told of by then.
    fn told_by(&self, when_ms: u64) -> Version {
        let told = self.told.iter().take_while(|(when, _)| *when <= when_ms);
        told.map(|(_, version)| *version).max().unwrap_or_default()
    }
}

/// How old what a transaction reads may be.
#[derive(Clone, Copy)]
struct Age {
    /// Whether it may be old at all, which only a commit makes good.
    may_be_old: bool,
    /// What it must have seen all the same.
    at_least: Version,
}

impl Age {
    /// For reads that must be fresh; the checker judges them.
    const NEW: Age = Age { may_be_old: false, at_least: Version::ZERO };
}

/// One client.
pub struct Worker {
    number: u64,
    env: Env,
    client: Client,
    recorder: Recorder,
    totals: Arc<Mutex<Totals>>,
    random: Random,
    unique: u64,
}

fn key(text: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(text.as_bytes())
}

fn prefix(text: &str) -> KeyRange {
    let mut end = text.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    KeyRange { start: key(text), end: KeyspaceId::DEFAULT.full_key(&end) }
}

fn outcome_of(error: &Error) -> Outcome {
    match error.outcome() {
        wire::Outcome::NotApplied => Outcome::NotApplied,
        wire::Outcome::Applied | wire::Outcome::Unknown => Outcome::Unknown,
    }
}

fn number(value: &[u8]) -> i64 {
    let text = std::str::from_utf8(value).expect("values are text");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("it begins with a number")
}

impl Worker {
    /// Connects, however long that takes.
    pub async fn connect(
        host: &Host,
        number: u64,
        addresses: Vec<String>,
        recorder: Recorder,
        totals: Arc<Mutex<Totals>>,
        seed: u64,
    ) -> Worker {
        let env = host.env();
        let client = loop {
            let options = ClientOptions {
                env: env.clone(),
                connector: Arc::new(env.clone()),
                connect_timeout: Duration::from_secs(1),
                deadline: DEADLINE,
                ..ClientOptions::new(addresses.clone())
            };
            match Client::connect(options).await {
                Ok(client) => break client,
                Err(_) => env.sleep(Duration::from_millis(50)).await,
            }
        };
        Worker { number, env, client, recorder, totals, random: Random::new(seed), unique: 0 }
    }

    /// Writes what must be there before anything else.
    pub async fn load(&mut self) {
        loop {
            let mut recording = self.recorder.begin(self.number);
            let values: Vec<String> = (0..ACCOUNTS).map(|_| self.valued(BALANCE)).collect();
            let loaded = async {
                let tx = self.client.begin(Isolation::Serializable).await?;
                let there = self.get(&tx, &mut recording, "bank/0").await?;
                if there.is_none() {
                    for (account, value) in values.iter().enumerate() {
                        self.put(&tx, &mut recording, &format!("bank/{account}"), value).await?;
                    }
                }
                let pair = self.client.new_pair().await?;
                recording.pair(pair);
                Ok((tx, pair, there.is_none()))
            };
            match loaded.await {
                Ok((tx, pair, writes)) => {
                    if self.commit(tx, recording, pair, writes, Age::NEW).await == Some(true) {
                        return;
                    }
                }
                Err(error) => self.ended(recording, &error),
            }
            self.env.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Works until told to stop.
    pub async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            match self.random.below(12) {
                0..3 => self.transfer().await,
                3..5 => self.append().await,
                5..7 => self.insert().await,
                7 => self.audit().await,
                8 | 9 => self.add().await,
                10 => self.blind().await,
                _ => self.look().await,
            }
            let rest = Duration::from_millis(self.random.below(REST_MS_MAX));
            self.env.sleep(rest).await;
        }
    }

    fn valued(&mut self, value: impl std::fmt::Display) -> String {
        self.unique += 1;
        format!("{value} {}.{}", self.number, self.unique)
    }

    async fn get(
        &self,
        tx: &Transaction,
        recording: &mut Recording,
        name: &str,
    ) -> Result<Option<bytes::Bytes>, Error> {
        let value = tx.get(name).await?;
        recording.get(&key(name), value.as_ref().map(|value| Found::new(value.version, &value.value)));
        Ok(value.map(|value| value.value))
    }

    async fn put(&self, tx: &Transaction, recording: &mut Recording, name: &str, value: &str) -> Result<(), Error> {
        tx.put(name, value).await?;
        recording.put(&key(name), value.as_bytes());
        Ok(())
    }

    /// An attempt that ended before its commit changed nothing. Its reads may have been old, where that was allowed.
    fn ended(&self, mut recording: Recording, _error: &Error) {
        self.totals.lock().refused += 1;
        recording.stale_allowed();
        recording.complete(Outcome::NotApplied);
    }

    /// Commits under a pair and settles what became of it. Whether it was committed, if that is known.
    async fn commit(
        &self,
        tx: Transaction,
        mut recording: Recording,
        pair: IdempotencyPair,
        writes: bool,
        Age { may_be_old: stale, at_least }: Age,
    ) -> Option<bool> {
        if let Some(version) = tx.read_version() {
            assert!(version >= at_least, "a read of {version} is older than it may be: {at_least} had been told");
            recording.read_version(version);
        }
        match tx.commit_as(pair).await {
            Ok(committed) => {
                let version = committed.version;
                let mut totals = self.totals.lock();
                totals.done += 1;
                totals.tell(self.env.wall_ms(), version);
                drop(totals);
                if let Some(results) = committed.results {
                    recording.results(results);
                }
                if stale && !writes {
                    recording.stale_allowed();
                }
                recording.complete(if writes { Outcome::Committed(version) } else { Outcome::ReadOnly(version) });
                Some(true)
            }
            Err(error) => match outcome_of(&error) {
                Outcome::NotApplied => {
                    if stale {
                        recording.stale_allowed();
                    }
                    self.totals.lock().refused += 1;
                    recording.complete(Outcome::NotApplied);
                    Some(false)
                }
                _ => self.settle(recording, pair, writes, stale).await,
            },
        }
    }

    /// Asks what became of a commit until somebody knows.
    async fn settle(&self, mut recording: Recording, pair: IdempotencyPair, writes: bool, stale: bool) -> Option<bool> {
        loop {
            match self.client.outcome(pair).await {
                Ok(CommitOutcome::Committed { version, .. }) => {
                    self.totals.lock().done += 1;
                    if stale && !writes {
                        recording.stale_allowed();
                    }
                    recording.complete(if writes { Outcome::Committed(version) } else { Outcome::ReadOnly(version) });
                    return Some(true);
                }
                Ok(CommitOutcome::Never | CommitOutcome::Rejected { .. }) => {
                    self.totals.lock().refused += 1;
                    if stale {
                        recording.stale_allowed();
                    }
                    recording.complete(Outcome::Never);
                    return Some(false);
                }
                Ok(CommitOutcome::Expired) => {
                    self.totals.lock().unknown += 1;
                    recording.complete(Outcome::Unknown);
                    return None;
                }
                Err(_) => self.env.sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Begins a transaction, which may read what is old.
    async fn begin(&mut self) -> Result<(Transaction, Age), Error> {
        // Now and then at what is there: the commit is judged all the same.
        let consistency = match self.random.below(4) {
            0 => Consistency::Local,
            1 => Consistency::BoundedStaleness { staleness_ms_max: 500 },
            _ => Consistency::Linearizable,
        };
        let at_least = match consistency {
            Consistency::BoundedStaleness { staleness_ms_max } => {
                let allowed_ms = u64::from(staleness_ms_max) + STALENESS_SLACK_MS;
                self.totals.lock().told_by(self.env.wall_ms() - allowed_ms)
            }
            // The checker judges those that may not be old.
            Consistency::Local | Consistency::Linearizable => Version::ZERO,
        };
        let options = CallOptions::new().consistency(consistency);
        let tx = self.client.begin_with(Isolation::Serializable, &options).await?;
        Ok((tx, Age { may_be_old: consistency != Consistency::Linearizable, at_least }))
    }

    async fn transfer(&mut self) {
        let (from, to) = (self.random.below(ACCOUNTS), self.random.below(ACCOUNTS));
        let amount = 1 + i64::try_from(self.random.below(10)).expect("it is small");
        let mut recording = self.recorder.begin(self.number);
        let moved = async {
            let (tx, age) = self.begin().await?;
            let (from, to) = (format!("bank/{from}"), format!("bank/{to}"));
            let has = self.get(&tx, &mut recording, &from).await?.map_or(0, |value| number(&value));
            let gets = self.get(&tx, &mut recording, &to).await?.map_or(0, |value| number(&value));
            let writes = from != to && has >= amount;
            if writes {
                let (less, more) = (self.valued(has - amount), self.valued(gets + amount));
                self.put(&tx, &mut recording, &from, &less).await?;
                self.put(&tx, &mut recording, &to, &more).await?;
            }
            let pair = self.client.new_pair().await?;
            Ok((tx, age, pair, writes))
        };
        let moved = moved.await;
        self.finish(moved, recording).await;
    }

    async fn finish(
        &self,
        attempt: Result<(Transaction, Age, IdempotencyPair, bool), Error>,
        mut recording: Recording,
    ) {
        match attempt {
            Ok((tx, age, pair, writes)) => {
                recording.pair(pair);
                self.commit(tx, recording, pair, writes, age).await;
            }
            Err(error) => self.ended(recording, &error),
        }
    }

    async fn append(&mut self) {
        let name = format!("list/{}", self.random.below(LISTS));
        let mut recording = self.recorder.begin(self.number);
        let appended = async {
            let (tx, age) = self.begin().await?;
            let list = self.get(&tx, &mut recording, &name).await?;
            let mut list = list.map_or_else(String::new, |list| String::from_utf8_lossy(&list).into_owned());
            if list.len() > LIST_BYTES_MAX {
                list.clear();
            }
            let longer = format!("{list},{}", self.valued(""));
            self.put(&tx, &mut recording, &name, &longer).await?;
            let pair = self.client.new_pair().await?;
            Ok((tx, age, pair, true))
        };
        let appended = appended.await;
        self.finish(appended, recording).await;
    }

    async fn insert(&mut self) {
        let group = format!("group/{}/", self.random.below(GROUPS));
        let mut recording = self.recorder.begin(self.number);
        let inserted = async {
            let (tx, age) = self.begin().await?;
            let count = tx.count(crate::client::KeyRange::prefix(&group)).await?;
            recording.count(&prefix(&group), count);
            let name = format!("{group}{}", self.random.below(20));
            let there = self.get(&tx, &mut recording, &name).await?;
            if there.is_some() {
                tx.delete(&name).await?;
                recording.delete(&key(&name));
            } else if count < GROUP_MAX {
                let value = self.valued("in");
                self.put(&tx, &mut recording, &name, &value).await?;
            }
            let writes = there.is_some() || count < GROUP_MAX;
            let pair = self.client.new_pair().await?;
            Ok((tx, age, pair, writes))
        };
        let inserted = inserted.await;
        self.finish(inserted, recording).await;
    }

    /// Reads all accounts at one version: nothing was made or lost.
    async fn audit(&mut self) {
        let recording = self.recorder.begin(self.number);
        let mut recording = recording;
        let read = async {
            let tx = self.client.begin(Isolation::Serializable).await?;
            let mut sum = None;
            for account in 0..ACCOUNTS {
                let value = self.get(&tx, &mut recording, &format!("bank/{account}")).await?;
                sum = value.map(|value| sum.unwrap_or(0) + number(&value)).or(sum);
            }
            Ok::<_, Error>((tx, sum))
        };
        match read.await {
            Ok((tx, sum)) => {
                let right = BALANCE * i64::try_from(ACCOUNTS).expect("it is small");
                // Nothing is there before it was loaded, which was done in one.
                assert_eq!(sum.unwrap_or(right), right, "money was made or lost");
                match tx.commit().await {
                    Ok(committed) => {
                        self.totals.lock().done += 1;
                        recording.complete(Outcome::ReadOnly(committed.version));
                    }
                    Err(error) => self.ended(recording, &error),
                }
            }
            Err(error) => self.ended(recording, &error),
        }
    }

    /// Adds one, under a pair, until it is known whether that was done.
    async fn add(&mut self) {
        let Ok(pair) = self.client.new_pair().await else { return };
        let mut recording = self.recorder.begin(self.number);
        recording.pair(pair);
        let operand = 1_i64.to_be_bytes();
        let keyed = self.client.with(CallOptions::new().idempotency(pair));
        match keyed.atomic(AtomicOp::Add, "sum", operand).await {
            Ok(applied) => {
                recording.atomic(AtomicOp::Add, &key("sum"), &operand, Some(applied.result));
                recording.complete(Outcome::Committed(applied.version));
                let mut totals = self.totals.lock();
                totals.done += 1;
                totals.added += 1;
            }
            Err(error) => {
                recording.atomic(AtomicOp::Add, &key("sum"), &operand, None);
                if outcome_of(&error) == Outcome::NotApplied {
                    return self.ended(recording, &error);
                }
                let settled = self.settle(recording, pair, true, false).await;
                let mut totals = self.totals.lock();
                totals.added += u64::from(settled == Some(true));
                totals.unsettled += u64::from(settled.is_none());
            }
        }
    }

    async fn blind(&mut self) {
        let name = format!("blind/{}", self.random.below(BLIND));
        let value = self.valued("blind");
        let mut recording = self.recorder.begin(self.number);
        recording.put(&key(&name), value.as_bytes());
        match self.client.put(&name, &value).await {
            Ok(version) => {
                self.totals.lock().done += 1;
                recording.complete(Outcome::Committed(version));
            }
            Err(error) => {
                let outcome = outcome_of(&error);
                let mut totals = self.totals.lock();
                if outcome == Outcome::Unknown {
                    totals.unknown += 1
                } else {
                    totals.refused += 1
                }
                recording.complete(outcome);
            }
        }
    }

    /// Reads one key, as fresh as can be.
    async fn look(&mut self) {
        let names = ["list/0", "bank/1", "blind/0", "sum"];
        let name = names[self.random.index(names.len())];
        let mut recording = self.recorder.begin(self.number);
        let read = async {
            let tx = self.client.begin(Isolation::Serializable).await?;
            self.get(&tx, &mut recording, name).await?;
            tx.commit().await
        };
        match read.await {
            Ok(committed) => {
                self.totals.lock().done += 1;
                recording.complete(Outcome::ReadOnly(committed.version));
            }
            Err(error) => self.ended(recording, &error),
        }
    }

    /// What `sum` holds.
    ///
    /// # Errors
    /// If the cluster does not answer.
    pub async fn sum(&self) -> Result<u64, Error> {
        let value = self.client.get("sum").await?;
        Ok(value.map_or(0, |value| u64::from_be_bytes(value.value.as_ref().try_into().expect("a sum has 8 bytes"))))
    }
}
