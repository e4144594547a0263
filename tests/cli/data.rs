//! `quantactl` against a server: one key at a time, and scans.

use crate::programs::{QUANTACTL, Server, ended, piped, run, text};
use std::{fs, process::Command};

#[test]
fn a_value_goes_in_and_comes_out() {
    let server = Server::start(&[]);
    server.ctl(&["put", "greeting", "hello"]).prints("version 1\n");
    server.ctl(&["get", "greeting"]).prints("hello\n");
    server
        .ctl(&["get", "greeting", "--output", "json"])
        .prints("{\"key\":\"greeting\",\"value\":\"hello\",\"version\":1}\n");
    server.ctl(&["--output", "raw", "get", "greeting"]).prints("hello");
    server.ctl(&["--output", "json", "put", "greeting", ""]).prints("{\"version\":2}\n");
    server.ctl(&["get", "greeting"]).prints("\n");
    server.ctl(&["--output", "raw", "get", "greeting"]).prints("");
    server.ctl(&["delete", "greeting"]).prints("version 3\n");
    server.ctl(&["get", "greeting"]).fails(1, &["not found: greeting"]);
    server.ctl(&["delete", "greeting"]).code(0);
}

#[test]
fn every_byte_survives_as_text_hex_and_raw() {
    let server = Server::start(&[]);
    let all: Vec<u8> = (0..=255).collect();
    let file = server.path("all");
    fs::write(&file, &all).expect("the directory can be written");
    server.ctl(&["put", r"\x00\xff\\", "--from", text(&file)]).code(0);
    assert_eq!(server.ctl(&["get", r"\x00\xff\\", "--output", "raw"]).code(0).stdout, all);
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    server.ctl(&["get", "--hex", "00ff5c"]).prints(&format!("{hex}\n"));
    server.ctl(&["put", "--hex", "01", &hex]).code(0);
    let shown = server.ctl(&["get", r"\x01"]).code(0);
    server.ctl(&["put", "again", shown.text().trim_end_matches('\n')]).code(0);
    assert_eq!(server.ctl(&["--output", "raw", "get", "again"]).stdout, all);
    server.ctl_fed(&["put", "fed", "--from", "-"], &all).code(0);
    assert_eq!(server.ctl(&["--output", "raw", "get", "fed"]).stdout, all);
    server.ctl(&["put", "--", "--hex", "-1"]).code(0);
    server.ctl(&["get", "--", "--hex"]).prints("-1\n");
}

#[test]
fn scans_show_what_was_asked_for() {
    let server = Server::start(&[]);
    for (key, value) in [("b", "2"), ("a", "1"), ("ba", "3"), ("c\\x00", "4")] {
        server.ctl(&["put", key, value]).code(0);
    }
    let raw = |words: &[&str], rows: &str| server.ctl(&[&["--output", "raw", "scan"], words].concat()).prints(rows);
    raw(&[], "a\t1\nb\t2\nba\t3\nc\\x00\t4\n");
    raw(&["--reverse", "--limit", "2"], "c\\x00\t4\nba\t3\n");
    raw(&["--prefix", "b"], "b\t2\nba\t3\n");
    raw(&["--start", "b", "--end", "c"], "b\t2\nba\t3\n");
    raw(&["--start", "ba", "--keys-only"], "ba\nc\\x00\n");
    raw(&["--prefix", "b", "--count"], "2\n");
    raw(&["--prefix", "x"], "");
    server.ctl(&["scan", "--limit", "1"]).prints("KEY  VERSION  VALUE\na    2        1\n");
    server.ctl(&["scan", "--count", "--output", "json"]).prints("{\"rows\":4}\n");
    server
        .ctl(&["scan", "--prefix", "c", "--output", "json"])
        .prints("{\"key\":\"c\\u0000\",\"value\":\"4\",\"version\":4}\n");
    server.ctl(&["scan", "--hex", "--start", "63", "--output", "raw"]).prints("6300\t34\n");
    server.ctl(&["scan", "--prefix", "a", "--end", "b"]).fails(2, &["--prefix excludes"]);
    server.ctl(&["scan", "--limit", "0"]).fails(2, &["at least 1"]);
    server.ctl(&["scan", "--start", "b", "--end", "a"]).fails(3, &["BAD_RANGE"]);
}

#[test]
fn keyspaces_are_separate() {
    let server = Server::start(&[]);
    server.ctl(&["--keyspace", "carts", "get", "k"]).fails(3, &["UNKNOWN_KEYSPACE"]);
    server.ctl(&["--keyspace", "carts", "put", "k", "apples"]).code(0);
    server.ctl(&["--keyspace", "carts", "get", "k"]).prints("apples\n");
    server.ctl(&["get", "k"]).code(1);
    server.ctl(&["--keyspace", "default", "get", "k"]).code(1);
    server.ctl(&["--keyspace", &"k".repeat(129), "put", "k", "v"]).fails(3, &["BAD_NAME"]);
}

#[test]
fn ping_and_status_answer() {
    let server = Server::start(&[]);
    let ping = server.ctl(&["ping"]).code(0);
    assert!(ping.text().starts_with(&format!("{} answered in ", server.address)), "{ping:?}");
    let status = server.ctl(&["status"]).code(0);
    assert!(status.text().lines().any(|line| line.split_whitespace().eq(["role", "leader"])), "{status:?}");
    let json = server.ctl(&["status", "--output", "json"]).code(0);
    let json: serde_json::Value = serde_json::from_str(json.text()).expect("it is JSON");
    assert_eq!((json["role"].as_str(), json["version"].as_u64()), (Some("leader"), Some(0)));
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let server = Server::start(&[]);
    let rows: String =
        (0..20_000).map(|number| format!("{{\"key\":\"k{number:06}\",\"value\":\"{:0100}\"}}\n", 0)).collect();
    server.ctl_fed(&["import", "-"], rows.as_bytes()).code(0);
    for words in [&["export"][..], &["scan"], &["scan", "--output", "json"]] {
        let mut child = piped(Command::new(QUANTACTL).args(["--addr", &server.address]).args(words));
        drop(child.stdout.take());
        let ended = ended(child).code(0);
        assert_eq!(ended.stderr, "", "{words:?}");
    }
}

#[test]
fn wrong_arguments_are_exit_code_two() {
    let ctl = |words: &[&str]| run(QUANTACTL, words, b"");
    ctl(&[]).fails(2, &["quantactl --help"]);
    ctl(&["dance"]).fails(2, &["dance"]);
    ctl(&["--output", "xml", "ping"]).fails(2, &["table, json and raw"]);
    ctl(&["get", r"\q"]).fails(2, &["key: character 1", r"\xNN"]);
    ctl(&["--hex", "get", "0"]).fails(2, &["no whole number of bytes"]);
    ctl(&["put", "k"]).fails(2, &["--from"]);
    ctl(&["put", "k", "v", "--from", "f"]).fails(2, &["not both"]);
    ctl(&["put", "k", "--from", "/nowhere"]).fails(2, &["/nowhere"]);
    ctl(&["import", "/nowhere"]).fails(2, &["/nowhere"]);
    ctl(&["import", "/"]).fails(2, &["is a directory"]);
    ctl(&["--addr", ",", "ping"]).fails(2, &["HOST:PORT"]);
    ctl(&["version"]).prints(concat!("quantactl ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = ctl(&["--help"]).code(0);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130 "] {
        assert!(help.text().lines().any(|line| line.trim_start().starts_with(code)), "exit code {code}");
    }
}
