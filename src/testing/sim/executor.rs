//! What runs the tasks.

use super::state::{Core, HostId, State, TEST};
use super::tasks::{MAIN, TaskId, TaskWaker, waker};
use crate::env::{self, BoxFuture, Env};
use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// How many of the last events a report shows.
const REPORT_LINES_MAX: usize = 40;

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// What it was to go on for is there.
    Done,
    /// Nothing is ready, and no timer is set.
    NothingLeft,
    /// The time that was allowed is over.
    TimeIsUp,
}

/// Polls the test's own future; whether it is done.
type Main<'a> = &'a mut dyn FnMut(&mut Context<'_>) -> bool;

pub(super) struct Executor {
    pub(super) core: Arc<Core>,
    is_driving: Cell<bool>,
    /// Polls since time last went on.
    polls: Cell<u64>,
}

/// What runs next.
struct Picked {
    task: TaskId,
    host: HostId,
    env: Env,
    waker: Arc<TaskWaker>,
    /// `None` for the test's own.
    future: Option<BoxFuture<()>>,
    is_aborted: bool,
}

/// What a look for something to run gave.
enum Next {
    Run(Picked),
    /// It had ended, or must wait for its host.
    Skipped,
    Nothing,
}

impl Executor {
    pub(super) fn new(core: Arc<Core>) -> Executor {
        Executor { core, is_driving: Cell::new(false), polls: Cell::new(0) }
    }

    /// Runs everything until `main` is done, which is polled as a task of the test's own host.
    pub(super) fn drive(&self, duration: Duration, main: Main<'_>) -> Ended {
        self.core.lock().tasks.insert_main(TEST);
        let ended = self.run(duration, Some(main), &mut || false);
        self.core.lock().tasks.entries.remove(&MAIN);
        ended
    }

    /// Runs everything until `is_enough`; time passes to the end of `duration` even if nothing happens any more.
    pub(super) fn run_until(&self, duration: Duration, is_enough: &mut dyn FnMut() -> bool) -> Ended {
        let end = self.core.lock().now + duration;
        let ended = self.run(duration, None, is_enough);
        if ended == Ended::NothingLeft {
            self.core.lock().now = end;
        }
        ended
    }

    fn run(&self, duration: Duration, mut main: Option<Main<'_>>, is_enough: &mut dyn FnMut() -> bool) -> Ended {
        assert!(!self.is_driving.replace(true), "a simulation runs itself from within");
        let limit = self.core.lock().now + duration;
        let ended = loop {
            if is_enough() {
                break Ended::Done;
            }
            match self.next() {
                Next::Run(picked) if picked.task == MAIN => {
                    let polled = main.as_mut().map(|main| self.poll_main(&picked, *main));
                    if polled == Some(true) {
                        break Ended::Done;
                    }
                }
                Next::Run(picked) => self.poll(picked),
                Next::Skipped => {}
                Next::Nothing => {
                    let mut state = self.core.lock();
                    let before = state.now;
                    if state.timers.next_at().is_none() {
                        break Ended::NothingLeft;
                    }
                    if !state.advance(limit) {
                        break Ended::TimeIsUp;
                    }
                    if state.now > before {
                        self.polls.set(0);
                    }
                }
            }
        };
        self.is_driving.set(false);
        ended
    }

    /// Takes what runs next out of its place.
    fn next(&self) -> Next {
        let mut state = self.core.lock();
        let Some(task) = state.tasks.pick() else { return Next::Nothing };
        let Some(host) = state.tasks.entries.get(&task).map(|entry| entry.host) else { return Next::Skipped };
        if state.must_wait(task, host) {
            return Next::Skipped;
        }
        let now = state.now;
        state.trace.poll(now, task);
        let Some(env) = state.host(host).env.clone() else { return Next::Skipped };
        let polls_max = state.options.polls_max;
        let entry = state.tasks.entries.get_mut(&task).expect("it was there");
        entry.waker.clear();
        let (waker, future, is_aborted) = (Arc::clone(&entry.waker), entry.future.take(), entry.is_aborted);
        let polls = self.polls.get() + 1;
        self.polls.set(polls);
        if polls > polls_max {
            let name = entry.name;
            drop(state);
            self.fail(&format!("{polls} polls at one instant, the last of the task {name}"), Some(host));
        }
        Next::Run(Picked { task, host, env, waker, future, is_aborted })
    }

    /// Polls the test's own future.
    fn poll_main(&self, picked: &Picked, main: Main<'_>) -> bool {
        let waker = waker(&picked.waker);
        self.guarded(picked, || main(&mut Context::from_waker(&waker)))
    }

    /// Polls a task, or ends it.
    fn poll(&self, mut picked: Picked) {
        let Some(mut future) = picked.future.take() else { return };
        let waker = waker(&picked.waker);
        let pending = self.guarded(&picked, || {
            if picked.is_aborted || future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                drop(future);
                return None;
            }
            Some(future)
        });
        let mut state = self.core.lock();
        let left_over = match (pending, state.tasks.entries.get_mut(&picked.task)) {
            (Some(future), Some(entry)) => entry.future.replace(future),
            // Its host has crashed while it ran.
            (Some(future), None) => Some(future),
            (None, _) => {
                state.tasks.entries.remove(&picked.task);
                None
            }
        };
        drop(state);
        self.guarded(&picked, || drop(left_over));
    }

    /// Runs code of a task where it belongs; its panic ends the run.
    fn guarded<T>(&self, picked: &Picked, run: impl FnOnce() -> T) -> T {
        let _entered = env::enter(&picked.env);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(value) => value,
            Err(panic) => {
                let text = panic_text(&*panic);
                let name = self.core.lock().tasks.entries.get(&picked.task).map(|entry| entry.name);
                self.fail(&format!("the task {} panicked: {text}", name.unwrap_or("of a crash")), Some(picked.host))
            }
        }
    }

    /// Ends the run.
    pub(super) fn fail(&self, what: &str, host: Option<HostId>) -> ! {
        self.is_driving.set(false);
        let state = self.core.lock();
        let report = report(&state, self.core.seed, what, host);
        drop(state);
        panic!("{report}");
    }
}

/// What has happened, where and when, and all that is needed to see it again.
fn report(state: &State, seed: u64, what: &str, host: Option<HostId>) -> String {
    let mut report = String::new();
    let place = host.map_or(String::new(), |host| format!(" on {}", state.hosts[host.0].name));
    report.push_str(&format!("simulation with seed {seed}, at {}{place}: {what}\ntasks:", state.now));
    for entry in state.tasks.entries.values() {
        report.push_str(&format!(" {}/{}", state.hosts[entry.host.0].name, entry.name));
    }
    report.push_str("\nthe last events:");
    let lines = state.trace.lines();
    for line in &lines[lines.len().saturating_sub(REPORT_LINES_MAX)..] {
        report.push_str(&format!("\n  {line}"));
    }
    report
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks may spawn, sleep or send while they are dropped: all of that leads to nothing by now.
        let (hosts, entries) = {
            let mut state = self.core.lock();
            state.has_ended = true;
            let hosts: Vec<_> = state.hosts.iter().map(|host| host.env.clone()).collect();
            (hosts, std::mem::take(&mut state.tasks.entries))
        };
        for entry in entries.into_values() {
            let _entered = hosts[entry.host.0].as_ref().map(env::enter);
            // What a destructor panics with would hide why the run ended, if it is ending by a panic.
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(entry)));
            assert!(dropped.is_ok() || std::thread::panicking(), "a task panicked when the simulation ended");
        }
        let parts = self.core.lock().take_parts();
        drop((hosts, parts));
    }
}
