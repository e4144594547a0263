//! An environment with nothing outside: time that jumps to the next timer when all tasks wait, randomness from a seed. The
//! same input does the same again, and nothing takes as long as it says.

use quantadb::{
    env::{BoxFuture, Env, Files, Moment, Provider, Task, TaskError},
    testing::generators::Random,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

struct World {
    start: Instant,
    random: Mutex<Random>,
    outside: Env,
}

/// The environment; a paused tokio runtime runs around it.
pub fn env() -> Env {
    let (start, random) = (Instant::now(), Mutex::new(Random::new(1)));
    Env::from_provider(Arc::new(World { start, random, outside: Env::real() }))
}

impl Provider for World {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.now().0 / 1_000_000
    }

    fn random(&self, bytes: &mut [u8]) {
        let mut random = self.random.lock().expect("nothing panics while it holds it");
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&random.bits().to_be_bytes()[..chunk.len()]);
        }
    }

    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        match self.start.checked_add(Duration::from_nanos(when.0)) {
            Some(when) => Box::pin(tokio::time::sleep_until(when)),
            None => Box::pin(std::future::pending()),
        }
    }

    fn spawn(&self, _name: &'static str, future: BoxFuture<()>) -> Task {
        let handle = tokio::spawn(future);
        let abort = handle.abort_handle();
        let end = async move {
            match handle.await {
                // A task that panics is found like any panic.
                Err(error) if error.is_panic() => std::process::abort(),
                ended => ended.map_err(|_| TaskError::Aborted),
            }
        };
        Task::new(Box::pin(end), move || abort.abort())
    }

    fn files(&self) -> &dyn Files {
        self.outside.files()
    }
}
