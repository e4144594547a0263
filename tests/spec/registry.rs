//! The registry as JSON, for programs that are written from it.

use quantadb::wire::peer::{
    LANES, PEER_HELLO, PEER_OPCODES, PEER_PAYLOAD_BYTES_MAX, PEER_VERSION_MAX, PEER_VERSION_MIN, PEER_WELCOME,
};
use quantadb::wire::registry::{
    ATOMIC_OPS, CONDITIONS, ERRORS, FEATURES, FLAGS, FRAMING_VERSION, FieldRow, FieldType, KINDS, LIMITS, NOTICES,
    Named, OPCODES, OPCODES_RESERVED, OPS, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, RESERVED_TAGS, RESULTS,
    ReservedRange, TAGS, Variant,
};
use serde_json::{Value, json};

/// The whole registry.
pub fn json() -> String {
    let registry = json!({
        "framing_version": FRAMING_VERSION,
        "protocol_versions": [PROTOCOL_VERSION_MIN, PROTOCOL_VERSION_MAX],
        "features": FEATURES.iter().map(|row| row.name).collect::<Vec<_>>(),
        "kinds": KINDS.iter().map(|row| json!({
            "number": row.number, "name": row.name, "direction": format!("{:?}", row.direction),
            "request_id": format!("{:?}", row.id), "has_opcode": row.has_opcode, "fields": fields(row.fields),
            "meaning": row.doc,
        })).collect::<Vec<_>>(),
        "flags": FLAGS.iter().map(|row| json!({"bits": row.bits, "name": row.name, "meaning": row.doc})).collect::<Vec<_>>(),
        "opcodes": OPCODES.iter().map(|row| json!({
            "number": row.opcode.number(), "name": row.name, "meaning": row.doc,
            "request": fields(row.request),
            "response": if row.opcode.is_stream() { Value::Null } else { fields(row.response) },
            "chunk": row.chunk.map(fields), "end": row.end.map(fields),
            "tags": row.tags.iter().map(|tag| tag.name()).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "opcodes_reserved": reserved(OPCODES_RESERVED),
        "conditions": variants(CONDITIONS),
        "ops": variants(OPS),
        "results": variants(RESULTS),
        "atomic_ops": names(ATOMIC_OPS),
        "tags": TAGS.iter().map(|row| json!({
            "number": row.tag.0, "name": row.name, "value": format!("{:?}", row.kind),
            "direction": format!("{:?}", row.direction),
            "kinds": row.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(), "meaning": row.doc.trim(),
        })).collect::<Vec<_>>(),
        "tags_reserved": reserved(RESERVED_TAGS),
        "errors": ERRORS.iter().map(|row| json!({
            "code": row.code.0, "name": row.name, "retry": row.retry.name(), "outcome": row.outcome.name(),
            "ends_connection": row.connection, "meaning": row.doc.trim(),
        })).collect::<Vec<_>>(),
        "limits": LIMITS.iter().map(|row| json!({
            "id": row.id.0, "name": row.name, "value": row.value, "meaning": row.doc.trim(),
        })).collect::<Vec<_>>(),
        "notices": names(NOTICES),
        "peer": peer(),
    });
    serde_json::to_string_pretty(&registry).expect("a registry is JSON") + "\n"
}

/// The protocol between nodes: what it does not share with that of clients.
fn peer() -> Value {
    json!({
        "protocol_versions": [PEER_VERSION_MIN, PEER_VERSION_MAX],
        "frame_payload_bytes": PEER_PAYLOAD_BYTES_MAX,
        "lanes": names(LANES),
        "hello": fields(PEER_HELLO),
        "welcome": fields(PEER_WELCOME),
        "opcodes": PEER_OPCODES.iter().map(|row| json!({
            "number": row.opcode.number(), "name": row.name, "meaning": row.doc, "lane": row.lane as u8,
            "request": fields(row.request), "response": fields(row.response),
            "tags": row.tags.iter().map(|tag| tag.name()).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn names(names: &[Named]) -> Value {
    names.iter().map(|row| json!({"number": row.number, "name": row.name, "meaning": row.doc})).collect()
}

fn reserved(ranges: &[ReservedRange]) -> Value {
    ranges.iter().map(|range| json!({"first": range.first, "last": range.last, "name": range.name})).collect()
}

fn variants(variants: &[Variant]) -> Value {
    let variant = |row: &Variant| json!({"number": row.number, "name": row.name, "fields": fields(row.fields), "meaning": row.doc});
    variants.iter().map(variant).collect()
}

fn fields(fields_of: &[FieldRow]) -> Value {
    let field = |row: &FieldRow| {
        let mut field = json!({"name": row.name, "meaning": row.doc});
        field["type"] = match row.kind {
            FieldType::List16(_) => json!("list16"),
            FieldType::List32(_) => json!("list32"),
            FieldType::Packed32(_) => json!("packed32"),
            FieldType::Optional(_) => json!("optional"),
            FieldType::Group(_) => json!("group"),
            kind => json!(kind.name()),
        };
        match row.kind {
            FieldType::Enum(values) => field["values"] = names(values),
            FieldType::Flags(values) => field["flags"] = names(values),
            FieldType::List16(item) | FieldType::List32(item) | FieldType::Packed32(item) => {
                field["items"] = fields(item);
            }
            FieldType::Optional(within) | FieldType::Group(within) => field["fields"] = fields(within),
            FieldType::Choice(choices) => field["variants"] = variants(choices),
            _ => {}
        }
        field
    };
    fields_of.iter().map(field).collect()
}
