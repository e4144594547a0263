//! A program's end of a connection.

use super::{Buf, ConnectionId, Core, Holder, Segment, Side, State};
use bytes::Bytes;
use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a connection. Dropping it closes it.
pub(super) struct SimulatedSocket {
    pub(super) core: Arc<Core>,
    pub(super) id: ConnectionId,
    pub(super) side: Side,
}

impl State {
    fn read(
        &mut self,
        id: ConnectionId,
        side: Side,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let State { network, dropped, .. } = self;
        let Some(connection) = network.connections.get(&id) else {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        };
        let there = match side {
            Side::Client => connection.client.incoming.arrived.len(),
            Side::Server => connection.server.incoming.arrived.len(),
        };
        let size = network.part(there.min(buffer.remaining()));
        let connection = network.connections.get_mut(&id).expect("it was there");
        let end = connection.end(side);
        if end.holder != Holder::Program {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if size > 0 {
            buffer.put_slice(&end.incoming.arrived[..size]);
            end.incoming.arrived.advance(size);
            end.incoming.unknown += size;
            self.acknowledge(id, side);
            return Poll::Ready(Ok(()));
        }
        if let Some(failed) = end.failed {
            return Poll::Ready(Err(failed.into()));
        }
        if end.incoming.has_ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        State::replace(&mut end.reader, cx.waker(), dropped);
        Poll::Pending
    }

    fn write(&mut self, id: ConnectionId, side: Side, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let State { network, dropped, .. } = self;
        let Some(connection) = network.connections.get_mut(&id) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        let under_way = connection.end(side.other()).incoming.bytes;
        let end = connection.end(side);
        if let Some(failed) = end.failed {
            return Poll::Ready(Err(failed.into()));
        }
        if end.has_finished || end.holder != Holder::Program {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = network.options.buffer_bytes.saturating_sub(under_way);
        if room == 0 && !bytes.is_empty() {
            State::replace(&mut end.writer, cx.waker(), dropped);
            return Poll::Pending;
        }
        let size = network.part(bytes.len().min(room));
        if size > 0 {
            self.trace_of(id, side, format_args!("> {size} bytes"));
            self.trace.bytes(&bytes[..size]);
            self.send_bytes(id, side.other(), Bytes::copy_from_slice(&bytes[..size]));
        }
        Poll::Ready(Ok(size))
    }

    fn finish(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.holder == Holder::Program && end.failed.is_none() && !std::mem::replace(&mut end.has_finished, true) {
            self.trace_of(id, side, format_args!("> end"));
            self.send(id, side.other(), Segment::Fin);
        }
    }

    /// Notes what an end does.
    fn trace_of(&mut self, id: ConnectionId, side: Side, what: std::fmt::Arguments<'_>) {
        if let Some(connection) = self.network.connections.get_mut(&id) {
            self.trace.event(self.now, format_args!("c{} {} {what}", id.0, connection.end(side).address));
        }
    }
}

impl AsyncRead for SimulatedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core.lock().read(self.id, self.side, cx, buffer)
    }
}

impl AsyncWrite for SimulatedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.core.lock().write(self.id, self.side, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core.lock().finish(self.id, self.side);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedSocket {
    fn drop(&mut self) {
        self.core.lock().close(self.id, self.side);
    }
}
