//! The memory engine beside `RwLock<BTreeMap<key, chain>>`, the obvious rival, in one run: a million keys of 16 bytes
//! (and four of keyspace), values of 100, uniform.
//!
//! `cargo bench --bench engine`. What a key costs in memory is printed first: as the engine counts it, and as the
//! resident set grew.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::RwLock;
use quantadb::{
    storage::{Applied, Engine, MemoryEngine, MemoryOptions, Write},
    types::{KeyspaceId, Version},
};
use std::{
    collections::BTreeMap,
    hint::black_box,
    ops::{Bound, ControlFlow},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const GROUP: usize = 16;
/// Writes of one entry.
const ENTRY: usize = 256;
/// Versions that trimming stays behind, as a node does that keeps some history.
const VERSIONS_KEPT: u64 = 64 * ENTRY as u64;
const VALUE: [u8; 100] = [7; 100];

fn key(i: u64) -> [u8; 20] {
    let mut key = *b"\0\0\0\x01key:000000000000";
    let (mut at, mut rest) = (20, i);
    while rest > 0 {
        at -= 1;
        key[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Uniform numbers (splitmix64), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let i = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let i = (i ^ i >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        i ^ i >> 31
    }

    fn keys<const N: usize>(&mut self) -> [[u8; 20]; N] {
        std::array::from_fn(|_| key(self.next() % KEYS))
    }
}

/// What both are asked.
trait Store: Send + Sync {
    fn get(&self, keys: &[[u8; 20]; GROUP]) -> usize;
    /// Writes an entry: one commit for each key, from `version` on.
    fn write(&self, version: u64, keys: &[[u8; 20]]);
    fn scan(&self, from: &[u8], rows: usize, reverse: bool) -> usize;
}

impl Store for MemoryEngine {
    fn get(&self, keys: &[[u8; 20]; GROUP]) -> usize {
        let keys: [&[u8]; GROUP] = std::array::from_fn(|i| &keys[i][..]);
        let mut bytes = 0;
        self.get_latest(&keys, &mut |_, _, row| bytes += row.map_or(0, |row| copied(row.value)))
            .expect("the engine is open");
        bytes
    }

    fn write(&self, version: u64, keys: &[[u8; 20]]) {
        let write = |(key, version)| Write { version: Version(version), key, value: Some(&VALUE) };
        let writes: Vec<_> = keys.iter().map(|key| &key[..]).zip(version..).map(write).collect();
        let version = Version(version + keys.len() as u64 - 1);
        self.apply(&writes, Applied { version, ..Applied::default() }).expect("versions ascend");
        self.trim(Version(version.0.saturating_sub(VERSIONS_KEPT)));
    }

    fn scan(&self, from: &[u8], rows: usize, reverse: bool) -> usize {
        let mut range = KeyspaceId::DEFAULT.range();
        if reverse {
            range.end = from.to_vec().into()
        } else {
            range.start = from.to_vec().into()
        }
        let (mut left, mut bytes) = (rows, 0);
        let mut each = |key: &[u8], row: quantadb::storage::Row<'_>| {
            bytes += key.len() + copied(row.value);
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        Engine::scan(self, &self.pin(), quantadb::storage::Scan { range: &range, reverse }, &mut each)
            .expect("the engine is open");
        bytes
    }
}

/// Copies a value, as a reply does.
fn copied(value: &[u8]) -> usize {
    let mut copy = [0; 100];
    copy[..value.len()].copy_from_slice(value);
    black_box(&copy);
    value.len()
}

/// Versions of a key, ascending.
type Chain = Vec<(u64, Box<[u8]>)>;

#[derive(Default)]
struct Rival {
    map: RwLock<BTreeMap<Box<[u8]>, Chain>>,
    visible: AtomicU64,
}

impl Store for Rival {
    fn get(&self, keys: &[[u8; 20]; GROUP]) -> usize {
        let map = self.map.read();
        let visible = self.visible.load(Ordering::Acquire);
        let at = |chain: &Chain| chain.iter().rfind(|(version, _)| *version <= visible).map_or(0, |(_, v)| copied(v));
        keys.iter().map(|key| map.get(&key[..]).map_or(0, at)).sum()
    }

    fn write(&self, version: u64, keys: &[[u8; 20]]) {
        let last = version + keys.len() as u64 - 1;
        for (key, version) in keys.iter().zip(version..) {
            let mut map = self.map.write();
            if !map.contains_key(&key[..]) {
                map.insert(Box::from(&key[..]), Chain::new());
            }
            let chain = map.get_mut(&key[..]).expect("it was put there");
            let horizon = version.saturating_sub(VERSIONS_KEPT);
            let kept = chain.iter().rposition(|(version, _)| *version <= horizon).unwrap_or(0);
            chain.drain(..kept);
            chain.reserve_exact(1);
            chain.push((version, Box::from(&VALUE[..])));
        }
        self.visible.store(last, Ordering::Release);
    }

    fn scan(&self, from: &[u8], rows: usize, reverse: bool) -> usize {
        let map = self.map.read();
        let visible = self.visible.load(Ordering::Acquire);
        let row = |key: &[u8], chain: &Chain| {
            key.len() + chain.iter().rfind(|(version, _)| *version <= visible).map_or(0, |(_, v)| copied(v))
        };
        if reverse {
            map.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(from)))
                .rev()
                .take(rows)
                .map(|(key, chain)| row(key, chain))
                .sum()
        } else {
            map.range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
                .take(rows)
                .map(|(key, chain)| row(key, chain))
                .sum()
        }
    }
}

fn engine() -> MemoryEngine {
    MemoryEngine::new(MemoryOptions { bytes_max: u64::MAX, hash_seed: 7 })
}

/// All keys, scattered.
fn scattered() -> Vec<[u8; 20]> {
    // An odd multiplier makes a permutation of the numbers below a power of two; those above KEYS are left out.
    (0..1u64 << 20).map(|i| i.wrapping_mul(0x9e37_79b1) % (1 << 20)).filter(|i| *i < KEYS).map(key).collect()
}

/// Writes all keys; returns the next version.
fn load(store: &dyn Store, keys: &[[u8; 20]]) -> u64 {
    let mut version = 1;
    for keys in keys.chunks(ENTRY) {
        store.write(version, keys);
        version += keys.len() as u64;
    }
    version
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|pages| pages.split(' ').nth(1)?.parse::<u64>().ok());
    resident.map_or(0, |pages| pages * 4096)
}

struct Loaded {
    name: &'static str,
    store: Box<dyn Store>,
    version: AtomicU64,
}

fn loaded() -> [Loaded; 2] {
    let keys = scattered();
    let before = resident_bytes();
    let engine = engine();
    let version = load(&engine, &keys);
    while engine.trim(Version(version)) {}
    for _ in 0..8 {
        engine.trim(Version(version));
    }
    let middle = resident_bytes();
    let counted = engine.usage().bytes / KEYS;
    let rival = Rival::default();
    load(&rival, &keys);
    println!("bytes a key: engine {counted} counted, {} resident", (middle - before) / KEYS);
    println!("bytes a key: rival {} resident", (resident_bytes() - middle) / KEYS);
    let version = || AtomicU64::new(version);
    [
        Loaded { name: "engine", store: Box::new(engine), version: version() },
        Loaded { name: "rival", store: Box::new(rival), version: version() },
    ]
}

fn points_and_scans(criterion: &mut Criterion) {
    let stores = loaded();
    let mut group = criterion.benchmark_group("get 16");
    group.throughput(Throughput::Elements(GROUP as u64));
    for Loaded { name, store, .. } in &stores {
        let mut numbers = Numbers(1);
        group.bench_function(*name, |bencher| {
            bencher.iter_batched_ref(|| numbers.keys(), |keys| store.get(keys), criterion::BatchSize::SmallInput);
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("update 256");
    group.throughput(Throughput::Elements(ENTRY as u64));
    for Loaded { name, store, version } in &stores {
        let mut numbers = Numbers(2);
        group.bench_function(*name, |bencher| {
            let write =
                |keys: &mut [[u8; 20]; ENTRY]| store.write(version.fetch_add(ENTRY as u64, Ordering::Relaxed), keys);
            bencher.iter_batched_ref(|| numbers.keys(), write, criterion::BatchSize::SmallInput);
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("scan 100");
    group.throughput(Throughput::Elements(100));
    for (direction, reverse) in [("up", false), ("down", true)] {
        for Loaded { name, store, .. } in &stores {
            let mut numbers = Numbers(3);
            group.bench_function(BenchmarkId::new(*name, direction), |bencher| {
                bencher.iter(|| store.scan(&key(numbers.next() % KEYS), 100, reverse));
            });
        }
    }
    group.finish();

    // Two threads: what the reader gets is the benchmark, what the writer did meanwhile is printed.
    let mut group = criterion.benchmark_group("get 16 beside a writer");
    group.throughput(Throughput::Elements(GROUP as u64));
    for Loaded { name, store, version } in &stores {
        let mut numbers = Numbers(4);
        let is_done = AtomicBool::new(false);
        let (writes, duration) = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut numbers = Numbers(5);
                let (start, mut writes) = (Instant::now(), 0);
                while !is_done.load(Ordering::Relaxed) {
                    store.write(version.fetch_add(ENTRY as u64, Ordering::Relaxed), &numbers.keys::<ENTRY>());
                    writes += ENTRY as u64;
                }
                (writes, start.elapsed())
            });
            group.bench_function(*name, |bencher| {
                bencher.iter_batched_ref(|| numbers.keys(), |keys| store.get(keys), criterion::BatchSize::SmallInput);
            });
            is_done.store(true, Ordering::Relaxed);
            writer.join().expect("the writer does not panic")
        });
        if writes > ENTRY as u64 * 100 {
            println!("{name}: beside it {:.2} M updates/s", writes as f64 / duration.as_secs_f64() / 1e6);
        }
    }
    group.finish();
}

fn loading(criterion: &mut Criterion) {
    let keys = scattered();
    let mut group = criterion.benchmark_group("insert a million");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(KEYS));
    group.bench_function("engine", |bencher| {
        bencher.iter_with_large_drop(|| {
            let store = engine();
            load(&store, &keys);
            store
        })
    });
    group.bench_function("rival", |bencher| {
        bencher.iter_with_large_drop(|| {
            let store = Rival::default();
            load(&store, &keys);
            store
        })
    });
    group.finish();
}

criterion_group!(benches, points_and_scans, loading);
criterion_main!(benches);
