//! The resolver against a list of all writes, with a shape so small that generations, blocks and runs come and go.

use super::*;
use crate::types::KeyspaceId;
use quickcheck::{Arbitrary, Gen};

const SMALL: Shape = Shape { run_writes: 4, block_runs: 3, generation_writes_min: 8, generation_writes_max: 32 };
const LARGE_WINDOW: usize = 1 << 30;

fn resolver(window_bytes_max: usize) -> Resolver {
    Resolver::with_shape(Version(10), ResolverOptions { hash_seed: 7, window_bytes_max }, SMALL)
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange { start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) }
}

fn no_points<'a>() -> impl Iterator<Item = &'a [u8]> {
    std::iter::empty()
}

/// A short key over a small alphabet, often with a long front that many share.
#[derive(Clone, Debug, PartialEq)]
struct Key(Vec<u8>);

impl Arbitrary for Key {
    fn arbitrary(g: &mut Gen) -> Key {
        let front: &[u8] = g.choose(&[&b"shared-front/"[..], b"shared-frond/", b""]).copied().unwrap_or_default();
        let tail = (0..u8::arbitrary(g) % 4).map(|_| b'a' + u8::arbitrary(g) % 3);
        Key(front.iter().copied().chain(tail).collect())
    }
}

#[derive(Clone, Debug)]
enum Act {
    Commit(Vec<Key>),
    Check { age: u8, points: Vec<Key>, ranges: Vec<(Key, Key)> },
    Applied { behind: u8 },
    AdvanceFloor { age: u8 },
}

impl Arbitrary for Act {
    fn arbitrary(g: &mut Gen) -> Act {
        let few = |g: &mut Gen, most: u8| u8::arbitrary(g) % most;
        match few(g, 10) {
            0..5 => Act::Commit((0..=few(g, 6)).map(|_| Key::arbitrary(g)).collect()),
            5..8 => Act::Check {
                age: few(g, 60),
                points: (0..few(g, 3)).map(|_| Key::arbitrary(g)).collect(),
                ranges: (0..few(g, 3)).map(|_| Arbitrary::arbitrary(g)).collect(),
            },
            8 => Act::Applied { behind: few(g, 8) },
            _ => Act::AdvanceFloor { age: few(g, 80) },
        }
    }
}

/// All writes since the beginning.
#[derive(Default)]
struct Model {
    writes: Vec<(u64, Vec<u8>)>,
}

impl Model {
    fn touched(&self, read: u64, points: &[Key], ranges: &[KeyRange]) -> Vec<(Version, &[u8])> {
        let hit = |key: &[u8]| points.iter().any(|p| p.0 == key) || ranges.iter().any(|r| r.contains(key));
        let young = self.writes.iter().filter(|(version, key)| *version > read && hit(key));
        young.map(|(version, key)| (Version(*version), &key[..])).collect()
    }
}

fn agrees_with_a_list_of_all_writes(acts: &[Act], window_bytes_max: usize) -> Result<(), String> {
    let mut resolver = resolver(window_bytes_max);
    let mut model = Model::default();
    let (mut version, mut applied, mut floor) = (10, 10, Version(10));
    for act in acts {
        match act {
            Act::Commit(keys) => {
                version += 1;
                for key in keys {
                    resolver.record(Version(version), &key.0);
                    model.writes.push((version, key.0.clone()));
                }
            }
            Act::Check { age, points, ranges } => {
                let read = version.saturating_sub(u64::from(*age));
                let ranges: Vec<KeyRange> = ranges.iter().map(|(a, b)| range(&a.0, &b.0)).collect();
                let verdict = resolver.check(Version(read), points.iter().map(|key| &key.0[..]), &ranges);
                let touched = model.touched(read, points, &ranges);
                let right = match &verdict {
                    Ok(()) => touched.is_empty() && Version(read) >= floor,
                    Err(Conflict::Changed { key, version }) => {
                        touched.contains(&(*version, &key[..])) && Version(read) >= floor
                    }
                    Err(Conflict::TooOld { floor: told }) => *told == floor && Version(read) < floor,
                };
                if !right {
                    return Err(format!("read {read} of {points:?} {ranges:?}: {verdict:?}, but {touched:?}"));
                }
            }
            Act::Applied { behind } => {
                applied = applied.max(version.saturating_sub(u64::from(*behind)));
                resolver.set_applied(Version(applied));
            }
            Act::AdvanceFloor { age } => {
                let to = version.saturating_sub(u64::from(*age));
                resolver.advance_floor(Version(to));
                if resolver.floor() != floor.max(Version(to.min(applied))) {
                    return Err(format!("floor {} after a rise to {to}, applied {applied}", resolver.floor()));
                }
            }
        }
        if resolver.floor() < floor || resolver.floor() > Version(applied) {
            return Err(format!("floor from {floor} to {}, applied {applied}", resolver.floor()));
        }
        if window_bytes_max == LARGE_WINDOW && !matches!(act, Act::AdvanceFloor { .. }) && resolver.floor() != floor {
            return Err("the floor rose without need".into());
        }
        floor = resolver.floor();
    }
    Ok(())
}

fn run(acts: Vec<Act>, window_bytes_max: usize) -> quickcheck::TestResult {
    match agrees_with_a_list_of_all_writes(&acts, window_bytes_max) {
        Ok(()) => quickcheck::TestResult::passed(),
        Err(why) => quickcheck::TestResult::error(why),
    }
}

#[test]
fn verdicts_are_those_of_a_list_of_all_writes() {
    let check = |acts| run(acts, LARGE_WINDOW);
    quickcheck::QuickCheck::new().rng(Gen::new(400)).tests(300).quickcheck(check as fn(Vec<Act>) -> _);
}

#[test]
fn verdicts_stay_right_while_the_window_overflows() {
    let check = |acts| run(acts, 12_000);
    quickcheck::QuickCheck::new().rng(Gen::new(400)).tests(300).quickcheck(check as fn(Vec<Act>) -> _);
}

#[test]
fn the_floor_waits_for_the_applied_version_and_then_the_window_is_kept() {
    let mut resolver = resolver(8_000);
    let key = |i: u64| KeyspaceId(1).full_key(&i.to_be_bytes());
    (11..1_011).for_each(|version| resolver.record(Version(version), &key(version)));
    assert_eq!(resolver.floor(), Version(10), "nothing is applied");
    assert!(resolver.bytes() > 8_000);
    let old = resolver.check(Version(10), [&key(11)[..]].into_iter(), &[]);
    assert_eq!(old, Err(Conflict::Changed { key: key(11), version: Version(11) }));
    resolver.set_applied(Version(500));
    assert!(resolver.floor() > Version(400) && resolver.floor() <= Version(500), "floor {}", resolver.floor());
    resolver.set_applied(Version(1_010));
    assert!(resolver.bytes() <= 8_000);
    assert!(resolver.floor() < Version(1_000), "the newest stay");
    let floor = resolver.floor();
    assert_eq!(resolver.check(Version(floor.0 - 1), no_points(), &[]), Err(Conflict::TooOld { floor }));
    assert_eq!(resolver.check(floor, no_points(), &[range(b"", &key(floor.0))]), Ok(()));
}

#[test]
fn a_read_at_the_floor_is_fine_and_below_it_is_too_old() {
    let mut resolver = resolver(LARGE_WINDOW);
    assert_eq!(resolver.check(Version(10), [&b"a"[..]].into_iter(), &[]), Ok(()));
    assert_eq!(
        resolver.check(Version(9), no_points(), &[]),
        Err(Conflict::TooOld { floor: Version(10) }),
        "even if nothing was read"
    );
}

#[test]
fn versions_far_apart_begin_a_new_generation() {
    let mut resolver = resolver(LARGE_WINDOW);
    let far = 11 + (1 << 40);
    resolver.record(Version(11), b"a");
    resolver.record(Version(far), b"b");
    resolver.record(Version(far), b"c");
    assert_eq!(resolver.last_write(b"a"), Some(Version(11)));
    assert_eq!(resolver.last_write(b"b"), Some(Version(far)));
    assert_eq!(resolver.last_write(b"d"), None);
    let found = resolver.check(Version(11), no_points(), &[range(b"a", b"z")]);
    assert!(matches!(found, Err(Conflict::Changed { version, .. }) if version == Version(far)));
    assert_eq!(resolver.check(Version(far), no_points(), &[range(b"a", b"z")]), Ok(()));
}

#[test]
#[should_panic(expected = "in version order")]
fn a_version_below_one_recorded_is_a_broken_caller() {
    let mut resolver = resolver(LARGE_WINDOW);
    resolver.record(Version(12), b"a");
    resolver.record(Version(11), b"a");
}

/// The default shape, with enough writes for several blocks, before and after the first range check.
#[test]
fn old_writes_are_put_in_order_little_by_little_and_found_all_the_same() {
    const WRITES: u64 = 100_000;
    let mut resolver = Resolver::new(Version(0), ResolverOptions::new(1));
    let key = |i: u64| KeyspaceId(1).full_key(&(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % WRITES * 2).to_be_bytes());
    let between = |i: u64| KeyspaceId(1).full_key(&(i * 2 + 1).to_be_bytes());
    let mut version = 0;
    for round in 0..3 {
        for _ in 0..WRITES {
            version += 1;
            resolver.record(Version(version), &key(version));
        }
        for i in 0..300 {
            let read = Version(version - 1 - i * WRITES / 300);
            let last = key(version - i);
            let found = resolver.check(Version(read.0), no_points(), &[KeyRange::point(last.clone())]);
            let expected = resolver.last_write(&last).filter(|last| *last > read);
            match found {
                Ok(()) => assert_eq!(expected, None, "round {round}, {i}"),
                Err(Conflict::Changed { key, version }) => {
                    assert_eq!(key, last);
                    assert!(version > read && Some(version) <= expected);
                }
                Err(old) => panic!("{old:?}"),
            }
            let gap = KeyRange { start: between(i), end: KeyspaceId(1).full_key(&(i * 2 + 2).to_be_bytes()) };
            assert_eq!(resolver.check(Version(0), no_points(), &[gap]), Ok(()), "no key lies there");
        }
    }
}

#[test]
fn long_keys_close_runs_and_generations_early() {
    let mut resolver = Resolver::new(Version(0), ResolverOptions { hash_seed: 1, window_bytes_max: 16 << 20 });
    let key = |i: u64| {
        let mut key = vec![b'k'; 8_000];
        key.extend(i.to_be_bytes());
        KeyspaceId(1).full_key(&key)
    };
    for version in 1..=6_000 {
        resolver.record(Version(version), &key(version));
        resolver.set_applied(Version(version));
        if version % 100 == 0 {
            let read = Version(version - 50);
            let unread = KeyRange { start: key(0), end: key(version - 49) };
            assert_eq!(resolver.check(read, no_points(), &[unread]), Ok(()));
            let found =
                resolver.check(read, no_points(), &[KeyRange { start: key(version - 49), end: key(version + 1) }]);
            assert!(matches!(found, Err(Conflict::Changed { .. })));
        }
    }
    assert!(resolver.bytes() <= 16 << 20, "{}", resolver.bytes());
    assert!(resolver.floor() > Version(3_000) && resolver.floor() < Version(5_500), "{}", resolver.floor());
}

#[test]
fn the_default_window_holds_five_seconds_of_a_million_writes() {
    let mut resolver = Resolver::new(Version(0), ResolverOptions::new(1));
    let mut key = *b"\0\0\0\x01user:0000-00000000-";
    let mut version = 0;
    let mut write = |resolver: &mut Resolver| {
        version += 1;
        key[8..16].copy_from_slice(&u64::to_be_bytes(version * 0x9e37_79b9));
        resolver.record(Version(version), &key);
        resolver.set_applied(Version(version));
    };
    (0..5_000_000).for_each(|_| write(&mut resolver));
    assert_eq!(resolver.floor(), Version(0));
    assert!(resolver.bytes() <= ResolverOptions::WINDOW_BYTES_DEFAULT);
    let per_write = resolver.bytes() / 5_000_000;
    assert!(per_write <= 61, "{per_write} bytes a write");
}
