//! What the clients do, through the bundled client.
//!
//! | keys | what is done | what holds |
//! |---|---|---|
//! | `s/bank/n`, `s/side/n` | interactive transfers; each writes its tag beside both accounts | the sum; a tag is on both sides or overwritten |
//! | `s/sum/n` | additions, named | the sum of what was acknowledged |
//! | `s/token/…` | in one message the only row is deleted and another is put | there is one |
//! | `s/blind/n` | puts without a name | one of the values that were put, not older than the acknowledged |
//! | `f/cycle/…` | facts, each written once, named or not, of 20 bytes to 16 KiB | what was acknowledged is there |

use super::ledger::{Again, Attempt, Ledger};
use bytes::Bytes;
use quantadb::{
    client::{CallOptions, Client, ClientOptions, Condition, Error, ErrorKind, Execute, Isolation, KeyRange, Op, Row},
    testing::{
        generators::Random,
        history::{self, Found, Outcome, RangeEnd, RangeRead, Step},
    },
    txn::AtomicOp,
    types::{FullKey, IdempotencyPair, KeyspaceId, Version},
    wire,
};
use std::{net::SocketAddr, time::Duration};

pub const ACCOUNTS: u64 = 10;
pub const BALANCE: i64 = 1_000;
const COUNTERS: u64 = 4;
const BLIND: u64 = 4;

/// Nothing more can be asked of this server.
#[derive(Debug)]
pub struct Gone;

/// One client of one life of the server.
pub struct Worker {
    pub number: u64,
    pub random: Random,
    pub client: Client,
    pub ledger: Ledger,
    /// Which life; its facts lie under it.
    pub cycle: u64,
    serial: u64,
}

pub fn full(key: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(key.as_bytes())
}

pub fn facts_of(cycle: u64) -> String {
    format!("f/{cycle:06}/")
}

/// Connects with a deadline after which a server is taken for dead.
///
/// # Errors
/// If nobody answers.
pub async fn connect(address: SocketAddr, deadline: Duration) -> Result<Client, Error> {
    let options = ClientOptions::from(address);
    Client::connect(ClientOptions { deadline, grease: false, ..options }).await
}

fn once() -> CallOptions {
    CallOptions::new().once()
}

/// What an error says became of a write.
fn judged(error: &Error) -> Result<Outcome, Gone> {
    match (error.outcome(), error.kind()) {
        (wire::Outcome::NotApplied, ErrorKind::Refused | ErrorKind::DeadlinePassed) => Ok(Outcome::NotApplied),
        (wire::Outcome::Unknown, ErrorKind::Refused | ErrorKind::DeadlinePassed) => Ok(Outcome::Unknown),
        (wire::Outcome::Applied, _) => panic!("an error that says it was applied: {error}"),
        _ => Err(Gone),
    }
}

fn put(key: &str, value: &Bytes) -> Step {
    Step::Put { key: full(key), value: value.clone() }
}

fn owned(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A scan of a prefix, as the recorder has it.
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

/// Reads all rows of a prefix that ends with a slash, and records that.
///
/// # Errors
/// The server's.
pub async fn read_prefix(client: &Client, ledger: &Ledger, number: u64, prefix: &str) -> Result<Vec<Row>, Error> {
    let mut recording = ledger.recorder.begin(number);
    let mut scan = client.scan(KeyRange::prefix(prefix));
    let mut rows = Vec::new();
    while let Some(row) = scan.next().await {
        rows.push(row?);
    }
    let summary = scan.summary().expect("a scan that ended says how");
    assert_eq!(summary.first_version, summary.version, "a scan reads at one version");
    recording.range(told_rows(prefix, &rows));
    recording.complete(Outcome::ReadOnly(summary.version));
    ledger.saw(summary.version);
    Ok(rows)
}

/// What is there before anything else.
///
/// # Errors
/// The server's.
pub async fn load(client: &Client, ledger: &Ledger) -> Result<(), Error> {
    let mut execute = Execute::new();
    let mut steps = Vec::new();
    let mut rows = vec![("s/token/first".to_owned(), owned("first"))];
    for account in 0..ACCOUNTS {
        rows.push((format!("s/bank/{account:02}"), owned(&format!("{BALANCE} load"))));
        rows.push((format!("s/side/{account:02}"), owned("load -")));
    }
    for (key, value) in &rows {
        execute = execute.then(Op::Put { key: key.as_bytes(), value });
        steps.push(put(key, value));
    }
    let recording = ledger.recorder.begin(0);
    let attempt = Attempt { client: 0, pair: None, read_version: None, steps, again: Again::Ask };
    let open = ledger.open(recording, attempt);
    let done = client.execute(&execute).await?;
    open.told(None, Outcome::Committed(done.version));
    Ok(())
}

impl Worker {
    pub fn new(number: u64, seed: u64, cycle: u64, client: Client, ledger: Ledger) -> Worker {
        // Through the generator itself: seeds that differ by a multiple of its step give one sequence, shifted, and two
        // clients of one sequence name their commits alike.
        let random = Random::new(Random::new(seed ^ (cycle << 8 | number)).bits());
        Worker { number, random, client, ledger, cycle, serial: 0 }
    }

    /// Works until the server is gone.
    pub async fn work(mut self) {
        while self.anything().await.is_ok() {}
    }

    /// Does one thing, whichever it is.
    ///
    /// # Errors
    /// If the server is gone.
    pub async fn anything(&mut self) -> Result<(), Gone> {
        match self.random.below(100) {
            0..=24 => self.transfer().await,
            25..=44 => self.add().await,
            45..=59 => self.fact(true).await,
            60..=79 => self.fact(false).await,
            80..=89 => self.token().await,
            90..=94 => self.blind().await,
            _ => self.look().await,
        }
    }

    /// Text that nobody else writes, nor this client again.
    fn unique(&mut self) -> String {
        self.serial += 1;
        format!("c{}.{}.{}", self.cycle, self.number, self.serial)
    }

    fn pair(&mut self) -> IdempotencyPair {
        let (high, low) = (u128::from(self.random.bits()), u128::from(self.random.bits()));
        let seen = self.ledger.seen().max(self.client.seen_version());
        IdempotencyPair { key: (high << 64 | low).to_be_bytes(), seen }
    }

    fn attempt(&self, pair: Option<IdempotencyPair>, steps: Vec<Step>, again: Again) -> Attempt {
        Attempt { client: self.number, pair, read_version: None, steps, again }
    }

    async fn transfer(&mut self) -> Result<(), Gone> {
        let from = self.random.below(ACCOUNTS);
        let to = (from + 1 + self.random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let amount = self.random.below(20) as i64;
        let tag = self.unique();
        let pair = self.pair();
        let keys = [format!("s/bank/{from:02}"), format!("s/bank/{to:02}")];
        let recording = self.ledger.recorder.begin(self.number);
        let prepared = async {
            let transaction = self.client.begin(Isolation::Serializable).await?;
            let found = transaction.get_many(&keys).await?;
            Ok::<_, Error>((transaction, found))
        };
        let (transaction, found) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => {
                recording.complete(Outcome::NotApplied);
                return judged(&error).map(drop);
            }
        };
        let mut steps = Vec::new();
        let mut balances = [0; 2];
        for ((key, found), balance) in keys.iter().zip(&found).zip(&mut balances) {
            let row = found.as_ref().unwrap_or_else(|| panic!("{key} is gone under a running server"));
            *balance = balance_of(&row.value).expect("a balance is a number");
            steps.push(Step::Get { key: full(key), found: Some(Found::new(row.version, &row.value)) });
        }
        let read_version = transaction.read_version();
        let puts = [
            (keys[0].clone(), owned(&format!("{} {tag}", balances[0] - amount))),
            (keys[1].clone(), owned(&format!("{} {tag}", balances[1] + amount))),
            (format!("s/side/{from:02}"), owned(&format!("{tag} {to:02}"))),
            (format!("s/side/{to:02}"), owned(&format!("{tag} {from:02}"))),
        ];
        steps.extend(puts.iter().map(|(key, value)| put(key, value)));
        let attempt = Attempt { read_version, ..self.attempt(Some(pair), steps, Again::Ask) };
        let open = self.ledger.open(recording, attempt);
        let done = async {
            for (key, value) in &puts {
                transaction.put(key, value).await?;
            }
            transaction.commit_as(pair).await
        };
        match done.await {
            Ok(done) => open.told(None, Outcome::Committed(done.version)),
            Err(error) => match judged(&error)? {
                Outcome::Unknown => drop(open),
                outcome => open.told(None, outcome),
            },
        }
        Ok(())
    }

    async fn add(&mut self) -> Result<(), Gone> {
        let key = format!("s/sum/{}", self.random.below(COUNTERS));
        let amount = (1 + self.random.below(1_000)).to_be_bytes();
        let pair = self.pair();
        let recording = self.ledger.recorder.begin(self.number);
        let step = |result| {
            let operand = Bytes::copy_from_slice(&amount);
            vec![Step::Atomic { op: AtomicOp::Add, key: full(&key), operand, result }]
        };
        let again = Again::Add(owned(&key), amount);
        let open = self.ledger.open(recording, self.attempt(Some(pair), step(None), again));
        match self.client.with(once().idempotency(pair)).atomic(AtomicOp::Add, &key, amount).await {
            Ok(done) => open.told(Some(step(Some(done.result))), Outcome::Committed(done.version)),
            Err(error) => match judged(&error)? {
                Outcome::Unknown => drop(open),
                outcome => open.told(None, outcome),
            },
        }
        Ok(())
    }

    async fn fact(&mut self, named: bool) -> Result<(), Gone> {
        let key = format!("{}{}", facts_of(self.cycle), self.unique());
        let length = if self.random.once_in(40) { 16_384 } else { 20 + self.random.index(200) };
        let mut value = key.clone().into_bytes();
        value.resize(length.max(value.len()), b'.');
        self.put(key, value.into(), named).await
    }

    async fn blind(&mut self) -> Result<(), Gone> {
        let key = format!("s/blind/{}", self.random.below(BLIND));
        let value = self.unique().into();
        self.put(key, value, false).await
    }

    async fn put(&mut self, key: String, value: Bytes, named: bool) -> Result<(), Gone> {
        let pair = named.then(|| self.pair());
        let recording = self.ledger.recorder.begin(self.number);
        let mut options = once();
        if let Some(pair) = pair {
            options = options.idempotency(pair);
        }
        let again = Again::Put(owned(&key), value.clone());
        let open = self.ledger.open(recording, self.attempt(pair, vec![put(&key, &value)], again));
        match self.client.with(options).put(&key, &value).await {
            Ok(version) => open.told(None, Outcome::Committed(version)),
            Err(error) => match judged(&error)? {
                Outcome::Unknown => drop(open),
                outcome => open.told(None, outcome),
            },
        }
        Ok(())
    }

    /// Puts another row in the place of the only one, if it is still there.
    async fn token(&mut self) -> Result<(), Gone> {
        let rows = read_prefix(&self.client, &self.ledger, self.number, "s/token/").await;
        let rows = rows.map_err(|error| judged(&error).err().unwrap_or(Gone))?;
        assert_eq!(rows.len(), 1, "there is one token: {rows:?}");
        let old = String::from_utf8(rows[0].key.to_vec()).expect("keys are text");
        let tag = self.unique();
        let (new, value) = (format!("s/token/{tag}"), owned(&tag));
        let steps = vec![Step::Delete { key: full(&old) }, put(&new, &value)];
        let execute = Execute::new()
            .when(&old, Condition::Exists)
            .then(Op::Delete { key: old.as_bytes() })
            .then(Op::Put { key: new.as_bytes(), value: &value });
        let pair = self.pair();
        let recording = self.ledger.recorder.begin(self.number);
        let again = Again::Execute(execute.clone());
        let open = self.ledger.open(recording, self.attempt(Some(pair), steps.clone(), again));
        match self.client.with(once().idempotency(pair)).execute(&execute).await {
            Ok(done) => {
                let conditions = vec![(full(&old), history::Condition::Exists)];
                let mut told = vec![Step::Conditions { conditions, held: done.held }];
                let outcome = match done.held {
                    true => Outcome::Committed(done.version),
                    false => Outcome::ReadOnly(done.version),
                };
                told.extend(if done.held { steps } else { Vec::new() });
                open.told(Some(told), outcome);
            }
            Err(error) => match judged(&error)? {
                Outcome::Unknown => drop(open),
                outcome => open.told(None, outcome),
            },
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), Gone> {
        let prefix = if self.random.once_in(2) { "s/bank/" } else { "s/" };
        match read_prefix(&self.client, &self.ledger, self.number, prefix).await {
            Ok(_) => Ok(()),
            Err(error) => judged(&error).map(drop),
        }
    }
}

/// The number that a balance begins with.
pub fn balance_of(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}

/// Judges the rows under `s/`.
///
/// # Errors
/// What does not hold.
pub fn judge_state(ledger: &Ledger, rows: &[Row]) -> Result<(), String> {
    let of = |prefix: &str| rows.iter().filter(|row| row.key.starts_with(prefix.as_bytes())).collect::<Vec<_>>();
    let (bank, sides, tokens) = (of("s/bank/"), of("s/side/"), of("s/token/"));
    if bank.len() as u64 != ACCOUNTS || sides.len() as u64 != ACCOUNTS {
        return Err(format!("there are {} accounts and {} rows beside them", bank.len(), sides.len()));
    }
    let sum: i64 = bank.iter().filter_map(|row| balance_of(&row.value)).sum();
    if sum != BALANCE * ACCOUNTS as i64 {
        return Err(format!("money was made or lost: {sum}, {bank:?}"));
    }
    let word = |row: &Row, at: usize| {
        let text = String::from_utf8_lossy(&row.value).into_owned();
        text.split(' ').nth(at).unwrap_or_default().to_owned()
    };
    for (account, side) in bank.iter().zip(&sides) {
        let (tag, other) = (word(side, 0), word(side, 1));
        if account.version != side.version || word(account, 1) != tag {
            return Err(format!("half a transfer: {account:?} beside {side:?}"));
        }
        let Ok(other) = other.parse::<usize>() else { continue };
        let there: Version = sides[other].version;
        if there < side.version || there == side.version && word(sides[other], 0) != tag {
            return Err(format!("half a transfer: {side:?} and {:?}", sides[other]));
        }
    }
    if tokens.len() != 1 {
        return Err(format!("there is one token, not {tokens:?}"));
    }
    for counter in of("s/sum/") {
        ledger.judge_counter(&counter.key, super::ledger::number(&counter.value))?;
    }
    let counters = of("s/sum/").len() as u64;
    for missing in (0..COUNTERS).map(|number| format!("s/sum/{number}")) {
        if counters < COUNTERS && !rows.iter().any(|row| row.key == missing.as_bytes()) {
            ledger.judge_counter(missing.as_bytes(), 0)?;
        }
    }
    Ok(())
}
