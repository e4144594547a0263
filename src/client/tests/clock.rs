//! Time that passes when nothing else happens: what takes seconds takes none, and takes them in every run alike.

use crate::client::lock;
use crate::env::{BoxFuture, Env, Files, Moment, Provider, Task};
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::oneshot;

/// Turns after which nobody has anything left to do: a frame takes a few from one end of a pipe to the other.
const TURNS: u32 = 64;

/// A clock that its owner drives.
#[derive(Clone)]
pub struct Clock(Arc<Ticking>);

struct Ticking {
    real: Env,
    state: Mutex<State>,
}

struct State {
    now: Moment,
    random: u64,
    sleepers: Vec<(Moment, oneshot::Sender<()>)>,
}

impl Clock {
    pub fn new() -> Clock {
        let state = State { now: Moment(1), random: 0x5eed, sleepers: Vec::new() };
        Clock(Arc::new(Ticking { real: Env::real(), state: Mutex::new(state) }))
    }

    pub fn env(&self) -> Env {
        Env::from_provider(self.0.clone())
    }

    pub fn now(&self) -> Moment {
        lock(&self.0.state).now
    }

    /// Runs a future; whenever it, and every task, waits, the next sleeper's time comes.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let ticks = async {
            loop {
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                self.tick();
            }
        };
        tokio::select! {
            biased;
            value = future => value,
            () = ticks => unreachable!("it ticks for ever"),
        }
    }

    fn tick(&self) {
        let mut state = lock(&self.0.state);
        state.sleepers.retain(|(_, sleeper)| !sleeper.is_closed());
        let Some(next) = state.sleepers.iter().map(|(at, _)| *at).min() else { return };
        state.now = state.now.max(next);
        let now = state.now;
        let (due, later) = std::mem::take(&mut state.sleepers).into_iter().partition(|(at, _)| *at <= now);
        state.sleepers = later;
        let due: Vec<(Moment, oneshot::Sender<()>)> = due;
        due.into_iter().for_each(|(_, sleeper)| _ = sleeper.send(()));
    }
}

impl Provider for Ticking {
    fn now(&self) -> Moment {
        lock(&self.state).now
    }

    fn wall_ms(&self) -> u64 {
        self.now().0 / 1_000_000
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut state = lock(&self.state);
        for byte in bytes {
            state.random = state.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (state.random >> 56) as u8;
        }
    }

    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if when <= state.now {
            return Box::pin(std::future::ready(()));
        }
        state.sleepers.push((when, sender));
        Box::pin(async { _ = receiver.await })
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        self.real.spawn(name, future)
    }

    fn files(&self) -> &dyn Files {
        self.real.files()
    }
}

#[tokio::test]
async fn time_passes_when_everybody_waits() {
    let clock = Clock::new();
    let env = clock.env();
    let began = clock.now();
    let both = async {
        tokio::join!(env.sleep(Duration::from_secs(3600)), env.sleep(Duration::from_secs(60)));
    };
    clock.run(both).await;
    assert_eq!(clock.now() - began, Duration::from_secs(3600));
}
