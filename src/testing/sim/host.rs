//! A simulated machine, as the test sees it.

use super::{
    clock::Clock,
    disk::{Disk, DiskOptions, between},
    environment::HostEnv,
    network::{CLIENT_PORT_MIN, Farewell, SimulatedListener},
    state::{Core, HostId, Locked, Machine, State, Time, stream},
};
use crate::{
    env::{self, Env, Moment, TaskError},
    testing::files::SimulatedFiles,
};
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;

/// Clocks of hosts show nothing in common when a simulation begins.
const CLOCK_START_MAX: Duration = Duration::from_secs(3600);

/// A simulated machine, with one process on it that comes and goes. A handle: clones are of the same machine.
#[derive(Clone)]
pub struct Host {
    pub(super) core: Arc<Core>,
    pub(super) id: HostId,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.name()).finish()
    }
}

impl Core {
    /// The host of that name, made if there is none.
    pub(super) fn host(self: &Arc<Core>, name: &str) -> Host {
        let mut state = self.lock();
        let id = state.find(name).unwrap_or_else(|| {
            let id = HostId(state.hosts.len());
            let mut random = stream(self.seed, name);
            let start = between(&mut random, Duration::ZERO, CLOCK_START_MAX);
            let files = SimulatedFiles::new();
            let disk = Disk::new(self, id, &files);
            let options = state.options.disk;
            state.hosts.push(Machine {
                name: name.to_owned(),
                clock: Clock::new(Moment(0) + start),
                wall_offset_ms: 0,
                random,
                env: Some(Env::from_provider(Arc::new(HostEnv { core: Arc::clone(self), host: id, disk }))),
                files,
                disk: options,
                is_up: true,
                is_reachable: true,
                is_paused: false,
                busy_until: Time(0),
                set_aside: Vec::new(),
                next_port: CLIENT_PORT_MIN,
            });
            id
        });
        Host { core: Arc::clone(self), id }
    }
}

impl Host {
    fn lock(&self) -> Locked<'_> {
        self.core.lock()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.lock().host(self.id).name.clone()
    }

    /// The address of one of its ports, as [`Env::connect`] takes it.
    #[must_use]
    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.name())
    }

    /// Its environment: the same through all its lives.
    ///
    /// # Panics
    /// If the simulation has ended.
    #[must_use]
    pub fn env(&self) -> Env {
        self.lock().host(self.id).env.clone().expect("the simulation has not ended")
    }

    /// Its disk, which outlives its processes.
    #[must_use]
    pub fn files(&self) -> Arc<SimulatedFiles> {
        Arc::clone(&self.lock().host(self.id).files)
    }

    /// Runs a future as a task of this host, which owns it: it goes on when the result is dropped, and ends when the host
    /// crashes.
    ///
    /// # Panics
    /// If the host is down.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Running<T> {
        assert!(self.is_up(), "{} is down", self.name());
        let (sender, result) = oneshot::channel();
        let task = async move {
            // Whoever does not wait for the result does not want it.
            let _ = sender.send(future.await);
        };
        self.core.spawn(self.id, name, Box::pin(task)).detach();
        Running { result }
    }

    /// Takes a port, for as long as the result lives and the host does not crash.
    ///
    /// # Errors
    /// `AddrInUse` if the port is taken, `NetworkDown` if the host is down.
    pub fn listen(&self, port: u16) -> io::Result<SimulatedListener> {
        self.core.listen(self.id, port)
    }

    /// Whether a process can run on it: it has not crashed, or was started again.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().host(self.id).is_up
    }

    /// How many tasks it has.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.lock().tasks.entries.values().filter(|entry| entry.host == self.id).count()
    }

    /// The process dies: all its tasks end where they stand, at whichever await. What it wrote to files stays. Its
    /// connections are closed, or reset, or the machine hangs and nothing more is heard of it, as the seed says. A task that
    /// calls this for its own host runs to its next await.
    pub fn crash(&self) {
        let farewell = match self.lock().network.random.below(3) {
            0 => Farewell::Close,
            1 => Farewell::Reset,
            _ => Farewell::Silence,
        };
        self.die(farewell);
        self.files().restart();
    }

    /// The machine loses power: as [`Host::crash`], but of what was not synced only a part survives, as the seed says, and
    /// nothing more is heard of it.
    pub fn cut_power(&self) {
        self.die(Farewell::Silence);
        let seed = self.lock().host(self.id).random.bits();
        self.files().crash(seed);
    }

    fn die(&self, farewell: Farewell) {
        // Destructors run here, as they would not: what they want to write or to send must not happen.
        self.files().cut_power();
        let (tasks, env) = {
            let mut state = self.lock();
            let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
            let host = &mut hosts[self.id.0];
            host.is_up = false;
            host.is_reachable = farewell != Farewell::Silence;
            host.is_paused = false;
            host.set_aside.clear();
            trace.event(now, format_args!("{} crashes: {farewell:?}", host.name));
            let env = host.env.clone();
            state.drop_connections(self.id, farewell);
            state.host(self.id).busy_until = now;
            (state.tasks.take_of(self.id), env)
        };
        let _entered = env.as_ref().map(env::enter);
        drop(tasks);
    }

    /// Starts the machine again, with nothing running on it. Nothing happens if it is up.
    pub fn start(&self) {
        let mut state = self.lock();
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        let host = &mut hosts[self.id.0];
        if !host.is_up {
            host.is_up = true;
            host.is_reachable = true;
            trace.event(now, format_args!("{} starts", host.name));
            state.answer_again(self.id);
        }
    }

    /// None of its tasks run until [`Host::resume`], as after SIGSTOP; its kernel goes on taking what comes.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Its tasks run again.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, is_paused: bool) {
        let mut state = self.lock();
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        let host = &mut hosts[self.id.0];
        host.is_paused = is_paused;
        let what = if is_paused { "pauses" } else { "resumes" };
        trace.event(now, format_args!("{} {what}", host.name));
        state.free(self.id);
    }

    /// None of its tasks run for so long: a slow disk, a machine that is short of memory.
    pub fn stall(&self, duration: Duration) {
        let mut state = self.lock();
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        trace.event(now, format_args!("{} stalls for {duration:?}", hosts[self.id.0].name));
        state.occupy(self.id, duration);
    }

    /// From now on its disk takes so long.
    pub fn set_disk(&self, options: DiskOptions) {
        self.lock().host(self.id).disk = options;
    }

    /// From now on its monotonic clock runs so many parts in a million too fast, or too slow if negative. Timers that are
    /// set fire no earlier than at their moment.
    ///
    /// # Panics
    /// If the clock would stand still or go back.
    pub fn set_drift(&self, parts_per_million: i32) {
        let mut state = self.lock();
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        let host = &mut hosts[self.id.0];
        host.clock.set_drift(now, parts_per_million);
        trace.event(now, format_args!("{} drifts by {parts_per_million}", host.name));
    }

    /// Its wall clock jumps by so many milliseconds.
    pub fn jump_wall_clock(&self, milliseconds: i64) {
        let mut state = self.lock();
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        let host = &mut hosts[self.id.0];
        host.wall_offset_ms = host.wall_offset_ms.saturating_add(milliseconds);
        trace.event(now, format_args!("the wall clock of {} jumps by {milliseconds} ms", host.name));
    }
}

/// A task of a host, for whoever wants its result. Dropping it does nothing to the task.
pub struct Running<T> {
    result: oneshot::Receiver<T>,
}

impl<T> Future for Running<T> {
    type Output = Result<T, TaskError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map_err(|_| TaskError::Aborted)
    }
}
