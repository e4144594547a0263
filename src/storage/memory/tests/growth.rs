//! Many keys: the table and the index grow and shrink, and what they hold is what was written.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const KEYS: u64 = if cfg!(miri) { 30 } else { 10_000 };

/// A permutation of 64 bits (the finaliser of splitmix64), so that keys come in no order.
fn scramble(i: u64) -> u64 {
    let i = (i ^ i >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let i = (i ^ i >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    i ^ i >> 31
}

fn check(engine: &MemoryEngine, expected: &BTreeMap<Vec<u8>, Vec<u8>>, absent: &BTreeSet<Vec<u8>>) {
    let all = range(b"", &[0xff; 40]);
    let pin = engine.pin();
    for reverse in [false, true] {
        let mut rows: Vec<_> =
            scan(engine, &pin, &all, reverse, usize::MAX).into_iter().map(|(key, _, value)| (key, value)).collect();
        if reverse {
            rows.reverse();
        }
        assert!(rows.iter().map(|(key, value)| (key, value)).eq(expected.iter()));
    }
    for (key, value) in expected {
        assert_eq!(get(engine, key).map(|(_, value)| value).as_ref(), Some(value));
    }
    for key in absent {
        assert_eq!(get(engine, key), None);
    }
    assert_eq!(engine.usage().keys, expected.len() as u64);
}

fn grow_and_shrink(engine: &MemoryEngine, keys: u64, key: impl Fn(u64) -> Vec<u8>) {
    let empty = engine.usage().bytes;
    let mut expected = BTreeMap::new();
    let mut absent = BTreeSet::new();
    let mut version = 0;
    let mut step = |writes: Vec<(Vec<u8>, Option<Vec<u8>>)>, expected: &mut BTreeMap<_, _>| {
        for writes in writes.chunks(100) {
            version += 1;
            let borrowed: Vec<_> = writes.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            apply(engine, version, &borrowed);
        }
        for (key, value) in writes {
            match value {
                Some(value) => drop(expected.insert(key, value)),
                None => drop(expected.remove(&key)),
            }
        }
    };
    step((0..keys).map(|i| (key(i), Some(i.to_string().into_bytes()))).collect(), &mut expected);
    check(engine, &expected, &absent);
    // All but every fifth go, and the horizon with them.
    let gone = || (0..keys).filter(|i| i % 5 != 0);
    absent.extend(gone().map(&key));
    step(gone().map(|i| (key(i), None)).collect(), &mut expected);
    check(engine, &expected, &absent);
    trim_all(engine, u64::MAX);
    check(engine, &expected, &absent);
    // Half come back.
    let back = || (0..keys).filter(|i| i % 2 == 0);
    for i in back() {
        absent.remove(&key(i));
    }
    step(back().map(|i| (key(i), Some(b"again".to_vec()))).collect(), &mut expected);
    check(engine, &expected, &absent);
    step((0..keys).map(|i| (key(i), None)).collect(), &mut expected);
    absent.extend((0..keys).map(key));
    trim_all(engine, u64::MAX);
    check(engine, &expected, &absent);
    // Segments do not join again, but an empty one is small.
    let left = engine.usage().bytes - empty;
    assert!(left <= 2 * keys + 16 * 1024, "{left} bytes are left of {keys} keys");
}

#[test]
fn scattered_keys_come_and_go() {
    grow_and_shrink(&engine(), KEYS, |i| scramble(i).to_be_bytes().to_vec());
}

#[test]
fn ascending_keys_come_and_go() {
    grow_and_shrink(&engine(), KEYS, |i| format!("\0\0\0\x01key:{i:012}").into_bytes());
}

#[test]
fn descending_keys_come_and_go() {
    grow_and_shrink(&engine(), KEYS, |i| (u64::MAX - i).to_be_bytes().to_vec());
}

#[test]
fn keys_with_equal_hashes_come_and_go() {
    grow_and_shrink(&engine_with_hash_bits(0xff), KEYS / 20, |i| i.to_string().into_bytes());
}

#[test]
fn keys_whose_upper_hash_bits_agree_do_not_blow_up_the_directory() {
    let keys = if cfg!(miri) { 40 } else { 10_000 };
    let engine = engine_with_hash_bits(u64::MAX >> 16);
    let empty = engine.usage().bytes;
    for i in 0..keys {
        apply(&engine, i + 1, &[(&scramble(i).to_be_bytes(), Some(b""))]);
    }
    for i in 0..keys {
        assert_eq!(get(&engine, &scramble(i).to_be_bytes()), Some((i + 1, vec![])));
    }
    let bytes = engine.usage().bytes - empty;
    assert!(bytes <= keys * 128 + 4096, "{} bytes a key", bytes / keys);
}

#[test]
fn keys_of_every_length_fit_a_leaf() {
    let engine = engine();
    let sizes =
        if cfg!(miri) { vec![0, 1, 300, ORDER_KEY_BYTES_MAX] } else { (0..ORDER_KEY_BYTES_MAX).step_by(97).collect() };
    let mut expected = BTreeMap::new();
    for (version, size) in sizes.iter().enumerate() {
        // The same long prefix first, then keys that share nothing with it.
        let mut key = vec![if version % 3 == 0 { b'b' } else { b'a' }; *size];
        if version % 2 == 0 {
            key.extend_from_slice(b"x");
            key.truncate(ORDER_KEY_BYTES_MAX);
        }
        apply(&engine, version as u64 + 1, &[(&key, Some(b"v"))]);
        expected.insert(key, b"v".to_vec());
    }
    check(&engine, &expected, &BTreeSet::new());
    for (i, key) in expected.keys().enumerate() {
        apply(&engine, (sizes.len() + i + 1) as u64, &[(key, None)]);
    }
    trim_all(&engine, u64::MAX);
    assert!(engine.state.get().chains.order.read().is_empty());
}
