//! Chains over a base: tombstones of absent keys are kept, and keys leave with all they have.

use super::{super::writer::Absent, *};

fn chains() -> Chains {
    Chains::new(7, Absent::Below)
}

fn push(chains: &Chains, version: u64, key: &[u8], value: Option<&[u8]>) {
    let write = Write { version: Version(version), key, value };
    chains.push(&mut chains.writer(), &[write], &crossbeam_epoch::pin()).unwrap();
}

/// What `read` finds: nothing, a tombstone, or a value.
fn find(chains: &Chains, key: &[u8], at: u64) -> Option<(u64, Option<Vec<u8>>)> {
    let guard = crossbeam_epoch::pin();
    let mut found = [None];
    chains.read(&[key], Version(at), &mut found, &guard);
    found[0].map(|node| (node.version(), node.value().map(<[u8]>::to_vec)))
}

/// Cuts and evicts all up to a floor.
fn evict(chains: &Chains, floor: u64) {
    let guard = crossbeam_epoch::pin();
    let floor = Version(floor);
    while chains.cut(&mut chains.writer(), floor, floor, 3, &guard) {}
    let all = range(b"", b"\xff\xff");
    let mut keys = Keys::default();
    let mut last: Option<Vec<u8>> = None;
    loop {
        keys.reset(3);
        let was_all = chains.copy_keys(Scan { range: &all, reverse: false }, last.as_deref(), &mut keys);
        chains.evict(&mut chains.writer(), &keys, floor, &guard);
        if was_all {
            break;
        }
        last = Some(keys.get(keys.len() - 1).to_vec());
    }
    chains.writer().hand_over(&guard);
}

#[test]
fn a_deletion_of_an_absent_key_is_kept_until_it_is_evicted() {
    let chains = chains();
    push(&chains, 3, b"a", None);
    assert_eq!((find(&chains, b"a", 2), find(&chains, b"a", 3)), (None, Some((3, None))));
    push(&chains, 4, b"a", None);
    assert_eq!(find(&chains, b"a", 9), Some((3, None)), "deleted is deleted");
    // The horizon passes it, and it stays: nobody has stored it yet.
    while chains.cut(&mut chains.writer(), Version(9), Version(2), 9, &crossbeam_epoch::pin()) {}
    assert_eq!(find(&chains, b"a", 9), Some((3, None)));
    push(&chains, 5, b"a", Some(b"5"));
    push(&chains, 6, b"a", None);
    while chains.cut(&mut chains.writer(), Version(9), Version(5), 9, &crossbeam_epoch::pin()) {}
    assert_eq!((find(&chains, b"a", 5), find(&chains, b"a", 6)), (None, Some((6, None))));
    evict(&chains, 6);
    assert_eq!(find(&chains, b"a", 9), None);
    assert!(chains.order.read().is_empty());
}

#[test]
fn eviction_takes_what_is_at_or_below_the_floor_and_leaves_the_rest() {
    let chains = chains();
    push(&chains, 1, b"old", Some(b"1"));
    push(&chains, 2, b"over", Some(b"2"));
    push(&chains, 3, b"over", Some(b"3"));
    push(&chains, 4, b"gone", None);
    push(&chains, 5, b"both", Some(b"5"));
    push(&chains, 6, b"both", Some(b"6"));
    push(&chains, 7, b"new", Some(b"7"));
    assert_eq!(chains.keys(), 4);
    evict(&chains, 5);
    assert_eq!((chains.keys(), chains.order.read().len()), (2, 2));
    for key in [&b"old"[..], b"over", b"gone"] {
        assert_eq!(find(&chains, key, 9), None, "{key:?}");
    }
    assert_eq!(find(&chains, b"both", 9), Some((6, Some(b"6".to_vec()))));
    assert_eq!(find(&chains, b"new", 9), Some((7, Some(b"7".to_vec()))));
    push(&chains, 8, b"old", Some(b"8"));
    evict(&chains, 8);
    assert_eq!((chains.keys(), chains.order.read().len()), (0, 0));
}

#[test]
fn what_is_evicted_is_freed_and_readers_that_look_at_it_are_waited_for() {
    let chains = chains();
    let counters = Arc::clone(&chains.counters);
    let rounds = if cfg!(miri) { 6 } else { 2_000 };
    let name = |i: u64| [b"\0\0\0\x01", &i.to_be_bytes()[4..]].concat();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                for i in 0..10 {
                    if let Some((version, Some(value))) = find(&chains, &name(i), u64::MAX) {
                        assert_eq!(value, version.to_be_bytes());
                    }
                }
                std::thread::yield_now();
            }
        });
        for round in 1..=rounds {
            for i in 0..10 {
                let version = round * 10 + i;
                push(&chains, version, &name(version * 7 % 10), (i % 4 != 3).then_some(&version.to_be_bytes()[..]));
            }
            if round % 3 == 0 {
                evict(&chains, round * 10 + round % 10);
            }
        }
        is_done.store(true, Ordering::Release);
    });
    evict(&chains, u64::MAX);
    assert_eq!(chains.keys(), 0);
    drop(chains);
    while counters.bytes() > 0 {
        crossbeam_epoch::pin().flush();
        std::thread::yield_now();
    }
    assert_eq!(counters.history(), 0, "what was taken off was counted before");
}
