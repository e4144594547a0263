//! Readers beside a writer and a trimmer see whole batches, whatever is cut and freed meanwhile.

use super::*;
use std::{
    sync::atomic::AtomicBool,
    thread::{scope, yield_now},
};

const ACCOUNTS: u64 = if cfg!(miri) { 5 } else { 40 };
const BALANCE: u64 = 100;
const BATCHES: u64 = if cfg!(miri) { 20 } else { 20_000 };

fn account(i: u64) -> Vec<u8> {
    [b"\0\0\0\x01account".as_slice(), &i.to_be_bytes()].concat()
}

fn token(i: u64) -> Vec<u8> {
    [b"\0\0\0\x02token".as_slice(), &i.to_be_bytes()].concat()
}

/// Holds the version that wrote it, and is written by every version.
const LATEST: &[u8] = b"\0\0\0\x03latest";

/// Ends the readers when the writer ends, or panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Moves money between accounts, and one token from each key to the next: at every version the accounts hold the same sum
/// and there is exactly one token, whose value is the version, as is that of the latest.
fn write(engine: &MemoryEngine) {
    let mut balances = vec![BALANCE; ACCOUNTS as usize];
    let mut seed = 1u64;
    for version in 2..BATCHES {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (from, to) = ((seed >> 33) % ACCOUNTS, (seed >> 45) % ACCOUNTS);
        let amount = balances[from as usize].min(seed >> 60);
        balances[from as usize] -= amount;
        balances[to as usize] += amount;
        let from = (account(from), Some(balances[from as usize].to_be_bytes()));
        let to = (account(to), Some(balances[to as usize].to_be_bytes()));
        let value = Some(version.to_be_bytes());
        let tokens = [(token(version - 1), None), (token(version), value), (LATEST.to_vec(), value)];
        let mut writes = vec![from.clone()];
        writes.extend((from.0 != to.0).then_some(to));
        writes.extend(tokens);
        let writes: Vec<_> = writes.iter().map(|(key, value)| (&key[..], value.as_ref().map(|v| &v[..]))).collect();
        apply(engine, version, &writes);
    }
}

fn opened() -> MemoryEngine {
    let engine = engine();
    let accounts: Vec<_> = (0..ACCOUNTS).map(account).collect();
    let balance = BALANCE.to_be_bytes();
    let first = token(1);
    let mut writes: Vec<(&[u8], Option<&[u8]>)> = accounts.iter().map(|key| (&key[..], Some(&balance[..]))).collect();
    let one = 1u64.to_be_bytes();
    writes.extend([(&first[..], Some(&one[..])), (LATEST, Some(&one))]);
    apply(&engine, 1, &writes);
    engine
}

fn read_sum(engine: &MemoryEngine) {
    let accounts: Vec<_> = (0..ACCOUNTS).map(account).collect();
    let keys: Vec<_> = accounts.iter().map(|key| &key[..]).collect();
    let mut sum = 0;
    let version = engine
        .get_latest(&keys, &mut |_, version, row| {
            let row = row.unwrap();
            assert!(row.version <= version);
            sum += number(row.value);
        })
        .unwrap();
    assert_eq!(sum, ACCOUNTS * BALANCE, "at {version}");
}

fn read_token(engine: &MemoryEngine) {
    let version = engine.visible();
    let near: Vec<_> = (version.0.saturating_sub(4)..version.0 + 5).map(token).collect();
    let keys: Vec<_> = near.iter().map(|key| &key[..]).collect();
    let mut tokens = Vec::new();
    let version = engine.get_latest(&keys, &mut |_, _, row| tokens.extend(row.map(|row| number(row.value)))).unwrap();
    assert!(tokens.is_empty() || tokens == [version.0], "{tokens:?} at {version}");
}

fn read_latest(engine: &MemoryEngine) {
    let mut latest = 0;
    let version = engine.get_latest(&[LATEST], &mut |_, _, row| latest = number(row.unwrap().value)).unwrap();
    assert_eq!(version.0, latest);
}

fn read_pinned(engine: &MemoryEngine) {
    let pin = engine.pin();
    let accounts: Vec<_> = (0..ACCOUNTS).map(account).collect();
    let keys: Vec<_> = accounts.iter().map(|key| &key[..]).collect();
    let mut first = Vec::new();
    engine.get_at(&pin, &keys, &mut |_, row| first.push(number(row.unwrap().value))).unwrap();
    assert_eq!(first.iter().sum::<u64>(), ACCOUNTS * BALANCE, "at {}", pin.version());
    for reverse in [false, true] {
        let rows = scan(engine, &pin, &range(b"\0\0\0\x01", b"\0\0\0\x02"), reverse, usize::MAX);
        let mut balances: Vec<_> = rows.iter().map(|(_, _, value)| number(value)).collect();
        if reverse {
            balances.reverse();
        }
        assert_eq!(balances, first, "at {}", pin.version());
        let tokens = scan(engine, &pin, &range(b"\0\0\0\x02", b"\0\0\0\x03"), reverse, usize::MAX);
        let version = pin.version().0;
        assert_eq!(tokens, [(token(version), version, version.to_be_bytes().to_vec())]);
    }
    let again = engine.pin_at(pin.version()).unwrap();
    drop(pin);
    let mut second = Vec::new();
    engine.get_at(&again, &keys, &mut |_, row| second.push(number(row.unwrap().value))).unwrap();
    assert_eq!(first, second);
}

#[test]
fn readers_see_whole_batches_beside_a_writer_and_a_trimmer() {
    let engine = opened();
    let is_done = AtomicBool::new(false);
    let until_done = |read: &dyn Fn()| {
        while !is_done.load(Ordering::Acquire) {
            read();
            yield_now();
        }
        read();
    };
    scope(|scope| {
        scope.spawn(|| {
            until_done(&|| {
                read_sum(&engine);
                read_token(&engine);
                (0..10).for_each(|_| read_latest(&engine));
            });
        });
        scope.spawn(|| until_done(&|| read_pinned(&engine)));
        scope.spawn(|| until_done(&|| while engine.trim(engine.visible()) {}));
        let _done = Done(&is_done);
        write(&engine);
    });
    trim_all(&engine, u64::MAX);
    assert_eq!(engine.usage().keys, ACCOUNTS + 2);
    assert_eq!(engine.usage().pins, 0);
}

#[test]
fn an_unpinned_read_is_not_torn_by_a_trimmer_on_its_heels() {
    // The writer trims right behind every batch: the horizon passes a reader's version all the time.
    let engine = opened();
    let is_done = AtomicBool::new(false);
    scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    read_sum(&engine);
                }
            });
        }
        let one = |version: u64| {
            let balance = BALANCE.to_be_bytes();
            let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
            let writes: Vec<_> = keys.iter().map(|key| (&key[..], Some(&balance[..]))).collect();
            apply(&engine, version, &writes);
            while engine.trim(Version(version)) {}
        };
        let _done = Done(&is_done);
        (2..BATCHES / 5).for_each(one);
    });
}

#[test]
fn readers_find_every_key_while_the_table_grows_under_them() {
    let engine = opened();
    let keys = if cfg!(miri) { 30 } else { 20_000 };
    let is_done = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0u64;
            while !is_done.load(Ordering::Acquire) {
                turn += 1;
                // Version v wrote token v; all up to the visible one are there, and none after it.
                let visible = engine.visible().0;
                let wanted: Vec<_> = (0..8).map(|i| token(1 + (turn * 7919 + i * 104_729) % visible)).collect();
                let keys: Vec<_> = wanted.iter().map(|key| &key[..]).collect();
                engine.get_latest(&keys, &mut |_, _, row| assert!(row.is_some())).unwrap();
                if turn.is_multiple_of(64) || cfg!(miri) {
                    let pin = engine.pin();
                    let rows = scan(&engine, &pin, &range(b"\0\0\0\x02", b"\0\0\0\x03"), turn.is_multiple_of(128), 500);
                    assert_eq!(rows.len() as u64, pin.version().0.min(500));
                }
            }
        });
        let _done = Done(&is_done);
        for version in 2..keys {
            apply(&engine, version, &[(&token(version), Some(&version.to_be_bytes()))]);
        }
    });
}
