//! The shape of the messages between nodes, as data: what [`super::PEER_OPCODES`] is made of.

use crate::wire::registry::{BOOLEAN, FieldRow, FieldType, MUTATIONS, Named, Variant, field, field_doc, named};

/// The lanes, by number.
pub const LANES: &[Named] = &[
    named(1, "consensus", "votes, appends, transfer"),
    named(2, "snapshot", "one snapshot"),
    named(3, "requests", "requests of clients, forwarded to the leader"),
    named(4, "join", "a node that wants to become a member"),
];

/// The fixed fields of HELLO.
pub const PEER_HELLO: &[FieldRow] = &[
    field("version_min", FieldType::U8),
    field("version_max", FieldType::U8),
    field_doc("level", FieldType::U16, "the greatest state-machine level that the initiator knows"),
    field_doc("lane", FieldType::Enum(LANES), "what the connection is for"),
    field_doc("cluster_id", FieldType::Fixed(16), "zeros on the lane join"),
    field_doc("from", FieldType::U64, "the initiator's node id; 0 on the lane join"),
    field_doc("to", FieldType::U64, "the node id that is wanted; 0: whoever answers"),
];
/// The fixed fields of WELCOME.
pub const PEER_WELCOME: &[FieldRow] = &[
    field("version", FieldType::U8),
    field_doc("level", FieldType::U16, "the greatest state-machine level that the acceptor knows"),
    field("cluster_id", FieldType::Fixed(16)),
    field("node_id", FieldType::U64),
];

const LOG_ID: &[FieldRow] = &[
    field("term", FieldType::U64),
    field_doc("leader", FieldType::U64, "who led the term"),
    field("index", FieldType::U64),
];
const VOTE_VALUE: &[FieldRow] = &[
    field("term", FieldType::U64),
    field_doc("node", FieldType::U64, "whom it is for"),
    field_doc("committed", BOOLEAN, "whether a majority has given it, so that the node leads the term"),
];

const fn log_id(name: &'static str, doc: &'static str) -> FieldRow {
    field_doc(name, FieldType::Group(LOG_ID), doc)
}

const fn maybe_log_id(name: &'static str, doc: &'static str) -> FieldRow {
    field_doc(name, FieldType::Optional(LOG_ID), doc)
}

const fn vote(doc: &'static str) -> FieldRow {
    field_doc("vote", FieldType::Group(VOTE_VALUE), doc)
}

const fn variant(number: u8, name: &'static str, fields: &'static [FieldRow], doc: &'static str) -> Variant {
    Variant { number, name, fields, doc }
}

pub(super) const VOTE: &[FieldRow] =
    &[vote("the vote that is asked for"), maybe_log_id("last", "the candidate's last entry; 0: its log is empty")];
pub(super) const VOTE_REPLY: &[FieldRow] = &[
    vote("that of the acceptor"),
    field("granted", BOOLEAN),
    maybe_log_id("last", "the acceptor's last entry; 0: its log is empty"),
];

pub(super) const APPEND: &[FieldRow] = &[
    vote("the leader's"),
    maybe_log_id("previous", "the entry before the first of these; 0: the first is the first of the log"),
    maybe_log_id("committed", "the last entry that the leader knows to be committed"),
    field_doc(
        "chain",
        FieldType::Optional(&[log_id("entry", ""), field("hash", FieldType::U64)]),
        "an entry after which the acceptor has come to another state than a majority, and the majority's chain hash after it: an acceptor that has another there stops",
    ),
    field_doc(
        "entries",
        FieldType::List32(&[
            log_id("id", ""),
            field_doc("kind", FieldType::U8, "what the payload is"),
            field("payload", FieldType::Bytes32),
        ]),
        "at most 2^20",
    ),
];
const APPEND_RESULTS: &[Variant] = &[
    variant(
        0,
        "matched",
        &[maybe_log_id("last", "")],
        "everything up to this entry is the leader's, and durable; 0: nothing is",
    ),
    variant(1, "conflict", &[log_id("previous", "")], "`previous` is another entry here, or none"),
    variant(2, "higher_vote", &[vote("")], "this vote is higher: the initiator leads no more"),
];
pub(super) const APPEND_REPLY: &[FieldRow] = &[
    field_doc("result", FieldType::Choice(APPEND_RESULTS), "what became of the entries"),
    field_doc(
        "report",
        FieldType::Optional(&[
            log_id("applied", "the last entry that the acceptor has applied"),
            field_doc("version", FieldType::U64, "the version after it"),
            field_doc("chain", FieldType::U64, "the chain hash after it"),
        ]),
        "how far the acceptor has come, where it tells",
    ),
];

pub(super) const TRANSFER: &[FieldRow] = &[
    vote("the leader's"),
    field_doc("to", FieldType::U64, "who is to lead"),
    maybe_log_id("last", "the leader's last entry"),
];
const TRANSFER_RESULTS: &[Variant] = &[
    variant(0, "accepted", &[], "the acceptor stands for election"),
    variant(1, "vote_changed", &[vote("")], "the acceptor's vote is another by now"),
    variant(2, "behind", &[maybe_log_id("last", "")], "the acceptor's log ends here, below the leader's"),
];
pub(super) const TRANSFER_REPLY: &[FieldRow] = &[field("result", FieldType::Choice(TRANSFER_RESULTS))];

pub(super) const SNAPSHOT_BEGIN: &[FieldRow] = &[
    vote("the leader's"),
    field_doc("snapshot", FieldType::Fixed(16), "names this snapshot of this initiator, at random"),
    maybe_log_id("log_id", "the last entry that it holds"),
    field_doc("version", FieldType::U64, "the version after it"),
    field_doc("chain", FieldType::U64, "the chain hash after it"),
    field_doc("clock_ms", FieldType::U64, "the replicated clock after it, since the Unix epoch"),
    field_doc("idempotency_floor", FieldType::U64, "idempotency records below this version have expired"),
    field_doc("membership", FieldType::Bytes32, "the membership as of it; at most 1 MiB"),
];
const SNAPSHOT_BEGUN_RESULTS: &[Variant] = &[
    variant(0, "go_on", &[field("part", FieldType::U64)], "so many parts are here: the number of the next is the same"),
    variant(1, "higher_vote", &[vote("")], "this vote is higher: the initiator leads no more"),
];
pub(super) const SNAPSHOT_BEGUN: &[FieldRow] = &[field("result", FieldType::Choice(SNAPSHOT_BEGUN_RESULTS))];
pub(super) const SNAPSHOT_PART: &[FieldRow] = &[
    field_doc("part", FieldType::U64, "its number, from 0 on"),
    field_doc(
        "rows",
        FieldType::List32(&[
            field("key", FieldType::Key),
            field_doc("row_version", FieldType::U64, "the version that wrote it"),
            field("value", FieldType::Bytes32),
        ]),
        "in strictly ascending order of full keys, above those of the part before",
    ),
];
pub(super) const SNAPSHOT_END: &[FieldRow] = &[
    field_doc("parts", FieldType::U64, "how many there were"),
    field_doc("rows", FieldType::U64, "how many were in all of them"),
    field_doc("hash", FieldType::U64, "of all of them"),
];
pub(super) const SNAPSHOT_ENDED: &[FieldRow] = &[vote("that of the acceptor; higher if it has not installed it")];

pub(super) const JOIN: &[FieldRow] = &[
    field_doc("node", FieldType::U64, "the identity that an earlier JOIN gave it; 0: none"),
    field_doc("peer_address", FieldType::Text16, "where its peer listener is; at most 255 bytes"),
    field_doc("client_address", FieldType::Text16, "where its client listener is; at most 255 bytes"),
];
pub(super) const JOINED: &[FieldRow] =
    &[field("cluster_id", FieldType::Fixed(16)), field_doc("node", FieldType::U64, "who the node is from now on")];

pub(super) const COMMIT_WHOLE: &[FieldRow] = &[
    field_doc("read_version", FieldType::U64, "what the transaction reads at"),
    field_doc(
        "points",
        FieldType::Packed32(&[field_doc("key", FieldType::Bytes16, "a full key")]),
        "the keys that it read",
    ),
    field_doc(
        "ranges",
        FieldType::Packed32(&[
            field_doc("start", FieldType::Bytes16, "a full key"),
            field_doc("end", FieldType::Bytes16, "a full key, or the upper bound of a keyspace"),
        ]),
        "the ranges that it read; the end is not part of a range",
    ),
    field("mutations", FieldType::U32),
    field_doc(
        "body",
        FieldType::Packed32(&[field("mutation", FieldType::Choice(MUTATIONS))]),
        "so many mutations, in order",
    ),
];
