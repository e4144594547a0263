//! The environment of a host.

use super::{
    disk::Disk,
    network::connect,
    state::{Core, HostId, State, Time},
    timers::{Event, TimerId},
};
use crate::env::{BoxFuture, Files, Moment, Provider, Socket, Task, TaskError};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::sync::oneshot;

/// Milliseconds since the Unix epoch when a simulation begins: the second in which ten digits became full of ones and sixes.
const EPOCH_MS: i64 = 1_666_666_666_000;

pub(super) struct HostEnv {
    pub(super) core: Arc<Core>,
    pub(super) host: HostId,
    pub(super) disk: Disk,
}

impl Provider for HostEnv {
    fn now(&self) -> Moment {
        self.core.lock().moment(self.host)
    }

    fn wall_ms(&self) -> u64 {
        let state = self.core.lock();
        let host = &state.hosts[self.host.0];
        let gone_ms = i64::try_from(state.now.max(host.busy_until).0 / 1_000_000).unwrap_or(i64::MAX);
        u64::try_from(EPOCH_MS.saturating_add(gone_ms).saturating_add(host.wall_offset_ms)).unwrap_or(0)
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut state = self.core.lock();
        let random = &mut state.host(self.host).random;
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.bits().to_le_bytes()[..chunk.len()]);
        }
    }

    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        Box::pin(Sleep { core: Arc::clone(&self.core), until: Until::Moment(self.host, when), timer: None })
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.core.spawn(self.host, name, future)
    }

    fn files(&self) -> &dyn Files {
        &self.disk
    }

    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        Box::pin(connect(Arc::clone(&self.core), self.host, address.to_owned()))
    }

    fn rarely(&self, what: &'static str) -> bool {
        let mut state = self.core.lock();
        let (now, once_in) = (state.now, state.options.rare_once_in);
        let State { trace, hosts, .. } = &mut *state;
        let host = &mut hosts[self.host.0];
        let happens = once_in > 0 && host.random.once_in(once_in);
        if happens {
            trace.event(now, format_args!("{}: {what}", host.name));
        }
        happens
    }
}

impl Core {
    /// Runs a future on a host. Where none runs any more it ends at once.
    pub(super) fn spawn(self: &Arc<Core>, host: HostId, name: &'static str, future: BoxFuture<()>) -> Task {
        let (done, ended) = oneshot::channel();
        let future = Box::pin(async move {
            future.await;
            // Nobody listens to a task that was let go.
            let _ = done.send(());
        });
        let mut state = self.lock();
        let task = if state.has_ended || !state.host(host).is_up {
            drop(state);
            drop(future);
            None
        } else {
            let task = state.tasks.insert(host, name, future);
            let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
            trace.event(now, format_args!("{} spawns {name} as {}", hosts[host.0].name, task.0));
            Some(task)
        };
        let core = Arc::clone(self);
        let end = Box::pin(async move { ended.await.map_err(|_| TaskError::Aborted) });
        Task::new(end, move || {
            if let Some(task) = task {
                core.lock().tasks.abort(task);
            }
        })
    }

    /// Completes at a time of the simulation.
    pub(super) fn sleep_until(self: &Arc<Core>, time: Time) -> Sleep {
        Sleep { core: Arc::clone(self), until: Until::Time(time), timer: None }
    }
}

enum Until {
    Time(Time),
    Moment(HostId, Moment),
}

/// Completes when a clock has come so far.
pub(super) struct Sleep {
    core: Arc<Core>,
    until: Until,
    timer: Option<TimerId>,
}

impl Sleep {
    /// When to look again; `None` if it is time.
    fn when(&self, state: &State) -> Option<Time> {
        match self.until {
            Until::Time(time) => Some(time).filter(|time| *time > state.now),
            Until::Moment(host, moment) => {
                (state.moment(host) < moment).then(|| state.hosts[host.0].clock.when(moment))
            }
        }
    }

    /// Forgets the timer; what it would have woken must be dropped without the lock.
    fn stop(&mut self, state: &mut State) -> Option<Waker> {
        match self.timer.take().and_then(|timer| state.timers.remove(timer)) {
            Some(Event::Wake(waker)) => Some(waker),
            _ => None,
        }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let core = Arc::clone(&self.core);
        let mut state = core.lock();
        let when = self.when(&state);
        let same = self.timer.filter(|timer| Some(timer.at) == when);
        if let Some(Event::Wake(waker)) = same.and_then(|timer| state.timers.get_mut(timer)) {
            let before = (!waker.will_wake(cx.waker())).then(|| std::mem::replace(waker, cx.waker().clone()));
            state.drop_later(before);
            return Poll::Pending;
        }
        let before = self.stop(&mut state);
        state.drop_later(before);
        match when {
            None => Poll::Ready(()),
            Some(Time::NEVER) => Poll::Pending,
            Some(at) => {
                self.timer = Some(state.timers.set(at, Event::Wake(cx.waker().clone())));
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.timer.is_some() {
            let core = Arc::clone(&self.core);
            let mut state = core.lock();
            let waker = self.stop(&mut state);
            state.drop_later(waker);
        }
    }
}
