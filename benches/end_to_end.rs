//! A closed loop over real sockets: C connections, a window of D requests each, beside whatever speaks RESP.
//!
//! ```text
//! cargo bench --bench end_to_end                                   QuantaDB alone, started here
//! cargo bench --bench end_to_end -- resp=127.0.0.1:6405,PID        beside a server that speaks RESP
//!     keys=1000000 seconds=3 rounds=3 points=50x1,50x16,50x64      what is measured
//!     quantadb=ADDR,PID                                            a server that runs already
//!     before=ADDR,PID                                              beside another build of QuantaDB
//! ```
//!
//! Every connection reads once, takes all replies that came, refills exactly as many and writes once. Keys are 16 bytes,
//! values 100, uniform. Rounds are interleaved, their order alternates; medians are told, and their ratios. Server CPU
//! is the growth of `schedstat` over the server's threads in the measured window, for each operation.

#![allow(clippy::unwrap_used, reason = "a measurement, not a service")]

use bytes::{Buf, BufMut, BytesMut};
use quantadb::{
    types::KeyspaceId,
    wire::{self, Hello, Kind, List, Request, RequestBody, preface::PREFACE},
};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
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

const VALUE_BYTES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Get,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    QuantaDb,
    Resp,
}

#[derive(Clone, Debug)]
struct Target {
    name: &'static str,
    protocol: Protocol,
    address: String,
    pid: u32,
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let digits = format!("{number:012}");
    key[4..].copy_from_slice(digits.as_bytes());
    key
}

impl Protocol {
    fn put_request(self, out: &mut BytesMut, op: Op, id: u64, number: u64) {
        let key = key_of(number);
        let value = [b'v'; VALUE_BYTES];
        match self {
            Protocol::QuantaDb => {
                let mut full = [0; 20];
                full[..4].copy_from_slice(&KeyspaceId::DEFAULT.0.to_be_bytes());
                full[4..].copy_from_slice(&key);
                let body = match op {
                    Op::Get => RequestBody::Get { key: &full },
                    Op::Set => RequestBody::Put { key: &full, value: &value },
                };
                let request = Request::new(body);
                let opcode = request.opcode().number();
                wire::put_frame(out, Kind::Request, 0, opcode, id, |out| request.encode(out));
            }
            Protocol::Resp => match op {
                Op::Get => {
                    out.put_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
                    out.put_slice(&key);
                    out.put_slice(b"\r\n");
                }
                Op::Set => {
                    out.put_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
                    out.put_slice(&key);
                    out.put_slice(b"\r\n$100\r\n");
                    out.put_slice(&value);
                    out.put_slice(b"\r\n");
                }
            },
        }
    }

    /// Takes whole replies from the front; returns how many. Looks no closer than it must, in either protocol.
    fn take_replies(self, inbound: &mut BytesMut) -> u64 {
        let (mut at, mut count) = (0, 0);
        match self {
            Protocol::QuantaDb => {
                while inbound.len() - at >= wire::Header::BYTES {
                    let length = u32::from_be_bytes(inbound[at..at + 4].try_into().unwrap()) as usize;
                    if inbound.len() - at < wire::Header::BYTES + length {
                        break;
                    }
                    assert_eq!(inbound[at + 4], Kind::Response.number(), "the server answered an error");
                    at += wire::Header::BYTES + length;
                    count += 1;
                }
            }
            Protocol::Resp => {
                while at < inbound.len() {
                    let Some(end) = inbound[at..].windows(2).position(|pair| pair == b"\r\n") else { break };
                    let line = &inbound[at + 1..at + end];
                    let length = match inbound[at] {
                        b'+' => end + 2,
                        b'$' if line == b"-1" => end + 2,
                        b'$' => end + 2 + std::str::from_utf8(line).unwrap().parse::<usize>().unwrap() + 2,
                        other => panic!("the server answered {}", other as char),
                    };
                    if inbound.len() - at < length {
                        break;
                    }
                    at += length;
                    count += 1;
                }
            }
        }
        inbound.advance(at);
        count
    }

    async fn connect(self, address: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        if self == Protocol::QuantaDb {
            let mut out = BytesMut::from(&PREFACE[..]);
            let hello =
                Hello { version_min: 1, version_max: 1, credit: 0, client_name: "bench", features: List::EMPTY };
            wire::put_frame(&mut out, Kind::Hello, 0, 0, 0, |out| hello.encode(out));
            stream.write_all(&out).await.unwrap();
            let mut preface = [0; 8];
            stream.read_exact(&mut preface).await.unwrap();
            let mut header = [0; wire::Header::BYTES];
            stream.read_exact(&mut header).await.unwrap();
            let mut welcome = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
            stream.read_exact(&mut welcome).await.unwrap();
        }
        stream
    }
}

/// One measured window.
#[derive(Clone, Copy, Debug)]
struct Figure {
    per_second: f64,
    cpu_ns: f64,
    p50_us: f64,
    p99_us: f64,
}

#[derive(Clone, Copy)]
struct Point {
    connections: usize,
    depth: u64,
}

struct Load {
    op: Op,
    point: Point,
    keys: u64,
    seconds: f64,
    /// Keys in order, each once, instead of at random for a time.
    fill: bool,
}

/// Nanoseconds that the threads of a process have run.
fn cpu_ns(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_task = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
    let first = |text: String| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    tasks.flatten().map(|task| first(of_task(task.path()))).sum()
}

fn run(target: &Target, load: &Load) -> Figure {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let fill = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for seed in 0..load.point.connections as u64 {
            let stream = target.protocol.connect(&target.address).await;
            let parts = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&fill));
            let (protocol, op, depth, keys, filling) =
                (target.protocol, load.op, load.point.depth, load.keys, load.fill);
            tasks.push(tokio::spawn(drive(stream, protocol, op, depth, keys, filling, seed, parts)));
        }
        let warm = if load.fill { 0.0 } else { 0.3 };
        tokio::time::sleep(Duration::from_secs_f64(warm)).await;
        let (before, cpu_before, started) = (done.load(Ordering::Relaxed), cpu_ns(target.pid), Instant::now());
        if load.fill {
            while done.load(Ordering::Relaxed) < load.keys {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
        }
        let count = (done.load(Ordering::Relaxed) - before) as f64;
        let cpu = (cpu_ns(target.pid) - cpu_before) as f64;
        let elapsed = started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        latencies.sort_unstable();
        let quantile = |q: f64| {
            latencies.get(((latencies.len() as f64 * q) as usize).min(latencies.len().saturating_sub(1))).copied()
        };
        Figure {
            per_second: count / elapsed,
            cpu_ns: cpu / count,
            p50_us: quantile(0.50).unwrap_or(0) as f64 / 1e3,
            p99_us: quantile(0.99).unwrap_or(0) as f64 / 1e3,
        }
    })
}

/// One connection's loop. Returns the time from writing to reading of each batch, in nanoseconds.
#[allow(clippy::too_many_arguments, reason = "what one connection needs to know")]
async fn drive(
    mut stream: TcpStream,
    protocol: Protocol,
    op: Op,
    depth: u64,
    keys: u64,
    filling: bool,
    seed: u64,
    (stop, done, fill): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>),
) -> Vec<u64> {
    let (mut inbound, mut outbound) = (BytesMut::with_capacity(1 << 17), BytesMut::with_capacity(1 << 17));
    let (mut random, mut id, mut outstanding, mut latencies) = (mix(seed + 1), 0, 0, Vec::new());
    let mut refill = depth;
    loop {
        if !stop.load(Ordering::Relaxed) {
            for _ in 0..refill {
                let number = if filling {
                    let next = fill.fetch_add(1, Ordering::Relaxed);
                    if next >= keys {
                        break;
                    }
                    next
                } else {
                    random = mix(random);
                    random % keys
                };
                id += 1;
                outstanding += 1;
                protocol.put_request(&mut outbound, op, id, number);
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
        latencies.push(u64::try_from(written.elapsed().as_nanos()).unwrap());
        outstanding -= refill;
        done.fetch_add(refill, Ordering::Relaxed);
    }
}

fn start_quantadb() -> (Target, Child) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quantadb"))
        .args(["serve", "--memory", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-level", "error"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find(|word| word.contains("127.0.0.1:")).unwrap();
    let from = address.find("127.0.0.1:").unwrap();
    let address: String =
        address[from..].chars().take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ':').collect();
    (Target { name: "quantadb", protocol: Protocol::QuantaDb, address, pid: child.id() }, child)
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    figures[figures.len() / 2]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let find = |name: &str| {
        arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let target = |name, protocol, text: String| {
        let (address, pid) = text.split_once(',').expect("ADDR,PID");
        Target { name, protocol, address: address.to_owned(), pid: pid.parse().unwrap() }
    };
    let keys: u64 = find("keys").map_or(1_000_000, |text| text.parse().unwrap());
    let seconds: f64 = find("seconds").map_or(2.0, |text| text.parse().unwrap());
    let rounds: usize = find("rounds").map_or(3, |text| text.parse().unwrap());
    let points = find("points").unwrap_or_else(|| "50x1,50x16".into());
    let points: Vec<Point> = points
        .split(',')
        .map(|point| point.split_once('x').expect("CxD"))
        .map(|(connections, depth)| Point { connections: connections.parse().unwrap(), depth: depth.parse().unwrap() })
        .collect();
    let (ours, child) = match find("quantadb") {
        Some(text) => (target("quantadb", Protocol::QuantaDb, text), None),
        None => {
            let (target, child) = start_quantadb();
            (target, Some(child))
        }
    };
    let mut targets = vec![ours];
    targets.extend(find("before").map(|text| target("before", Protocol::QuantaDb, text)));
    targets.extend(find("resp").map(|text| target("resp", Protocol::Resp, text)));
    for target in &targets {
        let point = Point { connections: 50, depth: 64 };
        let figure = run(target, &Load { op: Op::Set, point, keys, seconds, fill: true });
        println!("{:9} filled {keys} keys at {:.0}k/s", target.name, figure.per_second / 1e3);
    }
    for point in points {
        for op in [Op::Get, Op::Set] {
            let mut figures = vec![Vec::new(); targets.len()];
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..targets.len()).collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for place in order {
                    let load = Load { op, point, keys, seconds, fill: false };
                    figures[place].push(run(&targets[place], &load));
                }
            }
            let medians: Vec<Figure> = figures.into_iter().map(median).collect();
            for (target, figure) in targets.iter().zip(&medians) {
                println!(
                    "{:9} {op:?} ({},{})  {:8.0}k/s  {:6.0} ns CPU/op  batch p50 {:6.0} us  p99 {:6.0} us",
                    target.name,
                    point.connections,
                    point.depth,
                    figure.per_second / 1e3,
                    figure.cpu_ns,
                    figure.p50_us,
                    figure.p99_us
                );
            }
            if let [ours, theirs] = medians[..] {
                let (speed, cpu) = (ours.per_second / theirs.per_second, theirs.cpu_ns / ours.cpu_ns);
                println!(
                    "          ratio {op:?} ({},{})  {speed:.2}x the throughput, 1/{cpu:.2} of the CPU",
                    point.connections, point.depth
                );
            }
        }
    }
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}
