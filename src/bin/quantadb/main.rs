//! The server program: thin. It reads arguments and configuration, hands each floor its options, and waits.

mod admin;
mod allocator;
mod arguments;
mod configuration;
mod exposition;
mod libraries;
mod logging;
mod offline;
mod serve;

use argh::FromArgs;
use arguments::{Arguments, Command};
use configuration::Configuration;
use quantadb::{env::Env, types::ClusterId};
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// What a process ends with; `quantadb --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    CannotStart = 3,
    Interrupted = 130,
}

fn main() -> ExitCode {
    ExitCode::from(run() as u8)
}

fn run() -> Exit {
    allocator::keep_freed_pages();
    let words: Vec<String> = match std::env::args_os().skip(1).map(|word| word.into_string()).collect() {
        Ok(words) => words,
        Err(word) => {
            eprintln!("error: the argument {word:?} is not UTF-8");
            return Exit::Usage;
        }
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["quantadb"], &words) {
        Ok(arguments) => arguments,
        Err(early) if early.status.is_ok() => return print(&early.output),
        Err(early) => {
            eprintln!("error: {}\nRun quantadb --help for what is allowed.", early.output.trim_end());
            return Exit::Usage;
        }
    };
    match arguments.command {
        Command::Version(_) => print(&format!("quantadb {}", env!("CARGO_PKG_VERSION"))),
        Command::Config(config) => match Configuration::load(config.config.as_deref()) {
            Ok(configuration) => print(&configuration.to_ron()),
            Err(error) => refuse(&error),
        },
        Command::Check(check) => offline::check(&check.data_dir),
        Command::Restore(restore) => offline::restore(&restore.file, &restore.data_dir),
        Command::Serve(flags) => match Configuration::for_serving(&flags) {
            Ok(configuration) => serve::run(configuration),
            Err(error) => refuse(&error),
        },
    }
}

/// The name of a cluster that begins.
fn random_cluster(env: &Env) -> ClusterId {
    let mut cluster = [0; 16];
    env.random(&mut cluster);
    ClusterId(cluster)
}

fn refuse(error: &configuration::Error) -> Exit {
    eprintln!("error: {error}");
    Exit::Usage
}

/// Prints to stdout; a reader that has gone away is not an error.
fn print(text: &str) -> Exit {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: stdout cannot be written: {error}");
            Exit::Failed
        }
        _ => Exit::Done,
    }
}
