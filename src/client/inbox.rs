//! What has arrived of one scan and was not read yet.

use super::lock;
use super::waiters::Reply;
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

/// Chunks in the order of their arrival, then the end. Bounded by the credit that the scan has given.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    end: Option<Reply>,
    reader: Option<Waker>,
}

/// What a scan reads next.
#[derive(Debug)]
pub(super) enum Arrival {
    /// The payload of a CHUNK.
    Chunk(Bytes),
    /// The payload of the END, or why there is none.
    End(Reply),
}

impl Inbox {
    pub(super) fn push(&self, payload: Bytes) {
        let reader = {
            let mut state = lock(&self.0);
            state.chunks.push_back(payload);
            state.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }

    pub(super) fn end(&self, reply: Reply) {
        let reader = {
            let mut state = lock(&self.0);
            state.end = Some(reply);
            state.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Arrival> {
        let mut state = lock(&self.0);
        if let Some(chunk) = state.chunks.pop_front() {
            return Poll::Ready(Arrival::Chunk(chunk));
        }
        if let Some(reply) = state.end.take() {
            return Poll::Ready(Arrival::End(reply));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}
