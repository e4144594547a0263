//! Reads and writes in memory over real sockets: C connections, a window of D requests each, beside whatever speaks RESP.
//!
//! ```text
//! cargo bench --bench end_to_end                                   QuantaDB alone, started here
//! cargo bench --bench end_to_end -- resp=127.0.0.1:6405,PID        beside a server that speaks RESP
//!     keys=1000000 seconds=3 rounds=3 points=50x1,50x16,50x64      what is measured
//!     quantadb=ADDR,PID                                            a server that runs already
//!     before=ADDR,PID                                              beside another build of QuantaDB
//! ```
//!
//! Rounds are interleaved, their order alternates; medians are told, and their ratios.

#![allow(clippy::unwrap_used, reason = "a measurement, not a service")]
#![allow(missing_docs, dead_code, reason = "a part of what the benches share")]

#[path = "load/mod.rs"]
mod load;

use load::{Load, Op, Point, Protocol, Server, Words, median, run};

fn main() {
    let words = Words::given();
    let keys = words.number("keys", 1_000_000);
    let seconds = words.number("seconds", 2.0);
    let rounds: usize = words.number("rounds", 3);
    let running = words.target("quantadb", "quantadb", Protocol::QuantaDb);
    let started = if running.is_none() { Some(Server::start(&["--memory"])) } else { None };
    let ours = running.or_else(|| Some(started.as_ref()?.target.clone()));
    let mut targets: Vec<_> = ours.into_iter().collect();
    targets.extend(words.target("before", "before", Protocol::QuantaDb));
    targets.extend(words.target("resp", "resp", Protocol::Resp));
    for target in &targets {
        let point = Point { connections: 50, depth: 64 };
        let figure = run(target, &Load { op: Op::Set, point, keys, seconds, fill: true });
        println!("{:9} filled {keys} keys at {:.0}k/s", target.name, figure.per_second / 1e3);
    }
    for point in words.points("50x1,50x16") {
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
            let medians: Vec<_> = figures.into_iter().map(median).collect();
            let Point { connections, depth } = point;
            for (target, figure) in targets.iter().zip(&medians) {
                println!(
                    "{:9} {op:?} ({connections},{depth})  {:8.0}k/s  {:6.0} ns CPU/op  batch p50 {:6.0} us  p99 {:6.0} us",
                    target.name,
                    figure.per_second / 1e3,
                    figure.cpu_ns,
                    figure.quantile_us(0.50),
                    figure.quantile_us(0.99)
                );
            }
            if let [ours, theirs] = &medians[..] {
                let (speed, cpu) = (ours.per_second / theirs.per_second, theirs.cpu_ns / ours.cpu_ns);
                println!(
                    "          ratio {op:?} ({connections},{depth})  {speed:.2}x the throughput, 1/{cpu:.2} of the CPU",
                );
            }
        }
    }
}
