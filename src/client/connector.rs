//! Opening sockets: TCP, or whatever a simulator has instead.

use crate::env::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Both directions of a connection.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Opens sockets.
pub trait Connector: Send + Sync {
    /// Opens a socket to `host:port`.
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>>;
}

/// TCP, without delay.
pub(super) struct Tcp;

impl Connector for Tcp {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(Box::new(socket) as Box<dyn Socket>)
        })
    }
}
