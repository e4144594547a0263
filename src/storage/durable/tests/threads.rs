//! Readers beside a writer, a trimmer and a thread that flushes and merges all the time.

use super::*;
use crate::testing::generators::Random;
use std::thread::{scope, yield_now};

const ACCOUNTS: u64 = 40;
const BALANCE: u64 = 100;

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn account(i: u64) -> Vec<u8> {
    key(&format!("account{i:03}"))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

fn entry(engine: &DurableEngine, version: u64, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let writes: Vec<_> =
        writes.iter().map(|(key, value)| Write { version: Version(version), key, value: value.as_deref() }).collect();
    let applied = Applied { log_id: Some(log_id(version)), version: Version(version), ..Applied::default() };
    engine.apply(&writes, applied).unwrap();
}

/// Moves money between accounts, and one token from key to key.
fn write(engine: &DurableEngine, batches: u64) {
    let value = |balance: u64| Some(balance.to_be_bytes().to_vec());
    let mut balances = vec![BALANCE; ACCOUNTS as usize];
    let mut random = Random::new(3);
    for version in 2..batches {
        let (from, to) = (random.index(balances.len()), random.index(balances.len()));
        let amount = random.below(balances[from] + 1);
        balances[from] -= amount;
        balances[to] += amount;
        let mut writes = vec![(account(from as u64), value(balances[from]))];
        if from != to {
            writes.push((account(to as u64), value(balances[to])));
        }
        writes.push((key(&format!("token{:02}", (version - 1) % 50)), None));
        writes.push((key(&format!("token{:02}", version % 50)), value(version)));
        entry(engine, version, &writes);
        while engine.usage().pressure != Pressure::None {
            yield_now();
        }
    }
}

fn read_latest(engine: &DurableEngine) {
    let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
    let keys: Vec<_> = keys.iter().map(|key| &key[..]).collect();
    let mut sum = 0;
    let version = engine.get_latest(&keys, &mut |_, _, row| sum += number(row.unwrap().value)).unwrap();
    assert_eq!(sum, ACCOUNTS * BALANCE, "at {version}");
    let keys: Vec<_> = (0..50).map(|i| key(&format!("token{i:02}"))).collect();
    let keys: Vec<_> = keys.iter().map(|key| &key[..]).collect();
    let mut tokens = Vec::new();
    let version = engine.get_latest(&keys, &mut |_, _, row| tokens.extend(row.map(|row| number(row.value)))).unwrap();
    assert_eq!(tokens, [version.0]);
}

fn read_pinned(engine: &DurableEngine, pin: &Pin) {
    for reverse in [false, true] {
        let rows = scan(engine, pin, &range(&key("account"), &key("b")), reverse, usize::MAX);
        let sum: u64 = rows.iter().map(|(_, _, value)| number(value)).sum();
        assert_eq!((rows.len() as u64, sum), (ACCOUNTS, ACCOUNTS * BALANCE), "at {}", pin.version());
        let tokens = scan(engine, pin, &range(&key("token"), &key("u")), reverse, usize::MAX);
        let tokens: Vec<_> = tokens.iter().map(|(_, _, value)| number(value)).collect();
        assert_eq!(tokens, [pin.version().0]);
    }
}

fn run(base: Box<dyn Base>, batches: u64) {
    let options = DurableOptions { memory_bytes_max: 256 * 1024, slice_bytes: 4 * 1024, ..small() };
    let engine = DurableEngine::over(&Env::real(), base, options);
    let mut writes: Writes = (0..ACCOUNTS).map(|i| (account(i), Some(BALANCE.to_be_bytes().to_vec()))).collect();
    writes.push((key("token01"), Some(1u64.to_be_bytes().to_vec())));
    entry(&engine, 1, &writes);
    let is_done = AtomicBool::new(false);
    let until_done = |work: &dyn Fn()| {
        while !is_done.load(Ordering::Acquire) {
            work();
            yield_now();
        }
    };
    scope(|scope| {
        scope.spawn(|| until_done(&|| read_latest(&engine)));
        scope.spawn(|| {
            until_done(&|| {
                let pin = engine.pin();
                read_pinned(&engine, &pin);
                // It stays for as long as one read takes, and others come and go below the floor.
                let again = pin.clone();
                drop(pin);
                read_pinned(&engine, &again);
            });
        });
        scope.spawn(|| {
            until_done(&|| {
                engine.maintain().unwrap();
                engine.trim(Version(engine.visible().0.saturating_sub(20)));
            });
        });
        let _done = Done(&is_done);
        write(&engine, batches);
    });
    assert!(engine.stored().version.0 > batches / 2, "{:?}", engine.stored());
    engine.persist().unwrap();
    maintain_all(&engine);
    read_latest(&engine);
    read_pinned(&engine, &engine.pin());
}

#[test]
fn readers_see_whole_entries_beside_flushes() {
    run(Box::new(SimulatedBase::new(1)), 10_000);
}

#[test]
fn readers_see_whole_entries_beside_flushes_to_disk() {
    let directory = TemporaryDirectory::new("durable-threads");
    let options = LsmOptions { block_cache_bytes: 64 * 1024, table_bytes: 8 * 1024 };
    run(Box::new(LsmBase::open(&Env::real(), directory.path(), options).unwrap()), 4_000);
}
