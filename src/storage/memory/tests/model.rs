//! Any sequence of steps equals a naive model at the visible version and at every pin.

use super::*;
use quickcheck::{Arbitrary, Gen, QuickCheck};
use std::collections::BTreeMap;

/// A key of a small alphabet whose members share prefixes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Vec<u8>);

impl Arbitrary for Key {
    fn arbitrary(g: &mut Gen) -> Key {
        let stem: &[u8] = g.choose(&[&b""[..], b"\0\0\0\x01", b"\0\0\0\x01user:", b"\0\0\0\x02"]).unwrap();
        let mut key = stem.to_vec();
        for _ in 0..usize::arbitrary(g) % 4 {
            key.push(*g.choose(&[0, b'a', b'b', 0xff]).unwrap());
        }
        Key(key)
    }
}

#[derive(Clone, Debug)]
struct Value(Vec<u8>);

impl Arbitrary for Value {
    fn arbitrary(g: &mut Gen) -> Value {
        let len = *g.choose(&[0, 1, 7, 100, 300]).unwrap();
        Value(vec![u8::arbitrary(g); len])
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// One entry: a list of commits, each with its writes.
    Apply(Vec<Vec<(Key, Option<Value>)>>),
    /// Trims this many versions below the visible one, so many times.
    Trim(u64, u8),
    Pin,
    /// Pins this many versions below the visible one.
    PinAt(u64),
    Unpin(usize),
    Scan(Key, Key, bool, usize),
}

impl Arbitrary for Step {
    fn arbitrary(g: &mut Gen) -> Step {
        match u8::arbitrary(g) % 10 {
            0..=3 => {
                let commits = 1 + usize::arbitrary(g) % 3;
                let commit = |g: &mut Gen| {
                    let writes: BTreeMap<Key, Option<Value>> =
                        (0..usize::arbitrary(g) % 8).map(|_| Arbitrary::arbitrary(g)).collect();
                    writes.into_iter().collect()
                };
                Step::Apply((0..commits).map(|_| commit(g)).collect())
            }
            4 | 5 => Step::Trim(u64::arbitrary(g) % 6, u8::arbitrary(g) % 4),
            6 => Step::Pin,
            7 => Step::PinAt(u64::arbitrary(g) % 8),
            8 => Step::Unpin(usize::arbitrary(g)),
            _ => Step::Scan(Key::arbitrary(g), Key::arbitrary(g), bool::arbitrary(g), usize::arbitrary(g) % 20),
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Step>> {
        match self {
            Step::Apply(commits) => Box::new(commits.shrink().map(Step::Apply)),
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// Versions, ascending, and what each wrote.
type Chain = Vec<(u64, Option<Vec<u8>>)>;

/// Every version of every key since the beginning.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, Chain>,
    visible: u64,
    horizon: u64,
}

impl Model {
    fn get(&self, key: &[u8], version: u64) -> Option<(u64, &[u8])> {
        let (version, value) = self.keys.get(key)?.iter().rev().find(|(other, _)| *other <= version)?;
        value.as_ref().map(|value| (*version, &value[..]))
    }

    fn scan(&self, range: &KeyRange, reverse: bool, max: usize, version: u64) -> Rows {
        let keys = self.keys.keys().filter(|key| range.contains(key));
        let mut rows: Rows = keys
            .filter_map(|key| self.get(key, version).map(|(version, value)| (key.clone(), version, value.to_vec())))
            .collect();
        if reverse {
            rows.reverse();
        }
        rows.truncate(max);
        rows
    }
}

struct Run {
    engine: MemoryEngine,
    model: Model,
    pins: Vec<Pin>,
}

impl Run {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(commits) => {
                let mut writes = Vec::new();
                for commit in commits {
                    self.model.visible += 1;
                    for (key, value) in commit {
                        let value = value.as_ref().map(|value| &value.0[..]);
                        writes.push(Write { version: Version(self.model.visible), key: &key.0, value });
                        let chain = self.model.keys.entry(key.0.clone()).or_default();
                        chain.push((self.model.visible, value.map(<[u8]>::to_vec)));
                    }
                }
                let applied = Applied { version: Version(self.model.visible), ..Applied::default() };
                self.engine.apply(&writes, applied).unwrap();
            }
            Step::Trim(lag, times) => {
                let target = self.model.visible.saturating_sub(*lag);
                let oldest = self.pins.iter().map(|pin| pin.version().0).min().unwrap_or(u64::MAX);
                self.model.horizon = self.model.horizon.max(target.min(oldest));
                for _ in 0..=*times {
                    self.engine.trim(Version(target));
                }
            }
            Step::Pin => {
                self.pins.push(self.engine.pin());
                assert_eq!(self.pins.last().unwrap().version(), Version(self.model.visible));
            }
            Step::PinAt(lag) => {
                let version = self.model.visible.saturating_sub(*lag);
                match self.engine.pin_at(Version(version)) {
                    Ok(pin) => self.pins.push(pin),
                    Err(error) => {
                        let horizon = Version(self.model.horizon);
                        assert_eq!(error, Error::Gone { asked: Version(version), horizon });
                        assert!(version < self.model.horizon);
                    }
                }
            }
            Step::Unpin(which) => {
                if !self.pins.is_empty() {
                    drop(self.pins.swap_remove(which % self.pins.len()));
                }
            }
            Step::Scan(a, b, reverse, max) => {
                let range = range(&a.0, &b.0);
                for pin in &self.pins {
                    let expected = self.model.scan(&range, *reverse, *max + 1, pin.version().0);
                    assert_eq!(scan(&self.engine, pin, &range, *reverse, *max + 1), expected);
                }
            }
        }
    }

    /// Everything that can be read equals the model.
    fn check(&self) {
        let now = self.engine.pin();
        assert_eq!(self.engine.visible(), Version(self.model.visible));
        let keys: Vec<&[u8]> =
            self.model.keys.keys().map(|key| &key[..]).chain([&b"absent"[..], b"\0\0\0\x01us", b"\xff\xff"]).collect();
        for group in [64, 3, usize::MAX] {
            for keys in keys.chunks(group) {
                let mut next = 0;
                let version = self.engine.get_latest(keys, &mut |i, version, row| {
                    assert_eq!((i, version), (next, now.version()));
                    next += 1;
                    let row = row.map(|row| (row.version.0, row.value));
                    assert_eq!(row, self.model.get(keys[i], version.0), "{:?} at {version}", keys[i]);
                });
                assert_eq!((version, next), (Ok(now.version()), keys.len()));
            }
        }
        let all = range(b"", b"\xff\xff\xff\xff\xff");
        for pin in self.pins.iter().chain([&now]) {
            let version = pin.version().0;
            let mut next = 0;
            let each = &mut |i, row: Option<Row<'_>>| {
                assert_eq!(i, next);
                next += 1;
                let row = row.map(|row| (row.version.0, row.value));
                assert_eq!(row, self.model.get(keys[i], version), "{:?} at {version}", keys[i]);
            };
            self.engine.get_at(pin, &keys, each).unwrap();
            assert_eq!(next, keys.len());
            for reverse in [false, true] {
                let expected = self.model.scan(&all, reverse, usize::MAX, version);
                assert_eq!(scan(&self.engine, pin, &all, reverse, usize::MAX), expected, "at {version}");
            }
        }
        let usage = self.engine.usage();
        let live = self.model.keys.keys().filter(|key| self.model.get(key, self.model.visible).is_some()).count();
        assert_eq!(usage.keys, live as u64);
        assert_eq!(usage.pins, self.pins.len() as u64 + 1);
        assert_eq!(usage.horizon, Version(self.model.horizon));
    }

    /// With every pin gone and everything trimmed, the engine holds what exists and nothing else.
    fn finish(mut self) {
        self.pins.clear();
        trim_all(&self.engine, u64::MAX);
        self.model.horizon = self.model.visible;
        self.check();
        assert_eq!(self.engine.usage().history_bytes, 0);
        assert_eq!(self.engine.state.get().chains.order.read().len() as u64, self.engine.usage().keys);
    }
}

fn run(engine: MemoryEngine, steps: &[Step]) {
    let mut run = Run { engine, model: Model::default(), pins: Vec::new() };
    for step in steps {
        run.step(step);
        run.check();
    }
    run.finish();
}

/// Runs a property over many sequences; `QUICKCHECK_SEED` replays a failure.
fn check(property: fn(Vec<Step>)) {
    let (tests, size) = if cfg!(miri) { (3, 12) } else { (100, 60) };
    let seed = std::env::var("QUICKCHECK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::arbitrary(&mut Gen::new(size)));
    eprintln!("QUICKCHECK_SEED={seed}");
    QuickCheck::new().tests(tests).max_tests(tests).rng(Gen::from_size_and_seed(size, seed)).quickcheck(property);
}

#[test]
fn any_steps_equal_the_model() {
    check(|steps| run(engine(), &steps));
}

#[test]
fn any_steps_equal_the_model_when_hashes_collide() {
    // Two segments, two lines and two tags for all keys.
    check(|steps| run(engine_with_hash_bits(1 << 63 | 1 << 47 | 1 << 3), &steps));
}
