//! What the model test does not reach: limits, failures, isolation, and who reads on whose behalf.

use super::*;
use crate::{
    txn::testing::snapshot_of,
    types::{KeyspaceId, limits::VALUE_BYTES_MAX},
};

const MIB: usize = 1 << 20;

fn key(name: &str) -> FullKey {
    KeyspaceId(1).full_key(name.as_bytes())
}

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange { start: key(start), end: key(end) }
}

fn open(isolation: Isolation) -> Transaction {
    let rows = [key("a"), key("b"), key("c")];
    Transaction::new(snapshot_of(rows.iter().map(|key| (&key[..], &b"stored"[..]))), isolation)
}

fn get(transaction: &mut Transaction, kind: ReadKind, name: &str) -> Option<(Option<Version>, Vec<u8>)> {
    let got = transaction.get(kind, &key(name), |row| row.map(|row| (row.version, row.value.to_vec())));
    got.expect("the transaction is open and small")
}

fn failure(code: u16) -> Failure {
    Failure { code, message: format!("failure {code}") }
}

#[test]
fn a_row_carries_the_version_that_wrote_it_and_an_own_write_none() {
    let mut transaction = open(Isolation::Serializable);
    transaction.put(&key("b"), b"own").expect("it is small");
    transaction.atomic(AtomicOp::Append, &key("c"), b"+").expect("it is small");
    assert_eq!(get(&mut transaction, ReadKind::User, "a"), Some((Some(Version(1)), b"stored".to_vec())));
    assert_eq!(get(&mut transaction, ReadKind::User, "b"), Some((None, b"own".to_vec())));
    assert_eq!(get(&mut transaction, ReadKind::User, "c"), Some((None, b"stored+".to_vec())));
    assert_eq!(get(&mut transaction, ReadKind::User, "d"), None);
    assert_eq!(transaction.mutations(), 2);
    let commit = transaction.into_commit().expect("nothing failed");
    assert_eq!(commit.points, [key("a"), key("c"), key("d")], "its own put alone decided b");
    assert_eq!((commit.read_version, commit.mutations, commit.atomics), (Version(1), 2, 1));
}

#[test]
fn after_a_failure_only_a_savepoint_opens_it_again() {
    let mut transaction = open(Isolation::Serializable);
    transaction.put(&key("a"), b"1").expect("it is open");
    transaction.savepoint(b"s").expect("it is open");
    transaction.put(&key("a"), b"2").expect("it is open");
    transaction.fail(failure(7));
    transaction.fail(failure(8));
    let refused = TransactionError::Failed(failure(7));
    assert_eq!(transaction.put(&key("a"), b"3"), Err(refused.clone()), "the first failure is the one told");
    assert_eq!(transaction.get(ReadKind::User, &key("b"), |_| ()), Err(refused.clone()));
    assert_eq!(transaction.scan(&range("a", "z"), false).err(), Some(refused.clone()));
    assert_eq!(transaction.count(ReadKind::User, &range("a", "z")), Err(refused.clone()));
    assert_eq!(transaction.delete_range(ReadKind::User, &range("a", "z")), Err(refused.clone()));
    assert_eq!(transaction.savepoint(b"t"), Err(refused.clone()));
    assert_eq!(transaction.rollback_to(b"none"), Err(TransactionError::NoSavepoint));
    assert_eq!(transaction.check(), Err(refused), "a savepoint that is not there opens nothing");
    assert_eq!(transaction.told(ReadKind::User, range("x", "y")), Ok(()), "what a scan told meanwhile is told");
    assert_eq!(transaction.rollback_to(b"s"), Ok(()));
    assert_eq!(get(&mut transaction, ReadKind::User, "a"), Some((None, b"1".to_vec())));
    let commit = transaction.into_commit().expect("it is open again");
    assert_eq!((commit.points, commit.ranges), (vec![], vec![range("x", "y")]));
}

#[test]
fn a_failed_transaction_does_not_commit() {
    let mut transaction = open(Isolation::Serializable);
    transaction.fail(failure(7));
    assert_eq!(transaction.into_commit(), Err(TransactionError::Failed(failure(7))));
}

#[test]
fn rolling_back_keeps_the_reads() {
    let mut transaction = open(Isolation::Serializable);
    transaction.savepoint(b"s").expect("it is open");
    get(&mut transaction, ReadKind::User, "b");
    transaction.put(&key("a"), b"1").expect("it is open");
    transaction.rollback_to(b"s").expect("it is there");
    let commit = transaction.into_commit().expect("nothing failed");
    assert_eq!((commit.points, commit.mutations, commit.body.len()), (vec![key("b")], 0, 0));
}

#[test]
fn snapshot_isolation_checks_the_keys_written_and_what_the_system_read() {
    let mut transaction = open(Isolation::Snapshot);
    assert_eq!((transaction.isolation(), transaction.read_version()), (Isolation::Snapshot, Version(1)));
    get(&mut transaction, ReadKind::User, "a");
    get(&mut transaction, ReadKind::System, "b");
    transaction.told(ReadKind::User, range("a", "c")).expect("it is small");
    transaction.told(ReadKind::System, range("x", "y")).expect("it is small");
    transaction.put(&key("c"), b"1").expect("it is small");
    transaction.atomic(AtomicOp::Add, &key("d"), &[1]).expect("it is small");
    let commit = transaction.into_commit().expect("nothing failed");
    assert_eq!(commit.points, [key("b"), key("c"), key("d")]);
    assert_eq!(commit.ranges, [range("x", "y")]);
}

#[test]
fn a_mutation_past_a_limit_is_refused_and_changes_nothing() {
    let mut transaction = open(Isolation::Serializable);
    let long = vec![0; VALUE_BYTES_MAX + 1];
    let refused = TransactionError::Mutation(MutationError::ValueTooLarge { actual: long.len() });
    assert_eq!(transaction.put(&key("a"), &long), Err(refused));
    assert_eq!((transaction.mutations(), transaction.bytes()), (0, 0));
}

#[test]
fn mutations_reads_and_savepoint_names_share_one_limit() {
    let mut transaction = open(Isolation::Serializable);
    let value = vec![0; VALUE_BYTES_MAX];
    transaction.put(&key("a"), &value).expect("half fits");
    let left = TRANSACTION_BYTES_MAX - transaction.bytes();
    let overhead = Mutation::Put { key: &key("b"), value: b"" }.encoded_len();
    assert_eq!(
        transaction.put(&key("b"), &value[..left - overhead + 1]),
        Err(TransactionError::TooLarge { actual: TRANSACTION_BYTES_MAX + 1 })
    );
    transaction.put(&key("b"), &value[..left - overhead]).expect("to the byte");
    assert_eq!(transaction.bytes(), TRANSACTION_BYTES_MAX);
    assert!(matches!(transaction.savepoint(b"s"), Err(TransactionError::TooLarge { .. })));
    assert_eq!(transaction.get(ReadKind::User, &key("b"), |_| ()), Ok(()), "its own write decides: no read");
    let actual = TRANSACTION_BYTES_MAX + 2 + key("c").len();
    assert_eq!(transaction.get(ReadKind::User, &key("c"), |_| ()), Err(TransactionError::TooLarge { actual }));
    assert_eq!(transaction.into_commit(), Err(TransactionError::TooLarge { actual }));
}

#[test]
fn deleting_a_range_past_the_limit_is_refused_and_deletes_nothing() {
    let keys: Vec<FullKey> = (0..1_500).map(|i| key(&format!("{i:04}{}", "x".repeat(8_000)))).collect();
    let snapshot = snapshot_of(keys.iter().map(|key| (&key[..], &b""[..])));
    let mut transaction = Transaction::new(snapshot, Isolation::Serializable);
    transaction.savepoint(b"s").expect("it is open");
    assert_eq!(transaction.delete_range(ReadKind::User, &range("", "y")), Ok(1_500));
    transaction.rollback_to(b"s").expect("it is there");
    transaction.put(&key("0000"), &vec![0; 5 * MIB]).expect("it fits");
    let before = (transaction.mutations(), transaction.bytes());
    let refused = transaction.delete_range(ReadKind::User, &range("", "y"));
    assert!(matches!(refused, Err(TransactionError::TooLarge { actual }) if actual > TRANSACTION_BYTES_MAX));
    assert_eq!((transaction.mutations(), transaction.bytes()), before);
    assert!(get(&mut transaction, ReadKind::User, "0000").is_some());
}

#[test]
fn a_savepoint_hides_an_earlier_one_of_its_name_until_it_is_gone() {
    let mut transaction = open(Isolation::Serializable);
    let put = |transaction: &mut Transaction, value: &[u8]| transaction.put(&key("a"), value).expect("it is open");
    transaction.savepoint(b"outer").expect("it is open");
    put(&mut transaction, b"1");
    transaction.savepoint(b"s").expect("it is open");
    put(&mut transaction, b"2");
    transaction.savepoint(b"s").expect("it is open");
    put(&mut transaction, b"3");
    for _ in 0..2 {
        transaction.rollback_to(b"s").expect("it stays");
        assert_eq!(get(&mut transaction, ReadKind::User, "a"), Some((None, b"2".to_vec())));
    }
    transaction.rollback_to(b"outer").expect("it is there");
    assert_eq!(transaction.rollback_to(b"s"), Err(TransactionError::NoSavepoint), "both came after it");
    assert_eq!(transaction.bytes(), b"outer".len());
}

#[test]
fn savepoints_are_bounded_in_number() {
    let mut transaction = open(Isolation::Serializable);
    (0..SAVEPOINTS_MAX).for_each(|_| transaction.savepoint(b"").expect("it is within the bound"));
    assert_eq!(transaction.savepoint(b""), Err(TransactionError::TooManySavepoints));
}

#[test]
fn a_snapshot_serves_scans_outside_of_transactions() {
    let transaction = open(Isolation::Serializable);
    let mut scan = TransactionScan::without_writes(transaction.snapshot().clone(), range("a", "z"), true);
    assert_eq!(scan.version(), Version(1));
    let (rows, step) = scan.take(2).expect("it cannot fail");
    assert_eq!(rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key("c"), key("b")]);
    assert_eq!((step.told, step.exhausted), (range("b", "z"), false));
    let (rows, step) = scan.take(2).expect("it cannot fail");
    assert_eq!(rows, [(key("a"), Bytes::from_static(b"stored"))]);
    assert_eq!((step.told, step.exhausted), (range("a", "b"), true));
    let (rows, step) = scan.take(2).expect("it cannot fail");
    assert!(rows.is_empty() && step.told.is_empty() && step.exhausted);
    let mut backwards = TransactionScan::without_writes(transaction.snapshot().clone(), range("z", "a"), false);
    let (rows, step) = backwards.take(2).expect("it cannot fail");
    assert!(rows.is_empty() && step.exhausted, "an empty range is exhausted at once");
    assert!(backwards.take(0).expect("it cannot fail").1.told.is_empty());
}

#[test]
fn errors_of_the_engine_come_through() {
    let snapshot = crate::txn::testing::broken_snapshot();
    let failed = TransactionError::Storage(storage::Error::Failed("broken".into()));
    let mut transaction = Transaction::new(snapshot, Isolation::Serializable);
    assert_eq!(transaction.get(ReadKind::User, &key("a"), |_| ()), Err(failed.clone()));
    assert_eq!(transaction.count(ReadKind::User, &range("a", "z")), Err(failed.clone()));
    assert_eq!(transaction.delete_range(ReadKind::User, &range("a", "z")), Err(failed.clone()));
    assert_eq!(transaction.mutations(), 0);
}
