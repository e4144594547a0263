//! What is done to a data directory while no server uses it, and what a server finds there.

use crate::programs::{Ended, QUANTADB, Server, run, text};
use quantadb::testing::directory::TemporaryDirectory;
use std::{fs, path::Path};

const DATA: &str = "quantadb-data";

fn check(data: &Path) -> Ended {
    run(QUANTADB, &["check", "--data-dir", text(data)], b"")
}

fn restore(file: &Path, data: &Path) -> Ended {
    run(QUANTADB, &["restore", text(file), "--data-dir", text(data)], b"")
}

/// A directory with a few rows, and a backup of them.
fn filled() -> TemporaryDirectory {
    let server = Server::on_disk(TemporaryDirectory::new("cli"));
    server.ctl(&["put", "a", "1"]).prints("version 1\n");
    server.ctl(&["put", "b", "2"]).prints("version 2\n");
    server.ctl(&["delete", "a"]).prints("version 3\n");
    server.ctl(&["backup", text(&server.path("backup.qdb"))]).code(0);
    server.stop()
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let server = Server::on_disk(filled());
    server.ctl(&["--output", "json", "scan"]).prints("{\"key\":\"b\",\"value\":\"2\",\"version\":2}\n");
    server.ctl(&["put", "c", "3"]).prints("version 4\n");
    let directory = server.stop();
    check(&directory.path().join(DATA)).code(0);
}

#[test]
fn a_directory_in_use_is_nobody_elses() {
    let server = Server::on_disk(TemporaryDirectory::new("cli"));
    let data = server.path(DATA);
    check(&data).fails(3, &[text(&data), "another process uses"]);
    let second = run(
        QUANTADB,
        &[
            "serve",
            "--data-dir",
            text(&data),
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "none",
            "--admin-listen",
            "none",
        ],
        b"",
    );
    second.fails(3, &["cannot start", "another process uses"]);
    restore(&server.path("none"), &data).fails(3, &["not empty"]);
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let directory = TemporaryDirectory::new("cli");
    check(directory.path()).fails(3, &["no data directory"]);
    fs::write(directory.path().join("thesis.tex"), "…").expect("it can be written");
    let serve = [
        "serve",
        "--data-dir",
        text(directory.path()),
        "--listen",
        "127.0.0.1:0",
        "--peer-listen",
        "none",
        "--admin-listen",
        "none",
    ];
    run(QUANTADB, &serve, b"").fails(3, &["not a data directory of QuantaDB"]);
    assert_eq!(fs::read_dir(directory.path()).expect("it is there").count(), 1, "nothing was made");
}

#[test]
fn a_restored_database_holds_the_rows_and_begins_a_new_timeline() {
    let directory = filled();
    let (file, data) = (directory.path().join("backup.qdb"), directory.path().join(DATA));
    restore(&file, &data).fails(3, &["is not empty"]);
    fs::remove_dir_all(&data).expect("it is there");
    let remains = directory.path().join("quantadb-data.partial");
    fs::create_dir(&remains).expect("the remains of an interrupted restore");
    restore(&file, &data).fails(3, &["quantadb-data.partial", "remove it"]);
    fs::remove_dir(&remains).expect("nothing was put there");
    let beginning = 3 + (1_u64 << 40);
    let restored = restore(&file, &data).code(0);
    assert!(restored.text().contains(&format!("begins at version {beginning}")), "{restored:?}");
    check(&data).code(0);
    let server = Server::on_disk(directory);
    let row = format!("{{\"key\":\"b\",\"value\":\"2\",\"version\":{beginning}}}\n");
    server.ctl(&["--output", "json", "scan"]).prints(&row);
    server.ctl(&["put", "c", "3"]).prints(&format!("version {}\n", beginning + 1));
    let directory = server.stop();
    Server::on_disk(directory).ctl(&["get", "c"]).prints("3\n");
}

#[test]
fn a_damaged_backup_makes_nothing() {
    let directory = filled();
    let (file, data) = (directory.path().join("backup.qdb"), directory.path().join("restored"));
    let mut bytes = fs::read(&file).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).expect("it can be written");
    restore(&file, &data).fails(1, &["backup.qdb: byte "]);
    restore(&directory.path().join("absent"), &data).fails(1, &["absent", "No such file"]);
    assert!(!data.exists() && !directory.path().join("restored.partial").exists());
}

/// The one file in a directory whose name ends so and that holds something.
fn file_in(directory: &Path, ending: &str) -> std::path::PathBuf {
    let files = fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it can be read").path());
    files.filter(|path| text(path).ends_with(ending)).min().expect("there is one")
}

#[test]
fn damage_is_named_by_check_and_refused_by_serve() {
    let directory = filled();
    let data = directory.path().join(DATA);
    let segment = file_in(&data.join("log"), ".seg");
    // Of the log: a byte of its first group, behind the header.
    for (path, at) in [(data.join("FORMAT"), 20), (segment, 4_200), (data.join("base/current"), 9)] {
        let sound = fs::read(&path).expect("it is there");
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("it can be written");
        let checked = check(&data).code(1);
        let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
        assert!(checked.stderr.contains(name), "{name}: {checked:?}");
        let serve = [
            "serve",
            "--data-dir",
            text(&data),
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "none",
            "--admin-listen",
            "none",
        ];
        run(QUANTADB, &serve, b"").fails(3, &["cannot start", name]);
        fs::write(&path, &sound).expect("it can be written");
    }
    check(&data).code(0);
    fs::remove_dir_all(data.join("log")).expect("it is there");
    check(&data).code(1);
}
