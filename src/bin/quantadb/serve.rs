//! `quantadb serve`: builds the floors from the bottom up, waits, and takes them down from the top.
//!
//! Shutdown on SIGTERM or SIGINT: the server takes no further requests and answers what it accepted, then the node stops,
//! then the pages go. A second signal ends the process at once. A node that fails ends it with the reason.

use crate::{
    Exit,
    admin::{self, Pages},
    configuration::{Address, Configuration},
    libraries,
    logging::Logging,
    random_cluster,
};
use quantadb::{
    consensus::Storage,
    env::{Env, Task, TaskError},
    node::{Directory, Identity, Node, Place, Recovered, recover},
    peer::Local,
    server::{Server, announce, check_cluster, join},
    storage::MemoryEngine,
    txn::LEVEL,
    types::{ClusterId, LogId, NodeId},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slog::{Logger, crit, info, o, warn};
use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Descriptors that a connection does not need: files, pages, what libraries hold.
const DESCRIPTORS_BESIDES: u64 = 256;
/// How often a server that takes its time to start says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often a starting server looks whether it leads.
const LEADS_POLL: Duration = Duration::from_millis(1);
/// How long a node that is not alone waits for a leader before it serves without one.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a node that is a member already waits to hear whether those that it is to join are of its cluster.
const HOME_MAX: Duration = Duration::from_millis(500);
/// Who forms a cluster; identities of others come from its log.
const FOUNDER: NodeId = NodeId(1);
/// How long threads of the runtime may take to end once nothing is left to answer.
const RUNTIME_END_MAX: Duration = Duration::from_secs(1);

/// Serves until told to stop.
pub fn run(configuration: Configuration) -> Exit {
    let logging = Logging::start(&configuration);
    libraries::listen(&logging.log, configuration.log_level);
    log_panics(&logging.log);
    raise_descriptors(&logging.log, configuration.sessions.connections_max.0);
    let workers = configuration.workers.size();
    let mut runtime = match configuration.one_thread() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match runtime.worker_threads(workers).thread_name("quantadb-worker").enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&logging.log, &format!("{workers} worker threads: {error}")),
    };
    let exit = match runtime.block_on(serve(&configuration, &logging)) {
        Ok(exit) => exit,
        Err(reason) => cannot_start(&logging.log, &reason),
    };
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    exit
}

fn cannot_start(log: &Logger, reason: &str) -> Exit {
    crit!(log, "cannot start"; "reason" => reason);
    Exit::CannotStart
}

async fn serve(configuration: &Configuration, logging: &Logging) -> Result<Exit, String> {
    let log = &logging.log;
    let listener = bind("--listen", configuration.listen).await?;
    let admin_listener = match configuration.admin_listen.address() {
        Some(address) => Some(bind("--admin-listen", address).await?),
        None => None,
    };
    let peer_listener = match configuration.peer_listen.address() {
        Some(address) => Some(bind("--peer-listen", address).await?),
        None => None,
    };
    let addresses = Addresses::of(&listener, peer_listener.as_ref(), admin_listener.as_ref())?;
    if configuration.insecure {
        warn!(log, "serving without TLS and authentication, as --insecure allows"; "listen" => %addresses.clients);
    }

    let env = Env::real();
    let Replica { node, last, data, _directory } = Replica::open(&env, configuration, log, &addresses).await?;
    // Until here a signal ends the process as it would any: nothing was accepted yet.
    let mut signals = Signals::new()?;
    let identity = node.identity();
    let server = Arc::new(Server::new(&env, log, Arc::clone(&node), configuration.server()));

    let pages = Arc::new(Pages {
        node: Arc::clone(&node),
        server: Arc::clone(server.metrics()),
        lines_dropped: logging.dropped(),
        level: logging.level.clone(),
        stopping: AtomicBool::new(false),
        log: log.new(o!("part" => "admin")),
    });
    // On a thread of its own: a worker that waits for a disk does not make the process look dead.
    let admin_listener = admin_listener.map(TcpListener::into_std).transpose();
    let admin_listener = admin_listener.map_err(|error| format!("--admin-listen: {error}"))?;
    let admin = admin_listener.map(|listener| env.spawn_on_thread("admin", admin::serve(listener, Arc::clone(&pages))));

    // Peers before clients: a node that is not alone needs others to be ready.
    let _peers = peer_listener.map(|listener| env.spawn("peers", server.run_peers(listener)));
    let telling =
        announce(Arc::clone(&node), env.clone(), log.clone(), addresses.of_member(), configuration.join.clone());
    let leveled = Arc::clone(&node);
    let _levelling = env.spawn("level", async move { leveled.keep_level().await });
    let _announcing = addresses.peers.map(|_| env.spawn("announce", telling));
    tokio::select! {
        ready = ready(&env, log, &node, last) => ready?,
        name = signals.next() => {
            info!(log, "stopped before it was ready"; "signal" => name);
            node.stop().await;
            return Ok(Exit::Done);
        }
    }
    let (stop_serving, told) = oneshot::channel();
    let clients = env.spawn("server", async move {
        let told = async {
            // A dropped sender says the same.
            let _ = told.await;
        };
        server.run(listener, told).await;
    });
    info!(log, "ready"; "listen" => %addresses.clients, "peer_listen" => text(addresses.peers),
        "admin_listen" => text(addresses.admin), "node" => identity.node.0,
        "workers" => configuration.workers.0, "cluster" => %identity.cluster, "data" => &data);
    addresses.announce(&data);

    let exit = tokio::select! {
        name = signals.next() => {
            info!(log, "stopping: what was accepted will be answered"; "signal" => name);
            Exit::Done
        }
        failed = node.failed() => {
            crit!(log, "the node failed"; "reason" => %failed);
            Exit::Failed
        }
    };
    pages.stopping.store(true, Ordering::Release);
    let exit = tokio::select! {
        ended = stop(stop_serving, clients, &node) => match ended {
            Ok(()) => exit,
            Err(error) => {
                crit!(log, "the server did not end as it should"; "error" => %error);
                Exit::Failed
            }
        },
        name = signals.next() => {
            warn!(log, "stopped at once: what was under way is not answered"; "signal" => name);
            // Why it stops counts more than how fast.
            if exit == Exit::Done { Exit::Interrupted } else { exit }
        }
    };
    drop(admin);
    info!(log, "stopped");
    // It may have failed while it was being stopped.
    Ok(if exit == Exit::Done && node.failure().is_some() { Exit::Failed } else { exit })
}

/// The replica that is served, and what must live as long as it does.
struct Replica {
    node: Arc<Node>,
    /// The last entry of its log when it was opened.
    last: Option<LogId>,
    /// Where its data lie, for people.
    data: String,
    _directory: Option<Directory>,
}

impl Replica {
    /// In memory or from its directory, as configured; as a member of the cluster that it is to join.
    async fn open(
        env: &Env,
        configuration: &Configuration,
        log: &Logger,
        addresses: &Addresses,
    ) -> Result<Replica, String> {
        let new = Identity { cluster: random_cluster(env), node: FOUNDER };
        if configuration.memory {
            // Nothing of a database in memory outlives its process, so each run is another cluster, or another node.
            let identity =
                if configuration.join.is_empty() { new } else { taken_in(env, log, configuration, addresses).await? };
            let place = addresses.place(identity);
            let engine = Arc::new(MemoryEngine::new(configuration.engine(env.random_u64())));
            let node = Node::start_member(env, log, identity, engine, Storage::Memory, place, configuration.node());
            return Ok(Replica { node: Arc::new(node), last: None, data: "memory".into(), _directory: None });
        }
        let path = &configuration.data_dir;
        let found = Directory::identity_of(env, path).map_err(|error| error.to_string())?;
        let identity = match found {
            Some(identity) => {
                check_home(env, configuration, identity).await?;
                identity
            }
            None if configuration.join.is_empty() => new,
            None => taken_in(env, log, configuration, addresses).await?,
        };
        let directory = Directory::open(env, path, identity).map_err(|error| error.to_string())?;
        if directory.is_new() {
            info!(log, "made a data directory"; "directory" => %path.display(), "cluster" => %identity.cluster,
                "node" => identity.node.0);
        }
        let options = configuration.storage(env.random_u64());
        let Recovered { engine, storage, last } =
            recover(env, log, &directory, options).map_err(|error| error.to_string())?;
        let place = addresses.place(identity);
        let node = Node::start_member(env, log, identity, engine, storage, place, configuration.node());
        let data = path.display().to_string();
        Ok(Replica { node: Arc::new(node), last, data, _directory: Some(directory) })
    }
}

/// A directory of another cluster than the one to be joined would be served all by itself, as if it had joined.
async fn check_home(env: &Env, configuration: &Configuration, identity: Identity) -> Result<(), String> {
    let known = Local { cluster: identity.cluster, node: identity.node, level: LEVEL };
    let until = env.now() + HOME_MAX;
    let checked = check_cluster(env, &configuration.join, known, until).await;
    checked.map_err(|error| {
        let path = configuration.data_dir.display();
        format!(
            "--join {error}; {path} is of cluster {}: a node that is to join begins with an empty directory",
            identity.cluster
        )
    })
}

/// Asks the cluster for an identity.
async fn taken_in(
    env: &Env,
    log: &Logger,
    configuration: &Configuration,
    addresses: &Addresses,
) -> Result<Identity, String> {
    info!(log, "joining"; "members" => configuration.join.join(","));
    let nobody = Local { cluster: ClusterId::default(), node: NodeId(0), level: LEVEL };
    let joined = join(env, log, &configuration.join, nobody, &addresses.of_member()).await;
    let joined = joined.map_err(|error| format!("--join {error}"))?;
    info!(log, "taken in"; "cluster" => %joined.cluster, "node" => joined.node.0);
    Ok(Identity { cluster: joined.cluster, node: joined.node })
}

/// Completes once the node can serve. Alone it leads as soon as it has applied its log; among others it serves once it has
/// heard a leader and is as fresh as that, or has waited for it long enough: then what needs a leader is refused until there
/// is one. Says now and then how far it is.
async fn ready(env: &Env, log: &Logger, node: &Node, last: Option<LogId>) -> Result<(), String> {
    let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
    let serves = async {
        let begun = env.now();
        let mut told = begun;
        loop {
            if node.metrics().leading.load(Ordering::Acquire) {
                return;
            }
            let until = env.now() + PROGRESS_EVERY;
            if node.leader().is_some() && node.confirm_read(until).await.is_ok() {
                return;
            }
            let among_others = env.now() - begun >= LEADER_WAIT_MAX && node.status().await.members.len() > 1;
            if among_others {
                warn!(log, "no leader is heard yet; what needs one is refused until then");
                return;
            }
            env.sleep(LEADS_POLL).await;
            if env.now() - told >= PROGRESS_EVERY {
                told = env.now();
                let applied = node.engine().applied();
                info!(log, "applying what the log holds"; "index" => index(applied.log_id), "of" => index(last),
                    "version" => applied.version.0);
            }
        }
    };
    tokio::select! {
        () = serves => Ok(()),
        failed = node.failed() => Err(failed.to_string()),
    }
}

/// Answers what was accepted, then ends the node.
async fn stop(stop_serving: oneshot::Sender<()>, clients: Task, node: &Node) -> Result<(), TaskError> {
    drop(stop_serving);
    let ended = clients.await;
    node.stop().await;
    ended
}

/// Both signals that ask a server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be heard: {error}"));
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Where this server is.
struct Addresses {
    clients: SocketAddr,
    peers: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

fn text(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "none".into(), |address| address.to_string())
}

impl Addresses {
    fn of(
        clients: &TcpListener,
        peers: Option<&TcpListener>,
        admin: Option<&TcpListener>,
    ) -> Result<Addresses, String> {
        let of =
            |listener: &TcpListener| listener.local_addr().map_err(|error| format!("an address is unknown: {error}"));
        Ok(Addresses { clients: of(clients)?, peers: peers.map(of).transpose()?, admin: admin.map(of).transpose()? })
    }

    /// As the other members are told.
    fn of_member(&self) -> quantadb::consensus::Addresses {
        let peer = self.peers.map(|address| address.to_string()).unwrap_or_default();
        quantadb::consensus::Addresses { peer, client: self.clients.to_string() }
    }

    fn place(&self, identity: Identity) -> Place {
        Place { addresses: self.of_member(), joins: identity.node != FOUNDER }
    }

    /// The one line on stdout. Whoever started the server may have closed it.
    fn announce(&self, data: &str) {
        let version = env!("CARGO_PKG_VERSION");
        let (peers, admin) = (text(self.peers), text(self.admin));
        let line =
            format!("quantadb {version} ready: listen={} peers={peers} admin={admin} data={data}\n", self.clients);
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    }
}

async fn bind(flag: &str, address: Address) -> Result<TcpListener, String> {
    TcpListener::bind(address.0).await.map_err(|error| {
        let check = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there; `ss -ltnp` shows which, and port 0 takes any free one"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address; `ip address` shows those that it has",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
            _ => "check the address",
        };
        format!("{flag} {}: {error}; {check}", address.0)
    })
}

/// Raises the limit of open descriptors towards what the connections allowed can need.
fn raise_descriptors(log: &Logger, connections_max: u64) {
    let wanted = connections_max.saturating_add(DESCRIPTORS_BESIDES);
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else { return };
    let raised = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if raised > current
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum })
    {
        warn!(log, "the limit of open descriptors cannot be raised"; "error" => %error, "limit" => current);
    } else if raised < wanted {
        warn!(log, "fewer descriptors than connections allowed"; "limit" => raised, "wanted" => wanted);
    }
}

/// A panic is a defect: it goes to the log with its place, besides what the standard hook prints.
fn log_panics(log: &Logger) {
    let (log, standard) = (log.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        crit!(log, "panic"; "text" => panic.payload_as_str().unwrap_or("no text"), "place" => place);
        standard(panic);
    }));
}
