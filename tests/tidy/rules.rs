//! The rules: each a function from sources to a list of complaints.

use super::{
    EMPTY_WORDS, FLOORS, LINES_MAX, TOP_FILES, TOP_FOLDERS, UNFINISHED, UNSAFE_IN, WORLD, WORLD_FILES, WORLD_MODULES,
    source::{Source, reads},
};
use std::collections::{BTreeMap, BTreeSet};

/// A module names only lower floors, and siblings do not name each other. Tests may name `testing` besides.
pub fn floors(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let ranks: BTreeMap<_, _> = FLOORS.iter().map(|floor| (floor.module, floor)).collect();
    for source in sources {
        let Some(module) = source.module().filter(|module| *module != "lib") else { continue };
        let Some(own) = ranks.get(module) else {
            wrong.push(format!("{}: `{module}` has no floor in the table of tests/tidy.rs", source.path));
            continue;
        };
        if own.rank >= 100 {
            continue;
        }
        for (token, path) in source.paths() {
            let supers = path.iter().take_while(|part| **part == "super").count();
            let named = match path[0] {
                "crate" => path.get(1),
                "super" if supers >= source.depth() + token.modules => path.get(supers),
                _ => None,
            };
            let Some(named) = named.and_then(|named| ranks.get(named)) else { continue };
            let allowed = match own.only {
                _ if named.module == module => true,
                _ if named.module == "testing" => token.test,
                Some(only) => only.contains(&named.module),
                None => named.rank < own.rank,
            };
            if !allowed {
                wrong.push(format!("{}:{}: `{module}` names `{}`", source.path, token.line, named.module));
            }
        }
    }
    wrong
}

/// Time, randomness, threads and files are reached through `env`.
pub fn world(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_held = |source: &&Source| {
        source.module().is_some_and(|module| !WORLD_MODULES.contains(&module))
            && !WORLD_FILES.contains(&source.path.as_str())
    };
    for source in sources.iter().filter(is_held) {
        for (token, path) in source.paths() {
            let clock = path.iter().any(|part| matches!(*part, "Instant" | "SystemTime"));
            if !token.test && (clock || WORLD.iter().any(|outside| path.starts_with(outside))) {
                wrong.push(format!("{}:{}: `{}` goes past `env`", source.path, token.line, path.join("::")));
            }
        }
    }
    wrong
}

/// A `select!` that draws lots for what it looks at first makes a run that no seed gives again.
pub fn selects(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.module().is_some_and(|module| module != "bin")) {
        for at in 0..source.tokens.len() {
            let begins = reads(&source.tokens, at, &["select", "!", "{"]);
            if begins && !source.tokens[at].test && source.text_at(at + 3) != "biased" {
                wrong.push(format!("{}:{}: `select!` without `biased`", source.path, source.tokens[at].line));
            }
        }
    }
    wrong
}

/// What is a pure function never waits.
pub fn waits(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for floor in FLOORS.iter().filter(|floor| !floor.waits) {
        for source in sources.iter().filter(|source| source.module() == Some(floor.module)) {
            for token in source.tokens.iter().filter(|token| !token.test && token.text == "async") {
                wrong.push(format!("{}:{}: `{}` is never async", source.path, token.line, floor.module));
            }
        }
    }
    wrong
}

/// Only some floors write log lines; the client never does.
pub fn logs(sources: &[Source]) -> Vec<String> {
    let silent = |module: &str| FLOORS.iter().any(|floor| floor.module == module && !floor.logs);
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.module().is_some_and(silent)) {
        for (token, path) in source.paths() {
            if path[0] == "slog" || path[0].starts_with("slog_") {
                wrong.push(format!("{}:{}: this floor does not log", source.path, token.line));
            }
        }
    }
    wrong
}

pub fn unsafe_code(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let may = |source: &Source| UNSAFE_IN.iter().any(|place| source.path.starts_with(place));
    for source in sources.iter().filter(|source| source.module().is_some() && !may(source)) {
        for token in source.tokens.iter().filter(|token| token.text == "unsafe") {
            wrong.push(format!("{}:{}: `unsafe` stands only in {UNSAFE_IN:?}", source.path, token.line));
        }
    }
    wrong
}

pub fn unwraps(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.module().is_some()) {
        for at in 0..source.tokens.len() {
            if !source.tokens[at].test && reads(&source.tokens, at, &[".", "unwrap", "(", ")"]) {
                wrong.push(format!("{}:{}: `unwrap` outside tests", source.path, source.tokens[at].line));
            }
        }
    }
    wrong
}

pub fn file_sizes(sources: &[Source]) -> Vec<String> {
    let long =
        sources.iter().map(|source| (source, source.text.lines().count())).filter(|(_, lines)| *lines > LINES_MAX);
    long.map(|(source, lines)| format!("{}: {lines} lines, {LINES_MAX} are allowed", source.path)).collect()
}

/// Unfinished work is not committed, in code or in comments.
pub fn unfinished(texts: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in texts {
        for (number, line) in text.lines().enumerate() {
            for mark in UNFINISHED.iter().filter(|mark| line.contains(**mark)) {
                wrong.push(format!("{path}:{}: `{mark}`", number + 1));
            }
        }
    }
    wrong
}

/// The words of a name in either case: `FrameDecoder` and `frame_decoder` are `frame`, `decoder`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || (letter.is_uppercase() && words.last().is_some_and(|word| !word.is_empty())) {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().unwrap().extend(letter.to_lowercase());
        }
    }
    words
}

pub fn names(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |place: String, name: &str| {
        if words(name).iter().any(|word| EMPTY_WORDS.contains(&word.as_str())) {
            wrong.push(format!("{place}: `{name}` says nothing"));
        }
    };
    for source in sources {
        for part in source.path.trim_end_matches(".rs").split('/') {
            check(source.path.clone(), part);
        }
        for pair in source.tokens.windows(2) {
            if matches!(pair[0].text.as_str(), "mod" | "struct" | "enum" | "trait" | "type" | "union") {
                check(format!("{}:{}", source.path, pair[0].line), &pair[1].text);
            }
        }
    }
    wrong
}

pub fn top_level(entries: &[(String, bool)], ignored: &str) -> Vec<String> {
    let ignored: Vec<_> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut wrong = Vec::new();
    for (name, folder) in entries {
        let known = if *folder { TOP_FOLDERS } else { TOP_FILES };
        let licence = !folder && name.starts_with("LICENSE");
        if !name.starts_with('.') && !licence && !known.contains(&name.as_str()) && !ignored.contains(&name.as_str()) {
            wrong.push(format!("{name}: not one of the agreed names of the top level"));
        }
    }
    wrong
}

/// A recipe that stands twice makes the whole file unusable.
pub fn recipes(justfile: &str) -> Vec<String> {
    let (mut known, mut wrong) = (BTreeSet::new(), Vec::new());
    for line in justfile.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase())) {
        let name = line.split([' ', ':']).next().unwrap_or_default();
        if !known.insert(name) {
            wrong.push(format!("Justfile: {name} is there twice"));
        }
    }
    wrong
}

/// The ids of requirements in a text, `QP-AAA-000` or `QP-AAAA-000`, each with its line.
fn spec_ids(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("QP-") {
            let shaped = |area: usize| {
                let id = line.get(at..at + 3 + area + 4)?;
                let (letters, digits) = id[3..].split_once('-')?;
                let holds = letters.len() == area
                    && letters.bytes().all(|letter| letter.is_ascii_uppercase())
                    && digits.bytes().all(|digit| digit.is_ascii_digit());
                holds.then_some((number + 1, id))
            };
            found.extend([3, 4].into_iter().find_map(shaped));
        }
    }
    found
}

/// A requirement is defined where its id stands in bold: `**QP-AAA-000**`. Each is defined once, each that is cited is
/// defined, and each that is defined is cited by code or a test.
pub fn spec_citations(spec: &[(String, String)], citing: &[(String, String)]) -> Vec<String> {
    let (mut defined, mut wrong): (BTreeMap<&str, String>, _) = (BTreeMap::new(), Vec::new());
    for (path, text) in spec {
        for (line, id) in spec_ids(text) {
            let bold = text.lines().nth(line - 1).is_some_and(|text| text.contains(&format!("**{id}**")));
            if bold && let Some(other) = defined.insert(id, format!("{path}:{line}")) {
                wrong.push(format!("{path}:{line}: {id} is also defined at {other}"));
            }
        }
    }
    let mut cited = BTreeSet::new();
    for (path, text) in spec.iter().chain(citing) {
        for (line, id) in spec_ids(text) {
            if !defined.contains_key(id) {
                wrong.push(format!("{path}:{line}: {id} is not defined in protocol-spec/"));
            }
            if path.ends_with(".rs") {
                cited.insert(id);
            }
        }
    }
    for (id, place) in defined.iter().filter(|(id, _)| !cited.contains(**id)) {
        wrong.push(format!("{place}: {id} is cited by no code and no test"));
    }
    wrong
}
