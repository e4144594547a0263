//! The outside world: clock, randomness, tasks, files, connections.
//!
//! Everything above this floor reaches time, randomness, threads and files through an [`Env`], so that the same code
//! runs under a simulator: one thread, virtual time, faults by seed. Nothing above names `std::time`, `std::fs`,
//! `std::thread`, `tokio::time` or `tokio::spawn` for these; `tests/tidy.rs` says so.

#[cfg(feature = "testing")]
mod current;
mod files;
mod net;
mod real;

#[cfg(feature = "testing")]
pub use current::{Entered, current, enter};
pub use files::{File, Files, Lock};
pub use net::{Listener, Socket, accept};

use std::{
    fmt,
    future::Future,
    io,
    ops::{Add, Sub},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// A moment on the environment's monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Moment {
    type Output = Duration;
    /// Zero if `earlier` is later.
    fn sub(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A future on the heap.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What an environment provides: the operating system's, or a simulator's.
pub trait Provider: Send + Sync + 'static {
    /// Now, monotonic.
    fn now(&self) -> Moment;
    /// Now, in milliseconds since the Unix epoch. May jump.
    fn wall_ms(&self) -> u64;
    /// Fills `bytes` with unpredictable ones (a simulator: with its seed's).
    fn random(&self, bytes: &mut [u8]);
    /// Completes at `when`.
    fn sleep_until(&self, when: Moment) -> BoxFuture<()>;
    /// Runs a future on its own. The returned task owns it.
    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task;
    /// Runs a future on a thread of its own, for work that blocks or must not wait for other tasks. Aborted, it ends at its
    /// next await. An environment of one thread runs it like any task.
    fn spawn_on_thread(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.spawn(name, future)
    }
    /// The files.
    fn files(&self) -> &dyn Files;
    /// Opens a connection to `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        net::connect(address)
    }
    /// Whether something that may happen, and hardly ever does, happens now. A simulator makes it likely; nobody else does it.
    fn rarely(&self, _what: &'static str) -> bool {
        false
    }
}

/// A handle to the environment; cheap to clone.
#[derive(Clone)]
pub struct Env(Arc<dyn Provider>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

impl Env {
    /// The operating system's clock, randomness and files, and tokio's tasks and timers. Tasks and timers need a tokio
    /// runtime around the caller.
    #[must_use]
    pub fn real() -> Env {
        Env(Arc::new(real::Real::new()))
    }

    /// An environment of the caller's making.
    pub fn from_provider(provider: Arc<dyn Provider>) -> Env {
        Env(provider)
    }

    /// Now, monotonic.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.0.now()
    }

    /// Now, in milliseconds since the Unix epoch. May jump.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.0.wall_ms()
    }

    /// Fills `bytes` with unpredictable ones.
    pub fn random(&self, bytes: &mut [u8]) {
        self.0.random(bytes);
    }

    /// Whether something that may happen at this place, and hardly ever does, happens now: asked where a test would wait too
    /// long for the world to do it by itself. Always `false` outside a simulation.
    #[must_use]
    pub fn rarely(&self, what: &'static str) -> bool {
        self.0.rarely(what)
    }

    /// Eight unpredictable bytes.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.random(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// Completes at `when`.
    pub fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        self.0.sleep_until(when)
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.0.sleep_until(self.now() + duration)
    }

    /// Runs a future on its own. Dropping the task aborts it; awaiting it waits for its end.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        self.0.spawn(name, Box::pin(future))
    }

    /// Runs a future on a thread of its own, where it may block. Dropping the task aborts it at its next await.
    pub fn spawn_on_thread(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        self.0.spawn_on_thread(name, Box::pin(future))
    }

    /// Completes with what `future` gives, or with `None` at `when`.
    pub async fn until<T>(&self, when: Moment, future: impl Future<Output = T>) -> Option<T> {
        let sleep = self.sleep_until(when);
        tokio::select! {
            biased;
            value = future => Some(value),
            () = sleep => None,
        }
    }

    /// Opens a connection to `host:port`. Where the environment is the system's: TCP, without delay.
    pub fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        self.0.connect(address)
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &dyn Files {
        self.0.files()
    }
}

/// Why a task ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked.
    #[error("task panicked: {0}")]
    Panicked(String),
    /// It was aborted.
    #[error("task was aborted")]
    Aborted,
}

/// A running task and its owner's hold on it: awaited, or aborted when dropped.
#[must_use = "dropping a task aborts it"]
pub struct Task {
    end: BoxFuture<Result<(), TaskError>>,
    abort: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Task {
    /// For providers: `end` completes when the task does, `abort` ends it early.
    pub fn new(end: BoxFuture<Result<(), TaskError>>, abort: impl FnOnce() + Send + Sync + 'static) -> Task {
        Task { end, abort: Some(Box::new(abort)) }
    }

    /// Ends the task at its next await.
    pub fn abort(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }

    /// Lets the task run on without an owner; only for what ends by itself.
    pub fn detach(mut self) {
        self.abort = None;
    }
}

impl Future for Task {
    type Output = Result<(), TaskError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.end.as_mut().poll(cx)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort();
    }
}
