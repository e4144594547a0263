//! Keeps one connection open: dials, runs it, and dials again when it is lost or must be left.

use super::connection::{After, Connection, NotQueued, Posting, Ticket};
use super::dial::dial;
use super::error::Error;
use super::io::{Ending, Io};
use super::lock;
use super::options::ClientOptions;
use super::waiters::{Cancelling, Failure};
use crate::env::{Env, Moment, Task};
use crate::types::{ClusterId, NodeId, Version};
use crate::wire::Request;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// The first wait before an address is tried again; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that has lived so long, or has answered anything, was a good one: its loss is not a repeated failure.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// Connections that still wait for answers after their server said goodbye; the oldest of more is dropped.
const DRAINING_MAX: usize = 4;

/// What callers share.
pub(super) struct Link {
    pub(super) options: ClientOptions,
    state: Mutex<State>,
    seen: AtomicU64,
}

#[derive(Default)]
struct State {
    current: Option<Arc<Connection>>,
    waiting: Vec<oneshot::Sender<()>>,
    last_error: Option<Error>,
    closed: bool,
}

/// A random wait of up to `min` doubled `attempt` times, and at most `max`: those who failed together must not come back
/// together.
pub(super) fn backoff(env: &Env, attempt: u32, min: Duration, max: Duration) -> Duration {
    let ceiling = min.saturating_mul(1 << attempt.min(16)).min(max);
    let part = env.random_u64() >> 32;
    Duration::from_nanos(u64::try_from((ceiling.as_nanos() * u128::from(part)) >> 32).unwrap_or(u64::MAX))
}

impl Link {
    /// Connects, and starts the task that keeps the connection.
    pub(super) async fn start(options: ClientOptions) -> Result<(Arc<Link>, Task), Error> {
        let env = options.env.clone();
        let link = Arc::new(Link { options, state: Mutex::default(), seen: AtomicU64::new(0) });
        let mut keeper = Keeper {
            link: link.clone(),
            at: 0,
            cluster: None,
            node: None,
            floor: Version::ZERO,
            draining: VecDeque::new(),
        };
        let io = keeper.round().await?;
        link.publish(io.connection.clone());
        let task = env.spawn("client connection", keeper.run(io));
        Ok((link, task))
    }

    pub(super) fn env(&self) -> &Env {
        &self.options.env
    }

    /// The highest version that this client has seen.
    pub(super) fn seen(&self) -> Version {
        Version(self.seen.load(Ordering::Relaxed))
    }

    pub(super) fn saw(&self, version: Version) {
        self.seen.fetch_max(version.0, Ordering::Relaxed);
    }

    /// A connection that takes requests; waits for one until `deadline`.
    pub(super) async fn connection(&self, deadline: Moment) -> Result<Arc<Connection>, Error> {
        loop {
            let receiver = {
                let mut state = lock(&self.state);
                if state.closed {
                    return Err(Error::closed());
                }
                if let Some(current) = state.current.as_ref().filter(|current| current.is_open()) {
                    return Ok(current.clone());
                }
                let (sender, receiver) = oneshot::channel();
                state.waiting.retain(|caller| !caller.is_closed());
                state.waiting.push(sender);
                receiver
            };
            if self.env().until(deadline, receiver).await.is_none() {
                let cause = lock(&self.state).last_error.clone();
                return Err(Error::unreachable("no server could be reached within the deadline").caused_by(cause));
            }
        }
    }

    /// Queues a request on this connection as soon as there is room.
    pub(super) async fn ask(
        &self,
        connection: &Arc<Connection>,
        request: &Request<'_>,
        deadline: Moment,
        cancel: Cancelling,
    ) -> Result<Ticket, Failure> {
        loop {
            match connection.ask(request, deadline + super::GRACE, cancel) {
                Ok(ticket) => return Ok(ticket),
                Err(refused) => self.room(refused, deadline).await?,
            }
        }
    }

    /// The same for a request whose reply nobody waits for here.
    pub(super) async fn post(
        &self,
        connection: &Arc<Connection>,
        request: &Request<'_>,
        deadline: Moment,
        mut posting: impl FnMut() -> Posting,
    ) -> Result<u64, Failure> {
        loop {
            match connection.queue(request, posting()) {
                Ok(id) => return Ok(id),
                Err(refused) => self.room(refused, deadline).await?,
            }
        }
    }

    async fn room(&self, refused: NotQueued, deadline: Moment) -> Result<(), Failure> {
        match refused {
            NotQueued::Gone(cause) => Err(Failure::Lost { sent: false, cause }),
            // A dropped sender is the end of the connection, which the next attempt meets.
            NotQueued::Full(receiver) => match self.env().until(deadline, receiver).await {
                Some(_) => Ok(()),
                None => Err(Failure::GaveUp { sent: false }),
            },
        }
    }

    fn publish(&self, connection: Arc<Connection>) {
        let waiting = {
            let mut state = lock(&self.state);
            state.current = Some(connection);
            state.last_error = None;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|caller| _ = caller.send(()));
    }

    fn withdraw(&self, cause: Option<Error>) {
        let mut state = lock(&self.state);
        state.current = None;
        if cause.is_some() {
            state.last_error = cause;
        }
    }

    fn close(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.current = None;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}

/// The task that keeps the connection. Dropping it closes the link.
struct Keeper {
    link: Arc<Link>,
    /// Which address is tried next.
    at: usize,
    cluster: Option<ClusterId>,
    node: Option<NodeId>,
    /// What was seen on nodes before this one.
    floor: Version,
    draining: VecDeque<Task>,
}

impl Keeper {
    async fn run(mut self, mut io: Io) {
        let mut failures = 0;
        loop {
            let began = self.link.env().now();
            let left = self.watch(&mut io).await;
            if io.connection.has_answered() || self.link.env().now() - began >= GOOD_AFTER {
                failures = 0;
            }
            match left {
                None => self.drain(io),
                Some(error) => {
                    self.link.withdraw(Some(error.clone()));
                    io.connection.end(error);
                    // Its socket is closed now, not when another one is open.
                    drop(io);
                }
            }
            io = self.redial(&mut failures).await;
            self.link.publish(io.connection.clone());
        }
    }

    /// Runs a connection until it ends, with its error, or must be left.
    async fn watch(&mut self, io: &mut Io) -> Option<Error> {
        loop {
            match io.run().await {
                Ending::Ended(error) => return Some(error),
                Ending::Leave(After::Drain) => return None,
                // With one address there is nowhere else to go: stay until the server says goodbye.
                Ending::Leave(_) if self.link.options.addresses.len() < 2 => {}
                Ending::Leave(_) => {
                    self.at += 1;
                    io.connection.drain(Error::lost("the server is shutting down"));
                    return None;
                }
            }
        }
    }

    /// Lets a connection finish on its own what it has.
    fn drain(&mut self, io: Io) {
        self.link.withdraw(None);
        if self.draining.len() == DRAINING_MAX {
            self.draining.pop_front();
        }
        self.draining.push_back(self.link.env().spawn("client connection that drains", io.run_to_end()));
    }

    /// Dials until a server answers.
    async fn redial(&mut self, failures: &mut u32) -> Io {
        loop {
            if *failures > 0 {
                let env = self.link.env();
                env.sleep(backoff(env, *failures, BACKOFF_MIN, BACKOFF_MAX)).await;
            }
            *failures = failures.saturating_add(1);
            match self.round().await {
                Ok(io) => return io,
                Err(error) => self.link.withdraw(Some(error)),
            }
        }
    }

    /// Tries every address once.
    async fn round(&mut self) -> Result<Io, Error> {
        let count = self.link.options.addresses.len();
        let mut last = Error::unreachable("no address was given").with_retry(crate::wire::Retry::Never);
        for _ in 0..count {
            match self.try_one(self.at % count).await {
                Ok(io) => return Ok(io),
                Err(error) => last = error,
            }
            self.at += 1;
        }
        Err(last)
    }

    async fn try_one(&mut self, at: usize) -> Result<Io, Error> {
        let options = &self.link.options;
        let address = &options.addresses[at];
        let dialled = dial(options, address).await?;
        let peer = dialled.peer;
        if self.cluster.is_some_and(|cluster| cluster != peer.cluster) {
            // Versions and keyspaces that callers hold mean nothing there.
            let text = format!("another cluster answers at {address} now: {}", peer.cluster);
            return Err(Error::unreachable(text));
        }
        self.cluster = Some(peer.cluster);
        // What was seen on one node may not have reached another yet.
        if self.node.replace(peer.node).is_some_and(|node| node != peer.node) {
            self.floor = self.link.seen();
        }
        // A word in time keeps the server from closing it.
        let keepalive = peer.idle_max.map_or(options.keepalive, |idle| options.keepalive.min(idle / 2));
        let connection = Connection::new(peer, self.floor, options.credit as usize, options.grease, &options.env);
        Ok(Io::new(connection, dialled.socket, dialled.arrived, keepalive, options.env.clone()))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.link.close();
    }
}
