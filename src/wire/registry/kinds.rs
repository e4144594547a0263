//! The kinds of frames, and their flags.

use super::fields::{FieldRow, FieldType, field, field_doc};

/// Who sends a frame or a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client alone.
    ToServer,
    /// The server alone.
    ToClient,
    /// Either.
    Both,
}

/// What the header's request id must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdRule {
    /// Zero.
    Zero,
    /// Not zero.
    Request,
    /// Zero for the connection, or a request's.
    Either,
}

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The client's first frame.
    Hello,
    /// The server's answer to it.
    Welcome,
    /// Reserved for authentication.
    Auth,
    /// Asks for something; its opcode says what.
    Request,
    /// The whole answer.
    Response,
    /// A part of a stream.
    Chunk,
    /// The end of a stream.
    End,
    /// The request failed.
    Error,
    /// Allows the peer to send more of a stream.
    Credit,
    /// The answer is not wanted any more.
    Cancel,
    /// Asks for a PONG.
    Ping,
    /// Echoes a PING.
    Pong,
    /// Something the client may want to know.
    Notice,
    /// The connection ends.
    Goaway,
    /// A kind at or above 0x80 that this code does not know: checked, skipped, ignored.
    Other(u8),
    /// A kind below 0x80 that this code does not know: a protocol error.
    Invalid(u8),
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindRow {
    /// The kind.
    pub kind: Kind,
    /// Its number.
    pub number: u8,
    /// Its name in the specification.
    pub name: &'static str,
    /// Who sends it.
    pub direction: Direction,
    /// What its request id must be.
    pub id: IdRule,
    /// Whether the header carries an opcode; it is zero otherwise.
    pub has_opcode: bool,
    /// The fixed fields of its payload, where they do not depend on the opcode.
    pub fields: &'static [FieldRow],
    /// What it is for.
    pub doc: &'static str,
}

use Direction::{Both, ToClient, ToServer};

macro_rules! kinds {
    ($( $number:literal $kind:ident $name:literal $direction:ident $id:ident $opcode:literal $doc:literal
        [ $($fields:expr),* $(,)? ] )+) => {
        impl Kind {
            /// The kind with this number.
            #[inline]
            #[must_use]
            pub const fn from_number(number: u8) -> Kind {
                match number {
                    $( $number => Kind::$kind, )+
                    0x80.. => Kind::Other(number),
                    _ => Kind::Invalid(number),
                }
            }

            /// The kind's number.
            #[inline]
            #[must_use]
            pub const fn number(self) -> u8 {
                match self {
                    $( Kind::$kind => $number, )+
                    Kind::Other(number) | Kind::Invalid(number) => number,
                }
            }

            /// The kind's name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Kind::$kind => $name, )+
                    Kind::Other(_) | Kind::Invalid(_) => "unknown",
                }
            }

            /// Whether its request id must be zero, not zero, or either.
            #[inline]
            #[must_use]
            pub const fn id_rule(self) -> IdRule {
                match self {
                    $( Kind::$kind => IdRule::$id, )+
                    Kind::Other(_) | Kind::Invalid(_) => IdRule::Either,
                }
            }

            /// Whether its header carries an opcode.
            #[inline]
            #[must_use]
            pub const fn has_opcode(self) -> bool {
                match self {
                    $( Kind::$kind => $opcode, )+
                    Kind::Other(_) | Kind::Invalid(_) => true,
                }
            }
        }

        /// Every kind, by number.
        pub const KINDS: &[KindRow] = &[ $( KindRow {
            kind: Kind::$kind, number: $number, name: $name, direction: $direction, id: IdRule::$id,
            has_opcode: $opcode, fields: &[$($fields),*], doc: $doc,
        }, )+ ];
    };
}

kinds! {
    1 Hello "HELLO" ToServer Zero false "the client's first frame: versions, features, credit" [
        field("version_min", FieldType::U8),
        field("version_max", FieldType::U8),
        field_doc("credit", FieldType::U32, "bytes of CHUNK payload that the server may send on this connection"),
        field_doc("client_name", FieldType::Text16, "at most 128 bytes"),
        field_doc("features", FieldType::List16(FEATURE), "at most 64, of at most 64 bytes"),
    ]
    2 Welcome "WELCOME" ToClient Zero false "the server's answer: who it is, what both know, the limits" [
        field("version", FieldType::U8),
        field("cluster_id", FieldType::Fixed(16)),
        field("node_id", FieldType::U64),
        field("session_id", FieldType::U64),
        field_doc("server_name", FieldType::Text16, "name and version"),
        field_doc("features", FieldType::List16(FEATURE), "those that both sides know"),
        field_doc("mechanisms", FieldType::List16(MECHANISM), "ways to authenticate; none today"),
        field("limits", FieldType::List16(LIMIT)),
    ]
    3 Auth "AUTH" Both Zero false "reserved for authentication; a protocol error today" []
    4 Request "REQUEST" ToServer Request true "asks for what its opcode says" []
    5 Response "RESPONSE" ToClient Request true "the whole answer; terminal" []
    6 Chunk "CHUNK" ToClient Request true "a part of a stream" []
    7 End "END" ToClient Request true "the end of a stream; terminal" []
    8 Error "ERROR" ToClient Request true "the request failed; terminal" [
        field("code", FieldType::U16),
        field("retry", FieldType::Enum(super::errors::RETRIES)),
        field("outcome", FieldType::Enum(super::errors::OUTCOMES)),
        field_doc("retry_after_ms", FieldType::U32, "wait at least this long; 0 when the server cannot say"),
        field_doc("message", FieldType::Text16, "for people, never for parsing"),
    ]
    9 Credit "CREDIT" ToServer Either false "allows so many more bytes of CHUNK payload, on a stream or the connection" [
        field("bytes", FieldType::U32),
    ]
    10 Cancel "CANCEL" ToServer Request false "the answer of this request is not wanted any more" []
    11 Ping "PING" Both Zero false "asks for a PONG with the same bytes" [
        field("opaque", FieldType::Fixed(8)),
    ]
    12 Pong "PONG" Both Zero false "the answer to a PING" [
        field("opaque", FieldType::Fixed(8)),
    ]
    13 Notice "NOTICE" ToClient Zero false "something the client may want to know" [
        field_doc("code", FieldType::U16, "an unknown code is ignored"),
    ]
    14 Goaway "GOAWAY" Both Zero false "the connection ends, and why" [
        field("code", FieldType::U16),
        field_doc("highest_request_id", FieldType::U64, "the highest request id that was accepted; 0 if none"),
        field_doc("message", FieldType::Text16, "for people, never for parsing"),
    ]
}

const FEATURE: &[FieldRow] = &[field("name", FieldType::Text16)];
const MECHANISM: &[FieldRow] = &[field("name", FieldType::Text16)];
const LIMIT: &[FieldRow] = &[field("id", FieldType::U16), field("value", FieldType::U64)];

/// A REQUEST waits until every earlier REQUEST of its connection has had its terminal frame.
pub const FLAG_AFTER: u8 = 0x01;
/// Flags that a receiver must understand, and nobody does yet.
pub const FLAGS_CRITICAL: u8 = 0x0e;

/// What is known of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagRow {
    /// Its bit, or bits.
    pub bits: u8,
    /// Its name in the specification.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// Every flag, by bit.
pub const FLAGS: &[FlagRow] = &[
    FlagRow {
        bits: FLAG_AFTER,
        name: "AFTER",
        doc: "on REQUEST alone: wait for every earlier request's terminal frame",
    },
    FlagRow { bits: FLAGS_CRITICAL, name: "reserved, critical", doc: "set: PROTOCOL_ERROR, connection" },
    FlagRow { bits: 0xf0, name: "reserved, ignored", doc: "senders set them at random, receivers ignore them" },
];

/// Whether a kind is one that means nothing and is sent at random.
#[must_use]
pub const fn is_grease_kind(number: u8) -> bool {
    number >= 0x80 && number & 0x0f == 0x0a
}
