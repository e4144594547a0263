//! Three durable nodes on one machine, beside three of etcd: puts and linearizable reads at the leader and at a follower, and
//! many clients that compare and set one key.
//!
//! ```text
//! cargo bench --bench cluster -- leader=ADDR,PID follower=ADDR,PID     our nodes, which run already
//!     etcd=ADDR,PID                                                    beside a member of etcd, which runs already
//!     keys=10000 seconds=3 rounds=3 points=50x1,50x16 cas=64           what is measured
//! ```
//!
//! All of a cluster shares the machine with the driver, so figures are ratios and nothing else. Rounds are interleaved, their
//! order alternates; medians are told. CPU is that of the process named. Every request is answered before a connection sends
//! its next one at depth 1; etcd's gateway takes no more than that.

#![allow(clippy::unwrap_used, reason = "a measurement, not a service")]
#![allow(missing_docs, dead_code, unused_imports, reason = "a part of what the benches share")]

#[path = "load/mod.rs"]
mod load;

use load::{Load, Op, Point, Protocol, Target, Words, cas::contend, median, run};

fn main() {
    let words = Words::given();
    let keys = words.number("keys", 10_000);
    let seconds = words.number("seconds", 3.0);
    let rounds: usize = words.number("rounds", 3);
    let leader = words.target("leader", "leader", Protocol::QuantaDb).expect("leader=ADDR,PID");
    let follower = words.target("follower", "follower", Protocol::QuantaDb);
    let etcd = words.target("etcd", "etcd", Protocol::Etcd);
    let targets: Vec<&Target> = [Some(&leader), follower.as_ref(), etcd.as_ref()].into_iter().flatten().collect();
    for target in [Some(&leader), etcd.as_ref()].into_iter().flatten() {
        let depth = if target.protocol == Protocol::Etcd { 1 } else { 16 };
        let figure =
            run(target, &Load { op: Op::Set, point: Point { connections: 50, depth }, keys, seconds, fill: true });
        println!("{:9} filled {keys} keys at {:.1}k/s", target.name, figure.per_second / 1e3);
    }
    for point in words.points("50x1,50x16") {
        for op in [Op::Set, Op::Get] {
            let measured: Vec<&Target> = targets
                .iter()
                .copied()
                .filter(|target| point.depth == 1 || target.protocol != Protocol::Etcd)
                .collect();
            let mut figures = vec![Vec::new(); measured.len()];
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..measured.len()).collect();
                if round % 2 == 1 {
                    order.reverse();
                }
                for place in order {
                    figures[place].push(run(measured[place], &Load { op, point, keys, seconds, fill: false }));
                }
            }
            let medians: Vec<_> = figures.into_iter().map(median).collect();
            let Point { connections, depth } = point;
            for (target, figure) in measured.iter().zip(&medians) {
                println!(
                    "{:9} {op:?} ({connections},{depth})  {:8.1}k/s  {:7.0} ns CPU/op  p50 {:6.0} us  p99 {:6.0} us",
                    target.name,
                    figure.per_second / 1e3,
                    figure.cpu_ns,
                    figure.quantile_us(0.50),
                    figure.quantile_us(0.99)
                );
            }
            if let (Some(ours), Some(theirs)) =
                (medians.first(), measured.iter().position(|target| target.name == "etcd"))
            {
                let ratio = ours.per_second / medians[theirs].per_second;
                println!("          ratio {op:?} ({connections},{depth})  {ratio:.1}x etcd at the leader");
            }
        }
    }
    let clients: u64 = words.number("cas", 64);
    for target in targets {
        let mut rounds: Vec<_> = (0..rounds).map(|_| contend(target, clients, seconds)).collect();
        rounds.sort_by(|a, b| a.won.total_cmp(&b.won));
        let figure = rounds[rounds.len() / 2];
        println!(
            "{:9} CAS on one key ({clients} clients)  {:7.0} won/s of {:7.0} tried/s  {:7.0} ns CPU each  {} to {} a client",
            target.name, figure.won, figure.tried, figure.cpu_ns, figure.least, figure.most
        );
    }
}
