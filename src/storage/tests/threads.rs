//! Readers beside installs: every read is of one state, and of one version.

use super::*;
use crate::testing::generators::Random;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::{scope, yield_now},
};

const ACCOUNTS: u64 = 60;
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

/// Moves money between accounts, and notes the version.
fn pay(engine: &dyn Engine, balances: &mut [u64], random: &mut Random) {
    let version = engine.visible().0 + 1;
    let (from, to) = (random.index(balances.len()), random.index(balances.len()));
    let amount = random.below(balances[from] + 1);
    balances[from] -= amount;
    balances[to] += amount;
    let value = |number: u64| Some(number.to_be_bytes().to_vec());
    let mut writes = vec![(account(from as u64), value(balances[from])), (key("version"), value(version))];
    if from != to {
        writes.push((account(to as u64), value(balances[to])));
    }
    apply(engine, version, &writes);
}

fn check_latest(engine: &dyn Engine) {
    let keys: Vec<_> = (0..ACCOUNTS).map(account).chain([key("version")]).collect();
    let keys: Vec<_> = keys.iter().map(|key| &key[..]).collect();
    let (mut sum, mut noted) = (0, 0);
    let version = engine
        .get_latest(&keys, &mut |i, _, row| {
            let value = number(row.unwrap().value);
            if i as u64 == ACCOUNTS { noted = value } else { sum += value }
        })
        .unwrap();
    assert_eq!((sum, Version(noted)), (ACCOUNTS * BALANCE, version));
}

/// Whether the pin was of what is there now.
fn check_pinned(engine: &dyn Engine, pin: &Pin, reverse: bool) -> bool {
    match rows_at(engine, pin, &everything(), reverse) {
        Err(Error::Gone { asked, horizon }) => {
            assert!(asked == pin.version() && horizon > asked);
            false
        }
        rows => {
            let rows = rows.unwrap();
            let (version, accounts): (Vec<_>, Vec<_>) = rows.iter().partition(|(key, ..)| key.ends_with(b"version"));
            let sum: u64 = accounts.iter().map(|(_, _, value)| number(value)).sum();
            assert_eq!((sum, number(&version[0].2)), (ACCOUNTS * BALANCE, pin.version().0));
            true
        }
    }
}

fn run(to: &Placed, installs: u64) {
    let (from, mut random) = (in_memory(), Random::new(3));
    let mut balances = vec![BALANCE; ACCOUNTS as usize];
    let value = |number: u64| Some(number.to_be_bytes().to_vec());
    let mut first: Vec<_> = (0..ACCOUNTS).map(|i| (account(i), value(BALANCE))).collect();
    first.push((key("version"), value(1)));
    apply(&*from.engine, 1, &first);
    let engine = &to.engine;
    send(&from.engine, engine).unwrap();
    let is_done = AtomicBool::new(false);
    let until_done = |work: &mut dyn FnMut()| {
        while !is_done.load(Ordering::Acquire) {
            work();
            yield_now();
        }
    };
    scope(|scope| {
        scope.spawn(|| until_done(&mut || check_latest(&**engine)));
        scope.spawn(|| {
            let (mut whole, mut reverse) = (0_u64, false);
            until_done(&mut || {
                let pin = engine.pin();
                reverse = !reverse;
                while check_pinned(&**engine, &pin, reverse) && !is_done.load(Ordering::Acquire) {
                    whole += 1;
                    yield_now();
                }
            });
            assert!(whole > 0);
        });
        scope.spawn(|| {
            until_done(&mut || {
                engine.maintain().unwrap();
                engine.trim(Version(engine.visible().0.saturating_sub(3)));
            });
        });
        let _done = Done(&is_done);
        let (mut own, mut apart) = (balances.clone(), Random::new(5));
        for _ in 0..installs {
            (0..20).for_each(|_| pay(&*from.engine, &mut balances, &mut random));
            while from.engine.trim(from.engine.visible()) {}
            send(&from.engine, engine).unwrap();
            own.clone_from(&balances);
            // It follows by itself for a while.
            (0..5).for_each(|_| pay(&**engine, &mut own, &mut apart));
        }
    });
    check_latest(&**engine);
}

#[test]
fn readers_see_whole_states_beside_installs_in_memory() {
    run(&in_memory(), 200);
}

#[test]
fn readers_see_whole_states_beside_installs_over_a_simulated_base() {
    run(&simulated(), 150);
}

#[test]
fn readers_see_whole_states_beside_installs_on_disk() {
    run(&on_disk(), 20);
}
