//! Requests that have arrived and may not begin yet: behind earlier ones of their connection, behind earlier frames of
//! their transaction, or before a read of the state may speak for the whole group.

use super::{Session, requests::Incoming};
use crate::{
    env::{BoxFuture, Moment},
    node::ReadRefusal,
    server::errors,
    wire::{Consistency, ErrorCode, Header, Opcode, Request, WireError},
};
use bytes::Bytes;
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// What a request waits for.
pub(super) enum Hold {
    /// The end of every earlier request of the connection (flag AFTER).
    Earlier,
    /// Earlier frames of its transaction.
    Transaction,
    /// A read to be confirmed, or a version to be applied.
    Read(BoxFuture<Result<(), ReadRefusal>>),
}

/// A request that waits.
pub(super) struct Held {
    header: Header,
    payload: Bytes,
    deadline: Moment,
    transaction: Option<u64>,
    hold: Hold,
    /// Whether its read has been confirmed, so that it need not wait for that again.
    confirmed: bool,
}

impl Held {
    pub(super) fn request(&self) -> u64 {
        self.header.request_id
    }

    /// Whether later frames of this transaction must wait behind it.
    pub(super) fn belongs_to(&self, transaction: u64) -> bool {
        self.transaction == Some(transaction)
    }
}

impl Session {
    pub(super) fn hold(&mut self, header: &Header, payload: &[u8], incoming: &Incoming<'_>, hold: Hold) {
        let names_itself = (incoming.opcode == Opcode::Begin).then_some(incoming.request);
        self.bytes_in_flight += payload.len();
        self.held.push_back(Held {
            header: *header,
            payload: Bytes::copy_from_slice(payload),
            deadline: incoming.deadline,
            transaction: incoming.tags.transaction.or(names_itself),
            hold,
            confirmed: false,
        });
    }

    /// Whether a read must wait for its confirmation or for a version.
    pub(super) fn read_must_wait(&self, incoming: &Incoming<'_>) -> Option<Hold> {
        let node = Arc::clone(&self.shared.node);
        let wanted = incoming.tags.min_version.filter(|version| *version > node.engine().visible());
        // A bound on staleness is kept by not being stale at all.
        let as_it_is = incoming.tags.consistency == Some(Consistency::Local);
        if (as_it_is || node.reads_locally()) && wanted.is_none() {
            return None;
        }
        let deadline = incoming.deadline;
        Some(Hold::Read(Box::pin(async move {
            node.confirm_read(deadline).await?;
            match wanted {
                Some(version) => node.wait_applied(version, deadline).await,
                None => Ok(()),
            }
        })))
    }

    /// Begins what no longer needs to wait. Returns whether anything began.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut place = 0;
        while place < self.held.len() {
            match self.may_begin(place, cx) {
                Poll::Pending => place += 1,
                Poll::Ready(result) => {
                    progress = true;
                    let Some(held) = self.held.remove(place) else { break };
                    self.begin_held(held, result);
                    // What this one stood before may go now.
                    place = 0;
                }
            }
        }
        progress
    }

    fn may_begin(&mut self, place: usize, cx: &mut Context<'_>) -> Poll<Result<bool, ReadRefusal>> {
        let (request, transaction) = (self.held[place].request(), self.held[place].transaction);
        match &mut self.held[place].hold {
            Hold::Read(wait) => wait.as_mut().poll(cx).map(|result| result.map(|()| true)),
            Hold::Transaction => {
                let behind = self.held.range(..place).any(|held| held.transaction == transaction);
                if behind { Poll::Pending } else { Poll::Ready(Ok(false)) }
            }
            Hold::Earlier => {
                let earlier = place > 0
                    || self.outstanding.keys().any(|id| *id < request)
                    || self.streams.iter().any(|stream| stream.request < request);
                if earlier { Poll::Pending } else { Poll::Ready(Ok(false)) }
            }
        }
    }

    fn begin_held(&mut self, mut held: Held, result: Result<bool, ReadRefusal>) {
        match result {
            Err(refusal) => return self.drop_held(&held, &errors::of_read(refusal)),
            Ok(confirmed) => held.confirmed |= confirmed,
        }
        self.bytes_in_flight -= held.payload.len();
        let payload = held.payload.clone();
        let Ok((decoded, fields)) = Request::decode_with_fields(held.header.opcode, &payload) else {
            return self.respond_error(held.header.opcode, held.request(), &WireError::new(ErrorCode::MALFORMED));
        };
        let incoming = Incoming {
            request: held.request(),
            opcode: decoded.opcode(),
            payload: &payload,
            deadline: held.deadline,
            tags: decoded.tags,
        };
        let needs_read = incoming.tags.transaction.is_none() && incoming.opcode.is_read();
        if needs_read
            && !held.confirmed
            && let Some(hold) = self.read_must_wait(&incoming)
        {
            return self.hold(&held.header, &payload, &incoming, hold);
        }
        self.carry_out(&payload, &incoming, &decoded.body, 0..fields.len());
        self.execute_gets(&payload);
        self.submit(payload.clone());
    }

    /// Ends a request that never began.
    pub(super) fn drop_held(&mut self, held: &Held, error: &WireError) {
        self.bytes_in_flight -= held.payload.len();
        if let Some(transaction) = held.transaction {
            self.transactions.fail(transaction, error);
        }
        self.respond_error(held.header.opcode, held.request(), error);
    }

    pub(super) fn expire_held(&mut self) {
        let now = self.now;
        while let Some(place) = self.held.iter().position(|held| held.deadline <= now) {
            if let Some(held) = self.held.remove(place) {
                self.drop_held(&held, &WireError::new(ErrorCode::DEADLINE_EXCEEDED));
            }
        }
    }
}
