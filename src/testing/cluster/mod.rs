//! A cluster in a simulation: the real node, server and client, on simulated hosts, with a workload, faults by seed, and what
//! must hold at every moment.
//!
//! ```text
//!   Sim ── hosts n1..n5: Replica (directory, log, store, node, server)    crash, power cut, pause, partition, …
//!      └── hosts c1..c4: Worker (client, transactions)  ──>  history ──>  checker
//!                     Watch: one leader a term, log matching, equal chains at equal entries, no way back
//! ```
//!
//! A run is one seed: [`Scenario::run`]. It goes through its faults, then heals everything, waits until all replicas have the
//! same state and every one of them serves, and judges the history. A violation panics with the seed, and the same seed does
//! the same again.

mod replica;
mod scenario;
mod watch;
mod work;

pub use replica::{Kind, Replica, Ring};
pub use scenario::{Cluster, Report, Scenario};
pub use watch::Watch;
pub use work::{Totals, Worker};
