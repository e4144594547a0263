//! Who comes to a node and does not belong there: clients at the peers' port, peers at the clients', nodes of other clusters,
//! people with browsers, noise. Each is told so where there are words for it, the log says it, and the node goes on.

use super::{
    node::{Node, PATIENCE},
    rig::{Cluster, connect},
};
use bytes::{BufMut, BytesMut};
use quantadb::{
    env::{Env, Moment},
    peer::{Connection, Dialer, Local, PeerError},
    testing::{assertions::eventually, generators::Random},
    txn::LEVEL,
    types::{ClusterId, NodeId, limits::HANDSHAKE_PAYLOAD_BYTES_MAX},
    wire::{
        ErrorCode, Frame, Goaway, Header, Kind, Opcode, WireError,
        peer::{self, Lane, PEER_VERSION_MAX, PEER_VERSION_MIN, PeerHello, PeerOpcode},
        preface, put_frame,
    },
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a node may take to close a connection that it does not want: it waits for a handshake, but not for this long.
const CLOSES_WITHIN: Duration = Duration::from_secs(15);

/// Sends bytes, and returns all that comes until the other side closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect(address).await.map_err(words)?;
    socket.write_all(bytes).await.map_err(words)?;
    let mut heard = Vec::new();
    let reading = tokio::time::timeout(CLOSES_WITHIN, socket.read_to_end(&mut heard)).await;
    match reading.map_err(|_| format!("{address} keeps a connection open that it cannot want"))? {
        // A reset is an end too: what it had not read, it does not want.
        Ok(_) => Ok(heard),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(heard),
        Err(error) => Err(error.to_string()),
    }
}

/// The code of a GOAWAY that follows this preface.
fn goaway(heard: &[u8], preface: &[u8]) -> Result<ErrorCode, String> {
    let rest = heard.strip_prefix(preface).ok_or_else(|| format!("{heard:02x?} does not begin with {preface:02x?}"))?;
    let (header, payload) = rest.split_first_chunk::<{ Header::BYTES }>().ok_or("there is no frame")?;
    let header = Header::decode(header, HANDSHAKE_PAYLOAD_BYTES_MAX).map_err(|error| error.to_string())?;
    match header.kind {
        Kind::Goaway => Goaway::decode(payload).map(|goaway| goaway.code).map_err(|error| error.to_string()),
        kind => Err(format!("a frame of kind {} and no GOAWAY", kind.name())),
    }
}

/// What a peer that claims to be node `from` says first to node `to`.
fn hello(cluster: ClusterId, from: u64, to: u64) -> Vec<u8> {
    let (version_min, version_max) = (PEER_VERSION_MIN, PEER_VERSION_MAX);
    let (lane, from, to) = (Lane::Consensus, NodeId(from), NodeId(to));
    let hello = PeerHello { version_min, version_max, level: LEVEL, lane, cluster, from, to };
    framed(&peer::PREFACE, Kind::Hello, 0, |out| hello.encode(out))
}

fn framed(preface: &[u8], kind: Kind, opcode: u16, write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::from(preface);
    let id = u64::from(kind == Kind::Request);
    put_frame(&mut out, kind, 0, opcode, id, write);
    out.to_vec()
}

/// What is answered.
enum Answer {
    /// Nothing: the connection is closed.
    Silence,
    /// This preface and a GOAWAY of this code.
    Told(&'static [u8], ErrorCode),
}

/// At the peers' port: who comes, what it says, what it hears, and what the log says of it.
fn at_the_peers_port(cluster: ClusterId, random: &mut Random) -> Vec<(&'static str, Vec<u8>, Answer, &'static str)> {
    let peer = |code| Answer::Told(&peer::PREFACE, code);
    let noise: Vec<u8> = (0..4_096).map(|_| random.bits() as u8 | 1).collect();
    let (mut other_version, mut broken) = (peer::PREFACE.to_vec(), hello(cluster, 99, 0));
    other_version[7] = 0x7f;
    *broken.last_mut().expect("it has a payload") ^= 1;
    // Its header alone: what a node has not read when it closes would make the system forget what the node has said.
    let mut huge = framed(&peer::PREFACE, Kind::Hello, 0, |out| out.put_bytes(0, 60_000));
    huge.truncate(peer::PREFACE.len() + Header::BYTES);
    let client = framed(&preface::PREFACE, Kind::Hello, 0, |out| out.put_bytes(1, 16));
    let hasty = framed(&peer::PREFACE, Kind::Request, PeerOpcode::Vote.number(), |out| out.put_bytes(0, 8));
    let strange = framed(&peer::PREFACE, Kind::Hello, 0, |out| out.put_bytes(0xff, 40));
    let stranger = ClusterId([0x55; 16]);
    vec![
        ("a client", client, Answer::Told(&preface::PREFACE, ErrorCode::WRONG_PORT), "WRONG_PORT"),
        ("a browser", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Answer::Silence, "not a peer"),
        ("TLS", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat(), Answer::Silence, "not a peer"),
        ("noise", noise, Answer::Silence, "not a peer"),
        ("a later framing", other_version, peer(ErrorCode::VERSION_UNSUPPORTED), "VERSION_UNSUPPORTED"),
        ("another cluster's node", hello(stranger, 99, 0), peer(ErrorCode::WRONG_CLUSTER), "WRONG_CLUSTER"),
        ("who wants another node", hello(cluster, 99, 98), peer(ErrorCode::WRONG_NODE), "WRONG_NODE"),
        ("who claims to be this node", hello(cluster, 1, 1), peer(ErrorCode::WRONG_NODE), "WRONG_NODE"),
        ("who is nobody", hello(cluster, 0, 1), peer(ErrorCode::WRONG_NODE), "WRONG_NODE"),
        ("who asks at once", hasty, peer(ErrorCode::PROTOCOL_ERROR), "PROTOCOL_ERROR"),
        ("a broken frame", broken, peer(ErrorCode::PROTOCOL_ERROR), "PROTOCOL_ERROR"),
        ("a hello that is too long", huge, peer(ErrorCode::PROTOCOL_ERROR), "PROTOCOL_ERROR"),
        ("a hello that is none", strange, peer(ErrorCode::MALFORMED), "MALFORMED"),
        (
            "who says half a preface",
            peer::PREFACE[..4].to_vec(),
            peer(ErrorCode::HANDSHAKE_TIMEOUT),
            "HANDSHAKE_TIMEOUT",
        ),
    ]
}

/// At the clients' port.
fn at_the_clients_port(cluster: ClusterId) -> Vec<(&'static str, Vec<u8>, Answer, &'static str)> {
    vec![
        (
            "a peer",
            hello(cluster, 99, 0),
            Answer::Told(&peer::PREFACE, ErrorCode::WRONG_PORT),
            "a node connected where",
        ),
        ("a browser", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Answer::Silence, "a stranger connected"),
    ]
}

async fn turned_away(
    node: &Node,
    address: SocketAddr,
    (who, says, hears, log): (&str, Vec<u8>, Answer, &str),
) -> Result<(), String> {
    let from = node.log().len();
    let heard = say(address, &says).await.map_err(|error| format!("{who} at {address}: {error}"))?;
    match hears {
        Answer::Silence if heard.is_empty() => {}
        Answer::Silence => return Err(format!("{who} at {address} hears {heard:02x?}")),
        Answer::Told(preface, code) => match goaway(&heard, preface) {
            Ok(told) if told == code => {}
            told => return Err(format!("{who} at {address} hears {told:?}, not {code}")),
        },
    }
    let env = Env::real();
    let logged = || async { node.log()[from..].contains(log).then_some(()) };
    eventually(&env, PATIENCE, &format!("{log} in the log, for {who}"), logged).await;
    Ok(())
}

/// Past the handshake: what a node does not know it refuses by name, and the connection goes on; what is no frame ends it.
async fn unknown_opcodes(cluster: ClusterId, address: SocketAddr) -> Result<(), String> {
    let words = |error: PeerError| error.to_string();
    let env = Env::real();
    let dialer = Dialer::new(&env, Local { cluster, node: NodeId(99), level: LEVEL });
    let until = || Moment(env.now().0 + PATIENCE.as_nanos() as u64);
    let address = address.to_string();
    let dial = |lane| dialer.dial(NodeId(1), &address, lane, until());
    let refused = async |connection: &mut Connection, opcode: u16, id: u64, payload: &[u8]| {
        connection.put(Kind::Request, opcode, id, |out| out.put_slice(payload));
        connection.send().await.map_err(words)?;
        let frame: Frame = connection.next().await.map_err(words)?.ok_or("the connection was closed")?;
        if (frame.kind, frame.request_id) != (Kind::Error, id) {
            return Err(format!("opcode {opcode:#06x} is answered by {} {}", frame.kind.name(), frame.request_id));
        }
        WireError::decode(&frame.payload).map(|error| error.code).map_err(|error| error.to_string())
    };
    let opcodes = [0x8fff, PeerOpcode::FIRST, PeerOpcode::Join.number(), Opcode::Get.number(), 0x7ffe];
    for lane in [Lane::Consensus, Lane::Join] {
        let (mut connection, _) = dial(lane).await.map_err(words)?;
        for (opcode, id) in opcodes.into_iter().zip(1..) {
            if lane == Lane::Join && opcode == PeerOpcode::Join.number() {
                continue;
            }
            let code = refused(&mut connection, opcode, id, b"whatever").await?;
            if code != ErrorCode::UNKNOWN_OPCODE {
                return Err(format!("opcode {opcode:#06x} on {lane:?} is refused by {code}"));
            }
        }
    }
    // An opcode that it knows, with what cannot be read.
    let (mut connection, _) = dial(Lane::Consensus).await.map_err(words)?;
    for (opcode, id) in
        [PeerOpcode::Vote, PeerOpcode::PreVote, PeerOpcode::Append, PeerOpcode::Transfer].into_iter().zip(1..)
    {
        let code = refused(&mut connection, opcode.number(), id, &[0xff; 5]).await?;
        if !matches!(code, ErrorCode::MALFORMED | ErrorCode::PROTOCOL_ERROR) {
            return Err(format!("{} with nonsense is refused by {code}", opcode.name()));
        }
    }
    connection.put_raw(&[0xee; 100]);
    connection.send().await.map_err(words)?;
    match tokio::time::timeout(CLOSES_WITHIN, connection.next()).await {
        Ok(Ok(Some(frame))) => Err(format!("noise is answered by {}", frame.kind.name())),
        Ok(Ok(None) | Err(_)) => Ok(()),
        Err(_) => Err("a connection is kept open after noise".into()),
    }
}

/// A real node, whose directory is another cluster's, is told to join.
async fn another_clusters_node(cluster: &mut Cluster) -> Result<(), String> {
    let number = cluster.nodes.len();
    let place = cluster.network.place(number);
    let mut node = Node::new(number, place, cluster.evidence.path(), Vec::new());
    node.start().await?;
    let client = connect(node.place.clients, PATIENCE).await.map_err(|error| error.to_string())?;
    client.put("of another", "cluster").await.map_err(|error| error.to_string())?;
    drop(client);
    node.stop().await?;
    let founder = cluster.nodes[0].place.peers;
    let mut node = Node::new(number, node.place.clone(), cluster.evidence.path(), vec![founder]);
    let starting = node.spawn();
    if node.ready(starting).await.is_ok() {
        return Err(format!("a node of another cluster became ready, told to join this one\n{}", node.tail()));
    }
    let status = node.ended().await?;
    match (status.code(), node.tail().contains("WRONG_CLUSTER")) {
        (Some(3), true) => Ok(()),
        _ => Err(format!("a node of another cluster, told to join this one, ended with {status}\n{}", node.tail())),
    }
}

/// Lets all of them come.
///
/// # Panics
/// If one is let in, or the cluster suffers.
pub async fn run(seed: u64) {
    let cluster = Cluster::form("strangers", 3, seed).await;
    let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let ended = visit(&mut cluster).await;
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", cluster.tails()));
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

async fn visit(cluster: &mut Cluster) -> Result<(), String> {
    let words = |error: quantadb::client::Error| error.to_string();
    let client = connect(cluster.addresses()[0], PATIENCE).await.map_err(words)?;
    client.put("before", "1").await.map_err(words)?;
    let identity = client.status().await.map_err(words)?.cluster;
    let leads = cluster.leader().await;
    // The first node, which is node 1 in the cluster too.
    let (clients, peers) = (cluster.nodes[0].place.clients, cluster.nodes[0].place.peers);
    for case in at_the_peers_port(identity, &mut cluster.random) {
        turned_away(&cluster.nodes[0], peers, case).await?;
    }
    for case in at_the_clients_port(identity) {
        turned_away(&cluster.nodes[0], clients, case).await?;
    }
    unknown_opcodes(identity, peers).await?;
    another_clusters_node(cluster).await?;
    if cluster.leader().await != leads {
        return Err(format!("{leads:?} led before, {:?} leads after", cluster.leader().await));
    }
    client.put("after", "1").await.map_err(words)?;
    for node in &cluster.nodes {
        if node.log().contains("panicked") || node.lives != 1 {
            return Err(format!("node {} did not take it well\n{}", node.number, node.tail()));
        }
    }
    cluster.settle().await?;
    cluster.assert_same_rows().await?;
    Ok(())
}
