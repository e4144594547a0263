//! A server on one simulated host, and clients on others.

use quantadb::{
    client::{Client, ClientOptions},
    consensus::Storage,
    env::Env,
    log::{Log, LogOptions, Owner},
    node::{Identity, Node, NodeOptions},
    server::{Options, Server},
    storage::{DurableEngine, DurableOptions, Engine, MemoryEngine, MemoryOptions},
    testing::{
        base::SimulatedBase,
        generators::Random,
        sim::{Host, Sim, SimOptions},
    },
    types::{ClusterId, NodeId},
};
use slog::{Discard, Logger, o};
use std::{
    future::pending,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

pub const ADDRESS: &str = "n1:7420";
const PORT: u16 = 7420;
const IDENTITY: Identity = Identity { cluster: ClusterId(*b"simulated cluste"), node: NodeId(1) };

/// Where a replica keeps what it must not lose.
pub enum Store {
    Memory,
    /// The base as the next process finds it; the log lies on the host's disk.
    Durable(Mutex<SimulatedBase>),
}

/// One server, and the simulation around it.
pub struct Rig {
    pub sim: Sim,
    pub host: Host,
    store: Store,
    options: NodeOptions,
    hash_seed: u64,
}

impl Rig {
    pub fn new(seed: u64, store: Store) -> Rig {
        let sim = Sim::with(seed, SimOptions { trace_lines_max: usize::MAX, ..SimOptions::default() });
        let host = sim.host("n1");
        let mut random = Random::new(seed);
        let options = NodeOptions { shares_thread: random.once_in(2), ..NodeOptions::default() };
        Rig { sim, host, store, options, hash_seed: random.bits() }
    }

    pub fn durable(seed: u64) -> Rig {
        Rig::new(seed, Store::Durable(Mutex::new(SimulatedBase::new(seed))))
    }

    /// Starts a process on the host: opens what is there, and serves.
    pub fn boot(&self) {
        self.host.start();
        let base = match &self.store {
            Store::Memory => None,
            Store::Durable(base) => {
                let mut base = base.lock().unwrap();
                *base = base.crash();
                Some(base.clone())
            }
        };
        let (host, env, options, hash_seed) = (self.host.clone(), self.host.env(), self.options, self.hash_seed);
        self.host.spawn("serves", async move {
            let (engine, storage) = open(&env, base, hash_seed);
            let log = Logger::root(Discard, o!());
            let node = Arc::new(Node::start(&env, &log, IDENTITY, engine, storage, options));
            let server = Server::new(&env, &log, Arc::clone(&node), Options::default());
            server.run(host.listen(PORT).unwrap(), pending()).await;
        });
    }

    /// A client on a host of its own.
    pub async fn connect(&self, host: &Host) -> Client {
        connect(host.env()).await
    }
}

fn open(env: &Env, base: Option<SimulatedBase>, hash_seed: u64) -> (Arc<dyn Engine>, Storage) {
    let Some(base) = base else {
        return (Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed })), Storage::Memory);
    };
    // Small, so that there is something to flush and to purge.
    let options = DurableOptions {
        slice_bytes: 4 << 10,
        slice_age_max: Duration::from_secs(2),
        hash_seed,
        ..DurableOptions::default()
    };
    let engine = DurableEngine::over(env, Box::new(base), options);
    let owner = Owner { cluster: IDENTITY.cluster, node: IDENTITY.node };
    let log_options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::new(owner) };
    let (log, writing, _recovered) = Log::open_for(env, Path::new("/data/log"), log_options).unwrap();
    (Arc::new(engine), Storage::Disk(log, writing))
}

/// A client, once the server answers.
pub async fn connect(env: Env) -> Client {
    loop {
        let options = ClientOptions {
            env: env.clone(),
            connector: Arc::new(env.clone()),
            connect_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(3),
            ..ClientOptions::from(ADDRESS)
        };
        match Client::connect(options).await {
            Ok(client) => return client,
            Err(_) => env.sleep(Duration::from_millis(50)).await,
        }
    }
}
