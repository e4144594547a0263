//! Keeps a connection to the node that leads, while that is another one than the connection to any node has.
//!
//! It is of use, never needed: as long as it is not there, writes go where reads go and are forwarded.

use super::draining::Draining;
use super::error::Error;
use super::io::{Ending, Io};
use super::keeper::{BACKOFF_MIN, GOOD_AFTER};
use super::link::{Link, Place, backoff};
use super::search::connect;
use std::{sync::Arc, time::Duration};

/// The longest wait before the leader is tried again. An address that servers know need not be one that clients reach.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The task that follows the leader.
pub(super) struct Follower {
    link: Arc<Link>,
    draining: Draining,
    /// How often in a row the leader could not be reached.
    failures: u32,
    /// How often in a row the node that was said to lead named another.
    detours: u32,
}

impl Follower {
    pub(super) fn new(link: &Arc<Link>) -> Follower {
        Follower { link: link.clone(), draining: Draining::default(), failures: 0, detours: 0 }
    }

    pub(super) async fn run(mut self) {
        let link = self.link.clone();
        loop {
            let Some(address) = wanted(&link) else {
                (self.failures, self.detours) = (0, 0);
                // Who waits for a leader that is none beside ours waits no longer.
                link.wake();
                link.routes.changed.notified().await;
                continue;
            };
            // One word that was out of date is nothing special; two nodes that name each other are.
            let attempts = self.failures.max(self.detours.saturating_sub(1));
            let connected = connect_later(link.clone(), address.clone(), attempts);
            let Some(connected) = while_wanted(&link, &address, connected).await else {
                self.failures = 0;
                continue;
            };
            match connected {
                Ok(io) => {
                    link.routes.tried_leader(&address, Some(io.connection.peer.node));
                    if wanted(&link).as_ref() != Some(&address) {
                        self.detours = self.detours.saturating_add(1);
                    } else {
                        self.detours = 0;
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
async fn connect_later(link: Arc<Link>, address: Arc<str>, attempts: u32) -> Result<Io, Error> {
    if attempts > 0 {
        link.env().sleep(backoff(link.env(), attempts, BACKOFF_MIN, BACKOFF_MAX)).await;
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
