//! How a membership stands in the log and in the store's marker: by hand, so that no library decides our formats.
//!
//! ```text
//! membership   format u8 = 2 · configurations u8 · configuration* · nodes u16 · node*
//! configuration voters u16 · id u64 *          (two configurations while one takes the place of the other)
//! node         id u64 · peer address bytes16 · client address bytes16   (ascending ids)
//! stored       has log id u8 · [term u64 · leader u64 · index u64] · membership
//! ```
//!
//! Format 1, of nodes that had no peers, has no client address; it is still read.

use super::types::{Peer, RaftLogId, RaftMembership, RaftStoredMembership, ours, theirs};
use crate::{
    encoding::{ReadError, Reader, Writer},
    types::{LogId, NodeId, Term},
};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};

const FORMAT: u8 = 2;
const FORMAT_WITHOUT_CLIENTS: u8 = 1;
/// Most voters, and most nodes: far more than a group can use, and few enough for the length fields.
pub(super) const NODES_MAX: usize = 1_000;

/// Why a membership cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MembershipError {
    #[error("membership: {0}")]
    Read(#[from] ReadError),
    #[error("membership format {0} is not known here")]
    Format(u8),
    #[error("membership: {0}")]
    Invalid(&'static str),
}

/// Writes a membership.
pub(super) fn put(out: &mut BytesMut, membership: &RaftMembership) {
    let count = |length: usize| {
        assert!(length <= NODES_MAX, "a group has at most {NODES_MAX} nodes");
        u16::try_from(length).expect("checked above")
    };
    out.put_u8(FORMAT);
    let configurations = membership.get_joint_config();
    out.put_u8(u8::try_from(configurations.len()).expect("a joint configuration has two parts"));
    for voters in configurations {
        out.put_u16(count(voters.len()));
        voters.iter().for_each(|voter| out.put_u64(*voter));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.put_u16(count(nodes.len()));
    for (id, peer) in nodes {
        out.put_u64(*id);
        out.put_bytes16(peer.address.as_bytes());
        out.put_bytes16(peer.client_address.as_bytes());
    }
}

/// Reads what [`put`] wrote.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<RaftMembership, MembershipError> {
    let format = reader.u8()?;
    if format != FORMAT && format != FORMAT_WITHOUT_CLIENTS {
        return Err(MembershipError::Format(format));
    }
    let address = |reader: &mut Reader<'_>| -> Result<String, MembershipError> {
        let text = std::str::from_utf8(reader.bytes16()?);
        Ok(text.map_err(|_| MembershipError::Invalid("an address is not UTF-8"))?.to_owned())
    };
    let mut configurations = Vec::new();
    let parts = reader.u8()?;
    if parts > 2 {
        return Err(MembershipError::Invalid("more than two configurations"));
    }
    for _ in 0..parts {
        let count = reader.u16()?;
        if usize::from(count) > NODES_MAX {
            return Err(MembershipError::Invalid("too many voters"));
        }
        configurations.push((0..count).map(|_| reader.u64()).collect::<Result<BTreeSet<u64>, _>>()?);
    }
    let mut nodes = BTreeMap::new();
    let count = reader.u16()?;
    if usize::from(count) > NODES_MAX {
        return Err(MembershipError::Invalid("too many nodes"));
    }
    for _ in 0..count {
        let id = reader.u64()?;
        let peer = address(reader)?;
        let client_address = if format == FORMAT { address(reader)? } else { String::new() };
        nodes.insert(id, Peer { address: peer, client_address });
    }
    RaftMembership::new(configurations, nodes).map_err(|_| MembershipError::Invalid("a voter is not among the nodes"))
}

/// A membership and the entry that it came with.
pub(super) fn encode_stored(stored: &RaftStoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::from(stored.log_id().is_some()));
    if let Some(log_id) = stored.log_id() {
        let LogId { term, leader, index } = ours(log_id);
        out.put_u64(term.0);
        out.put_u64(leader.0);
        out.put_u64(index);
    }
    put(&mut out, stored.membership());
    out.freeze()
}

/// Reads what [`encode_stored`] wrote; nothing at all is the membership before the first.
pub(super) fn decode_stored(bytes: &[u8]) -> Result<RaftStoredMembership, MembershipError> {
    if bytes.is_empty() {
        return Ok(RaftStoredMembership::default());
    }
    let mut reader = Reader::new(bytes);
    let log_id: Option<RaftLogId> = match reader.u8()? {
        0 => None,
        1 => {
            let (term, leader) = (Term(reader.u64()?), NodeId(reader.u64()?));
            Some(theirs(LogId { term, leader, index: reader.u64()? }))
        }
        _ => return Err(MembershipError::Invalid("neither with nor without a log id")),
    };
    let membership = read(&mut reader)?;
    reader.finish()?;
    Ok(RaftStoredMembership::new(log_id, membership))
}

/// Whether this node alone votes.
pub(super) fn is_alone(membership: &RaftMembership, node: NodeId) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(node.0) && voters.next().is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn peer(id: u64) -> Peer {
        Peer { address: format!("127.0.0.1:{}", 7000 + id), client_address: format!("127.0.0.1:{}", 8000 + id) }
    }

    fn membership(configurations: &[&[u64]], learners: &[u64]) -> RaftMembership {
        let configurations: Vec<BTreeSet<u64>> =
            configurations.iter().map(|voters| voters.iter().copied().collect()).collect();
        let ids = configurations.iter().flatten().chain(learners).copied();
        let nodes: BTreeMap<u64, Peer> = ids.map(|id| (id, peer(id))).collect();
        RaftMembership::new(configurations, nodes).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let log_id = Some(theirs(LogId { term: Term(3), leader: NodeId(2), index: 9 }));
        for (membership, log_id) in [
            (membership(&[&[1]], &[]), None),
            (membership(&[&[1, 2, 3]], &[4, 5]), log_id),
            (membership(&[&[1, 2, 3], &[2, 3, 4]], &[]), log_id),
        ] {
            let stored = RaftStoredMembership::new(log_id, membership);
            assert_eq!(decode_stored(&encode_stored(&stored)), Ok(stored));
        }
        assert_eq!(decode_stored(b""), Ok(RaftStoredMembership::default()));
    }

    #[test]
    fn whatever_is_cut_or_unknown_is_an_error() {
        let bytes = encode_stored(&RaftStoredMembership::new(None, membership(&[&[1, 2]], &[3])));
        for length in 1..bytes.len() {
            assert!(decode_stored(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = byte;
            decode_stored(&bytes)
        };
        assert_eq!(with(1, 9), Err(MembershipError::Format(9)));
        assert!(matches!(with(0, 2), Err(MembershipError::Invalid(_))));
        assert!(matches!(with(bytes.len() - 1, 0xff), Err(MembershipError::Invalid(_))));
        assert!(decode_stored(&[&bytes[..], b"x"].concat()).is_err());
        assert!(matches!(with(12, 7), Err(MembershipError::Invalid(_))), "a voter that is no node");
    }

    #[test]
    fn the_first_format_is_still_read() {
        // One voter, node 1, whose address is empty.
        let golden = [1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
        let mut reader = Reader::new(&golden);
        let membership = read(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!(membership.nodes().collect::<Vec<_>>(), [(&1, &Peer::default())]);
        assert!(is_alone(&membership, NodeId(1)));
    }

    #[test]
    fn alone_means_the_only_voter() {
        assert!(is_alone(&membership(&[&[1]], &[2, 3]), NodeId(1)));
        assert!(!is_alone(&membership(&[&[1]], &[]), NodeId(2)));
        assert!(!is_alone(&membership(&[&[1, 2]], &[]), NodeId(1)));
        assert!(!is_alone(&membership(&[&[1], &[1, 2]], &[]), NodeId(1)));
    }
}
