//! The golden vectors: a frame for every opcode both ways, every kind, every tag and every error.

use super::{folder, golden, typed, updating};
use bytes::BytesMut;
use quantadb::testing::wire::{Dialect, build, build_in, describe_in, from_hex, to_hex};
use quantadb::wire::registry::{ERRORS, FieldRow, FieldType, KINDS, LIMITS, OPCODES, TAGS, Tag, TagType, Variant};
use quantadb::wire::{Kind, Opcode};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;

/// A frame from words of the tables.
pub fn to_bytes(frame: &Value) -> BytesMut {
    build(frame).unwrap_or_else(|error| panic!("{error}: {frame}"))
}

pub fn key(name: &str) -> Value {
    json!({"keyspace": 1, "key": to_hex(name.as_bytes())})
}

pub fn request(id: u64, opcode: &str, fields: Value, tags: Value) -> Value {
    json!({"kind": "REQUEST", "flags": 0, "opcode": opcode, "request_id": id.to_string(), "fields": fields, "tags": tags})
}

pub fn reply(id: u64, kind: &str, opcode: &str, fields: Value, tags: Value) -> Value {
    json!({"kind": kind, "flags": 0, "opcode": opcode, "request_id": id.to_string(), "fields": fields, "tags": tags})
}

pub fn control(kind: &str, id: u64, fields: Value, tags: Value) -> Value {
    json!({"kind": kind, "flags": 0, "request_id": id.to_string(), "fields": fields, "tags": tags})
}

/// Values for the fields of a message, the first or the second of what each type offers.
pub fn sample(fields: &[FieldRow], rich: bool) -> Value {
    let pairs = fields.iter().map(|field| (field.name.to_owned(), sample_field(field, rich)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn sample_field(field: &FieldRow, rich: bool) -> Value {
    match field.kind {
        FieldType::U8 => json!(1),
        FieldType::U16 => json!(0),
        FieldType::U32 => json!(if rich { 65_536 } else { 1 }),
        FieldType::U64 => json!(if rich { "18446744073709551615" } else { "0" }),
        FieldType::Enum(names) => json!(if rich { names.last() } else { names.first() }.expect("it has names").name),
        FieldType::Flags(names) if rich => names.iter().map(|named| json!(named.name)).collect(),
        FieldType::Flags(_) => json!([]),
        FieldType::Fixed(length) => json!(to_hex(&(0..length as u8).collect::<Vec<_>>())),
        FieldType::Bytes16 | FieldType::Text16 if field.name == "name" => {
            let name = if rich { "orders" } else { "n" };
            if field.kind == FieldType::Text16 { json!(name) } else { json!(to_hex(name.as_bytes())) }
        }
        FieldType::Text16 if field.name == "peer_address" => json!(if rich { "n4.example:7421" } else { "h:1" }),
        FieldType::Text16 => json!(if rich { "é" } else { "" }),
        FieldType::Bytes16 | FieldType::Bytes32 => json!(if rich { "00ff" } else { "" }),
        FieldType::Key => {
            if rich {
                key("a\0b")
            } else {
                key("")
            }
        }
        FieldType::Range if rich => json!({"keyspace": 1, "start": "61", "end": "62"}),
        FieldType::Range => json!({"keyspace": 1, "start": "", "end": null}),
        FieldType::List16(item) | FieldType::List32(item) if rich => sample_items(item),
        FieldType::List16(_) | FieldType::List32(_) => json!([]),
        FieldType::Packed32(item) if rich => sample_items(item),
        FieldType::Packed32(_) => json!([]),
        FieldType::Choice(variants) => {
            sample_variant(if rich { variants.last() } else { variants.first() }.expect("it has variants"), rich)
        }
        FieldType::Optional(fields) if rich => sample(fields, rich),
        FieldType::Optional(_) => Value::Null,
        FieldType::Group(fields) => sample(fields, rich),
    }
}

/// A choice that is this variant.
pub fn sample_variant(variant: &Variant, rich: bool) -> Value {
    let mut value = sample(variant.fields, rich);
    value["kind"] = json!(variant.name);
    value
}

/// Items of a list: one of each variant of a choice, else two.
fn sample_items(item: &[FieldRow]) -> Value {
    match item {
        [FieldRow { kind: FieldType::Choice(variants), .. }] => {
            let one = |variant: &Variant| {
                let mut value = sample_variant(variant, true);
                // The operand's meaning depends on the condition.
                match variant.name {
                    "EXISTS" | "ABSENT" => value["operand"] = json!(""),
                    "VERSION_EQUALS" | "VERSION_AT_MOST" => value["operand"] = json!("0000000000000007"),
                    _ => {}
                }
                value
            };
            variants.iter().map(one).collect()
        }
        [only] => json!([sample_field(only, false), sample_field(only, true)]),
        fields => json!([sample(fields, false), sample(fields, true)]),
    }
}

fn needed_tags(opcode: Opcode) -> Value {
    let in_transaction = quantadb::wire::registry::TRANSACTION_REQUIRED.contains(&opcode);
    if in_transaction { json!({"TRANSACTION": "1"}) } else { json!({}) }
}

pub type Vectors = Vec<(String, Value)>;

fn requests() -> Vectors {
    let mut vectors = Vectors::new();
    for (place, row) in OPCODES.iter().enumerate() {
        let id = 2 * place as u64 + 1;
        for (id, rich) in [(id, false), (id + 1, true)] {
            if rich && row.request.is_empty() {
                continue;
            }
            let how = if rich { "full" } else { "least" };
            let frame = request(id, row.name, sample(row.request, rich), needed_tags(row.opcode));
            vectors.push((format!("{} {how}", row.name), frame));
        }
    }
    let mut after = request(99, "GET", json!({"key": key("k")}), json!({}));
    after["flags"] = json!(0xf1);
    vectors.push(("GET after earlier requests, with flags that are ignored".into(), after));
    vectors
}

fn replies() -> Vectors {
    let mut vectors = Vectors::new();
    for row in OPCODES {
        let parts =
            [("RESPONSE", (row.chunk.is_none()).then_some(row.response)), ("CHUNK", row.chunk), ("END", row.end)];
        for (kind, fields) in parts {
            let Some(fields) = fields else { continue };
            for (how, rich) in [("least", false), ("full", true)] {
                let fields = match (row.opcode, rich) {
                    (Opcode::Outcome, true) => {
                        json!({"state": "committed", "version": "9", "code": 0, "has_results": "yes", "results": ["", "00"]})
                    }
                    (Opcode::Outcome, false) => {
                        json!({"state": "never", "version": "0", "code": 0, "has_results": "no", "results": []})
                    }
                    _ => sample(fields, rich),
                };
                // Only what a limit ended goes on behind its END, and a backup has none.
                let goes_on = row.chunk.is_some() && (row.opcode, kind) != (Opcode::Backup, "END");
                let tags = if goes_on && rich { json!({"RESUME_TOKEN": "0102"}) } else { json!({}) };
                vectors.push((format!("{} {kind} {how}", row.name), reply(7, kind, row.name, fields, tags)));
            }
        }
    }
    let outcome =
        |state, code| json!({"state": state, "version": "0", "code": code, "has_results": "no", "results": []});
    for (state, code) in [("expired", 0), ("rejected", 0x40)] {
        vectors.push((format!("OUTCOME {state}"), reply(7, "RESPONSE", "OUTCOME", outcome(state, code), json!({}))));
    }
    let dropped = json!({"state": "committed", "version": "9", "code": 0, "has_results": "no", "results": []});
    vectors.push(("OUTCOME committed, results too long".into(), reply(7, "RESPONSE", "OUTCOME", dropped, json!({}))));
    vectors
}

fn connection() -> Vectors {
    let mut vectors = Vectors::new();
    for row in KINDS.iter().filter(|row| !row.has_opcode && row.kind != Kind::Auth) {
        for (how, rich) in [("least", false), ("full", true)] {
            let mut fields = sample(row.fields, rich);
            if row.kind == Kind::Goaway {
                fields["code"] = json!(if rich { 9 } else { 1 });
            }
            let id = u64::from(rich && row.kind == Kind::Credit || row.kind == Kind::Cancel) * 7;
            vectors.push((format!("{} {how}", row.name), control(row.name, id, fields, json!({}))));
        }
    }
    let limits: Vec<Value> = LIMITS.iter().map(|row| json!({"id": row.id.0, "value": row.id.0.to_string()})).collect();
    let mut welcome = sample(KINDS[1].fields, false);
    welcome["limits"] = Value::Array(limits);
    vectors.push(("WELCOME with every limit".into(), control("WELCOME", 0, welcome, json!({}))));
    let ignored = json!({"kind": "0x8a", "flags": 0, "opcode": "0x0000", "request_id": "0", "payload": "00ff"});
    vectors.push(("a kind to be ignored".into(), ignored));
    vectors
}

fn sample_tag(kind: TagType) -> Value {
    match kind {
        TagType::Empty => json!(true),
        TagType::U8 | TagType::U16 => json!(1),
        TagType::U32 => json!(5000),
        TagType::U64 => json!("7"),
        TagType::Bytes => json!("0102"),
        TagType::Text => json!("127.0.0.1:7420"),
        TagType::FullKey => key("k"),
        TagType::Pair => json!({"key": "00112233445566778899aabbccddeeff", "seen": "7"}),
        TagType::Consistency => json!({"mode": 1, "staleness_ms_max": 250}),
    }
}

/// Every tag on every message that it may stand on.
fn tags() -> Vectors {
    let mut vectors = Vectors::new();
    for row in TAGS {
        let mut tags = json!({ (row.name): sample_tag(row.kind) });
        match row.tag {
            Tag::RETRY_MARK => tags["IDEMPOTENCY"] = sample_tag(TagType::Pair),
            Tag::IF_GONE => tags["RESUME_TOKEN"] = json!("0102"),
            _ => {}
        }
        for opcode in OPCODES {
            let general = row.tag == Tag::DEADLINE || row.tag == Tag::TRACE_PARENT;
            if !general && !opcode.tags.contains(&row.tag) {
                continue;
            }
            let mut tags = tags.clone();
            if let (Some(tags), Some(needed)) = (tags.as_object_mut(), needed_tags(opcode.opcode).as_object()) {
                tags.extend(needed.clone());
            }
            let rich = opcode.opcode == Opcode::OpenKeyspace;
            let frame = request(7, opcode.name, sample(opcode.request, rich), tags);
            vectors.push((format!("{} on {}", row.name, opcode.name), frame));
        }
        for kind in row.kinds {
            let frame = match kind {
                Kind::Chunk | Kind::End => {
                    let scan = Opcode::Scan.row();
                    let fields = if *kind == Kind::Chunk { scan.chunk } else { scan.end };
                    reply(7, kind.name(), "SCAN", sample(fields.unwrap_or_default(), true), tags.clone())
                }
                Kind::Error => {
                    let error = KINDS.iter().find(|row| row.kind == Kind::Error).map_or(&[][..], |row| row.fields);
                    reply(7, "ERROR", "GET", sample(error, false), tags.clone())
                }
                _ => {
                    let fields = KINDS.iter().find(|row| row.kind == *kind).map_or(&[][..], |row| row.fields);
                    control(kind.name(), 0, sample(fields, false), tags.clone())
                }
            };
            vectors.push((format!("{} on {}", row.name, kind.name()), frame));
        }
    }
    for mode in [0, 2] {
        let frame = request(7, "READ_VERSION", json!({}), json!({"CONSISTENCY": {"mode": mode}}));
        vectors.push((format!("CONSISTENCY mode {mode}"), frame));
    }
    vectors
}

/// Every error with its defaults: on a request, or of the connection.
fn errors() -> Vectors {
    let mut vectors = Vectors::new();
    for row in ERRORS {
        let message = row.doc.trim().trim_end_matches('.');
        if row.connection {
            let fields = json!({"code": row.code.0, "highest_request_id": "7", "message": message});
            vectors.push((row.name.to_owned(), control("GOAWAY", 0, fields, json!({}))));
        } else {
            let fields = json!({"code": row.code.0, "retry": row.retry.name(), "outcome": row.outcome.name(),
                                "retry_after_ms": 0, "message": message});
            vectors.push((row.name.to_owned(), reply(7, "ERROR", "PUT", fields, json!({}))));
        }
    }
    vectors
}

fn files() -> Vec<(&'static str, Vectors)> {
    vec![
        ("connection.json", connection()),
        ("requests.json", requests()),
        ("replies.json", replies()),
        ("tags.json", tags()),
        ("errors.json", errors()),
    ]
}

pub fn to_json(dialect: Dialect, vectors: &Vectors) -> String {
    let vector = |(name, frame): &(String, Value)| {
        let bytes = build_in(dialect, frame).unwrap_or_else(|error| panic!("{name}: {error}"));
        let described = describe_in(dialect, &bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        json!({"name": name, "hex": to_hex(&bytes), "frame": described})
    };
    let vectors: Vec<Value> = vectors.iter().map(vector).collect();
    serde_json::to_string_pretty(&vectors).expect("vectors are JSON") + "\n"
}

// spec: QP-EVO-002
#[test]
fn the_vectors_are_what_the_tables_say() {
    for (file, vectors) in files() {
        let names: BTreeSet<&String> = vectors.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), vectors.len(), "a name stands twice in {file}");
        golden(&folder().join("vectors").join(file), &to_json(Dialect::Client, &vectors));
    }
}

fn text<'v>(vector: &'v Value, name: &str) -> &'v str {
    vector[name].as_str().unwrap_or_else(|| panic!("{name} is missing in {vector}"))
}

/// From the files alone: every vector decodes by the typed messages, encodes to itself, and means what it says.
// spec: QP-EVO-002
// spec: QP-FRM-016
#[test]
fn every_vector_decodes_and_encodes_to_itself() {
    if updating() {
        return;
    }
    let mut count = 0;
    for (file, _) in files() {
        let text_of = fs::read_to_string(folder().join("vectors").join(file)).expect("the vectors can be read");
        count += come_back(Dialect::Client, &text_of);
    }
    assert!(count > 200, "only {count} vectors");
}

/// Every vector of a file decodes, encodes to itself, and means what it says. Returns how many there are.
pub fn come_back(dialect: Dialect, file: &str) -> usize {
    let vectors: Vec<Value> = serde_json::from_str(file).expect("the vectors are JSON");
    for vector in &vectors {
        let name = text(vector, "name");
        let bytes = from_hex(text(vector, "hex")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = typed::re_encode(dialect, &bytes, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(to_hex(&again), to_hex(&bytes), "{name}");
        assert_eq!(describe_in(dialect, &bytes).as_ref(), Ok(&vector["frame"]), "{name}");
    }
    vectors.len()
}

/// A word may not be missing: each opcode both ways, each kind, each tag, each error.
#[test]
fn the_vectors_leave_nothing_out() {
    let all: Vec<Value> =
        files().iter().flat_map(|(_, vectors)| vectors.iter().map(|(_, frame)| frame.clone())).collect();
    let has = |kind: &str, opcode: &str| {
        all.iter().any(|frame| frame["kind"] == kind && (opcode.is_empty() || frame["opcode"] == opcode))
    };
    for row in OPCODES {
        assert!(has("REQUEST", row.name), "{}", row.name);
        let answers: &[&str] = if row.opcode.is_stream() { &["CHUNK", "END"] } else { &["RESPONSE"] };
        assert!(answers.iter().all(|kind| has(kind, row.name)), "{}", row.name);
    }
    for row in KINDS.iter().filter(|row| row.kind != Kind::Auth) {
        assert!(has(row.name, ""), "{}", row.name);
    }
    for row in TAGS {
        assert!(all.iter().any(|frame| frame["tags"].get(row.name).is_some()), "{}", row.name);
    }
    for row in ERRORS {
        assert!(all.iter().any(|frame| frame["fields"]["code"] == row.code.0), "{}", row.name);
    }
}
