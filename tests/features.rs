//! What a Rust service that depends on the client alone has to build: a golden list, so that it does not grow unseen.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// The packages of a feature cut, ours left out, sorted. Linux alone, so that the list is the same wherever it is made.
fn packages(cut: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline", "--locked"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--no-default-features"])
        .args(cut)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("package names are text");
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    names.into_iter().filter(|name| *name != "quantadb").map(|name| format!("{name}\n")).collect()
}

#[test]
fn the_client_pulls_in_only_what_it_needs() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/client-packages.txt");
    let found = packages(&["--features", "client"]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &found).expect("the golden list can be written");
    }
    let wanted = fs::read_to_string(&golden).expect("the golden list is there");
    assert_eq!(found, wanted, "run with UPDATE_GOLDEN=1 if the change is meant");
}

#[test]
fn the_list_of_everything_is_longer() {
    let (client, full) = (packages(&["--features", "client"]), packages(&["--features", "full"]));
    assert!(full.contains("slog\n") && !client.contains("slog\n"), "the server logs, the client does not");
}
