//! Where a run lies, and stays if it fails: data directories, logs, histories.

use quantadb::testing::history::History;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A directory that stays, and is named, unless it is discarded because all went well.
#[derive(Debug)]
pub struct Evidence {
    path: PathBuf,
    discarded: bool,
}

impl Evidence {
    pub fn new(name: &str) -> Evidence {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("quantadb-cluster-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{} cannot be made: {error}", path.display()));
        Evidence { path, discarded: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a history in words.
    pub fn keep_history(&self, history: &History) {
        let mut text = String::new();
        for (key, version, value) in &history.initial {
            let _ = writeln!(text, "at first {} = {} at version {version}", key.escape_ascii(), value.escape_ascii());
        }
        for (at, transaction) in history.transactions.iter().enumerate() {
            let _ = writeln!(text, "#{at} {transaction}");
        }
        self.keep("history.txt", &text);
    }

    /// Keeps a text.
    pub fn keep(&self, name: &str, text: &str) {
        if let Err(error) = fs::write(self.path.join(name), text) {
            eprintln!("{name} could not be kept: {error}");
        }
    }

    /// Nobody will want to look at it.
    pub fn discard(mut self) {
        self.discarded = true;
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if !self.discarded || std::env::var_os("QUANTADB_KEEP_DIRECTORIES").is_some() {
            eprintln!("data, logs and histories are kept in {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}
