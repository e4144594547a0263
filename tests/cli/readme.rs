//! The README's tour, typed as it stands into a shell: every line prints what the README says.

use crate::programs::{QUANTACTL, Server};
use quantadb::testing::directory::TemporaryDirectory;
use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

#[test]
fn the_tour_of_the_readme_works_as_written() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("it is there");
    let tour = readme.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a tour");
    let server = Server::on_disk(TemporaryDirectory::new("cli"));
    let mut steps = 0;
    for step in tour.split("$ ").filter(|step| !step.is_empty()) {
        let (line, wanted) = step.split_once('\n').expect("a line ends");
        let program = format!("quantactl() {{ '{QUANTACTL}' --addr {} \"$@\"; }}; {line}", server.address);
        let output = Command::new("sh").args(["-c", &program]).output().expect("there is a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{line}");
        steps += 1;
    }
    assert!(steps > 5, "the tour has {steps} steps");
}

#[test]
fn the_tour_of_a_cluster_kills_the_leader_and_goes_on() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("it is there");
    let tour = readme.split("```console\n").nth(2).and_then(|rest| rest.split("```").next()).expect("it has another");
    let directory = TemporaryDirectory::new("cli");
    let mut nodes = vec![Server::member(&directory, 1, None)];
    let peers = nodes[0].peers.clone();
    for number in [2, 3] {
        nodes.push(Server::member(&directory, number, Some(&peers)));
    }
    // A reader takes longer than the half second in which learners become voters.
    let voters = || nodes[0].ctl(&["--output", "json", "cluster", "status"]).code(0).text().matches("voter").count();
    let until = Instant::now() + Duration::from_secs(20);
    while voters() < 3 {
        assert!(Instant::now() < until, "all vote soon");
        thread::sleep(Duration::from_millis(50));
    }
    // One shell for all of it, for it remembers; after each step a line tells them apart.
    let mut script = format!("cd '{}'; quantactl() {{ '{QUANTACTL}' \"$@\"; }}\n", directory.path().display());
    let mut wanted = String::new();
    for step in tour.split("$ ").filter(|step| !step.is_empty()) {
        let (line, says) = step.split_once('\n').expect("a line ends");
        script += &format!("{line}\necho '--'\n");
        wanted += &format!("{says}--\n");
    }
    for (port, node) in ["127.0.0.1:7420", "127.0.0.1:7430", "127.0.0.1:7440"].iter().zip(&nodes) {
        script = script.replace(port, &node.address);
    }
    let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, wanted, "{script}\n{errors}");
}
