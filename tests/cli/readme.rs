//! The README's tour, typed as it stands into a shell: every line prints what the README says.

use crate::programs::{QUANTACTL, Server};
use quantadb::testing::directory::TemporaryDirectory;
use std::{fs, path::Path, process::Command};

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
