//! The file that a backup is written to: it appears under its name when it is whole, or not at all.
//!
//! Until then it is `FILE.partial`, locked, so that two backups to one name do not write over each other. It is synced
//! before it gets its name, and the name after it; dropped before that, it is removed.

use crate::env::{Env, File, Lock};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is one of this name, and it was not asked for that it be replaced.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// Another backup to this name is under way.
    #[error("{} is being written by another process", .0.display())]
    Busy(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file, or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file in the making; write to it, then [`Target::publish`].
pub struct Target {
    env: Env,
    path: PathBuf,
    partial: PathBuf,
    replace: bool,
    file: Box<dyn File>,
    length: u64,
    _lock: Box<dyn Lock>,
    published: bool,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TargetError + '_ {
    |source| TargetError::Io { path: path.to_owned(), source }
}

/// Whether something has this name.
fn is_there(env: &Env, path: &Path) -> Result<bool, TargetError> {
    match env.files().open(path, false) {
        Ok(_) => Ok(true),
        // One that may not be written is there all the same.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(TargetError::Io { path: path.to_owned(), source }),
    }
}

impl Target {
    /// Begins `path`, as `path.partial`. Whatever lies there already is refused, unless it is to be replaced.
    pub fn create(env: &Env, path: &Path, replace: bool) -> Result<Target, TargetError> {
        if is_there(env, path)? && !replace {
            return Err(TargetError::Exists(path.to_owned()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let lock = match env.files().lock(&partial) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(TargetError::Busy(partial)),
            Err(source) => return Err(TargetError::Io { path: partial, source }),
        };
        let file = env.files().open(&partial, true).map_err(failed(&partial))?;
        // From here on dropping it removes what it began.
        let target = Target {
            env: env.clone(),
            path: path.to_owned(),
            partial,
            replace,
            file,
            length: 0,
            _lock: lock,
            published: false,
        };
        // One that was left by a process that was killed begins anew.
        target.file.set_length(0).map_err(failed(&target.partial))?;
        Ok(target)
    }

    /// Makes what was written durable and gives it its name.
    pub fn publish(mut self) -> Result<(), TargetError> {
        self.file.sync_data().map_err(failed(&self.partial))?;
        if !self.replace && is_there(&self.env, &self.path)? {
            return Err(TargetError::Exists(self.path.clone()));
        }
        self.env.files().rename(&self.partial, &self.path).map_err(failed(&self.path))?;
        self.published = true;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.env.files().sync_directory(directory).map_err(failed(directory))
    }
}

impl io::Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed is overwritten by the next backup to this name.
            let _ = self.env.files().remove(&self.partial);
        }
    }
}
