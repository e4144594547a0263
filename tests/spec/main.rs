//! The specification is held to the code: its tables are those of the registry, its hexdumps are frames that decode, and its
//! golden vectors are what the codec reads and writes.
//!
//! What is generated stands between `<!-- generated: NAME -->` and `<!-- end -->`. `UPDATE_GOLDEN=1 cargo test --test spec`
//! writes it anew from the registry and from the scripts of [`exchanges`]; without it a difference is a failure. The
//! vectors are then decoded by the typed messages, which know nothing of the tables that wrote them.

mod exchanges;
mod negative;
mod peer;
mod peer_exchanges;
mod registry;
mod tables;
mod typed;
mod vectors;

use bytes::BytesMut;
use quantadb::testing::wire::{Dialect, annotate_in, build_in, describe_in, from_hex};
use quantadb::wire::{peer as between_nodes, preface};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folder of the specification.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("protocol-spec")
}

/// Whether what differs is to be written instead of told.
fn updating() -> bool {
    env::var_os("UPDATE_GOLDEN").is_some()
}

/// Compares a file with what it should be, or writes it.
fn golden(path: &Path, expected: &str) {
    if updating() {
        fs::write(path, expected).expect("the specification can be written");
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{} is not what the code says, from line {} on; UPDATE_GOLDEN=1 writes it",
        path.display(),
        differs.map_or(found.lines().count().min(expected.lines().count()), |line| line) + 1,
    );
}

fn documents() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder()).expect("there is a specification");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let mut documents: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("it can be read")))
        .collect();
    documents.sort();
    documents
}

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

/// A document with every generated section as it should be.
fn regenerate(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, section) = rest.split_at(at);
        let (marker, body) = section.split_once('\n').expect("a marker is a line");
        let name = marker.trim_start_matches(BEGIN).trim_end_matches(" -->");
        let (_, after) = body.split_once(END).expect("a generated section has an end");
        out.push_str(before);
        out.push_str(&format!("{marker}\n{}{END}", generated(name)));
        rest = after;
    }
    out + rest
}

fn generated(name: &str) -> String {
    match name.split_once(' ') {
        Some(("exchange", name)) => exchanges::text(name),
        _ => tables::text(name),
    }
}

// spec: QP-EVO-001
#[test]
fn the_tables_of_the_text_are_those_of_the_registry() {
    for (path, text) in documents() {
        golden(&path, &regenerate(&text));
    }
    golden(&folder().join("registry.json"), &registry::json());
}

/// One hexdump of the text: who sends it, and its bytes.
struct Dump {
    place: String,
    side: Side,
    bytes: Vec<u8>,
}

/// Who sends a message of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
    /// The node that opened the connection.
    Initiator,
    /// The node that it was opened to.
    Acceptor,
}

impl Side {
    const ALL: [Side; 4] = [Side::Client, Side::Server, Side::Initiator, Side::Acceptor];

    fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
            Side::Initiator => "initiator",
            Side::Acceptor => "acceptor",
        }
    }

    fn dialect(self) -> Dialect {
        match self {
            Side::Client | Side::Server => Dialect::Client,
            Side::Initiator | Side::Acceptor => Dialect::Peer,
        }
    }

    /// Whether it opened the connection.
    fn opened(self) -> bool {
        matches!(self, Side::Client | Side::Initiator)
    }
}

/// Every block marked `hex` and a side: bytes, then what they are behind a semicolon.
fn dumps() -> Vec<Dump> {
    let mut dumps = Vec::new();
    for (path, text) in documents() {
        let mut open: Option<Dump> = None;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("```hex ") {
                let place = format!("{}:{}", path.display(), number + 1);
                let side = Side::ALL.into_iter().find(|side| side.name() == name).expect(&place);
                open = Some(Dump { place, side, bytes: Vec::new() });
            } else if line == "```" {
                dumps.extend(open.take());
            } else if let Some(dump) = &mut open {
                let hex = line.split(';').next().unwrap_or_default();
                dump.bytes.extend(from_hex(hex).unwrap_or_else(|error| panic!("{}: {error}", dump.place)));
            }
        }
    }
    dumps
}

// spec: QP-FRM-010
// spec: QP-FRM-016
#[test]
fn every_hexdump_decodes_and_encodes_to_itself() {
    if updating() {
        return;
    }
    let dumps = dumps();
    assert!(dumps.len() > 20, "only {} hexdumps were found", dumps.len());
    for dump in dumps {
        let dialect = dump.side.dialect();
        if dump.bytes.len() == preface::PREFACE_BYTES {
            let judged = match dialect {
                Dialect::Client => preface::check_preface(&dump.bytes),
                Dialect::Peer => between_nodes::check_preface(&dump.bytes),
            };
            assert_eq!(judged, Ok(true), "{}", dump.place);
            continue;
        }
        let again = typed::re_encode(dialect, &dump.bytes, Some(dump.side.opened())).expect(&dump.place);
        assert_eq!(again, without_ignored(dialect, &dump.bytes), "{}", dump.place);
        assert!(annotate_in(dialect, &dump.bytes).is_ok(), "{}", dump.place);
    }
}

/// The frame without the tags that a receiver ignores.
fn without_ignored(dialect: Dialect, bytes: &[u8]) -> BytesMut {
    let mut frame = describe_in(dialect, bytes).expect("the tables know the frame");
    if let Some(tags) = frame["tags"].as_object_mut() {
        tags.retain(|name, _| !name.starts_with("0x"));
    }
    build_in(dialect, &frame).expect("the tables write the frame")
}

#[test]
fn every_document_is_named_in_the_readme() {
    let readme = fs::read_to_string(folder().join("README.md")).expect("there is a README");
    for (path, _) in documents() {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        assert!(name == "README.md" || readme.contains(&format!("({name})")), "{name} is not in the README");
    }
}
