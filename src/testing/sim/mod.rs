//! A whole cluster in one thread, on time that does not pass by itself, with every fault by seed.
//!
//! A [`Sim`] runs tasks. Each belongs to a [`Host`], a simulated machine: with an [`Env`] of its own, whose clock may run
//! too fast, whose disk outlives it, and whose connections go over a network that can be cut. Which of several ready tasks
//! runs next, how long bytes are under way, what a power cut leaves: everything comes from one seed, and the same seed gives
//! the same run, which [`Sim::trace_hash`] tells in 64 bits.
//!
//! ```
//! use quantadb::{env::accept, testing::sim::Sim};
//! use std::time::Duration;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! let sim = Sim::new(7);
//! let (server, client) = (sim.host("n1"), sim.host("c1"));
//! let listener = server.listen(7420).unwrap();
//! server.spawn("echo", async move {
//!     let (mut socket, _peer) = accept(&listener).await.unwrap();
//!     let mut byte = [0];
//!     socket.read_exact(&mut byte).await.unwrap();
//!     socket.write_all(&byte).await.unwrap();
//! });
//! let env = client.env();
//! let echoed = client.spawn("asks", async move {
//!     let mut socket = env.connect("n1:7420").await.unwrap();
//!     socket.write_all(b"!").await.unwrap();
//!     socket.read_u8().await.unwrap()
//! });
//! assert_eq!(sim.block_on(echoed), Ok(b'!'));
//! assert!(sim.now() < Duration::from_millis(200));
//! ```
//!
//! # Time
//!
//! Running a task takes no time. When none is ready, time jumps to the next timer. A call that blocks, which is a sync of a
//! file, occupies its host: the host's clock shows the time after it, nothing else runs there until then, and what is sent
//! after it leaves then. A program that spreads over several threads is slower here than it need be, and never faster.
//!
//! # Order
//!
//! Among the first of the tasks that are ready the seed picks which one runs; none waits for ever. Tasks that one step wakes
//! are put into the order of their ids first, so that it does not matter in which order `tokio::sync::watch` or another
//! library calls wakers. What remains forbidden is `select!` without `biased` and the iteration of a map with random hashes
//! where its order can be seen; the tests compare runs to find these.
//!
//! tokio's channels, locks and combinators work here; its tasks, timers, sockets and files do not, and panic. Everything
//! under test goes through its `Env`; what is called without one, as openraft's runtime is, finds the host's through
//! [`env::current`](crate::env::current).
//!
//! # When something goes wrong
//!
//! A task that panics ends the run: the panic goes on to whoever drives it, with the host, the time, the seed and the last
//! events. So does a million polls without any time passing, a test that waits for what cannot happen, and one that waits
//! for longer than [`SimOptions::time_max`]. Nothing outlives a `Sim`: its tasks are dropped with it.

mod clock;
mod disk;
mod environment;
mod executor;
mod host;
mod network;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod timers;
mod trace;

pub use disk::DiskOptions;
pub use host::{Host, Running};
pub use network::{NetworkOptions, SimulatedListener};

use crate::env::Env;
use executor::{Ended, Executor};
use state::{Core, HostId, TEST};
use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Duration};

/// What a simulation is told when it is made.
#[derive(Clone, Copy, Debug)]
pub struct SimOptions {
    /// How the network behaves.
    pub network: NetworkOptions,
    /// How long disks take.
    pub disk: DiskOptions,
    /// How many of the last events are kept as lines.
    pub trace_lines_max: usize,
    /// For how long a future may be waited for, in the simulation's time.
    pub time_max: Duration,
    /// How many polls may happen at one instant.
    pub polls_max: u64,
    /// One in so many polls of a task comes up to [`LAG_MAX`] later, as if its thread had been taken off the processor; 0 for
    /// none.
    pub lag_once_in: u64,
    /// [`Env::rarely`] says yes once in so many times; 0 for never.
    pub rare_once_in: u64,
}

/// How much later a task runs that lags.
pub const LAG_MAX: Duration = Duration::from_millis(40);

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            network: NetworkOptions::default(),
            disk: DiskOptions::default(),
            trace_lines_max: 40,
            time_max: Duration::from_secs(3600),
            polls_max: 1_000_000,
            lag_once_in: 0,
            rare_once_in: 0,
        }
    }
}

/// A simulation. Everything that runs in it ends when it is dropped.
pub struct Sim {
    executor: Executor,
}

impl Sim {
    /// A simulation whose every choice comes from this seed.
    #[must_use]
    pub fn new(seed: u64) -> Sim {
        Sim::with(seed, SimOptions::default())
    }

    /// The same with options.
    #[must_use]
    pub fn with(seed: u64, options: SimOptions) -> Sim {
        let core = Arc::new(Core::new(seed, options));
        let test = core.host("test");
        assert!(test.id == TEST, "it is the first");
        Sim { executor: Executor::new(core) }
    }

    fn core(&self) -> &Arc<Core> {
        &self.executor.core
    }

    /// The host of that name, made if there is none. The test itself runs on a host of the name `test`.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        self.core().host(name)
    }

    /// The environment of the test's own host.
    #[must_use]
    pub fn env(&self) -> Env {
        self.core().host("test").env()
    }

    /// The network, for whoever cuts it.
    #[must_use]
    pub fn network(&self) -> Network {
        Network { core: Arc::clone(self.core()) }
    }

    /// How long the simulation has been going on.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.core().lock().now.0)
    }

    /// Runs everything until `future` is done, which runs on the test's own host.
    ///
    /// # Panics
    /// See the module.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut result = None;
        let limit = self.core().lock().options.time_max;
        let ended = self.executor.drive(limit, &mut |cx| {
            let polled = future.as_mut().poll(cx);
            let is_done = polled.is_ready();
            if let Poll::Ready(value) = polled {
                result = Some(value);
            }
            is_done
        });
        match result {
            Some(result) => result,
            None if ended == Ended::TimeIsUp => self.executor.fail(&format!("not done within {limit:?}"), None),
            None => self.executor.fail("nothing is left that could happen", None),
        }
    }

    /// Runs everything for so long.
    ///
    /// # Panics
    /// See the module.
    pub fn run_for(&self, duration: Duration) {
        self.run_until(duration, || false);
    }

    /// Runs everything until `predicate` holds, which is asked after every step, and for so long at most. Whether it held.
    ///
    /// # Panics
    /// See the module.
    pub fn run_until(&self, duration: Duration, mut predicate: impl FnMut() -> bool) -> bool {
        self.executor.run_until(duration, &mut predicate) == Ended::Done
    }

    /// Adds a line of the test's own to the trace.
    pub fn note(&self, text: &str) {
        self.network().note(text);
    }

    /// A hash of everything that has happened. Two runs of one seed that differ here have something in them that does not
    /// come from the seed.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core().lock().trace.hash()
    }

    /// The last events, as many as the options say.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.core().lock().trace.lines()
    }
}

/// The network between the hosts of a simulation, as the test sees it. A handle: tasks may have one.
#[derive(Clone)]
pub struct Network {
    core: Arc<Core>,
}

impl Network {
    fn id(&self, name: &str) -> HostId {
        self.core.lock().find(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Nothing gets from `from` to `to` any more; the other way is as it was.
    ///
    /// # Panics
    /// If there is no such host, here and below.
    pub fn cut(&self, from: &str, to: &str) {
        let (from, to) = (self.id(from), self.id(to));
        self.core.lock().cut(from, to);
    }

    /// What `from` sends gets to `to` again.
    pub fn mend(&self, from: &str, to: &str) {
        let (from, to) = (self.id(from), self.id(to));
        self.core.lock().mend(from, to);
    }

    /// Cuts both ways between every host of one group and every host of the other. A host that is in neither reaches all:
    /// with one such there is a bridge.
    pub fn partition(&self, one: &[&str], other: &[&str]) {
        for (left, right) in one.iter().flat_map(|left| other.iter().map(move |right| (left, right))) {
            self.cut(left, right);
            self.cut(right, left);
        }
    }

    /// Mends everything.
    pub fn heal(&self) {
        self.core.lock().mend_all();
    }

    /// Resets all connections between two hosts: both ends fail at once.
    pub fn reset(&self, one: &str, other: &str) {
        let (one, other) = (self.id(one), self.id(other));
        self.core.lock().reset(one, other);
    }

    /// From now on it behaves so.
    pub fn set_options(&self, options: NetworkOptions) {
        self.core.lock().network.options = options;
    }

    /// Adds a line to the trace of the simulation.
    pub fn note(&self, text: &str) {
        let mut state = self.core.lock();
        let now = state.now;
        state.trace.event(now, format_args!("note: {text}"));
    }
}
