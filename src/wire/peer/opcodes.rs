//! The operations between peers. Their numbers lie above all of the client's, so that both can stand on one connection.

use super::{Lane, commit, layout};
use crate::wire::registry::{COMMIT_RESPONSE, FieldRow, Tag};

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum PeerOpcode {
    /// A vote in an election.
    Vote = 0x8001,
    /// Whether it would be given.
    PreVote = 0x8002,
    /// Entries to be appended, or none: then a sign of life.
    Append = 0x8003,
    /// The leader hands its office over.
    Transfer = 0x8004,
    /// A snapshot is about to come.
    SnapshotBegin = 0x8010,
    /// Rows of it.
    SnapshotPart = 0x8011,
    /// It is complete.
    SnapshotEnd = 0x8012,
    /// A node wants to become a member.
    Join = 0x8020,
    /// A transaction, whole, as the session that held it collected it.
    CommitWhole = 0x8030,
}

/// What is known of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOpcodeRow {
    /// The opcode.
    pub opcode: PeerOpcode,
    /// Its name in the specification.
    pub name: &'static str,
    /// The lane that it stands on.
    pub lane: Lane,
    /// The fixed fields of its REQUEST.
    pub request: &'static [FieldRow],
    /// The fixed fields of its RESPONSE.
    pub response: &'static [FieldRow],
    /// The tags that its REQUEST may carry.
    pub tags: &'static [Tag],
    /// What it does.
    pub doc: &'static str,
}

/// Every peer opcode, by number.
pub const PEER_OPCODES: &[PeerOpcodeRow] = &[
    consensus(PeerOpcode::Vote, "VOTE", layout::VOTE, layout::VOTE_REPLY, "asks for a vote"),
    consensus(PeerOpcode::PreVote, "PRE_VOTE", layout::VOTE, layout::VOTE_REPLY, "asks whether a vote would be given"),
    consensus(
        PeerOpcode::Append,
        "APPEND",
        layout::APPEND,
        layout::APPEND_REPLY,
        "entries to be appended; none: a sign of life",
    ),
    consensus(
        PeerOpcode::Transfer,
        "TRANSFER",
        layout::TRANSFER,
        layout::TRANSFER_REPLY,
        "the leader hands its office over",
    ),
    snapshot(
        PeerOpcode::SnapshotBegin,
        "SNAPSHOT_BEGIN",
        layout::SNAPSHOT_BEGIN,
        layout::SNAPSHOT_BEGUN,
        "a snapshot is about to come",
    ),
    snapshot(PeerOpcode::SnapshotPart, "SNAPSHOT_PART", layout::SNAPSHOT_PART, &[], "rows of it"),
    snapshot(PeerOpcode::SnapshotEnd, "SNAPSHOT_END", layout::SNAPSHOT_END, layout::SNAPSHOT_ENDED, "it is complete"),
    PeerOpcodeRow {
        opcode: PeerOpcode::Join,
        name: "JOIN",
        lane: Lane::Join,
        request: layout::JOIN,
        response: layout::JOINED,
        tags: &[],
        doc: "a node wants to become a member",
    },
    PeerOpcodeRow {
        opcode: PeerOpcode::CommitWhole,
        name: "COMMIT_WHOLE",
        lane: Lane::Requests,
        request: layout::COMMIT_WHOLE,
        response: COMMIT_RESPONSE,
        tags: commit::TAGS,
        doc: "commits a transaction that another node's session holds",
    },
];

const fn consensus(
    opcode: PeerOpcode,
    name: &'static str,
    request: &'static [FieldRow],
    response: &'static [FieldRow],
    doc: &'static str,
) -> PeerOpcodeRow {
    PeerOpcodeRow { opcode, name, lane: Lane::Consensus, request, response, tags: &[], doc }
}

const fn snapshot(
    opcode: PeerOpcode,
    name: &'static str,
    request: &'static [FieldRow],
    response: &'static [FieldRow],
    doc: &'static str,
) -> PeerOpcodeRow {
    PeerOpcodeRow { opcode, name, lane: Lane::Snapshot, request, response, tags: &[], doc }
}

impl PeerOpcode {
    /// The least number of a peer opcode.
    pub const FIRST: u16 = 0x8000;

    /// The opcode with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<PeerOpcode> {
        PEER_OPCODES.iter().find(|row| row.opcode as u16 == number).map(|row| row.opcode)
    }

    /// The opcode's number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What is known of it.
    #[must_use]
    pub fn row(self) -> &'static PeerOpcodeRow {
        PEER_OPCODES.iter().find(|row| row.opcode == self).expect("every opcode has a row")
    }

    /// Its name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::registry::OPCODES;
    use std::collections::BTreeSet;

    // spec: QP-PEER-007
    #[test]
    fn numbers_and_names_are_given_once_and_lie_above_those_of_clients() {
        let numbers: BTreeSet<u16> = PEER_OPCODES.iter().map(|row| row.opcode.number()).collect();
        assert_eq!(numbers.len(), PEER_OPCODES.len());
        assert!(numbers.iter().all(|number| *number >= PeerOpcode::FIRST));
        assert!(OPCODES.iter().all(|row| row.opcode.number() < PeerOpcode::FIRST));
        let names: BTreeSet<&str> =
            PEER_OPCODES.iter().map(|row| row.name).chain(OPCODES.iter().map(|row| row.name)).collect();
        assert_eq!(names.len(), PEER_OPCODES.len() + OPCODES.len());
        for row in PEER_OPCODES {
            assert_eq!(PeerOpcode::from_number(row.opcode.number()), Some(row.opcode));
            assert_eq!((row.opcode.row(), row.opcode.name()), (row, row.name));
        }
        assert_eq!(PeerOpcode::from_number(PeerOpcode::FIRST), None);
    }
}
