//! The operations between peers. Their numbers lie above all of the client's, so that both can stand on one connection.

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
    /// What it does.
    pub doc: &'static str,
}

/// Every peer opcode, by number.
pub const PEER_OPCODES: &[PeerOpcodeRow] = &[
    row(PeerOpcode::Vote, "VOTE", "asks for a vote"),
    row(PeerOpcode::PreVote, "PRE_VOTE", "asks whether a vote would be given"),
    row(PeerOpcode::Append, "APPEND", "entries to be appended; none: a sign of life"),
    row(PeerOpcode::Transfer, "TRANSFER", "the leader hands its office over"),
    row(PeerOpcode::SnapshotBegin, "SNAPSHOT_BEGIN", "a snapshot is about to come"),
    row(PeerOpcode::SnapshotPart, "SNAPSHOT_PART", "rows of it"),
    row(PeerOpcode::SnapshotEnd, "SNAPSHOT_END", "it is complete"),
    row(PeerOpcode::Join, "JOIN", "a node wants to become a member"),
    row(PeerOpcode::CommitWhole, "COMMIT_WHOLE", "a transaction, whole"),
];

const fn row(opcode: PeerOpcode, name: &'static str, doc: &'static str) -> PeerOpcodeRow {
    PeerOpcodeRow { opcode, name, doc }
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
}
