//! What the resolver costs: recording, checking points, checking ranges over many recent writes, and the latency of a
//! commit check after a scan.
//!
//! `cargo bench --bench resolver`

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quantadb::{
    txn::{Resolver, ResolverOptions},
    types::{KeyRange, Version},
};
use std::{hint::black_box, time::Duration};

/// A full key of a keyspace and 20 bytes.
fn key(i: u64) -> [u8; 24] {
    let mut key = *b"\0\0\0\x01key:0123456789abcdef";
    let mut at = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in &mut key[8..] {
        *byte = b"0123456789abcdef"[(at >> 60) as usize];
        at = at.rotate_left(4);
    }
    key
}

/// A resolver that has heard of this many writes, a commit each.
fn written(writes: u64) -> Resolver {
    let mut resolver = Resolver::new(Version(0), ResolverOptions::new(7));
    (1..=writes).for_each(|version| resolver.record(Version(version), &key(version)));
    resolver
}

/// Keys between two hexadecimal fronts that no write has.
fn gap(from: &str, to: &str) -> KeyRange {
    let full = |tail: &str| [b"\0\0\0\x01key:", tail.as_bytes()].concat().into();
    KeyRange { start: full(from), end: full(to) }
}

fn none<'a>() -> std::iter::Empty<&'a [u8]> {
    std::iter::empty()
}

fn record(c: &mut Criterion) {
    const BATCH: u64 = 1_000_000;
    let mut group = c.benchmark_group("record a million");
    group.throughput(Throughput::Elements(BATCH)).sample_size(10);
    let keys: Vec<[u8; 24]> = (0..BATCH).map(key).collect();
    let run = |resolver: &mut Resolver, check_every: usize| {
        for (version, key) in (1..).zip(&keys) {
            resolver.record(Version(version), key);
            resolver.set_applied(Version(version));
            if (version as usize).is_multiple_of(check_every) {
                let read = Version(version - 1);
                let _ = black_box(resolver.check(read, none(), &[gap("x", "y")]));
            }
        }
    };
    let fresh = || Resolver::new(Version(0), ResolverOptions::new(7));
    group.bench_function("blind", |b| {
        b.iter_batched_ref(fresh, |resolver| run(resolver, usize::MAX), BatchSize::PerIteration);
    });
    group.bench_function("a range check every thousand", |b| {
        b.iter_batched_ref(fresh, |resolver| run(resolver, 1_000), BatchSize::PerIteration);
    });
    group.finish();
}

fn points(c: &mut Criterion) {
    let mut group = c.benchmark_group("check a point");
    for writes in [10_000, 1_000_000, 5_000_000] {
        let mut resolver = written(writes);
        let mut i = 0;
        for (age, read) in [("new", Version(writes - 1)), ("old", Version(0))] {
            group.bench_function(format!("{writes} writes, {age} read version, absent"), |b| {
                b.iter(|| {
                    i += 1;
                    resolver.check(read, std::iter::once(&key(writes + i)[..]), &[])
                });
            });
        }
    }
    group.finish();
}

fn ranges(c: &mut Criterion) {
    let mut group = c.benchmark_group("check a range");
    for writes in [10_000, 1_000_000, 5_000_000] {
        let mut resolver = written(writes);
        let gaps = [gap("8x", "8y")];
        let started = std::time::Instant::now();
        let _ = black_box(resolver.check(Version(0), none(), &gaps));
        println!("{writes} blind writes, first range check from the oldest version: {:?}", started.elapsed());
        let mut slowest = Duration::ZERO;
        for _ in 0..1_000 {
            let started = std::time::Instant::now();
            let _ = black_box(resolver.check(Version(0), none(), &gaps));
            slowest = slowest.max(started.elapsed());
        }
        println!("{writes} blind writes, slowest of the next thousand: {slowest:?}");
        println!("{writes} writes take {} bytes", resolver.bytes());
        for (age, read) in
            [("1 write ago", writes - 1), ("1,000 writes ago", writes - 1_000), ("half", writes / 2), ("all", 0)]
        {
            group.bench_function(format!("{writes} writes, read version {age}, no conflict"), |b| {
                b.iter(|| resolver.check(Version(read), none(), black_box(&gaps)));
            });
        }
        group.bench_function(format!("{writes} writes, conflict in a wide range"), |b| {
            b.iter(|| resolver.check(Version(0), none(), &[gap("2", "3")]));
        });
    }
    group.finish();
}

/// A scan of so many keys leaves one range. It holds as many keys that were written before the read version, and the
/// writes since fall beside it.
fn after_a_scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit check after a scan");
    for (name, scanned) in [("10k", 10_000_u64), ("1M", 1_000_000)] {
        let in_scan = |i: u64| [b"\0\0\0\x01a".as_slice(), &key(i)[4..]].concat();
        let beside = |i: u64| [b"\0\0\0\x01b".as_slice(), &key(i)[4..]].concat();
        let mut resolver = Resolver::new(Version(0), ResolverOptions::new(7));
        (1..=scanned).for_each(|version| resolver.record(Version(version), &in_scan(version)));
        let range = [KeyRange { start: b"\0\0\0\x01a"[..].into(), end: b"\0\0\0\x01b"[..].into() }];
        let since = 100_000;
        (1..=since).for_each(|i| {
            resolver.record(Version(scanned + i), &beside(i));
            if i % 1_000 == 0 {
                let _ = resolver.check(Version(scanned + i - 10), none(), &range);
            }
        });
        group.bench_function(format!("of {name} keys, 100k writes since"), |b| {
            b.iter(|| resolver.check(Version(scanned), none(), black_box(&range)));
        });
        group.bench_function(format!("of {name} keys, 1k writes since"), |b| {
            b.iter(|| resolver.check(Version(scanned + since - 1_000), none(), black_box(&range)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    targets = record, points, ranges, after_a_scan
}
criterion_main!(benches);
