//! The operations: what a REQUEST carries and what its answer does.

use super::fields::{FieldRow, FieldType, Named, Variant, field, field_doc, named};
use super::tags::{Tag, TagSet};

/// What a REQUEST asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Opcode {
    /// How the node does.
    Status = 0x0001,
    /// A version at which everything acknowledged so far can be read.
    ReadVersion = 0x0002,
    /// The id of a keyspace, by name.
    OpenKeyspace = 0x0003,
    /// The value of a key.
    Get = 0x0010,
    /// The values of many keys, at one version.
    GetMany = 0x0011,
    /// The rows of a range, as a stream.
    Scan = 0x0012,
    /// Writes a value.
    Put = 0x0020,
    /// Removes a key.
    Delete = 0x0021,
    /// Removes every key of a range.
    DeleteRange = 0x0022,
    /// Changes a value by an operation that never fails.
    Atomic = 0x0023,
    /// A whole transaction in one message: conditions, and what to do if they hold or not.
    Execute = 0x0024,
    /// Begins a transaction.
    Begin = 0x0030,
    /// Commits it.
    Commit = 0x0031,
    /// Forgets it.
    Rollback = 0x0032,
    /// Names the state of its writes.
    Savepoint = 0x0033,
    /// Restores the state so named.
    RollbackTo = 0x0034,
    /// What became of a commit, by its idempotency pair.
    Outcome = 0x0035,
    /// Every row of every keyspace as of one version, as a stream.
    Backup = 0x0070,
    /// Who is a member of the cluster, and how far each has come.
    ClusterStatus = 0x0071,
    /// Takes a member out of the cluster.
    ClusterRemove = 0x0072,
    /// Hands the leader's office to another member.
    ClusterTransfer = 0x0073,
    /// Makes a learner a voter.
    ClusterPromote = 0x0074,
    /// Reserves an identity for a node that will join.
    ClusterAdd = 0x0075,
}

/// What is known of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpcodeRow {
    /// The opcode.
    pub opcode: Opcode,
    /// Its name in the specification.
    pub name: &'static str,
    /// The fixed fields of its REQUEST.
    pub request: &'static [FieldRow],
    /// The fixed fields of its RESPONSE; of a stream, none.
    pub response: &'static [FieldRow],
    /// The fixed fields of its CHUNK, if it is a stream.
    pub chunk: Option<&'static [FieldRow]>,
    /// The fixed fields of its END, if it is a stream.
    pub end: Option<&'static [FieldRow]>,
    /// The tags that its REQUEST may carry, besides DEADLINE and TRACE_PARENT, which all may.
    pub tags: &'static [Tag],
    /// What it does.
    pub doc: &'static str,
}

/// Numbers kept for what is not built yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRange {
    /// The first of them.
    pub first: u16,
    /// The last of them.
    pub last: u16,
    /// What they are kept for.
    pub name: &'static str,
}

impl ReservedRange {
    /// Whether the number is one of them.
    #[must_use]
    pub const fn contains(&self, number: u16) -> bool {
        self.first <= number && number <= self.last
    }
}

/// Opcodes kept for what is not built yet. A request with one is UNSUPPORTED.
pub const OPCODES_RESERVED: &[ReservedRange] = &[
    ReservedRange { first: 0x0040, last: 0x004f, name: "WATCH" },
    ReservedRange { first: 0x0050, last: 0x005f, name: "QUERY" },
    ReservedRange { first: 0x0060, last: 0x006f, name: "CATALOG, INDEX" },
    ReservedRange { first: 0x0076, last: 0x007f, name: "CLUSTER, ADMIN" },
];

const VERSION: FieldRow = field("version", FieldType::U64);
const VERSION_ALONE: &[FieldRow] = &[VERSION];
const KEY: FieldRow = field("key", FieldType::Key);
const VALUE: FieldRow = field("value", FieldType::Bytes32);
const RANGE: FieldRow = field("range", FieldType::Range);
const NAME: FieldRow = field_doc("name", FieldType::Bytes16, "1 to 64 bytes");
/// A byte that is 0 or 1.
pub(in crate::wire) const BOOLEAN: FieldType = FieldType::Enum(&[named(0, "no", ""), named(1, "yes", "")]);
const RESULT: &[FieldRow] = &[field("result", FieldType::Bytes32)];
/// The fixed fields of the answer to a commit.
pub(in crate::wire) const COMMIT_RESPONSE: &[FieldRow] =
    &[VERSION, field_doc("results", FieldType::List16(RESULT), "one for each ATOMIC, in order")];
const ROW: &[FieldRow] = &[
    field_doc("key", FieldType::Bytes16, "without its keyspace"),
    field("row_version", FieldType::U64),
    field_doc("value", FieldType::Bytes32, "empty if keys alone were asked for"),
];
const MEMBER: &[FieldRow] = &[
    field("node", FieldType::U64),
    field_doc("voter", BOOLEAN, "no: a learner"),
    field_doc("peer_address", FieldType::Text16, "at most 255 bytes"),
    field_doc("client_address", FieldType::Text16, "at most 255 bytes"),
    field_doc("known", BOOLEAN, "whether the node that answers knows what follows"),
    field_doc("matched", FieldType::U64, "the index of the last log entry that it holds"),
    field_doc("lag", FieldType::U64, "how many entries it is behind the leader"),
    field_doc("contact_ms", FieldType::U64, "how long ago it was last heard; 2^64 - 1: never"),
    field_doc("version", FieldType::U64, "the last version that it has applied, as it last told"),
    field_doc("chain", FieldType::U64, "the chain hash after it"),
    field_doc("level", FieldType::U16, "the greatest state-machine level that it knows"),
];
const BACKUP_ROW: &[FieldRow] = &[KEY, field("row_version", FieldType::U64), field("value", FieldType::Bytes32)];
const FOUND: &[FieldRow] = &[
    field("found", BOOLEAN),
    field_doc("row_version", FieldType::U64, "the version that wrote the value; 0 if none"),
    field_doc("value", FieldType::Bytes32, "empty if none"),
];
const ATOMIC: &[FieldRow] = &[
    field_doc("op", FieldType::Enum(ATOMIC_OPS), "see the table of atomic operations"),
    KEY,
    field("operand", FieldType::Bytes32),
];
const ROLES: &[Named] =
    &[named(0, "none", ""), named(1, "leader", ""), named(2, "follower", ""), named(3, "learner", "")];
const ISOLATIONS: &[Named] = &[
    named(0, "serializable", "everything that was read must be unchanged"),
    named(1, "snapshot", "only the keys that are written must be unchanged"),
];
const SCAN_FLAGS: &[Named] = &[
    named(1, "reverse", "from the end of the range to its start"),
    named(2, "keys_only", "values are empty"),
    named(4, "count_only", "no rows: END tells how many"),
];
const RANGE_FLAGS: &[Named] =
    &[named(1, "reverse", "from the end of the range to its start"), named(2, "keys_only", "values are empty")];
const ENDS: &[Named] = &[
    named(0, "exhausted", "everything in the range was told"),
    named(1, "limit", "the limit was reached; RESUME_TOKEN says where to go on"),
];
const STATES: &[Named] = &[
    named(1, "committed", "at `version`"),
    named(2, "never", "it did not commit and never will: it is fenced now"),
    named(3, "expired", "the record is gone; nobody can say any more"),
    named(4, "rejected", "with `code`"),
];

/// The atomic operations.
pub const ATOMIC_OPS: &[Named] = &[
    named(1, "ADD", "the sum of two 64-bit integers, wrapping"),
    named(2, "MIN", "the lesser of two signed 64-bit integers"),
    named(3, "MAX", "the greater of two signed 64-bit integers"),
    named(4, "AND", "bitwise and"),
    named(5, "OR", "bitwise or"),
    named(6, "XOR", "bitwise exclusive or"),
    named(7, "BYTE_MIN", "the bytewise lesser"),
    named(8, "BYTE_MAX", "the bytewise greater"),
    named(9, "APPEND", "the old value with the operand behind it"),
    named(10, "COMPARE_AND_DELETE", "removes the key if its value is the operand"),
];

/// The conditions of EXECUTE.
pub const CONDITIONS: &[Variant] = &[
    condition(1, "EXISTS", "the key has a value; the operand is empty"),
    condition(2, "ABSENT", "the key has no value; the operand is empty"),
    condition(3, "VALUE_EQUALS", "the key has this value"),
    condition(4, "VALUE_DIFFERS", "the key has another value, or none"),
    condition(5, "VERSION_EQUALS", "the key was last written at this version (u64); 0: it has no value"),
    condition(6, "VERSION_AT_MOST", "the key was not written after this version (u64); one without a value holds"),
];

const CONDITION: &[FieldRow] = &[KEY, field("operand", FieldType::Bytes32)];

const fn condition(number: u8, name: &'static str, doc: &'static str) -> Variant {
    Variant { number, name, fields: CONDITION, doc }
}

const PUT: Variant = Variant { number: 1, name: "PUT", fields: &[KEY, VALUE], doc: "writes a value" };
const DELETE: Variant = Variant { number: 2, name: "DELETE", fields: &[KEY], doc: "removes a key" };
const CHANGE: Variant = Variant { number: 3, name: "ATOMIC", fields: ATOMIC, doc: "changes a value" };

/// The mutations, as the log has them.
pub const MUTATIONS: &[Variant] = &[PUT, DELETE, CHANGE];

/// The operations of EXECUTE. The first three are mutations.
pub const OPS: &[Variant] = &[
    PUT,
    DELETE,
    CHANGE,
    Variant { number: 4, name: "DELETE_RANGE", fields: &[RANGE], doc: "removes every key of a range" },
    Variant { number: 16, name: "GET", fields: &[KEY], doc: "the value of a key" },
    Variant {
        number: 17,
        name: "RANGE",
        fields: &[
            RANGE,
            field("flags", FieldType::Flags(RANGE_FLAGS)),
            field_doc("limit", FieldType::U32, "at least 1"),
        ],
        doc: "the first rows of a range",
    },
];

/// The results of EXECUTE's operations, under the operations' numbers.
pub const RESULTS: &[Variant] = &[
    Variant { number: 1, name: "PUT", fields: &[], doc: "" },
    Variant { number: 2, name: "DELETE", fields: &[], doc: "" },
    Variant { number: 3, name: "ATOMIC", fields: RESULT, doc: "" },
    Variant { number: 4, name: "DELETE_RANGE", fields: &[field("deleted", FieldType::U64)], doc: "" },
    Variant { number: 16, name: "GET", fields: FOUND, doc: "" },
    Variant {
        number: 17,
        name: "RANGE",
        fields: &[field_doc("more", BOOLEAN, "whether the limit cut it short"), field("rows", FieldType::List32(ROW))],
        doc: "",
    },
];

const OPS_LIST: FieldType = FieldType::List16(&[field("op", FieldType::Choice(OPS))]);

macro_rules! opcodes {
    ($( $opcode:ident $name:literal $doc:literal
        request $request:expr; response $response:expr; $(chunk $chunk:expr; end $end:expr;)? tags [ $($tag:ident)* ] )+) => {
        impl Opcode {
            /// The opcode with this number.
            #[inline]
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Opcode> {
                $( if number == Opcode::$opcode as u16 { return Some(Opcode::$opcode); } )+
                None
            }

            /// The opcode's number.
            #[inline]
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The opcode's name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Opcode::$opcode => $name, )+ }
            }

            /// The tags that its REQUEST may carry.
            #[inline]
            #[must_use]
            pub const fn tags(self) -> TagSet {
                match self {
                    $( Opcode::$opcode => const { TagSet::of(&[Tag::DEADLINE, Tag::TRACE_PARENT, $(Tag::$tag),*]) }, )+
                }
            }
        }

        /// Every opcode, by number.
        pub const OPCODES: &[OpcodeRow] = &[ $( OpcodeRow {
            opcode: Opcode::$opcode,
            name: $name,
            request: $request,
            response: $response,
            chunk: opcodes!(@option $($chunk)?),
            end: opcodes!(@option $($end)?),
            tags: &[$(Tag::$tag),*],
            doc: $doc,
        }, )+ ];
    };
    (@option) => { None };
    (@option $fields:expr) => { Some($fields) };
}

impl Opcode {
    /// What is known of it.
    #[must_use]
    pub fn row(self) -> &'static OpcodeRow {
        OPCODES.iter().find(|row| row.opcode == self).expect("every opcode has a row")
    }

    /// Whether it is answered by CHUNKs and an END.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Opcode::Scan | Opcode::Backup)
    }
}

opcodes! {
    Status "STATUS" "how the node does"
        request &[];
        response &[
            field_doc("version", FieldType::U64, "the last version applied"),
            field("cluster_id", FieldType::Fixed(16)),
            field("node_id", FieldType::U64),
            field("role", FieldType::Enum(ROLES)),
            field("term", FieldType::U64),
            field("uptime_ms", FieldType::U64),
            field("counters", FieldType::List16(&[field("name", FieldType::Text16), field("value", FieldType::U64)])),
        ];
        tags []
    ReadVersion "READ_VERSION" "a version at which everything acknowledged so far can be read"
        request &[];
        response VERSION_ALONE;
        tags [MIN_VERSION CONSISTENCY]
    OpenKeyspace "OPEN_KEYSPACE" "the id of a keyspace, by name"
        request &[
            field("flags", FieldType::Flags(&[named(1, "create", "make it if there is none of this name")])),
            field_doc("name", FieldType::Text16, "1 to 128 bytes"),
        ];
        response &[VERSION, field("keyspace", FieldType::U32), field("created", BOOLEAN)];
        tags [IDEMPOTENCY RETRY_MARK]
    Get "GET" "the value of a key"
        request &[KEY];
        response &[VERSION, FOUND[0], FOUND[1], FOUND[2]];
        tags [MIN_VERSION TRANSACTION CONSISTENCY]
    GetMany "GET_MANY" "the values of many keys, at one version"
        request &[field("keys", FieldType::List16(&[KEY]))];
        response &[
            VERSION,
            field_doc("answered", FieldType::List16(FOUND), "of the first keys, in order; ask again for the rest"),
        ];
        tags [MIN_VERSION TRANSACTION CONSISTENCY]
    Scan "SCAN" "the rows of a range, as a stream"
        request &[
            RANGE,
            field("flags", FieldType::Flags(SCAN_FLAGS)),
            field_doc("limit", FieldType::U64, "most rows; 0: no limit"),
            field_doc("credit", FieldType::U32, "bytes of CHUNK payload that the server may send on this stream"),
        ];
        response &[];
        chunk &[field("rows", FieldType::List32(ROW))];
        end &[
            field_doc("version", FieldType::U64, "the last that rows were read at"),
            field_doc("rows", FieldType::U64, "how many were told, or counted"),
            field("end", FieldType::Enum(ENDS)),
            field_doc("first_version", FieldType::U64, "the first that rows were read at"),
        ];
        tags [MIN_VERSION RESUME_TOKEN TRANSACTION CONSISTENCY IF_GONE]
    Put "PUT" "writes a value"
        request &[KEY, VALUE];
        response VERSION_ALONE;
        tags [TRANSACTION IDEMPOTENCY RETRY_MARK]
    Delete "DELETE" "removes a key"
        request &[KEY];
        response VERSION_ALONE;
        tags [TRANSACTION IDEMPOTENCY RETRY_MARK]
    DeleteRange "DELETE_RANGE" "removes every key of a range"
        request &[RANGE];
        response &[VERSION, field("deleted", FieldType::U64)];
        tags [TRANSACTION IDEMPOTENCY RETRY_MARK]
    Atomic "ATOMIC" "changes a value by an operation that never fails"
        request ATOMIC;
        response &[
            VERSION,
            field_doc("has_result", BOOLEAN, "no in a transaction: the result comes with COMMIT"),
            field("result", FieldType::Bytes32),
        ];
        tags [TRANSACTION IDEMPOTENCY RETRY_MARK]
    Execute "EXECUTE" "a whole transaction in one message: conditions, and what to do if they hold or not"
        request &[
            field("conditions", FieldType::List16(&[field("condition", FieldType::Choice(CONDITIONS))])),
            field_doc("then", OPS_LIST, "done if every condition holds"),
            field_doc("else", OPS_LIST, "done otherwise"),
        ];
        response &[
            VERSION,
            field("branch", FieldType::Enum(&[named(0, "else", ""), named(1, "then", "")])),
            field("results", FieldType::List16(&[field("result", FieldType::Choice(RESULTS))])),
        ];
        tags [MIN_VERSION IDEMPOTENCY RETRY_MARK]
    Begin "BEGIN" "begins a transaction, named by this request's id"
        request &[field("isolation", FieldType::Enum(ISOLATIONS))];
        response &[field_doc("version", FieldType::U64, "the read version")];
        tags [MIN_VERSION CONSISTENCY]
    Commit "COMMIT" "commits a transaction"
        request &[];
        response COMMIT_RESPONSE;
        tags [TRANSACTION IDEMPOTENCY RETRY_MARK]
    Rollback "ROLLBACK" "forgets a transaction"
        request &[];
        response VERSION_ALONE;
        tags [TRANSACTION]
    Savepoint "SAVEPOINT" "names the state of a transaction's writes"
        request &[NAME];
        response VERSION_ALONE;
        tags [TRANSACTION]
    RollbackTo "ROLLBACK_TO" "restores the writes to a savepoint and clears an error"
        request &[NAME];
        response VERSION_ALONE;
        tags [TRANSACTION]
    Outcome "OUTCOME" "what became of a commit, by its pair; fences it if nothing did"
        request &[field("key", FieldType::Fixed(16)), field("seen", FieldType::U64)];
        response &[
            field("state", FieldType::Enum(STATES)),
            field_doc("version", FieldType::U64, "the commit version; 0 if none"),
            field_doc("code", FieldType::U16, "of the rejection; 0 if none"),
            field_doc("has_results", BOOLEAN, "no if they were too long to be recorded"),
            field("results", FieldType::List16(RESULT)),
        ];
        tags []
    Backup "BACKUP" "every row of every keyspace, the catalog's included, as of one version, as a stream"
        request &[field_doc("credit", FieldType::U32, "bytes of CHUNK payload that the server may send on this stream")];
        response &[];
        chunk &[
            field_doc("version", FieldType::U64, "that every row is read at"),
            field("rows", FieldType::List32(BACKUP_ROW)),
        ];
        end &[
            field_doc("version", FieldType::U64, "that every row was read at"),
            field_doc("rows", FieldType::U64, "how many this request told"),
            field_doc("bytes", FieldType::U64, "their full keys and values together"),
            field_doc("clock_ms", FieldType::U64, "of the cluster, no earlier than the version; since the Unix epoch"),
        ];
        tags [MIN_VERSION RESUME_TOKEN CONSISTENCY]
    ClusterStatus "CLUSTER_STATUS" "who is a member of the cluster, and how far each has come"
        request &[];
        response &[
            field_doc("version", FieldType::U64, "the last version applied"),
            field_doc("leader", FieldType::U64, "who leads; 0: that is not known"),
            field("term", FieldType::U64),
            field_doc("members", FieldType::List16(MEMBER), "learners included, by id"),
        ];
        tags []
    ClusterRemove "CLUSTER_REMOVE" "takes a member out of the cluster"
        request &[field("node", FieldType::U64)];
        response VERSION_ALONE;
        tags []
    ClusterTransfer "CLUSTER_TRANSFER" "hands the leader's office to another member"
        request &[field_doc("node", FieldType::U64, "0: whoever is best")];
        response VERSION_ALONE;
        tags []
    ClusterPromote "CLUSTER_PROMOTE" "makes a learner a voter"
        request &[field("node", FieldType::U64)];
        response VERSION_ALONE;
        tags []
    ClusterAdd "CLUSTER_ADD" "reserves an identity for the node that will join from an address"
        request &[field_doc("peer_address", FieldType::Text16, "where its peer listener is; 1 to 255 bytes")];
        response &[VERSION, field_doc("node", FieldType::U64, "the identity")];
        tags []
}
