//! What the engine, and a server behind the client, answer to the scripts under `tests/transcripts/`.

#![allow(clippy::unwrap_used)]

use quantadb::{
    client::{self, Client, Isolation},
    storage::{Applied, Engine, Error, MemoryEngine, MemoryOptions, Pin, Row, Scan, Write},
    testing::{
        server::TestServer,
        transcript::{Command, check, escape},
    },
    types::{KeyRange, KeyspaceId, Version},
};
use std::{collections::HashMap, ops::ControlFlow, path::PathBuf};

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "transcripts", name].iter().collect()
}

fn number(command: &Command, place: usize) -> Result<u64, String> {
    command.text(place)?.parse().map_err(|_| format!("{}: argument {place} is no number", command.name))
}

fn row(version: Version, value: &[u8]) -> String {
    format!("{} at version {version}", escape(value))
}

// ---------------------------------------------------------------------------------------------------------------------
// The engine.

struct Subject {
    engine: MemoryEngine,
    pins: HashMap<String, Pin>,
}

impl Subject {
    fn pin(&self, command: &Command, place: usize) -> Result<Pin, String> {
        match command.text(place) {
            Ok(name) => self.pins.get(name).cloned().ok_or(format!("no pin {name}")),
            Err(_) => Ok(self.engine.pin()),
        }
    }

    fn run(&mut self, command: &Command) -> Result<String, String> {
        let failed = |error: Error| error.to_string();
        match command.name.as_str() {
            // write VERSION KEY=VALUE... KEY-...: a batch
            "write" => {
                let version = Version(number(command, 0)?);
                let writes: Result<Vec<_>, String> =
                    command.arguments[1..].iter().map(|word| write(version, word)).collect();
                let applied = Applied { version, ..Applied::default() };
                self.engine.apply(&writes?, applied).map_err(failed)?;
                Ok(String::new())
            }
            // pin NAME VERSION
            "pin" => {
                let pin = self.engine.pin_at(Version(number(command, 1)?)).map_err(failed)?;
                self.pins.insert(command.text(0)?.to_owned(), pin);
                Ok(String::new())
            }
            "unpin" => {
                self.pins.remove(command.text(0)?).ok_or("no such pin")?;
                Ok(String::new())
            }
            // get KEY [PIN]
            "get" => {
                let (pin, mut told) = (self.pin(command, 1)?, String::from("absent"));
                let mut each = |_, found: Option<Row<'_>>| {
                    told = found.map_or("absent".into(), |found| row(found.version, found.value))
                };
                self.engine.get_at(&pin, &[command.bytes(0)?], &mut each).map_err(failed)?;
                Ok(told)
            }
            // scan START END [PIN], and backwards
            "scan" | "reverse" => {
                let bound = |place| command.bytes(place).map(|bytes| bytes.to_vec().into());
                let range = KeyRange { start: bound(0)?, end: bound(1)? };
                let (pin, mut told) = (self.pin(command, 2)?, String::new());
                let mut each = |key: &[u8], found: Row<'_>| {
                    told.push_str(&format!("{} = {}\n", escape(key), row(found.version, found.value)));
                    ControlFlow::Continue(())
                };
                let reverse = command.name == "reverse";
                self.engine.scan(&pin, Scan { range: &range, reverse }, &mut each).map_err(failed)?;
                Ok(if told.is_empty() { "nothing".into() } else { told })
            }
            // trim VERSION: until nothing is left to do
            "trim" => {
                let version = Version(number(command, 0)?);
                while self.engine.trim(version) {}
                let usage = self.engine.usage();
                Ok(format!("horizon {}, {} keys, {} pins", usage.horizon, usage.keys, usage.pins))
            }
            other => Err(format!("unknown command {other}")),
        }
    }
}

fn write(version: Version, word: &[u8]) -> Result<Write<'_>, String> {
    match (word.iter().position(|byte| *byte == b'='), word.strip_suffix(b"-")) {
        (Some(at), _) => Ok(Write { version, key: &word[..at], value: Some(&word[at + 1..]) }),
        (None, Some(key)) => Ok(Write { version, key, value: None }),
        (None, None) => Err("a write is KEY=VALUE or KEY-".into()),
    }
}

#[test]
fn the_memory_engine_keeps_versions_as_its_script_says() {
    let engine = MemoryEngine::new(MemoryOptions { bytes_max: 1 << 20, hash_seed: 7 });
    let mut subject = Subject { engine, pins: HashMap::new() };
    check(script("engine"), |command| subject.run(command));
}

// ---------------------------------------------------------------------------------------------------------------------
// Transactions, from the client through a socket.

struct Clients {
    client: Client,
    open: HashMap<String, client::Transaction>,
}

impl Clients {
    fn transaction(&self, command: &Command) -> Result<Option<&client::Transaction>, String> {
        let Some(name) = command.named("in") else { return Ok(None) };
        let name = String::from_utf8_lossy(name).into_owned();
        self.open.get(&name).map(Some).ok_or(format!("no transaction {name}"))
    }

    fn take(&mut self, command: &Command) -> Result<client::Transaction, String> {
        self.open.remove(command.text(0)?).ok_or_else(|| "no such transaction".into())
    }

    async fn run(&mut self, command: &Command) -> Result<String, String> {
        let key = || command.bytes(0);
        let done = |version: Version| format!("version {version}");
        let found =
            |value: Option<client::Value>| value.map_or("absent".into(), |found| row(found.version, &found.value));
        let inside = self.transaction(command)?;
        match (command.name.as_str(), inside) {
            // begin NAME [snapshot]
            ("begin", _) => {
                let snapshot = command.text(1).is_ok_and(|word| word == "snapshot");
                let isolation = if snapshot { Isolation::Snapshot } else { Isolation::Serializable };
                let transaction = self.client.begin(isolation).await.map_err(told)?;
                self.open.insert(command.text(0)?.to_owned(), transaction);
                Ok(String::new())
            }
            ("commit", _) => {
                let committed = self.take(command)?.commit().await.map_err(told)?;
                let results = committed.results.unwrap_or_default();
                let results = results.iter().map(|result| format!(", {}", escape(result))).collect::<String>();
                Ok(format!("version {}{results}", committed.version))
            }
            ("rollback", _) => self.take(command)?.rollback().await.map(|()| String::new()).map_err(told),
            ("savepoint", Some(inside)) => inside.savepoint(key()?).await.map(|()| String::new()).map_err(told),
            ("rollback-to", Some(inside)) => inside.rollback_to(key()?).await.map(|()| String::new()).map_err(told),
            ("get", None) => self.client.get(key()?).await.map(found).map_err(told),
            ("get", Some(inside)) => inside.get(key()?).await.map(found).map_err(told),
            ("put", None) => self.client.put(key()?, command.bytes(1)?).await.map(done).map_err(told),
            ("put", Some(inside)) => inside.put(key()?, command.bytes(1)?).await.map(|()| String::new()).map_err(told),
            ("delete", None) => self.client.delete(key()?).await.map(done).map_err(told),
            ("delete", Some(inside)) => inside.delete(key()?).await.map(|()| String::new()).map_err(told),
            ("append", Some(inside)) => {
                let (op, operand) = (client::AtomicOp::Append, command.bytes(1)?);
                inside.atomic(op, key()?, operand).await.map(|()| String::new()).map_err(told)
            }
            // scan START END [limit=N], of a transaction or not
            ("scan", inside) => {
                let range = key()?.to_vec()..command.bytes(1)?.to_vec();
                let mut scan =
                    inside.map_or_else(|| self.client.scan(range.clone()), |inside| inside.scan(range.clone()));
                if let Some(limit) = command.named("limit") {
                    scan = scan.limit(String::from_utf8_lossy(limit).parse().map_err(|_| "a limit is a number")?);
                }
                let rows = scan.collect_rows().await.map_err(told)?;
                let rows =
                    rows.iter().map(|found| format!("{} = {}\n", escape(&found.key), row(found.version, &found.value)));
                let rows = rows.collect::<String>();
                Ok(if rows.is_empty() { "nothing".into() } else { rows })
            }
            (other, _) => Err(format!("unknown command {other}")),
        }
    }
}

/// What a caller decides by; the message is for people and may change.
fn told(error: client::Error) -> String {
    let code = error.code().map_or("no code".into(), |code| code.to_string());
    format!("{code}, retry {:?}, outcome {:?}", error.retry(), error.outcome())
}

#[test]
fn transactions_see_and_conflict_as_their_script_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::start());
    let client = runtime.block_on(Client::connect(server.address().to_string().as_str())).unwrap();
    assert_eq!(KeyspaceId::DEFAULT, KeyspaceId(1), "the scripts use the keyspace that every database begins with");
    let mut clients = Clients { client, open: HashMap::new() };
    check(script("transactions"), |command| runtime.block_on(clients.run(command)));
    drop(clients);
    runtime.block_on(server.stop());
}
