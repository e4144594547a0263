//! Clusters of the real program under what happens to machines and networks: killed, paused, cut off. What was acknowledged
//! must be there afterwards, no answer may be stale, and somebody must lead again soon.
//!
//! Seeds are printed; `QUANTADB_CLUSTER_SEED` runs the choices again (the interleaving of processes is the machine's).
//! `tests/README.md` tells which variables make the runs longer, and what needs root.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "cluster/evidence.rs"]
mod evidence;

#[path = "cluster/network.rs"]
mod network;

#[path = "cluster/node.rs"]
mod node;

#[path = "cluster/rig.rs"]
mod rig;

#[path = "cluster/books.rs"]
mod books;

#[path = "cluster/load.rs"]
mod load;

#[path = "cluster/lists.rs"]
mod lists;

#[path = "cluster/faults.rs"]
mod faults;

#[path = "cluster/failover.rs"]
mod failover;

#[path = "cluster/increments.rs"]
mod increments;

#[path = "cluster/paused.rs"]
mod paused;

#[path = "cluster/quorum.rs"]
mod quorum;

#[path = "cluster/rolling.rs"]
mod rolling;

#[path = "cluster/strangers.rs"]
mod strangers;

use faults::{Fault, Run};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number from the environment.
pub fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A seed, the environment's if it has one. It is printed.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("QUANTADB_CLUSTER_SEED").unwrap_or(now.as_nanos() as u64 >> 10);
    println!("QUANTADB_CLUSTER_SEED={seed}");
    seed
}

/// Transactions before each fault.
fn transactions() -> u64 {
    from_environment("QUANTADB_CLUSTER_TRANSACTIONS").unwrap_or(100)
}

/// How often each fault of a list is done.
fn repeats() -> u64 {
    from_environment("QUANTADB_CLUSTER_REPEATS").unwrap_or(1)
}

async fn run(name: &'static str, nodes: usize, faults: &'static [Fault]) {
    let rounds = repeats() * faults.len() as u64;
    Run { name, nodes, faults, rounds, transactions: transactions() }.run(seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_are_killed() {
    run("kills", 3, &[Fault::KillLeader, Fault::KillFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_stand_still_for_a_while() {
    run("pauses", 3, &[Fault::PauseLeader, Fault::PauseFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_in_time() {
    failover::run(from_environment("QUANTADB_CLUSTER_FAILOVERS").unwrap_or(1), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_two_of_five_are_killed() {
    run("five", 5, &[Fault::KillTwo]).await;
}

/// Whether the network can be parted; said if not.
fn parts_network(name: &str) -> bool {
    let parts = network::has_namespaces();
    if !parts {
        println!("{name}: not run, for nodes need network namespaces of their own; `.ci/cluster` gives them those");
    }
    parts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_are_cut_off() {
    if parts_network("cut off") {
        run("isolation", 3, &[Fault::IsolateLeader, Fault::IsolateFollower]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_hear_and_are_not_heard() {
    if parts_network("one way") {
        run("one-way", 3, &[Fault::MuteLeader, Fault::DeafenLeader]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_one_node_alone_hears_both_halves() {
    if parts_network("bridge") {
        run("bridge", 5, &[Fault::Bridge]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_links_come_and_go() {
    if parts_network("flapping") {
        run("flapping", 3, &[Fault::Flap]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_are_done_once_while_leaders_are_killed() {
    increments::run(from_environment("QUANTADB_CLUSTER_ADDITIONS").unwrap_or(1_000), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_answers_nothing_stale() {
    paused::run(repeats(), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_its_quorum_serves_what_needs_none() {
    quorum::run(false, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_quorum_serves_what_needs_none() {
    quorum::run(true, seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_every_node_is_restarted() {
    rolling::run(repeats(), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_belong_there_is_turned_away() {
    strangers::run(seed()).await;
}
