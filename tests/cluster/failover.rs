//! How long it takes until a write is acknowledged again after the leader was killed.

use super::rig::{Cluster, connect, connect_to_any};
use quantadb::client::{CallOptions, Client, Error};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long one write may take before its client sends another.
const DEADLINE: Duration = Duration::from_millis(500);
/// Between two writes of one client, acknowledged or not.
const PACE: Duration = Duration::from_millis(10);
/// How long nobody may lead before the test gives up.
const GIVE_UP: Duration = Duration::from_secs(30);
/// The bound, where there are enough kills to speak of a percentile.
const P99_MAX: Duration = Duration::from_secs(3);
const ENOUGH: u64 = 100;

/// A client that writes all the time, and the last of its writes that was acknowledged: when it was begun, and when it was
/// acknowledged.
struct Trickle {
    last: Arc<Mutex<(Instant, Instant)>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Trickle {
    /// Of one node, each write being sent once.
    fn of_node(number: usize, address: SocketAddr) -> Trickle {
        let once = CallOptions::new().once();
        Trickle::start(number, once, move || connect(address, DEADLINE))
    }

    /// Of whichever node answers, the client library doing what it can.
    fn of_any(number: usize, addresses: Vec<SocketAddr>) -> Trickle {
        Trickle::start(number, CallOptions::new(), move || {
            let addresses = addresses.clone();
            async move { connect_to_any(&addresses, 0, GIVE_UP).await }
        })
    }

    fn start<F>(number: usize, options: CallOptions, dial: impl Fn() -> F + Send + 'static) -> Trickle
    where
        F: Future<Output = Result<Client, Error>> + Send,
    {
        let now = Instant::now();
        let (last, stop) = (Arc::new(Mutex::new((now, now))), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::clone(&last), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut client: Option<Client> = None;
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(PACE).await;
                let Some(connected) = &client else {
                    client = dial().await.ok();
                    continue;
                };
                let begun = Instant::now();
                match connected.with(options).put(format!("trickle/{number}"), "x").await {
                    Ok(_) => *told.lock().unwrap_or_else(PoisonError::into_inner) = (begun, Instant::now()),
                    // Whatever it is, it is a matter of time.
                    Err(_) => client = None,
                }
            }
        });
        Trickle { last, stop, task }
    }

    /// When a write that was begun after this moment was acknowledged.
    fn acknowledged_after(&self, moment: Instant) -> Option<Instant> {
        let (begun, told) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (begun > moment).then_some(told)
    }
}

/// The time that this part of them do not exceed. Of an ordered list.
fn percentile(times: &[Duration], part: f64) -> Duration {
    let rank = (times.len() as f64 * part).ceil() as usize;
    times[rank.saturating_sub(1)]
}

/// Kills the leader of three again and again, prints how long the others took, and holds them to it if there are enough.
///
/// # Panics
/// If it takes too long.
pub async fn run(kills: u64, seed: u64) {
    let mut cluster = Cluster::form("failover", 3, seed).await.unwrap_or_else(|error| panic!("{error}"));
    let mut trickles: Vec<_> =
        cluster.nodes.iter().map(|node| Trickle::of_node(node.number, node.place.clients)).collect();
    trickles.push(Trickle::of_any(3, cluster.addresses()));
    let (mut first, mut every, mut library) = (Vec::new(), Vec::new(), Vec::new());
    for kill in 0..kills {
        let leader = cluster.wait_for_leader().await.unwrap_or_else(|error| panic!("{error}"));
        // Not always at the same moment of a heartbeat.
        tokio::time::sleep(Duration::from_millis(cluster.random.below(300))).await;
        cluster.nodes[leader].kill();
        let killed = Instant::now();
        // The clients of the nodes that live, and last the one that goes where it will.
        let others: Vec<_> = (0..4).filter(|node| *node != leader).collect();
        let told = loop {
            let told: Vec<_> = others.iter().filter_map(|node| trickles[*node].acknowledged_after(killed)).collect();
            if told.len() == others.len() {
                break told;
            }
            let tails = || cluster.tails();
            assert!(killed.elapsed() < GIVE_UP, "kill {kill}, seed {seed}: no write within {GIVE_UP:?}\n{}", tails());
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let times: Vec<_> = told.into_iter().map(|moment| moment - killed).collect();
        first.extend(times[..2].iter().min());
        every.extend(times[..2].iter().max());
        library.push(times[2]);
        let mended = cluster.mend().await;
        mended.unwrap_or_else(|error| panic!("kill {kill}, seed {seed}: {error}"));
        cluster.settle().await.unwrap_or_else(|error| panic!("kill {kill}, seed {seed}: {error}"));
    }
    for trickle in trickles {
        trickle.stop.store(true, Ordering::Relaxed);
        trickle.task.await.expect("a client that writes does not panic");
    }
    let clients = ["the first client", "the client of every node that lives", "a client of all nodes"];
    for (what, times) in clients.into_iter().zip([&mut first, &mut every, &mut library]) {
        times.sort();
        let (p50, p99) = (percentile(times, 0.50), percentile(times, 0.99));
        let max = times.last().copied().unwrap_or_default();
        println!(
            "  {kills} times the leader was killed: a write of {what} was acknowledged again after p50 {p50:.2?}, p99 {p99:.2?}, max {max:.2?}"
        );
        assert!(kills < ENOUGH || p99 <= P99_MAX, "seed {seed}: p99 is {p99:?}, more than {P99_MAX:?}");
    }
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}
