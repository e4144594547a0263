//! Why bytes are not a backup.

use super::format::FORMAT;
use std::io;

/// What is wrong with a file, and at which byte. Reading it again does not help, unless it could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin as a backup does.
    #[error("byte 0: not the beginning of a backup")]
    Stranger,
    /// It was written by a later program.
    #[error("byte 8: the file has format {0}; this program reads format {FORMAT}")]
    Format(u32),
    /// It ends too early.
    #[error("byte {offset}: the file ends within {part}")]
    Truncated {
        /// Where it ends.
        offset: u64,
        /// What it ends within.
        part: &'static str,
    },
    /// Something in it is not what was written.
    #[error("byte {offset}: {what}")]
    Damaged {
        /// Where that begins which is not right: a header, a block, a row.
        offset: u64,
        /// What is not right.
        what: &'static str,
    },
    /// It cannot be read.
    #[error("byte {offset}: the file cannot be read")]
    Unreadable {
        /// How far it could be read.
        offset: u64,
        /// Why not further.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The byte of the file at which it stands.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Error::Stranger => 0,
            Error::Format(_) => 8,
            Error::Truncated { offset, .. } | Error::Damaged { offset, .. } | Error::Unreadable { offset, .. } => {
                *offset
            }
        }
    }
}
