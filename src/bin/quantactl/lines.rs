//! Rows as JSON Lines: `{"key":…,"value":…}`, one row a line.
//!
//! A key is a JSON string, or `{"hex":"…"}` for bytes that are no UTF-8. A value is the same, or any other JSON (an object,
//! an array, a number, `true`, `false`, `null`), which is stored as its own text without the white space between tokens:
//! digits and the order of members are kept as they stand. An object that has `hex` as its only member is always bytes.
//!
//! What [`write()`] writes, [`read()`] reads back to the same bytes.

use crate::escape;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A line that is no row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {what}")]
pub struct Error {
    /// Counted in bytes from 1.
    pub column: usize,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// A row as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Hex<'a> {
    #[serde(borrow)]
    hex: Cow<'a, str>,
}

/// Reads a line, without its line break.
pub fn read(line: &[u8]) -> Result<Row, Error> {
    let text = std::str::from_utf8(line).map_err(|error| Error {
        column: error.valid_up_to() + 1,
        what: "not UTF-8; bytes are written as {\"hex\":\"…\"}".into(),
    })?;
    // The parser would take a list of two for the two members.
    if let Some((at, _)) =
        text.char_indices().find(|(_, letter)| !letter.is_ascii_whitespace()).filter(|at| at.1 != '{')
    {
        return Err(Error { column: at + 1, what: "a row is {\"key\":…,\"value\":…}".into() });
    }
    let parsed: Line<'_> = serde_json::from_str(text).map_err(|error| Error {
        column: error.column().max(1),
        what: format!("{}; a row is {{\"key\":…,\"value\":…}}", reason(&error)),
    })?;
    let key = bytes(text, parsed.key)?.ok_or_else(|| Error {
        column: column(text, parsed.key),
        what: "a key is a string or {\"hex\":\"…\"}".into(),
    })?;
    let value = bytes(text, parsed.value)?.unwrap_or_else(|| compact(parsed.value.get()));
    Ok(Row { key, value })
}

/// The bytes of a string or of `{"hex":"…"}`; `None` for other JSON.
fn bytes(line: &str, raw: &RawValue) -> Result<Option<Vec<u8>>, Error> {
    let at = column(line, raw);
    match raw.get().as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw.get())
                .map_err(|error| Error { column: at + error.column().max(1) - 1, what: reason(&error) })?;
            Ok(Some(text.into_owned().into_bytes()))
        }
        Some(b'{') => match serde_json::from_str::<Hex<'_>>(raw.get()) {
            Err(_) => Ok(None),
            Ok(hex) => escape::parse_hex(&hex.hex)
                .map(Some)
                .map_err(|error| Error { column: at, what: format!("hex: {error}") }),
        },
        _ => Ok(None),
    }
}

/// Where a part of a line begins, from 1.
fn column(line: &str, part: &RawValue) -> usize {
    (part.get().as_ptr() as usize).saturating_sub(line.as_ptr() as usize) + 1
}

/// The parser's words without its own place, which counts from another start.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Valid JSON without the white space between its tokens.
fn compact(json: &str) -> Vec<u8> {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |byte: &u8| {
        if quoted {
            quoted = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            return true;
        }
        quoted = *byte == b'"';
        !byte.is_ascii_whitespace()
    };
    json.bytes().filter(keep).collect()
}

/// Appends a row and a line break.
pub fn write(key: &[u8], value: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"key\":");
    write_bytes(key, line);
    line.extend_from_slice(b",\"value\":");
    write_bytes(value, line);
    line.extend_from_slice(b"}\n");
}

/// Appends bytes as a JSON string, or as `{"hex":"…"}` when they are no UTF-8.
pub fn write_bytes(bytes: &[u8], line: &mut Vec<u8>) {
    let written = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_writer(line, text),
        Err(_) => serde_json::to_writer(line, &Hex { hex: escape::show_hex(bytes).into() }),
    };
    written.expect("memory takes every write, and text and hex are JSON");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str) -> Result<(Vec<u8>, Vec<u8>), (usize, String)> {
        read(line.as_bytes()).map(|row| (row.key, row.value)).map_err(|error| (error.column, error.what))
    }

    #[test]
    fn texts_bytes_and_other_json_are_read() {
        let read = |line, value: &[u8]| assert_eq!(row(line), Ok((b"k".to_vec(), value.to_vec())), "{line}");
        read(r#"{"key":"k","value":"a\n\u00fc"}"#, "a\nü".as_bytes());
        read(r#"{"value":{"hex":"00ff"},"key":{"hex":"6b"}}"#, b"\x00\xff");
        read(r#"{"key":"k","value":{"b": 1.50, "a":[ 1e400, "x \" y" ]}}"#, br#"{"b":1.50,"a":[1e400,"x \" y"]}"#);
        read(r#" {"key":"k", "value": null } "#, b"null");
        read(r#"{"key":"k","value":{"hex":"00","more":1}}"#, br#"{"hex":"00","more":1}"#);
        read(r#"{"key":"k","value":-12345678901234567890.1}"#, b"-12345678901234567890.1");
        read(r#"{"key":"k","value":["\\"," \\\" "]}"#, br#"["\\"," \\\" "]"#);
    }

    #[test]
    fn bad_lines_say_where_and_what_is_allowed() {
        let wrong = |line, column, part: &str| {
            let (at, what) = row(line).expect_err("it is wrong");
            assert!(at == column && what.contains(part), "{line}: {at} {what}");
        };
        wrong(r#"{"key":"k"}"#, 11, "missing field `value`");
        wrong(r#"{"key":"k","value":1,"x":2}"#, 24, "unknown field `x`");
        wrong(r#"{"key":7,"value":1}"#, 8, "a key is a string");
        wrong(r#"{"key":"k","value":{"hex":"0"}}"#, 20, "no whole number of bytes");
        wrong(r#"{"key":"k","value":{"hex":"0g"}}"#, 20, "no hexadecimal digit");
        wrong(r#"{"key":"k","value":tru}"#, 23, "a row is");
        wrong(r#"{"key":"k","value":"\ud800"}"#, 27, "hex escape");
        wrong(r#" ["k","v"]"#, 2, "a row is");
        wrong(r#"{"key":"k","value":1} x"#, 23, "trailing characters");
        assert_eq!(read(b"{\"key\":\"\xff\"}").expect_err("no UTF-8").column, 9);
    }

    #[test]
    fn what_is_written_is_read_back() {
        fn holds(key: Vec<u8>, value: Vec<u8>, text: String) -> bool {
            [(&key, &value), (&value, &text.into_bytes())].into_iter().all(|(key, value)| {
                let mut line = Vec::new();
                write(key, value, &mut line);
                line.pop() == Some(b'\n')
                    && !line.contains(&b'\n')
                    && read(&line) == Ok(Row { key: key.clone(), value: value.clone() })
            })
        }
        quickcheck::quickcheck(holds as fn(Vec<u8>, Vec<u8>, String) -> bool);
    }

    #[test]
    fn nothing_makes_the_reader_panic() {
        fn holds(parts: Vec<u8>) -> bool {
            const PIECES: [&str; 12] =
                ["{", "}", "\"key\"", ":", "\"value\"", ",", "\"", "\\", "\\u12", "{\"hex\":\"0\"}", " ", "\u{e9}"];
            let line: String = parts.iter().map(|part| PIECES[usize::from(*part) % PIECES.len()]).collect();
            let _ = read(line.as_bytes());
            true
        }
        quickcheck::quickcheck(holds as fn(Vec<u8>) -> bool);
    }
}
