//! Reading the project's files: a tokenizer for Rust that knows comments, quotes, tests and paths.

use std::{collections::BTreeSet, fs, path::Path};

/// One token of code; comments and what stands inside quotes are no tokens.
#[derive(Debug)]
pub struct Token {
    pub text: String,
    pub line: usize,
    /// Inside `#[cfg(test)]` or `#[test]`.
    pub test: bool,
    /// How many inline modules stand around it.
    pub modules: usize,
}

/// A file of Rust.
pub struct Source {
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let mut tokens = tokenize(text);
        mark_tests(&mut tokens);
        mark_modules(&mut tokens);
        Source { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// The folder or file under `src/` that it belongs to: `lib` for the root.
    pub fn module(&self) -> Option<&str> {
        let first = self.path.strip_prefix("src/")?.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// How many modules deep the file itself is: 1 for `src/wire/mod.rs`, 2 for `src/wire/frame.rs`.
    pub fn depth(&self) -> usize {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|part| !matches!(*part, "mod" | "lib")).count()
    }

    /// All paths `a::b::c` of the code, `use` groups expanded, with the token that begins each.
    pub fn paths(&self) -> Vec<(&Token, Vec<&str>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if is_word(&self.tokens[at].text) {
                let first = at;
                let mut leaves = Vec::new();
                at = self.path_tree(at, &[], &mut leaves);
                found.extend(leaves.into_iter().map(|leaf| (&self.tokens[first], leaf)));
            } else {
                at += 1;
            }
        }
        found
    }

    pub fn text_at(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    /// Reads the path that begins at `at`, which is a word; returns where it ends.
    fn path_tree<'a>(&'a self, mut at: usize, before: &[&'a str], leaves: &mut Vec<Vec<&'a str>>) -> usize {
        let mut path = before.to_vec();
        loop {
            path.push(self.text_at(at));
            at += 1;
            if self.text_at(at) != "::" {
                break;
            }
            at += 1;
            if self.text_at(at) == "{" {
                at += 1;
                while at < self.tokens.len() && self.text_at(at) != "}" {
                    at = if is_word(self.text_at(at)) { self.path_tree(at, &path, leaves) } else { at + 1 };
                }
                return at + 1;
            }
            if !is_word(self.text_at(at)) {
                break;
            }
        }
        leaves.push(path);
        at
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut tokens) = (0, 1, Vec::new());
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if peek(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if peek(at + 1) == '*' => {
                let mut depth = 0;
                while at < chars.len() {
                    match (chars[at], peek(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => at = after_quote(&chars, at),
            '\'' if peek(at + 1) == '\\' || (peek(at + 2) == '\'' && peek(at + 1) != '\'') => {
                at += if peek(at + 1) == '\\' { 3 } else { 2 };
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            first if first.is_alphanumeric() || first == '_' => {
                while peek(at).is_alphanumeric() || peek(at) == '_' {
                    at += 1;
                }
                let word: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|next| **next == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && peek(at + hashes) == '"' {
                    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    at += hashes + 1;
                    while at < chars.len() && !chars[at..].starts_with(&close) {
                        at += 1;
                    }
                    at += close.len();
                } else {
                    tokens.push(Token { text: word, line, test: false, modules: 0 });
                }
            }
            ':' if peek(at + 1) == ':' => {
                at += 2;
                tokens.push(Token { text: "::".into(), line, test: false, modules: 0 });
            }
            other => {
                at += 1;
                if !other.is_whitespace() {
                    tokens.push(Token { text: other.into(), line, test: false, modules: 0 });
                }
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|passed| **passed == '\n').count();
    }
    tokens
}

fn after_quote(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The tokens from `at` on, joined, as many as it takes to compare with `wanted`.
pub fn reads(tokens: &[Token], at: usize, wanted: &[&str]) -> bool {
    tokens.len() >= at + wanted.len() && wanted.iter().zip(&tokens[at..]).all(|(wanted, token)| token.text == *wanted)
}

/// Marks what `#[cfg(test)]`, `#[cfg(all(test, …` and `#[test]` govern: up to the end of the item's braces, or its semicolon.
fn mark_tests(tokens: &mut [Token]) {
    let begins = |tokens: &[Token], at| {
        reads(tokens, at, &["#", "[", "cfg", "(", "test"])
            || reads(tokens, at, &["#", "[", "cfg", "(", "all", "(", "test"])
            || reads(tokens, at, &["#", "[", "test", "]"])
            || reads(tokens, at, &["#", "[", "tokio", "::", "test"])
    };
    for at in 0..tokens.len() {
        if !tokens[at].test && begins(tokens, at) {
            let end = item_end(tokens, at);
            tokens[at..end].iter_mut().for_each(|token| token.test = true);
        }
    }
}

/// One past the item that begins at `at`, its attributes included.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let (mut braces, mut others) = (0_i32, 0_i32);
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" => others += 1,
            ")" | "]" => others -= 1,
            "{" => braces += 1,
            "}" => {
                braces -= 1;
                if braces <= 0 {
                    return at + offset + 1;
                }
            }
            ";" if braces == 0 && others == 0 => return at + offset + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn mark_modules(tokens: &mut [Token]) {
    for at in 0..tokens.len() {
        if tokens[at].text == "mod" && tokens.get(at + 2).is_some_and(|token| token.text == "{") {
            let end = item_end(tokens, at);
            tokens[at + 2..end].iter_mut().for_each(|token| token.modules += 1);
        }
    }
}

/// Marks whole files that a `#[cfg(test)] mod name;` brings in, and all below them.
pub fn mark_test_files(sources: &mut [Source]) {
    let mut roots = BTreeSet::new();
    for source in sources.iter() {
        let folder = source.path.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib");
        for at in 0..source.tokens.len() {
            let declares = source.text_at(at) == "mod" && source.text_at(at + 2) == ";";
            if declares && source.tokens[at].test {
                roots.insert(format!("{folder}/{}", source.text_at(at + 1)));
            }
        }
    }
    for source in sources {
        let stem = source.path.trim_end_matches(".rs");
        if roots.iter().any(|root| stem == root || stem.starts_with(&format!("{root}/"))) {
            source.tokens.iter_mut().for_each(|token| token.test = true);
        }
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below the named folders with one of the endings, as (path from the root, text).
pub fn files(folders: &[&str], endings: &[&str]) -> Vec<(String, String)> {
    fn walk(folder: &Path, endings: &[&str], found: &mut Vec<(String, String)>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != "corpus" && !name.starts_with('.') {
                    walk(&path, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let inner = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((inner, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), endings, &mut found));
    found
}

pub fn sources() -> Vec<Source> {
    let mut sources: Vec<_> = files(&["src", "tests", "fuzz", "benches"], &[".rs"])
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect();
    mark_test_files(&mut sources);
    sources
}
