//! Keeps a connection to any node: dials, runs it, and dials again when it is lost or another node is better.

use super::connection::After;
use super::draining::Draining;
use super::error::Error;
use super::io::{Ending, Io};
use super::link::{Link, Place, backoff};
use super::search::first_of;
use crate::env::{BoxFuture, Moment};
use std::{future::Future, sync::Arc, time::Duration};

/// The first wait before the addresses are tried again; it doubles up to [`BACKOFF_MAX`].
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that has lived so long, or has answered anything, was a good one: its loss is not a repeated failure.
pub(super) const GOOD_AFTER: Duration = Duration::from_secs(1);

/// The task that keeps the connection. Dropping it closes the link.
pub(super) struct Keeper {
    link: Arc<Link>,
    draining: Draining,
    /// A connection to another node, on its way while the one that is there still serves.
    search: Option<BoxFuture<Result<Io, Error>>>,
    /// How often another node was looked for in a row.
    moves: u32,
}

/// What the keeper acts on.
enum Event {
    Ended(Error),
    /// The server said goodbye: it takes nothing more.
    Refuses,
    /// Another node would be better.
    Elsewhere,
    Found(Result<Io, Error>),
}

impl Keeper {
    /// Connects; the returned future keeps the connection.
    pub(super) async fn start(link: Arc<Link>) -> Result<impl Future<Output = ()> + Send, Error> {
        let io = first_of(&link, link.routes.all_from(None)).await?;
        let keeper = Keeper { link, draining: Draining::default(), search: None, moves: 0 };
        keeper.adopt(&io);
        Ok(keeper.run(io))
    }

    async fn run(mut self, mut io: Io) {
        let mut failures = 0;
        let mut began = self.link.env().now();
        loop {
            let event = self.next(&mut io).await;
            let address = io.connection.peer.address.clone();
            io = match event {
                Event::Elsewhere => {
                    self.look_elsewhere(&address, began);
                    continue;
                }
                Event::Found(Err(_)) => continue,
                Event::Found(Ok(other)) => {
                    self.moves = self.moves.saturating_add(1);
                    self.adopt(&other);
                    self.draining.push(self.link.env(), io);
                    other
                }
                Event::Refuses => {
                    self.link.withdraw(Place::Near, None);
                    self.was_good(&io, began, &mut failures);
                    self.draining.push(self.link.env(), io);
                    let mut addresses = self.link.routes.all_but(&address);
                    addresses.push(address);
                    self.redial(addresses, &mut failures).await
                }
                Event::Ended(error) => {
                    self.link.withdraw(Place::Near, Some(error.clone()));
                    self.was_good(&io, began, &mut failures);
                    io.connection.end(error);
                    // Its socket is closed now, not when another one is open.
                    drop(io);
                    self.redial(self.link.routes.all_from(Some(&address)), &mut failures).await
                }
            };
            began = self.link.env().now();
        }
    }

    async fn next(&mut self, io: &mut Io) -> Event {
        loop {
            let search = async {
                match &mut self.search {
                    Some(search) => search.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ending = io.run() => return match ending {
                    Ending::Ended(error) => Event::Ended(error),
                    Ending::Leave(After::Drain) => Event::Refuses,
                    Ending::Leave(_) => Event::Elsewhere,
                },
                found = search => {
                    self.search = None;
                    return Event::Found(found);
                }
                () = self.link.routes.elsewhere.notified() => {
                    // The doubt may have been about one that was left since.
                    if self.link.was_doubted(&io.connection) {
                        return Event::Elsewhere;
                    }
                }
            }
        }
    }

    fn was_good(&self, io: &Io, began: Moment, failures: &mut u32) {
        if io.connection.has_answered() || self.link.env().now() - began >= GOOD_AFTER {
            *failures = 0;
        }
    }

    fn adopt(&self, io: &Io) {
        self.link.publish(Place::Near, io.connection.clone());
    }

    /// Begins to connect to another node, if there is one. Whoever is sent from node to node slows down.
    fn look_elsewhere(&mut self, address: &str, began: Moment) {
        let others = self.link.routes.all_but(address);
        if others.is_empty() || self.search.is_some() {
            return;
        }
        let env = self.link.env();
        if env.now() - began >= GOOD_AFTER {
            self.moves = 0;
        }
        let wait = (self.moves > 0).then(|| env.sleep(backoff(env, self.moves, BACKOFF_MIN, BACKOFF_MAX)));
        let link = self.link.clone();
        self.search = Some(Box::pin(async move {
            if let Some(wait) = wait {
                wait.await;
            }
            first_of(&link, others).await
        }));
    }

    /// Dials until a server answers: whoever is on the way already, else one of these, in this order.
    async fn redial(&mut self, addresses: Vec<Arc<str>>, failures: &mut u32) -> Io {
        if let Some(search) = self.search.take()
            && let Ok(io) = search.await
        {
            self.adopt(&io);
            return io;
        }
        loop {
            if *failures > 0 {
                let env = self.link.env();
                env.sleep(backoff(env, *failures, BACKOFF_MIN, BACKOFF_MAX)).await;
            }
            *failures = failures.saturating_add(1);
            match first_of(&self.link, addresses.clone()).await {
                Ok(io) => {
                    self.adopt(&io);
                    return io;
                }
                Err(error) => self.link.withdraw(Place::Near, Some(error)),
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.link.close();
    }
}
