//! Eight clients at once against one server whose group misbehaves: everything that they asked and were told is
//! written down, and the checker must find a serial order that explains it.
//!
//! The seed is printed; `QUANTADB_TORTURE_SEED` runs its choices again (the interleaving of threads is the machine's).
//! `QUANTADB_TORTURE_SECONDS` is how long each test runs.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "torture/chaos.rs"]
mod chaos;
#[path = "torture/client.rs"]
mod client;
#[path = "torture/message.rs"]
mod message;
#[path = "torture/work.rs"]
mod work;

use client::{Client, How, Settings, Tally};
use quantadb::{
    testing::{history::Recorder, hosted::HostedServer, server::TestOptions},
    types::{KeyRange, KeyspaceId},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const CLIENTS: u64 = 8;
const SECONDS_DEFAULT: u64 = 3;
/// Ends a run before its time, so that what is written down fits the memory of a small machine.
const ATTEMPTS_MAX: usize = 2_000_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    from_environment("QUANTADB_TORTURE_SEED").unwrap_or(now.as_nanos() as u64 >> 10)
}

struct Variant {
    name: &'static str,
    /// Entries are lost, terms end, connections break; else entries are refused and nothing more.
    losses: bool,
    remote_reads: bool,
}

fn torture(variant: &Variant) {
    let seconds = from_environment("QUANTADB_TORTURE_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let seed = seed();
    println!("{}: QUANTADB_TORTURE_SEED={seed} QUANTADB_TORTURE_SECONDS={seconds}", variant.name);
    let server = HostedServer::start_with(TestOptions { remote_reads: variant.remote_reads, ..TestOptions::default() });
    let recorder = Recorder::new();
    let settings = Settings { address: server.address(), recorder: recorder.clone(), losses: variant.losses };
    let calm = Settings { losses: false, ..settings.clone() };
    let mut first = Client::new(0, seed, &calm);
    work::load(&mut first);

    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let worked = std::thread::scope(|scope| {
        let chaos = scope.spawn(|| chaos::reign(server.faults(), seed, variant.losses, &over));
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|number| {
                let (settings, recorder, over) = (&settings, &recorder, &over);
                scope.spawn(move || {
                    let mut client = Client::new(number, seed, settings);
                    let until = begun + Duration::from_secs(seconds);
                    while Instant::now() < until && !over.load(Ordering::Relaxed) {
                        for _ in 0..16 {
                            work::anything(&mut client);
                        }
                        over.fetch_or(recorder.len() > ATTEMPTS_MAX, Ordering::Relaxed);
                    }
                    client
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        chaos.join().expect("chaos ends by itself");
        clients
    });
    let failed = worked.iter().filter(|client| client.is_err()).count();
    let mut clients: Vec<Client> = worked.into_iter().flatten().collect();
    let worked = begun.elapsed();
    clients.iter_mut().for_each(Client::settle);

    let mut last = Client::new(CLIENTS + 1, seed, &calm);
    let everything = KeyRange { start: KeyspaceId::DEFAULT.full_key(b""), end: client::key("zzzz") };
    let all = last.scan(&everything, How::default()).expect("the node leads and nothing is held");
    let history = recorder.take();
    let checked = Instant::now();
    let verdict = history.check();
    println!(
        "{}: {} attempts in {:.1} s, judged in {:.1} s",
        variant.name,
        history.transactions.len(),
        worked.as_secs_f64(),
        checked.elapsed().as_secs_f64(),
    );
    clients.push(first);
    print_tally(&clients);
    match verdict {
        Ok(summary) => println!("{summary:?}"),
        Err(violation) => panic!("seed {seed}: {violation}"),
    }
    assert!(failed == 0, "seed {seed}: {failed} clients failed, as said above");
    work::judge(&all);
}

fn print_tally(clients: &[Client]) {
    let mut tally = Tally::new();
    for (what, count) in clients.iter().flat_map(|client| &client.tally) {
        *tally.entry(*what).or_default() += count;
    }
    let mut kind_before = "";
    for ((kind, outcome), count) in &tally {
        if *kind != kind_before {
            print!("\n  {kind:30}");
            kind_before = kind;
        }
        print!(" {outcome} {count},");
    }
    println!();
}

#[test]
fn histories_are_strictly_serializable_while_entries_are_lost() {
    torture(&Variant { name: "losses", losses: true, remote_reads: false });
}

#[test]
fn histories_are_strictly_serializable_while_every_read_is_confirmed() {
    torture(&Variant { name: "remote reads", losses: true, remote_reads: true });
}

#[test]
fn histories_are_strictly_serializable_while_entries_are_refused() {
    torture(&Variant { name: "refusals", losses: false, remote_reads: false });
}
