//! How a command ends: the exit code, and what stderr is told.

use crate::lines;
use quantadb::client::{Error, ErrorKind, Outcome};
use std::{error::Error as _, fmt::Write, io};

/// What the process ends with; `quantactl --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    NotFound = 1,
    Usage = 2,
    Refused = 3,
    Unreachable = 4,
    Unknown = 5,
    Interrupted = 130,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The caller's mistake: an argument, a file.
    #[error("{0}")]
    Usage(String),
    /// There is no such key.
    #[error("not found: {0}")]
    NotFound(String),
    /// A line of an import is no row. Lines count from 1.
    #[error("{file}:{line}: {error}")]
    Line { file: String, line: u64, error: lines::Error },
    /// What the server, or the way to it, had to say; with the addresses that were tried.
    #[error("{}", explain(error, addresses))]
    Client { error: Error, addresses: String, write: bool },
    /// The server said what it never should.
    #[error("{0}; check that --addr is a QuantaDB server's client port")]
    Peer(String),
    /// Stdout's reader went away: it had enough.
    #[error("nobody reads the output any more")]
    Unread,
    /// Ctrl-C, or SIGTERM.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// Another failure, and what had been done before it.
    #[error("{failure}; {done}")]
    After { failure: Box<Failure>, done: String },
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Usage(_) | Failure::Line { .. } => Exit::Usage,
            Failure::NotFound(_) => Exit::NotFound,
            Failure::Client { error, write: true, .. } if error.outcome() == Outcome::Unknown => Exit::Unknown,
            Failure::Client { error, .. } if error.kind() == ErrorKind::Refused => Exit::Refused,
            Failure::Client { .. } | Failure::Peer(_) => Exit::Unreachable,
            Failure::Unread => Exit::Done,
            Failure::Interrupted(_) => Exit::Interrupted,
            Failure::After { failure, .. } => failure.exit(),
        }
    }

    /// The same failure, with what had been done before it.
    pub fn after(self, done: String) -> Failure {
        Failure::After { failure: Box::new(self), done }
    }

    /// Whether there is something to say on stderr.
    pub fn speaks(&self) -> bool {
        match self {
            Failure::Unread => false,
            Failure::After { failure, .. } => failure.speaks(),
            _ => true,
        }
    }

    /// A file that cannot be read or written.
    pub fn file(name: &str, error: &io::Error) -> Failure {
        Failure::Usage(format!("{name}: {error}"))
    }

    /// What became of writing to stdout.
    pub fn stdout(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Usage(format!("stdout cannot be written: {error}")),
        }
    }
}

/// The error, its causes, and what to check.
fn explain(error: &Error, addresses: &str) -> String {
    let mut text = match error.kind() {
        ErrorKind::Unreachable => format!("no server at {addresses}"),
        _ => error.to_string(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::Unreachable => {
            text.push_str("; check that a server runs there (`quantadb serve --memory`) and that --addr is right");
        }
        ErrorKind::Protocol => text.push_str("; check that --addr is a QuantaDB server's client port"),
        _ => {}
    }
    text
}
