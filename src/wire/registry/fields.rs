//! The shape of a field, as data.

/// A number with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The number on the wire.
    pub number: u8,
    /// Its name in the specification.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRow {
    /// Its name in the specification and in decoded vectors.
    pub name: &'static str,
    /// How it is encoded.
    pub kind: FieldType,
    /// What it means; empty where the name says it.
    pub doc: &'static str,
}

/// How a field is encoded. Integers are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
    /// One byte that is one of these; another is malformed.
    Enum(&'static [Named]),
    /// One byte of bits; a bit without a name is malformed.
    Flags(&'static [Named]),
    /// So many bytes.
    Fixed(usize),
    /// `u16` length, then bytes.
    Bytes16,
    /// `u16` length, then UTF-8.
    Text16,
    /// `u32` length, then bytes.
    Bytes32,
    /// `u16` length n of the user's key, `u32` keyspace, n bytes.
    Key,
    /// `u32` keyspace, start bytes16, has_end `u8`, end bytes16.
    Range,
    /// `u16` count, then so many of these.
    List16(&'static [FieldRow]),
    /// `u32` count, then so many of these.
    List32(&'static [FieldRow]),
    /// `u32` length in bytes, then these again and again until the bytes are used up.
    Packed32(&'static [FieldRow]),
    /// `u8` number, then the fields of the variant with that number.
    Choice(&'static [Variant]),
    /// `u8` 0, or 1 and these.
    Optional(&'static [FieldRow]),
    /// These, in order.
    Group(&'static [FieldRow]),
}

/// One alternative of a [`FieldType::Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The number on the wire.
    pub number: u8,
    /// Its name in the specification.
    pub name: &'static str,
    /// What follows the number.
    pub fields: &'static [FieldRow],
    /// What it means.
    pub doc: &'static str,
}

impl FieldType {
    /// The type's name in the specification.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            FieldType::U8 | FieldType::Enum(_) | FieldType::Flags(_) => "u8".to_owned(),
            FieldType::U16 => "u16".to_owned(),
            FieldType::U32 => "u32".to_owned(),
            FieldType::U64 => "u64".to_owned(),
            FieldType::Fixed(length) => format!("{length} bytes"),
            FieldType::Bytes16 => "bytes16".to_owned(),
            FieldType::Text16 => "text16".to_owned(),
            FieldType::Bytes32 => "bytes32".to_owned(),
            FieldType::Key => "key".to_owned(),
            FieldType::Range => "range".to_owned(),
            FieldType::List16(fields) => format!("u16 count, each: {}", list(fields)),
            FieldType::List32(fields) => format!("u32 count, each: {}", list(fields)),
            FieldType::Packed32(fields) => format!("u32 length in bytes, then each: {}", list(fields)),
            FieldType::Choice(_) => "u8 kind, then its fields".to_owned(),
            FieldType::Optional(fields) => format!("u8 0, or 1 and: {}", list(fields)),
            FieldType::Group(fields) => list(fields),
        }
    }
}

fn list(fields: &[FieldRow]) -> String {
    let names: Vec<String> = fields.iter().map(|field| format!("{} {}", field.name, field.kind.name())).collect();
    names.join(", ")
}

/// A field whose name says what it means.
pub(in crate::wire) const fn field(name: &'static str, kind: FieldType) -> FieldRow {
    FieldRow { name, kind, doc: "" }
}

/// A field with a word about it.
pub(in crate::wire) const fn field_doc(name: &'static str, kind: FieldType, doc: &'static str) -> FieldRow {
    FieldRow { name, kind, doc }
}

/// A named number.
pub(in crate::wire) const fn named(number: u8, name: &'static str, doc: &'static str) -> Named {
    Named { number, name, doc }
}
