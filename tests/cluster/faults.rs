//! Clients at work while nodes fail, and what must hold of all that they were told.

use super::{
    books::Books,
    lists,
    load::{Worker, load, resolve},
    node::PATIENCE,
    rig::{Cluster, connect},
    snapshots,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Clients at each node.
const CLIENTS: u64 = 2;
/// How long a fault lasts: longer than an election, which takes up to a second.
const HOLD_MS: std::ops::Range<u64> = 1_500..3_500;
/// How long the clients may be at their last transaction when they are told to stop.
const GRACE: Duration = Duration::from_secs(40);

/// What is done to a cluster for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the leader, and a restart.
    KillLeader,
    /// The same to another node.
    KillFollower,
    /// The same to the leader and another node at once, of five.
    KillTwo,
    /// SIGSTOP to the leader for longer than an election takes, then SIGCONT.
    PauseLeader,
    /// The same to another node.
    PauseFollower,
    /// Other nodes and the leader do not hear each other; clients reach all.
    IsolateLeader,
    /// The same with another node.
    IsolateFollower,
    /// Nothing that the leader sends reaches other nodes.
    MuteLeader,
    /// Nothing that other nodes send reaches the leader.
    DeafenLeader,
    /// Two halves that do not hear each other, and one node that hears both.
    Bridge,
    /// The leader's links go away and come back several times a second.
    Flap,
    /// The leader's disk is lost: it joins anew, as another node, and the old one is removed.
    ReplaceLeader,
    /// The same with another node.
    ReplaceFollower,
    /// A node is down until its log is gone elsewhere, and is killed again and again, or who sends it, while a snapshot is under
    /// way to it.
    InterruptSnapshot,
}

impl Fault {
    /// All that can be done without parting the network.
    pub const WITHOUT_NETWORK: &[Fault] = &[
        Fault::KillLeader,
        Fault::PauseLeader,
        Fault::KillFollower,
        Fault::InterruptSnapshot,
        Fault::KillTwo,
        Fault::ReplaceLeader,
        Fault::PauseFollower,
        Fault::ReplaceFollower,
    ];

    pub const ALL: &[Fault] = &[
        Fault::KillLeader,
        Fault::IsolateLeader,
        Fault::PauseLeader,
        Fault::Bridge,
        Fault::KillFollower,
        Fault::MuteLeader,
        Fault::InterruptSnapshot,
        Fault::IsolateFollower,
        Fault::KillTwo,
        Fault::DeafenLeader,
        Fault::ReplaceLeader,
        Fault::Flap,
        Fault::PauseFollower,
        Fault::ReplaceFollower,
    ];

    pub fn parts_network(self) -> bool {
        !Fault::WITHOUT_NETWORK.contains(&self)
    }
}

/// A run of clients and faults.
pub struct Run {
    pub name: &'static str,
    pub nodes: usize,
    pub faults: &'static [Fault],
    /// How many faults there are, one after the other; every one of the list in turn.
    pub rounds: u64,
    /// Transactions that are attempted before each fault.
    pub transactions: u64,
}

impl Run {
    /// Runs it.
    ///
    /// # Panics
    /// If something does not hold. Logs and history stay then.
    pub async fn run(self, seed: u64) {
        let cluster = Cluster::form(self.name, self.nodes, seed).await;
        let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let books = Arc::new(Books::default());
        let begun = Instant::now();
        let worked = self.work(&mut cluster, &books).await;
        let ended = match worked {
            Ok(()) => judge(&cluster, &books).await,
            Err(error) => Err(error),
        };
        if let Err(violation) = ended {
            cluster.evidence.keep_history(&books.recorder.history());
            panic!("{}, seed {seed}: {violation}", self.name);
        }
        println!("  in {:.1?}", begun.elapsed());
        cluster.stop().await.unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", self.name));
    }

    async fn work(&self, cluster: &mut Cluster, books: &Arc<Books>) -> Result<(), String> {
        let client = connect(cluster.addresses()[0], PATIENCE).await.map_err(|error| error.to_string())?;
        load(&client, books).await.map_err(|error| format!("the first rows: {error}"))?;
        // So that everybody has them, however stale a read may be.
        cluster.settle().await?;
        let clients = Clients::start(cluster, books, CLIENTS * self.nodes as u64);
        for round in 0..self.rounds {
            clients.reach(books, (round + 1) * self.transactions).await?;
            let fault = self.faults[round as usize % self.faults.len()];
            let text = inject(cluster, fault).await?;
            cluster.mend().await?;
            let mended = Instant::now();
            cluster.settle().await?;
            let (after, told) = (mended.elapsed(), books.acknowledged());
            println!("  {fault:?}: {text}; settled {after:.1?} after it was mended, {told} commits so far");
        }
        clients.stop().await
    }
}

/// Clients at work.
struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(cluster: &Cluster, books: &Arc<Books>, number: u64) -> Clients {
        let (stop, addresses) = (Arc::new(AtomicBool::new(false)), Arc::new(cluster.addresses()));
        let worker = |number| {
            let worker = Worker::new(number, cluster.seed, books, &addresses);
            tokio::spawn(worker.work(Arc::clone(&stop)))
        };
        let tasks = (0..number).map(worker).collect();
        Clients { stop, tasks }
    }

    /// Waits until so many transactions were attempted.
    async fn reach(&self, books: &Books, transactions: u64) -> Result<(), String> {
        let mut before = (0, Instant::now());
        loop {
            let now = books.recorder.len();
            if now as u64 >= transactions || self.tasks.iter().any(JoinHandle::is_finished) {
                return Ok(());
            }
            if now > before.0 {
                before = (now, Instant::now());
            } else if before.1.elapsed() > PATIENCE {
                return Err(format!("no client did anything within {PATIENCE:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells them to stop, and waits for them.
    async fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Ok(());
        for task in self.tasks {
            match tokio::time::timeout(GRACE, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.is_panic() => {
                    let panic = error.into_panic();
                    let text = panic.downcast_ref::<String>().map_or("a client panicked", String::as_str);
                    seen = Err(text.to_owned());
                }
                Ok(Err(error)) => seen = Err(error.to_string()),
                Err(_) => seen = Err("a client hangs".into()),
            }
        }
        seen
    }
}

/// Does it to the cluster, and waits while it lasts. What was done, in words.
async fn inject(cluster: &mut Cluster, fault: Fault) -> Result<String, String> {
    let nodes = cluster.nodes.len();
    let leader = cluster.wait_for_leader().await?;
    let other = (leader + 1 + cluster.random.index(nodes - 1)) % nodes;
    let hold = Duration::from_millis(HOLD_MS.start + cluster.random.below(HOLD_MS.end - HOLD_MS.start));
    let text = match fault {
        Fault::KillLeader => {
            cluster.nodes[leader].kill();
            format!("node {leader}")
        }
        Fault::KillFollower => {
            cluster.nodes[other].kill();
            format!("node {other}")
        }
        Fault::KillTwo => {
            cluster.nodes[leader].kill();
            cluster.nodes[other].kill();
            format!("nodes {leader} and {other}")
        }
        Fault::PauseLeader => {
            cluster.nodes[leader].pause();
            format!("node {leader}")
        }
        Fault::PauseFollower => {
            cluster.nodes[other].pause();
            format!("node {other}")
        }
        Fault::IsolateLeader => {
            cluster.network.isolate(leader);
            format!("node {leader}")
        }
        Fault::IsolateFollower => {
            cluster.network.isolate(other);
            format!("node {other}")
        }
        Fault::MuteLeader => {
            (0..nodes).filter(|node| *node != leader).for_each(|node| cluster.network.cut(leader, node));
            format!("node {leader}")
        }
        Fault::DeafenLeader => {
            (0..nodes).filter(|node| *node != leader).for_each(|node| cluster.network.cut(node, leader));
            format!("node {leader}")
        }
        Fault::Bridge => {
            // The leader is in the middle half of the time.
            let middle = if cluster.random.once_in(2) { leader } else { other };
            let rest: Vec<_> = (0..nodes).filter(|node| *node != middle).collect();
            let (one, two) = rest.split_at(rest.len() / 2);
            for (left, right) in one.iter().flat_map(|left| two.iter().map(move |right| (left, right))) {
                cluster.network.cut_both(*left, *right);
            }
            format!("{one:?} and {two:?} around node {middle}, node {leader} leads")
        }
        Fault::Flap => {
            let until = Instant::now() + hold;
            let mut times = 0;
            while Instant::now() < until {
                cluster.network.isolate(leader);
                tokio::time::sleep(Duration::from_millis(50 + cluster.random.below(300))).await;
                cluster.network.heal();
                tokio::time::sleep(Duration::from_millis(50 + cluster.random.below(300))).await;
                times += 1;
            }
            return Ok(format!("node {leader}, {times} times"));
        }
        Fault::ReplaceLeader => return replace(cluster, leader).await,
        Fault::ReplaceFollower => return replace(cluster, other).await,
        Fault::InterruptSnapshot => return snapshots::interrupt(cluster, leader, other).await,
    };
    // Real time for the others to go on without it: it paces, and nothing depends on it.
    tokio::time::sleep(hold).await;
    Ok(format!("{text} for {hold:.1?}"))
}

/// Another node takes the place of one whose directory is lost.
async fn replace(cluster: &mut Cluster, node: usize) -> Result<String, String> {
    let old = cluster.status(node).await.ok_or("it does not say who it is")?.node;
    let others = cluster.nodes.iter().filter(|other| other.number != node).map(|other| other.place.peers).collect();
    cluster.nodes[node].kill();
    cluster.nodes[node].forget(others);
    // The old one goes before the new one comes, or after.
    let first = cluster.random.once_in(2);
    if first {
        cluster.remove(old).await?;
    }
    cluster.nodes[node].start().await?;
    if !first {
        cluster.remove(old).await?;
    }
    let new = cluster.status(node).await.ok_or("it does not say who it is")?.node;
    let order = if first { "after" } else { "before" };
    match new == old {
        true => Err(format!("node {node} lost its disk and is {old:?} again")),
        false => Ok(format!("node {node}, which came as {new:?} {order} {old:?} was removed")),
    }
}

/// Judges all that was told, and what is there now.
///
/// # Errors
/// What does not hold.
async fn judge(cluster: &Cluster, books: &Arc<Books>) -> Result<(), String> {
    let at = cluster.addresses()[cluster.seed as usize % cluster.nodes.len()];
    let client = connect(at, PATIENCE).await.map_err(|error| error.to_string())?;
    let (found, fenced) = resolve(&client, books).await?;
    for node in &cluster.nodes {
        super::load::read_everything(node.place.clients, books).await?;
    }
    cluster.settle().await?;
    let rows = cluster.assert_same_rows().await?.len();
    let history = books.recorder.history();
    let begun = Instant::now();
    let summary = history.check().map_err(|violation| violation.to_string())?;
    let own = begun.elapsed();
    let lists = lists::check(&history, &cluster.evidence)?;
    println!("  {summary:?}, {rows} rows, judged in {own:.1?}");
    println!("  {lists:?}, judged by adya in {:.1?}", begun.elapsed() - own);
    let (attempts, acknowledged, refused) = (history.transactions.len(), books.acknowledged(), books.refused());
    println!(
        "  {attempts} attempts, {acknowledged} commits acknowledged, {refused} refused; unknown: {found} found applied, {fenced} not"
    );
    Ok(())
}
