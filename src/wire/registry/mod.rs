//! The one table of what the protocol's numbers mean: kinds, flags, opcodes, tags, errors, limits.
//!
//! The specification's tables, the machine-readable registry and the decoder of the golden vectors are made from these
//! rows, so a number stands here and nowhere else. Nothing here decodes; [`FieldType`] says in data what the typed
//! messages say in code, and a test holds the two together.

mod errors;
mod fields;
mod kinds;
mod limits;
mod opcodes;
mod tags;

pub use errors::{ERRORS, ErrorCode, ErrorRow, Outcome, Retry};
pub use fields::{FieldRow, FieldType, Named, Variant};
pub(super) use fields::{field, field_doc, named};
pub use kinds::{Direction, FLAG_AFTER, FLAGS, FLAGS_CRITICAL, FlagRow, IdRule, KINDS, Kind, KindRow, is_grease_kind};
pub use limits::{LIMITS, LimitId, LimitRow};
pub use opcodes::{
    ATOMIC_OPS, CONDITIONS, MUTATIONS, OPCODES, OPCODES_RESERVED, OPS, Opcode, OpcodeRow, RESULTS, ReservedRange,
};
pub(super) use opcodes::{BOOLEAN, COMMIT_RESPONSE};
pub use tags::{RESERVED_TAGS, TAGS, TRANSACTION_REQUIRED, Tag, TagRow, TagSet, TagType, is_critical, is_grease_tag};

/// The framing version that this code speaks: the preface's last byte.
pub const FRAMING_VERSION: u8 = 1;
/// The least protocol version that this code speaks.
pub const PROTOCOL_VERSION_MIN: u8 = 1;
/// The greatest protocol version that this code speaks.
pub const PROTOCOL_VERSION_MAX: u8 = if cfg!(feature = "skew") { 2 } else { 1 };
/// The features that this code knows, by name.
pub const FEATURES: &[Named] = &[
    Named { number: 0, name: "scan-count", doc: "SCAN may ask for a count alone" },
    Named { number: 0, name: "snapshot-isolation", doc: "BEGIN may ask for snapshot isolation" },
    Named { number: 0, name: "execute", doc: "EXECUTE is understood" },
];
/// What a feature's name begins with when it means nothing and must be ignored.
pub const GREASE_FEATURE_PREFIX: &str = "x-grease-";
/// The codes of a NOTICE.
pub const NOTICES: &[Named] = &[
    Named { number: 1, name: "SHUTTING_DOWN", doc: "the server will close this connection soon: connect elsewhere" },
    Named { number: 2, name: "LEADER_CHANGED", doc: "another node leads now; tag LEADER says which, if known" },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_given_once() {
        fn once<T: Ord + std::fmt::Debug>(what: &str, items: impl Iterator<Item = T>) {
            let mut seen = BTreeSet::new();
            for item in items {
                let text = format!("{what} {item:?} twice");
                assert!(seen.insert(item), "{text}");
            }
        }
        once("kind", KINDS.iter().map(|row| row.number));
        once("kind", KINDS.iter().map(|row| row.name));
        once("opcode", OPCODES.iter().map(|row| row.opcode as u16));
        once("opcode", OPCODES.iter().map(|row| row.name));
        once("tag", TAGS.iter().map(|row| row.tag).chain(RESERVED_TAGS.iter().map(|row| Tag(row.first))));
        once("tag", TAGS.iter().map(|row| row.name));
        once("error", ERRORS.iter().map(|row| row.code));
        once("error", ERRORS.iter().map(|row| row.name));
        once("limit", LIMITS.iter().map(|row| row.id));
        once("limit", LIMITS.iter().map(|row| row.name));
    }

    #[test]
    fn no_opcode_stands_in_a_reserved_range() {
        for row in OPCODES {
            assert!(!OPCODES_RESERVED.iter().any(|range| range.contains(row.opcode as u16)), "{}", row.name);
        }
    }

    #[test]
    fn every_kind_has_a_row_under_its_number() {
        for row in KINDS {
            assert_eq!(Kind::from_number(row.number), row.kind);
            assert_eq!(row.kind.number(), row.number);
            assert_eq!(row.kind.name(), row.name);
        }
        assert_eq!(Kind::from_number(0x8a), Kind::Other(0x8a));
        assert_eq!(Kind::Other(0x8a).name(), "unknown");
        assert!(is_grease_kind(0x8a) && !is_grease_kind(0x0a) && !is_grease_kind(0x8b));
    }

    #[test]
    fn every_opcode_has_a_row_under_its_number() {
        for row in OPCODES {
            assert_eq!(Opcode::from_number(row.opcode as u16), Some(row.opcode));
            assert_eq!(row.opcode.row().name, row.name);
        }
        assert_eq!(Opcode::from_number(0xffff), None);
    }

    #[test]
    fn tag_bits_are_given_once_and_tags_ascend() {
        let mut bits = TagSet::EMPTY;
        for pair in TAGS.windows(2) {
            assert!(pair[0].tag < pair[1].tag);
        }
        for row in TAGS {
            assert!(!bits.has(row.tag), "{}", row.name);
            bits = bits.with(row.tag);
            assert!(bits.has(row.tag), "{}", row.name);
            assert_eq!(row.tag.name(), row.name);
            assert!(!is_grease_tag(row.tag.0));
        }
        assert!(is_grease_tag(0x7a0a) && is_grease_tag(0x7afa) && !is_grease_tag(0x7aab));
    }

    #[test]
    fn an_error_code_knows_its_row() {
        for row in ERRORS {
            assert_eq!(row.code.name(), row.name);
            assert_eq!(row.code.to_string(), row.name);
        }
        assert_eq!(ErrorCode(0xffff).row(), None);
        assert_eq!(ErrorCode(0xffff).to_string(), "error 0xffff");
    }
}
