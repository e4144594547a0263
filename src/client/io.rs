//! The loop that moves bytes between a socket and a [`Connection`].
//!
//! Driven by hand: a turn decodes everything that has arrived, hands all of it over, then writes everything that is
//! queued in one piece. A timer looks for what is overdue, and asks a silent server for a sign of life.

use super::connection::{After, Connection};
use super::error::Error;
use crate::env::{BoxFuture, Env, Moment, Socket};
use crate::types::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::wire::{Codec, Frame};
use bytes::{Buf, BytesMut};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio_util::codec::Decoder;

/// How often overdue requests are looked for while some are out.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Reads of one turn, so that a flood of replies does not keep requests from being written.
const READS_MAX: usize = 16;
/// While requests are out and another server could do them, a silent one is asked for a sign of life after so long, and
/// given up so long after that: early enough to do them there before the usual deadline.
const PROBE_AFTER: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_secs(4);
/// Room for arriving bytes.
const READ_BYTES: usize = 64 << 10;
/// A buffer of written bytes that has grown beyond this is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Why [`Io::run`] returned.
#[derive(Debug)]
pub(super) enum Ending {
    /// The connection takes nothing more, or should be left; it still has to be run to its end.
    Leave(After),
    /// The connection is over.
    Ended(Error),
}

/// A socket and what is half done on it. Dropping it ends the connection.
pub(super) struct Io {
    pub(super) connection: Arc<Connection>,
    socket: Box<dyn Socket>,
    codec: Codec,
    arrived: BytesMut,
    frames: Vec<Frame>,
    leaving: BytesMut,
    env: Env,
    timer: BoxFuture<()>,
    timer_at: Moment,
    heard_at: Moment,
    asked_at: Option<Moment>,
    keepalive: Duration,
    draining: bool,
    /// Whether those who are ready have had their turn since the queue was last written.
    gathered: bool,
}

impl Io {
    /// `arrived` is what was read beyond the handshake.
    pub(super) fn new(
        connection: Arc<Connection>,
        socket: Box<dyn Socket>,
        arrived: BytesMut,
        keepalive: Duration,
        env: Env,
    ) -> Io {
        let now = env.now();
        let keepalive = keepalive.max(TICK);
        let timer_at = now + keepalive;
        Io {
            connection,
            socket,
            codec: Codec::new(FRAME_PAYLOAD_BYTES_MAX),
            arrived,
            frames: Vec::new(),
            leaving: BytesMut::new(),
            timer: env.sleep_until(timer_at),
            timer_at,
            heard_at: now,
            asked_at: None,
            keepalive,
            env,
            draining: false,
            gathered: false,
        }
    }

    /// Runs until the connection ends or should be left.
    pub(super) async fn run(&mut self) -> Ending {
        poll_fn(|cx| self.turn(cx)).await
    }

    /// Runs until everything that is out has been answered, or the connection ends.
    pub(super) async fn run_to_end(mut self) {
        self.draining = true;
        loop {
            if let Ending::Ended(error) = self.run().await {
                self.connection.end(error);
                return;
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        match self.step(cx) {
            Err(error) => Poll::Ready(Ending::Ended(error)),
            Ok(After::Continue) => Poll::Pending,
            Ok(after) => Poll::Ready(Ending::Leave(after)),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<After, Error> {
        let after = self.read(cx)?;
        self.write(cx)?;
        if self.draining && self.connection.is_finished() {
            return Err(Error::lost("the connection was closed after its last answer"));
        }
        self.watch(cx)?;
        Ok(after)
    }

    /// Hands over all that has arrived.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<After, Error> {
        let mut after = self.decode()?;
        for _ in 0..READS_MAX {
            if self.arrived.capacity() - self.arrived.len() < READ_BYTES / 4 {
                self.arrived.reserve(READ_BYTES);
            }
            match pin!(self.socket.read_buf(&mut self.arrived)).poll(cx) {
                Poll::Pending => return Ok(after),
                Poll::Ready(Ok(0)) => return Err(Error::lost("the server closed the connection")),
                Poll::Ready(Ok(_)) => {
                    // Not where bytes are decoded: a part of a frame stays there, and is no sign of life the next time.
                    (self.heard_at, self.asked_at) = (self.env.now(), None);
                    after = after.max(self.decode()?);
                }
                Poll::Ready(Err(error)) => return Err(Error::lost("reading from the server").with_source(error)),
            }
        }
        cx.waker().wake_by_ref();
        Ok(after)
    }

    fn decode(&mut self) -> Result<After, Error> {
        if self.arrived.is_empty() {
            return Ok(After::Continue);
        }
        let bad = |error| Error::protocol("the server's bytes are not frames").with_source(error);
        while let Some(frame) = self.codec.decode(&mut self.arrived).map_err(bad)? {
            self.frames.push(frame);
        }
        self.connection.receive(&mut self.frames)
    }

    /// Writes all that is queued.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.leaving.is_empty() && !self.gathered && self.connection.has_queue() {
            // A scheduler may run us right after the first caller that queued something. Others are often ready too, woken
            // by the same batch of replies: one turn later their requests leave in the same write.
            self.gathered = true;
            cx.waker().wake_by_ref();
            return Ok(());
        }
        self.gathered = false;
        let failed = |error| Error::lost("writing to the server").with_source(error);
        loop {
            if self.leaving.is_empty() {
                if self.leaving.capacity() > KEPT_BYTES_MAX {
                    self.leaving = BytesMut::new();
                }
                if !self.connection.take_queue(&mut self.leaving, cx) {
                    // A socket that keeps bytes to itself must let them go now; TCP does so anyway.
                    return match Pin::new(&mut self.socket).poll_flush(cx) {
                        Poll::Ready(Err(error)) => Err(failed(error)),
                        _ => Ok(()),
                    };
                }
            }
            match Pin::new(&mut self.socket).poll_write(cx, &self.leaving) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Error::lost("the socket takes no more bytes")),
                Poll::Ready(Ok(written)) => {
                    self.leaving.advance(written);
                    self.connection.wrote(written);
                }
                Poll::Ready(Err(error)) => return Err(failed(error)),
            }
        }
    }

    /// Looks for what is overdue.
    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            let now = self.env.now();
            let wanted = now + if self.connection.is_idle() { self.keepalive } else { TICK };
            if self.timer_at > wanted {
                self.set_timer(wanted);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.connection.sweep(now);
            self.keep_alive(now)?;
            self.set_timer(wanted);
        }
    }

    fn set_timer(&mut self, at: Moment) {
        self.timer = self.env.sleep_until(at);
        self.timer_at = at;
    }

    fn keep_alive(&mut self, now: Moment) -> Result<(), Error> {
        let hurried = self.connection.is_awaited() && self.connection.has_alternative();
        let (after, patience) = if hurried {
            (self.keepalive.min(PROBE_AFTER), self.keepalive.min(PROBE_PATIENCE))
        } else {
            (self.keepalive, self.keepalive)
        };
        match self.asked_at {
            Some(at) if now - at >= patience => Err(Error::lost("the server has been silent for too long")),
            None if now - self.heard_at >= after && self.connection.ping(None).is_ok() => {
                self.asked_at = Some(now);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.connection.end(Error::closed());
    }
}

/// Completes the write of bytes that stand outside the queue: the handshake's.
pub(super) async fn write_all(socket: &mut dyn Socket, mut bytes: &[u8]) -> std::io::Result<()> {
    poll_fn(|cx| {
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            bytes = &bytes[written..];
        }
        Pin::new(&mut *socket).poll_flush(cx)
    })
    .await
}
