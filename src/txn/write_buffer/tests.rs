//! What the model test does not reach: parts of the body, marks, and what is shared.

use super::*;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Mutation<'a> {
    Mutation::Put { key, value }
}

fn everything() -> KeyRange {
    KeyRange { start: Bytes::new(), end: Bytes::from_static(&[0xff]) }
}

#[test]
fn the_body_is_the_mutations_in_request_order_however_it_was_shared() {
    let mut plain = WriteBuffer::new();
    let mut shared = WriteBuffer::new();
    let mut overlays = Vec::new();
    for i in 0..200u32 {
        let key = [&[0, 0, 0, 1][..], &(i % 7).to_be_bytes()].concat();
        plain.push(put(&key, &i.to_be_bytes()));
        shared.push(put(&key, &i.to_be_bytes()));
        overlays.push(shared.snapshot_range(&everything()));
        assert!(shared.body.sealed.len() <= 9, "parts are joined");
    }
    assert_eq!(shared.bytes(), plain.bytes());
    assert_eq!(shared.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    assert_eq!(overlays[6].len(), 7);
    let seen = overlays[6].entries()[6].value(None).map(Cow::into_owned);
    assert_eq!(seen, Some(6u32.to_be_bytes().to_vec()), "it keeps what was there when it was taken");
    assert_eq!(shared.into_body(), plain.into_body());
}

#[test]
fn a_body_shared_once_is_not_copied() {
    let mut buffer = WriteBuffer::new();
    buffer.push(put(b"\0\0\0\x01a", &[7; 1_000]));
    let overlay = buffer.snapshot_range(&everything());
    let value = overlay.entries()[0].value(None).expect("it was put").as_ptr();
    assert!(buffer.into_body().as_ptr_range().contains(&value));
}

#[test]
fn cutting_back_into_a_shared_part_keeps_what_stands_before() {
    let mut buffer = WriteBuffer::new();
    buffer.push(put(b"\0\0\0\x01a", b"1"));
    let mark = buffer.mark();
    buffer.push(put(b"\0\0\0\x01a", b"2"));
    buffer.push(put(b"\0\0\0\x01b", b"2"));
    let overlay = buffer.snapshot_range(&everything());
    buffer.push(Mutation::Delete { key: b"\0\0\0\x01a" });
    buffer.truncate(mark);
    assert_eq!((buffer.len(), buffer.mark()), (1, mark));
    assert_eq!(buffer.overlay(b"\0\0\0\x01b"), Overlay::Untouched);
    buffer.push(put(b"\0\0\0\x01c", b"3"));
    assert_eq!(buffer.read(b"\0\0\0\x01a", None).as_deref(), Some(&b"1"[..]));
    assert_eq!(buffer.read(b"\0\0\0\x01c", None).as_deref(), Some(&b"3"[..]));
    assert_eq!(buffer.read(b"\0\0\0\x01d", Some(b"base")).as_deref(), Some(&b"base"[..]));
    assert_eq!(overlay.entries()[0].value(None).as_deref(), Some(&b"2"[..]), "the overlay has its own view");
    let body = buffer.into_body();
    let keys: Vec<_> = super::super::Mutations::new(&body).map(|m| m.map(|m| m.key())).collect();
    assert_eq!(keys, [Ok(&b"\0\0\0\x01a"[..]), Ok(b"\0\0\0\x01c")]);
}

#[test]
#[should_panic(expected = "the mark has been taken back")]
fn a_mark_that_was_taken_back_is_a_broken_caller() {
    let mut buffer = WriteBuffer::new();
    let start = buffer.mark();
    buffer.push(put(b"\0\0\0\x01a", b"1"));
    let mark = buffer.mark();
    buffer.truncate(start);
    buffer.truncate(mark);
}

#[test]
fn an_overlay_counts_its_memory_and_an_untouched_range_has_none() {
    let mut buffer = WriteBuffer::new();
    assert!(buffer.is_empty());
    assert!(buffer.snapshot_range(&everything()).is_empty());
    buffer.push(put(b"\0\0\0\x01a", &[0; 1_000]));
    buffer.push(Mutation::Atomic { op: AtomicOp::Add, key: b"\0\0\0\x01b", operand: &[1] });
    let one = KeyRange { start: Bytes::new(), end: Bytes::from_static(b"\0\0\0\x01b") };
    let (one, both) = (buffer.snapshot_range(&one), buffer.snapshot_range(&everything()));
    assert_eq!((one.len(), both.len()), (1, 2));
    assert!(one.bytes() < 100 && both.bytes() > 2 * one.bytes());
    let elsewhere = KeyRange { start: Bytes::from_static(b"\0\0\0\x02"), end: Bytes::from_static(b"\0\0\0\x03") };
    assert!(buffer.snapshot_range(&elsewhere).is_empty());
}
