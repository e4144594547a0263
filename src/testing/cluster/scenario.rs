//! One run: a cluster forms, clients work, faults come by seed, then all is healed and judged.

use super::{
    replica::{CLIENTS, Kind, Replica, Ring},
    watch::Watch,
    work::{Totals, Worker},
};
use crate::{
    consensus::{Change, ChangeError},
    testing::{
        generators::Random,
        history::Recorder,
        sim::{Host, NetworkOptions, Sim, SimOptions},
    },
    types::NodeId,
};
use parking_lot::Mutex;
use slog::{Discard, Logger, o};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often the invariants are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a cluster may take to form, and to come together again once everything is healed.
const CALM_MAX: Duration = Duration::from_secs(90);

/// What a run is made of.
#[derive(Clone)]
pub struct Scenario {
    /// Every choice comes from it.
    pub seed: u64,
    /// How many replicas.
    pub replicas: usize,
    /// How many clients.
    pub clients: usize,
    /// For how long faults come.
    pub faulty: Duration,
    /// Where replicas keep their state.
    pub kind: Kind,
    /// Where replicas log.
    pub log: Logger,
    /// How many of the last events are kept for whoever looks at a failure.
    pub trace_lines_max: usize,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A hash of everything that happened.
    pub trace_hash: u64,
    /// The simulation's time.
    pub simulated: Duration,
    /// Attempts in the history.
    pub attempts: usize,
    /// Those that were committed, or read.
    pub done: u64,
    /// Terms that had a leader.
    pub terms: usize,
    /// Faults.
    pub faults: usize,
    /// Nodes that lost their disk and came back as others.
    pub replaced: usize,
    /// Snapshots that were installed.
    pub snapshots: u64,
}

impl Scenario {
    /// The run of a seed: three or five replicas, four clients, half a minute of faults.
    #[must_use]
    pub fn new(seed: u64) -> Scenario {
        let mut random = Random::new(seed ^ 0x5ce4_a210);
        Scenario {
            seed,
            replicas: if random.once_in(3) { 5 } else { 3 },
            clients: 4,
            faulty: Duration::from_secs(30),
            kind: Kind::Durable,
            log: Logger::root(Discard, o!()),
            trace_lines_max: 60,
        }
    }

    /// Runs it.
    ///
    /// # Panics
    /// With the seed and what does not hold.
    #[must_use]
    pub fn run(&self) -> Report {
        Cluster::new(self).run()
    }
}

/// A simulated cluster under way, for tests that go their own way with it.
pub struct Cluster<'a> {
    scenario: &'a Scenario,
    /// The simulation.
    pub sim: Sim,
    random: Random,
    /// The replicas, up or down.
    pub replicas: Vec<Replica>,
    hosts: Vec<Host>,
    watch: Watch,
    recorder: Recorder,
    totals: Arc<Mutex<Totals>>,
    stop: Arc<AtomicBool>,
    faults: usize,
    /// Hosts whose process may end by itself, for what was done to their disks.
    excused: BTreeSet<usize>,
    /// Identities that lost their disk, to be taken out of the cluster.
    gone: BTreeSet<NodeId>,
    replaced: usize,
}

impl<'a> Cluster<'a> {
    /// Hosts, with nothing on them.
    #[must_use]
    pub fn new(scenario: &'a Scenario) -> Cluster<'a> {
        let mut random = Random::new(scenario.seed);
        let options = SimOptions {
            trace_lines_max: scenario.trace_lines_max,
            lag_once_in: if random.once_in(2) { 500 } else { 0 },
            rare_once_in: if random.once_in(2) { 100 } else { 0 },
            ..SimOptions::default()
        };
        let sim = Sim::with(scenario.seed, options);
        let names: Vec<String> = (1..=scenario.replicas).map(|number| format!("n{number}")).collect();
        let ring =
            Ring { members: names.clone(), kind: scenario.kind, log: scenario.log.clone(), log_keep_bytes: 64 << 10 };
        let replicas = names.iter().map(|name| Replica::new(&sim, name, random.bits(), ring.clone())).collect();
        let hosts = (1..=scenario.clients).map(|number| sim.host(&format!("c{number}"))).collect();
        Cluster {
            scenario,
            sim,
            random,
            replicas,
            hosts,
            watch: Watch::default(),
            recorder: Recorder::new(),
            totals: Arc::default(),
            stop: Arc::default(),
            faults: 0,
            excused: BTreeSet::new(),
            gone: BTreeSet::new(),
            replaced: 0,
        }
    }

    fn run(mut self) -> Report {
        self.form();
        let workers = self.start_work();
        self.misbehave();
        self.heal();
        self.stop.store(true, Ordering::Release);
        self.come_together();
        for worker in workers {
            self.wait("every client ends", |_| worker.is_finished());
        }
        self.judge()
    }

    fn fail(&self, what: &str) -> ! {
        for line in self.sim.trace() {
            eprintln!("{line}");
        }
        panic!("seed {} at {:?}: {what}", self.scenario.seed, self.sim.now());
    }

    /// Runs for so long, and looks meanwhile.
    ///
    /// # Panics
    /// With the seed and what does not hold, here and below.
    pub fn pass(&mut self, duration: Duration) {
        let until = self.sim.now() + duration;
        while self.sim.now() < until {
            self.sim.run_for(LOOK_EVERY.min(until - self.sim.now()));
            if let Err(what) = self.watch.look(&self.replicas) {
                self.fail(&what);
            }
            for (place, replica) in self.replicas.iter().enumerate() {
                if let Some(failure) = replica.failure()
                    && !self.excused.contains(&place)
                {
                    self.fail(&format!("{} stopped by itself: {failure}", replica.host.name()));
                }
            }
        }
    }

    /// Waits for something, and looks meanwhile.
    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let begun = self.sim.now();
        while !holds(self) {
            if self.sim.now() - begun > CALM_MAX {
                let states: Vec<String> = self.replicas.iter().map(describe).collect();
                self.fail(&format!("not within {CALM_MAX:?}: {what}; {}", states.join("; ")));
            }
            self.pass(LOOK_EVERY);
        }
    }

    /// Starts all, as one cluster.
    pub fn form(&mut self) {
        self.replicas[0].boot(true);
        self.wait("one node leads", |run| run.replicas[0].node().is_some_and(|node| node.leads()));
        for replica in &self.replicas[1..] {
            replica.boot(false);
        }
        self.wait("all vote", Cluster::is_whole);
    }

    /// Whether every replica runs, and the leader has them all as voters that are heard.
    fn is_whole(run: &mut Cluster<'a>) -> bool {
        let nodes: Vec<_> = run.replicas.iter().filter_map(Replica::node).collect();
        let Some(leader) = nodes.iter().find(|node| node.leads()) else { return false };
        if nodes.len() < run.replicas.len() {
            return false;
        }
        let status = run.sim.block_on(leader.status());
        if status.members.len() != run.replicas.len() {
            return false;
        }
        let heard = status.members.iter().filter(|member| {
            member.voter
                && member
                    .progress
                    .is_some_and(|progress| progress.heard.is_some_and(|heard| heard < Duration::from_secs(1)))
        });
        heard.count() == run.replicas.len()
    }

    /// Starts clients; they end once [`Cluster::heal`] and what follows it are done.
    fn start_work(&mut self) -> Vec<Finished> {
        let addresses: Vec<String> = self.replicas.iter().map(|replica| replica.host.address(CLIENTS)).collect();
        let mut workers = Vec::new();
        for (place, host) in self.hosts.iter().enumerate() {
            let mut addresses = addresses.clone();
            let length = addresses.len();
            addresses.rotate_left(place % length);
            let (recorder, totals, stop) = (self.recorder.clone(), Arc::clone(&self.totals), Arc::clone(&self.stop));
            let (seed, host_of) = (self.random.bits(), host.clone());
            let finished = Finished::default();
            let done = finished.clone();
            host.spawn("worker", async move {
                let mut worker = Worker::connect(&host_of, place as u64, addresses, recorder, totals, seed).await;
                if place == 0 {
                    worker.load().await;
                }
                worker.run(stop).await;
                done.0.store(true, Ordering::Release);
            });
            workers.push(finished);
        }
        workers
    }

    /// Lets a process end by itself, which is a violation else.
    pub fn excuse(&mut self, place: usize) {
        self.excused.insert(place);
    }

    /// Who leads, by its place.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.node().is_some_and(|node| node.leads()))
    }

    /// How many snapshots have been installed.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.watch.snapshots
    }

    fn misbehave(&mut self) {
        let until = self.sim.now() + self.scenario.faulty;
        while self.sim.now() < until {
            let quiet = Duration::from_millis(100 + self.random.below(2_500));
            self.pass(quiet);
            self.fault();
        }
    }

    fn names(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.host.name()).collect()
    }

    /// One fault, or the end of some.
    fn fault(&mut self) {
        self.faults += 1;
        let place = self.random.index(self.replicas.len());
        let count = self.replicas.len();
        // The leader is the more interesting victim.
        let leader = self.leader();
        let place = if self.random.once_in(2) { leader.unwrap_or(place) } else { place };
        match self.random.below(20) {
            0..3 => self.kill(place, false),
            3 | 4 => self.kill(place, true),
            5 => {
                self.replicas[place].host.pause();
                let long = Duration::from_millis(200 + self.random.below(3_000));
                self.pass(long);
                self.replicas[place].host.resume();
            }
            6 => {
                let stall = Duration::from_millis(50 + self.random.below(1_500));
                self.replicas[place].host.stall(stall);
            }
            7..10 => self.partition(place),
            10 => self.flap(place),
            11 => self.sim.network().heal(),
            12 => {
                let jump = i64::try_from(self.random.below(7_200_000)).expect("it is small") - 3_600_000;
                self.replicas[place].host.jump_wall_clock(jump);
            }
            13 => {
                let drift = i32::try_from(self.random.below(20_000)).expect("it is small") - 10_000;
                self.replicas[place].host.set_drift(drift);
            }
            14 => self.restart(place),
            15 => self.fill(place),
            16 => self.flip(place),
            17 => self.replace(place),
            18 => self.transfer(place),
            _ => {
                let other = self.random.index(count);
                let (one, other) = (self.replicas[place].host.name(), self.replicas[other].host.name());
                if one != other {
                    self.sim.network().reset(&one, &other);
                }
            }
        }
        self.revive();
    }

    fn kill(&mut self, place: usize, power: bool) {
        self.sim.note(&format!("fault: {} dies, power {power}", self.replicas[place].host.name()));
        self.replicas[place].crash(power);
        let long = Duration::from_millis(self.random.below(3_000));
        self.pass(long);
    }

    /// What is down comes up again, mostly.
    fn revive(&mut self) {
        for place in 0..self.replicas.len() {
            if !self.replicas[place].host.is_up() && !self.random.once_in(4) {
                self.replicas[place].boot(false);
            }
        }
    }

    fn restart(&mut self, place: usize) {
        if self.replicas[place].node().is_none() {
            return;
        }
        self.sim.note(&format!("fault: {} restarts", self.replicas[place].host.name()));
        self.replicas[place].stop();
        self.wait("it stops as it was asked to", |run| run.replicas[place].has_ended());
        self.replicas[place].crash(false);
        self.replicas[place].boot(false);
    }

    /// Its disk is full for a while: it may serve on, refuse, or end.
    fn fill(&mut self, place: usize) {
        self.sim.note(&format!("fault: the disk of {} is full", self.replicas[place].host.name()));
        self.excused.insert(place);
        self.replicas[place].host.files().set_capacity(Some(1));
        let long = Duration::from_millis(500 + self.random.below(2_000));
        self.pass(long);
        self.replicas[place].host.files().set_capacity(None);
        if self.replicas[place].failure().is_some() {
            self.replicas[place].crash(false);
            self.replicas[place].boot(false);
        }
        self.excused.remove(&place);
    }

    /// A bit of its log is flipped while it is down: it starts as if nothing were, or refuses to, and is replaced then.
    fn flip(&mut self, place: usize) {
        if !self.may_lose_one() {
            return;
        }
        self.replicas[place].crash(true);
        let files = self.replicas[place].host.files();
        let logs: Vec<_> = files.paths().into_iter().filter(|path| path.starts_with("/data/log")).collect();
        if !logs.is_empty() {
            let path = &logs[self.random.index(logs.len())];
            let length = files.contents(path).map_or(0, |contents| contents.len());
            if length > 0 {
                let (offset, bit) = (self.random.index(length) as u64, self.random.index(8) as u8);
                self.sim.note(&format!(
                    "fault: {}: bit {bit} of byte {offset} of {}",
                    self.replicas[place].host.name(),
                    path.display()
                ));
                files.flip(path, offset, bit);
            }
        }
        self.excused.insert(place);
        self.replicas[place].boot(false);
        self.pass(Duration::from_millis(500));
        if self.replicas[place].failure().is_some() {
            self.replace(place);
        }
        self.excused.remove(&place);
    }

    /// Whether a majority keeps what was acknowledged if one more disk is lost.
    fn may_lose_one(&self) -> bool {
        self.gone.len() < (self.replicas.len() - 1) / 2 && self.scenario.kind == Kind::Durable
    }

    /// It loses its disk, and joins as another node; the old one is taken out when everything is healed, if not before. Only
    /// while a majority has kept what was acknowledged.
    fn replace(&mut self, place: usize) {
        if !self.may_lose_one() {
            return;
        }
        let Some(identity) = self.replicas[place].identity() else { return };
        self.sim.note(&format!("fault: {} loses its disk", self.replicas[place].host.name()));
        self.replicas[place].lose_disk();
        self.gone.insert(identity);
        self.replaced += 1;
        self.replicas[place].boot(false);
    }

    /// Takes out of the cluster who has lost its disk, where a leader can be asked. Whether one could.
    fn take_out(&mut self) -> bool {
        let nodes: Vec<_> = self.replicas.iter().filter_map(Replica::node).collect();
        let Some(leader) = nodes.into_iter().find(|node| node.leads()) else { return false };
        for node in self.gone.clone() {
            let change = leader.change(Change::Remove(node));
            let env = self.sim.env();
            let until = env.now() + Duration::from_secs(2);
            match self.sim.block_on(env.until(until, change)) {
                Some(Ok(()) | Err(ChangeError::UnknownNode)) => drop(self.gone.remove(&node)),
                _ => return false,
            }
        }
        true
    }

    fn transfer(&mut self, place: usize) {
        let nodes: Vec<_> = self.replicas.iter().filter_map(Replica::node).collect();
        let Some(leader) = nodes.iter().find(|node| node.leads()) else { return };
        let Some(heir) = self.replicas[place].identity() else { return };
        self.sim.note(&format!("fault: node {} is to lead", heir.0));
        let (env, change) = (self.sim.env(), leader.change(Change::Transfer(Some(heir))));
        let until = env.now() + Duration::from_secs(4);
        // Where it fails, somebody leads all the same.
        let _ = self.sim.block_on(env.until(until, change));
    }

    fn partition(&mut self, place: usize) {
        let names = self.names();
        let victim = names[place].clone();
        let others: Vec<&str> = names.iter().filter(|name| **name != victim).map(String::as_str).collect();
        let network = self.sim.network();
        match self.random.below(4) {
            0 => network.partition(&[&victim], &others),
            1 => others.iter().for_each(|other| network.cut(&victim, other)),
            2 => others.iter().for_each(|other| network.cut(other, &victim)),
            // Both halves see the victim.
            _ => {
                let (left, right) = others.split_at(others.len() / 2);
                network.partition(left, right);
            }
        }
        let long = Duration::from_millis(300 + self.random.below(4_000));
        self.pass(long);
        if !self.random.once_in(4) {
            self.sim.network().heal();
        }
    }

    fn flap(&mut self, place: usize) {
        let names = self.names();
        let victim = names[place].clone();
        let others: Vec<&str> = names.iter().filter(|name| **name != victim).map(String::as_str).collect();
        for _ in 0..6 {
            self.sim.network().partition(&[&victim], &others);
            let long = Duration::from_millis(self.random.below(300));
            self.pass(long);
            self.sim.network().heal();
            let long = Duration::from_millis(self.random.below(300));
            self.pass(long);
        }
    }

    fn heal(&mut self) {
        self.sim.note("everything is healed");
        self.sim.network().heal();
        self.sim.network().set_options(NetworkOptions::default());
        for place in 0..self.replicas.len() {
            self.replicas[place].host.resume();
            self.replicas[place].host.set_drift(0);
            if !self.replicas[place].host.is_up() {
                self.replicas[place].boot(false);
            }
        }
    }

    /// Waits until all have the same state.
    pub fn come_together(&mut self) {
        self.wait("who lost its disk is replaced", |run| run.take_out());
        self.wait("all vote and are heard", Cluster::is_whole);
        self.wait("all have applied the same", |run| {
            let applied: Vec<_> =
                run.replicas.iter().filter_map(|replica| Some(replica.node()?.engine().applied())).collect();
            applied.len() == run.replicas.len() && applied.windows(2).all(|pair| pair[0] == pair[1])
        });
    }

    fn judge(self) -> Report {
        let totals = Arc::clone(&self.totals);
        let addresses: Vec<String> = self.replicas.iter().map(|replica| replica.host.address(CLIENTS)).collect();
        // Every node serves, each through a client of its own.
        for (place, address) in addresses.iter().enumerate() {
            let host = &self.hosts[place % self.hosts.len()];
            let (recorder, totals) = (Recorder::new(), Arc::clone(&totals));
            let connected = Worker::connect(host, 100, vec![address.clone()], recorder, totals, 1);
            let worker = self.sim.block_on(connected);
            let sum = match self.sim.block_on(worker.sum()) {
                Ok(sum) => sum,
                Err(error) => self.fail(&format!("{address} does not serve: {error}")),
            };
            let totals = totals_of(&self.totals);
            if sum < totals.0 || sum > totals.0 + totals.1 {
                self.fail(&format!("the sum is {sum}, adds that are known: {}, unknown: {}", totals.0, totals.1));
            }
        }
        let history = self.recorder.take();
        let attempts = history.transactions.len();
        if let Err(violation) = history.check() {
            self.fail(&violation.to_string());
        }
        let done = self.totals.lock().done;
        Report {
            trace_hash: self.sim.trace_hash(),
            simulated: self.sim.now(),
            attempts,
            done,
            terms: self.watch.terms(),
            faults: self.faults,
            replaced: self.replaced,
            snapshots: self.watch.snapshots,
        }
    }
}

fn totals_of(totals: &Mutex<Totals>) -> (u64, u64) {
    let totals = totals.lock();
    (totals.added, totals.unsettled)
}

/// Whether a worker has ended.
#[derive(Clone, Default)]
struct Finished(Arc<AtomicBool>);

impl Finished {
    fn is_finished(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

fn describe(replica: &Replica) -> String {
    let name = replica.host.name();
    match replica.node() {
        None => format!("{name}: no node"),
        Some(node) => {
            let applied = node.engine().applied();
            let log_id = applied.log_id.map_or_else(|| "nothing".into(), |log_id| log_id.to_string());
            format!(
                "{name}: node {} leads {} applied {log_id} version {}",
                node.identity().node.0,
                node.leads(),
                applied.version
            )
        }
    }
}
