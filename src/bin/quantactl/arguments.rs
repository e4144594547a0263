//! The command line, as argh reads it.
//!
//! Options that every command knows may stand before the command or after it: [`hoist`] moves them to where argh wants
//! them. After a `--` nothing is an option.

use argh::FromArgs;
use std::time::Duration;

#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    description = "Talks to a QuantaDB server.\n\n\
                   Keys and values are text with \\xNN for any byte, \\\\ for a backslash and \\n \\r \\t \\0; with --hex \
                   they are hexadecimal digits. After -- nothing is an option, so that a key may begin with a dash.",
    example = "{command_name} ping\n\
               {command_name} put greeting hello\n\
               {command_name} get greeting\n\
               {command_name} --output raw get greeting\n\
               {command_name} scan --prefix gr --limit 10",
    note = "`{command_name} COMMAND --help` tells more about a command.",
    error_code(0, "done"),
    error_code(1, "not found"),
    error_code(2, "wrong arguments, a line of an import that is no row, or a file that is no backup"),
    error_code(3, "refused by the server"),
    error_code(4, "unreachable: no server, or it stopped answering"),
    error_code(5, "outcome unknown: a write was sent and no answer came"),
    error_code(130, "interrupted")
)]
pub struct Arguments {
    /// servers to try in turn, A[,A…], each HOST:PORT (default 127.0.0.1:7420)
    #[argh(option, arg_name = "addresses", default = "String::from(\"127.0.0.1:7420\")")]
    pub addr: String,

    /// keyspace by name (default `default`); put and import make it if it is missing
    #[argh(option, arg_name = "name", default = "String::from(\"default\")")]
    pub keyspace: String,

    /// table, json or raw (default table). raw writes a value's bytes alone
    #[argh(option, arg_name = "form", default = "Output::Table")]
    pub output: Output,

    /// keys and values are hexadecimal digits, on the way in and out
    #[argh(switch)]
    pub hex: bool,

    /// seconds that a request may take (default 10)
    #[argh(option, arg_name = "seconds", default = "Seconds(Duration::from_secs(10))")]
    pub timeout: Seconds,

    #[argh(subcommand)]
    pub command: Command,
}

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
    Raw,
}

impl std::str::FromStr for Output {
    type Err = String;
    fn from_str(text: &str) -> Result<Output, String> {
        match text {
            "table" => Ok(Output::Table),
            "json" => Ok(Output::Json),
            "raw" => Ok(Output::Raw),
            _ => Err(format!("`{text}` is no form of output; allowed are table, json and raw")),
        }
    }
}

/// A length of time, given in seconds with or without a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl std::str::FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Seconds, String> {
        let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
        let wrong = || format!("`{text}` is no time; allowed are 0.001 to 86400 seconds");
        seconds.map(|seconds| Seconds(Duration::from_secs_f64(seconds))).ok_or_else(wrong)
    }
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum Command {
    Ping(Ping),
    Status(Status),
    Get(Get),
    Put(Put),
    Delete(Delete),
    Scan(Scan),
    Import(Import),
    Export(Export),
    Backup(Backup),
    Cluster(Cluster),
    Version(Version),
}

/// Connects, asks for one answer and says how long it took.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "ping", example = "{command_name}")]
pub struct Ping {}

/// Shows what a server says of itself: version, role, counters.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "status", example = "{command_name}")]
pub struct Status {}

/// Reads a key. A key that is not there is exit code 1.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "get", example = "{command_name} greeting")]
pub struct Get {
    /// key
    #[argh(positional)]
    pub key: String,
}

/// Writes a key.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "put",
    example = "{command_name} greeting hello\n\
               {command_name} \"bin\\x00ary\" \"\\x01\\x02\"\n\
               {command_name} manifest --from Cargo.toml"
)]
pub struct Put {
    /// key
    #[argh(positional)]
    pub key: String,
    /// value
    #[argh(positional)]
    pub value: Option<String>,
    /// take the value's bytes from a file, or from stdin if it is -
    #[argh(option, arg_name = "file")]
    pub from: Option<String>,
}

/// Deletes a key. That it was not there is no error.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "delete", example = "{command_name} greeting")]
pub struct Delete {
    /// key
    #[argh(positional)]
    pub key: String,
}

/// Shows rows in the order of their keys, all from one version.
/// Tables cut long values; --output json and raw do not: json is a JSON object a line, raw is key, tab, value, a line each.
#[derive(FromArgs, Debug, Default, PartialEq)]
#[argh(
    subcommand,
    name = "scan",
    example = "{command_name} --prefix gr --limit 10\n\
               {command_name} --start a --end b --reverse --keys-only\n\
               {command_name} --count"
)]
pub struct Scan {
    /// keys that begin with this
    #[argh(option, arg_name = "key")]
    pub prefix: Option<String>,
    /// keys from this one on
    #[argh(option, arg_name = "key")]
    pub start: Option<String>,
    /// keys before this one
    #[argh(option, arg_name = "key")]
    pub end: Option<String>,
    /// no more rows than this
    #[argh(option, arg_name = "rows")]
    pub limit: Option<u64>,
    /// from the last key to the first
    #[argh(switch)]
    pub reverse: bool,
    /// without values
    #[argh(switch)]
    pub keys_only: bool,
    /// only how many rows there are
    #[argh(switch)]
    pub count: bool,
}

/// Writes rows from JSON Lines: {"key":…,"value":…}, one row a line, many rows a transaction.
/// A key is a string, or {"hex":"…"} for bytes; a value is that too, or other JSON, which is stored as its own text.
/// A later line wins over an earlier one with the same key. Ctrl-C stops after what is under way.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "import", example = "{command_name} rows.jsonl\n{command_name} -")]
pub struct Import {
    /// file, or - for stdin
    #[argh(positional)]
    pub file: String,
}

/// Writes rows as JSON Lines, as import reads them, all from one version.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "export", example = "{command_name} rows.jsonl\n{command_name} --prefix gr -")]
pub struct Export {
    /// keys that begin with this
    #[argh(option, arg_name = "key")]
    pub prefix: Option<String>,
    /// file, or - for stdout (default -)
    #[argh(positional, default = "String::from(\"-\")")]
    pub file: String,
}

/// Writes every row of every keyspace, as of one version, to a file, while the server goes on serving. The file appears
/// when it is whole; `quantadb restore` makes a database of it. With --verify it reads such a file, says what it holds, or
/// at which byte it is damaged.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "backup",
    example = "{command_name} all.backup\n{command_name} --verify all.backup\n{command_name} --force all.backup"
)]
pub struct Backup {
    /// file
    #[argh(positional)]
    pub file: String,
    /// replace the file if it is there
    #[argh(switch)]
    pub force: bool,
    /// read the file and check all of it; needs no server
    #[argh(switch)]
    pub verify: bool,
}

/// Shows the members of the cluster, and changes who they are, while it goes on serving.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    subcommand,
    name = "cluster",
    example = "{command_name} status\n{command_name} --output json status",
    note = "`{command_name} COMMAND --help` tells more about a command."
)]
pub struct Cluster {
    #[argh(subcommand)]
    pub command: ClusterCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum ClusterCommand {
    Status(ClusterStatus),
    Add(ClusterAdd),
    Remove(ClusterRemove),
    Transfer(ClusterTransfer),
    Promote(ClusterPromote),
}

/// Shows who is a member, who leads, and how far each has come. What the server that answers does not know is a dash; the
/// leader knows of every member.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "status", example = "{command_name}\n{command_name} --output json")]
pub struct ClusterStatus {}

/// Reserves an identity for the node that will join from an address.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "add", example = "{command_name} 10.0.0.4:7421")]
pub struct ClusterAdd {
    /// HOST:PORT of the node's peer listener
    #[argh(positional)]
    pub address: String,
}

/// Takes a member out of the cluster. Its identity is never given to another. Refused if the voters that are left and heard
/// were too few to commit anything.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "remove", example = "{command_name} 3")]
pub struct ClusterRemove {
    /// number of the node
    #[argh(positional)]
    pub node: u64,
}

/// Hands the leader's office to a member, or to whoever is best.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "transfer", example = "{command_name}\n{command_name} 2")]
pub struct ClusterTransfer {
    /// number of the node
    #[argh(positional)]
    pub node: Option<u64>,
}

/// Makes a learner a voter.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "promote", example = "{command_name} 4")]
pub struct ClusterPromote {
    /// number of the node
    #[argh(positional)]
    pub node: u64,
}

/// Prints the version of this program.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "version", example = "{command_name}")]
pub struct Version {}

/// Options of every command that a value follows.
const SHARED_VALUED: &[&str] = &["--addr", "--keyspace", "--output", "--timeout"];
/// Options of single commands that a value follows.
const VALUED: &[&str] = &["--prefix", "--start", "--end", "--limit", "--from"];

/// Commands that are followed by a command of theirs.
const GROUPS: &[&str] = &["cluster"];

/// Puts words in the order that argh wants: options of every command, the command, its options, `--`, and the rest. So
/// options may stand anywhere, and `-` is a file. Of two shared options of a kind the later one counts, so that an alias
/// with options can be overridden.
pub fn hoist<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let (mut shared, mut hex): (Vec<&str>, bool) = (Vec::new(), false);
    let (mut command, mut options, mut rest): (Vec<&str>, _, _) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--" => rest.extend(words.by_ref()),
            "--hex" => hex = true,
            word if SHARED_VALUED.contains(&word) => {
                if let Some(at) = shared.iter().position(|earlier| *earlier == word) {
                    shared.drain(at..(at + 2).min(shared.len()));
                }
                shared.push(word);
                shared.extend(words.next());
            }
            word if VALUED.contains(&word) => {
                options.push(word);
                options.extend(words.next());
            }
            word if word.len() > 1 && word.starts_with('-') => options.push(word),
            word if command.is_empty() => command.push(word),
            word if command.len() == 1 && GROUPS.contains(&command[0]) => command.push(word),
            word => rest.push(word),
        }
    }
    shared.extend(hex.then_some("--hex"));
    shared.extend(command);
    shared.extend(options);
    if !rest.is_empty() {
        shared.push("--");
        shared.extend(rest);
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Arguments, String> {
        Arguments::from_args(&["quantactl"], &hoist(words)).map_err(|early| early.output)
    }

    #[test]
    fn options_of_every_command_stand_anywhere() {
        let wanted = read(&["--addr", "a:1", "--output", "raw", "--hex", "get", "00"]);
        assert!(wanted.is_ok());
        assert_eq!(read(&["get", "--hex", "00", "--output", "raw", "--addr", "a:1"]), wanted);
        assert_eq!(read(&["--addr", "b:2", "--hex", "get", "--addr", "a:1", "00", "--output", "raw", "--hex"]), wanted);
        let dashed = read(&["put", "--", "--hex", "--output"]).expect("after -- nothing is an option");
        let Command::Put(put) = &dashed.command else { panic!("it is a put") };
        assert_eq!((put.key.as_str(), put.value.as_deref(), dashed.hex), ("--hex", Some("--output"), false));
    }

    #[test]
    fn a_dash_is_a_file_and_keeps_its_place() {
        let put = |words: &[&str]| match read(words).expect("it is right").command {
            Command::Put(put) => (put.key, put.value, put.from),
            other => panic!("it is a put: {other:?}"),
        };
        assert_eq!(put(&["put", "-", "v"]), ("-".into(), Some("v".into()), None));
        assert_eq!(put(&["put", "k", "-"]), ("k".into(), Some("-".into()), None));
        assert_eq!(put(&["put", "k", "--from", "-"]), ("k".into(), None, Some("-".into())));
        let export = read(&["export", "-", "--prefix", "a"]).expect("it is right").command;
        assert_eq!(export, Command::Export(Export { prefix: Some("a".into()), file: "-".into() }));
    }

    #[test]
    fn a_command_of_a_group_keeps_its_place() {
        let cluster = |words: &[&str]| match read(words).expect("it is right").command {
            Command::Cluster(Cluster { command }) => command,
            other => panic!("it is of the cluster: {other:?}"),
        };
        let json = ["--output", "json"];
        assert_eq!(cluster(&["cluster", "status"]), ClusterCommand::Status(ClusterStatus {}));
        for words in [["--output", "json", "cluster", "status"], ["cluster", "status", "--output", "json"]] {
            assert_eq!(cluster(&words), ClusterCommand::Status(ClusterStatus {}));
        }
        assert_eq!(cluster(&[&["cluster"], &json[..], &["status"]].concat()), cluster(&["cluster", "status"]));
        let add = ClusterCommand::Add(ClusterAdd { address: "h:1".into() });
        assert_eq!(cluster(&["cluster", "add", "h:1"]), add);
        assert_eq!(cluster(&["cluster", "transfer"]), ClusterCommand::Transfer(ClusterTransfer { node: None }));
        assert_eq!(cluster(&["cluster", "transfer", "2"]), ClusterCommand::Transfer(ClusterTransfer { node: Some(2) }));
        assert_eq!(cluster(&["cluster", "remove", "3"]), ClusterCommand::Remove(ClusterRemove { node: 3 }));
        assert!(read(&["cluster"]).is_err() && read(&["cluster", "dance"]).is_err());
        assert!(read(&["cluster", "remove", "n3"]).is_err() && read(&["cluster", "remove"]).is_err());
        assert!(read(&["get", "cluster"]).is_ok(), "a key may be called so");
    }

    #[test]
    fn every_option_that_takes_a_value_is_known() {
        let commands = ["", "ping", "status", "get", "put", "delete", "scan", "import", "export", "backup", "version"];
        let of_groups = ["cluster", "cluster status", "cluster add", "cluster remove", "cluster transfer"];
        for command in commands.into_iter().chain(of_groups).chain(["cluster promote"]) {
            let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
            let help = Arguments::from_args(&["quantactl"], &words).expect_err("it is help").output;
            let usage = help.lines().next().expect("it has a usage");
            for part in usage
                .split('[')
                .filter(|part| part.starts_with("--") && part.contains(" <") && !part.starts_with("--]"))
            {
                let name = part.split(' ').next().expect("it has a name");
                assert!(SHARED_VALUED.contains(&name) || VALUED.contains(&name), "{name} of {command}");
            }
        }
    }

    #[test]
    fn wrong_words_say_what_is_allowed() {
        assert!(read(&["--output", "xml", "ping"]).expect_err("no xml").contains("table, json and raw"));
        assert!(read(&["--timeout", "0", "ping"]).expect_err("no time").contains("0.001 to 86400"));
        assert!(read(&["--timeout", "inf", "ping"]).is_err());
        assert_eq!(read(&["--timeout", "1.5", "ping"]).expect("it is").timeout.0, Duration::from_millis(1500));
        assert!(read(&["--addr"]).is_err());
        assert!(read(&[]).is_err());
    }
}
