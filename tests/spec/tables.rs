//! The tables of the text, from the registry.

use quantadb::wire::peer::{LANES, Lane, PEER_HELLO, PEER_OPCODES, PEER_WELCOME};
use quantadb::wire::registry::{
    ATOMIC_OPS, CONDITIONS, Direction, ERRORS, FEATURES, FLAGS, FieldRow, FieldType, IdRule, KINDS, LIMITS, MUTATIONS,
    NOTICES, Named, OPCODES, OPCODES_RESERVED, OPS, RESERVED_TAGS, RESULTS, TAGS, Tag, TagRow, TagType, Variant,
};
use std::fmt::Write;

/// The text of a generated section.
pub fn text(name: &str) -> String {
    match name {
        "kinds" => kinds(),
        "kind-fields" => kind_fields(),
        "flags" => rows(
            "| bits | name | meaning |\n|---|---|---|\n",
            FLAGS.iter().map(|row| format!("| {:#04x} | {} | {} |", row.bits, row.name, row.doc)),
        ),
        "opcodes" => opcodes(),
        "opcode-fields" => opcode_fields(),
        "conditions" => variants(CONDITIONS),
        "ops" => variants(OPS),
        "results" => variants(RESULTS),
        "atomic-ops" => names(ATOMIC_OPS),
        "tags" => tags(),
        "reserved-tags" => rows(
            "| tag | name |\n|---|---|\n",
            RESERVED_TAGS.iter().map(|range| format!("| {:#06x} | {} |", range.first, range.name)),
        ),
        "reserved-opcodes" => rows(
            "| opcodes | for |\n|---|---|\n",
            OPCODES_RESERVED
                .iter()
                .map(|range| format!("| {:#06x} to {:#06x} | {} |", range.first, range.last, range.name)),
        ),
        "connection-errors" => errors(true),
        "request-errors" => errors(false),
        "limits" => limits(),
        "features" => rows(
            "| name | meaning |\n|---|---|\n",
            FEATURES.iter().map(|row| format!("| `{}` | {} |", row.name, row.doc)),
        ),
        "notices" => names(NOTICES),
        "peer-lanes" => names(LANES),
        "peer-handshake" => peer_handshake(),
        "peer-opcodes" => peer_opcodes(),
        "peer-fields consensus" => peer_fields(Lane::Consensus),
        "peer-fields snapshot" => peer_fields(Lane::Snapshot),
        "peer-fields requests" => peer_fields(Lane::Requests),
        "peer-fields join" => peer_fields(Lane::Join),
        "mutations" => variants(MUTATIONS),
        other => panic!("nothing is generated under the name {other}"),
    }
}

fn rows(head: &str, rows: impl Iterator<Item = String>) -> String {
    rows.fold(head.to_owned(), |text, row| text + &row + "\n")
}

fn names(names: &[Named]) -> String {
    let rows_of = names.iter().map(|row| format!("| {} | {} | {} |", row.number, row.name, row.doc));
    rows("| number | name | meaning |\n|---|---|---|\n", rows_of)
}

fn sender(direction: Direction) -> &'static str {
    match direction {
        Direction::ToServer => "client",
        Direction::ToClient => "server",
        Direction::Both => "both",
    }
}

fn kinds() -> String {
    let rows_of = KINDS.iter().map(|row| {
        let id = match row.id {
            IdRule::Zero => "zero",
            IdRule::Request => "a request's",
            IdRule::Either => "a stream's, or zero",
        };
        let opcode = if row.has_opcode { "the operation's" } else { "zero" };
        format!("| {} | {} | {} | {id} | {opcode} | {} |", row.number, row.name, sender(row.direction), row.doc)
    });
    rows("| kind | name | sent by | request id | opcode | meaning |\n|---|---|---|---|---|---|\n", rows_of)
}

/// The fixed fields of a message as a list.
fn fields(text: &mut String, fields: &[FieldRow], depth: usize) {
    for field in fields {
        let indent = "  ".repeat(depth);
        let (shape, below): (String, &[FieldRow]) = match field.kind {
            FieldType::List16(item) => ("u16 count, then for each:".to_owned(), item),
            FieldType::List32(item) => ("u32 count, then for each:".to_owned(), item),
            FieldType::Packed32(item) => ("u32 length in bytes, then within it, for each:".to_owned(), item),
            FieldType::Optional(fields) => ("u8 0 or 1, and if it is 1:".to_owned(), fields),
            FieldType::Group(fields) => ("in order:".to_owned(), fields),
            kind => (kind.name(), &[]),
        };
        let named: Vec<String> = match field.kind {
            FieldType::Enum(names) if names.len() < 10 => {
                names.iter().map(|named| format!("{} {}", named.number, named.name)).collect()
            }
            FieldType::Flags(names) => names.iter().map(|named| format!("{} {}", named.number, named.name)).collect(),
            _ => Vec::new(),
        };
        let named = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
        let doc = if field.doc.is_empty() { String::new() } else { format!(": {}", field.doc) };
        // What follows stands on lines of its own; the meaning stands before the colon.
        let line = match shape.strip_suffix(':') {
            Some(shape) if !field.doc.is_empty() => format!("`{}` ({}) {shape}:", field.name, field.doc),
            _ => format!("`{}` {shape}{named}{doc}", field.name),
        };
        writeln!(text, "{indent}- {line}").expect("a string can be written");
        if let FieldType::Choice(variants) = field.kind {
            for variant in variants {
                let doc = if variant.doc.is_empty() { String::new() } else { format!(": {}", variant.doc) };
                writeln!(text, "{indent}  - {} `{}`{doc}", variant.number, variant.name)
                    .expect("a string can be written");
                self::fields(text, variant.fields, depth + 2);
            }
        }
        // The choices of lists have tables of their own.
        let is_choice = below.iter().any(|field| matches!(field.kind, FieldType::Choice(_)));
        if !is_choice {
            self::fields(text, below, depth + 1);
        } else if let Some(choice) = below.first() {
            writeln!(text, "{indent}  - `{}` {}", choice.name, choice.kind.name()).expect("a string can be written");
        }
    }
}

fn kind_fields() -> String {
    let mut text = String::new();
    for row in KINDS.iter().filter(|row| !row.has_opcode || !row.fields.is_empty()) {
        writeln!(text, "\n**{}**\n", row.name).expect("a string can be written");
        if row.fields.is_empty() {
            text.push_str("- no fixed fields\n");
        }
        fields(&mut text, row.fields, 0);
    }
    text + "\n"
}

fn opcodes() -> String {
    let rows_of = OPCODES.iter().map(|row| {
        let answer = if row.opcode.is_stream() { "CHUNK, END" } else { "RESPONSE" };
        let tags: Vec<&str> = row.tags.iter().map(|tag| tag.name()).collect();
        format!("| {:#06x} | {} | {} | {answer} | {} |", row.opcode.number(), row.name, row.doc, tags.join(", "))
    });
    let head =
        "| opcode | name | meaning | answered by | tags, besides DEADLINE and TRACE_PARENT |\n|---|---|---|---|---|\n";
    rows(head, rows_of)
}

fn opcode_fields() -> String {
    let mut text = String::new();
    for row in OPCODES {
        writeln!(text, "\n#### {} ({:#06x})\n", row.name, row.opcode.number()).expect("a string can be written");
        let none: &[FieldRow] = &[];
        let parts: [(&str, Option<&[FieldRow]>); 4] = [
            ("REQUEST", Some(row.request)),
            ("RESPONSE", row.chunk.is_none().then_some(row.response)),
            ("CHUNK", row.chunk),
            ("END", row.end),
        ];
        for (name, part) in parts {
            let Some(part) = part else { continue };
            if part == none {
                writeln!(text, "{name}: no fixed fields.\n").expect("a string can be written");
                continue;
            }
            writeln!(text, "{name}:\n").expect("a string can be written");
            fields(&mut text, part, 0);
            text.push('\n');
        }
    }
    text
}

fn peer_handshake() -> String {
    let mut text = String::new();
    for (name, part) in [("HELLO", PEER_HELLO), ("WELCOME", PEER_WELCOME)] {
        writeln!(text, "\n**{name}**\n").expect("a string can be written");
        fields(&mut text, part, 0);
    }
    text + "\n"
}

fn peer_opcodes() -> String {
    let rows_of = PEER_OPCODES.iter().map(|row| {
        let lane = LANES.iter().find(|lane| lane.number == row.lane as u8).map_or("", |lane| lane.name);
        let tags: Vec<&str> = row.tags.iter().map(|tag| tag.name()).collect();
        let tags =
            if tags.is_empty() { "none".to_owned() } else { format!("DEADLINE, TRACE_PARENT, {}", tags.join(", ")) };
        format!("| {:#06x} | {} | {lane} | {} | {tags} |", row.opcode.number(), row.name, row.doc)
    });
    rows("| opcode | name | lane | meaning | tags |\n|---|---|---|---|---|\n", rows_of)
}

fn peer_fields(lane: Lane) -> String {
    let mut text = String::new();
    for row in PEER_OPCODES.iter().filter(|row| row.lane == lane) {
        writeln!(text, "\n#### {} ({:#06x})\n", row.name, row.opcode.number()).expect("a string can be written");
        for (name, part) in [("REQUEST", row.request), ("RESPONSE", row.response)] {
            if part.is_empty() {
                writeln!(text, "{name}: no fixed fields.\n").expect("a string can be written");
                continue;
            }
            writeln!(text, "{name}:\n").expect("a string can be written");
            fields(&mut text, part, 0);
            text.push('\n');
        }
    }
    text
}

fn variants(variants: &[Variant]) -> String {
    let rows_of = variants.iter().map(|row| {
        let fields: Vec<String> =
            row.fields.iter().map(|field| format!("`{}` {}", field.name, field.kind.name())).collect();
        let fields = if fields.is_empty() { "–".to_owned() } else { fields.join(", ") };
        format!("| {} | {} | {fields} | {} |", row.number, row.name, row.doc)
    });
    rows("| number | name | fields | meaning |\n|---|---|---|---|\n", rows_of)
}

fn tag_type(kind: TagType) -> &'static str {
    match kind {
        TagType::Empty => "empty",
        TagType::U8 => "u8",
        TagType::U16 => "u16",
        TagType::U32 => "u32",
        TagType::U64 => "u64",
        TagType::Bytes => "bytes",
        TagType::Text => "UTF-8",
        TagType::FullKey => "keyspace u32, key bytes",
        TagType::Pair => "16 bytes, version u64",
        TagType::Consistency => "mode u8; for mode 1 then u32 milliseconds",
    }
}

/// Where a tag may stand.
fn places(row: &TagRow) -> String {
    if row.tag == Tag::DEADLINE || row.tag == Tag::TRACE_PARENT {
        return "every REQUEST".to_owned();
    }
    let requests = OPCODES.iter().filter(|opcode| opcode.tags.contains(&row.tag)).map(|opcode| opcode.name.to_owned());
    let kinds = row.kinds.iter().map(|kind| kind.name().to_owned());
    requests.chain(kinds).collect::<Vec<_>>().join(", ")
}

fn tags() -> String {
    let rows_of = TAGS.iter().map(|row| {
        format!("| {:#06x} | {} | {} | {} | {} |", row.tag.0, row.name, tag_type(row.kind), places(row), row.doc.trim())
    });
    rows("| tag | name | value | on | meaning |\n|---|---|---|---|---|\n", rows_of)
}

fn errors(connection: bool) -> String {
    let rows_of = ERRORS.iter().filter(|row| row.connection == connection).map(|row| {
        let (retry, outcome) = (row.retry.name(), row.outcome.name());
        format!("| {:#04x} | {} | {retry} | {outcome} | {} |", row.code.0, row.name, row.doc.trim())
    });
    rows("| code | name | retry | outcome | meaning |\n|---|---|---|---|---|\n", rows_of)
}

fn limits() -> String {
    let rows_of = LIMITS.iter().map(|row| {
        let value = row.value.map_or("the operator's".to_owned(), |value| value.to_string());
        format!("| {} | {} | {value} | {} |", row.id.0, row.name, row.doc.trim())
    });
    rows("| id | name | value | bounds |\n|---|---|---|---|\n", rows_of)
}
