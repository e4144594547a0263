//! Frames as the specification prints them.

use super::table::{Dialect, Result, hex_of, read_field, read_tag, wrong};
use crate::encoding::Reader;
use crate::wire::registry::{FieldRow, FieldType};
use crate::wire::{Header, Tag, peek};
use serde_json::Value;

/// A frame as the specification prints it: its bytes, field by field, each with its name and value behind a semicolon.
pub fn annotate(bytes: &[u8]) -> Result<String> {
    annotate_in(Dialect::Client, bytes)
}

/// The same of a frame in this dialect.
pub fn annotate_in(dialect: Dialect, bytes: &[u8]) -> Result<String> {
    let Some((header, _)) = peek(bytes, usize::MAX)? else { return wrong("the frame is cut short") };
    let mut lines = Lines::default();
    let opcode = dialect.opcode_name(header.opcode).unwrap_or("none");
    lines.put(&bytes[..4], &format!("payload length {}", header.payload_bytes));
    lines.put(&bytes[4..5], &format!("kind {}", header.kind.name()));
    lines.put(&bytes[5..6], if header.is_after() { "flags AFTER" } else { "flags" });
    lines.put(&bytes[6..8], &format!("opcode {opcode}"));
    lines.put(&bytes[8..16], &format!("request id {}", header.request_id));
    lines.put(&bytes[16..20], "CRC-32 of the payload");
    lines.put(&bytes[20..24], "CRC-32 of the 20 bytes before");
    let mut reader = Reader::new(&bytes[Header::BYTES..]);
    lines.fields("", dialect.layout(header.kind, header.opcode).unwrap_or_default(), &mut reader)?;
    while !reader.is_empty() {
        let (before, at) = (reader.rest(), reader.position());
        let tag = Tag(reader.u16()?);
        let value = reader.bytes32()?;
        let shown = match tag.row() {
            Some(row) => format!("tag {}: {}", row.name, read_tag(row.kind, value)?),
            None => format!("tag {:#06x}, to be ignored", tag.0),
        };
        lines.put(&before[..reader.position() - at], &shown);
    }
    Ok(lines.0)
}

/// Bytes and what they are, sixteen a line.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn put(&mut self, bytes: &[u8], what: &str) {
        for (number, row) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = format!("{:<47} ; {}", hex.join(" "), if number == 0 { what } else { "" });
            self.0.push_str(line.trim_end_matches([' ', ';']));
            self.0.push('\n');
        }
    }

    /// `within` is the name of the group that the field stands in, with a dot behind it.
    fn field(&mut self, within: &str, field: &FieldRow, reader: &mut Reader<'_>) -> Result<()> {
        let (before, at) = (reader.rest(), reader.position());
        let taken = |reader: &Reader<'_>| &before[..reader.position() - at];
        let name = format!("{within}{}", field.name);
        match field.kind {
            FieldType::List16(item) | FieldType::List32(item) => {
                let is_short = matches!(field.kind, FieldType::List16(_));
                let count = if is_short { u32::from(reader.u16()?) } else { reader.u32()? };
                self.put(taken(reader), &format!("{name}: {count}"));
                (0..count).try_for_each(|_| self.fields("", item, reader))
            }
            FieldType::Packed32(item) => {
                let end = reader.u32()? as usize + reader.position();
                self.put(taken(reader), &format!("{name}: {} bytes", end - reader.position()));
                while reader.position() < end {
                    self.fields("", item, reader)?;
                }
                Ok(())
            }
            FieldType::Choice(variants) => {
                let number = reader.u8()?;
                let Some(variant) = variants.iter().find(|variant| variant.number == number) else {
                    return wrong(format!("no variant has the number {number}"));
                };
                self.put(taken(reader), &format!("{name}: {}", variant.name));
                self.fields("", variant.fields, reader)
            }
            FieldType::Optional(fields) => {
                let is_there = reader.u8()? == 1;
                self.put(taken(reader), &format!("{name}: {}", if is_there { "yes" } else { "none" }));
                if is_there { self.fields(&format!("{name}."), fields, reader) } else { Ok(()) }
            }
            FieldType::Group(fields) => self.fields(&format!("{name}."), fields, reader),
            kind => {
                let value = read_field(kind, reader)?;
                self.put(taken(reader), &format!("{name}: {}", shown(&value, kind)));
                Ok(())
            }
        }
    }

    fn fields(&mut self, within: &str, fields: &[FieldRow], reader: &mut Reader<'_>) -> Result<()> {
        fields.iter().try_for_each(|field| self.field(within, field, reader))
    }
}

/// A value as text for people: bytes that are printable as such.
fn shown(value: &Value, kind: FieldType) -> String {
    let printable = |value: &Value| {
        let bytes = hex_of(value).unwrap_or_default();
        let plain = bytes.iter().all(|byte| byte.is_ascii_graphic());
        if plain { format!("{:?}", String::from_utf8_lossy(&bytes)) } else { format!("{} bytes", bytes.len()) }
    };
    match (kind, value) {
        (FieldType::Bytes16 | FieldType::Bytes32, value) => printable(value),
        (FieldType::Fixed(_), Value::String(text)) => text.clone(),
        (FieldType::Key, value) => format!("{} of keyspace {}", printable(&value["key"]), value["keyspace"]),
        (FieldType::Range, value) => {
            let end = if value["end"].is_null() { "the end".to_owned() } else { printable(&value["end"]) };
            format!("{} to {end} of keyspace {}", printable(&value["start"]), value["keyspace"])
        }
        (FieldType::Flags(_), Value::Array(names)) if names.is_empty() => "none".to_owned(),
        (FieldType::U64 | FieldType::Enum(_), Value::String(text)) => text.clone(),
        (_, value) => value.to_string(),
    }
}
