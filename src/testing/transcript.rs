//! Transcripts: a file of commands, each with the answer that it got when the file was made.
//!
//! ```text
//! # A deleted key is absent.
//! put k v
//! ---
//! version 1
//!
//! delete k
//! get k
//! ---
//! version 2
//! absent
//! ```
//!
//! A block is command lines, `---`, the answers' lines, and an empty line. Lines that begin with `#` are for the reader.
//! The commands of a file run in order against one subject; what comes out must be the file again. With
//! `UPDATE_GOLDEN=1` in the environment the file is rewritten instead: read the difference before you commit it.

use std::{fmt::Write, fs, path::Path};

/// One command: a word, and arguments in order, `name=value` among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The first word.
    pub name: String,
    /// The other words, unescaped.
    pub arguments: Vec<Vec<u8>>,
}

impl Command {
    /// Reads a line: words between spaces; `"a b"` is one word; `\n`, `\\`, `\"`, `\s` for a space, and `\x00` for any byte.
    ///
    /// # Errors
    /// In words, where the line is not of that form.
    pub fn parse(line: &str) -> Result<Command, String> {
        let mut words = words(line)?.into_iter();
        let name = words.next().ok_or("an empty command")?;
        let name = String::from_utf8(name).map_err(|_| "a command that is not text")?;
        Ok(Command { name, arguments: words.collect() })
    }

    /// The argument at a place.
    ///
    /// # Errors
    /// In words, if there are fewer.
    pub fn bytes(&self, place: usize) -> Result<&[u8], String> {
        self.arguments.get(place).map(Vec::as_slice).ok_or(format!("{} wants argument {place}", self.name))
    }

    /// The argument at a place, as text.
    ///
    /// # Errors
    /// In words, if there are fewer, or it is not text.
    pub fn text(&self, place: usize) -> Result<&str, String> {
        std::str::from_utf8(self.bytes(place)?).map_err(|_| format!("{}: argument {place} is not text", self.name))
    }

    /// What stands behind `name=`, if that is among the arguments.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&[u8]> {
        self.arguments.iter().find_map(|word| word.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<Vec<u8>>, false);
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' if !quoted => words.extend(word.take()),
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b'\\' => {
                let byte = match bytes.next() {
                    Some(b'n') => b'\n',
                    Some(b's') => b' ',
                    Some(same @ (b'\\' | b'"')) => same,
                    Some(b'x') => {
                        let mut digit = || char::from(bytes.next()?).to_digit(16);
                        let (high, low) = (digit(), digit());
                        let value = high.zip(low).map(|(high, low)| high * 16 + low);
                        value.and_then(|value| u8::try_from(value).ok()).ok_or("\\x wants two hex digits")?
                    }
                    _ => return Err(format!("an unknown escape in {line:?}")),
                };
                word.get_or_insert_default().push(byte);
            }
            byte => word.get_or_insert_default().push(byte),
        }
    }
    if quoted {
        return Err(format!("a quote that is not closed in {line:?}"));
    }
    words.extend(word);
    Ok(words)
}

/// Bytes as [`Command::parse`] reads them: one word.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'"' => text.push_str("\\\""),
            b'\n' => text.push_str("\\n"),
            b' ' => text.push_str("\\s"),
            0x21..=0x7e => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, "\\x{other:02x}");
            }
        }
    }
    if text.is_empty() { "\"\"".into() } else { text }
}

/// Runs the commands of a transcript and gives the transcript that comes out. An error of `run` is an answer as well:
/// `error: ` and its text.
pub fn replay(script: &str, mut run: impl FnMut(&Command) -> Result<String, String>) -> String {
    let (mut out, mut answers) = (String::new(), String::new());
    // Within a block's commands; within its old answers, which are replaced.
    let (mut asking, mut answering) = (false, false);
    for line in script.lines().chain([""]) {
        if answering {
            answering = !line.is_empty();
            continue;
        }
        if asking && (line.is_empty() || line == "---") {
            let _ = writeln!(out, "---\n{answers}");
            answers.clear();
            (asking, answering) = (false, line == "---");
            continue;
        }
        let _ = writeln!(out, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        asking = true;
        match Command::parse(line).and_then(|command| run(&command)) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => drop(writeln!(answers, "{}", answer.trim_end())),
            Err(error) => drop(writeln!(answers, "error: {error}")),
        }
    }
    format!("{}\n", out.trim_end())
}

/// Runs the transcript in a file and compares.
///
/// # Panics
/// If what comes out is not what the file says, with the first line that differs.
#[track_caller]
pub fn check(path: impl AsRef<Path>, run: impl FnMut(&Command) -> Result<String, String>) {
    let path = path.as_ref();
    let script = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let found = replay(&script, run);
    check_golden(path, &found);
}

/// Compares a text with a golden file, or rewrites the file with `UPDATE_GOLDEN=1` in the environment.
///
/// # Panics
/// If they differ, with the first line that does.
#[track_caller]
pub fn check_golden(path: impl AsRef<Path>, found: &str) {
    compare(path.as_ref(), found, std::env::var_os("UPDATE_GOLDEN").is_some());
}

#[track_caller]
fn compare(path: &Path, found: &str, update: bool) {
    if update {
        fs::write(path, found).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    let wanted = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if let Some(text) = first_difference(found, &wanted) {
        panic!("{}:{text}\nrun with UPDATE_GOLDEN=1 if the change is meant", path.display());
    }
}

fn first_difference(found: &str, wanted: &str) -> Option<String> {
    if found == wanted {
        return None;
    }
    let (found, wanted): (Vec<_>, Vec<_>) = (found.lines().collect(), wanted.lines().collect());
    let line = found.iter().zip(&wanted).take_while(|(found, wanted)| found == wanted).count();
    let shown = |lines: &[&str]| lines.get(line).map_or("the end".into(), |line| format!("{line:?}"));
    Some(format!("{}: {} found, {} wanted", line + 1, shown(&found), shown(&wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::directory::TemporaryDirectory;
    use std::collections::BTreeMap;

    fn map() -> impl FnMut(&Command) -> Result<String, String> {
        let mut map = BTreeMap::new();
        move |command| match command.name.as_str() {
            "put" => {
                map.insert(command.bytes(0)?.to_vec(), command.bytes(1)?.to_vec());
                Ok(String::new())
            }
            "get" => Ok(map.get(command.bytes(0)?).map_or("absent".into(), |value| escape(value))),
            other => Err(format!("unknown command {other}")),
        }
    }

    const SCRIPT: &str = "# A map.\nput k \"a b\"\nget k\n---\na\\sb\n\nget other\n---\nabsent\n\nfly\n---\nerror: unknown command fly\n";

    #[test]
    fn a_transcript_that_holds_comes_out_as_it_went_in() {
        assert_eq!(replay(SCRIPT, map()), SCRIPT);
        assert_eq!(replay("get k", map()), "get k\n---\nabsent\n", "a new block gets its answers");
        let two = "get k\n---\nabsent\n\n# Another.\nput k v\nget k\n---\nv\n";
        assert_eq!(replay("get k\n\n# Another.\nput k v\nget k\n", map()), two, "and so do two");
        assert_eq!(replay(&SCRIPT.replace("absent", "v\nw"), map()), SCRIPT, "a wrong answer is replaced");
    }

    #[test]
    fn a_golden_file_is_compared_or_rewritten() {
        let directory = TemporaryDirectory::new("transcript");
        let path = directory.path().join("map");
        fs::write(&path, "old").expect("it can be written");
        compare(&path, SCRIPT, true);
        compare(&path, SCRIPT, false);
        check(&path, map());
        assert_eq!(first_difference(SCRIPT, SCRIPT), None);
        let text = first_difference(SCRIPT, &SCRIPT.replace("absent", "v")).expect("it differs");
        assert_eq!(text, "9: \"absent\" found, \"v\" wanted");
        assert_eq!(first_difference("a", "a\nb").as_deref(), Some("2: the end found, \"b\" wanted"));
    }

    #[test]
    #[should_panic(expected = "UPDATE_GOLDEN")]
    fn a_golden_file_that_differs_fails() {
        let directory = TemporaryDirectory::new("transcript");
        let path = directory.path().join("map");
        fs::write(&path, SCRIPT.replace("absent", "v")).expect("it can be written");
        compare(&path, &replay(SCRIPT, map()), false);
    }

    #[test]
    fn words_are_read_as_they_are_escaped() {
        let command = Command::parse("scan \\x00\\xff \"\" limit=3 a\\\\b").expect("it is well formed");
        assert_eq!(command.arguments, [&b"\x00\xff"[..], b"", b"limit=3", b"a\\b"]);
        assert_eq!((command.text(2), command.named("limit")), (Ok("limit=3"), Some(&b"3"[..])));
        assert!(command.text(0).is_err() && command.bytes(4).is_err() && command.named("missing").is_none());
        for bad in ["get \\q", "get \"k", "get \\x0g", "", "\\xff"] {
            assert!(Command::parse(bad).is_err(), "{bad}");
        }
    }

    quickcheck::quickcheck! {
        fn any_bytes_survive_escaping(bytes: Vec<u8>) -> bool {
            Command::parse(&format!("get {}", escape(&bytes))).map(|command| command.arguments) == Ok(vec![bytes])
        }
    }
}
