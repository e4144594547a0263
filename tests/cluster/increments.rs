//! Additions that are named, by several clients, while the leader is killed every few seconds: none is lost, none is done
//! twice.

use super::{
    node::PATIENCE,
    rig::{Cluster, connect, connect_to_any},
};
use quantadb::client::{CallOptions, Client, Error, ErrorKind, Retry};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Clients, of which every second sits at one node.
const CLIENTS: u64 = 6;
/// Additions of one client under way at once.
const AT_ONCE: u64 = 4;
const KEYS: u64 = 4;
/// How long one attempt may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one addition may take, all attempts of it together.
const GIVE_UP: Duration = Duration::from_secs(60);
/// The leader lives for so long at least, and for up to as long again.
const LIFE_MS: u64 = 1_500;

/// Adds one under one name until that is acknowledged, and returns the sum that was told.
///
/// # Errors
/// If that takes too long, or is refused for good.
async fn add_one(client: &Client, key: &str) -> Result<i64, String> {
    let begun = Instant::now();
    let mut pair = None;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let done = async {
            // A pair is asked for once: with another one it would be another addition.
            let named = match pair {
                Some(pair) => pair,
                None => *pair.insert(client.new_pair().await?),
            };
            client.with(CallOptions::new().idempotency(named)).add(key, 1).await
        };
        let error: Error = match done.await {
            Ok(sum) => return Ok(sum),
            Err(error) => error,
        };
        let for_good = error.kind() == ErrorKind::Refused && error.retry() == Retry::Never;
        if for_good || begun.elapsed() > GIVE_UP {
            return Err(format!("an addition failed after {attempts} attempts and {:?}: {error:?}", begun.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One client: takes numbers until there are none left, and returns what it was told, by key.
async fn work(
    number: u64,
    addresses: Vec<SocketAddr>,
    left: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
) -> Result<Vec<(u64, i64)>, String> {
    let mut told = Vec::new();
    let mut at = number as usize % addresses.len();
    loop {
        let client = match number.is_multiple_of(2) {
            true => connect(addresses[at], DEADLINE).await,
            false => connect_to_any(&addresses, at, DEADLINE).await,
        };
        let Ok(client) = client else {
            at = (at + 1) % addresses.len();
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            let Ok(mine) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) else {
                return Ok(told);
            };
            let key = mine % KEYS;
            told.push((key, add_one(&client, &format!("sum/{key}")).await?));
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lets clients add so many times while leaders are killed.
///
/// # Panics
/// If a sum is not what it must be.
pub async fn run(additions: u64, seed: u64) {
    let mut cluster = Cluster::form("increments", 3, seed).await.unwrap_or_else(|error| panic!("{error}"));
    let begun = Instant::now();
    let ended = add_all(&mut cluster, additions).await;
    let kills = ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    println!("  {additions} additions in {:.1?}, the leader was killed {kills} times", begun.elapsed());
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

async fn add_all(cluster: &mut Cluster, additions: u64) -> Result<u32, String> {
    let (left, done) = (Arc::new(AtomicU64::new(additions)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS * AT_ONCE {
        clients.spawn(work(number, cluster.addresses(), Arc::clone(&left), Arc::clone(&done)));
    }
    let mut kills = 0;
    let mut progress = (0, Instant::now());
    while done.load(Ordering::Relaxed) < additions {
        let life = LIFE_MS + cluster.random.below(LIFE_MS);
        tokio::time::sleep(Duration::from_millis(life)).await;
        let now = done.load(Ordering::Relaxed);
        if now > progress.0 {
            progress = (now, Instant::now());
        } else if progress.1.elapsed() > PATIENCE || clients.len() < (CLIENTS * AT_ONCE) as usize {
            break;
        }
        let leader = cluster.wait_for_leader().await?;
        cluster.nodes[leader].kill();
        kills += 1;
        // The others elect before it is back, or it is back before.
        tokio::time::sleep(Duration::from_millis(cluster.random.below(2_500))).await;
        cluster.mend().await?;
        // Two of three are enough, so the next one is killed when all are there again.
        cluster.settle().await?;
    }
    left.store(0, Ordering::Relaxed);
    let mut told: HashMap<u64, Vec<i64>> = HashMap::new();
    while let Some(ended) = clients.join_next().await {
        for (key, sum) in ended.map_err(|error| error.to_string())?? {
            told.entry(key).or_default().push(sum);
        }
    }
    let client = connect(cluster.addresses()[0], PATIENCE).await.map_err(|error| error.to_string())?;
    for key in 0..KEYS {
        let mut told = told.remove(&key).unwrap_or_default();
        told.sort_unstable();
        let value = client.get(format!("sum/{key}")).await.map_err(|error| error.to_string())?;
        let value = value.map_or(0, |value| i64::from_be_bytes(value.value.as_ref().try_into().unwrap()));
        // Each was told the sum after it, so they were told every number up to the last.
        let exact = told.iter().zip(1..).all(|(told, wanted)| *told == wanted);
        if value != told.len() as i64 || !exact {
            let first = told.iter().zip(1..).find(|(told, wanted)| **told != *wanted);
            let count = told.len();
            return Err(format!(
                "sum/{key} is {value}; {count} additions were acknowledged, told and wanted: {first:?}"
            ));
        }
    }
    cluster.assert_same_rows().await?;
    Ok(kills)
}
