//! Keeps a connection to the node that leads, while that is another one than the connection to any node has.
//!
//! It is of use, never needed: as long as it is not there, writes go where reads go and are forwarded.

use super::draining::Draining;
use super::error::Error;
use super::io::{Ending, Io};
use super::keeper::{BACKOFF_MAX, BACKOFF_MIN, GOOD_AFTER};
use super::link::{Link, Place, backoff};
use super::search::connect;
use std::sync::Arc;

/// The task that follows the leader.
pub(super) struct Follower {
    link: Arc<Link>,
    draining: Draining,
    /// How often in a row the leader could not be reached.
    failures: u32,
}

impl Follower {
    pub(super) fn new(link: &Arc<Link>) -> Follower {
        Follower { link: link.clone(), draining: Draining::default(), failures: 0 }
    }

    pub(super) async fn run(mut self) {
        let link = self.link.clone();
        loop {
            let Some(address) = wanted(&link) else {
                self.failures = 0;
                // Who waits for a leader that is none beside ours waits no longer.
                link.wake();
                link.routes.changed.notified().await;
                continue;
            };
            let connected = connect_later(link.clone(), address.clone(), self.failures);
            let Some(connected) = while_wanted(&link, &address, connected).await else {
                self.failures = 0;
                continue;
            };
            match connected {
                Ok(io) => {
                    link.routes.tried_leader(&address, Some(io.connection.peer.node));
                    if wanted(&link).as_ref() == Some(&address) {
                        link.publish(Place::Leader, io.connection.clone());
                        self.keep(&address, io).await;
                    }
                }
                Err(_) => {
                    self.failed(&address);
                    link.wake();
                }
            }
        }
    }

    fn failed(&mut self, address: &str) {
        self.failures = self.failures.saturating_add(1);
        self.link.routes.tried_leader(address, None);
    }

    /// Runs a connection until it ends, or is of no use any more.
    async fn keep(&mut self, address: &Arc<str>, mut io: Io) {
        let began = self.link.env().now();
        let link = self.link.clone();
        let ending = while_wanted(&link, address, io.run()).await;
        let good = io.connection.has_answered() || link.env().now() - began >= GOOD_AFTER;
        match ending {
            Some(Ending::Ended(error)) => {
                if good {
                    self.failures = 0;
                } else {
                    self.failed(address);
                }
                link.withdraw(Place::Leader, Some(error.clone()));
                io.connection.end(error);
            }
            leaving => {
                link.withdraw(Place::Leader, None);
                if leaving.is_some() {
                    // It shuts down, so that another will lead.
                    link.routes.learn(address, None);
                }
                self.draining.push(link.env(), io);
            }
        }
    }
}

/// Where the leader is, if a connection to it is of use.
fn wanted(link: &Link) -> Option<Arc<str>> {
    let near = link.near();
    link.routes.leader_beside(near.as_ref().map(|(address, node)| (&**address, *node)))
}

/// Connects; after a pause, if that has failed before.
async fn connect_later(link: Arc<Link>, address: Arc<str>, failures: u32) -> Result<Io, Error> {
    if failures > 0 {
        link.env().sleep(backoff(link.env(), failures, BACKOFF_MIN, BACKOFF_MAX)).await;
    }
    connect(link, address).await
}

/// What the future gives; nothing if a connection to this address has become useless before.
async fn while_wanted<T>(link: &Link, address: &Arc<str>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    loop {
        tokio::select! {
            biased;
            () = link.routes.changed.notified() => {
                if wanted(link).as_ref() != Some(address) {
                    return None;
                }
            }
            value = &mut future => return Some(value),
        }
    }
}
