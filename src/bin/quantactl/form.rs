//! How results look: tables for people, JSON Lines for programs, raw bytes for files.

use crate::{
    arguments::{Arguments, Output},
    escape,
    failure::Failure,
    lines,
};
use comfy_table::{ContentArrangement, Table, presets};
use std::io::{self, Write};

/// A table shows no more of a value than this many characters.
const CELL_CHARACTERS_MAX: usize = 100;
/// Rows of a table are measured together in groups of this many, so that a long scan begins at once and stays in bounds.
pub const TABLE_ROWS_MAX: usize = 512;

/// The form that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub output: Output,
    pub hex: bool,
}

impl Form {
    pub fn of(arguments: &Arguments) -> Form {
        Form { output: arguments.output, hex: arguments.hex }
    }

    /// Reads a key or a value from the command line; `what` is for the message.
    pub fn read(self, what: &str, text: &str) -> Result<Vec<u8>, Failure> {
        let bytes = if self.hex { escape::parse_hex(text) } else { escape::parse(text) };
        bytes.map_err(|error| Failure::Usage(format!("{what}: {error}")))
    }

    /// A key or a value as text.
    pub fn show(self, bytes: &[u8]) -> String {
        if self.hex { escape::show_hex(bytes) } else { escape::show(bytes) }
    }

    /// As text, cut to what a table holds.
    fn cell(self, bytes: &[u8]) -> String {
        // A character of text stands for at least a quarter of a byte.
        let text = self.show(&bytes[..bytes.len().min(CELL_CHARACTERS_MAX * 4)]);
        match text.char_indices().nth(CELL_CHARACTERS_MAX) {
            None => text,
            Some((at, _)) => format!("{}… ({} bytes)", &text[..at], bytes.len()),
        }
    }

    /// As JSON: a string or `{"hex":"…"}`.
    pub fn json(self, bytes: &[u8]) -> String {
        let mut json = Vec::new();
        if self.hex {
            json.extend_from_slice(format!("{{\"hex\":\"{}\"}}", escape::show_hex(bytes)).as_bytes());
        } else {
            lines::write_bytes(bytes, &mut json);
        }
        String::from_utf8(json).expect("JSON is text")
    }
}

/// An empty table without lines, as wide as it needs to be.
pub fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !headers.is_empty() {
        table.set_header(headers);
    }
    table
}

/// A table as lines without trailing blanks.
pub fn render(table: &Table) -> String {
    let lines = table.to_string();
    lines.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line).trim_end())).collect()
}

/// Rows on their way to stdout.
pub struct Rows<W> {
    form: Form,
    keys_only: bool,
    output: W,
    group: Option<Table>,
    first: bool,
}

impl<W: Write> Rows<W> {
    pub fn new(form: Form, keys_only: bool, output: W) -> Rows<W> {
        Rows { form, keys_only, output, group: None, first: true }
    }

    pub fn push(&mut self, key: &[u8], version: u64, value: &[u8]) -> io::Result<()> {
        let form = self.form;
        match form.output {
            Output::Raw if self.keys_only => writeln!(self.output, "{}", form.show(key)),
            Output::Raw => writeln!(self.output, "{}\t{}", form.show(key), form.show(value)),
            Output::Json if self.keys_only => {
                writeln!(self.output, r#"{{"key":{},"version":{version}}}"#, form.json(key))
            }
            Output::Json => {
                let (key, value) = (form.json(key), form.json(value));
                writeln!(self.output, r#"{{"key":{key},"value":{value},"version":{version}}}"#)
            }
            Output::Table => {
                let table = self.group.get_or_insert_with(|| {
                    let headers: &[&str] =
                        if self.keys_only { &["KEY", "VERSION"] } else { &["KEY", "VERSION", "VALUE"] };
                    table(if std::mem::take(&mut self.first) { headers } else { &[] })
                });
                let mut cells = vec![form.cell(key), version.to_string()];
                if !self.keys_only {
                    cells.push(form.cell(value));
                }
                table.add_row(cells);
                if table.row_count() >= TABLE_ROWS_MAX { self.flush_group() } else { Ok(()) }
            }
        }
    }

    fn flush_group(&mut self) -> io::Result<()> {
        match self.group.take() {
            Some(group) => self.output.write_all(render(&group).as_bytes()),
            None => Ok(()),
        }
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.flush_group()?;
        self.output.flush()?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(output: Output, hex: bool, keys_only: bool) -> String {
        let mut rows = Rows::new(Form { output, hex }, keys_only, Vec::new());
        rows.push(b"a", 7, b"one").expect("memory takes it");
        rows.push(b"long\n", 12, &[b'x'; 300]).expect("memory takes it");
        String::from_utf8(rows.finish().expect("memory takes it")).expect("it is text")
    }

    #[test]
    fn rows_have_three_forms() {
        let long = "x".repeat(300);
        let cut = "x".repeat(100);
        assert_eq!(
            shown(Output::Table, false, false),
            format!("KEY     VERSION  VALUE\na       7        one\nlong\\n  12       {cut}… (300 bytes)\n")
        );
        assert_eq!(shown(Output::Raw, false, false), format!("a\tone\nlong\\n\t{long}\n"));
        assert_eq!(
            shown(Output::Json, false, false),
            format!(
                "{{\"key\":\"a\",\"value\":\"one\",\"version\":7}}\n{{\"key\":\"long\\n\",\"value\":\"{long}\",\"version\":12}}\n"
            )
        );
        assert_eq!(shown(Output::Raw, true, true), "61\n6c6f6e670a\n");
        assert_eq!(shown(Output::Json, true, true).lines().next(), Some(r#"{"key":{"hex":"61"},"version":7}"#));
    }

    #[test]
    fn a_long_table_has_one_head() {
        let mut rows = Rows::new(Form { output: Output::Table, hex: false }, true, Vec::new());
        for number in 0..TABLE_ROWS_MAX as u64 + 2 {
            rows.push(b"k", number, b"").expect("memory takes it");
        }
        let text = String::from_utf8(rows.finish().expect("memory takes it")).expect("it is text");
        assert_eq!(text.lines().count(), TABLE_ROWS_MAX + 3);
        assert_eq!(text.matches("KEY").count(), 1);
    }
}
