//! A whole replica under the simulator: server, clients, log and disk, with crashes, power cuts and a bad network. The same
//! seed gives the same run, to the last poll.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/rig.rs"]
mod rig;

use quantadb::{
    client::{CallOptions, Client, CommitOutcome, KeyRange, Outcome},
    testing::{generators::Random, sim::Host},
    types::Isolation,
};
use rig::{Rig, Store, connect};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const CLIENTS: usize = 3;
/// How long clients write, in the simulation's time.
const DURATION: Duration = Duration::from_secs(6);
/// The longest pause of a client between its writes.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How many seeds are run; `QUANTADB_SIMULATION_SEEDS` says how many instead, and `QUANTADB_SIMULATION_FIRST` from where.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = number("QUANTADB_SIMULATION_FIRST", 0);
    first..first + number("QUANTADB_SIMULATION_SEEDS", 20)
}

/// What a client knows of its own key, which nobody else writes: numbers that go up.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The highest number whose write was acknowledged.
    acknowledged: u64,
    /// The highest number that it has tried to write.
    tried: u64,
}

impl Known {
    fn allows(self, read: Option<u64>) -> bool {
        (self.acknowledged..=self.tried).contains(&read.unwrap_or(0))
    }
}

/// Writes numbers to a key and reads them again, until it is told to stop.
async fn write_numbers(client: Client, host: Host, key: String, known: Arc<Mutex<Known>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut known = known.lock().unwrap();
            known.tried += 1;
            known.tried
        };
        if write(&client, &host, &key, number).await {
            known.lock().unwrap().acknowledged = number;
        }
        if let Ok(read) = read_number(&client, &key).await {
            let known = *known.lock().unwrap();
            assert!(known.allows(read), "{key}: read {read:?}, known {known:?}");
        }
        let pause = PAUSE_MAX.mul_f64((host.env().random_u64() % 1_000) as f64 / 1_000.0);
        host.env().sleep(pause).await;
    }
}

/// Writes a number; whether it is written. Whoever does not know asks, so that no write comes after a later one.
async fn write(client: &Client, host: &Host, key: &str, number: u64) -> bool {
    let pair = loop {
        match client.new_pair().await {
            Ok(pair) => break pair,
            Err(_) => host.env().sleep(Duration::from_millis(20)).await,
        }
    };
    match client.with(CallOptions::new().idempotency(pair)).put(key, number.to_string()).await {
        Ok(_) => return true,
        Err(error) if error.outcome() != Outcome::Unknown => return false,
        Err(_) => {}
    }
    loop {
        match client.outcome(pair).await {
            Ok(outcome) => return matches!(outcome, CommitOutcome::Committed { .. }),
            Err(_) => host.env().sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn read_number(client: &Client, key: &str) -> Result<Option<u64>, quantadb::client::Error> {
    let value = client.get(key).await?;
    Ok(value.map(|value| std::str::from_utf8(&value.value).unwrap().parse().unwrap()))
}

/// What a run came to.
struct Ran {
    acknowledged: u64,
    hash: u64,
    trace: Vec<String>,
}

/// Clients write while `nemesis` does its work; then everything that was acknowledged must be there.
fn run(rig: &Rig, mut nemesis: impl FnMut(&Rig, &mut Random)) -> Ran {
    let mut random = Random::new(rig.sim.env().random_u64());
    let stop = Arc::new(AtomicBool::new(false));
    let known: Vec<Arc<Mutex<Known>>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    rig.boot();
    let running: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let host = rig.sim.host(&format!("c{client}"));
            let (own, known, stop) = (host.clone(), Arc::clone(&known[client]), Arc::clone(&stop));
            host.spawn("writes", async move {
                let client_handle = connect(own.env()).await;
                write_numbers(client_handle, own, format!("key{client}"), known, stop).await;
            })
        })
        .collect();
    while rig.sim.now() < DURATION {
        rig.sim.run_for(Duration::from_micros(200_000 + random.below(1_500_000)));
        nemesis(rig, &mut random);
    }
    rig.sim.network().heal();
    if !rig.host.is_up() {
        rig.boot();
    }
    stop.store(true, Ordering::Relaxed);
    rig.sim.block_on(async {
        for client in running {
            client.await.unwrap();
        }
        let client = rig.connect(&rig.sim.host("reader")).await;
        for (number, known) in known.iter().enumerate() {
            let read = read_number(&client, &format!("key{number}")).await.unwrap();
            let known = *known.lock().unwrap();
            assert!(known.allows(read), "key{number}: read {read:?}, known {known:?}");
            rig.sim.note(&format!("key{number}: {known:?}"));
        }
    });
    let acknowledged = known.iter().map(|known| known.lock().unwrap().acknowledged).sum();
    Ran { acknowledged, hash: rig.sim.trace_hash(), trace: rig.sim.trace() }
}

/// Runs every seed twice, and compares.
fn twice(run: impl Fn(u64) -> Ran) {
    for seed in seeds() {
        let (first, second) = (run(seed), run(seed));
        println!("seed {seed}: {} acknowledged, {:016x}", first.acknowledged, first.hash);
        assert!(first.acknowledged > 20, "seed {seed}: only {} acknowledged", first.acknowledged);
        for (line, (one, other)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(one, other, "seed {seed} gave two runs, which part at line {line}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed} gave two runs of different length");
        assert_eq!(first.hash, second.hash, "seed {seed} gave two runs that differ between the lines");
    }
}

fn disturb_network(rig: &Rig, random: &mut Random) {
    let network = rig.sim.network();
    let client = format!("c{}", random.index(CLIENTS));
    match random.below(6) {
        0 => network.cut("n1", &client),
        1 => network.cut(&client, "n1"),
        2 => network.partition(&["n1"], &[&client]),
        3 => network.reset(&client, "n1"),
        _ => network.heal(),
    }
}

#[test]
fn a_node_in_memory_serves_clients_over_a_bad_network() {
    twice(|seed| run(&Rig::new(seed, Store::Memory), disturb_network));
}

#[test]
fn what_a_durable_node_acknowledged_is_there_after_crashes_power_cuts_and_a_bad_network() {
    twice(|seed| {
        run(&Rig::durable(seed), |rig, random| {
            if !rig.host.is_up() {
                return rig.boot();
            }
            match random.below(8) {
                0 | 1 => rig.host.crash(),
                2 | 3 => rig.host.cut_power(),
                4 => rig.host.stall(Duration::from_millis(random.below(3_000))),
                5 => rig.host.set_drift(i32::try_from(random.below(200_000)).unwrap() - 100_000),
                6 => rig.host.jump_wall_clock(i64::try_from(random.below(7_200_000)).unwrap() - 3_600_000),
                _ => disturb_network(rig, random),
            }
        })
    });
}
/// A busy wait costs nothing in the simulation's time, and would be seen nowhere else.
#[test]
fn an_idle_node_does_little() {
    for rig in [Rig::new(1, Store::Memory), Rig::durable(1)] {
        rig.boot();
        rig.sim.run_for(Duration::from_secs(1));
        let mut steps = 0;
        rig.sim.run_until(Duration::from_secs(10), || {
            steps += 1;
            false
        });
        assert!(steps < 5_000, "{steps} steps in ten seconds");
    }
}

#[test]
fn transactions_that_expire_together_are_told_in_one_order() {
    let run = || {
        let rig = Rig::new(1, Store::Memory);
        rig.boot();
        let client = rig.sim.host("c0");
        let env = client.env();
        let told = client.spawn("begins and waits", async move {
            let client = connect(env.clone()).await;
            for row in 0..8 {
                client.put(format!("row{row}"), vec![7; 50 << 10]).await.unwrap();
            }
            let mut scans = Vec::new();
            for _ in 0..10 {
                // More than the client takes without reading on: the scan is still open when the transaction ends.
                let mut scan = client.begin(Isolation::Serializable).await.unwrap().scan(KeyRange::all());
                scan.next().await.unwrap().unwrap();
                scans.push(scan);
            }
            env.sleep(Duration::from_secs(70)).await;
        });
        rig.sim.block_on(told).unwrap();
        rig.sim.trace_hash()
    };
    let first = run();
    assert!((0..4).all(|_| run() == first));
}
