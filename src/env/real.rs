//! The operating system's environment: its clocks, its randomness, tokio's tasks and timers.

use super::{BoxFuture, Files, Moment, Provider, Task, TaskError, files::RealFiles};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::Read,
    panic::AssertUnwindSafe,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// The real environment.
pub(super) struct Real {
    start: Instant,
    files: RealFiles,
}

impl Real {
    pub(super) fn new() -> Real {
        Real { start: Instant::now(), files: RealFiles }
    }
}

impl Provider for Real {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self, bytes: &mut [u8]) {
        let filled = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(bytes));
        if filled.is_err() {
            // Out of descriptors, or a system without the device: the standard library's per-process random keys, stretched.
            for chunk in bytes.chunks_mut(8) {
                let word = RandomState::new().build_hasher().finish().to_be_bytes();
                chunk.copy_from_slice(&word[..chunk.len()]);
            }
        }
    }

    fn sleep_until(&self, when: Moment) -> BoxFuture<()> {
        let deadline = self.start.checked_add(Duration::from_nanos(when.0));
        Box::pin(async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        })
    }

    fn spawn(&self, _name: &'static str, future: BoxFuture<()>) -> Task {
        let handle = tokio::spawn(future);
        let abort = handle.abort_handle();
        let end = Box::pin(async move {
            handle.await.map_err(|error| match error.try_into_panic() {
                Ok(panic) => TaskError::Panicked(panic_text(&*panic)),
                Err(_) => TaskError::Aborted,
            })
        });
        Task::new(end, move || abort.abort())
    }

    fn spawn_on_thread(&self, name: &'static str, future: BoxFuture<()>) -> Task {
        let (end, ended) = oneshot::channel();
        let (abort, aborted) = oneshot::channel::<()>();
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
                let run = || runtime.block_on(unless(aborted, future));
                std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
            });
            let _ = end.send(result);
        };
        let started = std::thread::Builder::new().name(name.into()).spawn(body);
        let end = Box::pin(async move {
            started.map_err(|error| TaskError::Panicked(format!("no thread: {error}")))?;
            match ended.await {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) | Err(_) => Err(TaskError::Aborted),
                Ok(Err(text)) => Err(TaskError::Panicked(text)),
            }
        });
        Task::new(end, move || {
            // Whoever has ended does not listen any more.
            let _ = abort.send(());
        })
    }

    fn files(&self) -> &dyn Files {
        &self.files
    }
}

/// Runs `future` to its end (`true`), or until somebody sends the word to stop.
async fn unless(aborted: oneshot::Receiver<()>, future: BoxFuture<()>) -> bool {
    let aborted = async {
        // A task that was detached, or dropped after its end, sends nothing: then nobody stops this.
        if aborted.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = aborted => false,
        () = future => true,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[tokio::test]
    async fn time_moves_and_timers_fire() {
        let env = Env::real();
        let before = env.now();
        env.sleep(Duration::from_millis(2)).await;
        assert!(env.now() - before >= Duration::from_millis(2));
        assert_eq!(before - env.now(), Duration::ZERO);
        assert!(env.wall_ms() > 1_700_000_000_000);
        assert_eq!(env.until(env.now() + Duration::from_millis(1), std::future::pending::<()>()).await, None);
        assert_eq!(env.until(env.now() + Duration::from_secs(60), async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_dropped_task_is_aborted_and_a_panic_is_told() {
        let env = Env::real();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let task = env.spawn("holds a sender", async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(task);
        assert!(receiver.await.is_err());
        let panicked = env.spawn("panics", async { panic!("on purpose") }).await;
        assert_eq!(panicked, Err(TaskError::Panicked("on purpose".into())));
    }

    #[tokio::test]
    async fn a_thread_runs_beside_and_is_aborted_when_dropped() {
        let env = Env::real();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = env.spawn_on_thread("tells its name", async move {
            let name = std::thread::current().name().map(str::to_owned);
            drop(sender.send(name));
        });
        assert_eq!(receiver.await, Ok(Some("tells its name".into())));
        assert_eq!(task.await, Ok(()));
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let task = env.spawn_on_thread("holds a sender", async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(task);
        assert!(receiver.await.is_err());
        let panicked = env.spawn_on_thread("panics", async { panic!("on purpose") }).await;
        assert_eq!(panicked, Err(TaskError::Panicked("on purpose".into())));
    }

    #[test]
    fn random_bytes_differ() {
        let env = Env::real();
        assert_ne!(env.random_u64(), env.random_u64());
    }
}
