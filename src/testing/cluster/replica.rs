//! One node of a simulated cluster: what a process of the server does, on a simulated host.

use crate::{
    consensus::{Addresses, Storage},
    env::Env,
    node::{Directory, HistoryOptions, Identity, Node, NodeOptions, Place, Recovered, StorageOptions, recover_over},
    peer::Local,
    server::{Options, Server, announce, join},
    storage::{DurableEngine, DurableOptions, Engine, MemoryEngine, MemoryOptions},
    testing::{
        base::SimulatedBase,
        sim::{Host, Sim},
    },
    txn,
    types::{ClusterId, NodeId},
};
use parking_lot::Mutex;
use slog::Logger;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Where clients connect on every host.
pub const CLIENTS: u16 = 7420;
/// Where peers connect on every host.
pub const PEERS: u16 = 7421;
const FOUNDER: NodeId = NodeId(1);

/// Where a replica keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On its disk.
    Durable,
    /// In memory: a process that starts again is another node.
    Memory,
}

/// What all replicas of a cluster know.
#[derive(Clone)]
pub struct Ring {
    /// Names of the hosts that a node which joins asks.
    pub members: Vec<String>,
    /// Where they keep their state.
    pub kind: Kind,
    /// Where they log.
    pub log: Logger,
    /// Bytes of log that are kept for members who lag.
    pub log_keep_bytes: u64,
}

/// The process that runs on the host now.
#[derive(Default)]
struct Process {
    node: Option<Arc<Node>>,
    /// Why it ended by itself, if it has.
    failure: Option<String>,
    /// Whether it has ended as it was asked to.
    ended: bool,
}

/// A host, and the replica on it through all its lives.
pub struct Replica {
    /// Where it runs.
    pub host: Host,
    ring: Ring,
    base: Mutex<SimulatedBase>,
    process: Arc<Mutex<Process>>,
    stop: Mutex<Arc<Notify>>,
    seed: u64,
}

impl Replica {
    /// A host of that name, with nothing on it.
    #[must_use]
    pub fn new(sim: &Sim, name: &str, seed: u64, ring: Ring) -> Replica {
        Replica {
            host: sim.host(name),
            ring,
            base: Mutex::new(SimulatedBase::new(seed)),
            process: Arc::default(),
            stop: Mutex::default(),
            seed,
        }
    }

    /// The node, while a process runs that has come so far.
    #[must_use]
    pub fn node(&self) -> Option<Arc<Node>> {
        self.process.lock().node.clone()
    }

    /// Who it is, as its disk says, or as it was told.
    #[must_use]
    pub fn identity(&self) -> Option<NodeId> {
        if let Some(node) = self.node() {
            return Some(node.identity().node);
        }
        let found = Directory::identity_of(&self.host.env(), Path::new("/data")).ok().flatten();
        found.map(|identity| identity.node)
    }

    /// Why the process ended by itself, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.process.lock().failure.clone()
    }

    /// Whether the process has ended, as it was asked to or by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let process = self.process.lock();
        process.ended || process.failure.is_some()
    }

    /// Starts a process, which forms the cluster if `founds` and there is nothing on the disk, and else joins it.
    pub fn boot(&self, founds: bool) {
        self.host.start();
        *self.process.lock() = Process::default();
        *self.stop.lock() = Arc::default();
        let base = {
            let mut base = self.base.lock();
            *base = base.crash();
            base.clone()
        };
        let running = Booting {
            host: self.host.clone(),
            env: self.host.env(),
            ring: self.ring.clone(),
            process: Arc::clone(&self.process),
            stop: Arc::clone(&self.stop.lock()),
            base,
            founds,
            seed: self.seed,
        };
        self.host.spawn("replica", async move {
            let process = Arc::clone(&running.process);
            let ended = running.run().await;
            let mut process = process.lock();
            process.node = None;
            match ended {
                Ok(()) => process.ended = true,
                Err(reason) => process.failure = Some(reason),
            }
        });
    }

    /// Asks the process to end as an operator does.
    pub fn stop(&self) {
        self.stop.lock().notify_one();
    }

    /// Kills the process; with `power` the machine loses power.
    pub fn crash(&self, power: bool) {
        // What the process holds goes with it, not with whoever looks later.
        self.process.lock().node = None;
        if power { self.host.cut_power() } else { self.host.crash() }
    }

    /// The disk is lost too: the next process is another node.
    pub fn lose_disk(&self) {
        self.crash(true);
        self.host.files().wipe();
        *self.base.lock() = SimulatedBase::new(self.seed ^ 1);
    }
}

/// What a process begins with.
struct Booting {
    host: Host,
    env: Env,
    ring: Ring,
    process: Arc<Mutex<Process>>,
    stop: Arc<Notify>,
    base: SimulatedBase,
    founds: bool,
    seed: u64,
}

impl Booting {
    fn addresses(&self) -> Addresses {
        Addresses { peer: self.host.address(PEERS), client: self.host.address(CLIENTS) }
    }

    /// Where the others' peer listeners are.
    fn seeds(&self) -> Vec<String> {
        let own = self.host.name();
        let others = self.ring.members.iter().filter(|name| **name != own);
        others.map(|name| format!("{name}:{PEERS}")).collect()
    }

    async fn identity(&self) -> Result<Identity, String> {
        if self.founds {
            let mut cluster = [0; 16];
            self.env.random(&mut cluster);
            return Ok(Identity { cluster: ClusterId(cluster), node: FOUNDER });
        }
        let nobody = Local { cluster: ClusterId::default(), node: NodeId(0), level: txn::LEVEL };
        let joined = join(&self.env, &self.ring.log, &self.seeds(), nobody, &self.addresses()).await;
        let joined = joined.map_err(|error| error.to_string())?;
        Ok(Identity { cluster: joined.cluster, node: joined.node })
    }

    async fn open(&self) -> Result<(Identity, Arc<dyn Engine>, Storage, Option<Directory>), String> {
        if self.ring.kind == Kind::Memory {
            let engine = MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed: self.seed });
            return Ok((self.identity().await?, Arc::new(engine), Storage::Memory, None));
        }
        let path = Path::new("/data");
        let found = Directory::identity_of(&self.env, path).map_err(|error| error.to_string())?;
        let identity = match found {
            Some(identity) => identity,
            None => self.identity().await?,
        };
        let directory = Directory::open(&self.env, path, identity).map_err(|error| error.to_string())?;
        // Small, so that there is something to flush, to purge and to send.
        let options = StorageOptions {
            engine: DurableOptions {
                slice_bytes: 8 << 10,
                slice_age_max: Duration::from_secs(2),
                hash_seed: self.seed,
                ..DurableOptions::default()
            },
            log_segment_bytes: Some(64 << 10),
            log_cache_bytes_max: Some(16 << 10),
        };
        let engine = DurableEngine::over(&self.env, Box::new(self.base.clone()), options.engine);
        let recovered = recover_over(&self.env, &self.ring.log, &directory, options, engine);
        let Recovered { engine, storage, .. } = recovered.map_err(|error| error.to_string())?;
        Ok((identity, engine, storage, Some(directory)))
    }

    async fn run(self) -> Result<(), String> {
        let log = self.ring.log.new(slog::o!("host" => self.host.name()));
        let clients = self.host.listen(CLIENTS).map_err(|error| error.to_string())?;
        let peers = self.host.listen(PEERS).map_err(|error| error.to_string())?;
        let (identity, engine, storage, _directory) = self.open().await?;
        let options = NodeOptions {
            shares_thread: true,
            log_keep_bytes: self.ring.log_keep_bytes,
            history: HistoryOptions { keep: Duration::from_secs(5), bytes_max: 1 << 20 },
            ..NodeOptions::default()
        };
        let place = Place { addresses: self.addresses(), joins: identity.node != FOUNDER };
        let node = Arc::new(Node::start_member(&self.env, &log, identity, engine, storage, place, options));
        self.process.lock().node = Some(Arc::clone(&node));
        let server = Server::new(&self.env, &log, Arc::clone(&node), Options::default());
        let peers = self.env.spawn("peers", server.run_peers(peers));
        let telling = announce(Arc::clone(&node), self.env.clone(), log.clone(), self.addresses(), self.seeds());
        let announcing = self.env.spawn("announce", telling);
        let leveled = Arc::clone(&node);
        let levelling = self.env.spawn("level", async move { leveled.keep_level().await });
        let failed = tokio::select! {
            biased;
            failed = node.failed() => Some(failed),
            () = server.run(clients, self.stop.notified()) => None,
        };
        node.stop().await;
        drop((peers, announcing, levelling));
        match failed.or_else(|| node.failure()) {
            Some(failed) => Err(failed.to_string()),
            None => Ok(()),
        }
    }
}
