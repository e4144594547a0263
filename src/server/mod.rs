//! The listeners: accept connections, admit them, run a session for each client, pass peers on, and drain at shutdown.
//!
//! The caller owns the listener and says when to stop, so a test binds port 0 and needs no signals.

mod errors;
mod evaluate;
mod metrics;
mod options;
mod peers;
mod session;

pub use metrics::Metrics;
pub use options::Options;
pub use peers::{JoinError, announce, check_cluster, join};

use crate::{
    env::{Env, Listener, Socket, Task, accept},
    node::Node,
    wire::{self, ErrorCode, Goaway, Kind, preface::PREFACE},
};
use bytes::BytesMut;
use metrics::add;
use session::{Control, Session};
use slog::{Logger, debug, info, o, warn};
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::sync::mpsc;

/// How long accepting pauses after it failed, for want of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all sessions share.
struct Shared {
    env: Env,
    node: Arc<Node>,
    options: Options,
    metrics: Arc<Metrics>,
}

/// A server for clients over one node.
pub struct Server {
    shared: Arc<Shared>,
    log: Logger,
    next_session: AtomicU64,
}

/// A running session: its task and how to reach it.
struct Running {
    task: Task,
    control: Arc<Control>,
}

impl Server {
    /// A server over `node`.
    #[must_use]
    pub fn new(env: &Env, log: &Logger, node: Arc<Node>, options: Options) -> Server {
        let shared = Shared { env: env.clone(), node, options, metrics: Arc::new(Metrics::default()) };
        Server { shared: Arc::new(shared), log: log.clone(), next_session: AtomicU64::new(1) }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Serves until `shutdown` completes; then refuses new requests, answers what was accepted, for as long as the
    /// options allow, and returns.
    pub async fn run(&self, listener: impl Listener, shutdown: impl Future<Output = ()>) {
        let (ended_sender, mut ended) = mpsc::unbounded_channel();
        let mut sessions: HashMap<u64, Running> = HashMap::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(id) = ended.recv() => self.reap(&mut sessions, id),
                () = self.shared.node.leader_changed() => for running in sessions.values() {
                    running.control.leader_changed.store(true, Ordering::Release);
                    running.control.mailbox.nudge();
                },
                accepted = accept(&listener) => match accepted {
                    Ok((stream, peer)) => {
                        let log = self.log.new(o!("peer" => peer));
                        self.admit(stream, log, &mut sessions, &ended_sender).await;
                    }
                    Err(error) => {
                        add(&self.shared.metrics.accept_errors_total, 1);
                        warn!(self.log, "accepting a connection failed"; "error" => %error);
                        self.shared.env.sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        self.drain(sessions, &mut ended).await;
    }

    /// Serves peers until the future is dropped.
    pub fn run_peers(&self, listener: impl Listener) -> impl Future<Output = ()> + Send + 'static {
        peers::run(Arc::clone(&self.shared), listener, self.log.new(o!("part" => "peers")))
    }

    /// Runs a session over anything that reads and writes: a socket, or a pipe in a test. Completes when it ends.
    pub async fn run_session(&self, io: impl Socket + 'static) {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let log = self.log.new(o!("session" => id));
        Session::new(Box::new(io), Arc::clone(&self.shared), Arc::default(), log, id).run().await;
    }

    async fn admit(
        &self,
        stream: Box<dyn Socket>,
        log: Logger,
        sessions: &mut HashMap<u64, Running>,
        ended: &mpsc::UnboundedSender<u64>,
    ) {
        let options = &self.shared.options;
        if sessions.len() >= options.connections_max {
            add(&self.shared.metrics.connections_refused_total, 1);
            return refuse(stream, options.connections_max).await;
        }
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let log = log.new(o!("session" => id));
        debug!(log, "connection accepted");
        let control = Arc::new(Control::default());
        let session = Session::new(stream, Arc::clone(&self.shared), Arc::clone(&control), log, id);
        let farewell = Farewell { id, ended: ended.clone() };
        let task = self.shared.env.spawn("session", async move {
            let _farewell = farewell;
            session.run().await;
        });
        sessions.insert(id, Running { task, control });
        add(&self.shared.metrics.connections_total, 1);
        self.shared.metrics.connections.store(sessions.len() as u64, Ordering::Relaxed);
    }

    fn reap(&self, sessions: &mut HashMap<u64, Running>, id: u64) {
        sessions.remove(&id);
        self.shared.metrics.connections.store(sessions.len() as u64, Ordering::Relaxed);
    }

    /// Lets every session end what it accepted.
    async fn drain(&self, mut sessions: HashMap<u64, Running>, ended: &mut mpsc::UnboundedReceiver<u64>) {
        info!(self.log, "draining"; "connections" => sessions.len());
        for running in sessions.values() {
            running.control.draining.store(true, Ordering::Release);
            running.control.mailbox.nudge();
        }
        let deadline = self.shared.env.now() + self.shared.options.drain_max;
        while !sessions.is_empty() {
            match self.shared.env.until(deadline, ended.recv()).await {
                Some(Some(id)) => self.reap(&mut sessions, id),
                Some(None) | None => break,
            }
        }
        if !sessions.is_empty() {
            warn!(self.log, "connections cut off at shutdown"; "connections" => sessions.len());
        }
        for mut running in sessions.into_values().map(|running| running.task) {
            running.abort();
        }
    }
}

/// Says that a session has ended, however it did.
struct Farewell {
    id: u64,
    ended: mpsc::UnboundedSender<u64>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody listens any more once the server itself has ended.
        let _ = self.ended.send(self.id);
    }
}

/// Turns a connection away with a reason, without waiting for it.
async fn refuse(mut stream: Box<dyn Socket>, connections_max: usize) {
    let mut out = BytesMut::from(&PREFACE[..]);
    let message = format!("at most {connections_max} connections are served");
    let goaway = Goaway::new(ErrorCode::TOO_MANY_CONNECTIONS, 0, &message);
    wire::put_frame(&mut out, Kind::Goaway, 0, 0, 0, |out| goaway.encode(out));
    // A fresh socket's buffer holds these few bytes; one that does not take them at once is simply closed.
    let at_once = std::future::poll_fn(|cx| {
        let _ = Pin::new(&mut *stream).poll_write(cx, &out);
        let _ = Pin::new(&mut *stream).poll_shutdown(cx);
        Poll::Ready(())
    });
    at_once.await;
}
