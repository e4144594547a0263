//! The loop of one connection, and what a window of many came to.

use super::{Op, Protocol, Target, cpu_ns};
use bytes::BytesMut;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a server is warmed before the window.
const WARM: Duration = Duration::from_millis(300);

/// One measured window.
#[derive(Clone, Debug)]
pub struct Figure {
    pub per_second: f64,
    pub cpu_ns: f64,
    /// The time from writing to reading of each batch, in nanoseconds, sorted.
    pub latencies: Vec<u64>,
}

impl Figure {
    /// A quantile of the latencies, in microseconds.
    pub fn quantile_us(&self, q: f64) -> f64 {
        quantile(&self.latencies, q) as f64 / 1e3
    }
}

/// A quantile of what is sorted; zero of nothing.
fn quantile(sorted: &[u64], q: f64) -> u64 {
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// The window of the middle throughput.
pub fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    figures.swap_remove(figures.len() / 2)
}

#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub connections: usize,
    pub depth: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub op: Op,
    pub point: Point,
    pub keys: u64,
    pub seconds: f64,
    /// Keys in order, each once, instead of at random for a time.
    pub fill: bool,
}

/// What the connections of a window share.
#[derive(Default)]
struct Shared {
    /// The window has begun: latencies count.
    measured: AtomicBool,
    stop: AtomicBool,
    done: AtomicU64,
    fill: AtomicU64,
}

pub fn run(target: &Target, load: &Load) -> Figure {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Where a connection has one request out at a time, a deeper window is more connections.
    let Point { connections, depth } = load.point;
    let (connections, depth) = match target.protocol {
        Protocol::Etcd => (connections * usize::try_from(depth).unwrap(), 1),
        _ => (connections, depth),
    };
    runtime.block_on(async {
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        target.protocol.prepare(&target.address).await;
        for seed in 0..connections as u64 {
            let stream = target.protocol.connect(&target.address).await;
            let load = Load { point: Point { connections, depth }, ..*load };
            tasks.push(tokio::spawn(drive(stream, target.protocol, load, seed, Arc::clone(&shared))));
        }
        if !load.fill {
            tokio::time::sleep(WARM).await;
        }
        shared.measured.store(true, Ordering::Relaxed);
        let (before, cpu_before, started) = (shared.done.load(Ordering::Relaxed), cpu_ns(target.pid), Instant::now());
        if load.fill {
            while shared.done.load(Ordering::Relaxed) < load.keys {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
        }
        let count = (shared.done.load(Ordering::Relaxed) - before) as f64;
        let cpu = cpu_ns(target.pid).saturating_sub(cpu_before) as f64;
        let elapsed = started.elapsed().as_secs_f64();
        shared.stop.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        latencies.sort_unstable();
        Figure { per_second: count / elapsed, cpu_ns: cpu / count, latencies }
    })
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// One connection's loop. Returns the time from writing to reading of each batch, in nanoseconds.
async fn drive(mut stream: TcpStream, protocol: Protocol, load: Load, seed: u64, shared: Arc<Shared>) -> Vec<u64> {
    let (mut inbound, mut outbound) = (BytesMut::with_capacity(1 << 17), BytesMut::with_capacity(1 << 17));
    let (mut random, mut id, mut outstanding, mut latencies) = (mix(seed + 1), 0, 0, Vec::new());
    let mut refill = load.point.depth;
    loop {
        if !shared.stop.load(Ordering::Relaxed) {
            for _ in 0..refill {
                let number = if load.fill {
                    let next = shared.fill.fetch_add(1, Ordering::Relaxed);
                    if next >= load.keys {
                        break;
                    }
                    next
                } else {
                    random = mix(random);
                    random % load.keys
                };
                id += 1;
                outstanding += 1;
                protocol.put_request(&mut outbound, load.op, id, number);
            }
        }
        if outstanding == 0 {
            return latencies;
        }
        let written = Instant::now();
        stream.write_all(&outbound).await.unwrap();
        outbound.clear();
        refill = 0;
        while refill == 0 {
            inbound.reserve(1 << 16);
            assert!(stream.read_buf(&mut inbound).await.unwrap() > 0, "the server closed the connection");
            refill = protocol.take_replies(&mut inbound);
        }
        if shared.measured.load(Ordering::Relaxed) {
            latencies.push(u64::try_from(written.elapsed().as_nanos()).unwrap());
        }
        outstanding -= refill;
        shared.done.fetch_add(refill, Ordering::Relaxed);
    }
}
