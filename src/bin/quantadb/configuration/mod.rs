//! The configuration: one RON file, and flags over it. The whole of it is seen here and in `serve`; each floor below
//! gets its own options and nothing else.
//!
//! Every bound is checked where it is read, so that an error names file, line, column, field and what is allowed. Unknown
//! fields are errors. What [`Configuration::to_ron`] prints, [`Configuration::parse`] reads back to the same value.

mod address;
mod convert;
mod describe;
mod error;
mod within;

pub use address::{Address, OptionalAddress};
pub use error::Error;
pub use within::Within;

use crate::arguments::Serve;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// A configuration file is not read past this.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Configuration {
    pub listen: Address,
    pub peer_listen: OptionalAddress,
    pub join: Vec<String>,
    pub admin_listen: OptionalAddress,
    pub insecure: bool,
    pub memory: bool,
    pub data_dir: PathBuf,
    pub memory_bytes_max: Within<{ 16 * MIB }, { 1 << 50 }>,
    pub workers: Within<1, 1024>,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    pub log_lines_max: Within<16, 1_048_576>,
    pub storage: Storage,
    pub history: History,
    pub idempotency: Idempotency,
    pub committer: Committer,
    pub admission: Admission,
    pub sessions: Sessions,
}

impl Default for Configuration {
    fn default() -> Configuration {
        // Where there are several, the thread that commits has a core of its own.
        let workers = thread::available_parallelism().map_or(1, |cores| cores.get() as u64 - 1);
        Configuration {
            listen: Address::loopback(7420),
            peer_listen: OptionalAddress::At(Address::loopback(7421)),
            join: Vec::new(),
            admin_listen: OptionalAddress::At(Address::loopback(7422)),
            insecure: false,
            memory: false,
            data_dir: PathBuf::from("./quantadb-data"),
            memory_bytes_max: Within(4 * GIB),
            workers: Within(workers.clamp(1, 1024)),
            log_level: LogLevel::Info,
            log_format: LogFormat::Terminal,
            log_lines_max: Within(8_192),
            storage: Storage::default(),
            history: History::default(),
            idempotency: Idempotency::default(),
            committer: Committer::default(),
            admission: Admission::default(),
            sessions: Sessions::default(),
        }
    }
}

/// The least that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    const ALL: [(&'static str, LogLevel); 6] = [
        ("critical", LogLevel::Critical),
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];

    /// Its name, as the configuration has it.
    pub fn name(self) -> &'static str {
        LogLevel::ALL[self as usize].0
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;
    fn from_str(text: &str) -> Result<LogLevel, String> {
        let found = LogLevel::ALL.iter().find(|(name, _)| *name == text);
        let level = found.map(|(_, level)| *level);
        level.ok_or_else(|| {
            format!("`{text}` is no log level; allowed are critical, error, warning, info, debug, trace")
        })
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Terminal,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "terminal" => Ok(LogFormat::Terminal),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("`{text}` is no log format; allowed are terminal and json")),
        }
    }
}

/// What lies on disk, and how it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    pub block_cache_bytes: Within<{ MIB }, { 1 << 50 }>,
    pub slice_bytes: Within<{ MIB }, { 16 * GIB }>,
    pub slice_age_ms_max: Within<1_000, DAY_MS>,
    pub reserve_bytes: Within<0, { 1 << 50 }>,
    pub log_segment_bytes: Within<{ 64 * 1024 }, { 4 * GIB }>,
    pub log_keep_bytes: Within<{ MIB }, { 1 << 50 }>,
    pub log_cache_bytes: Within<0, { 64 * GIB }>,
}

impl Default for Storage {
    fn default() -> Storage {
        let engine = quantadb::storage::DurableOptions::default();
        Storage {
            block_cache_bytes: Within(engine.block_cache_bytes),
            slice_bytes: Within(engine.slice_bytes),
            slice_age_ms_max: Within(ms(engine.slice_age_max)),
            reserve_bytes: Within(engine.reserve_bytes),
            log_segment_bytes: Within(64 * MIB),
            log_keep_bytes: Within(quantadb::node::LOG_KEEP_BYTES_DEFAULT),
            log_cache_bytes: Within(64 * MIB),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long old versions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    pub keep_ms: Within<0, DAY_MS>,
    pub bytes_max: Within<0, { 1 << 50 }>,
}

impl Default for History {
    fn default() -> History {
        History { keep_ms: Within(5_000), bytes_max: Within(256 * MIB) }
    }
}

/// How long the records of keyed commits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Idempotency {
    pub window_ms: Within<1_000, { 7 * DAY_MS }>,
    pub records_max: Within<1_000, 1_000_000_000>,
}

impl Default for Idempotency {
    fn default() -> Idempotency {
        Idempotency { window_ms: Within(600_000), records_max: Within(1_000_000) }
    }
}

/// What the committer builds and hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Committer {
    pub entry_items_max: Within<1, 65_536>,
    pub entry_bytes_max: Within<4_096, { 64 * MIB }>,
    pub pipeline_entries_max: Within<1, 1_024>,
    pub pipeline_bytes_max: Within<{ MIB }, { 4 * GIB }>,
    pub resolver_bytes_max: Within<{ MIB }, { 64 * GIB }>,
}

impl Default for Committer {
    fn default() -> Committer {
        let node = quantadb::node::CommitterOptions::default();
        Committer {
            entry_items_max: Within(u64::from(node.entry_items_max)),
            entry_bytes_max: Within(node.entry_bytes_max as u64),
            pipeline_entries_max: Within(node.pipeline_entries_max as u64),
            pipeline_bytes_max: Within(node.pipeline_bytes_max as u64),
            resolver_bytes_max: Within(node.resolver_bytes_max as u64),
        }
    }
}

/// What may wait for the committer, of all sessions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    pub requests_max: Within<1, 16_777_216>,
    pub bytes_max: Within<{ 32 * MIB }, { 64 * GIB }>,
}

impl Default for Admission {
    fn default() -> Admission {
        let node = quantadb::node::AdmissionOptions::default();
        Admission { requests_max: Within(node.requests_max as u64), bytes_max: Within(node.bytes_max as u64) }
    }
}

/// What one connection may do, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    pub connections_max: Within<1, 1_000_000>,
    pub requests_in_flight_max: Within<1, 1_048_576>,
    pub bytes_in_flight_max: Within<{ 32 * MIB }, { 16 * GIB }>,
    pub outbound_bytes_max: Within<{ 32 * MIB }, { 16 * GIB }>,
    pub transactions_max: Within<1, 1_000_000>,
    pub transaction_age_ms_max: Within<1_000, DAY_MS>,
    pub transaction_idle_ms_max: Within<100, DAY_MS>,
    pub scans_max: Within<1, 65_536>,
    pub idle_ms_max: Within<1_000, DAY_MS>,
    pub handshake_ms_max: Within<100, 60_000>,
    pub deadline_ms_default: Within<1, DAY_MS>,
    pub drain_ms_max: Within<0, DAY_MS>,
    pub grease: bool,
}

impl Default for Sessions {
    fn default() -> Sessions {
        let server = quantadb::server::Options::default();
        Sessions {
            connections_max: Within(server.connections_max as u64),
            requests_in_flight_max: Within(server.requests_in_flight_max as u64),
            bytes_in_flight_max: Within(server.bytes_in_flight_max as u64),
            outbound_bytes_max: Within(server.outbound_bytes_max as u64),
            transactions_max: Within(server.transactions_max as u64),
            transaction_age_ms_max: Within(ms(server.transaction_age_max)),
            transaction_idle_ms_max: Within(ms(server.transaction_idle_max)),
            scans_max: Within(server.scans_max as u64),
            idle_ms_max: Within(ms(server.idle_max)),
            handshake_ms_max: Within(ms(server.handshake_max)),
            deadline_ms_default: Within(ms(server.deadline_default)),
            drain_ms_max: Within(ms(server.drain_max)),
            grease: server.grease,
        }
    }
}

impl Configuration {
    /// The defaults, and over them what the file says.
    pub fn load(path: Option<&Path>) -> Result<Configuration, Error> {
        let Some(path) = path else { return Ok(Configuration::default()) };
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        let mut text = Vec::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::TooLong { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
        }
        Configuration::parse(path, &text)
    }

    /// Reads the text of a configuration file; `path` is for messages.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Configuration, Error> {
        let mut reader = ron::Deserializer::from_bytes(text).map_err(|error| Error::spanned(path, "", &error))?;
        let configuration: Configuration = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            Error::spanned(path, &field, &reader.span_error(error.into_inner()))
        })?;
        reader.end().map_err(|error| Error::spanned(path, "", &reader.span_error(error)))?;
        configuration.check(Some(path))?;
        Ok(configuration)
    }

    /// What `serve` runs with: file, then flags, then what must hold for serving.
    pub fn for_serving(flags: &Serve) -> Result<Configuration, Error> {
        let mut configuration = Configuration::load(flags.config.as_deref())?;
        configuration.take(flags)?;
        configuration.check(None)?;
        Ok(configuration)
    }

    fn take(&mut self, flags: &Serve) -> Result<(), Error> {
        fn put<T: Clone>(field: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                field.clone_from(value);
            }
        }
        if flags.memory && flags.data_dir.is_some() {
            return Err(Error::MemoryOrDirectory);
        }
        put(&mut self.listen, flags.listen.as_ref());
        put(&mut self.peer_listen, flags.peer_listen.as_ref());
        if let Some(join) = &flags.join {
            self.join = join.split(',').map(|address| address.trim().to_owned()).collect();
        }
        put(&mut self.admin_listen, flags.admin_listen.as_ref());
        put(&mut self.data_dir, flags.data_dir.as_ref());
        put(&mut self.log_level, flags.log_level.as_ref());
        put(&mut self.log_format, flags.log_format.as_ref());
        // A directory asked for by flag takes back a `memory: true` of the file.
        self.memory = flags.memory || (self.memory && flags.data_dir.is_none());
        self.insecure |= flags.insecure;
        if let Some(workers) = flags.workers {
            self.workers = Within::new(workers).map_err(|what| Error::Flag { flag: "--workers", what })?;
        }
        if let Some(bytes) = flags.memory_bytes_max {
            self.memory_bytes_max =
                Within::new(bytes).map_err(|what| Error::Flag { flag: "--memory-bytes-max", what })?;
        }
        Ok(())
    }

    /// What no single field can say.
    fn check(&self, path: Option<&Path>) -> Result<(), Error> {
        let whole = |field, what: String| Err(Error::Whole { path: path.map(Path::to_owned), field, what });
        if self.history.bytes_max.0 > self.memory_bytes_max.0 {
            return whole(
                "history.bytes_max",
                format!(
                    "must not be above memory_bytes_max ({}), got {}",
                    self.memory_bytes_max.0, self.history.bytes_max.0
                ),
            );
        }
        if !self.join.is_empty() && self.peer_listen.address().is_none() {
            return whole("join", "needs a peer_listen: the other members must reach this node".into());
        }
        if let Some(wrong) = self.join.iter().find(|address| !address.contains(':')) {
            return whole("join", format!("`{wrong}` is no address: allowed is HOST:PORT, such as 127.0.0.1:7421"));
        }
        let listens = [
            ("listen", Some(self.listen)),
            ("peer_listen", self.peer_listen.address()),
            ("admin_listen", self.admin_listen.address()),
        ];
        for (field, address) in listens {
            if let Some(address) = address
                && !self.insecure
                && !address.0.ip().is_loopback()
            {
                return whole(
                    field,
                    format!(
                        "{} can be reached by other machines, and there is no TLS and no authentication yet: whoever \
                         reaches it reads and writes everything. Listen on a loopback address such as 127.0.0.1, or \
                         accept that with --insecure",
                        address.0
                    ),
                );
            }
        }
        Ok(())
    }

    /// The whole of it as RON, with a comment on every field.
    pub fn to_ron(&self) -> String {
        describe::to_ron(self)
    }
}

#[cfg(test)]
mod tests;
