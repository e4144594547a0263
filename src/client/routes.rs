//! Where requests may go: the addresses of servers, and what servers have said of who leads.
//!
//! Nothing here is certain. A leader is a hint, good for sending a write straight to where it is decided: any node takes
//! it and forwards it. So the last word counts, whoever said it, and a server that does not know who leads takes back
//! only what was believed of itself.

use super::lock;
use crate::types::{ClusterId, NodeId};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// Addresses that were learned from servers; the oldest of more is forgotten.
const LEARNED_MAX: usize = 16;

/// What all connections of a client know together.
pub(super) struct Routes {
    configured: Vec<Arc<str>>,
    /// Of the first server that answered: versions and keyspaces mean nothing in another.
    cluster: OnceLock<ClusterId>,
    /// Whether anything was sent that a leader decides.
    writes: AtomicBool,
    state: Mutex<State>,
    /// Tells the task that follows the leader that something has changed.
    pub(super) changed: Notify,
    /// Asks the task that keeps the connection for reads for one to another server.
    pub(super) elsewhere: Notify,
}

#[derive(Default)]
struct State {
    leader: Option<Leader>,
    learned: VecDeque<Arc<str>>,
}

/// Who is said to lead.
struct Leader {
    address: Arc<str>,
    /// The node that has answered there.
    node: Option<NodeId>,
    /// It could not be reached the last time.
    failed: bool,
}

impl Routes {
    pub(super) fn new(addresses: &[String]) -> Routes {
        let mut configured: Vec<Arc<str>> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if configured.iter().all(|known| **known != **address) {
                configured.push(address.as_str().into());
            }
        }
        Routes {
            configured,
            cluster: OnceLock::new(),
            writes: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Notify::new(),
            elsewhere: Notify::new(),
        }
    }

    /// Whether this is the cluster that was met first.
    pub(super) fn is_home(&self, cluster: ClusterId) -> bool {
        *self.cluster.get_or_init(|| cluster) == cluster
    }

    /// Notes what the server at `from` said of who leads; `None` if it does not know.
    pub(super) fn learn(&self, from: &str, leader: Option<&str>) {
        let mut state = lock(&self.state);
        match leader {
            Some(leader) => {
                if state.leader.as_ref().is_some_and(|known| *known.address == *leader) {
                    return;
                }
                let address: Arc<str> = leader.into();
                let known = self.configured.iter().chain(&state.learned).any(|known| *known == address);
                if !known {
                    state.learned.truncate(LEARNED_MAX - 1);
                    state.learned.push_front(address.clone());
                }
                state.leader = Some(Leader { address, node: None, failed: false });
            }
            None => {
                if state.leader.take_if(|known| *known.address == *from).is_none() {
                    return;
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// From now on a connection to the leader is of use.
    pub(super) fn wants_leader(&self) {
        if !self.writes.load(Ordering::Relaxed) && !self.writes.swap(true, Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    /// Where the leader is, if that is known, of use, and not where this one is: an address, and the node that answers.
    pub(super) fn leader_beside(&self, other: Option<(&str, NodeId)>) -> Option<Arc<str>> {
        let state = lock(&self.state);
        let leader = state.leader.as_ref().filter(|_| self.writes.load(Ordering::Relaxed))?;
        let same = other.is_some_and(|(address, node)| *leader.address == *address || leader.node == Some(node));
        (!same).then(|| leader.address.clone())
    }

    /// Whether the leader is said to be at this address.
    pub(super) fn leads(&self, address: &str) -> bool {
        lock(&self.state).leader.as_ref().is_some_and(|leader| *leader.address == *address)
    }

    /// Whether the leader's address was not tried in vain.
    pub(super) fn leader_may_answer(&self) -> bool {
        lock(&self.state).leader.as_ref().is_some_and(|leader| !leader.failed)
    }

    /// Notes which node answers at the leader's address, or that none does.
    pub(super) fn tried_leader(&self, address: &str, node: Option<NodeId>) {
        if let Some(leader) = lock(&self.state).leader.as_mut().filter(|leader| *leader.address == *address) {
            leader.failed = node.is_none();
            leader.node = node.or(leader.node);
        }
    }

    /// Whether there is another server than the one at this address.
    pub(super) fn has_other(&self, address: &str) -> bool {
        let state = lock(&self.state);
        self.configured.iter().chain(&state.learned).any(|known| **known != *address)
    }

    /// Every address once: those that were given, in their order, then those that were learned. The round begins at
    /// `first`, if there is such an address.
    pub(super) fn all_from(&self, first: Option<&str>) -> Vec<Arc<str>> {
        let mut all = self.configured.clone();
        all.extend(lock(&self.state).learned.iter().cloned());
        let at = all.iter().position(|address| Some(&**address) == first).unwrap_or(0);
        all.rotate_left(at);
        all
    }

    /// The same without this one; the round begins behind it.
    pub(super) fn all_but(&self, address: &str) -> Vec<Arc<str>> {
        let mut all = self.all_from(Some(address));
        all.retain(|other| **other != *address);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(addresses: &[&str]) -> Routes {
        let routes = Routes::new(&addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>());
        routes.wants_leader();
        routes
    }

    fn texts(addresses: &[Arc<str>]) -> Vec<&str> {
        addresses.iter().map(|address| &**address).collect()
    }

    #[test]
    fn the_last_word_says_who_leads_and_who_does_not_know_takes_back_what_was_said_of_itself() {
        let routes = routes(&["a:1", "b:1"]);
        assert_eq!(routes.leader_beside(None), None);
        routes.learn("a:1", Some("b:1"));
        routes.learn("b:1", Some("c:1"));
        assert_eq!(routes.leader_beside(None).as_deref(), Some("c:1"));
        routes.learn("a:1", None);
        assert_eq!(routes.leader_beside(None).as_deref(), Some("c:1"));
        assert!(routes.leads("c:1") && !routes.leads("b:1"));
        routes.learn("c:1", None);
        assert_eq!(routes.leader_beside(None), None);
    }

    #[test]
    fn the_leader_is_of_use_once_something_is_written_and_if_it_is_another_node() {
        let routes = Routes::new(&["a:1".to_owned()]);
        routes.learn("a:1", Some("b:1"));
        assert_eq!(routes.leader_beside(None), None, "nothing was written");
        routes.wants_leader();
        assert!(routes.leader_beside(Some(("a:1", NodeId(1)))).is_some());
        assert!(routes.leader_beside(Some(("b:1", NodeId(2)))).is_none(), "it has this address");
        routes.tried_leader("b:1", Some(NodeId(1)));
        assert!(routes.leader_beside(Some(("a:1", NodeId(1)))).is_none(), "it is this node by another name");
        assert!(routes.leader_may_answer());
        routes.tried_leader("b:1", None);
        assert!(!routes.leader_may_answer());
        routes.tried_leader("c:1", Some(NodeId(3)));
        routes.learn("a:1", Some("b:1"));
        assert!(!routes.leader_may_answer(), "what is said again is no news");
        routes.learn("a:1", Some("c:1"));
        assert!(routes.leader_may_answer());
    }

    #[test]
    fn rounds_go_over_every_address_once_and_begin_where_they_are_told() {
        let routes = routes(&["a:1", "b:1", "a:1", "c:1"]);
        assert_eq!(texts(&routes.all_from(None)), ["a:1", "b:1", "c:1"]);
        routes.learn("a:1", Some("d:1"));
        routes.learn("a:1", Some("b:1"));
        assert_eq!(texts(&routes.all_from(Some("b:1"))), ["b:1", "c:1", "d:1", "a:1"]);
        assert_eq!(texts(&routes.all_from(Some("gone:1"))), ["a:1", "b:1", "c:1", "d:1"]);
        assert_eq!(texts(&routes.all_but("b:1")), ["c:1", "d:1", "a:1"]);
        assert!(routes.has_other("a:1"));
        assert!(!Routes::new(&["a:1".to_owned()]).has_other("a:1"));
        (0..100).for_each(|n| routes.learn("a:1", Some(&format!("new{n}:1"))));
        assert_eq!(routes.all_from(None).len(), 3 + LEARNED_MAX);
    }

    #[test]
    fn the_first_cluster_that_answers_is_the_only_one() {
        let routes = routes(&["a:1"]);
        assert!(routes.is_home(ClusterId([1; 16])));
        assert!(routes.is_home(ClusterId([1; 16])));
        assert!(!routes.is_home(ClusterId([2; 16])));
    }
}
