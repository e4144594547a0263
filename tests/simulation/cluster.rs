//! Clusters in a simulation: any seed keeps what must hold, and the same seed does the same again.
//!
//! `QUANTADB_SIM_SEED=7` runs one seed and prints the last of what happens in it, `QUANTADB_SIM_LINES=9999` more of it;
//! `QUANTADB_SIM_SEEDS=100..200` runs many.

use quantadb::{
    client::{Client, ClientOptions},
    consensus::{Addresses, Change},
    peer::Local,
    server::join,
    storage::Applied,
    testing::{
        cluster::{Cluster, Report, Scenario},
        sim::Host,
    },
    txn,
    types::{ClusterId, NodeId},
};
use slog::{Discard, Logger, o};
use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

/// Seeds of a short run, and where they begin.
const SEEDS: u64 = 3;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = env::var("QUANTADB_SIM_SEEDS") else { return 1..1 + SEEDS };
    let (first, last) = text.split_once("..").expect("seeds are FIRST..END");
    first.parse().expect("a number")..last.parse().expect("a number")
}

fn run(scenario: &Scenario) -> Report {
    let begun = Instant::now();
    let report = scenario.run();
    let took = begun.elapsed();
    eprintln!("seed {}: {report:?} in {took:?}", scenario.seed);
    report
}

#[test]
fn whatever_happens_to_a_cluster_it_keeps_its_promises() {
    if let Ok(seed) = env::var("QUANTADB_SIM_SEED") {
        let mut scenario = Scenario::new(seed.parse().expect("a number"));
        scenario.trace_lines_max = env::var("QUANTADB_SIM_LINES").map_or(400, |lines| lines.parse().expect("a number"));
        if env::var("QUANTADB_SIM_LOG").is_ok() {
            scenario.log = Logger::root(Lines, o!());
        }
        run(&scenario);
        return;
    }
    let (mut simulated, mut attempts, mut count) = (Duration::ZERO, 0, 0);
    let begun = Instant::now();
    for seed in seeds() {
        let report = run(&Scenario::new(seed));
        simulated += report.simulated;
        attempts += report.attempts;
        count += 1;
    }
    eprintln!("{count} seeds, {attempts} attempts, {simulated:?} simulated in {:?}", begun.elapsed());
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in seeds().take(20) {
        let scenario = Scenario { faulty: Duration::from_secs(8), ..Scenario::new(seed) };
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
}

fn three(seed: u64) -> Scenario {
    Scenario { replicas: 3, ..Scenario::new(seed) }
}

async fn client_of(host: Host, address: String) -> Client {
    let env = host.env();
    let options = ClientOptions { env: env.clone(), connector: Arc::new(env), ..ClientOptions::new(vec![address]) };
    Client::connect(options).await.expect("a node serves")
}

/// Writes so many values of a kibibyte.
fn fill(cluster: &Cluster<'_>, rows: usize) {
    let leader = cluster.leader().expect("somebody leads");
    let host = cluster.sim.host("c1");
    let address = cluster.replicas[leader].host.address(7420);
    let done = cluster.sim.host("c1").spawn("fills", async move {
        let client = client_of(host, address).await;
        for row in 0..rows {
            client.put(format!("row/{row}"), [7; 1024]).await.expect("a leader that is let alone commits");
        }
    });
    cluster.sim.block_on(done).expect("it ends");
}

#[test]
fn who_has_come_to_another_state_than_the_majority_stops() {
    for leads in [false, true] {
        let scenario = three(11);
        let mut cluster = Cluster::new(&scenario);
        cluster.form();
        let leader = cluster.leader().expect("somebody leads");
        let place = if leads { leader } else { (leader + 1) % 3 };
        cluster.excuse(place);
        // What a flipped bit in memory does: one replica goes on from another state.
        let engine = Arc::clone(cluster.replicas[place].node().expect("it runs").engine());
        let before = engine.applied();
        engine.apply(&[], Applied { chain: before.chain ^ 1, ..before }).expect("it can be written");
        let (host, address) = (cluster.sim.host("c1"), cluster.replicas[(place + 1) % 3].host.address(7420));
        cluster.sim.host("c1").spawn("writes", async move {
            let client = client_of(host, address).await;
            for row in 0..20 {
                // The one who stops may be the one who decides.
                let _ = client.put(format!("row/{row}"), "value").await;
            }
        });
        cluster.sim.run_for(Duration::from_secs(6));
        let failure = cluster.replicas[place].failure().expect("it has stopped");
        assert!(failure.contains("state"), "{failure}");
        let others = (0..3).filter(|other| *other != place);
        for other in others {
            assert!(cluster.replicas[other].node().is_some(), "{other} goes on");
        }
    }
}

#[test]
fn a_member_that_was_cut_off_disturbs_nobody_when_it_comes_back() {
    // Without a pre-vote it would come back with a higher term, and the leader would have to go.
    let scenario = three(31);
    let mut cluster = Cluster::new(&scenario);
    cluster.form();
    let leader = cluster.leader().expect("somebody leads");
    let term = |cluster: &Cluster<'_>| {
        let node = cluster.replicas[leader].node().expect("it runs");
        cluster.sim.block_on(node.status()).term
    };
    let before = term(&cluster);
    let names: Vec<String> = cluster.replicas.iter().map(|replica| replica.host.name()).collect();
    let victim = names[(leader + 1) % 3].as_str();
    let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != victim).collect();
    cluster.sim.network().partition(&[victim], &others);
    cluster.pass(Duration::from_secs(10));
    cluster.sim.network().heal();
    cluster.come_together();
    assert_eq!((term(&cluster), cluster.leader()), (before, Some(leader)));
}

#[test]
fn who_never_heard_its_identity_is_no_member_for_ever() {
    let scenario = three(41);
    let mut cluster = Cluster::new(&scenario);
    cluster.form();
    let leads = cluster.leader().expect("somebody leads");
    let place = (leads + 1) % 3;
    let leader = cluster.replicas[leads].node().expect("it runs");
    let change = |cluster: &Cluster<'_>, change| cluster.sim.block_on(leader.change(change)).expect("it is made");
    let old = cluster.replicas[place].identity().expect("it runs");
    cluster.replicas[place].lose_disk();
    change(&cluster, Change::Remove(old));
    // A join whose answer is lost.
    let host = &cluster.replicas[place].host;
    let addresses = Addresses { peer: host.address(7421), client: host.address(7420) };
    let nobody = Local { cluster: ClusterId::default(), node: NodeId(0), level: txn::LEVEL };
    let (members, log) = ([cluster.replicas[leads].host.address(7421)], Logger::root(Discard, o!()));
    let env = cluster.sim.host("c1").env();
    let joined = cluster.sim.block_on(join(&env, &log, &members, nobody, &addresses)).expect("it is taken in");
    // Nobody has come after this one to where it is.
    let slow = NodeId(joined.node.0 + 90);
    change(&cluster, Change::Add { node: slow, addresses });
    cluster.replicas[place].boot(false);
    cluster.wait("the one that joined anew votes, and the lost one is gone", |cluster| {
        let members = cluster.sim.block_on(leader.status()).members;
        let voters = members.iter().filter(|member| member.voter).count();
        let learners: Vec<NodeId> = members.iter().filter(|member| !member.voter).map(|member| member.node).collect();
        voters == 3 && learners == [slow]
    });
    cluster.pass(Duration::from_secs(3));
    assert_eq!(cluster.sim.block_on(leader.status()).members.len(), 4);
}

#[test]
fn a_member_that_lags_too_far_gets_a_snapshot_though_it_dies_in_the_midst_of_it() {
    for seed in 20..23 {
        let scenario = three(seed);
        let mut cluster = Cluster::new(&scenario);
        cluster.form();
        let leader = cluster.leader().expect("somebody leads");
        let place = (leader + 1) % 3;
        cluster.replicas[place].crash(false);
        // Several times what is kept for it.
        fill(&cluster, 600);
        cluster.pass(Duration::from_secs(8));
        let node = cluster.replicas[leader].node().expect("it leads");
        let purged = node.log().and_then(|log| log.purged()).map_or(0, |purged| purged.index);
        assert!(purged > 100, "the log does not wait for ever: {purged}");
        for _ in 0..3 {
            cluster.replicas[place].boot(false);
            cluster.pass(Duration::from_millis(20 + seed * 3));
            cluster.replicas[place].crash(true);
        }
        cluster.replicas[place].boot(false);
        cluster.come_together();
        assert!(cluster.snapshots() > 0, "seed {seed}");
    }
}

/// Log lines of replicas, on standard error.
struct Lines;

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;
    fn log(&self, record: &slog::Record<'_>, values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        struct Text(String);
        impl slog::Serializer for Text {
            fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                self.0 += &format!(" {key}={value}");
                Ok(())
            }
        }
        let mut text = Text(String::new());
        // Nothing here fails.
        let _ = slog::KV::serialize(&record.kv(), record, &mut text);
        let _ = slog::KV::serialize(values, record, &mut text);
        eprintln!("{} {}{}", record.level().as_short_str(), record.msg(), text.0);
        Ok(())
    }
}
