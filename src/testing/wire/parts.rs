//! What random messages are made of.

use crate::types::{KeyspaceId, NodeId, Version};
use crate::wire::{
    BackupRow, Blob, ClusterMember, Field, Found, Grease, Key, ListBuf, Op, OpResult, RangeRef, Row, Text,
};
use crate::wire::{Condition, Test};
use bytes::Bytes;
use quickcheck::{Arbitrary, Gen};

/// Bytes, numbers and lists that a message can borrow.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) numbers: [u64; 6],
    pub(super) flags: [bool; 8],
    pub(super) keys: [Bytes; 2],
    pub(super) blobs: [Vec<u8>; 3],
    pub(super) texts: [String; 2],
    pub(super) array: [u8; 16],
    pub(super) key_list: ListBuf,
    pub(super) text_list: ListBuf,
    pub(super) blob_list: ListBuf,
    pub(super) found_list: ListBuf,
    pub(super) row_list: ListBuf,
    pub(super) backup_row_list: ListBuf,
    pub(super) member_list: ListBuf,
    pub(super) condition_list: ListBuf,
    pub(super) op_lists: [ListBuf; 2],
    pub(super) result_list: ListBuf,
}

/// A number that is often at an end of its range.
fn number(g: &mut Gen) -> u64 {
    match u8::arbitrary(g) % 8 {
        0 => 0,
        1 => u64::MAX,
        2 | 3 => u64::arbitrary(g),
        _ => u64::from(u8::arbitrary(g)),
    }
}

pub(super) fn blob(g: &mut Gen) -> Vec<u8> {
    let length = match u8::arbitrary(g) % 16 {
        0 => 0,
        1 => 1000,
        n => usize::from(n),
    };
    (0..length).map(|_| u8::arbitrary(g)).collect()
}

fn full_key(g: &mut Gen) -> Bytes {
    let keyspace = KeyspaceId(*g.choose(&[0, 1, 16, u32::MAX - 1]).expect("there are keyspaces"));
    keyspace.full_key(&blob(g))
}

/// Text of some letters of one, two and four bytes.
fn text(g: &mut Gen) -> String {
    const LETTERS: &[char] = &['a', 'b', '-', 'é', '🦀'];
    let length = usize::from(u8::arbitrary(g) % 12);
    (0..length).map(|_| *g.choose(LETTERS).expect("there are letters")).collect()
}

fn found<'a>(g: &mut Gen, value: &'a [u8]) -> Option<Found<'a>> {
    bool::arbitrary(g).then_some(Found { version: Version(number(g)), value })
}

/// A list of up to four items, each of which `push` appends.
fn list(g: &mut Gen, push: impl Fn(&mut Gen, &mut ListBuf)) -> ListBuf {
    let mut list = ListBuf::new();
    for _ in 0..u8::arbitrary(g) % 5 {
        push(g, &mut list);
    }
    list
}

fn push<'a>(list: &mut ListBuf, item: impl Field<'a>) {
    list.push(&item);
}

fn push_found(g: &mut Gen, list: &mut ListBuf) {
    let value = blob(g);
    push(list, found(g, &value));
}

fn push_condition(g: &mut Gen, list: &mut ListBuf) {
    let (key, value, version) = (full_key(g), blob(g), Version(number(g)));
    let tests = [
        Test::Exists,
        Test::Absent,
        Test::ValueEquals(&value),
        Test::ValueDiffers(&value),
        Test::VersionEquals(version),
        Test::VersionAtMost(version),
    ];
    list.push(&Condition { key: &key, test: *g.choose(&tests).expect("there are tests") });
}

fn push_member(g: &mut Gen, list: &mut ListBuf) {
    let (peer_address, client_address) = (text(g), text(g));
    list.push(&ClusterMember {
        node: NodeId(number(g)),
        voter: bool::arbitrary(g),
        peer_address: &peer_address,
        client_address: &client_address,
        known: bool::arbitrary(g),
        matched: number(g),
        lag: number(g),
        contact_ms: number(g),
        version: Version(number(g)),
        chain: number(g),
        level: u16::arbitrary(g),
    });
}

fn push_op(g: &mut Gen, list: &mut ListBuf) {
    let (key, value, bound, flags) = (full_key(g), blob(g), blob(g), <[bool; 2]>::from(<(bool, bool)>::arbitrary(g)));
    let range = range(1, &value, &bound, bool::arbitrary(g));
    let limit = 1 + u32::from(u8::arbitrary(g));
    let ops = [
        Op::Put { key: &key, value: &value },
        Op::Delete { key: &key },
        Op::Atomic { op: 1 + u8::arbitrary(g) % 10, key: &key, operand: &value },
        Op::DeleteRange { range },
        Op::Get { key: &key },
        Op::Range { range, reverse: flags[0], keys_only: flags[1], limit },
    ];
    list.push(g.choose(&ops).expect("there are operations"));
}

fn push_result(g: &mut Gen, list: &mut ListBuf) {
    let (value, rows) = (blob(g), row_list(g));
    let results = [
        OpResult::Put,
        OpResult::Delete,
        OpResult::Atomic(&value),
        OpResult::DeleteRange(number(g)),
        OpResult::Get(found(g, &value)),
        OpResult::Range { more: bool::arbitrary(g), rows: rows.as_list() },
    ];
    list.push(g.choose(&results).expect("there are results"));
}

fn row_list(g: &mut Gen) -> ListBuf {
    list(g, |g, rows| push(rows, Row { key: &blob(g), version: Version(number(g)), value: &blob(g) }))
}

/// A range between two bounds, whichever is the lesser.
pub(super) fn range<'a>(keyspace: u32, one: &'a [u8], other: &'a [u8], has_end: bool) -> RangeRef<'a> {
    let (start, end) = if one <= other { (one, other) } else { (other, one) };
    RangeRef { keyspace: KeyspaceId(keyspace), start, end: has_end.then_some(end) }
}

impl Arbitrary for Parts {
    fn arbitrary(g: &mut Gen) -> Parts {
        Parts {
            numbers: std::array::from_fn(|_| number(g)),
            flags: std::array::from_fn(|_| bool::arbitrary(g)),
            keys: std::array::from_fn(|_| full_key(g)),
            blobs: std::array::from_fn(|_| blob(g)),
            texts: std::array::from_fn(|_| text(g)),
            array: std::array::from_fn(|_| u8::arbitrary(g)),
            key_list: list(g, |g, keys| push(keys, Key(&full_key(g)))),
            text_list: list(g, |g, texts| push(texts, Text(&text(g)))),
            blob_list: list(g, |g, blobs| push(blobs, Blob(&blob(g)))),
            found_list: list(g, push_found),
            row_list: row_list(g),
            backup_row_list: list(g, |g, rows| {
                push(rows, BackupRow { key: &full_key(g), version: Version(number(g)), value: &blob(g) });
            }),
            member_list: list(g, push_member),
            condition_list: list(g, push_condition),
            op_lists: std::array::from_fn(|_| list(g, push_op)),
            result_list: list(g, push_result),
        }
    }
}

/// A grease tag, half of the time.
pub(super) fn grease(g: &mut Gen) -> Option<Grease> {
    bool::arbitrary(g).then(|| Grease::from_random(u64::arbitrary(g) & 0x0fff_ffff_ffff_ffff)).flatten()
}
