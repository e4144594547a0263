//! Every node is restarted in turn by SIGTERM, while clients work: no call fails.

use super::{
    node::QUANTADB,
    rig::{Cluster, connect_to_any},
};
use quantadb::client::{Client, Error, Isolation};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const CLIENTS: usize = 6;
/// How long a call may take: the client library tries again within it.
const DEADLINE: Duration = Duration::from_secs(10);
/// Work before each stop.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Told {
    calls: AtomicU64,
    /// The longest call, in microseconds.
    longest_us: AtomicU64,
}

/// One turn of a client: an addition and a put under pairs, a transaction that runs again when it must, and a read.
async fn turn(client: &Client, number: usize, turn: u64, told: &Told) -> Result<(), (&'static str, Error)> {
    let keyed = || async {
        let pair = client.new_pair().await?;
        Ok::<_, Error>(client.with(quantadb::client::CallOptions::new().idempotency(pair)))
    };
    let timed = |what: &'static str, begun: Instant, ended: Result<(), Error>| {
        told.calls.fetch_add(1, Ordering::Relaxed);
        told.longest_us.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        ended.map_err(|error| (what, error))
    };
    let begun = Instant::now();
    timed("add", begun, async { keyed().await?.add("sum", 1).await.map(drop) }.await)?;
    let begun = Instant::now();
    let put = async { keyed().await?.put(format!("row/{number}"), turn.to_string()).await.map(drop) };
    timed("put", begun, put.await)?;
    let begun = Instant::now();
    let key = format!("turns/{number}");
    let transact = client.transact(|transaction| {
        let key = key.clone();
        async move {
            let before = transaction.get(&key).await?.map_or(0, |row| row.value.len());
            transaction.put(&key, "|".repeat((before + 1) % 1_000)).await
        }
    });
    timed("transact", begun, transact.await.map(drop))?;
    let begun = Instant::now();
    timed("get", begun, client.get(format!("row/{number}")).await.map(drop))?;
    let begun = Instant::now();
    let reading = async {
        let transaction = client.begin(Isolation::Serializable).await?;
        transaction.get("sum").await?;
        transaction.commit().await
    };
    // A transaction that the caller drives dies with its connection, and says that it may be run again.
    match reading.await {
        Err(error) if error.outcome() != quantadb::client::Outcome::Unknown => {
            timed("begin", begun, if error.retry() == quantadb::client::Retry::Never { Err(error) } else { Ok(()) })
        }
        other => timed("begin", begun, other.map(drop)),
    }
}

/// Restarts every node, so many times over.
///
/// # Panics
/// If a call fails.
pub async fn run(rounds: u64, seed: u64) {
    let cluster = Cluster::form("rolling", 3, seed).await;
    let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let ended = restart_all(&mut cluster, rounds, None).await;
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", cluster.tails()));
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

/// Restarts every node as another build, which speaks one more version and knows one more level, while clients work.
///
/// # Panics
/// If a call fails, or the level is not raised once all know it, or is before; or if a node that does not know it is taken in.
pub async fn upgrade(program: &str, seed: u64) {
    let cluster = Cluster::form("upgrade", 3, seed).await;
    let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let ended = async {
        restart_all(&mut cluster, 1, Some(program)).await?;
        replace_by_old_build(&mut cluster).await
    };
    let ended = ended.await;
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", cluster.tails()));
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

const RAISED: &str = "every member knows a higher state-machine level";
/// How long raising the level may take.
const RAISE_MAX: Duration = Duration::from_secs(15);

/// Waits until a leader has said that the level was raised; then entries of the new level are applied by all.
async fn raised(cluster: &Cluster) -> Result<(), String> {
    let begun = Instant::now();
    while !cluster.nodes.iter().any(|node| node.log().contains(RAISED)) {
        if begun.elapsed() > RAISE_MAX {
            return Err("the level was not raised".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A new node of the old build, which does not know the level, is not taken in and says why; one of the new build is.
async fn replace_by_old_build(cluster: &mut Cluster) -> Result<(), String> {
    let old = cluster.status(2).await.ok_or("it does not say who it is")?.node;
    let others = cluster.nodes[..2].iter().map(|node| node.place.peers).collect();
    let node = &mut cluster.nodes[2];
    node.stop().await?;
    node.forget(others);
    let program = std::mem::replace(&mut node.program, QUANTADB.to_owned());
    cluster.remove(old).await?;
    let node = &mut cluster.nodes[2];
    node.spawn();
    let status = node.ended().await?;
    if status.success() || !node.log().contains("the cluster is at state-machine level") {
        return Err(format!("the old build ended with {status}, and its log with\n{}", node.tail()));
    }
    node.program = program;
    node.start().await?;
    cluster.settle().await
}

async fn restart_all(cluster: &mut Cluster, rounds: u64, program: Option<&str>) -> Result<(), String> {
    let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Told::default()));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = connect_to_any(&cluster.addresses(), number % 3, DEADLINE).await;
        let client = client.map_err(|error| error.to_string())?;
        let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
        clients.spawn(async move {
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                turns += 1;
                let ended = turn(&client, number, turns, &told).await;
                ended.map_err(|(what, error)| format!("{what} of client {number}: {error:?}"))?;
            }
            Ok::<_, String>(turns)
        });
    }
    for _ in 0..rounds {
        for number in 0..3 {
            tokio::time::sleep(PAUSE).await;
            if clients.try_join_next().is_some() {
                break;
            }
            let (led, begun) = (cluster.leader().await.is_some_and(|(leader, _)| leader == number), Instant::now());
            cluster.nodes[number].stop().await?;
            let stopped = begun.elapsed();
            if let Some(program) = program {
                if cluster.nodes.iter().any(|node| node.log().contains(RAISED)) {
                    return Err("the level was raised before all knew it".into());
                }
                cluster.nodes[number].program = program.to_owned();
            }
            cluster.nodes[number].start().await?;
            cluster.settle().await?;
            let longest = Duration::from_micros(told.longest_us.swap(0, Ordering::Relaxed));
            let leader = if led { ", which led," } else { "" };
            println!(
                "  node {number}{leader} stopped in {stopped:.1?}; the longest call until it was back: {longest:.1?}"
            );
        }
    }
    if program.is_some() {
        raised(cluster).await?;
        tokio::time::sleep(PAUSE).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut turns = 0;
    while let Some(ended) = clients.join_next().await {
        turns += ended.map_err(|error| error.to_string())??;
    }
    println!("  {} calls, none failed", told.calls.load(Ordering::Relaxed));
    let client = connect_to_any(&cluster.addresses(), 0, DEADLINE).await.map_err(|error| error.to_string())?;
    let sum = client.get("sum").await.map_err(|error| error.to_string())?.ok_or("nothing was added")?;
    let sum = u64::from_be_bytes(sum.value.as_ref().try_into().map_err(|_| "the sum is no number")?);
    if sum != turns {
        return Err(format!("{turns} additions were acknowledged, and the sum is {sum}"));
    }
    cluster.assert_same_rows().await?;
    Ok(())
}
