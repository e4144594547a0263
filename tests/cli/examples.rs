//! Every example of every help text is a line that works as it stands.

use crate::programs::{QUANTACTL, QUANTADB, Server, ended, piped, run, text};
use quantadb::testing::directory::TemporaryDirectory;
use rustix::process::Signal;
use std::{fs, io::Write, process::Command};

/// The lines under `Examples:`.
pub fn examples(program: &str, words: &[&str]) -> Vec<String> {
    let help = run(program, &[words, &["--help"]].concat(), b"").code(0);
    let lines = help.text().lines().skip_while(|line| *line != "Examples:").skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect();
    assert!(!lines.is_empty(), "{words:?} has no example");
    lines
}

/// A shell in which the name of the program is the one of this build.
pub fn shell(name: &str, program: &str, before: &str, line: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{name}() {{ exec '{program}' {before} \"$@\"; }}; {line}")]);
    shell
}

#[test]
fn the_examples_of_quantactl_work() {
    let server = Server::start(&[]);
    let rows = "{\"key\":\"gr1\",\"value\":1}\n";
    fs::write(server.path("rows.jsonl"), rows).expect("the directory can be written");
    fs::write(server.path("Cargo.toml"), "[package]\n").expect("the directory can be written");
    let commands = ["ping", "status", "put", "get", "scan", "import", "export", "backup", "delete", "version"];
    let commands = commands.iter().map(std::slice::from_ref);
    for words in std::iter::once(&[][..]).chain(commands) {
        for line in examples(QUANTACTL, words) {
            let mut command = shell("quantactl", QUANTACTL, &format!("--addr {}", server.address), &line);
            let mut child = piped(command.current_dir(server.directory.path()));
            child.stdin.take().expect("it is piped").write_all(rows.as_bytes()).ok();
            let ended = ended(child);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line}");
        }
    }
}

#[test]
fn the_examples_of_work_on_a_data_directory_work() {
    let server = Server::on_disk(TemporaryDirectory::new("cli"));
    server.ctl(&["put", "a", "1"]).code(0);
    server.ctl(&["backup", text(&server.path("backup.qdb"))]).code(0);
    let directory = server.stop();
    let within = |line: &str| ended(piped(shell("quantadb", QUANTADB, "", line).current_dir(directory.path())));
    let of_all = examples(QUANTADB, &[]).into_iter().filter(|line| line.starts_with("quantadb check"));
    for line in examples(QUANTADB, &["check"]).into_iter().chain(of_all) {
        within(&line).code(0);
    }
    fs::remove_dir_all(directory.path().join("quantadb-data")).expect("it is there");
    for line in examples(QUANTADB, &["restore"]) {
        within(&line).code(0);
    }
}

#[test]
fn the_examples_of_quantadb_work() {
    for line in examples(QUANTADB, &["config"]).into_iter().chain(examples(QUANTADB, &["version"])) {
        ended(piped(&mut shell("quantadb", QUANTADB, "", &line))).code(0);
    }
    let serving = examples(QUANTADB, &["serve"]).into_iter().chain(examples(QUANTADB, &[]));
    for line in serving {
        if !line.starts_with("quantadb serve") {
            continue;
        }
        // The standard ports may be taken on the machine that runs the tests.
        let free = if line.contains("--listen") {
            ""
        } else {
            " --listen 127.0.0.1:0 --peer-listen none --admin-listen 127.0.0.1:0"
        };
        // Who joins needs somebody to join, and free ports too.
        let parent = TemporaryDirectory::new("cli");
        let founder = line.contains("--join").then(|| Server::member(&parent, 1, None));
        let line = founder.as_ref().map_or(line.clone(), |founder| {
            let free = line.replace("127.0.0.1:7421", &founder.peers);
            free.replace("127.0.0.1:7430", "127.0.0.1:0").replace("127.0.0.1:7431", "127.0.0.1:0")
        });
        let directory = TemporaryDirectory::new("cli");
        let mut command = shell("quantadb", QUANTADB, "", &format!("{line}{free}"));
        let mut server = Server::from(command.current_dir(directory.path()), directory);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0, Some(0), "{line}");
    }
}
