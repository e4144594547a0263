//! The Rust client against a real server, over sockets that can be cut.

#![allow(clippy::unwrap_used)]

use futures_util::StreamExt;
use quantadb::{
    client::{
        AtomicOp, CallOptions, Client, ClientOptions, CommitOutcome, Condition, Connector, Consistency, Error,
        ErrorCode, ErrorKind, Execute, IfGone, Isolation, KeyRange, Op, OpResult, Outcome, Retry, Role, Socket,
        TransactOptions, Value, Version,
    },
    env::BoxFuture,
    testing::server::TestServer,
};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::copy_bidirectional, net::TcpStream, sync::oneshot};

/// Connects through pipes that a test can cut.
#[derive(Default)]
struct Cable {
    cuts: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Cable {
    /// Cuts every connection that was made so far.
    fn cut(&self) {
        self.cuts.lock().unwrap().clear();
    }
}

struct Through(Arc<Cable>);

impl Connector for Through {
    fn connect(&self, address: &str) -> BoxFuture<io::Result<Box<dyn Socket>>> {
        let (cable, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let mut far = TcpStream::connect(address).await?;
            let (near, mut middle) = tokio::io::duplex(64 << 10);
            let (keep, cut) = oneshot::channel::<()>();
            cable.cuts.lock().unwrap().push(keep);
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut middle, &mut far) => {}
                    _ = cut => {}
                }
            });
            Ok(Box::new(near) as Box<dyn Socket>)
        })
    }
}

async fn started() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = Client::connect(server.address()).await.unwrap();
    (server, client)
}

async fn cuttable() -> (TestServer, Client, Arc<Cable>) {
    let (server, cable) = (TestServer::start().await, Arc::new(Cable::default()));
    let options =
        ClientOptions { connector: Arc::new(Through(cable.clone())), ..ClientOptions::from(server.address()) };
    let client = Client::connect(options).await.unwrap();
    (server, client, cable)
}

fn text(value: Option<Value>) -> Option<String> {
    value.map(|value| String::from_utf8(value.value.to_vec()).unwrap())
}

async fn fill(client: &Client, count: usize, value_bytes: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|at| format!("row/{at:06}")).collect();
    let value = vec![b'v'; value_bytes];
    for part in keys.chunks(1000) {
        let puts =
            part.iter().fold(Execute::new(), |all, key| all.then(Op::Put { key: key.as_bytes(), value: &value }));
        client.execute(&puts).await.unwrap();
    }
    keys
}

#[tokio::test]
async fn what_is_put_is_found_and_what_is_deleted_is_not() {
    let (_server, client) = started().await;
    assert_eq!(client.get("k").await.unwrap(), None);
    let first = client.put("k", "one").await.unwrap();
    let second = client.put("k", "two").await.unwrap();
    assert!(second > first);
    let found = client.get("k").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.version), (&b"two"[..], second));
    assert!(client.delete("k").await.unwrap() > second);
    assert_eq!(client.get("k").await.unwrap(), None);
    client.put("", "the empty key").await.unwrap();
    assert_eq!(text(client.get("").await.unwrap()).as_deref(), Some("the empty key"));
    assert!(client.seen_version() > second);
    assert!(client.read_version().await.unwrap() >= client.seen_version());
}

#[tokio::test]
async fn many_keys_are_read_in_their_order_however_large_they_are() {
    let (_server, client) = started().await;
    let large = vec![7; 400_000];
    for key in ["a", "c", "d", "e"] {
        client.put(key, &large).await.unwrap();
    }
    let values = client.get_many(&["e", "b", "a", "c", "d"]).await.unwrap();
    let lengths: Vec<_> = values.iter().map(|value| value.as_ref().map(|value| value.value.len())).collect();
    assert_eq!(lengths, [Some(400_000), None, Some(400_000), Some(400_000), Some(400_000)]);
    let keys = fill(&client, 5000, 1).await;
    assert!(client.get_many(&keys).await.unwrap().iter().all(Option::is_some));
    assert!(client.get_many::<&str>(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn atomic_operations_give_their_results() {
    let (_server, client) = started().await;
    let keyspace = client.with(CallOptions::new());
    assert_eq!(client.add("n", 5).await.unwrap(), 5);
    assert_eq!(client.add("n", -7).await.unwrap(), -2);
    assert_eq!(keyspace.min("n", -9).await.unwrap(), -9);
    assert_eq!(keyspace.max("n", 4).await.unwrap(), 4);
    assert_eq!(client.append("s", "ab").await.unwrap(), 2);
    assert_eq!(client.append("s", "cd").await.unwrap(), 4);
    assert!(!keyspace.compare_and_delete("s", "abc").await.unwrap());
    assert!(keyspace.compare_and_delete("s", "abcd").await.unwrap());
    assert_eq!(client.get("s").await.unwrap(), None);
    assert_eq!(&client.atomic(AtomicOp::Or, "bits", [0b01]).await.unwrap().result[..], [0b01]);
    assert_eq!(&client.atomic(AtomicOp::Xor, "bits", [0b11]).await.unwrap().result[..], [0b10]);
    assert_eq!(&client.atomic(AtomicOp::And, "bits", [0b11]).await.unwrap().result[..], [0b10]);
    assert_eq!(&client.atomic(AtomicOp::ByteMax, "bits", "z").await.unwrap().result[..], b"z");
    assert_eq!(&client.atomic(AtomicOp::ByteMin, "bits", "a").await.unwrap().result[..], b"a");
}

#[tokio::test]
async fn keyspaces_are_opened_by_name_and_apart_from_each_other() {
    let (_server, client) = started().await;
    let missing = client.keyspace("carts").await.unwrap_err();
    assert_eq!((missing.code(), missing.outcome()), (Some(ErrorCode::UNKNOWN_KEYSPACE), Outcome::NotApplied));
    let carts = client.open_keyspace("carts", true).await.unwrap();
    assert!(carts.was_created());
    let again = client.open_keyspace("carts", true).await.unwrap();
    assert!(!again.was_created());
    assert_eq!(again.id(), carts.id());
    carts.put("k", "in carts").await.unwrap();
    assert_eq!(client.get("k").await.unwrap(), None);
    let by_id = client.keyspace_by_id(carts.id());
    assert_eq!(text(by_id.get("k").await.unwrap()).as_deref(), Some("in carts"));
    assert_eq!(client.open_keyspace("", true).await.unwrap_err().code(), Some(ErrorCode::BAD_NAME));
}

#[tokio::test]
async fn a_scan_streams_its_rows_within_its_credit() {
    let (_server, client) = started().await;
    let keys = fill(&client, 5_000, 100).await;
    let mut scan = client.with(CallOptions::new()).scan(KeyRange::prefix("row/")).credit(8 << 10);
    let mut found = Vec::new();
    while let Some(row) = scan.next().await {
        let row = row.unwrap();
        assert_eq!(row.value.len(), 100);
        found.push(String::from_utf8(row.key.to_vec()).unwrap());
    }
    assert_eq!(found, keys);
    let summary = scan.summary().unwrap();
    assert!(summary.exhausted && summary.rows == 5_000 && summary.version == summary.first_version);
    assert!(scan.next().await.is_none(), "and again none");
    let backward: Vec<_> = client.scan(..).reverse().keys_only().limit(3).collect().await;
    let backward: Vec<_> = backward.into_iter().map(|row: Result<_, Error>| row.unwrap()).collect();
    assert!(backward.iter().all(|row| row.value.is_empty()));
    assert_eq!(
        backward.iter().map(|row| &row.key[..]).collect::<Vec<_>>(),
        [&keys[4999], &keys[4998], &keys[4997]].map(String::as_bytes)
    );
    assert_eq!(client.count("row/000100".."row/000200").await.unwrap(), 100);
    assert_eq!(client.delete_range("row/000100"..).await.unwrap().count, 4_900);
    assert_eq!(client.scan(..).collect_rows().await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_scan_goes_on_where_another_stopped() {
    let (_server, client) = started().await;
    let keys = fill(&client, 100, 10).await;
    let mut first = client.scan(..).limit(40);
    while let Some(row) = first.next().await {
        row.unwrap();
    }
    let token = first.resume_token().unwrap().clone();
    assert_eq!(first.summary().unwrap().resume_token.as_ref(), Some(&token));
    client.delete_range(..).await.unwrap();
    let rest = client.scan(..).resume(token.clone()).if_gone(IfGone::Newer).collect_rows().await.unwrap();
    assert_eq!(rest.len(), 60, "at the version of the first");
    assert_eq!(&rest[0].key[..], keys[40].as_bytes());
    let bad = client.scan(..).resume("no token").collect_rows().await.unwrap_err();
    assert_eq!(bad.code(), Some(ErrorCode::BAD_TOKEN));
}

#[tokio::test]
async fn a_dropped_scan_and_one_that_is_not_read_hold_nobody_up() {
    let (_server, client) = started().await;
    fill(&client, 20_000, 100).await;
    let mut unread = client.scan(..);
    unread.next().await.unwrap().unwrap();
    for _ in 0..40 {
        let mut dropped = client.scan(..);
        dropped.next().await.unwrap().unwrap();
    }
    assert_eq!(client.scan(..).collect_rows().await.unwrap().len(), 20_000);
    assert_eq!(unread.collect_rows().await.unwrap().len(), 19_999);
}

#[tokio::test]
async fn a_one_shot_transaction_does_one_branch() {
    let (_server, client) = started().await;
    let take = |who: &'static str| {
        Execute::new()
            .when("lock", Condition::Absent)
            .then(Op::Put { key: b"lock", value: who.as_bytes() })
            .then(Op::Atomic { op: AtomicOp::Add, key: b"taken", operand: &1_i64.to_be_bytes() })
            .otherwise(Op::Get { key: b"lock" })
            .otherwise(Op::Range { range: KeyRange::all(), reverse: false, keys_only: true, limit: 1 })
    };
    let first = client.execute(&take("ada")).await.unwrap();
    assert!(first.held);
    assert_eq!(first.results, [OpResult::Put, OpResult::Atomic(1_u64.to_be_bytes().to_vec().into())]);
    let second = client.execute(&take("bob")).await.unwrap();
    assert!(!second.held);
    let OpResult::Get(Some(holder)) = &second.results[0] else { panic!("{:?}", second.results) };
    assert_eq!((&holder.value[..], holder.version), (&b"ada"[..], first.version));
    let OpResult::Range { more: true, rows } = &second.results[1] else { panic!("{:?}", second.results) };
    assert_eq!(&rows[0].key[..], b"lock");
    let other = client.open_keyspace("other", true).await.unwrap();
    let both = Execute::new()
        .when("lock", Condition::VersionEquals(first.version))
        .then(Op::Delete { key: b"lock" })
        .within(&other)
        .then(Op::Put { key: b"moved", value: b"1" })
        .then(Op::DeleteRange { range: KeyRange::all() });
    let done = client.execute(&both).await.unwrap();
    assert_eq!(done.results, [OpResult::Delete, OpResult::Put, OpResult::DeleteRange(1)]);
    let error = client.execute(&Execute::new().then(Op::Put { key: &[0; 9000], value: b"" })).await.unwrap_err();
    assert_eq!((error.code(), error.limit(), error.actual()), (Some(ErrorCode::KEY_TOO_LARGE), Some(8192), Some(9000)));
}

#[tokio::test]
async fn a_transaction_sees_itself_and_changes_all_or_nothing() {
    let (_server, client) = started().await;
    let other = client.open_keyspace("other", true).await.unwrap();
    client.put("a", "0").await.unwrap();
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    tx.put("a", "1").await.unwrap();
    tx.within(&other).put("b", "2").await.unwrap();
    tx.add("n", 3).await.unwrap();
    tx.savepoint("here").await.unwrap();
    tx.delete("a").await.unwrap();
    assert_eq!(tx.get("a").await.unwrap(), None);
    tx.rollback_to("here").await.unwrap();
    assert_eq!(text(tx.get("a").await.unwrap()).as_deref(), Some("1"));
    let many = tx.get_many(&["a", "n", "zz"]).await.unwrap();
    assert!(many[0].is_some() && many[1].is_some() && many[2].is_none());
    assert_eq!(tx.count(..).await.unwrap(), 2);
    assert_eq!(tx.scan(..).collect_rows().await.unwrap().len(), 2);
    assert_eq!(tx.within(&other).delete_range("x"..).await.unwrap().count, 0);
    assert_eq!(text(client.get("a").await.unwrap()).as_deref(), Some("0"), "nothing is seen before the commit");
    let committed = tx.commit().await.unwrap();
    assert_eq!(committed.results.unwrap(), [3_u64.to_be_bytes().to_vec()]);
    let found = client.get("a").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.version), (&b"1"[..], committed.version));
    assert_eq!(text(other.get("b").await.unwrap()).as_deref(), Some("2"));
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_or_dropped_changes_nothing() {
    let (_server, client) = started().await;
    let tx = client.begin(Isolation::Snapshot).await.unwrap();
    tx.put("a", "1").await.unwrap();
    tx.rollback().await.unwrap();
    // More than a session may have open at once: each is rolled back when it is dropped.
    for _ in 0..2_000 {
        let tx = client.begin(Isolation::Serializable).await.unwrap();
        tx.put("a", "1").await.unwrap();
    }
    assert_eq!(client.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn what_is_wrong_with_a_write_is_told_by_what_follows() {
    let (_server, client) = started().await;
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    tx.within(&client.keyspace_by_id(quantadb::client::KeyspaceId(999))).put("k", "v").await.unwrap();
    let error = tx.get("k").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_KEYSPACE), "the first cause, not what follows: {error}");
    assert_eq!(tx.commit().await.unwrap_err().code(), Some(ErrorCode::UNKNOWN_KEYSPACE));
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    assert_eq!(tx.rollback_to("nowhere").await.unwrap_err().code(), Some(ErrorCode::UNKNOWN_SAVEPOINT));
    assert_eq!(tx.savepoint("").await.unwrap_err().code(), Some(ErrorCode::BAD_NAME));
}

#[tokio::test]
async fn a_commit_conflicts_when_what_it_read_has_changed() {
    let (_server, client) = started().await;
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    tx.get("a").await.unwrap();
    client.put("a", "faster").await.unwrap();
    tx.put("b", "1").await.unwrap();
    let error = tx.commit().await.unwrap_err();
    assert_eq!((error.code(), error.retry()), (Some(ErrorCode::CONFLICT), Retry::RestartTxn));
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(client.get("b").await.unwrap(), None);
}

#[tokio::test]
async fn transactions_that_get_in_each_others_way_run_again() {
    let (_server, client) = started().await;
    let one = |client: Client| async move {
        for _ in 0..20 {
            client
                .transact(|tx| async move {
                    let had: u64 = text(tx.get("n").await?).map_or(0, |text| text.parse().unwrap());
                    tx.put("n", (had + 1).to_string()).await?;
                    Ok::<_, Error>(had)
                })
                .await
                .unwrap();
        }
    };
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(one(client.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(text(client.get("n").await.unwrap()).as_deref(), Some("160"));
}

#[tokio::test]
async fn an_error_of_the_function_rolls_back_and_is_returned() {
    #[derive(Debug)]
    enum Mine {
        Full,
        #[expect(dead_code, reason = "for the conversion alone")]
        Database(Error),
    }
    impl From<Error> for Mine {
        fn from(error: Error) -> Mine {
            Mine::Database(error)
        }
    }
    let (_server, client) = started().await;
    let deadline = Some(Duration::from_secs(5));
    let options = TransactOptions { isolation: Isolation::Snapshot, deadline, ..TransactOptions::default() };
    let result = client
        .transact_with(options, |tx| async move {
            tx.put("a", "1").await?;
            Err::<(), _>(Mine::Full)
        })
        .await;
    assert!(matches!(result, Err(Mine::Full)));
    assert_eq!(client.get("a").await.unwrap(), None);
    let bad = client.transact(|tx| async move { tx.put([0; 9000], "").await }).await.unwrap_err();
    assert_eq!(bad.code(), Some(ErrorCode::KEY_TOO_LARGE));
}

#[tokio::test]
async fn a_pair_makes_a_write_happen_once_and_tells_its_outcome() {
    let (_server, client) = started().await;
    client.put("seen", "something").await.unwrap();
    let pair = client.new_pair().await.unwrap();
    let keyed = client.with(CallOptions::new().idempotency(pair));
    let first = keyed.put("k", "1").await.unwrap();
    client.put("k", "2").await.unwrap();
    assert_eq!(client.outcome(pair).await.unwrap(), CommitOutcome::Committed { version: first, results: Some(vec![]) });
    let fenced = client.new_pair().await.unwrap();
    assert_eq!(client.outcome(fenced).await.unwrap(), CommitOutcome::Never);
    let error = client.with(CallOptions::new().idempotency(fenced)).put("k", "3").await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::FENCED), Outcome::NotApplied));
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    tx.add("n", 2).await.unwrap();
    let pair = client.new_pair().await.unwrap();
    let committed = tx.commit_as(pair).await.unwrap();
    let CommitOutcome::Committed { version, results } = client.outcome(pair).await.unwrap() else { panic!() };
    assert_eq!((version, results), (committed.version, committed.results));
}

#[tokio::test]
async fn status_and_ping_say_how_the_node_does() {
    let (_server, client) = started().await;
    assert!(client.ping().await.unwrap() < Duration::from_secs(5));
    let version = client.put("k", "v").await.unwrap();
    let status = client.status().await.unwrap();
    assert!(status.version >= version);
    assert_eq!(status.role, Role::Leader);
    assert!(status.server_name.contains("quantadb"), "{}", status.server_name);
    assert!(format!("{client:?}").contains("127.0.0.1"));
}

#[tokio::test]
async fn a_read_waits_for_its_least_version_until_its_deadline() {
    let (_server, client) = started().await;
    let version = client.put("k", "v").await.unwrap();
    let options = CallOptions::new().min_version(version).consistency(Consistency::Local);
    assert!(client.with(options).get("k").await.unwrap().is_some());
    let hurried = options.min_version(Version(version.0 + 1)).deadline(Duration::from_millis(30));
    let error = client.with(hurried).get("k").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied, "{error:?}");
    let late = client.with(CallOptions::new().deadline(Duration::ZERO)).put("k", "2").await.unwrap_err();
    assert_eq!((late.kind(), late.outcome()), (ErrorKind::DeadlinePassed, Outcome::NotApplied));
}

#[tokio::test]
async fn a_lost_connection_is_opened_again_and_reads_do_not_notice() {
    let (_server, client, cable) = cuttable().await;
    client.put("k", "v").await.unwrap();
    for _ in 0..20 {
        cable.cut();
        assert!(client.get("k").await.unwrap().is_some());
        client.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_scan_does_not_notice_a_lost_connection() {
    let (_server, client, cable) = cuttable().await;
    let keys = fill(&client, 3_000, 100).await;
    let mut scan = client.scan(..).credit(16 << 10).limit(2_500);
    let mut found = Vec::new();
    while let Some(row) = scan.next().await {
        found.push(String::from_utf8(row.unwrap().key.to_vec()).unwrap());
        if found.len() % 400 == 0 {
            cable.cut();
            client.put("zzz", "changes nothing for the scan").await.ok();
        }
    }
    assert_eq!(found, keys[..2_500]);
    assert_eq!(scan.summary().map_or(2_500, |summary| summary.rows), 2_500);
}

#[tokio::test]
async fn a_transaction_dies_with_its_connection_and_transact_runs_it_again() {
    let (_server, client, cable) = cuttable().await;
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    tx.get("k").await.unwrap();
    cable.cut();
    let error = tx.get("k").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::ConnectionLost, Retry::RestartTxn));
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(tx.commit().await.unwrap_err().retry(), Retry::RestartTxn);
    let runs = Mutex::new(0);
    let done = client
        .transact(|tx| {
            *runs.lock().unwrap() += 1;
            let first = *runs.lock().unwrap() == 1;
            let cable = &cable;
            async move {
                tx.get("k").await?;
                if first {
                    cable.cut();
                }
                tx.put("k", "v").await?;
                tx.get("k").await?;
                Ok::<_, Error>(())
            }
        })
        .await
        .unwrap();
    assert_eq!(*runs.lock().unwrap(), 2);
    assert_eq!(client.get("k").await.unwrap().unwrap().version, done.version);
}

#[tokio::test]
async fn a_server_that_shuts_down_is_left_and_the_next_one_found() {
    let (first, second) = (TestServer::start().await, TestServer::start().await);
    let addresses = format!("{},{}", first.address(), second.address());
    let client = Client::connect(addresses.as_str()).await.unwrap();
    client.put("k", "on the first").await.unwrap();
    first.stop().await;
    client.put("k", "on the second").await.unwrap();
    assert_eq!(text(client.get("k").await.unwrap()).as_deref(), Some("on the second"));
    second.stop().await;
    let hurried = client.with(CallOptions::new().deadline(Duration::from_millis(50)));
    let error = hurried.get("k").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::NotApplied));
}

#[tokio::test]
async fn where_nobody_listens_connecting_says_so() {
    let server = TestServer::start().await;
    let address = server.address();
    server.stop().await;
    let error = Client::connect(address).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unreachable, Retry::Backoff));
    assert_eq!(Client::connect("").await.unwrap_err().retry(), Retry::Never);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_share_a_connection() {
    let (_server, client) = started().await;
    let one = |client: Client, at: i64| async move {
        for _ in 0..10 {
            client.add("sum", at).await.unwrap();
            assert!(client.get("sum").await.unwrap().is_some());
        }
    };
    let tasks: Vec<_> = (0..1_000).map(|at| tokio::spawn(one(client.clone(), at))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(client.add("sum", 0).await.unwrap(), 10 * 999 * 1000 / 2);
}

#[tokio::test]
async fn a_transaction_goes_on_after_a_scan_of_it_was_dropped() {
    let (_server, client) = started().await;
    fill(&client, 5_000, 100).await;
    let tx = client.begin(Isolation::Serializable).await.unwrap();
    for _ in 0..3 {
        let mut scan = tx.scan(..);
        scan.next().await.unwrap().unwrap();
    }
    let mut never_polled_to_a_row = tx.scan("row/001"..);
    tokio::select! {
        biased;
        _ = never_polled_to_a_row.next() => {}
        () = async {} => {}
    }
    drop(never_polled_to_a_row);
    tx.put("k", "v").await.unwrap();
    assert_eq!(tx.count(..).await.unwrap(), 5_001);
    tx.commit().await.unwrap();
}
