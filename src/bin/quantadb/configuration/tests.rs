//! What the file may say, what it gets when it says something else, and what flags do to it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::arguments::{Arguments, Command};
use argh::FromArgs;

fn parse(text: &str) -> Result<Configuration, String> {
    Configuration::parse(Path::new("a.ron"), text.as_bytes()).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    parse(text).expect_err("it is refused")
}

fn serve(words: &[&str]) -> Result<Configuration, String> {
    let words = [&["serve"], words].concat();
    let arguments = Arguments::from_args(&["quantadb"], &words).map_err(|early| early.output)?;
    let Command::Serve(flags) = arguments.command else { panic!("it is serve") };
    Configuration::for_serving(&flags).map_err(|error| error.to_string())
}

#[test]
fn what_is_printed_is_read_back() {
    let mut configuration = Configuration::default();
    assert_eq!(parse(&configuration.to_ron()), Ok(configuration.clone()));
    configuration.listen = "[::1]:9".parse().unwrap();
    configuration.admin_listen = OptionalAddress::Nowhere;
    configuration.memory = true;
    configuration.log_level = LogLevel::Trace;
    configuration.log_format = LogFormat::Json;
    configuration.history.keep_ms = Within(17);
    assert_eq!(parse(&configuration.to_ron()), Ok(configuration));
}

#[test]
fn every_field_is_described() {
    for line in Configuration::default().to_ron().lines().filter(|line| line.contains(':') && !line.contains("//")) {
        assert!(line.ends_with('('), "no comment on {line}");
    }
}

#[test]
fn an_empty_file_of_fields_is_the_default() {
    assert_eq!(parse("()"), Ok(Configuration::default()));
    assert_eq!(parse("(history: (keep_ms: 7))").unwrap().history.keep_ms, Within(7));
}

#[test]
fn an_unknown_field_is_refused_with_its_place_and_what_is_allowed() {
    let said = refused("(\n    memory: true,\n    colour: 1,\n)");
    assert!(said.starts_with("a.ron:3:"), "{said}");
    assert!(said.contains("there is no field `colour`; allowed are `listen`, `peer_listen`"), "{said}");
    let said = refused("(history: (kept: 1))");
    assert!(said.contains("history") && said.contains("allowed are `keep_ms`, `bytes_max`"), "{said}");
}

#[test]
fn a_bad_value_is_refused_with_its_field_and_what_is_allowed() {
    let said = refused("(\n  workers: 0,\n)");
    assert!(said.starts_with("a.ron:2:"), "{said}");
    assert!(said.contains("`workers`: 0 is out of bounds: allowed are 1 to 1024"), "{said}");
    let said = refused("(history: (keep_ms: \"long\"))");
    assert!(said.contains("`history.keep_ms`: "), "{said}");
    let said = refused("(log_level: loud)");
    assert!(said.contains("allowed are `critical`, `error`"), "{said}");
    let said = refused("(listen: \"localhost\")");
    assert!(said.contains("`listen`: `localhost` is no address: allowed is IP:PORT"), "{said}");
    let said = refused("(admin_listen: \"off\")");
    assert!(said.contains("or none"), "{said}");
    assert!(refused("(memory: true) x").starts_with("a.ron:1:"));
    assert!(refused("(memory: true, memory: false)").contains("twice"));
    assert!(refused("(memory: ").starts_with("a.ron:1:"));
    assert!(Configuration::parse(Path::new("a.ron"), b"(\xff)").is_err());
}

#[test]
fn fields_that_do_not_go_together_are_refused() {
    let said = refused("(memory_bytes_max: 16777216, history: (bytes_max: 16777217))");
    assert!(said.contains("`history.bytes_max`: must not be above memory_bytes_max (16777216)"), "{said}");
}

#[test]
fn an_open_address_needs_insecure() {
    for flag in ["--listen", "--admin-listen"] {
        let said = serve(&["--memory", flag, "0.0.0.0:7420"]).expect_err("it is open");
        assert!(said.contains("can be reached by other machines") && said.contains("--insecure"), "{said}");
    }
    assert!(serve(&["--memory", "--listen", "0.0.0.0:7420", "--insecure"]).is_ok());
    assert!(serve(&["--memory", "--listen", "[::1]:7420"]).is_ok());
    assert!(parse("(listen: \"[::]:1\")").is_err());
}

#[test]
fn flags_win_over_the_file() {
    let path = std::env::temp_dir().join(format!("quantadb-flags-{}.ron", std::process::id()));
    fs::write(&path, "(memory: true, log_level: error, workers: 3, listen: \"127.0.0.1:1\")").unwrap();
    let file = path.to_str().unwrap();
    let from_file = serve(&["--config", file]).unwrap();
    assert_eq!((from_file.log_level, from_file.workers), (LogLevel::Error, Within(3)));
    let words =
        ["--config", file, "--log-level", "debug", "--workers", "2", "--log-format", "json", "--admin-listen", "none"];
    let over = serve(&words).unwrap();
    assert_eq!((over.log_level, over.workers, over.log_format), (LogLevel::Debug, Within(2), LogFormat::Json));
    assert_eq!((over.admin_listen, over.listen), (OptionalAddress::Nowhere, Address::loopback(1)));
    let on_disk = serve(&["--config", file, "--data-dir", "d"]).expect("the flag wins");
    assert!(!on_disk.memory && on_disk.data_dir == Path::new("d"));
    assert!(serve(&["--memory", "--workers", "0"]).expect_err("none").contains("--workers: 0 is out of bounds"));
    fs::remove_file(&path).unwrap();
    assert!(serve(&["--config", file]).expect_err("it is gone").contains("cannot be read"));
}

#[test]
fn data_lie_in_a_directory_unless_told_otherwise() {
    let nothing_said = serve(&[]).expect("the defaults serve");
    assert!(!nothing_said.memory && nothing_said.data_dir == Path::new("./quantadb-data"));
    assert!(serve(&["--memory"]).expect("it is allowed").memory);
    assert!(serve(&["--memory", "--data-dir", "d"]).expect_err("both").contains("exclude"));
}
