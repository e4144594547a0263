//! Rules about the text of this project that the compiler does not hold, from the tables below.
//!
//! Each rule is a function from sources to a list of complaints, and has a test at the end of this file that feeds it a
//! bad snippet: a rule that cannot fail is a defect. A review comment that could be repeated belongs here.

#![allow(clippy::unwrap_used)]

#[path = "tidy/source.rs"]
mod source;

#[path = "tidy/rules.rs"]
mod rules;

use rules::{
    file_sizes, floors, logs, names, recipes, selects, spec_citations, top_level, unfinished, unsafe_code, unwraps,
    waits, world,
};
use source::{Source, files, mark_test_files, root, sources};
use std::fs;

/// What a module on the top of `src/` may do.
struct Floor {
    module: &'static str,
    /// It names only modules of lower rank.
    rank: u8,
    /// It names only these, where it is held to less than all lower floors.
    only: Option<&'static [&'static str]>,
    /// It writes log lines.
    logs: bool,
    /// It may be async.
    waits: bool,
}

const fn floor(module: &'static str, rank: u8) -> Floor {
    Floor { module, rank, only: None, logs: false, waits: true }
}

/// The floors of the design, lowest first. `testing`, `lib.rs` and `bin` stand above all of them.
const FLOORS: &[Floor] = &[
    floor("types", 0),
    floor("encoding", 0),
    floor("env", 0),
    Floor { only: Some(&["types", "encoding"]), waits: false, ..floor("wire", 10) },
    Floor { only: Some(&["types", "encoding", "env"]), waits: false, ..floor("backup", 10) },
    floor("storage", 10),
    floor("log", 10),
    Floor { only: Some(&["types", "encoding", "storage"]), waits: false, ..floor("txn", 20) },
    Floor { only: Some(&["types", "encoding", "env", "wire"]), ..floor("client", 20) },
    Floor { only: Some(&["types", "encoding", "env", "wire"]), ..floor("peer", 20) },
    Floor { logs: true, ..floor("consensus", 30) },
    Floor { logs: true, ..floor("node", 40) },
    floor("catalog", 50),
    floor("index", 51),
    floor("query", 52),
    Floor { logs: true, ..floor("server", 60) },
    Floor { logs: true, ..floor("testing", 100) },
    Floor { logs: true, ..floor("bin", 100) },
];

/// Paths that reach time, randomness, threads or files past `env`, and where they may stand.
const WORLD: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "thread"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "hash", "RandomState"],
    &["std", "collections", "hash_map", "RandomState"],
    &["tokio", "fs"],
    &["tokio", "spawn"],
    &["tokio", "task", "spawn"],
    &["tokio", "task", "spawn_blocking"],
    &["tokio", "task", "spawn_local"],
    &["tokio", "time"],
    &["rand"],
    &["getrandom"],
];
const WORLD_MODULES: &[&str] = &["env", "testing", "bin"];
/// What gives openraft its clock and its randomness names its words for them.
const WORLD_FILES: &[&str] = &["src/consensus/runtime.rs"];

/// The only places where `unsafe` may stand: the memory engine, and a setting of the allocator.
const UNSAFE_IN: &[&str] = &["src/storage/memory/", "src/bin/quantadb/allocator.rs"];

/// What lies on the top of the project. Hidden names, `LICENSE*` and what git ignores are let be.
const TOP_FOLDERS: &[&str] = &["benches", "fuzz", "protocol-spec", "src", "tests"];
const TOP_FILES: &[&str] = &["CHANGELOG.md", "Cargo.lock", "Cargo.toml", "Justfile", "README.md", "rustfmt.toml"];

const LINES_MAX: usize = 800;

/// Names that say nothing.
const EMPTY_WORDS: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common"];

/// Marks of unfinished work. In two halves, so that this file passes its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("#[ign", "ore"),
];

// ---------------------------------------------------------------------------------------------------------------------
// The project is held to the rules.

fn assert_tidy(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn modules_name_only_lower_floors() {
    assert_tidy(&floors(&sources()));
}

#[test]
fn the_world_is_reached_through_env() {
    assert_tidy(&world(&sources()));
}

#[test]
fn every_select_says_what_it_looks_at_first() {
    assert_tidy(&selects(&sources()));
}

#[test]
fn pure_floors_never_wait() {
    assert_tidy(&waits(&sources()));
}

#[test]
fn only_some_floors_log() {
    assert_tidy(&logs(&sources()));
}

#[test]
fn unsafe_stands_where_it_may() {
    assert_tidy(&unsafe_code(&sources()));
}

#[test]
fn nothing_unwraps_outside_tests() {
    assert_tidy(&unwraps(&sources()));
}

#[test]
fn files_are_short() {
    assert_tidy(&file_sizes(&sources()));
}

#[test]
fn nothing_is_left_unfinished() {
    assert_tidy(&unfinished(&files(
        &["src", "tests", "fuzz", "benches", "protocol-spec", ".ci"],
        &[".rs", ".md", "run"],
    )));
}

#[test]
fn names_say_something() {
    assert_tidy(&names(&sources()));
}

#[test]
fn the_top_level_is_as_agreed() {
    let entries: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir()))
        .collect();
    assert_tidy(&top_level(&entries, &fs::read_to_string(root().join(".gitignore")).unwrap()));
}

#[test]
fn recipes_stand_once() {
    assert_tidy(&recipes(&fs::read_to_string(root().join("Justfile")).unwrap()));
}

#[test]
fn spec_ids_are_defined_once_and_cited() {
    let spec = files(&["protocol-spec"], &[".md"]);
    let citing: Vec<_> = files(&["src", "tests", "fuzz", "benches"], &[".rs"])
        .into_iter()
        .filter(|(path, _)| !path.starts_with("tests/tidy"))
        .collect();
    if !spec.is_empty() {
        assert_tidy(&spec_citations(&spec, &citing));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Each rule can fail.

mod a_rule_can_fail {
    use super::*;

    fn one(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str) -> usize {
        let mut sources = vec![Source::new(path, text)];
        mark_test_files(&mut sources);
        rule(&sources).len()
    }

    #[test]
    fn floors_sees_every_form_of_naming() {
        for bad in [
            "use crate::server::Session;",
            "use crate::{types::Version, node};",
            "fn f() { crate::storage::open() }",
            "use super::super::txn;",
            "mod inner { use super::super::super::txn::Outcome; }",
            "#[cfg(test)] mod tests { use crate::client; }",
            "use crate::testing::model;",
        ] {
            assert_eq!(one(floors, "src/wire/frame.rs", bad), 1, "{bad}");
        }
        for good in [
            "use crate::types::{Version, KeyspaceId};",
            "// crate::server is above\n/* crate::node /* crate::txn */ */ const S: &str = r#\"crate::client\"#;",
            "use super::frame; use super::super::encoding;",
            "#[cfg(test)] mod tests { use super::super::node; use crate::testing::model; }",
        ] {
            assert_eq!(one(floors, "src/wire/frame.rs", good), 0, "{good}");
        }
        assert_eq!(one(floors, "src/wire/mod.rs", "use super::txn;"), 1);
        assert_eq!(one(floors, "src/storage/mod.rs", "use crate::wire;"), 1, "siblings");
        assert_eq!(one(floors, "src/index/mod.rs", "use crate::query;"), 1);
        assert_eq!(one(floors, "src/index/mod.rs", "use crate::catalog;"), 0);
        assert_eq!(one(floors, "src/client/mod.rs", "use crate::storage;"), 1, "the client names wire alone");
        assert_eq!(one(floors, "src/attic/mod.rs", ""), 1, "not in the table");
        assert_eq!(one(floors, "src/testing/mod.rs", "use crate::server;"), 0);
    }

    #[test]
    fn world_sees_clocks_threads_and_files() {
        for bad in [
            "use std::time::Instant;",
            "use std::{fs, sync::Arc};",
            "use std::time; fn f() { time::SystemTime::now(); }",
            "fn f() { tokio::spawn(async {}); }",
            "use tokio::{net, time::sleep};",
            "fn f() { std::thread::spawn(|| ()); }",
            "fn f() -> u8 { rand::random() }",
        ] {
            assert_eq!(one(world, "src/node/mod.rs", bad), 1, "{bad}");
            assert_eq!(one(world, "src/env/mod.rs", bad), 0, "{bad}");
            assert_eq!(one(world, "src/node/mod.rs", &format!("#[cfg(test)] mod tests {{ {bad} }}")), 0, "{bad}");
        }
        assert_eq!(one(world, "src/node/mod.rs", "use std::time::Duration; use tokio::task::yield_now;"), 0);
        assert_eq!(
            one(world, "src/node/mod.rs", "#[cfg(test)] mod tests; use std::fs;"),
            1,
            "the item after is not a test"
        );
    }

    #[test]
    fn a_file_of_tests_is_a_test() {
        let mut sources = vec![
            Source::new("src/node/mod.rs", "#[cfg(test)]\nmod proof;\nmod real;"),
            Source::new("src/node/proof.rs", "use std::fs;"),
            Source::new("src/node/proof/deep.rs", "use std::fs;"),
            Source::new("src/node/real.rs", "use std::fs;"),
        ];
        mark_test_files(&mut sources);
        assert_eq!(world(&sources), ["src/node/real.rs:1: `std::fs` goes past `env`"]);
    }

    #[test]
    fn world_lets_a_file_be_that_gives_openraft_its_clock() {
        assert_eq!(one(world, "src/consensus/runtime.rs", "use openraft::Instant;"), 0);
        assert_eq!(one(world, "src/consensus/driver.rs", "use openraft::Instant;"), 1);
    }

    #[test]
    fn selects_sees_one_that_draws() {
        assert_eq!(one(selects, "src/node/mod.rs", "fn f() { tokio::select! { a = b => {} } }"), 1);
        assert_eq!(one(selects, "src/node/mod.rs", "fn f() { tokio::select! { biased; a = b => {} } }"), 0);
        assert_eq!(one(selects, "src/node/mod.rs", "#[test] fn f() { tokio::select! { a = b => {} } }"), 0);
    }

    #[test]
    fn waits_sees_async() {
        assert_eq!(one(waits, "src/txn/resolver.rs", "pub async fn resolve() {}"), 1);
        assert_eq!(one(waits, "src/txn/resolver.rs", "// async\n#[tokio::test]\nasync fn resolves() {}"), 0);
        assert_eq!(one(waits, "src/node/mod.rs", "async fn wait() {}"), 0);
    }

    #[test]
    fn logs_sees_slog() {
        assert_eq!(one(logs, "src/client/mod.rs", "use slog::Logger;"), 1);
        assert_eq!(one(logs, "src/txn/mod.rs", "fn f() { slog::info!(log, \"x\"); }"), 1);
        assert_eq!(one(logs, "src/server/mod.rs", "use slog::Logger;"), 0);
    }

    #[test]
    fn unsafe_code_sees_unsafe() {
        assert_eq!(one(unsafe_code, "src/wire/frame.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(one(unsafe_code, "src/storage/memory/hash.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(one(unsafe_code, "src/wire/frame.rs", "// unsafe\nconst S: &str = \"unsafe\";"), 0);
    }

    #[test]
    fn unwraps_sees_unwrap() {
        assert_eq!(one(unwraps, "src/wire/frame.rs", "fn f() { g()\n.unwrap(); }"), 1);
        assert_eq!(one(unwraps, "src/wire/frame.rs", "#[test] fn f() { g().unwrap(); }"), 0);
        assert_eq!(one(unwraps, "src/wire/frame.rs", "fn f() { g().unwrap_or(0); '\\''; '\"'; h::<'_>() }"), 0);
        assert_eq!(
            one(unwraps, "src/wire/frame.rs", "fn f() { '\"'; g().unwrap(); }"),
            1,
            "a quote in a char is no string"
        );
    }

    #[test]
    fn file_sizes_sees_a_long_file() {
        assert_eq!(one(file_sizes, "src/wire/frame.rs", &"\n".repeat(LINES_MAX + 1)), 1);
        assert_eq!(one(file_sizes, "src/wire/frame.rs", &"\n".repeat(LINES_MAX)), 0);
    }

    #[test]
    fn unfinished_sees_every_mark() {
        for mark in UNFINISHED {
            assert_eq!(unfinished(&[("src/a.rs".into(), format!("fn f() {{}} // {mark}"))]).len(), 1, "{mark}");
        }
        assert!(unfinished(&[("src/a.rs".into(), "what to do about it".into())]).is_empty());
    }

    #[test]
    fn names_sees_empty_words() {
        for bad in
            ["struct SessionManager;", "mod util;", "mod test_helpers { }", "enum Common {}", "type IoUtils = u8;"]
        {
            assert_eq!(one(names, "src/wire/frame.rs", bad), 1, "{bad}");
        }
        assert_eq!(one(names, "src/wire/frame.rs", "struct Utility; struct Uncommon; // SessionManager"), 0);
        assert_eq!(one(names, "src/wire/common.rs", ""), 1);
    }

    #[test]
    fn top_level_sees_strays() {
        let entry = |name: &str, folder| [(name.to_owned(), folder)];
        assert_eq!(top_level(&entry("scripts", true), "/target\n").len(), 1);
        assert_eq!(top_level(&entry("notes.md", false), "/target\n").len(), 1);
        assert_eq!(top_level(&entry("src", false), "/target\n").len(), 1);
        assert!(top_level(&entry("target", true), "/target\n").is_empty());
        assert!(top_level(&entry("LICENSE-MIT", false), "").is_empty());
        assert!(top_level(&entry(".ci", true), "").is_empty());
    }

    #[test]
    fn recipes_sees_what_stands_twice() {
        assert_eq!(recipes("a *words:\n    b\n\na:\n    c\nb: a\n").len(), 1);
        assert!(recipes("a seeds=\"1\":\n    b\nb: a\n# a\n").is_empty());
    }

    #[test]
    fn spec_citations_sees_unknown_doubled_and_unproved_ids() {
        let text = |path: &str, text: &str| vec![(path.to_owned(), text.to_owned())];
        let (spec, code) = (text("protocol-spec/a.md", "**QP-AAA-001** must"), text("src/a.rs", "// spec: QP-AAA-001"));
        assert!(spec_citations(&spec, &code).is_empty());
        assert_eq!(spec_citations(&spec, &text("src/a.rs", "QP-AAA-001 QP-AAA-002")).len(), 1, "unknown");
        assert_eq!(spec_citations(&spec, &text("src/a.rs", "")).len(), 1, "cited by nothing");
        assert_eq!(spec_citations(&text("a.md", "**QP-AAA-001**\n**QP-AAA-001**"), &code).len(), 1, "twice");
        assert_eq!(
            spec_citations(&text("a.md", "**QP-AAA-001** see QP-AAA-009"), &code).len(),
            1,
            "unknown in the spec"
        );
        let (spec, code) =
            (text("a.md", "**QP-AAAA-001** must"), text("src/a.rs", "QP-AAAA-001, QP-AAAAA-001, QP-AAAA-02"));
        assert!(spec_citations(&spec, &code).is_empty(), "four letters");
        assert_eq!(spec_citations(&spec, &text("src/a.rs", "")).len(), 1, "four letters, cited by nothing");
    }
}
