//! Where nodes are and which of them hear each other.
//!
//! Without further means each node has an address of its own on the loopback (a /8), which no outgoing connection uses, so its
//! ports stay free while it is down. With `QUANTADB_CLUSTER_NAMESPACES` each has a network namespace of its own, joined by a
//! bridge on which the test's clients sit too; a rule in the receiver's namespace drops what comes from another node. Those
//! namespaces are made in the test's own, so run it in one that goes away with it, as `.ci/cluster` does.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
};

const CLIENT_PORT: u16 = 7_420;
const PEER_PORT: u16 = 7_421;

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Place {
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    namespace: Option<String>,
}

impl Place {
    fn new(address: IpAddr, namespace: Option<String>) -> Place {
        Place { clients: SocketAddr::new(address, CLIENT_PORT), peers: SocketAddr::new(address, PEER_PORT), namespace }
    }

    /// The words before a command that runs there.
    pub fn enter(&self) -> Vec<String> {
        match &self.namespace {
            Some(namespace) => ["ip", "netns", "exec", namespace].map(str::to_owned).into(),
            None => Vec::new(),
        }
    }
}

/// Whether nodes can be kept from hearing each other.
pub fn has_namespaces() -> bool {
    std::env::var_os("QUANTADB_CLUSTER_NAMESPACES").is_some()
}

/// The network of one cluster.
pub struct Network {
    places: Vec<Place>,
    /// What joins the namespaces.
    bridge: Option<String>,
}

impl Network {
    /// A network for so many nodes.
    pub fn new(nodes: usize) -> Network {
        static MADE: AtomicU8 = AtomicU8::new(0);
        let cluster = MADE.fetch_add(1, Ordering::Relaxed);
        let nodes = u8::try_from(nodes).expect("a handful of nodes");
        match has_namespaces() {
            true => in_namespaces(nodes, cluster),
            false => Network { places: on_loopback(nodes, cluster), bridge: None },
        }
    }

    pub fn place(&self, node: usize) -> Place {
        self.places[node].clone()
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        let source = self.places[from].peers.ip();
        self.rules(to, &format!("add rule inet quantadb input ip saddr {source} drop"));
    }

    /// From now on neither hears the other.
    pub fn cut_both(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// From now on this one and all others do not hear each other.
    pub fn isolate(&self, node: usize) {
        (0..self.places.len()).filter(|other| *other != node).for_each(|other| self.cut_both(node, other));
    }

    /// Everybody hears everybody.
    pub fn heal(&self) {
        if self.bridge.is_some() {
            (0..self.places.len()).for_each(|node| self.rules(node, "flush chain inet quantadb input"));
        }
    }

    fn rules(&self, node: usize, rules: &str) {
        let namespace = self.places[node].namespace.as_deref().expect("nodes have namespaces of their own");
        must(&["ip", "netns", "exec", namespace, "nft", rules]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let namespaces = self.places.iter().filter_map(|place| place.namespace.as_deref());
        for namespace in namespaces {
            let _ = run(&["ip", "netns", "delete", namespace]);
        }
        if let Some(bridge) = &self.bridge {
            let _ = run(&["ip", "link", "delete", bridge]);
        }
    }
}

/// Addresses that no other cluster of this process has, and most likely none of another process.
fn on_loopback(nodes: u8, cluster: u8) -> Vec<Place> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = |node: u8| Ipv4Addr::new(127, 1 + high % 250, low, cluster.wrapping_mul(8) % 240 + node + 1);
    (0..nodes).map(|node| Place::new(address(node).into(), None)).collect()
}

/// Namespaces and links of names that no other cluster of this process has: the system takes its time to remove them.
fn in_namespaces(nodes: u8, cluster: u8) -> Network {
    let bridge = format!("qdb{cluster}");
    must(&["ip", "link", "add", &bridge, "type", "bridge"]);
    must(&["ip", "address", "add", &format!("10.77.{cluster}.1/24"), "dev", &bridge]);
    must(&["ip", "link", "set", &bridge, "up"]);
    let place = |node: u8| {
        let name = format!("{bridge}n{node}");
        let address = Ipv4Addr::new(10, 77, cluster, 10 + node);
        let within = |words: &[&str]| {
            let mut all = vec!["ip", "netns", "exec", &name];
            all.extend(words);
            must(&all);
        };
        must(&["ip", "netns", "add", &name]);
        must(&["ip", "link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &name]);
        must(&["ip", "link", "set", &name, "master", &bridge, "up"]);
        within(&["ip", "link", "set", "lo", "up"]);
        within(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        within(&["ip", "link", "set", "eth0", "up"]);
        within(&["nft", "add table inet quantadb"]);
        within(&["nft", "add chain inet quantadb input { type filter hook input priority 0; }"]);
        Place::new(address.into(), Some(name))
    };
    let places = (0..nodes).map(place).collect();
    Network { places, bridge: Some(bridge) }
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{words:?} does not start: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

#[track_caller]
fn must(words: &[&str]) {
    run(words).unwrap_or_else(|error| panic!("{error}"));
}
