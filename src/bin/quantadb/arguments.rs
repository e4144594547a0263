//! The command line, as argh reads it. Every flag of `serve` has a field in the configuration, and wins over it.

use crate::configuration::{Address, LogFormat, LogLevel, OptionalAddress};
use argh::FromArgs;
use std::path::PathBuf;

#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    description = "QuantaDB: a strictly serializable key-value database over one TCP socket.",
    example = "{command_name} serve\n\
               {command_name} check --data-dir ./quantadb-data",
    note = "`{command_name} serve --help` and `{command_name} config --help` tell more.",
    error_code(0, "done, or stopped as asked"),
    error_code(1, "the server failed while it ran; the log says why"),
    error_code(2, "wrong arguments or configuration"),
    error_code(3, "the server could not start: an address is taken, a resource is missing"),
    error_code(130, "stopped at once by a second signal; what was under way was not answered")
)]
pub struct Arguments {
    #[argh(subcommand)]
    pub command: Command,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum Command {
    Serve(Serve),
    Config(Config),
    Check(Check),
    Restore(Restore),
    Version(Version),
}

/// Starts a server. When it is ready it prints one line with its addresses on stdout; it logs to stderr.
/// SIGTERM or SIGINT stops it once everything that it accepted is answered; a second signal stops it at once.
#[derive(FromArgs, Debug, Default, PartialEq)]
#[argh(
    subcommand,
    name = "serve",
    example = "{command_name}\n\
               {command_name} --data-dir ./data\n\
               {command_name} --data-dir ./second --listen 127.0.0.1:7430 --peer-listen 127.0.0.1:7431 --admin-listen none --join 127.0.0.1:7421\n\
               {command_name} --memory --listen 127.0.0.1:0 --admin-listen none --log-level debug",
    error_code(1, "the server failed while it ran"),
    error_code(2, "wrong arguments or configuration"),
    error_code(3, "the server could not start")
)]
pub struct Serve {
    /// read this RON file first; flags win over it (`quantadb config` prints one)
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,

    /// where clients connect: IP:PORT, port 0 for any free one (default 127.0.0.1:7420)
    #[argh(option, arg_name = "address")]
    pub listen: Option<Address>,

    /// where the other nodes of the cluster connect: IP:PORT, or `none` for a node that stays alone (default 127.0.0.1:7421)
    #[argh(option, arg_name = "address")]
    pub peer_listen: Option<OptionalAddress>,

    /// become a member of the cluster that any of these is of: addresses of peer listeners, HOST:PORT, several with commas;
    /// a node that is a member already only needs them if all others have moved
    #[argh(option, arg_name = "addresses")]
    pub join: Option<String>,

    /// where /metrics, /livez and /readyz are served: IP:PORT, or `none` (default 127.0.0.1:7422)
    #[argh(option, arg_name = "address")]
    pub admin_listen: Option<OptionalAddress>,

    /// keep data in memory only: it is gone when the server stops
    #[argh(switch)]
    pub memory: bool,

    /// where data are stored; made if it is not there (default ./quantadb-data)
    #[argh(option, arg_name = "directory")]
    pub data_dir: Option<PathBuf>,

    /// bytes of memory for data, or on disk for what was written lately; near them writes are refused
    #[argh(option, arg_name = "bytes")]
    pub memory_bytes_max: Option<u64>,

    /// threads that serve; a single one commits too, beside several another does (default: one for each core but one)
    #[argh(option, arg_name = "count")]
    pub workers: Option<u64>,

    /// log what is at least this: critical, error, warning, info, debug or trace (default info)
    #[argh(option, arg_name = "level")]
    pub log_level: Option<LogLevel>,

    /// how log lines look: terminal or json (default terminal)
    #[argh(option, arg_name = "format")]
    pub log_format: Option<LogFormat>,

    /// allow addresses that other machines can reach, although there is no TLS and no authentication yet
    #[argh(switch)]
    pub insecure: bool,
}

/// Prints the effective configuration as RON: the defaults, and over them what the file says.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "config", example = "{command_name}", error_code(2, "wrong arguments or configuration"))]
pub struct Config {
    /// read this RON file
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
}

/// Verifies every checksum and rule of a data directory that no server uses, and says what is wrong, where.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "check",
    example = "{command_name} --data-dir ./quantadb-data",
    error_code(0, "everything is as it was written"),
    error_code(1, "something is damaged"),
    error_code(3, "it could not be checked: it is in use, not there, or not readable")
)]
pub struct Check {
    /// the data directory (default ./quantadb-data)
    #[argh(option, arg_name = "directory", default = "default_data_dir()")]
    pub data_dir: PathBuf,
}

/// Makes a data directory from a backup that `quantactl backup` took. The restored database is a new cluster: it accepts
/// nothing that clients remember of the old one.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "restore",
    example = "{command_name} backup.qdb --data-dir ./quantadb-data",
    error_code(0, "done"),
    error_code(1, "the backup is damaged or the disk failed; nothing was made"),
    error_code(3, "the directory is not empty, or cannot be made")
)]
pub struct Restore {
    /// the backup
    #[argh(positional, arg_name = "file")]
    pub file: PathBuf,

    /// the data directory, which must not be there or be empty (default ./quantadb-data)
    #[argh(option, arg_name = "directory", default = "default_data_dir()")]
    pub data_dir: PathBuf,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("./quantadb-data")
}

/// Prints the version.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "version", example = "{command_name}")]
pub struct Version {}
