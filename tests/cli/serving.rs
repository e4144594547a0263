//! `quantadb`: arguments, configuration, start and end.

use crate::programs::{QUANTACTL, QUANTADB, Server, ended, piped, run, text};
use quantadb::testing::directory::TemporaryDirectory;
use rustix::process::Signal;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    process::Command,
};

fn quantadb(words: &[&str]) -> crate::programs::Ended {
    run(QUANTADB, words, b"")
}

#[test]
fn help_and_version_go_to_stdout() {
    quantadb(&["version"]).prints(concat!("quantadb ", env!("CARGO_PKG_VERSION"), "\n"));
    for words in [&["--help"][..], &["serve", "--help"], &["config", "--help"], &["version", "--help"]] {
        let help = quantadb(words).code(0);
        assert!(help.text().starts_with("Usage: quantadb") && help.stderr.is_empty(), "{help:?}");
    }
    let help = quantadb(&["--help"]);
    for code in ["0 ", "1 ", "2 ", "3 ", "130 "] {
        assert!(help.text().lines().any(|line| line.trim_start().starts_with(code)), "exit code {code}");
    }
}

#[test]
fn wrong_arguments_are_exit_code_two() {
    quantadb(&[]).fails(2, &["error:", "quantadb --help"]);
    quantadb(&["dance"]).fails(2, &["dance"]);
    quantadb(&["serve", "--memory", "--listen", "localhost"]).fails(2, &["allowed is IP:PORT"]);
    quantadb(&["serve", "--memory", "--log-level", "loud"]).fails(2, &["allowed are critical, error, warning"]);
    quantadb(&["serve", "--memory", "--data-dir", "d"]).fails(2, &["exclude each other"]);
}

#[test]
fn an_open_address_needs_insecure() {
    let open = ["serve", "--memory", "--listen", "0.0.0.0:0", "--peer-listen", "none", "--admin-listen", "none"];
    quantadb(&open).fails(2, &["`listen`", "no TLS and no authentication", "--insecure"]);
    let mut command = Command::new(QUANTADB);
    let mut server = Server::from(command.args(open).arg("--insecure"), TemporaryDirectory::new("cli"));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(0));
    assert!(server.log().contains("without TLS and authentication"), "{}", server.log());
}

#[test]
fn the_configuration_that_is_printed_can_be_used() {
    let directory = TemporaryDirectory::new("cli");
    let printed = quantadb(&["config"]).code(0);
    let file = directory.path().join("a.ron");
    fs::write(&file, &printed.stdout).expect("the directory can be written");
    quantadb(&["config", "--config", text(&file)]).prints(printed.text());

    let ours = printed.text().replace("memory: false", "memory: true").replace(":7420", ":0").replace(":7422", ":0");
    fs::write(&file, ours).expect("the directory can be written");
    let mut command = Command::new(QUANTADB);
    let mut server = Server::from(command.args(["serve", "--config", text(&file)]), TemporaryDirectory::new("cli"));
    assert!(server.admin.starts_with("127.0.0.1:"));
    server.signal(Signal::INT);
    assert_eq!(server.wait(), (Some(0), String::new()));
}

#[test]
fn a_bad_configuration_says_where_and_what_is_allowed() {
    let directory = TemporaryDirectory::new("cli");
    let file = directory.path().join("bad.ron");
    let said = |content: &str, parts: &[&str]| {
        fs::write(&file, content).expect("the directory can be written");
        for command in ["serve", "config"] {
            quantadb(&[command, "--config", text(&file)]).fails(2, parts);
        }
    };
    said("(\n    memory: true,\n    colour: 1,\n)\n", &["bad.ron:3:", "no field `colour`", "`listen`, `peer_listen`"]);
    said("(\n    sessions: (scans_max: 0),\n)\n", &["bad.ron:2:", "`sessions.scans_max`", "allowed are 1 to 65536"]);
    said("(listen: \"[::]:1\")", &["bad.ron", "`listen`", "--insecure"]);
    said("memory: true", &["bad.ron:1:"]);
    quantadb(&["config", "--config", "/nowhere/a.ron"]).fails(2, &["/nowhere/a.ron", "cannot be read"]);
}

#[test]
fn an_address_that_is_taken_is_exit_code_three() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("it is bound").to_string();
    let words = ["serve", "--memory", "--listen", &address, "--peer-listen", "none", "--admin-listen", "none"];
    quantadb(&words).fails(3, &["cannot start", &address, "in use", "ss -ltnp"]);
    let words = ["serve", "--memory", "--listen", "127.0.0.1:0", "--peer-listen", "none", "--admin-listen", &address];
    quantadb(&words).fails(3, &["--admin-listen", &address]);
}

#[test]
fn either_signal_ends_a_server_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = Server::start(&["--peer-listen", "none", "--admin-listen", "none"]);
        assert_eq!(server.admin, "none");
        server.ctl(&["put", "k", "v"]).code(0);
        server.signal(signal);
        assert_eq!(server.wait(), (Some(0), String::new()));
        assert!(server.log().contains("stopped"), "{}", server.log());
        server.ctl(&["get", "k"]).code(4);
    }
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let mut server = Server::start(&[]);
    let value = "v".repeat(1000);
    let rows: String = (0..16_000).map(|number| format!("{{\"key\":\"{number}\",\"value\":\"{value}\"}}\n")).collect();
    server.ctl_fed(&["import", "-"], rows.as_bytes()).code(0);
    // A scan whose reader stopped is accepted and cannot be answered: the first signal waits for it.
    let words = ["--addr", &server.address, "scan", "--output", "raw"];
    let mut reader = piped(Command::new(QUANTACTL).args(words));
    let mut stdout = BufReader::new(reader.stdout.take().expect("it is piped"));
    stdout.read_line(&mut String::new()).expect("the scan has begun");
    server.signal(Signal::TERM);
    while !server.log().contains("draining") {}
    server.signal(Signal::TERM);
    assert_eq!(server.wait().0, Some(130));
    assert!(server.log().contains("stopped at once"), "{}", server.log());
    drop(stdout);
    reader.kill().expect("it runs");
    reader.wait().expect("it ends");
}

#[test]
fn logs_are_json_lines_on_request() {
    let mut server = Server::start(&["--log-format", "json", "--log-level", "debug"]);
    server.ctl(&["put", "k", "v"]).code(0);
    server.signal(Signal::TERM);
    server.wait();
    let log = server.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    assert!(lines.iter().any(|line| line["msg"] == "ready" && line["listen"] == server.address.as_str()), "{log}");
    assert!(lines.iter().all(|line| line["ts"].is_string() && line["level"].is_string()), "{log}");
}

#[test]
fn keys_and_values_stay_out_of_the_log() {
    let mut server = Server::start(&["--log-level", "trace"]);
    server.ctl(&["put", "a-secret-key", "a-secret-value"]).code(0);
    server.ctl(&["get", "a-secret-key"]).code(0);
    server.ctl(&["scan", "--prefix", "a-secret"]).code(0);
    server.signal(Signal::TERM);
    server.wait();
    assert!(!server.log().contains("secret"), "{}", server.log());
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let words = ["serve", "--memory", "--listen", "127.0.0.1:0", "--peer-listen", "none", "--admin-listen", "none"];
    let mut child = piped(Command::new(QUANTADB).args(words));
    drop(child.stderr.take());
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    stdout.read_line(&mut line).expect("it is ready");
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("listen=")).expect("it says where");
    run(QUANTACTL, &["--addr", address, "put", "k", "v"], b"").code(0);
    crate::programs::signal(&child, Signal::TERM);
    ended(child).code(0);
}
