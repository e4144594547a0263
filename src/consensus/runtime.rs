//! What openraft runs on: tokio, or under the feature `testing` the environment of whoever calls.
//!
//! openraft spawns, sleeps and reads clocks through static functions of a type. In a build for use that type is openraft's
//! own for tokio. In a build for tests it asks first whether a simulator runs the calling task ([`env::current`]), and if so
//! takes everything from its host; if not, tokio's. Channels and locks are tokio's in any case: they know no runtime. tokio's
//! watch wakes those who wait in an order that it draws, and a simulator has to do without that order.

#[cfg(not(feature = "testing"))]
pub(super) use openraft_rt_tokio::TokioRuntime as Runtime;
#[cfg(feature = "testing")]
pub(super) use switched::Runtime;

#[cfg(feature = "testing")]
mod switched {
    use crate::env::{self, BoxFuture, Moment};
    use openraft::{
        OptionalSend,
        async_runtime::{AsyncRuntime, Instant},
    };
    use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};
    use rand::TryRng;
    use std::{
        convert::Infallible,
        fmt, io,
        ops::{Add, AddAssign, Sub, SubAssign},
        pin::Pin,
        sync::OnceLock,
        task::{Context, Poll},
        time::Duration,
    };
    use tokio::sync::oneshot;

    type TokioInstant = <TokioRuntime as AsyncRuntime>::Instant;
    type TokioRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type TokioHandle<T> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;

    /// tokio's instants are counted from here: far enough up that what lies before its first use has a number too.
    const TOKIO_START: Tick = Tick(1 << 62);

    /// See the module.
    #[derive(Debug)]
    pub(in super::super) struct Runtime(TokioRuntime);

    /// A point in time, in nanoseconds: of the host's clock, or since tokio's was first read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(in super::super) struct Tick(u64);

    fn tokio_start() -> TokioInstant {
        static START: OnceLock<TokioInstant> = OnceLock::new();
        *START.get_or_init(TokioInstant::now)
    }

    impl Tick {
        fn in_tokio(self) -> TokioInstant {
            match self >= TOKIO_START {
                true => tokio_start() + (self - TOKIO_START),
                false => tokio_start() - (TOKIO_START - self),
            }
        }
    }

    fn nanos(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
    }

    impl Add<Duration> for Tick {
        type Output = Tick;
        fn add(self, duration: Duration) -> Tick {
            Tick(self.0.saturating_add(nanos(duration)))
        }
    }

    impl AddAssign<Duration> for Tick {
        fn add_assign(&mut self, duration: Duration) {
            *self = *self + duration;
        }
    }

    impl Sub<Duration> for Tick {
        type Output = Tick;
        fn sub(self, duration: Duration) -> Tick {
            Tick(self.0.saturating_sub(nanos(duration)))
        }
    }

    impl SubAssign<Duration> for Tick {
        fn sub_assign(&mut self, duration: Duration) {
            *self = *self - duration;
        }
    }

    impl Sub for Tick {
        type Output = Duration;
        fn sub(self, earlier: Tick) -> Duration {
            Duration::from_nanos(self.0.saturating_sub(earlier.0))
        }
    }

    impl Instant for Tick {
        fn now() -> Tick {
            if let Some(env) = env::current() {
                return Tick(env.now().0);
            }
            let (start, now) = (tokio_start(), TokioInstant::now());
            // A paused clock of tokio's may stand before the one that was read first.
            if now >= start { TOKIO_START + (now - start) } else { TOKIO_START - (start - now) }
        }
    }

    /// Why a task has no result.
    #[derive(Debug)]
    pub(in super::super) enum JoinError {
        Tokio(<TokioRuntime as AsyncRuntime>::JoinError),
        /// It was dropped with its host; a panic there ends the simulation.
        Dropped,
    }

    impl fmt::Display for JoinError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                JoinError::Tokio(error) => error.fmt(f),
                JoinError::Dropped => f.write_str("the task was dropped"),
            }
        }
    }

    /// A task's result. Dropping it does nothing to the task.
    pub(in super::super) enum JoinHandle<T: Send + 'static> {
        Tokio(TokioHandle<T>),
        Env(oneshot::Receiver<T>),
    }

    impl<T: Send + 'static> Future for JoinHandle<T> {
        type Output = Result<T, JoinError>;
        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            match self.get_mut() {
                JoinHandle::Tokio(handle) => Pin::new(handle).poll(cx).map_err(JoinError::Tokio),
                JoinHandle::Env(result) => Pin::new(result).poll(cx).map_err(|_| JoinError::Dropped),
            }
        }
    }

    #[derive(Debug)]
    pub(in super::super) struct Elapsed;

    impl fmt::Display for Elapsed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the time is over")
        }
    }

    /// A future that is given up at a point in time.
    pub(in super::super) struct Timeout<F> {
        future: Pin<Box<F>>,
        sleep: BoxFuture<()>,
    }

    impl<F: Future> Future for Timeout<F> {
        type Output = Result<F::Output, Elapsed>;
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            if let Poll::Ready(value) = self.future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
        }
    }

    /// Randomness of the host, or tokio's way to it.
    pub(in super::super) enum Rng {
        Tokio(TokioRng),
        Env(env::Env),
    }

    impl TryRng for Rng {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            let mut bytes = [0; 4];
            self.try_fill_bytes(&mut bytes)?;
            Ok(u32::from_le_bytes(bytes))
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            let mut bytes = [0; 8];
            self.try_fill_bytes(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            match self {
                Rng::Tokio(rng) => rng.try_fill_bytes(bytes),
                Rng::Env(env) => {
                    env.random(bytes);
                    Ok(())
                }
            }
        }
    }

    impl AsyncRuntime for Runtime {
        type JoinError = JoinError;
        type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
        type Sleep = BoxFuture<()>;
        type Instant = Tick;
        type TimeoutError = Elapsed;
        type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
        type ThreadLocalRng = Rng;
        type Mpsc = TokioMpsc;
        type Watch = TokioWatch;
        type Oneshot = TokioOneshot;
        type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

        fn spawn<T>(future: T) -> JoinHandle<T::Output>
        where
            T: Future + OptionalSend + 'static,
            T::Output: OptionalSend + 'static,
        {
            let Some(env) = env::current() else { return JoinHandle::Tokio(TokioRuntime::spawn(future)) };
            let (sender, result) = oneshot::channel();
            let task = env.spawn("openraft", async move {
                // Nobody listens to a task that was let go.
                let _ = sender.send(future.await);
            });
            task.detach();
            JoinHandle::Env(result)
        }

        fn sleep(duration: Duration) -> BoxFuture<()> {
            match env::current() {
                Some(env) => env.sleep(duration),
                None => Box::pin(TokioRuntime::sleep(duration)),
            }
        }

        fn sleep_until(deadline: Tick) -> BoxFuture<()> {
            match env::current() {
                Some(env) => env.sleep_until(Moment(deadline.0)),
                None => Box::pin(TokioRuntime::sleep_until(deadline.in_tokio())),
            }
        }

        fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
            Timeout { future: Box::pin(future), sleep: Runtime::sleep(duration) }
        }

        fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Tick, future: F) -> Timeout<F> {
            Timeout { future: Box::pin(future), sleep: Runtime::sleep_until(deadline) }
        }

        fn is_panic(error: &JoinError) -> bool {
            match error {
                JoinError::Tokio(error) => TokioRuntime::is_panic(error),
                JoinError::Dropped => false,
            }
        }

        fn thread_rng() -> Rng {
            env::current().map_or_else(|| Rng::Tokio(TokioRuntime::thread_rng()), Rng::Env)
        }

        fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            // A thread would end at a time that no seed decides.
            let outside = env::current().is_none().then(|| TokioRuntime::spawn_blocking(work));
            async move {
                match outside {
                    Some(result) => result.await,
                    None => Err(io::ErrorKind::Unsupported.into()),
                }
            }
        }

        fn new(threads: usize) -> Runtime {
            Runtime(TokioRuntime::new(threads))
        }

        fn block_on<F, T>(&mut self, future: F) -> T
        where
            F: Future<Output = T>,
        {
            self.0.block_on(future)
        }
    }
}
