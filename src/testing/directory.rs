//! Directories that are gone when the test ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// A new, empty directory under the system's temporary one, removed with all in it when this is dropped.
///
/// With `QUANTADB_KEEP_DIRECTORIES` in the environment it stays, and its path is printed.
#[derive(Debug)]
pub struct TemporaryDirectory {
    path: PathBuf,
}

impl TemporaryDirectory {
    /// Makes one; `name` is part of its path, so that a person can tell them apart.
    #[must_use]
    pub fn new(name: &str) -> TemporaryDirectory {
        static MADE: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("quantadb-{name}-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return TemporaryDirectory { path },
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{} cannot be made: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if std::env::var_os("QUANTADB_KEEP_DIRECTORIES").is_some() {
            println!("kept {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_own_and_goes_with_all_in_it() {
        let (first, second) = (TemporaryDirectory::new("test"), TemporaryDirectory::new("test"));
        assert_ne!(first.path(), second.path());
        fs::create_dir(first.path().join("inner")).expect("it can be written");
        fs::write(first.path().join("inner/file"), b"x").expect("it can be written");
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
