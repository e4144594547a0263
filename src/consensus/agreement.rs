//! Whether replicas that have applied the same entries have come to the same state.
//!
//! Every replica has a chain hash over all entries and their results. Members report theirs with each answer to an append, and
//! the leader holds it against its own at the same entry. Who differs from a majority has failed, by its machine or by a
//! defect, and stops: the leader itself if it is alone with what it has, another when it is told what the majority has. Where
//! no value has a majority nobody can say who is right, and the leader stops: no write is acknowledged any more.
//!
//! Found within a few appends, or the next sign of life, of the entry that was applied differently; as far back as
//! [`ENTRIES_MAX`] entries.

use super::{contacts::Contacts, types::RaftMembership};
use crate::types::{LogId, NodeId};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Entries whose hashes are remembered: a member whose report is older is compared when it has caught up.
const ENTRIES_MAX: usize = 8_192;

/// The hashes of the newest entries.
#[derive(Debug, Default)]
pub(super) struct Agreement(Mutex<VecDeque<(LogId, u64)>>);

/// What a leader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody is known to differ.
    Agreed,
    /// These differ from a majority that this node is of.
    Others(Vec<NodeId>),
    /// This node differs from too many to be right, or nobody can say who is.
    Own(NodeId),
}

impl Agreement {
    /// The hash after an entry that was applied here.
    pub(super) fn note(&self, log_id: LogId, chain: u64) {
        let mut hashes = self.0.lock();
        if hashes.len() == ENTRIES_MAX {
            hashes.pop_front();
        }
        hashes.push_back((log_id, chain));
    }

    /// What was before is another state now.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// The hash after an entry, where this replica remembers it.
    pub(super) fn at(&self, log_id: LogId) -> Option<(LogId, u64)> {
        let hashes = self.0.lock();
        let (first, _) = hashes.front()?;
        let place = usize::try_from(log_id.index.checked_sub(first.index)?).ok()?;
        hashes.get(place).copied().filter(|(own, _)| *own == log_id)
    }

    /// Whether the hash after an entry is this one, where this replica remembers it.
    pub(super) fn compare(&self, log_id: LogId, chain: u64) -> Option<bool> {
        self.at(log_id).map(|(_, own)| own == chain)
    }

    /// Judges, as the leader, by what members have reported.
    pub(super) fn judge(&self, own: NodeId, membership: &RaftMembership, contacts: &Contacts) -> Verdict {
        let voters: Vec<u64> = membership.voter_ids().collect();
        let (mut same, mut other) = (1, Vec::new());
        for (node, _) in membership.nodes().filter(|(node, _)| **node != own.0) {
            let Some(report) = contacts.of(NodeId(*node)).report else { continue };
            match self.compare(report.applied, report.chain) {
                Some(true) if voters.contains(node) => same += 1,
                Some(false) => other.push(NodeId(*node)),
                _ => {}
            }
        }
        let Some(first) = other.first().copied() else { return Verdict::Agreed };
        let votes = other.iter().filter(|node| voters.contains(&node.0)).count();
        let majority = voters.len() / 2 + 1;
        if same >= majority {
            Verdict::Others(other)
        } else if votes >= majority || same + votes == voters.len() {
            Verdict::Own(first)
        } else {
            // The rest will say.
            Verdict::Agreed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consensus::types::Peer,
        env::Moment,
        types::{Term, Version},
        wire::peer::PeerReport,
    };
    use std::collections::{BTreeMap, BTreeSet};

    fn at(index: u64) -> LogId {
        LogId { term: Term(2), leader: NodeId(1), index }
    }

    fn membership(voters: &[u64], learners: &[u64]) -> RaftMembership {
        let nodes: BTreeMap<u64, Peer> = voters.iter().chain(learners).map(|id| (*id, Peer::default())).collect();
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        RaftMembership::new(vec![voters], nodes).expect("voters are nodes")
    }

    fn judged(voters: &[u64], learners: &[u64], reports: &[(u64, u64, u64)]) -> Verdict {
        let (agreement, contacts) = (Agreement::default(), Contacts::default());
        (0..10).for_each(|index| agreement.note(at(index), 100 + index));
        for (node, index, chain) in reports {
            let report = PeerReport { applied: at(*index), version: Version(1), chain: *chain };
            contacts.heard(NodeId(*node), Moment(1), Some(report));
        }
        agreement.judge(NodeId(1), &membership(voters, learners), &contacts)
    }

    #[test]
    fn the_majority_is_right() {
        let voters = [1, 2, 3];
        assert_eq!(judged(&voters, &[], &[(2, 3, 103), (3, 5, 105)]), Verdict::Agreed);
        assert_eq!(judged(&voters, &[], &[(2, 3, 103), (3, 5, 9)]), Verdict::Others(vec![NodeId(3)]));
        assert_eq!(judged(&voters, &[], &[(2, 3, 9), (3, 5, 9)]), Verdict::Own(NodeId(2)));
        assert_eq!(judged(&voters, &[], &[(3, 5, 9)]), Verdict::Agreed, "the other voter has not spoken");
        assert_eq!(judged(&[1, 2], &[], &[(2, 5, 9)]), Verdict::Own(NodeId(2)), "one against one: nobody can say");
        assert_eq!(judged(&[1], &[2], &[(2, 5, 9)]), Verdict::Others(vec![NodeId(2)]), "a learner has no vote");
        assert_eq!(judged(&voters, &[], &[(2, 11, 9), (3, 12, 9)]), Verdict::Agreed, "nobody knows those entries here");
    }

    #[test]
    fn old_entries_are_forgotten() {
        let agreement = Agreement::default();
        for index in 0..ENTRIES_MAX as u64 + 5 {
            agreement.note(at(index), index);
        }
        assert_eq!(agreement.compare(at(4), 4), None);
        assert_eq!(agreement.compare(at(5), 5), Some(true));
        assert_eq!(agreement.compare(at(5), 6), Some(false));
        let other_leader = LogId { leader: NodeId(2), ..at(5) };
        assert_eq!(agreement.compare(other_leader, 5), None, "another entry");
        agreement.forget();
        assert_eq!(agreement.compare(at(5), 5), None);
    }
}
