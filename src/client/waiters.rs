//! Who waits for which reply on one connection.

use super::error::Error;
use super::inbox::Inbox;
use super::ledger::Ledger;
use crate::env::Moment;
use bytes::Bytes;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};
use tokio::sync::oneshot;

/// Why a request has no reply.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server refused it.
    Refused(Error),
    /// The connection ended. Only what was sent whole can have been done.
    Lost {
        /// Whether the server may have received it.
        sent: bool,
        /// Why.
        cause: Error,
    },
    /// Nobody waits any longer.
    GaveUp {
        /// Whether the server may have received it.
        sent: bool,
    },
}

/// A reply's payload, or why there is none.
pub(super) type Reply = Result<Bytes, Failure>;

/// Where a reply goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// To a caller.
    Caller(oneshot::Sender<Reply>),
    /// To a scan, which gets chunks besides.
    Scan(Arc<Inbox>),
    /// To a transaction, which keeps account of what it need not wait for.
    Transaction(Arc<Ledger>),
    /// The caller is gone; the reply is still to come.
    Nobody,
}

/// A request whose terminal frame has not come.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The opcode that its reply must repeat.
    pub(super) opcode: u16,
    /// Where the reply goes.
    pub(super) sink: Sink,
    /// When to stop waiting.
    pub(super) give_up: Option<Moment>,
    /// Where its frame ends in the stream of bytes sent.
    pub(super) ends_at: u64,
    /// How long its payload is: what it takes of the bytes in flight.
    pub(super) payload_bytes: usize,
    /// When to tell the server that nobody waits any longer.
    pub(super) cancel: Cancelling,
    /// Whether a chunk has come.
    pub(super) started: bool,
}

/// When a CANCEL is sent for a request that nobody waits for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancelling {
    /// A write goes on.
    Never,
    /// A read is of no use.
    AtOnce,
    /// A scan of a transaction, which would fail with a scan that was cancelled before it was begun.
    OnceStarted,
}

impl Waiter {
    /// Nobody waits any longer. Returns whether to send a CANCEL now.
    pub(super) fn abandon(&mut self) -> bool {
        self.sink = Sink::Nobody;
        self.give_up = None;
        match self.cancel {
            Cancelling::Never => false,
            Cancelling::OnceStarted if !self.started => false,
            Cancelling::OnceStarted | Cancelling::AtOnce => {
                self.cancel = Cancelling::Never;
                true
            }
        }
    }
}

/// Something to hand over once the connection's lock is released.
pub(super) enum Delivery {
    /// To a caller.
    Caller(oneshot::Sender<Reply>, Reply),
    /// A chunk of a scan.
    Chunk(Arc<Inbox>, Bytes),
    /// The end of a scan.
    End(Arc<Inbox>, Reply),
    /// To a transaction: request id, opcode, reply.
    Transaction(Arc<Ledger>, u16, Reply),
    /// There is room for one more request.
    Room(oneshot::Sender<()>),
    /// The echo of a ping.
    Pong(oneshot::Sender<()>),
}

impl Delivery {
    /// Of the terminal reply to a request; nothing if nobody wants it.
    pub(super) fn terminal(sink: Sink, opcode: u16, reply: Reply) -> Option<Delivery> {
        match sink {
            Sink::Caller(caller) => Some(Delivery::Caller(caller, reply)),
            Sink::Scan(inbox) => Some(Delivery::End(inbox, reply)),
            Sink::Transaction(ledger) => Some(Delivery::Transaction(ledger, opcode, reply)),
            Sink::Nobody => None,
        }
    }

    /// Hands it over. Whoever is gone misses nothing.
    pub(super) fn deliver(self) {
        match self {
            Delivery::Caller(caller, reply) => _ = caller.send(reply),
            Delivery::Chunk(inbox, payload) => inbox.push(payload),
            Delivery::End(inbox, reply) => inbox.end(reply),
            Delivery::Transaction(ledger, opcode, reply) => ledger.note(opcode, reply),
            Delivery::Room(caller) => _ = caller.send(()),
            Delivery::Pong(caller) => _ = caller.send(()),
        }
    }
}

/// Request ids count up, so that spreading them is all that a hash has to do. It has no seed: what goes over all waiters
/// does so in the same order in every run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Waiters, by request id.
pub(super) type Waiters = HashMap<u64, Waiter, BuildHasherDefault<Spread>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_spread() {
        let hash = |id: u64| {
            let mut spread = Spread::default();
            spread.write_u64(id);
            spread.finish()
        };
        let tops: std::collections::BTreeSet<_> = (1..=64).map(|id| hash(id) >> 57).collect();
        assert!(tops.len() > 40, "{}", tops.len());
        let mut spread = Spread::default();
        spread.write(b"ab");
        assert_ne!(spread.finish(), hash(0));
    }

    #[test]
    fn who_is_gone_misses_nothing() {
        let (sender, _) = oneshot::channel();
        Delivery::Caller(sender, Ok(Bytes::new())).deliver();
        assert!(Delivery::terminal(Sink::Nobody, 1, Ok(Bytes::new())).is_none());
    }
}
