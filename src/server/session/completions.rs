//! What the node says about requests that it was handed.

use super::{Session, reads::put_payload, requests::Outstanding};
use crate::{
    node::{Body, Completion, Refusal, Reply},
    server::{errors, evaluate},
    txn::{Record, Recorded},
    wire::{
        AtomicReply, Blob, CommitReply, ErrorCode, ListBuf, Opcode, OutcomeReply, OutcomeState, VersionReply, WireError,
    },
};
use bytes::{Bytes, BytesMut};
use std::task::Context;

impl Session {
    pub(super) fn poll_completions(&mut self, cx: &mut Context<'_>) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        let any = self.control.mailbox.take(&mut completions, cx.waker());
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        any
    }

    fn complete(&mut self, completion: Completion) {
        // Gone where the deadline was faster: it has been answered.
        let Some(outstanding) = self.forget(completion.request) else { return };
        match completion.result {
            Ok(reply) => self.put_reply(&outstanding, completion.request, &reply),
            Err(refusal) => {
                let error = errors::of_refusal(refusal, outstanding.keyed, outstanding.retried);
                let error = self.with_leader(error);
                self.respond_error(outstanding.opcode.number(), completion.request, &error);
            }
        }
    }

    /// Says who leads, where that is what the error is about.
    pub(super) fn with_leader(&self, mut error: WireError) -> WireError {
        if error.code == ErrorCode::NOT_LEADER && error.leader.is_none() {
            error.leader = self.other_leader().map(String::into_boxed_str);
        }
        error
    }

    /// Where clients find the node that leads, if it is another and known.
    pub(super) fn other_leader(&self) -> Option<String> {
        let leader = self.shared.node.leader()?;
        let elsewhere = leader.node != self.shared.node.identity().node && !leader.addresses.client.is_empty();
        elsewhere.then_some(leader.addresses.client)
    }

    fn forget(&mut self, request: u64) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(&request)?;
        self.bytes_in_flight -= outstanding.payload_bytes as usize;
        Some(outstanding)
    }

    /// Ends a request that the node was handed, or was to be.
    pub(super) fn finish_with_error(&mut self, request: u64, error: &WireError) {
        let Some(outstanding) = self.forget(request) else { return };
        match outstanding.retried {
            true => self.respond_error(outstanding.opcode.number(), request, &errors::unsettled(error.clone())),
            false => self.respond_error(outstanding.opcode.number(), request, error),
        }
    }

    #[inline]
    fn put_reply(&mut self, outstanding: &Outstanding, request: u64, reply: &Reply) {
        let opcode = outstanding.opcode;
        match encode(opcode, reply) {
            Encoded::Version => {
                self.respond(opcode, request, |out| VersionReply { version: reply.version }.encode(out));
            }
            Encoded::Written(write) => self.respond(opcode, request, |out| write(out, reply)),
            Encoded::Evaluated => self.respond(opcode, request, |out| put_evaluated(out, opcode, reply)),
            Encoded::Mismatch => {
                let error = errors::of_refusal(Refusal::PairReused, outstanding.keyed, outstanding.retried);
                self.respond_error(opcode.number(), request, &error);
            }
        }
    }
}

enum Encoded {
    /// The version alone.
    Version,
    Written(fn(&mut BytesMut, &Reply)),
    /// What an evaluation answered.
    Evaluated,
    /// The reply is of another kind of request: the pair was used twice.
    Mismatch,
}

#[inline]
fn encode(opcode: Opcode, reply: &Reply) -> Encoded {
    match (opcode, &reply.body) {
        (Opcode::Put | Opcode::Delete, Body::Empty | Body::Results(_)) => Encoded::Version,
        (Opcode::Atomic, Body::Empty | Body::Results(_)) => Encoded::Written(put_atomic),
        (Opcode::Commit, Body::Empty | Body::Results(_)) => Encoded::Written(put_commit),
        (Opcode::Outcome, Body::Outcome(_)) => Encoded::Written(put_outcome),
        (_, Body::Relayed(_)) => Encoded::Written(put_relayed),
        (_, Body::Payload(payload)) if evaluate::answered(opcode, payload).is_some() => Encoded::Evaluated,
        _ => Encoded::Mismatch,
    }
}

fn results(reply: &Reply) -> &[Bytes] {
    if let Body::Results(results) = &reply.body { results } else { &[] }
}

fn put_atomic(out: &mut BytesMut, reply: &Reply) {
    let result = results(reply).first().map(|result| &result[..]);
    AtomicReply { version: reply.version, result }.encode(out);
}

fn put_commit(out: &mut BytesMut, reply: &Reply) {
    let list = list_of(results(reply));
    CommitReply { version: reply.version, results: list.as_list() }.encode(out);
}

/// The leader answered in the client's own protocol.
fn put_relayed(out: &mut BytesMut, reply: &Reply) {
    if let Body::Relayed(payload) = &reply.body {
        out.extend_from_slice(payload);
    }
}

fn put_evaluated(out: &mut BytesMut, opcode: Opcode, reply: &Reply) {
    if let Body::Payload(payload) = &reply.body {
        put_payload(out, reply.version, evaluate::answered(opcode, payload).unwrap_or_default());
    }
}

fn put_outcome(out: &mut BytesMut, reply: &Reply) {
    let Body::Outcome(record) = &reply.body else { return };
    let mut list = ListBuf::new();
    let state = match record {
        None => OutcomeState::Expired,
        Some(Record::Never) => OutcomeState::Never,
        Some(Record::Answered(..)) => OutcomeState::Rejected { code: answered_code(record.as_ref()) },
        Some(Record::Committed(version, Recorded::Dropped)) => {
            OutcomeState::Committed { version: *version, results: None }
        }
        Some(Record::Committed(version, recorded)) => {
            list = match recorded {
                Recorded::Results(results) => list_of(results),
                Recorded::Reply(reply) => list_of(&[evaluate::answered_any(reply)]),
                Recorded::Dropped => ListBuf::new(),
            };
            OutcomeState::Committed { version: *version, results: Some(list.as_list()) }
        }
    };
    OutcomeReply { state }.encode(out);
    drop(list);
}

/// The code that a marked retry was answered with; one that was answered without an error did not commit either.
fn answered_code(record: Option<&Record>) -> ErrorCode {
    match record {
        Some(Record::Answered(_, answer)) => {
            crate::node::answered_rejection(answer).map_or(ErrorCode::NO_ERROR, |rejection| ErrorCode(rejection.code))
        }
        _ => ErrorCode::NO_ERROR,
    }
}

fn list_of(results: &[Bytes]) -> ListBuf {
    let mut list = ListBuf::new();
    results.iter().for_each(|result| list.push(&Blob(result)));
    list
}
