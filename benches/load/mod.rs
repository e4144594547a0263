//! A closed loop over real sockets, for benches that measure servers beside each other.
//!
//! Every connection reads once, takes all replies that came, refills exactly as many and writes once. Keys are 16 bytes,
//! values 100, uniform. Server CPU is the growth of `schedstat` over the threads of the server and of all its descendants
//! in the measured window, for each operation.

pub mod cas;
pub mod drive;
mod protocol;
mod server;

pub use drive::{Load, Point, median, run};
pub use protocol::{Op, Protocol};
pub use server::{Server, Target, cpu_ns};

/// The words that a bench is given, `name=value`.
pub struct Words(Vec<String>);

impl Words {
    pub fn given() -> Words {
        Words(std::env::args().skip(1).collect())
    }

    pub fn find(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    }

    pub fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, name: &str, default: T) -> T {
        self.find(name).map_or(default, |text| text.parse().unwrap())
    }

    /// A running server, `ADDR,PID`.
    pub fn target(&self, word: &str, name: &'static str, protocol: Protocol) -> Option<Target> {
        let text = self.find(word)?;
        let (address, pid) = text.split_once(',').expect("ADDR,PID");
        Some(Target { name, protocol, address: address.to_owned(), pid: pid.parse().unwrap() })
    }

    /// Points, `CxD,CxD`.
    pub fn points(&self, default: &str) -> Vec<Point> {
        let points = self.find("points").unwrap_or_else(|| default.into());
        let point = |point: &str| {
            let (connections, depth) = point.split_once('x').expect("CxD");
            Point { connections: connections.parse().unwrap(), depth: depth.parse().unwrap() }
        };
        points.split(',').map(point).collect()
    }
}
