//! The errors: what each means, whether to send again, and what became of the request.

use super::fields::{Named, named};
use std::fmt;

/// Whether to send a failed request again, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It fails again, or may do harm.
    Never = 0,
    /// At once, on this or another connection.
    Same = 1,
    /// Later: after `retry_after_ms`, doubling.
    Backoff = 2,
    /// At the node that tag LEADER names.
    Redirect = 3,
    /// The whole transaction, from BEGIN.
    RestartTxn = 4,
}

/// What became of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It changed nothing and never will.
    NotApplied = 0,
    /// It was done, but its answer could not be given.
    Applied = 1,
    /// It may have been done, or may yet be.
    Unknown = 2,
}

/// The values of [`Retry`].
pub(super) const RETRIES: &[Named] = &[
    named(0, "never", "it fails again, or may do harm"),
    named(1, "same", "at once, here or on another connection"),
    named(2, "backoff", "later: after retry_after_ms, doubling"),
    named(3, "redirect", "at the node that tag LEADER names"),
    named(4, "restart_txn", "the whole transaction, from BEGIN"),
];

/// The values of [`Outcome`].
pub(super) const OUTCOMES: &[Named] = &[
    named(0, "not_applied", "it changed nothing and never will"),
    named(1, "applied", "it was done, but its answer could not be given"),
    named(2, "unknown", "it may have been done, or may yet be"),
];

impl Retry {
    /// The value with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Retry> {
        match number {
            0 => Some(Retry::Never),
            1 => Some(Retry::Same),
            2 => Some(Retry::Backoff),
            3 => Some(Retry::Redirect),
            4 => Some(Retry::RestartTxn),
            _ => None,
        }
    }

    /// Its name in the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        RETRIES[self as usize].name
    }
}

impl Outcome {
    /// The value with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Outcome> {
        match number {
            0 => Some(Outcome::NotApplied),
            1 => Some(Outcome::Applied),
            2 => Some(Outcome::Unknown),
            _ => None,
        }
    }

    /// Its name in the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        OUTCOMES[self as usize].name
    }
}

/// The code of an ERROR or a GOAWAY. A newer peer may send one that has no row here; its retry and outcome still say
/// what to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

/// What is known of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// Its code.
    pub code: ErrorCode,
    /// Its name in the specification.
    pub name: &'static str,
    /// Whether to send again, unless the error says otherwise.
    pub retry: Retry,
    /// What became of the request, unless the error says otherwise.
    pub outcome: Outcome,
    /// Whether it ends the connection (GOAWAY), or the request alone (ERROR).
    pub connection: bool,
    /// What it means.
    pub doc: &'static str,
}

impl ErrorCode {
    /// What is known of it; `None` for a code of a newer peer.
    #[must_use]
    pub fn row(self) -> Option<&'static ErrorRow> {
        ERRORS.iter().find(|row| row.code == self)
    }

    /// Its name in the specification, or `UNKNOWN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("UNKNOWN", |row| row.name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.row() {
            Some(row) => f.write_str(row.name),
            None => write!(f, "error {:#06x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $name:ident = $code:literal $scope:ident $retry:ident $outcome:ident; )+) => {
        impl ErrorCode {
            $( $(#[doc = $doc])+ pub const $name: ErrorCode = ErrorCode($code); )+
        }

        /// Every error, by code.
        pub const ERRORS: &[ErrorRow] = &[ $( ErrorRow {
            code: ErrorCode::$name,
            name: stringify!($name),
            retry: Retry::$retry,
            outcome: Outcome::$outcome,
            connection: scope!($scope),
            doc: concat!($($doc),+),
        }, )+ ];
    };
}

macro_rules! scope {
    (connection) => {
        true
    };
    (request) => {
        false
    };
}

errors! {
    /// The peer broke a rule that leaves no frame to answer.
    PROTOCOL_ERROR = 0x01 connection Never Unknown;
    /// No protocol or framing version is spoken by both.
    VERSION_UNSUPPORTED = 0x02 connection Never NotApplied;
    /// A frame's payload is longer than the limit.
    FRAME_TOO_LARGE = 0x03 connection Never Unknown;
    /// A checksum is wrong: the bytes were changed on their way.
    BAD_CHECKSUM = 0x04 connection Same Unknown;
    /// The handshake took too long.
    HANDSHAKE_TIMEOUT = 0x05 connection Backoff NotApplied;
    /// The server has as many connections as it may.
    TOO_MANY_CONNECTIONS = 0x06 connection Backoff NotApplied;
    /// The connection was silent for too long.
    IDLE_TIMEOUT = 0x07 connection Same NotApplied;
    /// The server is shutting down; also on a request, which was not accepted.
    SHUTTING_DOWN = 0x08 connection Backoff NotApplied;
    /// The peer closes the connection because it wants to.
    NO_ERROR = 0x09 connection Same Unknown;
    /// The peer is of another cluster.
    WRONG_CLUSTER = 0x0a connection Never NotApplied;
    /// Another node was wanted than the one that answers, or the one that asks is no member.
    WRONG_NODE = 0x0b connection Never NotApplied;
    /// Clients and peers have listeners of their own, and this is the other one.
    WRONG_PORT = 0x0c connection Never NotApplied;

    /// The payload does not follow the opcode's layout.
    MALFORMED = 0x10 request Never NotApplied;
    /// No operation has this opcode.
    UNKNOWN_OPCODE = 0x11 request Never NotApplied;
    /// A tag that must be understood is not; tag TAG says which.
    UNKNOWN_CRITICAL_TAG = 0x12 request Never NotApplied;
    /// The opcode or tag is reserved for what is not built yet.
    UNSUPPORTED = 0x13 request Never NotApplied;

    /// A key is longer than the limit.
    KEY_TOO_LARGE = 0x20 request Never NotApplied;
    /// A value or operand is longer than the limit.
    VALUE_TOO_LARGE = 0x21 request Never NotApplied;
    /// The transaction, with its read ranges, is larger than the limit.
    TRANSACTION_TOO_LARGE = 0x22 request Never NotApplied;
    /// The answer would be larger than the limit; nothing was done.
    RESULT_TOO_LARGE = 0x23 request Never NotApplied;
    /// A range starts after its end.
    BAD_RANGE = 0x24 request Never NotApplied;
    /// A name is empty, too long or not UTF-8.
    BAD_NAME = 0x25 request Never NotApplied;
    /// A list has more items than the limit.
    TOO_MANY_ITEMS = 0x26 request Never NotApplied;

    /// No keyspace has this id or name.
    UNKNOWN_KEYSPACE = 0x30 request Never NotApplied;

    /// Something that the transaction read was changed by another; tag CONFLICT_KEY may say what.
    CONFLICT = 0x40 request RestartTxn NotApplied;
    /// The transaction's read version is older than what conflicts are remembered for.
    TOO_OLD = 0x41 request RestartTxn NotApplied;
    /// No transaction of this connection was begun by that request, or it has ended.
    UNKNOWN_TRANSACTION = 0x42 request Never NotApplied;
    /// An earlier request of the transaction failed; tag CAUSE says how. ROLLBACK and ROLLBACK_TO are still accepted.
    PRIOR_FAILED = 0x43 request Never NotApplied;
    /// The transaction was open for too long, or idle for too long.
    TRANSACTION_EXPIRED = 0x44 request RestartTxn NotApplied;
    /// The connection has as many transactions as it may.
    TOO_MANY_TRANSACTIONS = 0x45 request Backoff NotApplied;
    /// The transaction has no savepoint of this name.
    UNKNOWN_SAVEPOINT = 0x46 request Never NotApplied;
    /// The version that the scan reads at cannot be read any more: begin anew, or resume with IF_GONE newer.
    SNAPSHOT_GONE = 0x47 request Never NotApplied;
    /// The resume token was not made by this cluster for this scan.
    BAD_TOKEN = 0x48 request Never NotApplied;
    /// The scan was ended by its transaction's commit or rollback.
    TRANSACTION_CLOSED = 0x49 request Never NotApplied;
    /// The transaction has as many savepoints as it may.
    TOO_MANY_SAVEPOINTS = 0x4a request Never NotApplied;
    /// The connection has as many scans as it may.
    TOO_MANY_SCANS = 0x4b request Backoff NotApplied;

    /// The deadline passed before the request was begun.
    DEADLINE_EXCEEDED = 0x50 request Backoff NotApplied;
    /// The commit was sent on its way and nothing was heard of it: ask OUTCOME, or send again with RETRY_MARK.
    OUTCOME_UNKNOWN = 0x51 request Never Unknown;
    /// The commit lost its place in the order; nothing changed.
    NOT_APPLIED = 0x52 request Backoff NotApplied;
    /// More is in flight than the server takes.
    OVERLOADED = 0x53 request Backoff NotApplied;
    /// The memory for data is used up.
    MEMORY_FULL = 0x54 request Backoff NotApplied;
    /// The client cancelled the request.
    CANCELLED = 0x55 request Never NotApplied;
    /// Another node leads; tag LEADER names it, if known.
    NOT_LEADER = 0x56 request Redirect NotApplied;
    /// The node cannot answer now.
    UNAVAILABLE = 0x57 request Backoff NotApplied;
    /// The disk has less room than the server keeps free. Reads go on, and so do writes once there is room again.
    DISK_FULL = 0x58 request Backoff NotApplied;
    /// No member of the cluster has this id.
    UNKNOWN_NODE = 0x59 request Never NotApplied;
    /// The change would leave too few members that are heard to commit anything: LIMIT are needed, ACTUAL would be heard.
    QUORUM_AT_RISK = 0x5a request Never NotApplied;
    /// The node hears too few others to answer.
    NO_QUORUM = 0x5b request Backoff NotApplied;

    /// The idempotency pair is older than what records are kept for. On a marked retry the outcome is unknown.
    KEY_EXPIRED = 0x60 request Never NotApplied;
    /// OUTCOME was asked for the pair before the commit came: it never will.
    FENCED = 0x61 request Never NotApplied;
    /// A version from the future, or of another history.
    OTHER_TIMELINE = 0x62 request Never NotApplied;

    /// A failure of the server.
    INTERNAL = 0x70 request Never Unknown;

    /// Reserved: the connection has not said who it is.
    UNAUTHENTICATED = 0x80 request Never NotApplied;
    /// Reserved: the user may not do this.
    FORBIDDEN = 0x81 request Never NotApplied;
}
