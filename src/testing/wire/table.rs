//! Frames as JSON, by the registry's tables.
//!
//! ```text
//! {"kind": "REQUEST", "flags": 0, "opcode": "GET", "request_id": "7",
//!  "fields": {"key": {"keyspace": 1, "key": "6b"}}, "tags": {"DEADLINE": 500}}
//! ```
//!
//! Integers of up to 32 bits are numbers, of 64 bits decimal text; bytes are hexadecimal text; a named number is its name, a
//! byte of flags the list of their names; a range without an end, and what is optional and not there, is `null`. A list of
//! items with one field is a list of that field's values. What the tables do not know (a kind, an opcode, a tag) is its number in hexadecimal, and then its
//! bytes as they are.

use crate::encoding::{ReadError, Reader, Writer};
use crate::wire::peer::{PEER_HELLO, PEER_OPCODES, PEER_WELCOME, PeerOpcode};
use crate::wire::registry::{FieldRow, FieldType, KINDS, Named, OPCODES, TAGS, TagType, Variant};
use crate::wire::{FrameError, Header, Kind, Opcode, Tag, peek, put_frame};
use bytes::{BufMut, BytesMut};
use serde_json::{Map, Value, json};

/// Why bytes are not what the tables say, or JSON is not what this module writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TableError(String);

impl From<ReadError> for TableError {
    fn from(error: ReadError) -> TableError {
        TableError(error.to_string())
    }
}

impl From<FrameError> for TableError {
    fn from(error: FrameError) -> TableError {
        TableError(error.to_string())
    }
}

pub(super) type Result<T> = std::result::Result<T, TableError>;

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(TableError(what.into()))
}

/// Bytes as hexadecimal text.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal text as bytes; white space between bytes is let be.
pub fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| match pair {
        [high, low] => Some((high.to_digit(16)? << 4 | low.to_digit(16)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.ok_or_else(|| TableError(format!("not hexadecimal: {text}")))
}

/// Whose frames they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Those of clients and servers.
    Client,
    /// Those of nodes among themselves; on their lane of requests the client's operations are among them.
    Peer,
}

impl Dialect {
    /// The fixed fields of a frame of this kind and opcode; `None` if the tables do not know them.
    pub(super) fn layout(self, kind: Kind, opcode: u16) -> Option<&'static [FieldRow]> {
        let row = KINDS.iter().find(|row| row.kind == kind)?;
        let operation = || Some(Opcode::from_number(opcode)?.row());
        let between_nodes = (self == Dialect::Peer).then(|| PeerOpcode::from_number(opcode)).flatten();
        match kind {
            Kind::Hello if self == Dialect::Peer => Some(PEER_HELLO),
            Kind::Welcome if self == Dialect::Peer => Some(PEER_WELCOME),
            Kind::Request if between_nodes.is_some() => Some(between_nodes?.row().request),
            Kind::Response if between_nodes.is_some() => Some(between_nodes?.row().response),
            Kind::Request => Some(operation()?.request),
            Kind::Response => operation()?.chunk.is_none().then_some(operation()?.response),
            Kind::Chunk => operation()?.chunk,
            Kind::End => operation()?.end,
            _ => Some(row.fields),
        }
    }

    /// The name of an opcode; `None` if the tables do not know it.
    pub(super) fn opcode_name(self, opcode: u16) -> Option<&'static str> {
        let between_nodes = || PeerOpcode::from_number(opcode).filter(|_| self == Dialect::Peer);
        Opcode::from_number(opcode).map(Opcode::name).or_else(|| between_nodes().map(PeerOpcode::name))
    }

    /// The opcode with this name.
    fn opcode(self, name: &str) -> Option<u16> {
        let of_clients = OPCODES.iter().find(|row| row.name == name).map(|row| row.opcode.number());
        let of_nodes = || PEER_OPCODES.iter().find(|row| row.name == name).map(|row| row.opcode.number());
        of_clients.or_else(|| of_nodes().filter(|_| self == Dialect::Peer))
    }
}

/// The frame at the front of `bytes` as JSON. `bytes` holds nothing else.
pub fn describe(bytes: &[u8]) -> Result<Value> {
    describe_in(Dialect::Client, bytes)
}

/// The same of a frame in this dialect.
pub fn describe_in(dialect: Dialect, bytes: &[u8]) -> Result<Value> {
    let Some((header, total)) = peek(bytes, usize::MAX)? else { return wrong("the frame is cut short") };
    if total != bytes.len() {
        return wrong("bytes are left over behind the frame");
    }
    let kind = match header.kind {
        Kind::Other(number) => json!(format!("{number:#04x}")),
        kind => json!(kind.name()),
    };
    let mut frame = Map::new();
    frame.insert("kind".into(), kind);
    frame.insert("flags".into(), json!(header.flags));
    frame.insert("request_id".into(), json!(header.request_id.to_string()));
    if header.kind.has_opcode() {
        let name = dialect.opcode_name(header.opcode).map(str::to_owned);
        frame.insert("opcode".into(), json!(name.unwrap_or_else(|| format!("{:#06x}", header.opcode))));
    }
    let payload = &bytes[Header::BYTES..];
    match dialect.layout(header.kind, header.opcode) {
        None => {
            frame.insert("payload".into(), json!(to_hex(payload)));
        }
        Some(fields) => {
            let mut reader = Reader::new(payload);
            frame.insert("fields".into(), Value::Object(read_fields(fields, &mut reader)?));
            frame.insert("tags".into(), Value::Object(read_tags(&mut reader)?));
        }
    }
    Ok(Value::Object(frame))
}

/// The frame that `describe` gave this JSON for.
pub fn build(frame: &Value) -> Result<BytesMut> {
    build_in(Dialect::Client, frame)
}

/// The same of a frame in this dialect.
pub fn build_in(dialect: Dialect, frame: &Value) -> Result<BytesMut> {
    let name = text(frame, "kind")?;
    let row = KINDS.iter().find(|row| row.name == name);
    let kind = match row {
        Some(row) => row.kind,
        None => Kind::from_number(hex_number(name)? as u8),
    };
    let opcode = match frame.get("opcode").and_then(Value::as_str) {
        None => 0,
        Some(name) => match dialect.opcode(name) {
            Some(opcode) => opcode,
            None => hex_number(name)?,
        },
    };
    let mut payload = BytesMut::new();
    match dialect.layout(kind, opcode) {
        None => payload.put_slice(&from_hex(text(frame, "payload")?)?),
        Some(fields) => {
            write_fields(fields, member(frame, "fields")?, &mut payload)?;
            write_tags(member(frame, "tags")?, &mut payload)?;
        }
    }
    let flags = member(frame, "flags")?.as_u64().unwrap_or_default() as u8;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, flags, opcode, number(member(frame, "request_id")?)?, |out| out.put_slice(&payload));
    Ok(out)
}

fn read_fields(fields: &[FieldRow], reader: &mut Reader<'_>) -> Result<Map<String, Value>> {
    fields.iter().map(|field| Ok((field.name.to_owned(), read_field(field.kind, reader)?))).collect()
}

pub(super) fn read_field(kind: FieldType, reader: &mut Reader<'_>) -> Result<Value> {
    Ok(match kind {
        FieldType::U8 => json!(reader.u8()?),
        FieldType::U16 => json!(reader.u16()?),
        FieldType::U32 => json!(reader.u32()?),
        FieldType::U64 => json!(reader.u64()?.to_string()),
        FieldType::Enum(names) => {
            let number = reader.u8()?;
            let Some(named) = names.iter().find(|named| named.number == number) else {
                return wrong(format!("{number} has no name"));
            };
            json!(named.name)
        }
        FieldType::Flags(names) => {
            let bits = reader.u8()?;
            if bits & !all(names) != 0 {
                return wrong(format!("flags {bits:#04x} have no name"));
            }
            names.iter().filter(|named| bits & named.number != 0).map(|named| json!(named.name)).collect()
        }
        FieldType::Fixed(length) => json!(to_hex(reader.take(length)?)),
        FieldType::Bytes16 => json!(to_hex(reader.bytes16()?)),
        FieldType::Bytes32 => json!(to_hex(reader.bytes32()?)),
        FieldType::Text16 => match std::str::from_utf8(reader.bytes16()?) {
            Ok(text) => json!(text),
            Err(_) => return wrong("a text is not UTF-8"),
        },
        FieldType::Key => key_value(reader.full_key()?)?,
        FieldType::Range => {
            let (keyspace, start) = (reader.u32()?, to_hex(reader.bytes16()?));
            let has_end = reader.u8()? == 1;
            let end = to_hex(reader.bytes16()?);
            json!({"keyspace": keyspace, "start": start, "end": has_end.then_some(end)})
        }
        FieldType::List16(item) => {
            let count = reader.u16()?;
            (0..count).map(|_| read_item(item, reader)).collect::<Result<Value>>()?
        }
        FieldType::List32(item) => {
            let count = reader.u32()?;
            (0..count).map(|_| read_item(item, reader)).collect::<Result<Value>>()?
        }
        FieldType::Choice(variants) => {
            let number = reader.u8()?;
            let Some(variant) = variants.iter().find(|variant| variant.number == number) else {
                return wrong(format!("no variant has the number {number}"));
            };
            let mut fields = read_fields(variant.fields, reader)?;
            fields.insert("kind".into(), json!(variant.name));
            Value::Object(fields)
        }
        FieldType::Packed32(item) => {
            let mut within = Reader::new(reader.bytes32()?);
            let mut items = Vec::new();
            while !within.is_empty() {
                items.push(read_item(item, &mut within)?);
            }
            Value::Array(items)
        }
        FieldType::Optional(fields) => match reader.u8()? {
            0 => Value::Null,
            1 => Value::Object(read_fields(fields, reader)?),
            other => return wrong(format!("{other} is neither 0 nor 1")),
        },
        FieldType::Group(fields) => Value::Object(read_fields(fields, reader)?),
    })
}

fn read_item(item: &[FieldRow], reader: &mut Reader<'_>) -> Result<Value> {
    match item {
        [only] => read_field(only.kind, reader),
        fields => read_fields(fields, reader).map(Value::Object),
    }
}

fn all(names: &[Named]) -> u8 {
    names.iter().fold(0, |bits, named| bits | named.number)
}

fn key_value(full: &[u8]) -> Result<Value> {
    let mut reader = Reader::new(full);
    Ok(json!({"keyspace": reader.u32()?, "key": to_hex(reader.rest())}))
}

fn read_tags(reader: &mut Reader<'_>) -> Result<Map<String, Value>> {
    let mut tags = Map::new();
    while !reader.is_empty() {
        let tag = Tag(reader.u16()?);
        let value = reader.bytes32()?;
        match tag.row() {
            Some(row) => tags.insert(row.name.to_owned(), read_tag(row.kind, value)?),
            None => tags.insert(format!("{:#06x}", tag.0), json!(to_hex(value))),
        };
    }
    Ok(tags)
}

pub(super) fn read_tag(kind: TagType, value: &[u8]) -> Result<Value> {
    let mut reader = Reader::new(value);
    let json = match kind {
        TagType::Empty => json!(true),
        TagType::U8 => json!(reader.u8()?),
        TagType::U16 => json!(reader.u16()?),
        TagType::U32 => json!(reader.u32()?),
        TagType::U64 => json!(reader.u64()?.to_string()),
        TagType::Bytes => json!(to_hex(reader.take(value.len())?)),
        TagType::Text => json!(String::from_utf8_lossy(reader.take(value.len())?)),
        TagType::FullKey => key_value(reader.take(value.len())?)?,
        TagType::Pair => json!({"key": to_hex(&reader.array16()?), "seen": reader.u64()?.to_string()}),
        TagType::Consistency => match reader.u8()? {
            1 => json!({"mode": 1, "staleness_ms_max": reader.u32()?}),
            mode => json!({"mode": mode}),
        },
    };
    reader.finish()?;
    Ok(json)
}

fn member<'v>(value: &'v Value, name: &str) -> Result<&'v Value> {
    value.get(name).ok_or_else(|| TableError(format!("{name} is missing in {value}")))
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str> {
    member(value, name)?.as_str().ok_or_else(|| TableError(format!("{name} is not text in {value}")))
}

fn hex_number(text: &str) -> Result<u16> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::from_str_radix(digits, 16).map_err(|_| TableError(format!("{text} is neither a name nor a number")))
}

/// A number, or decimal text.
fn number<T: TryFrom<u64>>(value: &Value) -> Result<T> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    number.and_then(|number| number.try_into().ok()).ok_or_else(|| TableError(format!("{value} is no such number")))
}

pub(super) fn hex_of(value: &Value) -> Result<Vec<u8>> {
    from_hex(value.as_str().unwrap_or("not text"))
}

fn items(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| TableError(format!("{value} is not a list")))
}

fn write_fields(fields: &[FieldRow], value: &Value, out: &mut BytesMut) -> Result<()> {
    fields.iter().try_for_each(|field| write_field(field.kind, member(value, field.name)?, out))
}

fn write_field(kind: FieldType, value: &Value, out: &mut BytesMut) -> Result<()> {
    match kind {
        FieldType::U8 => out.put_u8(number(value)?),
        FieldType::U16 => out.put_u16(number(value)?),
        FieldType::U32 => out.put_u32(number(value)?),
        FieldType::U64 => out.put_u64(number(value)?),
        FieldType::Enum(names) => out.put_u8(named(names, value)?),
        FieldType::Flags(names) => {
            let bits = items(value)?.iter().map(|value| named(names, value));
            out.put_u8(bits.sum::<Result<u8>>()?);
        }
        FieldType::Fixed(_) => out.put_slice(&hex_of(value)?),
        FieldType::Bytes16 => out.put_bytes16(&hex_of(value)?),
        FieldType::Bytes32 => out.put_bytes32(&hex_of(value)?),
        FieldType::Text16 => out.put_bytes16(value.as_str().unwrap_or_default().as_bytes()),
        FieldType::Key => out.put_full_key(&full_key(value)?),
        FieldType::Range => {
            let end = member(value, "end")?;
            out.put_u32(number(member(value, "keyspace")?)?);
            out.put_bytes16(&hex_of(member(value, "start")?)?);
            out.put_u8(u8::from(!end.is_null()));
            out.put_bytes16(&if end.is_null() { Vec::new() } else { hex_of(end)? });
        }
        FieldType::List16(item) => {
            out.put_u16(items(value)?.len() as u16);
            items(value)?.iter().try_for_each(|value| write_item(item, value, out))?;
        }
        FieldType::List32(item) => {
            out.put_u32(items(value)?.len() as u32);
            items(value)?.iter().try_for_each(|value| write_item(item, value, out))?;
        }
        FieldType::Choice(variants) => {
            let variant = variant(variants, value)?;
            out.put_u8(variant.number);
            write_fields(variant.fields, value, out)?;
        }
        FieldType::Packed32(item) => {
            let mut within = BytesMut::new();
            items(value)?.iter().try_for_each(|value| write_item(item, value, &mut within))?;
            out.put_bytes32(&within);
        }
        FieldType::Optional(_) if value.is_null() => out.put_u8(0),
        FieldType::Optional(fields) => {
            out.put_u8(1);
            write_fields(fields, value, out)?;
        }
        FieldType::Group(fields) => write_fields(fields, value, out)?,
    }
    Ok(())
}

fn write_item(item: &[FieldRow], value: &Value, out: &mut BytesMut) -> Result<()> {
    match item {
        [only] => write_field(only.kind, value, out),
        fields => write_fields(fields, value, out),
    }
}

fn named(names: &[Named], value: &Value) -> Result<u8> {
    let named = names.iter().find(|named| value == named.name);
    named.map(|named| named.number).ok_or_else(|| TableError(format!("nothing is named {value}")))
}

fn variant(variants: &'static [Variant], value: &Value) -> Result<&'static Variant> {
    let name = text(value, "kind")?;
    variants.iter().find(|variant| variant.name == name).ok_or_else(|| TableError(format!("nothing is named {name}")))
}

fn full_key(value: &Value) -> Result<Vec<u8>> {
    let keyspace: u32 = number(member(value, "keyspace")?)?;
    Ok([&keyspace.to_be_bytes()[..], &hex_of(member(value, "key")?)?].concat())
}

fn write_tags(tags: &Value, out: &mut BytesMut) -> Result<()> {
    let tags = tags.as_object().ok_or_else(|| TableError("tags are not an object".into()))?;
    let mut encoded = Vec::new();
    for (name, value) in tags {
        let row = TAGS.iter().find(|row| row.name == name);
        encoded.push(match row {
            Some(row) => (row.tag.0, write_tag(row.kind, value)?),
            None => (hex_number(name)?, hex_of(value)?),
        });
    }
    encoded.sort();
    for (tag, value) in encoded {
        out.put_u16(tag);
        out.put_bytes32(&value);
    }
    Ok(())
}

fn write_tag(kind: TagType, value: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    match kind {
        TagType::Empty => {}
        TagType::U8 => out.put_u8(number(value)?),
        TagType::U16 => out.put_u16(number(value)?),
        TagType::U32 => out.put_u32(number(value)?),
        TagType::U64 => out.put_u64(number(value)?),
        TagType::Bytes => out = hex_of(value)?,
        TagType::Text => out.put_slice(value.as_str().unwrap_or_default().as_bytes()),
        TagType::FullKey => out = full_key(value)?,
        TagType::Pair => {
            out.put_slice(&hex_of(member(value, "key")?)?);
            out.put_u64(number(member(value, "seen")?)?);
        }
        TagType::Consistency => {
            out.put_u8(number(member(value, "mode")?)?);
            if let Some(staleness) = value.get("staleness_ms_max") {
                out.put_u32(number(staleness)?);
            }
        }
    }
    Ok(out)
}
