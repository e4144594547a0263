//! The listener for peers: who is there, and what their connection is for.
//!
//! Consensus and forwarded requests are passed on; a node that wants to join is given an identity and taken in as a learner.
//! Identities come from the log, so that none is given twice: a counter in the system's keyspace, kept by a transaction.

use super::{
    Shared,
    session::{Control, Session},
};
use crate::{
    consensus::{Addresses, Change, ChangeError},
    env::{Env, Listener, Moment, Socket, Task, accept},
    node::{Batch, Body, Evaluation, EvaluationError, Item, Mailbox, Node, Overgrown, Refusal, Rejection, View, Work},
    peer::{self, Accepted, Connection, Dialer, Local, PeerError, Unwanted},
    txn::{self, Mutation},
    types::{ClusterId, FullKey, KeyspaceId, NodeId, Version},
    wire::{
        ErrorCode, Kind, WireError,
        peer::{Join, Joined, Lane, PeerOpcode},
    },
};
use bytes::Bytes;
use slog::{Logger, debug, info, o, warn};
use std::{collections::HashMap, future::poll_fn, sync::Arc, task::Poll, time::Duration};
use tokio::sync::mpsc;

/// How long accepting pauses after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a peer may take to say who it is.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long whoever joins may be silent.
const JOIN_SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long giving an identity may take.
const IDENTITY_MAX: Duration = Duration::from_secs(5);
/// Most connections of peers at once: a few for each member, and some that come and go.
const CONNECTIONS_MAX: usize = 1_024;
/// The first identity that is given; the node that forms a cluster is 1.
const FIRST_GIVEN: u64 = 2;
/// How long whoever joins waits before it asks again.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// How often a node that is elsewhere than others believe tells them.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// How long one member may take to answer whoever joins.
const JOIN_MAX: Duration = Duration::from_secs(10);

/// Where the next identity stands.
fn next_node_key() -> FullKey {
    KeyspaceId::SYSTEM.full_key(b"M")
}

/// Where the identity stands that is reserved for whoever joins from an address.
fn reserved_key(peer_address: &str) -> FullKey {
    KeyspaceId::SYSTEM.full_key(&[b"m", peer_address.as_bytes()].concat())
}

/// Serves peers until its task is dropped.
pub(super) async fn run(shared: Arc<Shared>, listener: impl Listener, log: Logger) {
    let (ended_sender, mut ended) = mpsc::unbounded_channel::<u64>();
    let mut connections: HashMap<u64, Task> = HashMap::new();
    let mut next = 0;
    loop {
        tokio::select! {
            biased;
            Some(id) = ended.recv() => drop(connections.remove(&id)),
            accepted = accept(&listener) => match accepted {
                Ok((socket, from)) => {
                    if connections.len() >= CONNECTIONS_MAX {
                        warn!(log, "too many peers"; "from" => from, "connections" => connections.len());
                        continue;
                    }
                    next += 1;
                    let serving = Serving { shared: Arc::clone(&shared), log: log.new(o!("from" => from)) };
                    let (id, ended) = (next, ended_sender.clone());
                    let task = shared.env.spawn("peer", async move {
                        serving.run(socket).await;
                        // Nobody listens any more once the listener has ended.
                        let _ = ended.send(id);
                    });
                    connections.insert(id, task);
                }
                Err(error) => {
                    warn!(log, "accepting a peer failed"; "error" => %error);
                    shared.env.sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

struct Serving {
    shared: Arc<Shared>,
    log: Logger,
}

impl Serving {
    async fn run(self, socket: Box<dyn Socket>) {
        let node = &self.shared.node;
        let identity = node.identity();
        let local = Local { cluster: identity.cluster, node: identity.node, level: txn::LEVEL };
        let until = self.shared.env.now() + HANDSHAKE_MAX;
        let Accepted { hello, connection, .. } = match peer::accept(&self.shared.env, socket, local, until).await {
            Ok(accepted) => accepted,
            Err(Unwanted::Io(error)) => return debug!(self.log, "a peer went away"; "error" => %error),
            Err(unwanted) => return warn!(self.log, "a peer was refused"; "reason" => %unwanted),
        };
        debug!(self.log, "peer"; "node" => hello.from.0, "lane" => ?hello.lane);
        let ended = match hello.lane {
            Lane::Consensus | Lane::Snapshot => node.serve_peer(connection, hello.lane).await,
            Lane::Requests => {
                self.requests(connection, hello.from).await;
                Ok(())
            }
            Lane::Join => self.join(connection, hello.cluster, hello.level).await,
        };
        if let Err(error) = ended {
            debug!(self.log, "the connection of a peer ended"; "node" => hello.from.0, "reason" => %error);
        }
    }

    async fn requests(&self, connection: Connection, from: NodeId) {
        let log = self.log.new(o!("node" => from.0));
        let control = Arc::new(Control::default());
        Session::of_peer(connection, Arc::clone(&self.shared), control, log, 0).run().await;
    }

    async fn join(&self, mut connection: Connection, cluster: ClusterId, level: u16) -> Result<(), PeerError> {
        loop {
            let env = &self.shared.env;
            let next = env.until(env.now() + JOIN_SILENCE_MAX, connection.next()).await.ok_or(PeerError::Late)?;
            let Some(frame) = next? else { return Ok(()) };
            let answer = match PeerOpcode::from_number(frame.opcode) {
                Some(PeerOpcode::Join) if frame.kind == Kind::Request => match Join::decode(&frame.payload) {
                    Ok(join) => self.take_in(join, cluster, level).await,
                    Err(error) => Err(WireError::from(error)),
                },
                _ => Err(WireError::new(ErrorCode::UNKNOWN_OPCODE)),
            };
            match answer {
                Ok(joined) => {
                    connection.put(Kind::Response, frame.opcode, frame.request_id, |out| joined.encode(out));
                }
                Err(error) => connection.put(Kind::Error, frame.opcode, frame.request_id, |out| error.encode(out)),
            }
            connection.send().await?;
        }
    }

    async fn take_in(&self, join: Join, cluster: ClusterId, level: u16) -> Result<Joined, WireError> {
        let node = &self.shared.node;
        let identity = node.identity();
        if !node.leads() {
            return Err(self.not_leader());
        }
        if join.node != NodeId(0) && cluster != identity.cluster {
            return Err(WireError::new(ErrorCode::WRONG_CLUSTER));
        }
        if level < node.level() {
            let message = format!("the cluster is at state-machine level {}, and the node knows {level}", node.level());
            return Err(WireError::new(ErrorCode::VERSION_UNSUPPORTED).with_message(message));
        }
        let env = &self.shared.env;
        let until = env.now() + IDENTITY_MAX;
        let is_new = join.node == NodeId(0);
        if !is_new && !node.status().await.members.iter().any(|member| member.node == join.node) {
            let message = "the node is no member, or no longer; with an empty data directory it joins as another";
            return Err(WireError::new(ErrorCode::UNKNOWN_NODE).with_message(message));
        }
        let given = if is_new { give_identity(env, node, &join.peer_address, until).await? } else { join.node };
        let addresses = Addresses { peer: join.peer_address, client: join.client_address };
        info!(self.log, "a node joins"; "node" => given.0, "peer_address" => &addresses.peer);
        let added = env.until(until, node.change(Change::Add { node: given, addresses })).await;
        match added.unwrap_or_else(|| Err(ChangeError::Failed("no majority is heard".into()))) {
            Ok(()) => Ok(Joined { cluster: identity.cluster, node: given }),
            Err(ChangeError::NotLeader) => Err(self.not_leader()),
            Err(error) => Err(WireError::new(ErrorCode::UNAVAILABLE).with_message(error.to_string())),
        }
    }

    fn not_leader(&self) -> WireError {
        let mut error = WireError::new(ErrorCode::NOT_LEADER);
        error.leader = self.shared.node.leader().map(|leader| leader.addresses.peer.into_boxed_str());
        error
    }
}

/// An identity for the node that joins from this address: the one that was reserved for it, or a fresh one.
async fn give_identity(env: &Env, node: &Node, peer_address: &str, until: Moment) -> Result<NodeId, WireError> {
    let reserved = reserved_key(peer_address);
    let evaluation: Evaluation = Box::new(move |view| {
        // Whoever comes from there next is another node, or this one, which has not heard of it: neither gets it again.
        match view.get(&reserved)? {
            Some((_, given)) => {
                view.write(Mutation::Delete { key: &reserved }).map_err(overgrown)?;
                Ok(given)
            }
            None => next_identity(view),
        }
    });
    evaluate(env, node, evaluation, until).await.map(|(_, given)| given)
}

/// Reserves a fresh identity for the node that will join from this address, in place of one reserved for it before.
pub(super) async fn reserve_identity(
    env: &Env,
    node: &Node,
    peer_address: &str,
    until: Moment,
) -> Result<(Version, NodeId), WireError> {
    let reserved = reserved_key(peer_address);
    let evaluation: Evaluation = Box::new(move |view| {
        let given = next_identity(view)?;
        view.write(Mutation::Put { key: &reserved, value: &given }).map_err(overgrown)?;
        Ok(given)
    });
    evaluate(env, node, evaluation, until).await
}

fn overgrown(error: Overgrown) -> Rejection {
    Rejection::new(ErrorCode::INTERNAL.0, error.to_string())
}

/// The next identity, in eight bytes; the counter goes on.
fn next_identity(view: &mut View<'_>) -> Result<Bytes, EvaluationError> {
    let key = next_node_key();
    let found = view.get(&key)?;
    let next = found.and_then(|(_, value)| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?)));
    let given = next.unwrap_or(FIRST_GIVEN);
    view.write(Mutation::Put { key: &key, value: &(given + 1).to_be_bytes() }).map_err(overgrown)?;
    Ok(Bytes::copy_from_slice(&given.to_be_bytes()))
}

/// Has the committer evaluate what gives an identity.
async fn evaluate(
    env: &Env,
    node: &Node,
    evaluation: Evaluation,
    until: Moment,
) -> Result<(Version, NodeId), WireError> {
    let mailbox = Arc::new(Mailbox::default());
    let item = Item { request: 1, deadline: until, keyed: None, work: Work::Evaluate(evaluation) };
    let batch = Batch { mailbox: Arc::clone(&mailbox), block: Bytes::new(), items: vec![item] };
    if node.submit(batch).is_err() {
        return Err(WireError::new(ErrorCode::OVERLOADED));
    }
    let mut answers = Vec::new();
    let answered = poll_fn(|cx| match mailbox.take(&mut answers, cx.waker()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    // The committer gives up at the deadline too, but for what waits for a majority.
    let _ = env.until(until, answered).await;
    let result = answers.pop().map_or(Err(Refusal::Unknown), |completion| completion.result);
    let reply = result.map_err(|refusal| super::errors::of_refusal(refusal, false, false))?;
    let given = match &reply.body {
        Body::Payload(payload) => payload.as_ref().try_into().ok().map(u64::from_be_bytes).map(NodeId),
        _ => None,
    };
    given.map(|given| (reply.version, given)).ok_or_else(|| WireError::new(ErrorCode::INTERNAL))
}

/// Why a node was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It was refused, and asking again would change nothing.
    #[error("{address}: {reason}")]
    Refused {
        /// Who refused.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Asks members, one after the other and again, to take this node in; whoever does not lead names the leader. Completes when
/// that is done. `known` is the identity of a node that has one, which only says where it is now.
pub async fn join(
    env: &Env,
    log: &Logger,
    members: &[String],
    known: Local,
    addresses: &Addresses,
) -> Result<Joined, JoinError> {
    let dialer = Dialer::new(env, known);
    let mut next = 0;
    let mut named: Option<String> = None;
    loop {
        let address = named.take().unwrap_or_else(|| members[next % members.len()].clone());
        next += 1;
        let until = env.now() + JOIN_MAX;
        match ask(&dialer, &address, known.node, addresses, until).await {
            Ok(joined) => return Ok(joined),
            Err(PeerError::Refused(error)) if error.code == ErrorCode::NOT_LEADER => {
                named = error.leader.map(String::from);
            }
            Err(PeerError::TurnedAway {
                code: code @ (ErrorCode::WRONG_CLUSTER | ErrorCode::WRONG_PORT | ErrorCode::VERSION_UNSUPPORTED),
                message,
            }) => return Err(JoinError::Refused { address, reason: format!("{code}: {message}") }),
            Err(PeerError::Refused(error))
                if matches!(
                    error.code,
                    ErrorCode::WRONG_CLUSTER | ErrorCode::VERSION_UNSUPPORTED | ErrorCode::UNKNOWN_NODE
                ) =>
            {
                return Err(JoinError::Refused { address, reason: error.message.into_owned() });
            }
            Err(error) => info!(log, "not taken in yet"; "member" => address, "reason" => %error),
        }
        if named.is_none() {
            env.sleep(JOIN_PAUSE).await;
        }
    }
}

/// Tells the other members where this one is, if they believe something else. Ends once they know.
/// `seeds`: whom to ask where the node does not know the members yet, or all of them have moved.
pub async fn announce(node: Arc<Node>, env: Env, log: Logger, addresses: Addresses, seeds: Vec<String>) {
    let identity = node.identity();
    let local = Local { cluster: identity.cluster, node: identity.node, level: txn::LEVEL };
    loop {
        let status = node.status().await;
        let own = status.members.iter().find(|member| member.node == identity.node);
        if own.is_some_and(|own| own.addresses == addresses) {
            return;
        }
        let others: Vec<String> = status
            .members
            .iter()
            .filter(|member| member.node != identity.node && !member.addresses.peer.is_empty())
            .map(|member| member.addresses.peer.clone())
            .chain(seeds.iter().cloned())
            .collect();
        let change = Change::Add { node: identity.node, addresses: addresses.clone() };
        if own.is_some() && node.leads() {
            // What fails now is tried again.
            let _ = node.change(change).await;
        } else if !others.is_empty() {
            let told = join(&env, &log, &others, local, &addresses);
            let until = env.now() + ANNOUNCE_EVERY;
            if let Some(Err(error)) = env.until(until, told).await {
                return warn!(log, "the other members do not take this node as one of them"; "reason" => %error);
            }
        }
        env.sleep(ANNOUNCE_EVERY).await;
    }
}

/// Asks whoever answers at these addresses whether it is of this node's cluster, until one is. Those that do not answer in
/// time say nothing: the members of a cluster may start in any order.
///
/// # Errors
/// If one is of another cluster.
pub async fn check_cluster(env: &Env, members: &[String], known: Local, until: Moment) -> Result<(), JoinError> {
    let dialer = Dialer::new(env, known);
    for address in members {
        match dialer.dial(NodeId(0), address, Lane::Consensus, until).await {
            Ok(_) => return Ok(()),
            Err(PeerError::TurnedAway { code: code @ ErrorCode::WRONG_CLUSTER, message }) => {
                return Err(JoinError::Refused { address: address.clone(), reason: format!("{code}: {message}") });
            }
            Err(_) => {}
        }
    }
    Ok(())
}

async fn ask(
    dialer: &Dialer,
    address: &str,
    node: NodeId,
    addresses: &Addresses,
    until: Moment,
) -> Result<Joined, PeerError> {
    let exchange = async {
        let (mut connection, _) = dialer.dial(NodeId(0), address, Lane::Join, until).await?;
        let Addresses { peer, client } = addresses.clone();
        let join = Join { node, peer_address: peer, client_address: client };
        connection.put(Kind::Request, PeerOpcode::Join.number(), 1, |out| join.encode(out));
        connection.send().await?;
        let frame = connection.next().await?.ok_or(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))?;
        let protocol = |error: crate::wire::DecodeError| PeerError::Protocol(error.to_string());
        match frame.kind {
            Kind::Response => Joined::decode(&frame.payload).map_err(protocol),
            _ => Err(PeerError::Refused(Box::new(WireError::decode(&frame.payload).map_err(protocol)?))),
        }
    };
    dialer.env().until(until, exchange).await.ok_or(PeerError::Late)?
}
