//! Changes of membership and of the leader's office, by command and by themselves.
//!
//! What would leave too few members that are heard to commit anything is refused. A change that was interrupted between its
//! two steps (openraft's joint membership) is finished by whoever leads next.

use super::{
    Addresses, Change, ChangeError, StateMachine,
    contacts::Contacts,
    driver::OpenRaft,
    membership::NODES_MAX,
    types::{Peer, RaftMembership},
};
use crate::{env::Env, types::NodeId};
use openraft::{
    ChangeMembers, ServerState,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A member counts as heard for so long after its last answer: a few signs of life.
pub(super) const HEARD_FOR: Duration = Duration::from_millis(1_500);
/// How long a transfer of the office may take.
const TRANSFER_MAX: Duration = Duration::from_secs(3);
/// How often somebody who waits for it looks.
const TRANSFER_POLL: Duration = Duration::from_millis(10);
/// A learner that is so few entries behind counts as caught up.
const CAUGHT_UP_ENTRIES: u64 = 1_024;

/// Carries out changes. Cheap to clone.
pub(super) struct Changes<M: StateMachine> {
    pub(super) env: Env,
    pub(super) node: NodeId,
    pub(super) raft: OpenRaft<M>,
    pub(super) contacts: Arc<Contacts>,
}

impl<M: StateMachine> Clone for Changes<M> {
    fn clone(&self) -> Changes<M> {
        Changes {
            env: self.env.clone(),
            node: self.node,
            raft: self.raft.clone(),
            contacts: Arc::clone(&self.contacts),
        }
    }
}

fn voters(membership: &RaftMembership) -> BTreeSet<u64> {
    membership.voter_ids().collect()
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

impl<M: StateMachine> Changes<M> {
    /// Carries out one change, and completes when it is committed.
    pub(super) async fn carry_out(&self, change: Change) -> Result<(), ChangeError> {
        if !self.leads() {
            return Err(ChangeError::NotLeader);
        }
        match change {
            Change::Add { node, addresses } => self.add(node, addresses).await,
            Change::Promote(node) => self.promote(node).await,
            Change::Remove(node) => self.remove(node).await,
            Change::Transfer(node) => self.transfer(node).await,
        }
    }

    fn leads(&self) -> bool {
        self.raft.server_metrics().borrow_watched().state == ServerState::Leader
    }

    fn membership(&self) -> RaftMembership {
        self.raft.server_metrics().borrow_watched().membership_config.membership().clone()
    }

    pub(super) fn is_heard(&self, node: u64) -> bool {
        let heard = self.contacts.of(NodeId(node)).heard;
        node == self.node.0 || heard.is_some_and(|heard| self.env.now() - heard <= HEARD_FOR)
    }

    /// Whether these could commit, as far as they are heard.
    fn check_quorum(&self, voters: &BTreeSet<u64>) -> Result<(), ChangeError> {
        let heard = voters.iter().filter(|node| self.is_heard(**node)).count();
        let needed = majority(voters.len());
        match heard >= needed && !voters.is_empty() {
            true => Ok(()),
            false => Err(ChangeError::QuorumAtRisk { needed: needed as u64, heard: heard as u64 }),
        }
    }

    async fn add(&self, node: NodeId, addresses: Addresses) -> Result<(), ChangeError> {
        let peer = Peer { address: addresses.peer, client_address: addresses.client };
        let known = self.membership().get_node(&node.0).cloned();
        if known.as_ref() == Some(&peer) {
            return Ok(());
        }
        if known.is_none() && self.membership().nodes().count() >= NODES_MAX {
            return Err(ChangeError::TooMany { members_max: NODES_MAX as u64 });
        }
        // A member that has moved keeps its vote; a new one learns.
        let nodes = BTreeMap::from([(node.0, peer)]);
        let change = if known.is_some() { ChangeMembers::SetNodes(nodes) } else { ChangeMembers::AddNodes(nodes) };
        self.change(change).await
    }

    async fn promote(&self, node: NodeId) -> Result<(), ChangeError> {
        let membership = self.membership();
        if membership.get_node(&node.0).is_none() {
            return Err(ChangeError::UnknownNode);
        }
        let mut after = voters(&membership);
        if !after.insert(node.0) {
            return Ok(());
        }
        if !self.has_caught_up(node.0) {
            return Err(ChangeError::Behind);
        }
        self.check_quorum(&after)?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node.0]))).await
    }

    async fn remove(&self, node: NodeId) -> Result<(), ChangeError> {
        let membership = self.membership();
        if membership.get_node(&node.0).is_none() {
            return Err(ChangeError::UnknownNode);
        }
        let mut after = voters(&membership);
        if !after.remove(&node.0) {
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))).await;
        }
        self.check_quorum(&after)?;
        if node == self.node {
            // Whoever leads next removes this one.
            self.transfer(None).await?;
            return Err(ChangeError::NotLeader);
        }
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node.0]))).await
    }

    /// Hands the office to a member, or to whoever is furthest.
    pub(super) async fn transfer(&self, node: Option<NodeId>) -> Result<(), ChangeError> {
        let membership = self.membership();
        let heirs = voters(&membership);
        let matched = self.matched();
        let best = heirs
            .iter()
            .filter(|heir| **heir != self.node.0 && self.is_heard(**heir))
            .max_by_key(|heir| matched.get(heir).copied().flatten());
        let heir = match node {
            Some(node) if !heirs.contains(&node.0) => return Err(ChangeError::UnknownNode),
            // Until it has taken over nothing is written.
            Some(node) if node != self.node && !self.has_caught_up(node.0) => return Err(ChangeError::Behind),
            Some(node) => node.0,
            None => *best.ok_or(ChangeError::QuorumAtRisk { needed: 2, heard: 1 })?,
        };
        if heir == self.node.0 {
            return Ok(());
        }
        self.raft.trigger().transfer_leader(heir).await.map_err(|fatal| ChangeError::Failed(fatal.to_string()))?;
        let until = self.env.now() + TRANSFER_MAX;
        while self.env.now() < until {
            let leader = self.raft.server_metrics().borrow_watched().current_leader;
            if leader == Some(heir) {
                return Ok(());
            }
            self.env.sleep(TRANSFER_POLL).await;
        }
        Err(ChangeError::Failed(format!("node {heir} did not take over in time")))
    }

    /// Up to which entry each member holds the log, as far as a leader knows.
    pub(super) fn matched(&self) -> BTreeMap<u64, Option<u64>> {
        let metrics = self.raft.data_metrics().borrow_watched().clone();
        let replication = metrics.replication.unwrap_or_default();
        replication.into_iter().map(|(node, matched)| (node, matched.map(|log_id| log_id.index))).collect()
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), ChangeError> {
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_),
            )) => Err(ChangeError::NotLeader),
            // Nothing was begun.
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => Err(ChangeError::InProgress),
            Err(error) => Err(ChangeError::Failed(error.to_string())),
        }
    }

    /// What a leader does by itself now and then: finishes a change that was left between its steps, lets learners go that are
    /// another node by now, and lets learners vote that have caught up, while that makes the voters odd in number.
    pub(super) async fn keep_up(&self) {
        if !self.leads() {
            return;
        }
        let membership = self.membership();
        let change = if membership.get_joint_config().len() > 1 {
            ChangeMembers::AddVoterIds(BTreeSet::new())
        } else if let Some(gone) = self.replaced(&membership) {
            ChangeMembers::RemoveNodes(gone)
        } else {
            match self.promotable(&membership) {
                Some(learners) => ChangeMembers::AddVoterIds(learners),
                None => return,
            }
        };
        // What fails now is tried again by the next who looks.
        let _ = self.change(change).await;
    }

    fn has_caught_up(&self, node: u64) -> bool {
        let last = self.raft.data_metrics().borrow_watched().last_log.map_or(0, |log_id| log_id.index);
        let matched = self.matched().get(&node).copied().flatten();
        self.is_heard(node) && matched.is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= last)
    }

    /// Learners at whose address a member answers that joined after them: a node that never heard which identity it was given,
    /// or lost it, and joined anew.
    fn replaced(&self, membership: &RaftMembership) -> Option<BTreeSet<u64>> {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        // In the order of the identities, which is that in which they were given.
        for (node, peer) in membership.nodes().filter(|(node, _)| self.is_heard(**node)) {
            newest.insert(&peer.address, *node);
        }
        let is_replaced = |node: &u64| {
            let address = membership.get_node(node).map(|peer| peer.address.as_str());
            !self.is_heard(*node) && address.and_then(|address| newest.get(address)).is_some_and(|newest| newest > node)
        };
        let gone: BTreeSet<u64> = membership.learner_ids().filter(is_replaced).collect();
        (!gone.is_empty()).then_some(gone)
    }

    fn promotable(&self, membership: &RaftMembership) -> Option<BTreeSet<u64>> {
        let mut learners: Vec<u64> = membership.learner_ids().filter(|node| self.has_caught_up(*node)).collect();
        if (voters(membership).len() + learners.len()).is_multiple_of(2) {
            learners.pop();
        }
        (!learners.is_empty()).then(|| learners.into_iter().collect())
    }
}
