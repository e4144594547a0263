//! Rows of a keyspace as JSON Lines, all from one version.
//!
//! A file appears under its name only when it is whole: until then it is `FILE.partial`.

use crate::{
    arguments::{Export, Output},
    failure::Failure,
    interrupt::Interrupt,
    lines, print,
    progress::Progress,
    session::Session,
};
use quantadb::client::{CallOptions, KeyRange};
use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Bytes that gather before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

pub async fn export(session: &Session, export: &Export) -> Result<(), Failure> {
    let range = match &export.prefix {
        Some(prefix) => KeyRange::prefix(session.form.read("--prefix", prefix)?),
        None => KeyRange::from(..),
    };
    let client = session.connect().await?;
    let keyspace = session.keyspace(&client, false).await?.with(CallOptions::new());
    let mut target = Target::open(&export.file)?;
    let mut interrupt = Interrupt::listen();
    let mut progress = Progress::begin(None);
    let mut rows = keyspace.scan(range);
    let mut line = Vec::new();
    let end = loop {
        let next = tokio::select! {
            biased;
            () = interrupt.set() => break Err(Failure::Interrupted(progress.summary("exported"))),
            next = rows.next() => next,
        };
        match next {
            None => break Ok(()),
            Some(Err(error)) => break Err(session.read_failed(error).after(progress.summary("exported before it"))),
            Some(Ok(row)) => {
                line.clear();
                lines::write(&row.key, &row.value, &mut line);
                target.write(&line)?;
                progress.add(1, line.len() as u64);
            }
        }
    };
    progress.clear();
    target.finish(end.is_ok())?;
    end?;
    match (export.file.as_str(), session.form.output) {
        ("-", _) => Ok(()),
        (_, Output::Json) => print(&progress.json()),
        (_, Output::Table | Output::Raw) => print(&progress.summary("exported")),
    }
}

/// Where the lines go.
struct Target {
    name: String,
    output: BufWriter<Box<dyn Write + Send>>,
    /// Renamed to the name at the end; none for stdout and for what is no regular file.
    partial: Option<PathBuf>,
}

impl Target {
    fn open(name: &str) -> Result<Target, Failure> {
        let failed = |error: io::Error| Failure::file(name, &error);
        let special = fs::metadata(name).is_ok_and(|found| !found.is_file());
        let (output, partial): (Box<dyn Write + Send>, _) = if name == "-" {
            (Box::new(io::stdout()), None)
        } else if special {
            (Box::new(fs::OpenOptions::new().write(true).open(name).map_err(failed)?), None)
        } else {
            let partial = PathBuf::from(format!("{name}.partial"));
            (Box::new(fs::File::create(&partial).map_err(failed)?), Some(partial))
        };
        Ok(Target { name: name.to_owned(), output: BufWriter::with_capacity(BUFFER_BYTES, output), partial })
    }

    fn failed(&self, error: &io::Error) -> Failure {
        if self.name == "-" { Failure::stdout(error) } else { Failure::file(&self.name, error) }
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.output.write_all(line).map_err(|error| self.failed(&error))
    }

    fn finish(mut self, whole: bool) -> Result<(), Failure> {
        self.output.flush().map_err(|error| self.failed(&error))?;
        match &self.partial {
            Some(partial) if whole => {
                fs::rename(partial, Path::new(&self.name)).map_err(|error| Failure::file(&self.name, &error))
            }
            _ => Ok(()),
        }
    }
}
