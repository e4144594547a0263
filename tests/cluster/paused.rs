//! A leader stands still while another takes its place. What it was asked meanwhile it answers when it goes on, and it must
//! not answer as if it still led.

use super::{
    node::PATIENCE,
    rig::{Cluster, connect},
};
use quantadb::{
    client::{CallOptions, Client, Error, Isolation, KeyRange, Version},
    env::Env,
    testing::assertions::eventually,
};
use std::time::Duration;
use tokio::task::JoinSet;

/// How long what was asked of the old leader may wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// Questions of each kind that wait for it.
const QUESTIONS: usize = 8;
/// How long it goes on standing still once another leads.
const HOLD: Duration = Duration::from_millis(300);

/// What an answer of the old leader tells: the value, or the version of a write.
#[derive(Debug)]
enum Answer {
    Read(Option<String>),
    Wrote(Version),
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

async fn get(client: Client) -> Result<Answer, Error> {
    let once = client.with(CallOptions::new().once());
    Ok(Answer::Read(once.get("x").await?.map(|row| text(&row.value))))
}

async fn scan(client: Client) -> Result<Answer, Error> {
    let rows = client.with(CallOptions::new().once()).scan(KeyRange::prefix("x")).collect_rows().await?;
    Ok(Answer::Read(rows.first().map(|row| text(&row.value))))
}

async fn begin(client: Client) -> Result<Answer, Error> {
    let transaction = client.begin(Isolation::Serializable).await?;
    let row = transaction.get("x").await?;
    transaction.commit().await?;
    Ok(Answer::Read(row.map(|row| text(&row.value))))
}

async fn put(client: Client, key: String) -> Result<Answer, Error> {
    Ok(Answer::Wrote(client.with(CallOptions::new().once()).put(key, "late").await?))
}

/// Lets leaders stand still, one after the other.
///
/// # Panics
/// If one answers what is stale, or acknowledges what is not there.
pub async fn run(rounds: u64, seed: u64) {
    let cluster = Cluster::form("paused", 3, seed).await;
    let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    for round in 0..rounds {
        let ended = stand_still(&mut cluster, round).await;
        ended.unwrap_or_else(|error| panic!("round {round}, seed {seed}: {error}\n{}", cluster.tails()));
    }
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

async fn stand_still(cluster: &mut Cluster, round: u64) -> Result<(), String> {
    let words = |error: Error| format!("{error:?}");
    let leader = cluster.wait_for_leader().await?;
    let client = connect(cluster.addresses()[leader], DEADLINE).await.map_err(words)?;
    client.put("x", format!("{round} before")).await.map_err(words)?;
    cluster.nodes[leader].pause();
    // Somebody else leads and has written when the questions are asked, so an answer that does not know of it is stale.
    let other = connect(cluster.addresses()[(leader + 1) % 3], Duration::from_secs(1)).await.map_err(words)?;
    let after = format!("{round} after");
    let env = Env::real();
    let written = || async { other.put("x", &after).await.ok() };
    let written = eventually(&env, PATIENCE, "a write without the old leader", written).await;
    let mut questions = JoinSet::new();
    for question in 0..QUESTIONS {
        questions.spawn(get(client.clone()));
        questions.spawn(scan(client.clone()));
        questions.spawn(begin(client.clone()));
        questions.spawn(put(client.clone(), format!("late/{round}/{question}")));
    }
    tokio::time::sleep(HOLD).await;
    cluster.nodes[leader].resume();
    let (mut fresh, mut refused) = (0, 0);
    let mut wrote = Vec::new();
    while let Some(answer) = questions.join_next().await {
        match answer.map_err(|error| error.to_string())? {
            Ok(Answer::Read(Some(value))) if value == after => fresh += 1,
            Ok(Answer::Wrote(version)) if version > written => wrote.push(version),
            Ok(answer) => return Err(format!("the old leader answers {answer:?} after {after:?} at {written}")),
            Err(_) => refused += 1,
        }
    }
    let acknowledged = wrote.len();
    println!(
        "  node {leader} stood still: {fresh} fresh answers, {acknowledged} writes acknowledged, {refused} refused"
    );
    cluster.settle().await?;
    // What it acknowledged after all, by way of the new leader, is there.
    let rows = cluster.assert_same_rows().await?;
    wrote.retain(|version| !rows.iter().any(|row| row.version == *version));
    match wrote.is_empty() {
        true => Ok(()),
        false => Err(format!("writes were acknowledged at {wrote:?} and are gone")),
    }
}
