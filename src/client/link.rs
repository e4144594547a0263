//! What callers share: the connections that are open, and waiting for one.
//!
//! A client keeps at most two connections: one to any node, and, once it writes, one to the node that leads, unless that
//! is the same. Reads go to the first and writes to the second; if only one is open everything goes there, for any node
//! serves reads and forwards writes. [`super::keeper`] keeps the first and [`super::follower`] the second.

use super::connection::{Connection, NotQueued, Posting, Ticket};
use super::error::Error;
use super::follower::Follower;
use super::keeper::Keeper;
use super::lock;
use super::options::ClientOptions;
use super::routes::Routes;
use super::waiters::{Cancelling, Failure};
use crate::env::{Env, Moment, Task};
use crate::types::{NodeId, Version};
use crate::wire::{Consistency, Request};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// What callers share.
pub(super) struct Link {
    pub(super) options: ClientOptions,
    pub(super) routes: Arc<Routes>,
    state: Mutex<State>,
    seen: AtomicU64,
}

#[derive(Default)]
struct State {
    near: Option<Arc<Connection>>,
    leader: Option<Arc<Connection>>,
    /// One to any node that another should take the place of.
    doubted: Option<Arc<Connection>>,
    waiting: Vec<oneshot::Sender<()>>,
    last_error: Option<Error>,
    closed: bool,
}

/// Which of the connections a request goes to, if both are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// The one to any node.
    Near,
    /// The one to the node that leads.
    Leader,
    /// The same, and it waits until that was tried: another node has refused and named it.
    Redirected,
}

/// The places where a connection is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Near,
    Leader,
}

/// A random wait of up to `min` doubled `attempt` times, and at most `max`: those who failed together must not come back
/// together.
pub(super) fn backoff(env: &Env, attempt: u32, min: Duration, max: Duration) -> Duration {
    let ceiling = min.saturating_mul(1 << attempt.min(16)).min(max);
    let part = env.random_u64() >> 32;
    Duration::from_nanos(u64::try_from((ceiling.as_nanos() * u128::from(part)) >> 32).unwrap_or(u64::MAX))
}

impl State {
    fn place(&mut self, place: Place) -> &mut Option<Arc<Connection>> {
        match place {
            Place::Near => &mut self.near,
            Place::Leader => &mut self.leader,
        }
    }
}

impl Link {
    /// Connects, and starts the tasks that keep the connections.
    pub(super) async fn start(options: ClientOptions) -> Result<(Arc<Link>, [Task; 2]), Error> {
        let env = options.env.clone();
        let routes = Arc::new(Routes::new(&options.addresses));
        let link = Arc::new(Link { options, routes, state: Mutex::default(), seen: AtomicU64::new(0) });
        let keeper = Keeper::start(link.clone()).await?;
        let follower = Follower::new(&link);
        let tasks =
            [env.spawn("client connection", keeper), env.spawn("client connection to the leader", follower.run())];
        Ok((link, tasks))
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

    /// What a read of this consistency must see at least: it never goes back behind what this client has seen, its own
    /// writes included. A linearizable one does so by itself.
    pub(super) fn seen_by(&self, consistency: Option<Consistency>) -> Option<Version> {
        match consistency.unwrap_or_default() {
            Consistency::Linearizable => None,
            Consistency::Local | Consistency::BoundedStaleness { .. } => {
                Some(self.seen()).filter(|version| *version > Version::ZERO)
            }
        }
    }

    /// A connection that takes requests; waits for one until `deadline`.
    pub(super) async fn connection(&self, preference: Preference, deadline: Moment) -> Result<Arc<Connection>, Error> {
        if preference != Preference::Near {
            self.routes.wants_leader();
        }
        loop {
            let receiver = {
                let mut state = lock(&self.state);
                if state.closed {
                    return Err(Error::closed());
                }
                if let Some(connection) = self.choose(&state, preference) {
                    return Ok(connection);
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

    fn choose(&self, state: &State, preference: Preference) -> Option<Arc<Connection>> {
        let near = || state.near.as_ref().filter(|near| near.is_open());
        let leader = || state.leader.as_ref().filter(|leader| leader.is_open());
        // Another may have been named, and its connection not be there yet.
        let leads = || leader().filter(|leader| self.routes.leads(&leader.peer.address));
        match preference {
            Preference::Near => near().or_else(leader),
            Preference::Leader => leads().or_else(near).or_else(leader),
            Preference::Redirected => leads().or_else(|| near().filter(|near| !self.follows(near))),
        }
        .cloned()
    }

    /// Whether a connection to a leader beside this connection is yet to be tried.
    fn follows(&self, near: &Connection) -> bool {
        let near = Some((&*near.peer.address, near.peer.node));
        self.routes.leader_may_answer() && self.routes.leader_beside(near).is_some()
    }

    /// The address and the node of the connection to any node, if it is there.
    pub(super) fn near(&self) -> Option<(Arc<str>, NodeId)> {
        lock(&self.state).near.as_ref().map(|near| (near.peer.address.clone(), near.peer.node))
    }

    /// Somebody got no use out of this connection: its node could not do what it was asked, or did not answer. If there
    /// is another node, that one is used from now on.
    pub(super) fn doubt(&self, connection: &Arc<Connection>) {
        let is = |place: &Option<Arc<Connection>>| place.as_ref().is_some_and(|one| Arc::ptr_eq(one, connection));
        let leader = {
            let mut state = lock(&self.state);
            if is(&state.near) && connection.has_alternative() {
                state.doubted = Some(connection.clone());
            }
            is(&state.leader)
        };
        if leader {
            self.routes.learn(&connection.peer.address, None);
        } else {
            self.routes.elsewhere.notify_one();
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

    // What follows is called by the tasks that keep the connections.

    pub(super) fn publish(&self, place: Place, connection: Arc<Connection>) {
        {
            let mut state = lock(&self.state);
            *state.place(place) = Some(connection);
            state.last_error = None;
        }
        self.wake();
        if place == Place::Near {
            // Who leads may be the same node now, or another one.
            self.routes.changed.notify_one();
        }
    }

    pub(super) fn withdraw(&self, place: Place, cause: Option<Error>) {
        let mut state = lock(&self.state);
        *state.place(place) = None;
        if cause.is_some() {
            state.last_error = cause;
        }
    }

    /// Whether another should take the place of this one. Asked again it does not say so again.
    pub(super) fn was_doubted(&self, connection: &Arc<Connection>) -> bool {
        lock(&self.state).doubted.take().is_some_and(|doubted| Arc::ptr_eq(&doubted, connection))
    }

    /// Who waits for a connection looks again.
    pub(super) fn wake(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        waiting.into_iter().for_each(|caller| _ = caller.send(()));
    }

    pub(super) fn close(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.closed = true;
            (state.near, state.leader, state.doubted) = (None, None, None);
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}
