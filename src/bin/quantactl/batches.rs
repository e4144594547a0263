//! From a file of lines to batches of rows: what one transaction of an import writes.
//!
//! Runs on a thread of its own, because reading a file or a pipe may block. A batch is bounded in rows and bytes, a line in
//! bytes; at most [`WAITING_MAX`] batches wait.

use crate::{failure::Failure, interrupt::Interrupt, lines};
use quantadb::{
    client::{Execute, Keyspace, Op},
    types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Read},
    thread,
};
use tokio::sync::mpsc;

/// Rows of one transaction.
const BATCH_ROWS_MAX: u64 = 1_000;
/// A transaction takes no further row once it has this many bytes.
const BATCH_BYTES: u64 = 512 * 1024;
/// Batches that wait to be sent.
const WAITING_MAX: usize = 4;
/// The longest line: the largest value with each of its bytes as `\u00NN`, the longest key, and white space.
const LINE_BYTES_MAX: u64 = (VALUE_BYTES_MAX as u64 + KEY_BYTES_MAX as u64) * 6 + 64 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Rows that are written together.
#[derive(Default)]
pub struct Batch {
    pub execute: Execute,
    pub rows: u64,
    /// Bytes of the lines that it came from.
    pub bytes: u64,
    pub first_line: u64,
    pub last_line: u64,
    /// A hash of each key: batches that share one must not be under way together.
    pub keys: Vec<u64>,
}

/// Where lines come from, and how many bytes there are, if that can be known.
pub struct Source {
    name: String,
    input: Box<dyn Read + Send>,
    pub bytes: Option<u64>,
}

impl Source {
    /// A file, or stdin for `-`.
    pub fn open(name: &str) -> Result<Source, Failure> {
        if name == "-" {
            return Ok(Source { name: "stdin".into(), input: Box::new(io::stdin()), bytes: None });
        }
        let file = fs::File::open(name).map_err(|error| Failure::file(name, &error))?;
        let about = file.metadata().map_err(|error| Failure::file(name, &error))?;
        if about.is_dir() {
            return Err(Failure::Usage(format!("{name}: is a directory")));
        }
        let bytes = about.is_file().then_some(about.len());
        Ok(Source { name: name.to_owned(), input: Box::new(file), bytes })
    }

    /// Reads to the end, to the first bad line or until a stop is asked for. Rows before a bad line come first.
    pub fn batches(self, keyspace: Keyspace, interrupt: Interrupt) -> mpsc::Receiver<Result<Batch, Failure>> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        thread::spawn(move || {
            let reader = Reader { name: self.name, keyspace, interrupt, sender };
            reader.run(BufReader::with_capacity(BUFFER_BYTES, self.input));
        });
        receiver
    }
}

struct Reader {
    name: String,
    keyspace: Keyspace,
    interrupt: Interrupt,
    sender: mpsc::Sender<Result<Batch, Failure>>,
}

impl Reader {
    fn run(&self, mut input: impl BufRead) {
        let mut batch = self.empty();
        let mut line = Vec::new();
        for number in 1_u64.. {
            if self.interrupt.is_set() {
                return;
            }
            line.clear();
            let row = match (&mut input).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => self.row(number, &line),
                Err(error) => Err(Failure::file(&self.name, &error)),
            };
            match row {
                Ok(None) => batch.bytes += line.len() as u64,
                Ok(Some(row)) => {
                    add(&mut batch, number, &row, line.len() as u64);
                    if batch.rows < BATCH_ROWS_MAX && batch.bytes < BATCH_BYTES {
                        continue;
                    }
                    if self.sender.blocking_send(Ok(std::mem::replace(&mut batch, self.empty()))).is_err() {
                        return;
                    }
                }
                Err(failure) => {
                    // The rows before it are good.
                    let _ = self.sender.blocking_send(Ok(batch));
                    let _ = self.sender.blocking_send(Err(failure));
                    return;
                }
            }
        }
        let _ = self.sender.blocking_send(Ok(batch));
    }

    fn empty(&self) -> Batch {
        Batch { execute: Execute::new().within(&self.keyspace), ..Batch::default() }
    }

    /// The row of a line; none if the line is blank.
    fn row(&self, number: u64, line: &[u8]) -> Result<Option<lines::Row>, Failure> {
        let wrong = |what: String| {
            let error = lines::Error { column: 1, what };
            Failure::Line { file: self.name.clone(), line: number, error }
        };
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes, which no row is")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let row = lines::read(line.strip_suffix(b"\n").unwrap_or(line)).map_err(|error| Failure::Line {
            file: self.name.clone(),
            line: number,
            error,
        })?;
        if row.key.len() > KEY_BYTES_MAX {
            return Err(wrong(format!("a key of {} bytes; allowed are {KEY_BYTES_MAX}", row.key.len())));
        }
        if row.value.len() > VALUE_BYTES_MAX {
            return Err(wrong(format!("a value of {} bytes; allowed are {VALUE_BYTES_MAX}", row.value.len())));
        }
        Ok(Some(row))
    }
}

fn add(batch: &mut Batch, line: u64, row: &lines::Row, bytes: u64) {
    let mut hasher = DefaultHasher::new();
    row.key.hash(&mut hasher);
    batch.keys.push(hasher.finish());
    batch.execute = std::mem::take(&mut batch.execute).then(Op::Put { key: &row.key, value: &row.value });
    if batch.rows == 0 {
        batch.first_line = line;
    }
    batch.last_line = line;
    batch.rows += 1;
    batch.bytes += bytes;
}
