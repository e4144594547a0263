//! A [`TestServer`] on a thread and a runtime of its own, for tests that block: raw connections, many threads.

use super::server::{TestOptions, TestServer};
use crate::{consensus::Faults, node::Node};
use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};
use tokio::sync::oneshot;

/// Worker threads of a hosted server's runtime.
const WORKERS: usize = 2;

/// A server on a thread of its own; it shuts down gracefully when dropped.
pub struct HostedServer {
    address: SocketAddr,
    node: Arc<Node>,
    faults: Arc<Faults>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HostedServer {
    /// An empty server with default options.
    #[must_use]
    pub fn start() -> HostedServer {
        HostedServer::start_with(TestOptions::default())
    }

    /// An empty server with these options. Panics where it cannot start.
    #[must_use]
    pub fn start_with(options: TestOptions) -> HostedServer {
        let (started, when_started) = mpsc::channel();
        let (shutdown, when_shut) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let server = TestServer::start_with(options).await;
                let parts = (server.address(), Arc::clone(server.node()), server.shared_faults());
                started.send(parts).expect("the test waits for it");
                drop(when_shut.await);
                server.stop().await;
            });
        });
        let (address, node, faults) = when_started.recv().expect("the server starts");
        HostedServer { address, node, faults, shutdown: Some(shutdown), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node behind it.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Makes the group behind it misbehave.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Begins a graceful shutdown, without waiting for it.
    pub fn begin_shutdown(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }
}

impl Drop for HostedServer {
    fn drop(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed; a second one here would abort the test run.
            let _ = thread.join();
        }
    }
}
