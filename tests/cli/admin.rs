//! The admin pages over plain HTTP.

use crate::programs::Server;
use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// Status and body.
fn http(server: &Server, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(&server.admin).expect("the pages are served");
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    socket.write_all(format!("{head}\r\n{body}").as_bytes()).expect("it can be written");
    let mut reply = String::new();
    socket.read_to_string(&mut reply).expect("it can be read");
    let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("it has a status");
    (status, reply.split_once("\r\n\r\n").expect("it has a body").1.to_owned())
}

fn metric(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("it is a number")
}

#[test]
fn the_pages_tell_how_the_server_does() {
    let server = Server::start(&[]);
    assert_eq!(http(&server, "GET", "/livez", ""), (200, "alive\n".into()));
    assert_eq!(http(&server, "GET", "/readyz", ""), (200, "ready\n".into()));
    let before = http(&server, "GET", "/metrics", "").1;
    server.ctl(&["put", "k", "v"]).code(0);
    server.ctl(&["get", "k"]).code(0);
    let after = http(&server, "GET", "/metrics", "").1;
    assert_eq!(metric(&before, "quantadb_storage_keys") + 1, metric(&after, "quantadb_storage_keys"));
    assert_eq!(metric(&before, "quantadb_server_gets_total") + 1, metric(&after, "quantadb_server_gets_total"));
    assert_eq!(
        metric(&before, "quantadb_server_connections_total") + 2,
        metric(&after, "quantadb_server_connections_total")
    );
    assert!(metric(&after, "quantadb_node_commits_total") > metric(&before, "quantadb_node_commits_total"));
    assert_eq!(metric(&after, "quantadb_log_lines_dropped_total"), 0);
    for line in after.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split([' ', '{']).next().expect("a line has words");
        for kind in ["HELP", "TYPE"] {
            assert!(after.lines().any(|line| line.starts_with(&format!("# {kind} {name} "))), "{kind} of {name}");
        }
    }
}

#[test]
fn other_pages_and_methods_are_refused() {
    let server = Server::start(&[]);
    let (status, body) = http(&server, "GET", "/", "");
    assert!(status == 404 && body.contains("/metrics"), "{body}");
    assert_eq!(http(&server, "POST", "/metrics", "").0, 405);
    assert_eq!(http(&server, "DELETE", "/log-level", "").0, 405);
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let server = Server::start(&["--log-level", "error"]);
    assert_eq!(http(&server, "GET", "/log-level", ""), (200, "error\n".into()));
    assert_eq!(http(&server, "PUT", "/log-level", "debug"), (200, "debug\n".into()));
    assert_eq!(http(&server, "GET", "/log-level", ""), (200, "debug\n".into()));
    assert_eq!(http(&server, "PUT", "/log-level", "loud").0, 400);
    assert_eq!(http(&server, "PUT", "/log-level", &"x".repeat(1000)).0, 400);
}

#[test]
fn a_stalled_connection_holds_up_nobody() {
    let server = Server::start(&[]);
    let stalled: Vec<_> = (0..8).map(|_| TcpStream::connect(&server.admin).expect("it is accepted")).collect();
    for mut socket in &stalled {
        socket.write_all(b"GET /metrics HT").expect("it can be written");
    }
    assert_eq!(http(&server, "GET", "/readyz", "").0, 200);
    // What is no HTTP at all ends that connection alone.
    let mut socket = TcpStream::connect(&server.admin).expect("it is accepted");
    socket.write_all(b"\x51\x44\x42\x0d\x0a\x1a\x0a\x01\0\0\0\0\r\n\r\n").expect("it can be written");
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).expect("it is closed");
    assert_eq!(http(&server, "GET", "/readyz", "").0, 200);
}
