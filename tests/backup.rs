//! Backups of a running server under concurrent writes, and what a database that was restored from one accepts.
#![allow(clippy::unwrap_used, reason = "a test")]

use futures_util::StreamExt;
use quantadb::{
    backup::{Header, Reader, Restored, Row, Summary, Writer, restore},
    client::{
        Backup, BackupRow, CallOptions, Client, CommitOutcome, Condition, ErrorCode, Execute, Keyspace, Op, Version,
    },
    storage::{Applied, Engine, MemoryEngine, MemoryOptions, Write},
    testing::{
        generators::Random,
        server::{TestOptions, TestServer},
    },
    types::{ClusterId, KeyspaceId},
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What an acknowledged write did: its version, the full key, and the value or none.
type Written = (u64, Vec<u8>, Option<Vec<u8>>);
type State = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

fn seed() -> u64 {
    let seed = std::env::var("QUANTADB_SEED").ok().map(|seed| seed.parse().expect("QUANTADB_SEED is a number"));
    let seed = seed.unwrap_or_else(|| quantadb::env::Env::real().random_u64());
    println!("QUANTADB_SEED={seed}");
    seed
}

async fn connected(server: &TestServer) -> Client {
    Client::connect(server.address()).await.unwrap()
}

async fn all_of(backup: &mut Backup) -> Vec<BackupRow> {
    let mut rows = Vec::new();
    // As the stream that it is.
    while let Some(row) = StreamExt::next(backup).await {
        rows.push(row.unwrap());
    }
    rows
}

fn state_of(rows: &[BackupRow]) -> State {
    rows.iter().map(|row| (row.full_key.to_vec(), (row.version.0, row.value.to_vec()))).collect()
}

/// The state at a version, from what was acknowledged.
fn state_at(version: u64, written: &[Written]) -> State {
    let mut in_order: Vec<&Written> = written.iter().filter(|write| write.0 <= version).collect();
    in_order.sort_by_key(|write| write.0);
    let mut state = State::new();
    for (version, key, value) in in_order {
        match value {
            Some(value) => state.insert(key.clone(), (*version, value.clone())),
            None => state.remove(key),
        };
    }
    state
}

/// Writes until it is told to stop: puts, keyed puts and deletes of few keys, so that rows change again and again.
async fn write(client: Client, keyspaces: Vec<Keyspace>, seed: u64, stop: Arc<AtomicBool>) -> Vec<Written> {
    let mut random = Random::new(seed);
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let keyspace = &keyspaces[random.index(keyspaces.len())];
        let name = format!("k{:03}", random.below(200));
        let full = keyspace.id().full_key(name.as_bytes()).to_vec();
        let value = vec![random.below(256) as u8; 500 + random.below(500) as usize];
        match random.below(4) {
            0 => {
                let version = keyspace.delete(&name).await.unwrap();
                written.push((version.0, full, None));
            }
            1 => {
                let pair = client.new_pair().await.unwrap();
                let keyed = keyspace.with(CallOptions::new().idempotency(pair));
                let version = keyed.put(&name, &value).await.unwrap();
                written.push((version.0, full, Some(value)));
            }
            _ => {
                let version = keyspace.put(&name, &value).await.unwrap();
                written.push((version.0, full, Some(value)));
            }
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_writes_is_the_state_at_its_version() {
    let seed = seed();
    let server = TestServer::start().await;
    let client = connected(&server).await;
    let other = client.open_keyspace("other", true).await.unwrap();
    let keyspaces = vec![client.with(CallOptions::new()), other];
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let client = connected(&server).await;
        writers.spawn(write(client, keyspaces.clone(), seed.wrapping_add(writer), Arc::clone(&stop)));
    }
    let mut taken: Vec<(u64, Vec<BackupRow>)> = Vec::new();
    while taken.len() < 6 {
        // A chunk at a time, so that many writes come in between.
        let mut backup = client.backup().credit(1);
        let rows = all_of(&mut backup).await;
        let summary = backup.summary().unwrap();
        assert_eq!((backup.version(), summary.rows), (Some(summary.version), rows.len() as u64));
        let bytes: usize = rows.iter().map(|row| row.full_key.len() + row.value.len()).sum();
        assert_eq!(summary.bytes, bytes as u64);
        assert!(rows.windows(2).all(|pair| pair[0].full_key < pair[1].full_key), "in the order of full keys");
        let after = client.read_version().await.unwrap();
        if bytes > 150_000 && after > summary.version {
            taken.push((summary.version.0, rows));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let written: Vec<Written> = writers.join_all().await.into_iter().flatten().collect();
    for (version, rows) in taken {
        let (catalog, users): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.keyspace() == KeyspaceId::SYSTEM);
        assert_eq!(catalog.iter().map(BackupRow::key).collect::<Vec<_>>(), [&b"N"[..], b"kother", b"n\0\0\0\x10"]);
        assert_eq!(state_of(&users), state_at(version, &written), "version {version}");
    }
    server.stop().await;
}

/// Writes rows as a file and reads it back into an engine, as whoever restores a database would.
fn restored(rows: &[BackupRow], header: Header, clock_ms: u64) -> (Restored, Summary, Arc<MemoryEngine>) {
    let mut writer = Writer::begin(Vec::new(), header).unwrap();
    for row in rows {
        writer.push(&Row { key: &row.full_key, version: row.version, value: &row.value }).unwrap();
    }
    let (file, written) = writer.finish(clock_ms).unwrap();
    let mut kept = Vec::new();
    let sink = |key: &[u8], _: Version, value: &[u8]| {
        kept.push((key.to_vec(), value.to_vec()));
        Ok::<_, Infallible>(())
    };
    let restored = restore(Reader::open(&file[..]).unwrap(), sink).unwrap();
    let version = restored.beginning;
    let writes: Vec<_> = kept.iter().map(|(key, value)| Write { version, key, value: Some(value) }).collect();
    let engine = Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 28, hash_seed: 7 }));
    let clock_ms = restored.summary.clock_ms;
    let applied = Applied { version, clock_ms, idempotency_floor: version, ..Applied::default() };
    engine.apply(&writes, applied).unwrap();
    while engine.trim(version) {}
    (restored, written, engine)
}

#[tokio::test]
async fn a_restored_database_holds_the_backup_and_believes_nothing_of_the_old_timeline() {
    let server = TestServer::start().await;
    let client = connected(&server).await;
    let orders = client.open_keyspace("orders", true).await.unwrap();
    client.put("a", "first").await.unwrap();
    orders.put("b", "second").await.unwrap();
    let mut backup = client.backup();
    let rows = all_of(&mut backup).await;
    let summary = backup.summary().unwrap();
    // The old timeline goes on: what is seen there from here on is not in the backup.
    let seen = client.put("a", "later").await.unwrap();
    let pair = client.new_pair().await.unwrap();
    let value = "x".repeat(40_000);
    for key in ["y", "z"] {
        client.put(key, &value).await.unwrap();
    }
    let mut scan = client.scan(..).credit(1);
    let token = loop {
        scan.next().await.unwrap().unwrap();
        if let Some(token) = scan.resume_token() {
            break token.clone();
        }
    };
    drop(scan);
    server.stop().await;

    let header = Header { cluster: ClusterId(*b"testing testing."), version: summary.version, taken_ms: 1 };
    let (restored, written, engine) = restored(&rows, header, summary.clock_ms);
    assert_eq!((restored.summary, written.rows), (written, summary.rows));
    assert!(restored.beginning > seen);
    let options = TestOptions { engine: Some(engine), ..TestOptions::default() };
    let server = TestServer::start_with(options).await;
    let client = connected(&server).await;

    // It holds the backup, at its beginning.
    let mut backup = client.backup();
    let again = all_of(&mut backup).await;
    let plain =
        |rows: &[BackupRow]| rows.iter().map(|row| (row.full_key.clone(), row.value.clone())).collect::<Vec<_>>();
    assert_eq!(plain(&again), plain(&rows));
    assert!(again.iter().all(|row| row.version == restored.beginning));
    assert!(backup.summary().unwrap().clock_ms >= summary.clock_ms);
    assert_eq!(client.open_keyspace("orders", false).await.unwrap().id(), orders.id());

    // A scan does not go on.
    let error = client.scan(..).resume(token).collect_rows().await.unwrap_err();
    assert_eq!((error.code(), error.horizon()), (Some(ErrorCode::SNAPSHOT_GONE), Some(restored.beginning)));
    // A commit under a pair of the old timeline is not done, and nobody claims to know what became of it.
    let error = client.with(CallOptions::new().idempotency(pair)).put("a", "again").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::KEY_EXPIRED));
    assert_eq!(client.outcome(pair).await.unwrap(), CommitOutcome::Expired);
    // A condition on what was seen there does not hold, in either form.
    for condition in [Condition::VersionEquals(seen), Condition::VersionAtMost(seen)] {
        let put = Op::Put { key: b"a", value: b"from the old timeline" };
        let done = client.execute(&Execute::new().when("a", condition).then(put)).await.unwrap();
        assert!(!done.held, "{condition:?}");
    }
    assert_eq!(client.get("a").await.unwrap().unwrap().value, "first");

    // And it goes on by itself: versions, conflicts, pairs, ids of keyspaces.
    let version = client.put("a", "new").await.unwrap();
    assert_eq!(version.0, restored.beginning.0 + 1);
    let transaction = client.begin(Default::default()).await.unwrap();
    transaction.get("a").await.unwrap();
    client.put("a", "newer").await.unwrap();
    transaction.put("c", "v").await.unwrap();
    assert_eq!(transaction.commit().await.unwrap_err().code(), Some(ErrorCode::CONFLICT));
    let pair = client.new_pair().await.unwrap();
    let keyed = client.with(CallOptions::new().idempotency(pair));
    let version = keyed.put("d", "once").await.unwrap();
    assert!(
        matches!(client.outcome(pair).await.unwrap(), CommitOutcome::Committed { version: at, .. } if at == version)
    );
    assert!(client.open_keyspace("more", true).await.unwrap().id() > orders.id());
    server.stop().await;
}
