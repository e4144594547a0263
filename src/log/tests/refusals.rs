//! What the log refuses to do, and whose logs it refuses to open.

use super::{
    driver::{Driver, PATH, Step},
    header::Header,
    *,
};

fn refused(life: &driver::Life, driver: &Driver, call: impl FnOnce(Done)) -> LogError {
    let (done, answer) = done();
    call(done);
    driver.turn(life, 5);
    answer.try_recv().unwrap().unwrap_err()
}

#[test]
fn calls_that_make_no_sense_are_refused_and_change_nothing() {
    let mut driver = Driver::new(64 << 10);
    let life = driver.open().unwrap();
    let log = &life.log;
    for _ in 0..10 {
        let entry = driver.entry(10);
        driver.step(log, Step::Append(vec![entry]));
    }
    let purged = driver.held().entries[3].id;
    driver.step(log, Step::Purge(purged));
    driver.settle(&life);
    let refused = |call: &dyn Fn(Done)| refused(&life, &driver, call).to_string();
    let last = log.last().unwrap();
    let absent = id(77, 7);
    let told = [
        (refused(&|done| log.append(vec![entry(1, 11, 1)], done)), "entry 11 does not follow: index 10 is next"),
        (refused(&|done| log.append(vec![entry(1, 10, 1), entry(1, 12, 1)], done)), "index 11 is next"),
        (refused(&|done| log.truncate_after(Some(id(1, 2)), done)), "entries up to 1.1.3 are purged"),
        (refused(&|done| log.truncate_after(Some(absent), done)), "entry 77.1.7 is not in the log"),
        (refused(&|done| log.truncate_after(Some(id(1, 10)), done)), "entry 1.1.10 is not in the log"),
        (refused(&|done| log.truncate_after(Some(id(9, 3)), done)), "entry 9.1.3 is not in the log"),
        (refused(&|done| log.purge(absent, done)), "entry 77.1.7 is not in the log"),
        (refused(&|done| log.purge(id(1, u64::MAX), done)), "is not in the log"),
    ];
    for (found, wanted) in told {
        assert!(found.contains(wanted), "{found}, not {wanted}");
    }
    assert_eq!(Driver::found(log).unwrap(), *driver.held());
    assert_eq!(log.last(), Some(last));
    assert!(log.read(10, 20, 10).unwrap().is_empty() && log.read(5, 5, 10).unwrap().is_empty());
    // What has been done before is done, in its turn.
    let (done, answer) = done();
    log.purge(id(1, 1), done);
    driver.turn(&life, 5);
    answer.try_recv().unwrap().unwrap();
    life.runtime.block_on(log.close()).unwrap();
    assert!(matches!(life.runtime.block_on(log.close()), Err(LogError::Closed)));
}

#[test]
fn an_entry_past_the_limit_is_refused() {
    let driver = Driver::new(64 << 10);
    let life = driver.open().unwrap();
    let payload = Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]);
    let entry = LogEntry { id: id(1, 0), kind: 0, payload };
    let error = refused(&life, &driver, |done| life.log.append(vec![entry], done));
    assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
}

#[test]
fn a_log_of_another_node_or_a_newer_format_is_refused_by_name() {
    let mut driver = Driver::new(16 << 10);
    drop(driver.open().unwrap());
    let own = driver.options.owner;
    for owner in [Owner { node: NodeId(2), ..own }, Owner { cluster: ClusterId([8; 16]), ..own }] {
        driver.options.owner = owner;
        match driver.open().err() {
            Some(OpenError::Foreign { found, wanted, .. }) => assert_eq!((found, wanted), (own, owner)),
            other => panic!("{other:?}"),
        }
    }
    driver.options.owner = own;
    let path = Path::new(PATH).join("00000001.seg");
    let block: [u8; 512] = driver.files.contents(&path).unwrap()[..512].try_into().unwrap();
    let mut newer = block;
    newer[11] = 9;
    let sum = xxhash_rust::xxh3::xxh3_64(&newer[..504]);
    newer[504..].copy_from_slice(&sum.to_be_bytes());
    driver.files.plant(&path, 0, &newer);
    let error = driver.open().err().unwrap();
    assert_eq!(error.to_string(), "/data/log/00000001.seg has format 9, this program knows 1");
    assert!(matches!(check(&*driver.files, Path::new(PATH)).refused, Some(OpenError::Newer { version: 9, .. })));
    driver.files.plant(&path, 0, &block);
    assert!(matches!(Header::decode(&block), header::FirstBlock::Header(_)));
    assert!(driver.open().is_ok());
    assert!(check(&*driver.files, Path::new("/nowhere")).refused.is_some());
}
