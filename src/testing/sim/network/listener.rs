//! How connections come about.

use super::{
    BACKLOG_MAX, Backlog, CLIENT_PORT_MIN, Connection, ConnectionId, Core, End, HostId, RETRY_FIRST, Side,
    SimulatedSocket, Socket, State,
};
use crate::env::Listener;
use std::{
    io::{self, ErrorKind},
    sync::Arc,
    task::{Context, Poll},
};

/// A port of a host, from which connections are accepted. Dropping it closes the port and resets those that wait.
pub struct SimulatedListener {
    core: Arc<Core>,
    host: HostId,
    port: u16,
    number: u64,
}

/// What becomes of an attempt to connect.
enum Attempt {
    /// Somebody listens.
    Heard,
    /// Nobody does, and the kernel says so.
    Refused,
    /// No answer comes.
    Unanswered,
}

impl Core {
    pub(in super::super) fn listen(self: &Arc<Core>, host: HostId, port: u16) -> io::Result<SimulatedListener> {
        let mut state = self.lock();
        if !state.host(host).is_up {
            return Err(ErrorKind::NetworkDown.into());
        }
        if state.network.listeners.contains_key(&(host, port)) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let number = state.network.number();
        let backlog = Backlog { number, waiting: Default::default(), waker: None };
        state.network.listeners.insert((host, port), backlog);
        let (now, State { trace, hosts, .. }) = (state.now, &mut *state);
        trace.event(now, format_args!("{} listens on {port}", hosts[host.0].name));
        drop(state);
        Ok(SimulatedListener { core: Arc::clone(self), host, port, number })
    }
}

impl State {
    /// What an attempt finds when it gets there.
    fn attempt(&self, from: HostId, to: HostId, port: u16) -> Attempt {
        if self.network.cut.contains(&(from, to)) || !self.hosts[to.0].is_reachable {
            return Attempt::Unanswered;
        }
        match self.network.listeners.get(&(to, port)) {
            None => Attempt::Refused,
            Some(backlog) if backlog.waiting.len() >= BACKLOG_MAX => Attempt::Unanswered,
            Some(_) => Attempt::Heard,
        }
    }

    /// Makes the connection; `None` if nobody listens any more.
    fn establish(&mut self, from: HostId, to: HostId, port: u16) -> Option<ConnectionId> {
        let id = ConnectionId(self.network.number());
        let client = self.host(from);
        let client_port = client.next_port;
        client.next_port = client_port.checked_add(1).unwrap_or(CLIENT_PORT_MIN);
        let client = End::new(from, format!("{}:{client_port}", client.name));
        let server = End::new(to, format!("{}:{port}", self.host(to).name));
        let backlog = self.network.listeners.get_mut(&(to, port))?;
        backlog.waiting.push_back(id);
        self.woken.extend(backlog.waker.take());
        self.trace.event(self.now, format_args!("c{} {} connects to {}", id.0, client.address, server.address));
        self.network.connections.insert(id, Connection { client, server });
        Some(id)
    }

    /// Closes a port, if it is still this listener's.
    pub(super) fn close_port(&mut self, host: HostId, port: u16, number: u64) {
        if self.network.listeners.get(&(host, port)).is_some_and(|backlog| backlog.number == number) {
            let backlog = self.network.listeners.remove(&(host, port)).expect("it is there");
            self.dropped.extend(backlog.waker);
            for id in backlog.waiting {
                self.abandon(id, Side::Server);
            }
        }
    }

    fn accept(
        &mut self,
        listener: &SimulatedListener,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(ConnectionId, String)>> {
        let State { network, dropped, .. } = self;
        let backlog = network.listeners.get_mut(&(listener.host, listener.port));
        let Some(backlog) = backlog.filter(|backlog| backlog.number == listener.number) else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        while let Some(id) = backlog.waiting.pop_front() {
            if let Some(connection) = network.connections.get(&id) {
                return Poll::Ready(Ok((id, connection.client.address.clone())));
            }
        }
        State::replace(&mut backlog.waker, cx.waker(), dropped);
        Poll::Pending
    }
}

impl Listener for SimulatedListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Socket>, String)>> {
        let accepted = self.core.lock().accept(self, cx);
        accepted.map_ok(|(id, peer)| {
            let socket = SimulatedSocket { core: Arc::clone(&self.core), id, side: Side::Server };
            (Box::new(socket) as Box<dyn Socket>, peer)
        })
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        self.core.lock().close_port(self.host, self.port, self.number);
    }
}

/// Opens a connection to `host:port`, as TCP does: an attempt that gets no answer is made again, later and later.
pub(in super::super) async fn connect(core: Arc<Core>, from: HostId, address: String) -> io::Result<Box<dyn Socket>> {
    let (to, port, deadline) = {
        let state = core.lock();
        let unknown = || io::Error::new(ErrorKind::NotFound, format!("no such host: {address}"));
        let (name, port) = address.rsplit_once(':').ok_or_else(unknown)?;
        let port = port.parse().map_err(|_| unknown())?;
        (state.find(name).ok_or_else(unknown)?, port, state.now + state.network.options.connect_timeout)
    };
    let mut wait = RETRY_FIRST;
    loop {
        let begun = core.lock().now;
        pass(&core, from, to).await;
        let attempt = core.lock().attempt(from, to, port);
        if !matches!(attempt, Attempt::Unanswered) {
            pass(&core, to, from).await;
            let mut state = core.lock();
            if !state.network.cut.contains(&(to, from)) {
                let id = match attempt {
                    Attempt::Heard => state.establish(from, to, port),
                    Attempt::Refused | Attempt::Unanswered => None,
                };
                drop(state);
                let id = id.ok_or(ErrorKind::ConnectionRefused)?;
                return Ok(Box::new(SimulatedSocket { core, id, side: Side::Client }));
            }
        }
        core.sleep_until((begun + wait).min(deadline)).await;
        wait *= 2;
        if core.lock().now >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Completes after the delay from one host to another.
async fn pass(core: &Arc<Core>, from: HostId, to: HostId) {
    let at = {
        let mut state = core.lock();
        let delay = state.network.delay(from, to);
        state.now + delay
    };
    core.sleep_until(at).await;
}
