//! Tests of the log.

#![allow(clippy::unwrap_used)]

mod damage;
mod driver;
mod faults;
mod model;
mod real;
mod refusals;

use super::*;
use std::sync::mpsc;

/// An entry whose payload follows from its place and who put it there.
pub(super) fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let payload: Vec<u8> = (0..bytes).map(|byte| (byte as u64 * 7 + index * 31 + term) as u8).collect();
    LogEntry { id: id(term, index), kind: index as u8 % 3, payload: payload.into() }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), leader: NodeId(1), index }
}

pub(super) fn vote(term: u64) -> Vote {
    Vote { term: Term(term), node: NodeId(1), committed: term % 2 == 1 }
}

pub(super) fn options(segment_bytes: u64) -> LogOptions {
    let owner = Owner { cluster: ClusterId([7; 16]), node: NodeId(1) };
    LogOptions { segment_bytes, cache_bytes_max: 8 << 10, owner }
}

/// A callback and where its answer arrives.
pub(super) fn done() -> (Done, mpsc::Receiver<Result<(), LogError>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}
