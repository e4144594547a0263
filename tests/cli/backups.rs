//! `quantactl backup`: what it writes, what it never leaves behind, and what it says of a damaged file.

use crate::programs::{QUANTACTL, Server, ended, piped, run, signal, text};
use quantadb::backup::{Error, Reader};
use rustix::process::Signal;
use std::{
    fs,
    io::Read,
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn rows_of(file: &Path) -> Rows {
    let mut rows = Rows::new();
    let file = fs::File::open(file).expect("it was written");
    let read = Reader::open(file).expect("it is a backup").read_all(&mut |row| {
        rows.push((row.key.to_vec(), row.value.to_vec()));
        Ok::<_, Error>(())
    });
    read.expect("it is whole");
    rows
}

/// Half a megabyte in a thousand rows.
fn filled(server: &Server) {
    let rows: String =
        (0..1_000).map(|number| format!("{{\"key\":\"k{number:04}\",\"value\":\"{number:0500}\"}}\n")).collect();
    server.ctl_fed(&["import", "-"], rows.as_bytes()).code(0);
}

/// Nothing of an unfinished file lies there.
fn assert_none(server: &Server, name: &str) {
    assert!(!server.path(name).exists() && !server.path(&format!("{name}.partial")).exists());
}

#[test]
fn a_backup_holds_every_keyspace_and_is_verified() {
    let server = Server::start(&[]);
    server.ctl(&["put", "greeting", "hello"]).code(0);
    server.ctl(&["--keyspace", "carts", "put", "k", "apples"]).code(0);
    let file = server.path("all.backup");
    let said = server.ctl(&["backup", text(&file)]).code(0);
    assert!(said.text().starts_with("5 rows backed up, ") && said.text().ends_with(", version 3\n"), "{said:?}");
    assert_eq!(said.stderr, "");
    let key = |keyspace: u32, key: &[u8]| [&keyspace.to_be_bytes()[..], key].concat();
    let id = 16_u32.to_be_bytes();
    let wanted: Rows = vec![
        (key(0, b"N"), 17_u32.to_be_bytes().to_vec()),
        (key(0, b"kcarts"), id.to_vec()),
        (key(0, &[b"n", &id[..]].concat()), b"carts".to_vec()),
        (key(1, b"greeting"), b"hello".to_vec()),
        (key(16, b"k"), b"apples".to_vec()),
    ];
    assert_eq!(rows_of(&file), wanted);
    assert!(!server.path("all.backup.partial").exists());

    let bytes = wanted.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    // It needs no server.
    let verify = |words: &[&str]| run(QUANTACTL, &[&["backup", "--verify", text(&file)], words].concat(), b"");
    let json: serde_json::Value =
        serde_json::from_str(verify(&["--output", "json"]).code(0).text()).expect("it is JSON");
    let status = server.ctl(&["status", "--output", "json"]).code(0);
    let status: serde_json::Value = serde_json::from_str(status.text()).expect("it is JSON");
    assert_eq!(json["cluster"], status["cluster"]);
    let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"));
    assert_eq!((number("version"), number("rows"), number("bytes")), (3, 5, bytes as u64));
    assert_eq!(number("file_bytes"), fs::metadata(&file).expect("it is there").len());
    assert!(number("taken_ms") > 1_600_000_000_000 && number("clock_ms") > 1_600_000_000_000);
    let raw = verify(&["--output", "raw"]).code(0);
    assert!(raw.text().lines().any(|line| line == "rows\t5"), "{raw:?}");
    let table = verify(&[]).code(0);
    assert!(table.text().lines().any(|line| line.split_whitespace().eq(["version", "3"])), "{table:?}");
}

#[test]
fn a_backup_says_what_it_did_as_json() {
    let server = Server::start(&[]);
    let said = server.ctl(&["backup", text(&server.path("empty")), "--output", "json"]).code(0);
    let json: serde_json::Value = serde_json::from_str(said.text()).expect("it is JSON");
    assert_eq!((json["version"].as_u64(), json["rows"].as_u64()), (Some(0), Some(0)));
    assert!(json["seconds"].is_number());
    assert_eq!(rows_of(&server.path("empty")), []);
}

#[test]
fn a_file_that_is_there_is_replaced_only_with_force() {
    let server = Server::start(&[]);
    let file = server.path("b");
    fs::write(&file, b"precious").expect("the directory can be written");
    server.ctl(&["backup", text(&file)]).fails(2, &["b is there already", "--force"]);
    assert_eq!(fs::read(&file).expect("it is there"), b"precious");
    server.ctl(&["backup", "--force", text(&file)]).code(0);
    assert_eq!(rows_of(&file), []);
    server.ctl(&["backup", "--force", text(server.directory.path())]).fails(2, &["no regular file"]);
    server.ctl(&["backup", "--force", "/dev/null"]).fails(2, &["no regular file"]);
    server.ctl(&["backup", text(&server.path("no/b"))]).fails(2, &["no/b.partial: No such file"]);
    server.ctl(&["backup", "--verify", "--force", text(&file)]).fails(2, &["--force is for writing"]);
}

#[test]
fn without_a_server_nothing_is_left() {
    let mut server = Server::start(&[]);
    server.signal(Signal::TERM);
    server.wait();
    server.ctl(&["backup", text(&server.path("b"))]).fails(4, &["no server at"]);
    assert_none(&server, "b");
}

#[test]
fn a_damaged_file_is_refused_with_its_name_and_the_byte() {
    let server = Server::start(&[]);
    filled(&server);
    let file = server.path("b");
    server.ctl(&["backup", text(&file)]).code(0);
    let whole = fs::read(&file).expect("it was written");
    let verify = |bytes: &[u8], parts: &[&str]| {
        fs::write(&file, bytes).expect("it can be written");
        run(QUANTACTL, &["backup", "--verify", text(&file)], b"").fails(2, parts);
    };
    let mut flipped = whole.clone();
    flipped[100] ^= 4;
    verify(&flipped, &[text(&file), "byte 48: the checksum of the block's rows is wrong"]);
    verify(&whole[..whole.len() / 2], &[text(&file), &format!("byte {}: the file ends", whole.len() / 2)]);
    verify(&[&whole[..], &whole[..]].concat(), &[text(&file), &format!("byte {}: something follows", whole.len())]);
    verify(b"{\"key\":1}", &["byte 0: not the beginning of a backup"]);
    let nowhere = run(QUANTACTL, &["backup", "--verify", text(&server.path("nowhere"))], b"");
    nowhere.fails(2, &["nowhere: No such file"]);
    let directory = run(QUANTACTL, &["backup", "--verify", text(server.directory.path())], b"");
    directory.fails(2, &["byte 0: Is a directory"]);
}

#[test]
fn an_output_that_takes_no_more_is_told_and_leaves_nothing() {
    let server = Server::start(&[]);
    filled(&server);
    // A limit on the length of files stands in for a full disk: the write fails in the same way.
    let line = format!(
        "trap '' XFSZ; ulimit -f 100; exec '{QUANTACTL}' --addr {} backup '{}'",
        server.address,
        text(&server.path("b"))
    );
    let refused = ended(piped(Command::new("sh").args(["-c", &line])));
    refused.fails(2, &["b: File too large", "no backup was written"]);
    assert_none(&server, "b");
}

/// Passes bytes both ways. What comes back from the server on the connection with this number ends, or with `stalls` waits
/// for ever, behind so many bytes.
fn between(upstream: String, back_bytes: u64, stalls: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(&upstream)) else { return };
            let twin = |socket: &TcpStream| socket.try_clone().expect("a socket has two handles");
            let (mut from_client, mut to_server) = (twin(&client), twin(&server));
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            thread::spawn(move || {
                let mut from_server = (&server).take(if number == 0 { back_bytes } else { u64::MAX });
                let _ = std::io::copy(&mut from_server, &mut &client);
                if stalls && number == 0 {
                    loop {
                        thread::park();
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_lost_connection_is_no_loss() {
    let server = Server::start(&[]);
    filled(&server);
    let address = between(server.address.clone(), 200_000, false);
    let file = server.path("b");
    let said = run(QUANTACTL, &["--addr", &address, "backup", text(&file)], b"").code(0);
    assert!(said.text().starts_with("1000 rows backed up, "), "{said:?}");
    let rows = rows_of(&file);
    assert_eq!(rows.len(), 1_000);
    assert!(rows.iter().enumerate().all(|(at, row)| row.1 == format!("{at:0500}").into_bytes()));
}

#[test]
fn ctrl_c_leaves_nothing() {
    let server = Server::start(&[]);
    filled(&server);
    let address = between(server.address.clone(), 200_000, true);
    let file = server.path("b");
    let mut child = piped(Command::new(QUANTACTL).args(["--addr", &address, "backup", text(&file)]));
    let begun = || fs::metadata(server.path("b.partial")).is_ok_and(|found| found.len() > 100_000);
    while !begun() {
        assert_eq!(child.try_wait().expect("it can be asked").map(|status| status.code()), None, "it goes on");
        thread::yield_now();
    }
    signal(&child, Signal::INT);
    ended(child).fails(130, &["interrupted", "rows read", "no backup was written"]);
    assert_none(&server, "b");
    // What the first left behind would be in the way of a second.
    server.ctl(&["backup", text(&file)]).code(0);
    assert_eq!(rows_of(&file).len(), 1_000);
}
