//! Opening sockets: what the environment opens, or whatever a test has instead.

use crate::env::{BoxFuture, Env, Socket};
use std::io;

/// Opens sockets.
pub trait Connector: Send + Sync {
    /// Opens a socket to `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>>;
}

/// The environment's own connections.
impl Connector for Env {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        Env::connect(self, address)
    }
}
