//! Nodes that were away for so long that they need a snapshot, which is interrupted: by the death of who takes it, or of who
//! sends it.

use super::{
    node::PATIENCE,
    rig::{Cluster, connect_to_any},
};
use quantadb::client::{CallOptions, Client, Execute, Op};
use std::time::{Duration, Instant};

/// Rows that make a snapshot long, written again and again.
const ROWS: usize = 1_024;
const ROW_BYTES: usize = 16 * 1024;
/// Rows in one commit.
const AT_ONCE: usize = 32;
/// How often one snapshot is interrupted.
const INTERRUPTIONS: u64 = 4;
/// How long a node is away again and again until a snapshot is met: what an earlier one was captured from, and the log from
/// there on, is kept for a minute.
const GIVE_UP: Duration = Duration::from_secs(180);
/// How often somebody looks whether one is under way.
const POLL: Duration = Duration::from_millis(2);
/// How long one may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(20);

/// Writes more than the log keeps for who is away.
async fn write_much(client: &Client, round: u64) -> Result<(), String> {
    for first in (0..ROWS).step_by(AT_ONCE) {
        let value = vec![b'a' + (round % 26) as u8; ROW_BYTES];
        let execute = (first..first + AT_ONCE).fold(Execute::new(), |execute, row| {
            execute.then(Op::Put { key: format!("bulk/{row:04}").as_bytes(), value: &value })
        });
        let pair = client.new_pair().await.map_err(|error| format!("{error:?}"))?;
        let done = client.with(CallOptions::new().idempotency(pair)).execute(&execute).await;
        done.map_err(|error| format!("a large write: {error:?}"))?;
    }
    Ok(())
}

/// Waits until a snapshot is under way to a node; `false` if the node is ready without one.
async fn begins(cluster: &Cluster, node: usize) -> bool {
    let until = Instant::now() + BEGINS_WITHIN;
    while !cluster.nodes[node].takes_snapshot() {
        if Instant::now() > until || cluster.status(node).await.is_some() {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// What was done, in words; the node that was away is on its way to be as the others are.
///
/// # Errors
/// If no snapshot was ever met under way.
pub async fn interrupt(cluster: &mut Cluster, leader: usize, node: usize) -> Result<String, String> {
    let (mut takers, mut senders) = (0, 0);
    let until = Instant::now() + GIVE_UP;
    while Instant::now() < until {
        if cluster.nodes[node].is_running() {
            cluster.nodes[node].kill();
        }
        let client = connect_to_any(&cluster.addresses(), leader, PATIENCE).await.map_err(|error| error.to_string())?;
        write_much(&client, cluster.random.bits()).await?;
        // Time for what was written to be flushed, and for the log below it to go.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for _ in 0..INTERRUPTIONS {
            if !cluster.nodes[node].is_running() {
                // Not waited for: it is ready once it is up to date.
                drop(cluster.nodes[node].spawn());
            }
            if !begins(cluster, node).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(cluster.random.below(100))).await;
            if !cluster.nodes[node].takes_snapshot() {
                break;
            }
            if cluster.random.once_in(3) {
                let sender = cluster.wait_for_leader().await?;
                cluster.nodes[sender].kill();
                senders += 1;
                tokio::time::sleep(Duration::from_millis(cluster.random.below(2_000))).await;
                cluster.nodes[sender].start().await?;
            } else {
                cluster.nodes[node].kill();
                takers += 1;
            }
        }
        if takers + senders > 0 {
            return Ok(format!("of node {node}, which was killed {takers} times, who sent it {senders} times"));
        }
    }
    Err(format!("no snapshot was met under way to node {node}\n{}", cluster.nodes[node].tail()))
}
