//! What the node says, and the mailbox through which a session hears it.

use crate::{
    encoding::{ReadError, Reader, Writer},
    txn,
    types::{Version, limits},
    wire::WireError,
};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::task::Waker;

/// Why a request was not carried out. Each says, by its kind, what became of it and whether to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something that the transaction read was written since.
    Conflict {
        /// The full key, as well as the resolver knows it.
        key: Bytes,
        /// When it was written.
        version: Version,
    },
    /// The read version lies below what the resolver remembers.
    TooOld {
        /// The oldest read version that can commit.
        floor: Version,
    },
    /// The deadline passed before it was decided. Nothing happened.
    Expired,
    /// It lost its place in the order. Nothing happened.
    NotApplied,
    /// It was handed over and nobody knows what became of it.
    Unknown,
    /// This node does not lead. Nothing happened.
    NotLeader,
    /// The node has stopped. Nothing happened.
    Unavailable,
    /// The store is as full as it may be. Nothing happened.
    MemoryFull {
        /// Bytes held.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// What was written lately waits to be stored, and memory has no room for more. Nothing happened.
    Behind,
    /// The disk has less room than must stay free. Nothing happened.
    DiskFull {
        /// Bytes that it still has.
        available: u64,
        /// Bytes that must stay free.
        reserve: u64,
    },
    /// The pair's record may have expired, so it cannot be known whether it committed.
    KeyExpired {
        /// Pairs below this version have expired.
        floor: Version,
        /// Whether the request was marked as sent before.
        retried: bool,
    },
    /// The pair was fenced: it never committed and never will.
    Fenced,
    /// The pair names a version that this history has not reached.
    OtherTimeline {
        /// The last version assigned.
        last: Version,
    },
    /// The pair committed as a request of another kind, whose reply does not answer this one.
    PairReused,
    /// It looked at more rows than a one-shot may.
    TooLong {
        /// How many it may.
        rows_max: u64,
    },
    /// The pair was settled, and what was answered then was too long to be recorded.
    ResultDropped {
        /// Whether it committed; else it wrote nothing and never will.
        applied: bool,
    },
    /// A layer refused it.
    Rejected(Rejection),
    /// What the node that leads answered, in its own words.
    Relayed(Box<WireError>),
}

/// A layer's refusal, in the layer's own code. Kept in the record of a marked retry, so it has one encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The layer's code; the server's error code.
    pub code: u16,
    /// For people.
    pub message: String,
    /// The limit that was met, if one was.
    pub limit: Option<u64>,
    /// The value that met it.
    pub actual: Option<u64>,
}

/// An answer's content beyond its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// The results of atomic operations, in order.
    Results(Vec<Bytes>),
    /// What a layer's evaluation answered, as it encoded it.
    Payload(Bytes),
    /// What became of an attempt; `None` when its record has expired.
    Outcome(Option<txn::Record>),
    /// The whole payload that the node that leads answered, its version included.
    Relayed(Bytes),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The commit version, or the version that was read.
    pub version: Version,
    /// The rest.
    pub body: Body,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The session's name for the request.
    pub request: u64,
    /// The answer.
    pub result: Result<Reply, Refusal>,
}

/// Where the node leaves a session's completions. Many writers, one reader.
#[derive(Debug, Default)]
pub struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    completions: Vec<Completion>,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Leaves completions and wakes the reader.
    pub fn deliver(&self, completions: impl IntoIterator<Item = Completion>) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.completions.extend(completions);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the reader without leaving anything.
    pub fn nudge(&self) {
        self.deliver([]);
    }

    /// Takes everything that is there into `into`, which is empty; registers `waker` for what comes later. Returns
    /// whether something was there.
    pub fn take(&self, into: &mut Vec<Completion>, waker: &Waker) -> bool {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.completions, into);
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        !into.is_empty()
    }
}

impl Rejection {
    /// A refusal without numbers.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Rejection {
        Rejection { code, message: message.into(), limit: None, actual: None }
    }
}

const ANSWER_EMPTY: u8 = 0;
const ANSWER_PAYLOAD: u8 = 1;
const ANSWER_REJECTED: u8 = 2;
const ANSWER_TOO_LONG: u8 = 3;
const ANSWER_DROPPED: u8 = 4;

/// An answer that wrote nothing, as the record of a marked retry keeps it:
/// `form u8`, then `version u64 · [payload bytes32]` (a payload over the limit of a record is dropped), or `rows u64`,
/// or `code u16 · message bytes16 · (present u8 · value u64) twice`.
pub(super) fn encode_answer(result: &Result<Reply, Refusal>) -> BytesMut {
    let mut bytes = BytesMut::new();
    match result {
        Ok(Reply { version, body: Body::Payload(payload) }) if payload.len() > limits::RECORDED_RESULT_BYTES_MAX => {
            bytes.put_u8(ANSWER_DROPPED);
            bytes.put_u64(version.0);
        }
        Ok(Reply { version, body: Body::Payload(payload) }) => {
            bytes.put_u8(ANSWER_PAYLOAD);
            bytes.put_u64(version.0);
            bytes.put_bytes32(payload);
        }
        Ok(Reply { version, .. }) => {
            bytes.put_u8(ANSWER_EMPTY);
            bytes.put_u64(version.0);
        }
        Err(Refusal::TooLong { rows_max }) => {
            bytes.put_u8(ANSWER_TOO_LONG);
            bytes.put_u64(*rows_max);
        }
        Err(refusal) => {
            let unnamed = Rejection::new(0, "");
            let rejection = if let Refusal::Rejected(rejection) = refusal { rejection } else { &unnamed };
            let message = &rejection.message.as_bytes()[..rejection.message.floor_char_boundary(1_024)];
            bytes.put_u8(ANSWER_REJECTED);
            bytes.put_u16(rejection.code);
            bytes.put_bytes16(message);
            for number in [rejection.limit, rejection.actual] {
                bytes.put_u8(u8::from(number.is_some()));
                bytes.put_u64(number.unwrap_or(0));
            }
        }
    }
    bytes
}

/// Reads what [`encode_answer`] wrote.
pub(super) fn decode_answer(bytes: &[u8]) -> Result<Reply, Refusal> {
    read_answer(&mut Reader::new(bytes)).unwrap_or(Err(Refusal::Unavailable))
}

/// The rejection in a recorded answer, if it is one.
#[must_use]
pub fn answered_rejection(answer: &[u8]) -> Option<Rejection> {
    match decode_answer(answer) {
        Err(Refusal::Rejected(rejection)) => Some(rejection),
        _ => None,
    }
}

fn read_answer(reader: &mut Reader<'_>) -> Result<Result<Reply, Refusal>, ReadError> {
    Ok(match reader.u8()? {
        ANSWER_REJECTED => {
            let code = reader.u16()?;
            let message = String::from_utf8_lossy(reader.bytes16()?).into_owned();
            let mut number = || -> Result<Option<u64>, ReadError> {
                let present = reader.u8()? == 1;
                let value = reader.u64()?;
                Ok(present.then_some(value))
            };
            let (limit, actual) = (number()?, number()?);
            Err(Refusal::Rejected(Rejection { code, message, limit, actual }))
        }
        ANSWER_TOO_LONG => Err(Refusal::TooLong { rows_max: reader.u64()? }),
        ANSWER_DROPPED => Err(Refusal::ResultDropped { applied: false }),
        form => {
            let version = Version(reader.u64()?);
            let payload = form == ANSWER_PAYLOAD;
            let body = if payload { Body::Payload(Bytes::copy_from_slice(reader.bytes32()?)) } else { Body::Empty };
            Ok(Reply { version, body })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn recorded_answers_come_back() {
        let rejection = Rejection { code: 7, message: "no".into(), limit: Some(3), actual: None };
        for result in [
            Ok(Reply { version: Version(4), body: Body::Empty }),
            Ok(Reply { version: Version(4), body: Body::Payload(Bytes::from_static(b"found")) }),
            Err(Refusal::Rejected(rejection)),
            Err(Refusal::TooLong { rows_max: 9 }),
        ] {
            assert_eq!(decode_answer(&encode_answer(&result)), result);
        }
        assert_eq!(decode_answer(&[9]), Err(Refusal::Unavailable));
    }

    #[test]
    fn a_delivery_wakes_the_reader_once() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mailbox = Mailbox::default();
        let mut taken = Vec::new();
        assert!(!mailbox.take(&mut taken, &waker));
        let completion = Completion { request: 3, result: Err(Refusal::Unknown) };
        mailbox.deliver([completion.clone()]);
        mailbox.deliver([completion.clone()]);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(mailbox.take(&mut taken, &waker));
        assert_eq!(taken, [completion.clone(), completion]);
    }
}
