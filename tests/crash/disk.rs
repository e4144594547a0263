//! Where the data lies: a directory, or a disk of its own that can lose power.
//!
//! The disk is an ext4 file system in a file, on a loop device. Its power is cut with the file system's own shutdown call
//! in its hardest form, which writes nothing more, neither data nor journal: what had not been synced is gone, as far as
//! the kernel had not written it by itself. The next mount replays the journal, as after a real cut.
//!
//! What that does not simulate: a drive that acknowledges a flush and keeps the data in its volatile cache, one that tears
//! a sector, and writes that reach the drive in another order. Those are left to the log's model test, whose simulated
//! files lose any subset of unsynced sectors.

use super::process::{Ended, Server, must, run, text};
use quantadb::testing::directory::TemporaryDirectory;
use std::path::{Path, PathBuf};

/// `EXT4_IOC_SHUTDOWN`, and its flag that writes nothing more.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
                        fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// See the module.
pub enum Place {
    /// It survives whatever kills the process.
    Directory(TemporaryDirectory),
    /// It loses power.
    Disk(Disk),
}

impl Place {
    pub fn directory() -> Place {
        Place::Directory(TemporaryDirectory::new("crash"))
    }

    pub fn disk(megabytes: u64) -> Place {
        Place::Disk(Disk::new(megabytes))
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        match self {
            Place::Directory(directory) => directory.path().join("data"),
            Place::Disk(disk) => disk.mount_point().join("data"),
        }
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        match self {
            Place::Directory(directory) => directory.path().join("log"),
            Place::Disk(disk) => disk.log(),
        }
    }

    /// Ends the server where it stands, and its disk before it, if it has one.
    pub fn cut(&mut self, server: Server) -> Ended {
        match self {
            Place::Directory(_) => server.kill(),
            Place::Disk(disk) => {
                disk.shut_down();
                let ended = server.kill();
                disk.unmount();
                disk.mount();
                ended
            }
        }
    }
}

/// A mounted disk, unmounted when this is dropped.
pub struct Disk {
    directory: TemporaryDirectory,
}

impl Disk {
    /// Makes an empty one.
    ///
    /// # Panics
    /// Where mkfs.ext4 or mount fails: it needs root.
    pub fn new(megabytes: u64) -> Disk {
        let disk = Disk { directory: TemporaryDirectory::new("disk") };
        std::fs::create_dir(disk.mount_point()).expect("it can be made");
        let size = format!("{megabytes}M");
        must("truncate", &["-s", &size, text(&disk.image())]);
        must("mkfs.ext4", &["-q", "-F", "-m", "0", text(&disk.image())]);
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// The log of a server that runs on it, which lies beside it.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// A place on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mount_point().join(name)
    }

    fn mount(&self) {
        must("mount", &["-o", "loop", text(&self.image()), text(&self.mount_point())]);
    }

    fn unmount(&self) {
        must("umount", &[text(&self.mount_point())]);
    }

    fn shut_down(&self) {
        must("python3", &["-c", SHUTDOWN, text(&self.mount_point())]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may have left it busy: then it goes when its last user does.
        if run("umount", &[text(&self.mount_point())]).0 != Some(0) {
            run("umount", &["-l", text(&self.mount_point())]);
        }
    }
}

/// All files under a directory.
pub fn files(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![under.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
