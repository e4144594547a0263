//! Connections: what is opened to an address, and what comes in.

use super::BoxFuture;
use std::{
    io,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// Both directions of a connection.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Where connections come in.
pub trait Listener: Send + Sync + 'static {
    /// The next connection, and where it comes from. Only the last caller is woken.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Socket>, String)>>;
}

impl Listener for TcpListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Socket>, String)>> {
        let (stream, peer) = ready!(TcpListener::poll_accept(self, cx))?;
        // One that is gone already says so to whoever reads it.
        let _ = stream.set_nodelay(true);
        Poll::Ready(Ok((Box::new(stream), peer.to_string())))
    }
}

/// The next connection of a listener, and where it comes from.
pub async fn accept(listener: &dyn Listener) -> io::Result<(Box<dyn Socket>, String)> {
    std::future::poll_fn(|cx| listener.poll_accept(cx)).await
}

/// Opens a TCP connection that sends without delay.
pub(super) fn connect(address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
    let address = address.to_owned();
    Box::pin(async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream) as Box<dyn Socket>)
    })
}
