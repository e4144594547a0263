//! Durable puts: what is acknowledged has been synced. Beside Valkey and Redis that sync always, PostgreSQL and etcd.
//!
//! ```text
//! cargo bench --bench durable                                       QuantaDB alone, started here
//! cargo bench --bench durable -- resp=ADDR,PID pg=ADDR,PID etcd=ADDR,PID
//!     before=ADDR,PID                                               beside another build of QuantaDB
//!     keys=100000 seconds=3 rounds=3 points=1x1,50x1,50x16          what is measured
//!     dir=/var/tmp                                                  where our data lie: the peers' file system
//! cargo bench --bench durable -- flush=20                           tail latency in 20 windows, with and without flushes
//! cargo bench --bench durable -- reopen=1000000                     from the start of the program to ready
//! ```
//!
//! Rounds are interleaved, their order alternates; medians are told, and ratios to ours. Beside them stands what the disk
//! gives in the same run to one thread that writes a block into a zero-filled file and syncs it. `commits a sync` is how
//! many of our puts one sync of the log made durable.

#![allow(clippy::unwrap_used, reason = "a measurement, not a service")]
#![allow(missing_docs, dead_code, reason = "a part of what the benches share")]

#[path = "load/mod.rs"]
mod load;

use load::{Load, Op, Point, Protocol, Server, Target, Words, drive::Figure, median, run};
use quantadb::{client::Client, testing::directory::TemporaryDirectory};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// As large as a segment of our log.
const RAW_FILE_BYTES: usize = 64 << 20;
/// As much as our log writes for a small group.
const RAW_WRITE_BYTES: usize = 4_096;

fn main() {
    let words = Words::given();
    // Peers and ours on one file system: the temporary directory of this process is there.
    if let Some(directory) = words.find("dir") {
        let exec = std::env::current_exe().unwrap();
        let given = std::env::args().skip(1).filter(|word| !word.starts_with("dir="));
        let mut again = std::process::Command::new(exec);
        let status = again.args(given).env("TMPDIR", directory).status().unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    let directory = TemporaryDirectory::new("durable");
    let data = directory.path().join("data");
    if let Some(records) = words.find("reopen") {
        reopen(&data, records.parse().unwrap());
    } else if let Some(windows) = words.find("flush") {
        flush(&words, directory.path(), &data, windows.parse().unwrap());
    } else {
        puts(&words, directory.path(), &data);
    }
}

/// What the disk gives: writes into a zero-filled file, each synced. Returns how many a second, and their quantiles in us.
fn raw(directory: &Path, seconds: f64) -> (f64, f64, f64) {
    let path = directory.join("raw");
    let zeros = vec![0; 1 << 20];
    let mut file = File::create(&path).unwrap();
    (0..RAW_FILE_BYTES / zeros.len()).for_each(|_| file.write_all(&zeros).unwrap());
    file.sync_all().unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let (begun, block, mut times, mut at) = (Instant::now(), [1; RAW_WRITE_BYTES], Vec::new(), 0);
    while begun.elapsed().as_secs_f64() < seconds {
        let written = Instant::now();
        file.write_all_at(&block, at).unwrap();
        file.sync_data().unwrap();
        times.push(written.elapsed().as_nanos() as u64);
        at = (at + RAW_WRITE_BYTES as u64) % RAW_FILE_BYTES as u64;
    }
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    times.sort_unstable();
    std::fs::remove_file(path).unwrap();
    let quantile = |q: f64| times[(times.len() as f64 * q) as usize] as f64 / 1e3;
    (per_second, quantile(0.5), quantile(0.99))
}

/// What a server of ours counts.
fn counters(target: &Target) -> BTreeMap<String, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let client = Client::connect(target.address.as_str()).await?;
        client.status().await
    });
    status.unwrap().counters.into_iter().map(|counter| (counter.name, counter.value)).collect()
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> u64 {
    let of = |counters: &BTreeMap<String, u64>| counters.get(name).copied();
    let (before, after) = (of(before), of(after));
    after.unwrap_or_else(|| panic!("no counter is called {name}")).saturating_sub(before.unwrap_or(0))
}

fn puts(words: &Words, directory: &Path, data: &Path) {
    let keys = words.number("keys", 100_000);
    let seconds: f64 = words.number("seconds", 2.0);
    let rounds: usize = words.number("rounds", 3);
    let server = Server::start(&["--data-dir", data.to_str().unwrap()]);
    let mut targets = vec![server.target.clone()];
    targets.extend(words.target("before", "before", Protocol::QuantaDb));
    targets.extend(words.target("resp", "resp", Protocol::Resp));
    targets.extend(words.target("resp2", "resp2", Protocol::Resp));
    targets.extend(words.target("pg", "postgres", Protocol::Postgres));
    targets.extend(words.target("etcd", "etcd", Protocol::Etcd));
    for point in words.points("1x1,50x1,50x16") {
        let mut figures = vec![Vec::new(); targets.len()];
        let (mut disk, mut commits_a_sync) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            disk.push(raw(directory, seconds.min(1.0)));
            let mut order: Vec<usize> = (0..targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for place in order {
                let load = Load { op: Op::Set, point, keys, seconds, fill: false };
                let before = (place == 0).then(|| counters(&targets[0]));
                figures[place].push(run(&targets[place], &load));
                if let Some(before) = before {
                    let after = counters(&targets[0]);
                    let syncs = grown(&before, &after, "log_syncs_total").max(1);
                    commits_a_sync.push(grown(&before, &after, "commits_total") as f64 / syncs as f64);
                }
            }
        }
        let Point { connections, depth } = point;
        disk.sort_by(|a, b| a.0.total_cmp(&b.0));
        commits_a_sync.sort_by(f64::total_cmp);
        let (syncs, p50, p99) = disk[disk.len() / 2];
        println!("disk      write+fdatasync  {syncs:8.0}/s  p50 {p50:6.0} us  p99 {p99:6.0} us");
        let medians: Vec<Figure> = figures.into_iter().map(median).collect();
        for (target, figure) in targets.iter().zip(&medians) {
            let ratio = medians[0].per_second / figure.per_second;
            print!(
                "{:9} put ({connections},{depth})  {:8.0}/s  {:7.0} ns CPU/op  batch p50 {:6.0} us  p99 {:6.0} us  p99.9 {:6.0} us",
                target.name,
                figure.per_second,
                figure.cpu_ns,
                figure.quantile_us(0.50),
                figure.quantile_us(0.99),
                figure.quantile_us(0.999),
            );
            match target.name {
                "quantadb" => println!("  {:.1} commits a sync", commits_a_sync[commits_a_sync.len() / 2]),
                _ => println!("  we do {ratio:.2}x as many, at 1/{:.2} of the CPU", figure.cpu_ns / medians[0].cpu_ns),
            }
        }
    }
}

/// The tail of the latency of durable puts, in windows of a second in which the base was written and in which it was not.
fn flush(words: &Words, directory: &Path, data: &Path, windows: usize) {
    let configuration = directory.join("flush.ron");
    let slice_bytes: u64 = words.number("slice_bytes", 64 << 20);
    std::fs::write(&configuration, format!("(storage: (slice_bytes: {slice_bytes}, slice_age_ms_max: 5000))")).unwrap();
    let words_of = ["--data-dir", data.to_str().unwrap(), "--config", configuration.to_str().unwrap()];
    let server = Server::start(&words_of);
    let point = words.points("50x1")[0];
    let keys = words.number("keys", 1_000_000);
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for window in 0..windows {
        let before = files(&data.join("base"));
        let load = Load { op: Op::Set, point, keys, seconds: 1.0, fill: false };
        let figure = run(&server.target, &load);
        if window > 0 {
            if files(&data.join("base")) == before { &mut idle } else { &mut busy }.push(figure);
        }
    }
    for (name, figures) in [("idle", idle), ("flushing or merging", busy)] {
        let per_second: f64 = figures.iter().map(|figure| figure.per_second).sum::<f64>() / figures.len().max(1) as f64;
        let windows = figures.len();
        let mut latencies: Vec<u64> = figures.into_iter().flat_map(|figure| figure.latencies).collect();
        latencies.sort_unstable();
        let all = Figure { per_second, cpu_ns: 0.0, latencies };
        println!(
            "{name:20} {windows:3} windows  {per_second:8.0}/s  p50 {:6.0} us  p99 {:6.0} us  p99.9 {:6.0} us",
            all.quantile_us(0.50),
            all.quantile_us(0.99),
            all.quantile_us(0.999),
        );
    }
}

/// The files of the base and their lengths: others once something was flushed or merged, or is being.
fn files(under: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(under).unwrap().flatten() {
        // One that is gone by now was there.
        let bytes = entry.metadata().map_or(0, |file| if file.is_dir() { 0 } else { file.len() });
        found.insert(entry.path(), bytes);
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found
}

/// How long a server of so many records takes to be ready again: after an orderly end, and after it was killed.
fn reopen(data: &Path, records: u64) {
    let words = ["--data-dir", data.to_str().unwrap()];
    let server = Server::start(&words);
    println!("ready on an empty directory after {:.1?}", server.ready_after);
    let point = Point { connections: 50, depth: 64 };
    let figure = run(&server.target, &Load { op: Op::Set, point, keys: records, seconds: 0.0, fill: true });
    println!("filled {records} records at {:.0}/s", figure.per_second);
    drop(server);
    let ready = |name: &str, times: &mut Vec<Duration>| {
        times.sort();
        println!("ready after {name}: median {:.1?}, max {:.1?}", times[times.len() / 2], times[times.len() - 1]);
    };
    let mut killed = Vec::new();
    for _ in 0..5 {
        killed.push(Server::start(&words).ready_after);
    }
    ready("a kill", &mut killed);
    Server::start(&words).stop();
    let mut stopped = Vec::new();
    for _ in 0..5 {
        let server = Server::start(&words);
        stopped.push(server.ready_after);
        server.stop();
    }
    ready("an orderly end", &mut stopped);
}
