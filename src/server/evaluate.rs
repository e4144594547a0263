//! What looks before it writes, as functions over a view: one-shot transactions, delete-range, opening a keyspace.
//!
//! Each reads its request again from its own copy of the payload, for it runs later, in the committer's turn, and
//! answers an opcode and the reply without its version; the session checks the one and puts the version before the other.

use super::errors;
use crate::{
    catalog,
    node::{Evaluation, EvaluationError, Overgrown, Rejection, View},
    txn::{self, AtomicOp, Mutation},
    types::{FullKey, KeyRange, Version, limits},
    wire::{
        Condition, DeleteRangeReply, ErrorCode, Execute, ExecuteReply, Field, Found, List, ListBuf, Op, OpResult,
        Opcode, OpenKeyspaceReply, Row, Test, VersionReply, WireError,
    },
};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::ControlFlow;

fn reject(error: WireError) -> EvaluationError {
    let (limit, actual) = (error.limit, error.actual);
    Rejection { code: error.code.0, message: error.message.into_owned(), limit, actual }.into()
}

fn overgrown(error: Overgrown) -> EvaluationError {
    reject(match error {
        Overgrown::Mutation(error) => errors::of_mutation(&error),
        Overgrown::Transaction { bytes } => WireError::new(ErrorCode::TRANSACTION_TOO_LARGE)
            .with_bound(limits::TRANSACTION_BYTES_MAX as u64, bytes as u64),
    })
}

/// What an evaluation answers, and what the record of its pair keeps: the opcode that it answers, then the reply without
/// its version. The opcode stands in it because a pair that is used for another kind of request must not be answered with
/// bytes that mean something else there.
fn answer(opcode: Opcode, reply: &BytesMut) -> Bytes {
    let mut version = BytesMut::new();
    VersionReply { version: Version::ZERO }.encode(&mut version);
    let mut answer = BytesMut::with_capacity(2 + reply.len());
    answer.put_u16(opcode.number());
    answer.put_slice(&reply[version.len()..]);
    answer.freeze()
}

/// The reply in an answer, without its version, if it answers this kind of request.
pub(super) fn answered(opcode: Opcode, answer: &[u8]) -> Option<&[u8]> {
    answer.strip_prefix(&opcode.number().to_be_bytes())
}

/// The reply in an answer, whatever it answers.
pub(super) fn answered_any(answer: &Bytes) -> Bytes {
    answer.slice(answer.len().min(2)..)
}

/// DELETE_RANGE: deletes what is there at its place in the order.
pub(super) fn delete_range(range: KeyRange) -> Evaluation {
    Box::new(move |view| {
        let deleted = delete_all(view, &range)?;
        let mut reply = BytesMut::new();
        DeleteRangeReply { version: Version::ZERO, deleted }.encode(&mut reply);
        Ok(answer(Opcode::DeleteRange, &reply))
    })
}

fn delete_all(view: &mut View<'_>, range: &KeyRange) -> Result<u64, EvaluationError> {
    let mut keys: Vec<FullKey> = Vec::new();
    let mut bytes = 0;
    view.scan(range, false, &mut |key, _, _| {
        bytes += Mutation::Delete { key }.encoded_len();
        keys.push(Bytes::copy_from_slice(key));
        // Past the limit the writes below refuse; what more there is need not be gathered.
        if bytes > limits::TRANSACTION_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    for key in &keys {
        view.write(Mutation::Delete { key }).map_err(overgrown)?;
    }
    Ok(keys.len() as u64)
}

/// OPEN_KEYSPACE that may create.
pub(super) fn open_keyspace(name: String) -> Evaluation {
    Box::new(move |view| {
        let (keyspace, created) = catalog::find_or_create(view, &name, ErrorCode::BAD_NAME.0)?;
        let mut reply = BytesMut::new();
        OpenKeyspaceReply { version: Version::ZERO, keyspace, created }.encode(&mut reply);
        Ok(answer(Opcode::OpenKeyspace, &reply))
    })
}

/// EXECUTE: conditions, then one branch of operations, each seeing those before it.
pub(super) fn execute(payload: Bytes) -> Evaluation {
    Box::new(move |view| {
        let mut reader = crate::encoding::Reader::new(&payload);
        let execute = Execute::read(&mut reader).map_err(|error| reject(error.into()))?;
        let holds = all_hold(view, execute.conditions)?;
        let ops = if holds { execute.then_ops } else { execute.else_ops };
        let mut results = ListBuf::new();
        for op in &ops {
            run(view, &op, &mut results)?;
        }
        let mut reply = BytesMut::with_capacity(16 + results.encoded_bytes());
        ExecuteReply { version: Version::ZERO, then: holds, results: results.as_list() }.encode(&mut reply);
        Ok(answer(Opcode::Execute, &reply))
    })
}

fn all_hold(view: &View<'_>, conditions: List<'_, Condition<'_>>) -> Result<bool, EvaluationError> {
    for condition in &conditions {
        let found = view.get(condition.key)?;
        let value = found.as_ref().map(|(_, value)| &value[..]);
        let version = found.as_ref().map_or(Version::ZERO, |(version, _)| *version);
        let holds = match condition.test {
            Test::Exists => found.is_some(),
            Test::Absent => found.is_none(),
            Test::ValueEquals(expected) => value == Some(expected),
            Test::ValueDiffers(expected) => value != Some(expected),
            Test::VersionEquals(expected) => version == expected,
            Test::VersionAtMost(expected) => version <= expected,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run(view: &mut View<'_>, op: &Op<'_>, results: &mut ListBuf) -> Result<(), EvaluationError> {
    match *op {
        Op::Put { key, value } => {
            view.write(Mutation::Put { key, value }).map_err(overgrown)?;
            results.push(&OpResult::Put);
        }
        Op::Delete { key } => {
            view.write(Mutation::Delete { key }).map_err(overgrown)?;
            results.push(&OpResult::Delete);
        }
        Op::Atomic { op, key, operand } => {
            let op =
                AtomicOp::from_u8(op).ok_or_else(|| reject(errors::of_mutation(&txn::MutationError::UnknownOp(op))))?;
            let old = view.get(key)?;
            let effect = txn::evaluate(op, old.as_ref().map(|(_, value)| &value[..]), operand);
            view.write(Mutation::Atomic { op, key, operand }).map_err(overgrown)?;
            results.push(&OpResult::Atomic(&effect.result));
        }
        Op::DeleteRange { range } => {
            let deleted = delete_all(view, &range.to_key_range())?;
            results.push(&OpResult::DeleteRange(deleted));
        }
        Op::Get { key } => {
            let found = view.get(key)?;
            let found = found.as_ref().map(|(version, value)| Found { version: *version, value });
            results.push(&OpResult::Get(found));
        }
        Op::Range { range, reverse, keys_only, limit } => {
            let (rows, more) = rows_of(view, &range.to_key_range(), reverse, keys_only, limit, results)?;
            results.push(&OpResult::Range { more, rows: rows.as_list() });
        }
    }
    check_reply(results)
}

fn rows_of(
    view: &View<'_>,
    range: &KeyRange,
    reverse: bool,
    keys_only: bool,
    limit: u32,
    results: &ListBuf,
) -> Result<(ListBuf, bool), EvaluationError> {
    let mut rows = ListBuf::new();
    let mut more = false;
    let written = results.encoded_bytes();
    view.scan(range, reverse, &mut |key, version, value| {
        if rows.len() >= limit as usize {
            more = true;
            return ControlFlow::Break(());
        }
        let value = if keys_only { &[][..] } else { value };
        rows.push(&Row { key: key.get(4..).unwrap_or_default(), version, value });
        // Past the limit of a reply the whole one-shot is refused; no need to go on.
        if written + rows.encoded_bytes() > limits::REPLY_BYTES_MAX + limits::VALUE_BYTES_MAX {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok((rows, more))
}

/// The reply may be as long as its limit, and the one value longer that passed it.
fn check_reply(results: &ListBuf) -> Result<(), EvaluationError> {
    let (limit, actual) = (limits::REPLY_BYTES_MAX + limits::VALUE_BYTES_MAX, results.encoded_bytes());
    if actual <= limit {
        return Ok(());
    }
    Err(reject(WireError::new(ErrorCode::RESULT_TOO_LARGE).with_bound(limit as u64, actual as u64)))
}
