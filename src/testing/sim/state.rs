//! The state of a simulation, behind one lock.
//!
//! No future is polled or dropped and no waker called or dropped under the lock: they run code that takes it. What is to be
//! woken or dropped is put by, and [`Locked`] does it once the lock is free.

use super::{
    DiskOptions, LAG_MAX, SimOptions,
    clock::Clock,
    disk::between,
    network::Network,
    tasks::{TaskId, Tasks},
    timers::{Event, Timers},
    trace::Trace,
};
use crate::{
    env::{Env, Moment},
    testing::{files::SimulatedFiles, generators::Random},
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    fmt,
    ops::{Add, Deref, DerefMut},
    sync::Arc,
    task::Waker,
    time::Duration,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A point of the simulation's time, in nanoseconds since its start. No host sees it: each has a clock of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub(super) u64);

impl Time {
    /// Nothing happens then.
    pub(super) const NEVER: Time = Time(u64::MAX);
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Names a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostId(pub(super) usize);

/// The host that the test itself runs on.
pub(super) const TEST: HostId = HostId(0);

/// What there is to know of a host.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) clock: Clock,
    pub(super) wall_offset_ms: i64,
    pub(super) random: Random,
    /// `None` once the simulation has ended.
    pub(super) env: Option<Env>,
    pub(super) files: Arc<SimulatedFiles>,
    pub(super) disk: DiskOptions,
    /// Whether a process runs on it.
    pub(super) is_up: bool,
    /// Whether its kernel answers.
    pub(super) is_reachable: bool,
    pub(super) is_paused: bool,
    /// Until when it is in a call that blocks.
    pub(super) busy_until: Time,
    /// Tasks that are ready and must wait for their host.
    pub(super) set_aside: Vec<TaskId>,
    pub(super) next_port: u16,
}

pub(super) struct State {
    pub(super) now: Time,
    pub(super) options: SimOptions,
    pub(super) timers: Timers,
    pub(super) tasks: Tasks,
    pub(super) hosts: Vec<Machine>,
    pub(super) network: Network,
    pub(super) trace: Trace,
    /// Which tasks lag, and for how long.
    lag: Random,
    /// Nothing runs any more.
    pub(super) has_ended: bool,
    pub(super) woken: Vec<Waker>,
    pub(super) dropped: Vec<Waker>,
}

/// A generator of its own for each use, so that one more draw here changes nothing there.
pub(super) fn stream(seed: u64, of: &str) -> Random {
    Random::new(xxh3_64_with_seed(of.as_bytes(), seed))
}

impl State {
    pub(super) fn host(&mut self, host: HostId) -> &mut Machine {
        &mut self.hosts[host.0]
    }

    /// The host of that name.
    pub(super) fn find(&self, name: &str) -> Option<HostId> {
        self.hosts.iter().position(|host| host.name == name).map(HostId)
    }

    /// What the host's clock shows. A call that blocks has taken its time when it returns.
    pub(super) fn moment(&self, host: HostId) -> Moment {
        let host = &self.hosts[host.0];
        host.clock.at(self.now.max(host.busy_until))
    }

    /// The host does nothing else for so long: a call that blocks, a process that is stopped.
    pub(super) fn occupy(&mut self, host: HostId, duration: Duration) {
        let until = self.now.max(self.hosts[host.0].busy_until) + duration;
        self.host(host).busy_until = until;
        self.timers.set(until, Event::Free(host));
    }

    /// Sets aside what cannot run because of its host, or lags.
    pub(super) fn must_wait(&mut self, task: TaskId, host: HostId) -> bool {
        let now = self.now;
        let lag_once_in = self.options.lag_once_in;
        if lag_once_in > 0 && host != TEST && self.lag.once_in(lag_once_in) {
            let until = now + between(&mut self.lag, Duration::ZERO, LAG_MAX);
            self.timers.set(until, Event::Ready(task));
            return true;
        }
        let host = self.host(host);
        let must = host.is_paused || host.busy_until > now;
        if must {
            host.set_aside.push(task);
        }
        must
    }

    /// Lets those run that waited for their host, if they may.
    pub(super) fn free(&mut self, host: HostId) {
        let host = &mut self.hosts[host.0];
        if !host.is_paused && host.busy_until <= self.now {
            self.tasks.ready_again(host.set_aside.drain(..));
        }
    }

    /// Puts a waker in the place of another.
    pub(super) fn replace(place: &mut Option<Waker>, by: &Waker, dropped: &mut Vec<Waker>) {
        if !place.as_ref().is_some_and(|waker| waker.will_wake(by)) {
            dropped.extend(place.replace(by.clone()));
        }
    }

    pub(super) fn drop_later(&mut self, waker: impl IntoIterator<Item = Waker>) {
        self.dropped.extend(waker);
    }

    /// Time goes on to the next thing that happens, but not beyond `limit`. `false` if nothing does until then.
    pub(super) fn advance(&mut self, limit: Time) -> bool {
        let Some(at) = self.timers.next_at().filter(|at| *at <= limit) else {
            if limit < Time::NEVER {
                self.now = self.now.max(limit);
            }
            return false;
        };
        self.now = self.now.max(at);
        while let Some(event) = self.timers.due(self.now) {
            match event {
                Event::Wake(waker) => self.woken.push(waker),
                Event::Ready(task) => self.tasks.ready_again([task]),
                Event::Free(host) => self.free(host),
                Event::Arrive(connection, side) => self.arrive(connection, side),
                Event::GiveUp(connection, side, since) => self.give_up(connection, side, since),
            }
        }
        true
    }
}

/// What is left when a simulation ends.
pub(super) struct Parts {
    _timers: Timers,
    _network: Network,
    _hosts: Vec<Option<Env>>,
}

impl State {
    /// Gives away what holds wakers and environments, and with them what holds this.
    pub(super) fn take_parts(&mut self) -> Parts {
        let network = Network::new(Random::new(0), self.options.network);
        Parts {
            _timers: std::mem::take(&mut self.timers),
            _network: std::mem::replace(&mut self.network, network),
            _hosts: self.hosts.iter_mut().map(|host| host.env.take()).collect(),
        }
    }
}

pub(super) struct Core {
    pub(super) seed: u64,
    state: Mutex<State>,
}

impl Core {
    pub(super) fn new(seed: u64, options: SimOptions) -> Core {
        let state = State {
            now: Time(0),
            timers: Timers::default(),
            tasks: Tasks::new(stream(seed, "the order of tasks")),
            hosts: Vec::new(),
            network: Network::new(stream(seed, "the network"), options.network),
            trace: Trace::new(options.trace_lines_max),
            lag: stream(seed, "tasks that lag"),
            options,
            has_ended: false,
            woken: Vec::new(),
            dropped: Vec::new(),
        };
        Core { seed, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked(Some(self.state.lock()))
    }
}

/// The state, for as long as this lives.
pub(super) struct Locked<'a>(Option<MutexGuard<'a, State>>);

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        self.0.as_ref().expect("only dropping takes it")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0.as_mut().expect("only dropping takes it")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let (woken, dropped) = (std::mem::take(&mut self.woken), std::mem::take(&mut self.dropped));
        self.0 = None;
        woken.into_iter().for_each(Waker::wake);
        drop(dropped);
    }
}
