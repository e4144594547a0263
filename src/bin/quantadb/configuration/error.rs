//! Why a configuration is refused: where, and what is allowed instead.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why there is no configuration to run with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The file is not a configuration.
    #[error("{}: is longer than {bytes_max} bytes, which no configuration is", path.display())]
    TooLong { path: PathBuf, bytes_max: u64 },
    /// Something in the file is wrong.
    #[error("{}:{line}:{column}: {}{what}", path.display(), place(field))]
    Invalid { path: PathBuf, line: usize, column: usize, field: String, what: String },
    /// A flag's value is wrong.
    #[error("{flag}: {what}")]
    Flag { flag: &'static str, what: String },
    /// A field does not go with the others.
    #[error("{}`{field}`: {what}", path.as_deref().map(prefix).unwrap_or_default())]
    Whole { path: Option<PathBuf>, field: &'static str, what: String },
    /// Two answers to one question.
    #[error("--memory and --data-dir exclude each other: data lies in memory or in a directory")]
    MemoryOrDirectory,
}

fn place(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("`{field}`: ") }
}

fn prefix(path: &Path) -> String {
    format!("{}: ", path.display())
}

impl Error {
    /// An error of the RON reader, in our words where the reader's are not plain.
    pub(super) fn spanned(path: &Path, field: &str, error: &ron::error::SpannedError) -> Error {
        let field = if field == "." { "" } else { field };
        let names = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let what = match &error.code {
            ron::Error::NoSuchStructField { expected, found, .. } => {
                format!("there is no field `{found}`; allowed are {}", names(expected))
            }
            ron::Error::NoSuchEnumVariant { expected, found, .. } => {
                format!("there is no `{found}`; allowed are {}", names(expected))
            }
            ron::Error::DuplicateStructField { field, .. } => format!("the field `{field}` stands here twice"),
            other => other.to_string(),
        };
        Error::Invalid {
            path: path.to_owned(),
            line: error.span.end.line,
            column: error.span.end.col,
            field: field.to_owned(),
            what,
        }
    }
}
