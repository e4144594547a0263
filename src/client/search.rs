//! Finding a server that answers.

use super::connection::Connection;
use super::dial::{Dialled, dial};
use super::error::Error;
use super::io::Io;
use super::link::Link;
use crate::env::BoxFuture;
use crate::wire::Retry;
use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

/// How long an address may take before the next is tried beside it. A machine that is gone says nothing at all.
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of these addresses that answers: each is tried when the one before it has failed, or has
/// taken long.
pub(super) async fn first_of(link: &Arc<Link>, addresses: Vec<Arc<str>>) -> Result<Io, Error> {
    let mut untried = addresses.into_iter();
    let mut dials: Vec<BoxFuture<Result<Io, Error>>> = Vec::new();
    let mut last = Error::unreachable("no address was given").with_retry(Retry::Never);
    loop {
        match untried.next() {
            Some(address) => dials.push(Box::pin(connect(link.clone(), address))),
            None if dials.is_empty() => return Err(last),
            None => {}
        }
        let mut patience = (untried.len() > 0).then(|| link.env().sleep(STAGGER));
        let ended = poll_fn(|cx| {
            for (at, dial) in dials.iter_mut().enumerate() {
                if let Poll::Ready(result) = dial.as_mut().poll(cx) {
                    return Poll::Ready(Some((at, result)));
                }
            }
            let over = patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready());
            if over { Poll::Ready(None) } else { Poll::Pending }
        });
        match ended.await {
            Some((_, Ok(io))) => return Ok(io),
            Some((at, Err(error))) => {
                drop(dials.remove(at));
                last = error;
            }
            None => {}
        }
    }
}

/// Connects to one address, if a node of our cluster answers there. Notes whom it names as leader.
pub(super) async fn connect(link: Arc<Link>, address: Arc<str>) -> Result<Io, Error> {
    let options = &link.options;
    let Dialled { socket, arrived, peer, leader } = dial(options, &address).await?;
    if !link.routes.is_home(peer.cluster) {
        // Versions and keyspaces that callers hold mean nothing there.
        let text = format!("another cluster answers at {address}: {}", peer.cluster);
        return Err(Error::unreachable(text));
    }
    // One that names nobody may lead itself, or not know.
    if let Some(leader) = leader {
        link.routes.learn(&address, Some(&leader));
    }
    // A word in time keeps the server from closing it.
    let keepalive = peer.idle_max.map_or(options.keepalive, |idle| options.keepalive.min(idle / 2));
    let connection = Connection::new(peer, link.routes.clone(), options.credit as usize, options.grease, &options.env);
    Ok(Io::new(connection, socket, arrived, keepalive, options.env.clone()))
}
