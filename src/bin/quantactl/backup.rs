//! Backups: the whole database at one version in a file, and whether such a file is whole.
//!
//! The file appears under its name only when it is whole and durable. Whatever ends it earlier leaves what was there before.

use crate::{
    arguments::{Backup, Output},
    failure::Failure,
    form::{render, table},
    interrupt::Interrupt,
    print,
    progress::Progress,
    session::Session,
};
use quantadb::{
    backup::{Error, Header, Reader, Row, Summary, Target, TargetError, WriteError, Writer},
    client::{self, BackupRow},
    env::Env,
};
use std::{
    fs,
    io::{self, BufReader},
    path::Path,
};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 * 1024;

pub async fn backup(session: &Session, backup: &Backup) -> Result<(), Failure> {
    match (backup.verify, backup.force) {
        (true, true) => Err(Failure::Usage("--verify reads a file; --force is for writing one".into())),
        (true, false) => verify(session, &backup.file),
        (false, force) => take(session, &backup.file, force).await,
    }
}

async fn take(session: &Session, file: &str, force: bool) -> Result<(), Failure> {
    // Renaming a file over a device would take the device away.
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(Failure::Usage(format!("{file}: is there and no regular file")));
    }
    let env = Env::real();
    let interrupt = Interrupt::listen();
    let target = Target::create(&env, Path::new(file), force).map_err(|error| not_created(&error))?;
    let client = session.connect().await?;
    // The client stays with the cluster that it met first.
    let status = client.status().await.map_err(|error| session.read_failed(error))?;
    let mut taking = Taking {
        session,
        file,
        interrupt,
        progress: Progress::begin(None),
        rows: client.backup(),
        cluster: status.cluster,
        taken_ms: env.wall_ms(),
    };
    let taken = taking.run(target).await;
    taking.progress.clear();
    let summary = taken.map_err(|failure| failure.after("no backup was written".into()))?;
    match session.form.output {
        Output::Json => {
            let json = members(&summary).map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)));
            let seconds = taking.progress.seconds();
            print(&format!("{{{},\"seconds\":{seconds:.3}}}", json.join(",")))
        }
        Output::Table | Output::Raw => {
            let done = taking.progress.summary("backed up");
            print(&format!("{done}, version {}", summary.header.version))
        }
    }
}

/// A backup under way.
struct Taking<'a> {
    session: &'a Session,
    file: &'a str,
    interrupt: Interrupt,
    progress: Progress,
    rows: client::Backup,
    cluster: client::ClusterId,
    taken_ms: u64,
}

impl Taking<'_> {
    async fn run(&mut self, target: Target) -> Result<Summary, Failure> {
        let mut next = self.next().await?;
        let version = self.rows.version().expect("a backup that told a row or its end has told its version");
        let header = Header { cluster: self.cluster, version, taken_ms: self.taken_ms };
        let mut writer = Writer::begin(target, header).map_err(|error| Failure::file(self.file, &error))?;
        while let Some(row) = next {
            let row = Row { key: &row.full_key, version: row.version, value: &row.value };
            writer.push(&row).map_err(|error| self.not_written(&error))?;
            self.progress.add(1, (row.key.len() + row.value.len()) as u64);
            next = self.next().await?;
        }
        let told = self.rows.summary().expect("a backup without another row has ended");
        let (target, summary) = writer.finish(told.clock_ms).map_err(|error| Failure::file(self.file, &error))?;
        target.publish().map_err(|error| not_created(&error))?;
        Ok(summary)
    }

    async fn next(&mut self) -> Result<Option<BackupRow>, Failure> {
        let next = tokio::select! {
            biased;
            () = self.interrupt.set() => return Err(Failure::Interrupted(self.progress.summary("read"))),
            next = self.rows.next() => next,
        };
        next.transpose().map_err(|error| self.session.read_failed(error))
    }

    fn not_written(&self, error: &WriteError) -> Failure {
        match error {
            WriteError::Io(error) => Failure::file(self.file, error),
            WriteError::Row(what) => Failure::Peer(format!("the server sent what no backup holds: {what}")),
        }
    }
}

fn not_created(error: &TargetError) -> Failure {
    match error {
        TargetError::Exists(_) => Failure::Usage(format!("{error}; --force replaces it")),
        error => Failure::Usage(error.to_string()),
    }
}

fn verify(session: &Session, file: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file(file, &error);
    let source = fs::File::open(file).map_err(failed)?;
    let length = source.metadata().map_err(failed)?.len();
    let interrupt = Interrupt::listen();
    let mut progress = Progress::begin(Some(length));
    let summary = read(BufReader::with_capacity(BUFFER_BYTES, source), &interrupt, &mut progress);
    progress.clear();
    let summary = match summary {
        Ok(Some(summary)) => summary,
        Ok(None) => return Err(Failure::Interrupted(format!("{file} was not read to its end"))),
        Err(Error::Unreadable { offset, source }) => {
            return Err(Failure::Usage(format!("{file}: byte {offset}: {source}")));
        }
        Err(error) => return Err(Failure::Usage(format!("{file}: {error}"))),
    };
    match session.form.output {
        Output::Json => {
            let json = members(&summary).map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)));
            print(&format!("{{{}}}", json.join(",")))
        }
        Output::Raw => print(&members(&summary).map(|(name, value)| format!("{name}\t{}", bare(&value))).join("\n")),
        Output::Table => {
            let mut rows = table(&[]);
            for (name, value) in members(&summary) {
                rows.add_row([name, bare(&value)]);
            }
            print(&render(&rows))
        }
    }
}

/// Reads to the end; nothing if a stop was asked for.
fn read(source: impl io::Read, interrupt: &Interrupt, progress: &mut Progress) -> Result<Option<Summary>, Error> {
    let mut reader = Reader::open(source)?;
    while !interrupt.is_set() {
        let (rows, offset) = (reader.rows(), reader.offset());
        if let Some(summary) = reader.next_block::<Error>(&mut |_| Ok(()))? {
            return Ok(Some(summary));
        }
        progress.add(reader.rows() - rows, reader.offset() - offset);
    }
    Ok(None)
}

/// What a backup holds, by name, as JSON.
fn members(summary: &Summary) -> [(&'static str, String); 7] {
    let Summary { header, rows, bytes, clock_ms, file_bytes } = summary;
    [
        ("version", header.version.to_string()),
        ("cluster", format!("\"{}\"", header.cluster)),
        ("taken_ms", header.taken_ms.to_string()),
        ("clock_ms", clock_ms.to_string()),
        ("rows", rows.to_string()),
        ("bytes", bytes.to_string()),
        ("file_bytes", file_bytes.to_string()),
    ]
}

/// A member for people.
fn bare(json: &str) -> &str {
    json.trim_matches('"')
}
