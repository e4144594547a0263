//! The real program under what a machine does to it: killed in the middle, without power, with calls that fail, with a
//! full disk, with flipped bits. What it acknowledged must be there afterwards, and what it said must stay so.
//!
//! Seeds are printed; `QUANTADB_CRASH_SEED` runs the choices again (the interleaving of threads is the machine's).
//! `tests/README.md` tells which variables make the runs longer, and what needs root.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "crash/process.rs"]
mod process;

#[path = "crash/disk.rs"]
mod disk;

#[path = "crash/ledger.rs"]
mod ledger;

#[path = "crash/work.rs"]
mod work;

#[path = "crash/cycles.rs"]
mod cycles;

#[path = "crash/power.rs"]
mod power;

#[path = "crash/full.rs"]
mod full;

#[path = "crash/faults.rs"]
mod faults;

#[path = "crash/bits.rs"]
mod bits;

#[path = "crash/reader.rs"]
mod reader;

use cycles::Crash;
use disk::Place;
use process::Launch;
use std::time::{SystemTime, UNIX_EPOCH};

/// A number from the environment.
pub fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A seed, the environment's if it has one. It is printed.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("QUANTADB_CRASH_SEED").unwrap_or(now.as_nanos() as u64 >> 10);
    println!("QUANTADB_CRASH_SEED={seed}");
    seed
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let cycles = from_environment("QUANTADB_CRASH_CYCLES").unwrap_or(8);
    let mut crash = Crash::new(Place::directory(), Launch::default(), seed());
    let run = crash.run(cycles);
    crash.print("kill -9");
    run.unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_server_that_keeps_nothing_is_found_out() {
    let launch = Launch { memory: true, ..Launch::default() };
    let violation = Crash::new(Place::directory(), launch, seed()).run(3).expect_err("everything was lost");
    println!("{violation}");
}

/// The judges themselves: a server that lives on loses nothing, so what they say of it is a mistake of theirs.
#[test]
fn clients_that_stop_in_the_middle_are_explained() {
    let launch = Launch { memory: true, ..Launch::default() };
    let mut crash = Crash::new(Place::directory(), launch, seed());
    let run = crash.vanish(12);
    crash.print("vanishing clients");
    run.unwrap_or_else(|violation| panic!("{violation}"));
}
