//! Files by position: what a log, a base and a configuration need, and no more.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The files of an environment. Errors are the operating system's.
pub trait Files: Send + Sync {
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Opens a file for reading and writing, made with mode 0600 if `create`.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>>;
    /// Names of what lies in a directory, sorted.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes a directory and those above it, with mode 0700.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory, which is empty.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock of a file, made if it is not there, for as long as the result lives; an error of kind `WouldBlock`
    /// if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Bytes that may still be written to the file system of `path`.
    fn available(&self, path: &Path) -> io::Result<u64>;
}

/// A lock, held until it is dropped.
pub trait Lock: Send + Sync {}

/// An open file.
pub trait File: Send + Sync {
    /// Fills `bytes` from `offset`; fewer bytes there are an error.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes what was written durable, and its length.
    fn sync_data(&self) -> io::Result<()>;
}

/// The operating system's files.
pub(super) struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        let file =
            fs::OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)?;
        Ok(Box::new(file))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(LockedFile { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    #[cfg(not(feature = "full"))]
    fn available(&self, _path: &Path) -> io::Result<u64> {
        // A client stores nothing, and does without the crate that asks the system.
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(feature = "full")]
    fn available(&self, path: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(path)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}

/// The kernel lets go of the lock when the file is closed, and so when the process dies.
struct LockedFile {
    _file: fs::File,
}

impl Lock for LockedFile {}

impl File for fs::File {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_what_their_names_say() {
        let directory = std::env::temp_dir().join(format!("quantadb-files-{}", std::process::id()));
        let files = RealFiles;
        files.create_directory(&directory).expect("the temporary directory can be written");
        let path = directory.join("a");
        assert!(files.open(&path, false).is_err());
        let file = files.open(&path, true).expect("it is created");
        file.write_at(b"hello", 2).expect("it is written");
        assert_eq!(file.length().expect("it has a length"), 7);
        let mut bytes = [0; 5];
        file.read_at(&mut bytes, 2).expect("it is read");
        assert_eq!(&bytes, b"hello");
        assert!(file.read_at(&mut bytes, 4).is_err());
        file.set_length(4).expect("it is cut");
        file.sync_data().expect("it is synced");
        files.rename(&path, &directory.join("b")).expect("it is renamed");
        files.sync_directory(&directory).expect("the directory is synced");
        assert_eq!(files.list(&directory).expect("it is listed"), [PathBuf::from("b")]);
        assert!(files.available(&directory).expect("it has a file system") > 0);
        let lock = files.lock(&path).expect("nobody has it");
        assert_eq!(files.lock(&path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(lock);
        assert!(files.lock(&path).is_ok());
        files.remove(&path).expect("it is removed");
        assert_eq!(files.read(&directory.join("b")).expect("it is read"), b"\0\0he");
        assert!(files.remove_directory(&directory).is_err(), "it is not empty");
        files.remove(&directory.join("b")).expect("it is removed");
        files.remove_directory(&directory).expect("it is empty");
        assert!(files.list(&directory).is_err());
    }
}
