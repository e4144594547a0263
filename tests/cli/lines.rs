//! Import and export of JSON Lines.

use crate::programs::{QUANTACTL, Server, ended, piped, signal, text};
use rustix::process::Signal;
use std::{fs, io::Write, process::Command};

#[test]
fn what_was_exported_can_be_imported() {
    let server = Server::start(&[]);
    let first = concat!(
        "{\"key\":\"a\",\"value\":\"text \\\" \\n ü\"}\n",
        "\n",
        "{\"key\":{\"hex\":\"00ff\"},\"value\":{\"hex\":\"fe\"}}\n",
        "  {\"value\": {\"b\": [1.50, null], \"a\": \"x y\"}, \"key\": \"json\"}\r\n",
        "{\"key\":\"last\",\"value\":\"without a line break\"}"
    );
    let file = server.path("first.jsonl");
    fs::write(&file, first).expect("the directory can be written");
    let said = server.ctl(&["import", text(&file)]).code(0);
    assert!(said.text().starts_with("4 rows imported, ") && said.stderr.is_empty(), "{said:?}");
    server.ctl(&["--output", "raw", "get", "json"]).prints(r#"{"b":[1.50,null],"a":"x y"}"#);

    let exported = concat!(
        "{\"key\":{\"hex\":\"00ff\"},\"value\":{\"hex\":\"fe\"}}\n",
        "{\"key\":\"a\",\"value\":\"text \\\" \\n ü\"}\n",
        "{\"key\":\"json\",\"value\":\"{\\\"b\\\":[1.50,null],\\\"a\\\":\\\"x y\\\"}\"}\n",
        "{\"key\":\"last\",\"value\":\"without a line break\"}\n"
    );
    server.ctl(&["export"]).prints(exported);
    server
        .ctl(&["export", "--prefix", "la", "-"])
        .prints(exported.lines().last().map(|line| format!("{line}\n")).as_deref().unwrap_or_default());
    let out = server.path("out.jsonl");
    let said = server.ctl(&["export", text(&out), "--output", "json"]).code(0);
    assert!(said.text().starts_with("{\"rows\":4,"), "{said:?}");
    assert_eq!(fs::read_to_string(&out).expect("it was written"), exported);
    assert!(!server.path("out.jsonl.partial").exists());
    server.ctl(&["--keyspace", "copy", "import", text(&out)]).code(0);
    server.ctl(&["--keyspace", "copy", "export"]).prints(exported);
}

#[test]
fn a_later_line_wins() {
    let server = Server::start(&[]);
    // Batches end after a thousand rows: each of these keys is in many of them.
    let rows: String =
        (0..20_000).map(|number| format!("{{\"key\":\"k{}\",\"value\":\"{number}\"}}\n", number % 700)).collect();
    server.ctl_fed(&["import", "-"], rows.as_bytes()).code(0);
    let shown = server.ctl(&["scan", "--output", "raw"]).code(0);
    let found: Vec<(&str, u32)> = shown
        .text()
        .lines()
        .map(|line| line.split_once('\t').expect("key, tab, value"))
        .map(|(key, value)| (key, value.parse().expect("it is a number")))
        .collect();
    assert_eq!(found.len(), 700);
    for (key, value) in found {
        assert!(value >= 19_300 && key == format!("k{}", value % 700), "{key} {value}");
    }
}

#[test]
fn a_bad_line_says_where_and_keeps_what_came_before() {
    let server = Server::start(&[]);
    let bad = |lines: &str, rows: u32, parts: &[&str]| {
        let file = server.path("bad.jsonl");
        fs::write(&file, lines).expect("the directory can be written");
        server.ctl(&["--keyspace", &format!("k{rows}"), "import", text(&file)]).fails(2, parts);
        server.ctl(&["--keyspace", &format!("k{rows}"), "scan", "--count"]).prints(&format!("{rows}\n"));
    };
    bad(
        "{\"key\":\"a\",\"value\":1}\n{\"key\":\"b\"}\n",
        1,
        &["bad.jsonl:2: column 11", "missing field", "1 rows imported"],
    );
    bad("[1,2]\n", 0, &["bad.jsonl:1: column 1", "a row is"]);
    let many: String = (0..2_500).map(|number| format!("{{\"key\":\"{number}\",\"value\":1}}\n")).collect();
    bad(&format!("{many}{{\"key\":1,\"value\":1}}\n"), 2_500, &["bad.jsonl:2501: column 8", "2500 rows imported"]);
    let long = format!("{{\"key\":\"{}\",\"value\":1}}\n", "k".repeat(8193));
    bad(
        &format!("{{\"key\":\"\",\"value\":1}}\n{{\"key\":\"1\",\"value\":1}}\n{long}"),
        2,
        &["bad.jsonl:3", "8193", "allowed are 8192"],
    );
}

#[test]
fn values_as_large_as_allowed_pass() {
    let server = Server::start(&[]);
    let value: Vec<u8> = (0..8 * 1024 * 1024).map(|at: u32| at.to_le_bytes()[1] ^ 0xa5).collect();
    let file = server.path("value");
    fs::write(&file, &value).expect("the directory can be written");
    server.ctl(&["put", "large", "--from", text(&file)]).code(0);
    server.ctl(&["export", text(&server.path("large.jsonl"))]).code(0);
    server.ctl(&["--keyspace", "copy", "import", text(&server.path("large.jsonl"))]).code(0);
    assert!(server.ctl(&["--keyspace", "copy", "--output", "raw", "get", "large"]).code(0).stdout == value);
    let mut file = fs::OpenOptions::new().append(true).open(&file).expect("it is there");
    file.write_all(b"x").expect("it can be written");
    server.ctl(&["put", "large", "--from", text(&server.path("value"))]).fails(2, &["8388608"]);
}

#[test]
fn ctrl_c_stops_an_import_and_says_how_far_it_came() {
    let server = Server::start(&[]);
    let mut child = piped(Command::new(QUANTACTL).args(["--addr", &server.address, "import", "-"]));
    let rows: String = (0..1_000).map(|number| format!("{{\"key\":\"{number}\",\"value\":1}}\n")).collect();
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(rows.as_bytes()).expect("it is read");
    while server.ctl(&["scan", "--count"]).code(0).text() != "1000\n" {
        assert_eq!(child.try_wait().expect("it can be asked").map(|status| status.code()), None, "it goes on");
    }
    signal(&child, Signal::INT);
    ended(child).fails(130, &["interrupted", "1000 rows imported"]);
    drop(stdin);
    server.ctl(&["scan", "--count"]).prints("1000\n");
}
