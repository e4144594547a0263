//! Requests that have arrived and may not begin yet: behind earlier ones of their connection, behind earlier frames of
//! their transaction, or before a read of the state may speak for the whole group.

use super::{
    Session,
    requests::{Incoming, of_attempt},
    streams::UNWRITTEN_BYTES_MAX,
};
use crate::{
    env::{BoxFuture, Moment},
    node::ReadRefusal,
    server::errors,
    wire::{Consistency, ErrorCode, Header, Opcode, Request, WireError},
};
use bytes::Bytes;
use std::{
    collections::HashSet,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
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
    /// Credit that was granted to it before it began.
    credit: i64,
}

impl Held {
    pub(super) fn request(&self) -> u64 {
        self.header.request_id
    }

    /// What a scan may be sent once it has begun, beyond what it asked with.
    pub(super) fn credit(&mut self) -> &mut i64 {
        &mut self.credit
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
        let held = Held {
            header: *header,
            payload: Bytes::copy_from_slice(payload),
            deadline: incoming.deadline,
            transaction: incoming.tags.transaction.or(names_itself),
            hold,
            confirmed: false,
            credit: 0,
        };
        self.keep(held);
    }

    /// Puts a request among those that wait, in the order in which they came.
    fn keep(&mut self, held: Held) {
        let place = self.held.partition_point(|other| other.request() < held.request());
        self.held.insert(place, held);
    }

    /// Whether a read must wait for its confirmation or for a version.
    pub(super) fn read_must_wait(&self, incoming: &Incoming<'_>) -> Option<Hold> {
        let node = Arc::clone(&self.shared.node);
        let wanted = incoming.tags.min_version.filter(|version| *version > node.engine().visible());
        let as_it_is = match incoming.tags.consistency {
            Some(Consistency::Local) => true,
            Some(Consistency::BoundedStaleness { staleness_ms_max }) => {
                node.staleness() <= Duration::from_millis(u64::from(staleness_ms_max))
            }
            Some(Consistency::Linearizable) | None => false,
        };
        let as_it_is = as_it_is || node.reads_locally();
        if as_it_is && wanted.is_none() {
            return None;
        }
        let (deadline, is_peer) = (incoming.deadline, self.is_peer);
        Some(Hold::Read(Box::pin(async move {
            match as_it_is {
                true => {}
                // Two nodes that each believe that the other leads would ask each other for ever.
                false if is_peer => _ = node.confirm_read_as_leader(deadline).await?,
                false => _ = node.confirm_read(deadline).await?,
            }
            match wanted {
                Some(version) => node.wait_applied(version, deadline).await,
                None => Ok(()),
            }
        })))
    }

    /// Begins what no longer needs to wait. Returns whether anything began.
    ///
    /// One pass, in order: what waits only ever waits for what came before it. It pauses while replies wait to be
    /// written, for what begins here was admitted without one.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut place = 0;
        let mut waiting: HashSet<u64> = HashSet::new();
        while place < self.held.len() && self.unwritten() <= UNWRITTEN_BYTES_MAX {
            if let Poll::Ready(result) = self.may_begin(place, &waiting, cx)
                && let Some(held) = self.held.remove(place)
            {
                progress = true;
                if !self.begin_held(held, result) {
                    continue;
                }
            }
            waiting.extend(self.held[place].transaction);
            place += 1;
        }
        progress
    }

    /// `waiting`: the transactions of what waits before it.
    fn may_begin(
        &mut self,
        place: usize,
        waiting: &HashSet<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, ReadRefusal>> {
        let (request, transaction) = (self.held[place].request(), self.held[place].transaction);
        match &mut self.held[place].hold {
            Hold::Read(wait) => wait.as_mut().poll(cx).map(|result| result.map(|()| true)),
            Hold::Transaction => {
                let behind = transaction.is_some_and(|transaction| waiting.contains(&transaction));
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

    /// Begins a request, or keeps it in its place to wait for something else. Returns whether it waits.
    fn begin_held(&mut self, mut held: Held, result: Result<bool, ReadRefusal>) -> bool {
        match result {
            Err(refusal) => {
                let error = self.with_leader(errors::of_read(refusal));
                self.drop_held(&held, &error);
                return false;
            }
            Ok(confirmed) => held.confirmed |= confirmed,
        }
        let payload = held.payload.clone();
        let Ok((decoded, fields)) = Request::decode_with_fields(held.header.opcode, &payload) else {
            self.drop_held(&held, &WireError::new(ErrorCode::MALFORMED));
            return false;
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
            self.keep(Held { hold, ..held });
            return true;
        }
        self.bytes_in_flight -= payload.len();
        self.carry_out(&payload, &incoming, &decoded.body, 0..fields.len());
        if let Some(stream) = self.streams.back_mut().filter(|stream| stream.request == incoming.request) {
            stream.credit += held.credit;
        }
        self.execute_gets(&payload);
        self.submit(payload.clone());
        false
    }

    /// Ends a request that never began.
    pub(super) fn drop_held(&mut self, held: &Held, error: &WireError) {
        self.bytes_in_flight -= held.payload.len();
        if let Some(transaction) = held.transaction {
            self.transactions.fail(transaction, error);
        }
        let error = of_attempt(error.clone(), held.header.opcode, &held.payload);
        self.respond_error(held.header.opcode, held.request(), &error);
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
