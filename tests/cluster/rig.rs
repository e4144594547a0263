//! A cluster of real processes: formed, asked who leads, waited for.

use super::{
    evidence::Evidence,
    network::Network,
    node::{Node, PATIENCE},
};
use quantadb::{
    client::{CallOptions, Client, ClientOptions, Connector, Error, KeyRange, Row, Status},
    env::{BoxFuture, Env, Socket},
    testing::generators::Random,
    types::{NodeId, Term, Version},
    wire::{ErrorCode, Role},
};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, MutexGuard};

/// How long a question may take that is asked while waiting.
const ASK: Duration = Duration::from_secs(1);
/// How often somebody who waits for the cluster looks.
const POLL: Duration = Duration::from_millis(20);

/// Clusters run one at a time: elections are a matter of time, and cores are few.
static TURN: Mutex<()> = Mutex::const_new(());

/// See the module.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub network: Network,
    pub evidence: Evidence,
    pub seed: u64,
    pub random: Random,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Forms a cluster of so many voters. `name` is part of where its files lie.
    ///
    /// # Errors
    /// If it does not come about.
    pub async fn form(name: &str, nodes: usize, seed: u64) -> Result<Cluster, String> {
        let turn = TURN.lock().await;
        // One place more, for who comes later.
        let (network, evidence) = (Network::new(nodes + 1), Evidence::new(name));
        let founder = network.place(0).peers;
        let node = |number: usize| {
            let join = if number == 0 { Vec::new() } else { vec![founder] };
            Node::new(number, network.place(number), evidence.path(), join)
        };
        let nodes = (0..nodes).map(node).collect();
        let mut cluster = Cluster { nodes, network, evidence, seed, random: Random::new(seed), _turn: turn };
        cluster.nodes[0].start().await?;
        cluster.mend().await?;
        cluster.settle().await?;
        Ok(cluster)
    }

    /// Where clients reach every node.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.place.clients).collect()
    }

    /// Whom somebody can ask.
    pub fn awake(&self) -> Vec<usize> {
        self.nodes.iter().filter(|node| node.is_awake()).map(|node| node.number).collect()
    }

    /// What a node says of itself; `None` if it does not answer.
    pub async fn status(&self, node: usize) -> Option<Status> {
        let client = connect(self.nodes[node].place.clients, ASK).await.ok()?;
        client.status().await.ok()
    }

    /// Who leads, as those say who can be asked: of several the one of the newest term.
    pub async fn leader(&self) -> Option<(usize, Term)> {
        let mut best: Option<(usize, Term)> = None;
        for number in self.awake() {
            if let Some(status) = self.status(number).await
                && status.role == Role::Leader
                && best.is_none_or(|(_, term)| term < status.term)
            {
                best = Some((number, status.term));
            }
        }
        best
    }

    /// Waits until somebody leads.
    ///
    /// # Errors
    /// If nobody does in time.
    pub async fn wait_for_leader(&self) -> Result<usize, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some((leader, _)) = self.leader().await {
                return Ok(leader);
            }
            self.in_time(until, "nobody leads")?;
            tokio::time::sleep(POLL).await;
        }
    }

    fn in_time(&self, until: Instant, what: &str) -> Result<(), String> {
        match Instant::now() < until {
            true => Ok(()),
            false => Err(format!("after {PATIENCE:?} {what}\n{}", self.tails())),
        }
    }

    /// The last lines of every log.
    pub fn tails(&self) -> String {
        let tail = |node: &Node| format!("node {}:\n{}", node.number, node.tail());
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }

    /// Waits until every node that runs votes, one leads, and all have applied what is acknowledged.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn settle(&self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.unsettled().await {
                None => return Ok(()),
                Some(what) => self.in_time(until, &what)?,
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What is not yet as it should be.
    async fn unsettled(&self) -> Option<String> {
        let Some((leader, term)) = self.leader().await else { return Some("nobody leads".into()) };
        let version = async { connect(self.nodes[leader].place.clients, ASK).await?.read_version().await };
        let Ok(version) = version.await else { return Some(format!("node {leader} leads, but confirms no read")) };
        for number in self.awake() {
            let Some(status) = self.status(number).await else { return Some(format!("node {number} is silent")) };
            let role = if number == leader { Role::Leader } else { Role::Follower };
            if status.role != role || status.term != term {
                return Some(format!("node {number} is {:?} of term {}", status.role, status.term.0));
            }
            if status.version < version {
                return Some(format!("node {number} has applied {}, not yet {version}", status.version));
            }
        }
        let members = async { connect(self.nodes[leader].place.clients, ASK).await?.cluster().status().await };
        match members.await {
            Ok(status) if status.members.len() != self.nodes.len() => {
                Some(format!("there are {} members: {:?}", status.members.len(), status.members))
            }
            Ok(_) => None,
            Err(error) => Some(format!("node {leader} leads, but says nothing of its members: {error:?}")),
        }
    }

    /// Takes a member out, whoever is asked and however often.
    ///
    /// # Errors
    /// If it is still there after a while.
    pub async fn remove(&self, member: NodeId) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let addresses: Vec<_> = self.awake().into_iter().map(|node| self.nodes[node].place.clients).collect();
            let removed = async { connect_to_any(&addresses, 0, ASK).await?.cluster().remove(member).await };
            match removed.await {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some(ErrorCode::UNKNOWN_NODE) => return Ok(()),
                Err(error) => self.in_time(until, &format!("node {member:?} is not removed: {error:?}"))?,
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Restarts what is down, lets go on what is paused, and heals the network.
    ///
    /// # Errors
    /// If a node does not start.
    pub async fn mend(&mut self) -> Result<(), String> {
        self.network.heal();
        for node in &mut self.nodes {
            if node.is_running() && !node.is_awake() {
                node.resume();
            }
        }
        // All at once: each may need others to be ready.
        let mut starting = Vec::new();
        for node in &mut self.nodes {
            if !node.is_running() {
                starting.push((node.number, node.spawn()));
            }
        }
        for (number, starting) in starting {
            self.nodes[number].ready(starting).await?;
        }
        Ok(())
    }

    /// Every node has the same rows, versions included; nobody may be writing.
    ///
    /// # Errors
    /// Who differs.
    pub async fn assert_same_rows(&self) -> Result<Vec<Row>, String> {
        let mut rows: Option<Vec<Row>> = None;
        for node in &self.nodes {
            let client = connect(node.place.clients, PATIENCE).await.map_err(|error| error.to_string())?;
            let own = read_all(&client, CallOptions::new()).await;
            let own = own.map_err(|error| format!("reading node {}: {error:?}", node.number))?.1;
            match &rows {
                None => rows = Some(own),
                Some(first) if *first == own => {}
                Some(first) => {
                    let differing = first.iter().zip(&own).find(|(one, other)| one != other);
                    return Err(format!(
                        "node {} has {} rows and node 0 has {}; the first that differ: {differing:?}",
                        node.number,
                        own.len(),
                        first.len()
                    ));
                }
            }
        }
        Ok(rows.unwrap_or_default())
    }

    /// Stops every node and verifies what they leave, and keeps nothing of it.
    ///
    /// # Errors
    /// If one does not stop as it should, or is damaged.
    pub async fn stop(mut self) -> Result<(), String> {
        for node in &mut self.nodes {
            node.stop().await?;
        }
        self.nodes.iter().try_for_each(Node::check)?;
        self.evidence.discard();
        Ok(())
    }
}

/// Opens sockets to one address alone, whatever servers say of others.
struct Only {
    address: String,
    env: Env,
}

impl Connector for Only {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        match address == self.address {
            true => self.env.connect(address),
            false => Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }),
        }
    }
}

/// Connects to one node, to which everything is sent, with a deadline for every call.
///
/// # Errors
/// If it does not answer.
pub async fn connect(address: SocketAddr, deadline: Duration) -> Result<Client, Error> {
    let connector = Arc::new(Only { address: address.to_string(), env: Env::real() });
    let options = ClientOptions::from(address);
    Client::connect(ClientOptions { deadline, connect_timeout: ASK, connector, ..options }).await
}

/// Connects to whichever node answers, `first` being the first that is asked, and goes where the client library will.
///
/// # Errors
/// If none answers.
pub async fn connect_to_any(addresses: &[SocketAddr], first: usize, deadline: Duration) -> Result<Client, Error> {
    let mut addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    addresses.rotate_left(first);
    let options = ClientOptions::from(addresses);
    Client::connect(ClientOptions { deadline, connect_timeout: ASK, ..options }).await
}

/// All rows, and the version that they were read at.
///
/// # Errors
/// The server's.
pub async fn read_all(client: &Client, options: CallOptions) -> Result<(Version, Vec<Row>), Error> {
    read(client, options, KeyRange::all()).await
}

/// The rows of a range, and the version that they were read at.
///
/// # Errors
/// The server's.
pub async fn read(client: &Client, options: CallOptions, range: KeyRange) -> Result<(Version, Vec<Row>), Error> {
    let mut scan = client.with(options).scan(range);
    let mut rows = Vec::new();
    while let Some(row) = scan.next().await {
        rows.push(row?);
    }
    let summary = scan.summary().expect("a scan that ended says how");
    assert_eq!(summary.first_version, summary.version, "a scan reads at one version");
    Ok((summary.version, rows))
}
