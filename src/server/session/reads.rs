//! Reads outside of transactions, executed inline against the visible version.

use super::{Session, requests::Incoming};
use crate::{
    server::{errors, metrics::add},
    storage::Row,
    types::{KeyspaceId, Version, limits},
    wire::{self, ErrorCode, Found, GetManyReply, GetReply, Key, Kind, List, Opcode, WireError},
};
use bytes::{BufMut, BytesMut};

/// How many single reads are looked up as one group.
const GROUP_KEYS: usize = 64;

pub(super) fn found(row: Option<Row<'_>>) -> Option<Found<'_>> {
    row.map(|row| Found { version: row.version, value: row.value })
}

/// Whether a reply of a value of this length may still be written.
fn has_room(out: &BytesMut, row: Option<Row<'_>>, bytes_max: usize) -> bool {
    let length = row.map_or(0, |row| row.value.len());
    out.is_empty() || out.len() + length <= bytes_max
}

impl Session {
    /// A GET without tags joins this round's group, if it needs neither a check nor a wait. `at` is where its payload
    /// stands.
    #[inline]
    pub(super) fn plain_get(&mut self, request: u64, payload: &[u8], at: usize) -> bool {
        let Some((length, full)) = payload.split_first_chunk::<2>() else { return false };
        let length = usize::from(u16::from_be_bytes(*length));
        let plain = full.len() == 4 + length && length <= limits::KEY_BYTES_MAX;
        if !plain || !full.starts_with(&KeyspaceId::DEFAULT.0.to_be_bytes()) || !self.shared.node.reads_locally() {
            return false;
        }
        self.gets.push((request, at + 2..at + payload.len()));
        true
    }

    /// Executes this round's single reads; their keys stand in `block`.
    pub(super) fn execute_gets(&mut self, block: &[u8]) {
        if self.gets.is_empty() {
            return;
        }
        let gets = std::mem::take(&mut self.gets);
        add(&self.shared.metrics.gets_total, gets.len() as u64);
        let bytes_max = self.shared.options.bytes_in_flight_max;
        for group in gets.chunks(GROUP_KEYS) {
            let mut keys = [&[][..]; GROUP_KEYS];
            keys.iter_mut().zip(group).for_each(|(key, (_, at))| *key = &block[at.clone()]);
            let out = &mut self.outbound;
            let read = self.shared.node.engine().get_latest(&keys[..group.len()], &mut |place, version, row| {
                let request = group[place].0;
                if has_room(out, row, bytes_max) {
                    put_get(out, request, version, row);
                } else {
                    put_refused(out, request, bytes_max);
                }
            });
            if let Err(error) = read {
                let error = errors::of_storage(&error);
                for (request, _) in group {
                    self.respond_error(Opcode::Get.number(), *request, &error);
                }
            }
        }
        let mut gets = gets;
        gets.clear();
        self.gets = gets;
    }

    pub(super) fn get_many(&mut self, incoming: &Incoming<'_>, keys: List<'_, Key<'_>>) {
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.0).collect();
        let visible = self.shared.node.snapshot();
        let mut reply = GetManyAnswer::begin(&mut self.outbound, incoming.request, visible.version());
        // Read in groups, so that what does not fit any more is not read either.
        for group in keys.chunks(GROUP_KEYS) {
            let read = visible.get_many(group, &mut |_, row| reply.push(found(row)));
            if let Err(error) = read {
                reply.abandon();
                let error = errors::of_storage(&error);
                return self.respond_error(incoming.opcode.number(), incoming.request, &error);
            }
            if reply.is_full() {
                break;
            }
        }
        reply.finish();
    }
}

#[inline]
fn put_get(out: &mut BytesMut, request: u64, version: Version, row: Option<Row<'_>>) {
    out.reserve(wire::Header::BYTES + 32 + row.map_or(0, |row| row.value.len()));
    let mark = wire::begin_frame(out, Kind::Response, 0, Opcode::Get.number(), request);
    GetReply { version, found: found(row) }.encode(out);
    wire::finish_frame(out, mark);
}

fn put_refused(out: &mut BytesMut, request: u64, bytes_max: usize) {
    let error = WireError::new(ErrorCode::OVERLOADED).with_bound(bytes_max as u64, out.len() as u64);
    wire::put_frame(out, Kind::Error, 0, Opcode::Get.number(), request, |out| error.encode(out));
}

/// A GET_MANY reply being written: as many answers as fit.
pub(super) struct GetManyAnswer<'a> {
    out: &'a mut BytesMut,
    start: usize,
    mark: Option<wire::FrameMark>,
    list: Option<wire::ListWriter>,
    full: bool,
}

impl<'a> GetManyAnswer<'a> {
    pub(super) fn begin(out: &'a mut BytesMut, request: u64, version: Version) -> GetManyAnswer<'a> {
        let start = out.len();
        let mark = wire::begin_frame(out, Kind::Response, 0, Opcode::GetMany.number(), request);
        let list = GetManyReply::begin(out, version);
        GetManyAnswer { out, start, mark: Some(mark), list: Some(list), full: false }
    }

    pub(super) fn push(&mut self, found: Option<Found<'_>>) {
        let Some(list) = &mut self.list else { return };
        let length = 16 + found.map_or(0, |found| found.value.len());
        let fits = list.count() == 0 || list.encoded_bytes(self.out) + length <= limits::REPLY_BYTES_MAX;
        self.full |= !fits;
        if !self.full {
            list.push(self.out, &found);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn finish(mut self) {
        if let (Some(list), Some(mark)) = (self.list.take(), self.mark.take()) {
            list.finish(self.out);
            wire::finish_frame(self.out, mark);
        }
    }

    /// Takes back what was written.
    pub(super) fn abandon(mut self) {
        self.out.truncate(self.start);
        self.list = None;
        self.mark = None;
    }
}

/// Puts a reply with bytes that a layer encoded behind its version.
pub(super) fn put_payload(out: &mut BytesMut, version: Version, payload: &[u8]) {
    out.put_u64(version.0);
    out.put_slice(payload);
}
