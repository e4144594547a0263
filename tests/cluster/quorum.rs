//! Two of three nodes are gone: what needs no quorum goes on, everything else is refused in time and may be tried again, and
//! with the second node all goes on.

use super::{
    books::Books,
    load::{judge_snapshot, load},
    node::PATIENCE,
    rig::{Cluster, connect, read},
};
use futures_util::future::join_all;
use quantadb::{
    client::{
        CallOptions, Client, CommitOutcome, Condition, Consistency, Error, Execute, IdempotencyPair, Isolation,
        KeyRange, Keyspace, Op, Outcome, Retry,
    },
    env::{BoxFuture, Env},
    testing::{assertions::eventually, generators::Random},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long each call may take.
const DEADLINE: Duration = Duration::from_millis(1_500);
/// How much later its error may come.
const LATE_MAX: Duration = Duration::from_millis(500);
/// A staleness that a read may have long after the quorum was lost.
const LONG_MS: u32 = 60_000;
/// One that it may not have any more after as long.
const SHORT_MS: u32 = 500;

/// Whose errors may say that it must never be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    /// Nobody: it is a read, or has a name.
    Retry,
    /// Who does not know whether it was done: a write without a name.
    BeUnknown,
}

type Ending = BoxFuture<Result<(), Error>>;
type Call = fn(Keyspace) -> Ending;
type ClientCall = fn(Client) -> Ending;

/// What needs a quorum.
const CALLS: &[(&str, May, Call)] = &[
    ("get", May::Retry, |keyspace| Box::pin(async move { keyspace.get("bank/00").await.map(drop) })),
    ("get_many", May::Retry, |keyspace| {
        Box::pin(async move { keyspace.get_many(&["bank/00", "bank/01"]).await.map(drop) })
    }),
    ("count", May::Retry, |keyspace| Box::pin(async move { keyspace.count(..).await.map(drop) })),
    ("scan", May::Retry, |keyspace| Box::pin(async move { keyspace.scan(..).collect_rows().await.map(drop) })),
    ("put", May::BeUnknown, |keyspace| Box::pin(async move { keyspace.put("q/plain", "1").await.map(drop) })),
    ("delete", May::BeUnknown, |keyspace| Box::pin(async move { keyspace.delete("q/other").await.map(drop) })),
    ("delete_range", May::BeUnknown, |keyspace| {
        Box::pin(async move { keyspace.delete_range("q/y".."q/z").await.map(drop) })
    }),
    ("add", May::BeUnknown, |keyspace| Box::pin(async move { keyspace.add("q/sum", 1).await.map(drop) })),
    ("execute", May::BeUnknown, |keyspace| {
        let execute = Execute::new().when("q/x", Condition::Absent).then(Op::Put { key: b"q/x", value: b"1" });
        Box::pin(async move { keyspace.execute(&execute).await.map(drop) })
    }),
];

const CLIENT_CALLS: &[(&str, May, ClientCall)] = &[
    ("read_version", May::Retry, |client| Box::pin(async move { client.read_version().await.map(drop) })),
    ("open_keyspace", May::Retry, |client| Box::pin(async move { client.open_keyspace("q", true).await.map(drop) })),
    ("a transaction", May::Retry, |client| {
        Box::pin(async move { client.begin(Isolation::Serializable).await?.get("bank/00").await.map(drop) })
    }),
    ("transact", May::BeUnknown, |client| {
        Box::pin(async move { client.transact(|open| async move { open.put("q/t", "1").await }).await.map(drop) })
    }),
];

/// Does one thing that needs a quorum: it must fail in time, and say that it may be tried again.
async fn refused(what: &str, may: May, call: impl Future<Output = Result<(), Error>>) -> Result<(), String> {
    let begun = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, call).await.map_err(|_| format!("{what} hangs"))?;
    let took = begun.elapsed();
    let Err(error) = ended else { return Err(format!("{what} was done without a quorum")) };
    if took > DEADLINE + LATE_MAX {
        return Err(format!("{what} took {took:?}, its deadline was {DEADLINE:?}: {error:?}"));
    }
    let unknown = may == May::BeUnknown && error.outcome() == Outcome::Unknown;
    match error.retry() == Retry::Never && !unknown {
        true => Err(format!("{what} may never be tried again: {error:?}")),
        false => Ok(()),
    }
}

/// Everything that needs a quorum, all at once; what writes is tried under this name too.
async fn refuses(client: &Client, named: IdempotencyPair) -> Result<(), String> {
    // A stream has a deadline only where it is given one.
    let options = CallOptions::new().deadline(DEADLINE);
    let mut calls: Vec<(String, May, Ending)> = Vec::new();
    for (what, may, call) in CALLS {
        calls.push(((*what).into(), *may, call(client.with(options))));
        calls.push((format!("{what}, once"), *may, call(client.with(options.once()))));
    }
    calls.extend(CLIENT_CALLS.iter().map(|(what, may, call)| ((*what).into(), *may, call(client.clone()))));
    let keyed = client.with(options.idempotency(named));
    let put = async move { keyed.put("q/named", "1").await.map(drop) };
    calls.push(("a named put".into(), May::Retry, Box::pin(put)));
    let ended = join_all(calls.into_iter().map(|(what, may, call)| async move { refused(&what, may, call).await }));
    ended.await.into_iter().collect()
}

/// Reads that ask for no more than the node has.
async fn serves(client: &Client, books: &Books) -> Result<(), String> {
    for consistency in [Consistency::Local, Consistency::BoundedStaleness { staleness_ms_max: LONG_MS }] {
        let options = CallOptions::new().consistency(consistency);
        let begun = Instant::now();
        let told = read(client, options, KeyRange::prefix("bank/")).await;
        let (version, rows) = told.map_err(|error| format!("a read of {consistency:?}: {error:?}"))?;
        judge_snapshot(books, consistency, begun, version, &rows)?;
        if rows.is_empty() {
            return Err(format!("a read of {consistency:?} finds nothing"));
        }
        let got = client.with(options).get("bank/00").await;
        got.map_err(|error| format!("a get of {consistency:?}: {error:?}"))?.ok_or("bank/00 is gone")?;
    }
    client.ping().await.map_err(|error| format!("ping: {error:?}"))?;
    client.status().await.map_err(|error| format!("status: {error:?}"))?;
    Ok(())
}

/// The survivor leads, or follows, when it loses the others.
///
/// # Panics
/// If something does not hold.
pub async fn run(survivor_leads: bool, seed: u64) {
    let cluster = Cluster::form("quorum", 3, seed).await;
    let mut cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let ended = lose(&mut cluster, survivor_leads).await;
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{}", cluster.tails()));
    cluster.stop().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

async fn lose(cluster: &mut Cluster, survivor_leads: bool) -> Result<(), String> {
    let books = Arc::new(Books::default());
    let leader = cluster.wait_for_leader().await?;
    let survivor = if survivor_leads { leader } else { (leader + 1) % 3 };
    let client = connect(cluster.addresses()[survivor], DEADLINE).await.map_err(|error| error.to_string())?;
    load(&client, &books).await.map_err(|error| format!("the first rows: {error}"))?;
    cluster.settle().await?;
    let mut key = [0; 16];
    key[..8].copy_from_slice(&Random::new(cluster.seed).bits().to_be_bytes());
    let named = IdempotencyPair { key, seen: books.seen() };
    // Begun while all was well; what it read is fine, and its commit needs others.
    let open = client.begin(Isolation::Serializable).await.map_err(|error| error.to_string())?;
    open.get("bank/00").await.map_err(|error| error.to_string())?;
    open.put("q/open", "1").await.map_err(|error| error.to_string())?;

    let others: Vec<_> = (0..3).filter(|node| *node != survivor).collect();
    others.iter().for_each(|node| cluster.nodes[*node].kill());
    let lost = Instant::now();
    refuses(&client, named).await?;
    serves(&client, &books).await?;
    let commit = async { open.commit_as(IdempotencyPair { key: [7; 16], ..named }).await.map(drop) };
    refused("the commit of a transaction", May::BeUnknown, commit).await?;
    // By now nobody can know any more that so little is missing.
    tokio::time::sleep((lost + 2 * Duration::from_millis(SHORT_MS.into())).duration_since(Instant::now())).await;
    let staleness = Consistency::BoundedStaleness { staleness_ms_max: SHORT_MS };
    let stale = async { client.with(CallOptions::new().consistency(staleness)).get("bank/00").await.map(drop) };
    refused("a read that would be too stale", May::Retry, stale).await?;
    refused("outcome", May::Retry, async { client.outcome(named).await.map(drop) }).await?;
    refuses(&client, named).await?;
    serves(&client, &books).await?;

    let back = Instant::now();
    cluster.nodes[others[cluster.random.index(2)]].start().await?;
    let env = Env::real();
    let again = || async { client.put("q/again", "1").await.ok() };
    eventually(&env, PATIENCE, "a write with two of three nodes", again).await;
    println!("  a write was acknowledged {:.1?} after a second node was started", back.elapsed());
    serves(&client, &books).await?;
    let put = client.with(CallOptions::new().idempotency(named)).put("q/named", "1").await;
    let put = put.map_err(|error| format!("the named put, sent again: {error:?}"));
    match (put, client.outcome(named).await) {
        (Ok(version), Ok(CommitOutcome::Committed { version: told, .. })) if version == told => {}
        // It was fenced by whoever asked what became of it.
        (Err(_), Ok(CommitOutcome::Never)) => {}
        (put, outcome) => return Err(format!("the named put was {put:?}, and its outcome is {outcome:?}")),
    }
    client.get("bank/00").await.map_err(|error| format!("get: {error:?}"))?;
    cluster.mend().await?;
    cluster.settle().await?;
    cluster.assert_same_rows().await?;
    Ok(())
}
