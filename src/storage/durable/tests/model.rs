//! Any sequence of steps, crashes among them, equals a naive model at every version that can be read.

use super::*;
use crate::{storage::tests::reopened, testing::generators::Random};

/// Where bases come from: each call gives what the last process left.
pub(super) trait Disk {
    fn reopen(&mut self) -> Box<dyn Base>;
}

pub(super) struct Simulated(pub(super) SimulatedBase);

impl Disk for Simulated {
    fn reopen(&mut self) -> Box<dyn Base> {
        self.0 = self.0.crash();
        Box::new(self.0.clone())
    }
}

pub(super) struct OnDisk(pub(super) TemporaryDirectory);

impl Disk for OnDisk {
    fn reopen(&mut self) -> Box<dyn Base> {
        let options = LsmOptions { block_cache_bytes: 16 * 1024, table_bytes: 4 * 1024 };
        Box::new(reopened(|| LsmBase::open(&Env::real(), self.0.path(), options)))
    }
}

struct Run<'a> {
    disk: &'a mut dyn Disk,
    options: DurableOptions,
    random: Random,
    /// None only while the engine is exchanged.
    engine: Option<DurableEngine>,
    log: Log,
    model: Model,
    pins: Vec<Pin>,
    kept_from: u64,
}

pub(super) fn any_key(random: &mut Random) -> Vec<u8> {
    let stem: &[u8] = [&b"\0\0\0\0"[..], b"\0\0\0\x01", b"\0\0\0\x01user:", b"\0\0\0\x02"][random.index(4)];
    let mut key = stem.to_vec();
    for _ in 0..random.below(4) {
        key.push([0, b'a', b'b', 0xff][random.index(4)]);
    }
    key
}

pub(super) fn any_commits(random: &mut Random) -> Vec<Writes> {
    let commits = 1 + random.below(3);
    let mut one = || {
        let writes: BTreeMap<_, _> = (0..random.below(7))
            .map(|_| {
                let length = [0, 1, 7, 40, 200][random.index(5)];
                let value = (!random.once_in(4)).then(|| vec![random.bits() as u8; length]);
                (any_key(random), value)
            })
            .collect();
        writes.into_iter().collect()
    };
    (0..commits).map(|_| one()).collect()
}

impl Run<'_> {
    fn engine(&self) -> &DurableEngine {
        self.engine.as_ref().unwrap()
    }

    fn step(&mut self) {
        let visible = self.log.last().version.0;
        match self.random.below(100) {
            0..50 => {
                let commits = any_commits(&mut self.random);
                self.apply(commits, None);
            }
            50..55 => self.apply(Vec::new(), None),
            55..60 => {
                let membership = Bytes::from(vec![self.random.bits() as u8; 3]);
                self.apply(Vec::new(), Some(membership));
            }
            60..70 => {
                let target = visible.saturating_sub(self.random.below(9));
                self.kept_from = self.kept_from.max(target);
                self.engine().trim(Version(target));
            }
            70..85 => {
                self.engine().maintain().unwrap();
            }
            85..87 => {
                self.engine().persist().unwrap();
                assert_eq!(self.engine().stored(), self.log.last());
                assert_eq!(self.engine().state.get().chains.keys(), 0, "all that is stored leaves memory");
            }
            87..91 => self.pins.push(self.engine().pin()),
            91..94 => {
                let version = visible.saturating_sub(self.random.below(12));
                match self.engine().pin_at(Version(version)) {
                    Ok(pin) => self.pins.push(pin),
                    Err(error) => {
                        let horizon = self.engine().usage().horizon;
                        assert_eq!(error, Error::Gone { asked: Version(version), horizon });
                        assert!(version < horizon.0);
                    }
                }
            }
            94..97 => {
                if !self.pins.is_empty() {
                    let index = self.random.index(self.pins.len());
                    self.pins.swap_remove(index);
                }
            }
            _ => self.crash(),
        }
    }

    fn apply(&mut self, commits: Vec<Writes>, membership: Option<Bytes>) {
        let entry = self.log.push(commits, membership).clone();
        entry.apply(self.engine()).unwrap();
        self.model.apply(&entry);
    }

    /// What is stored is exact at its marker, and with the log's entries after it all is as it was.
    fn crash(&mut self) {
        let (stored, membership) = (self.engine().stored(), self.engine().stored_membership());
        self.pins.clear();
        drop(self.engine.take());
        let engine = DurableEngine::over(&Env::real(), self.disk.reopen(), self.options);
        assert_eq!((engine.stored(), engine.applied()), (stored, stored));
        assert_eq!((engine.stored_membership(), engine.membership()), (membership.clone(), membership));
        self.engine = Some(engine);
        if let Some(log_id) = stored.log_id {
            let index = log_id.index as usize;
            assert_eq!(self.log.entries[index].applied, stored);
            let before = self.log.entries[..=index].iter().rev().find_map(|entry| entry.membership.clone());
            assert_eq!(self.engine().stored_membership(), before.unwrap_or_default());
        }
        self.check_at(&self.engine().pin());
        let left = if self.random.once_in(3) { self.random.below(4) as usize } else { usize::MAX };
        for (index, entry) in self.log.after(stored).iter().enumerate() {
            entry.apply(self.engine()).unwrap();
            // A restart between any two entries, and a flush there.
            if index == left {
                self.engine().persist().unwrap();
            }
        }
        assert_eq!(self.engine().applied(), self.log.last());
    }

    fn check_at(&self, pin: &Pin) {
        let at = pin.version().0;
        for reverse in [false, true] {
            let expected = self.model.scan(&everything(), reverse, at);
            assert_eq!(scan(self.engine(), pin, &everything(), reverse, usize::MAX), expected, "at {at}");
        }
        let keys: Vec<&[u8]> = self.model.keys.keys().map(|key| &key[..]).chain([&b"\0\0\0\x01absent"[..]]).collect();
        let mut next = 0;
        let each = &mut |i, row: Option<Row<'_>>| {
            assert_eq!(i, next);
            next += 1;
            let row = row.map(|row| (row.version.0, row.value.to_vec()));
            assert_eq!(row, self.model.get(keys[i], at), "{:?} at {at}", keys[i]);
        };
        self.engine().get_at(pin, &keys, each).unwrap();
        assert_eq!(next, keys.len());
    }

    fn check(&mut self) {
        let engine = self.engine();
        assert_eq!(engine.applied(), self.log.last());
        let now = engine.pin();
        self.pins.iter().for_each(|pin| self.check_at(pin));
        self.check_at(&now);
        let usage = engine.usage();
        let floor = usage.horizon.0;
        if let Ok(pin) = engine.pin_at(Version(floor)) {
            self.check_at(&pin);
        }
        let keys: Vec<&[u8]> = self.model.keys.keys().map(|key| &key[..]).collect();
        for keys in keys.chunks(37) {
            let version = engine.get_latest(keys, &mut |i, version, row| {
                let row = row.map(|row| (row.version.0, row.value.to_vec()));
                assert_eq!(row, self.model.get(keys[i], version.0), "{:?} at {version}", keys[i]);
            });
            assert_eq!(version, Ok(now.version()));
        }
        let (a, b) = (any_key(&mut self.random), any_key(&mut self.random));
        let (reverse, max) = (self.random.once_in(2), 1 + self.random.index(9));
        let range = range(&a, &b);
        let mut expected = self.model.scan(&range, reverse, now.version().0);
        expected.truncate(max);
        assert_eq!(scan(self.engine(), &now, &range, reverse, max), expected);
    }
}

/// Runs so many steps from a seed; `QUANTADB_SEED` gives another first one.
fn run(disk: &mut dyn Disk, options: DurableOptions, seed: u64, steps: usize, check_every: usize) {
    println!("seed {seed}, {options:?}");
    let engine = DurableEngine::over(&Env::real(), disk.reopen(), options);
    let mut run = Run {
        disk,
        options,
        random: Random::new(seed),
        engine: Some(engine),
        log: Log::default(),
        model: Model::default(),
        pins: Vec::new(),
        kept_from: 0,
    };
    for step in 0..steps {
        run.step();
        if step % check_every == 0 {
            run.check();
        }
    }
    run.crash();
    run.check();
}

pub(super) fn first_seed() -> u64 {
    std::env::var("QUANTADB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// A little of everything, always in a hurry, and never.
pub(super) fn all_options() -> [DurableOptions; 3] {
    let small = small();
    [
        DurableOptions { slice_bytes: 256, ..small },
        DurableOptions { memory_bytes_max: 1024, ..small },
        DurableOptions { slice_bytes: 512, slice_age_max: Duration::ZERO, ..small },
    ]
}

#[test]
fn any_steps_over_a_simulated_base_equal_the_model() {
    for seed in first_seed()..first_seed() + 40 {
        let options = all_options()[(seed % 3) as usize];
        run(&mut Simulated(SimulatedBase::new(seed)), options, seed, 150, 1);
    }
}

#[test]
fn any_steps_over_a_base_on_disk_equal_the_model() {
    for seed in first_seed()..first_seed() + 3 {
        let options = all_options()[(seed % 3) as usize];
        run(&mut OnDisk(TemporaryDirectory::new("durable-model")), options, seed, 120, 10);
    }
}
