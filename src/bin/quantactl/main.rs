//! The command line client: thin over [`quantadb::client`]. Results go to stdout, everything else to stderr.

mod arguments;
mod backup;
mod batches;
mod cluster;
mod data;
mod escape;
mod export;
mod failure;
mod form;
mod import;
mod interrupt;
mod lines;
mod progress;
mod scan;
mod session;

use argh::FromArgs;
use arguments::{Arguments, Command, hoist};
use failure::{Exit, Failure};
use session::Session;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Many rows pass through an export and an import: the same allocator as the server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One for the connection, one for what reads and writes.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    ExitCode::from(run() as u8)
}

fn run() -> Exit {
    let words: Vec<String> = match std::env::args_os().skip(1).map(|word| word.into_string()).collect() {
        Ok(words) => words,
        Err(word) => return usage(&format!("the argument {word:?} is not UTF-8; \\xNN stands for any byte")),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["quantactl"], &hoist(&words)) {
        Ok(arguments) => arguments,
        Err(early) if early.status.is_ok() => return ended(print(&early.output)),
        Err(early) => return usage(early.output.trim_end()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::Usage(format!("this process cannot have threads: {error}")));
    ended(runtime.and_then(|runtime| {
        let result = runtime.block_on(command(&arguments));
        // A thread that reads stdin may never end.
        runtime.shutdown_background();
        result
    }))
}

async fn command(arguments: &Arguments) -> Result<(), Failure> {
    if let Command::Version(_) = arguments.command {
        return print(concat!("quantactl ", env!("CARGO_PKG_VERSION")));
    }
    let session = Session::prepare(arguments);
    match &arguments.command {
        Command::Ping(_) => data::ping(&session).await,
        Command::Status(_) => data::status(&session).await,
        Command::Get(get) => data::get(&session, get).await,
        Command::Put(put) => data::put(&session, put).await,
        Command::Delete(delete) => data::delete(&session, delete).await,
        Command::Scan(scan) => scan::scan(&session, scan).await,
        Command::Import(import) => import::import(&session, &import.file).await,
        Command::Export(export) => export::export(&session, export).await,
        Command::Backup(backup) => backup::backup(&session, backup).await,
        Command::Cluster(cluster) => cluster::cluster(&session, cluster).await,
        Command::Version(_) => Ok(()),
    }
}

fn usage(what: &str) -> Exit {
    eprintln!("error: {what}\nRun quantactl --help for what is allowed.");
    Exit::Usage
}

fn ended(result: Result<(), Failure>) -> Exit {
    let Err(failure) = result else { return Exit::Done };
    if failure.speaks() {
        eprintln!("error: {failure}");
    }
    failure.exit()
}

/// Prints lines to stdout.
fn print(text: &str) -> Result<(), Failure> {
    print_bytes(format!("{}\n", text.trim_end()).as_bytes())
}

/// Prints bytes to stdout, and nothing else.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::stdout(&error))
}
