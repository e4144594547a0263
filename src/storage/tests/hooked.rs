//! The operating system's files, with something done before each call that changes any.

use crate::env::{BoxFuture, Env, File, Files, Lock, Moment, Provider, Task};
use parking_lot::Mutex;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

type Hook = Arc<Mutex<dyn FnMut(u64) -> io::Result<()> + Send>>;

struct Hooked {
    outside: Env,
    calls: Arc<AtomicU64>,
    hook: Hook,
}

/// An environment whose changing calls are counted from 1 and handed to `hook` first, which may refuse them.
pub(in crate::storage) fn hooked(hook: impl FnMut(u64) -> io::Result<()> + Send + 'static) -> (Env, Arc<AtomicU64>) {
    let calls = Arc::new(AtomicU64::new(0));
    let hooked = Hooked { outside: Env::real(), calls: Arc::clone(&calls), hook: Arc::new(Mutex::new(hook)) };
    (Env::from_provider(Arc::new(hooked)), calls)
}

/// Copies a directory with all that it holds, as a crash of the process would leave it.
pub(in crate::storage) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be made");
    for entry in fs::read_dir(from).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("it can be copied");
        }
    }
}

impl Hooked {
    fn call(&self) -> io::Result<()> {
        call(&self.calls, &self.hook)
    }
}

fn call(calls: &AtomicU64, hook: &Hook) -> io::Result<()> {
    let mut hook = hook.lock();
    hook(calls.fetch_add(1, Ordering::SeqCst) + 1)
}

impl Provider for Hooked {
    fn now(&self) -> Moment {
        self.outside.now()
    }
    fn wall_ms(&self) -> u64 {
        self.outside.wall_ms()
    }
    fn random(&self, bytes: &mut [u8]) {
        self.outside.random(bytes);
    }
    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        self.outside.sleep_until(when)
    }
    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.outside.spawn(name, future)
    }
    fn files(&self) -> &dyn Files {
        self
    }
}

impl Files for Hooked {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.outside.files().read(path)
    }
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn File>> {
        if create {
            self.call()?;
        }
        let file = self.outside.files().open(path, create)?;
        Ok(Box::new(HookedFile(file, Arc::clone(&self.calls), Arc::clone(&self.hook))))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.outside.files().list(directory)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.outside.files().create_directory(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        self.outside.files().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.outside.files().remove(path)
    }
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.outside.files().remove_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        self.outside.files().sync_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.outside.files().lock(path)
    }
    fn available(&self, path: &Path) -> io::Result<u64> {
        self.outside.files().available(path)
    }
}

struct HookedFile(Box<dyn File>, Arc<AtomicU64>, Hook);

impl File for HookedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        call(&self.1, &self.2)?;
        self.0.write_at(bytes, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        call(&self.1, &self.2)?;
        self.0.set_length(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        call(&self.1, &self.2)?;
        self.0.sync_data()
    }
}
