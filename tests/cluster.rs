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

#[path = "cluster/snapshots.rs"]
mod snapshots;

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

/// How often each fault is done. What takes longer is not done at all where nobody says how often.
fn repeats() -> Option<u64> {
    from_environment("QUANTADB_CLUSTER_REPEATS")
}

/// Says of a test that it was not run.
fn not_run(name: &str) {
    println!("{name}: not run; `.ci/cluster` runs it, and makes the network that some of it needs");
}

/// Clients at work while faults are done. Where the network must be parted, nodes need namespaces of their own.
async fn run(name: &'static str, nodes: usize, faults: &'static [Fault]) {
    let parts = faults.iter().any(|fault| fault.parts_network());
    match repeats() {
        Some(repeats) if network::has_namespaces() || !parts => {
            let transactions = from_environment("QUANTADB_CLUSTER_TRANSACTIONS").unwrap_or(100);
            let rounds = repeats * faults.len() as u64;
            Run { name, nodes, faults, rounds, transactions }.run(seed()).await;
        }
        _ => not_run(name),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_the_leader_is_killed() {
    Run { name: "kill", nodes: 3, faults: &[Fault::KillLeader], rounds: 1, transactions: 100 }.run(seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_are_killed() {
    run("kills", 3, &[Fault::KillLeader, Fault::KillFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_two_of_five_are_killed() {
    run("five", 5, &[Fault::KillTwo]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_stand_still_for_a_while() {
    run("pauses", 3, &[Fault::PauseLeader, Fault::PauseFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_are_cut_off() {
    run("isolation", 3, &[Fault::IsolateLeader, Fault::IsolateFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_nodes_hear_and_are_not_heard() {
    run("one-way", 3, &[Fault::MuteLeader, Fault::DeafenLeader]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_one_node_alone_hears_both_halves() {
    run("bridge", 5, &[Fault::Bridge]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_links_come_and_go() {
    run("flapping", 3, &[Fault::Flap]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_members_are_replaced() {
    run("replaced", 3, &[Fault::ReplaceLeader, Fault::ReplaceFollower]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_when_snapshots_are_interrupted() {
    run("snapshots", 3, &[Fault::InterruptSnapshot]).await;
}

/// All of them, one after the other, in one history: for as long as somebody wants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_stale_whatever_happens() {
    match from_environment("QUANTADB_CLUSTER_HISTORY") {
        None => not_run("whatever happens"),
        Some(transactions) => {
            let faults: &[Fault] = if network::has_namespaces() { Fault::ALL } else { Fault::WITHOUT_NETWORK };
            // Every fault comes more than once.
            let rounds = (2 * faults.len() as u64).max(transactions / 2_000);
            let transactions = transactions.div_ceil(rounds);
            Run { name: "whatever", nodes: 5, faults, rounds, transactions }.run(seed()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_in_time() {
    failover::run(from_environment("QUANTADB_CLUSTER_FAILOVERS").unwrap_or(1), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_are_done_once_while_leaders_are_killed() {
    increments::run(from_environment("QUANTADB_CLUSTER_ADDITIONS").unwrap_or(500), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_answers_nothing_stale() {
    match repeats() {
        Some(repeats) => paused::run(repeats, seed()).await,
        None => not_run("a leader that stood still"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_its_quorum_serves_what_needs_none() {
    match repeats() {
        Some(_) => quorum::run(false, seed()).await,
        None => not_run("a follower that lost its quorum"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lost_its_quorum_serves_what_needs_none() {
    match repeats() {
        Some(_) => quorum::run(true, seed()).await,
        None => not_run("a leader that lost its quorum"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_every_node_is_restarted() {
    rolling::run(repeats().unwrap_or(1), seed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_and_no_call_fails() {
    match std::env::var("QUANTADB_SKEW") {
        Ok(program) => rolling::upgrade(&program, seed()).await,
        Err(_) => not_run("an upgrade"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_belong_there_is_turned_away() {
    strangers::run(seed()).await;
}
