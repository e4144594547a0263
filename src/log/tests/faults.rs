//! Every call of a scripted run meets every fault.

use super::{
    driver::{Driver, Step},
    *,
};
use crate::testing::files::{Call, Fault};

/// Segments of four pages, so that every kind of record, a roll, a group of its own size, and a segment used again occur.
fn script(driver: &mut Driver) {
    let Ok(life) = driver.open() else { return };
    let append = |driver: &mut Driver, bytes: usize| {
        let entry = driver.entry(bytes);
        driver.step(&life.log, Step::Append(vec![entry]));
        driver.settle(&life);
    };
    driver.step(&life.log, Step::Vote(vote(3)));
    driver.settle(&life);
    for bytes in [10, 3000, 5000, 20_000, 10, 10, 10] {
        append(driver, bytes);
    }
    driver.step(&life.log, Step::Keep(5));
    append(driver, 100);
    let up_to = driver.held().entries[4].id;
    driver.step(&life.log, Step::Purge(up_to));
    driver.settle(&life);
    for bytes in [4000, 4000, 4000, 10] {
        append(driver, bytes);
    }
    driver.step(&life.log, Step::Vote(vote(4)));
    append(driver, 10);
    driver.settle(&life);
}

fn driver() -> Driver {
    Driver::new(16 << 10)
}

#[test]
fn every_call_may_fail_or_be_the_last() {
    let mut fine = driver();
    script(&mut fine);
    let calls = fine.files.calls(Call::AnyChange);
    let life = fine.open().unwrap();
    fine.judge(&life).unwrap();
    assert!(calls > 60, "{calls}");
    for number in 1..=calls {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Short, Fault::PowerCut] {
            // The process dies and the machine lives, or power is cut as well; then once more, for what was only seen.
            for end in 0..3 {
                let told = format!("call {number}, {fault:?}, end {end}");
                let mut driver = driver();
                driver.files.fail(Call::AnyChange, number, fault);
                script(&mut driver);
                match (end, fault) {
                    (0, Fault::Io | Fault::NoSpace | Fault::Short) => driver.files.restart(),
                    _ => driver.files.crash(end),
                }
                for again in 0..2 {
                    let life = driver.open().unwrap_or_else(|error| panic!("{told}, {again}: {error}"));
                    driver.judge(&life).unwrap_or_else(|wrong| panic!("{told}, {again}: {wrong}"));
                    let entry = driver.entry(700);
                    driver.step(&life.log, Step::Append(vec![entry]));
                    driver.settle(&life);
                    drop(life);
                    driver.files.crash(end + 1);
                }
                let life = driver.open().unwrap_or_else(|error| panic!("{told}: {error}"));
                driver.judge(&life).unwrap_or_else(|wrong| panic!("{told}: {wrong}"));
            }
        }
    }
}

#[test]
fn after_a_failure_every_call_gets_its_error() {
    for call in [Call::Write, Call::Sync] {
        let mut driver = driver();
        let life = driver.open().unwrap();
        let first = driver.entry(10);
        driver.step(&life.log, Step::Append(vec![first.clone()]));
        driver.settle(&life);
        let calls = driver.files.calls(Call::AnyChange);
        driver.files.fail(call, 1, Fault::Io);
        let answers: Vec<_> = (0..5)
            .map(|number| {
                let (done, answer) = done();
                match number {
                    0 => life.log.append(vec![driver.entry(10)], done),
                    1 => life.log.save_vote(vote(1), done),
                    2 => life.log.truncate_after(Some(first.id), done),
                    3 => life.log.purge(first.id, done),
                    _ => {
                        driver.turn(&life, 5);
                        life.log.append(Vec::new(), done);
                    }
                }
                answer
            })
            .collect();
        for answer in answers {
            let error = answer.try_recv().unwrap().unwrap_err();
            assert!(matches!(error, LogError::Failed { .. }), "{error}");
            assert!(error.to_string().contains("/data/log/00000001.seg"), "{error}");
        }
        assert!(matches!(life.log.read(0, 1, 1), Err(LogError::Failed { .. })));
        let changes = driver.files.calls(Call::AnyChange) - calls;
        assert_eq!(changes, if call == Call::Write { 1 } else { 2 }, "nothing is tried again");
        let closed = life.runtime.block_on(life.log.close());
        assert!(matches!(closed, Err(LogError::Failed { .. })));
    }
}

#[test]
fn what_was_queued_when_the_last_handle_went_is_told_that_the_log_is_closed() {
    let driver = driver();
    let life = driver.open().unwrap();
    let (done, answer) = done();
    life.log.append(vec![entry(1, 0, 10)], done);
    drop(life.log);
    drop(life.runtime);
    assert!(matches!(answer.recv().unwrap(), Err(LogError::Closed)));
}

#[test]
fn a_full_disk_stops_the_log_only_when_its_last_segment_is_full() {
    let mut driver = driver();
    // Room for the first segment alone.
    driver.files.set_capacity(Some(20 << 10));
    let life = driver.open().unwrap();
    for _ in 0..2 {
        let entry = driver.entry(10);
        driver.step(&life.log, Step::Append(vec![entry]));
        driver.settle(&life);
    }
    assert_eq!(life.log.metrics().groups.load(std::sync::atomic::Ordering::Relaxed), 2);
    let (done, answer) = done();
    let last = driver.entry(10);
    life.log.append(vec![last], done);
    driver.turn(&life, 10);
    assert!(matches!(answer.try_recv().unwrap(), Err(LogError::Failed { call: "write", .. })));
    assert_eq!(life.log.metrics().preparations_failed.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(life);
    driver.files.set_capacity(None);
    driver.files.crash(1);
    let life = driver.open().unwrap();
    driver.judge(&life).unwrap();
}

#[test]
fn a_sync_that_fails_while_a_torn_tail_is_zeroed_does_not_make_the_log_unreadable() {
    let mut wrong = Vec::new();
    for seed in 0..40 {
        let mut driver = Driver::new(64 << 10);
        let life = driver.open().unwrap();
        let first = driver.entry(10);
        driver.step(&life.log, Step::Append(vec![first]));
        driver.settle(&life);
        // A group of several pages is torn.
        driver.files.fail(Call::Sync, 1, Fault::PowerCut);
        let large = driver.entry(20_000);
        driver.step(&life.log, Step::Append(vec![large]));
        driver.settle(&life);
        drop(life);
        driver.files.crash(seed);
        // Opening zeroes it; the sync fails, once.
        driver.files.fail(Call::Sync, 1, Fault::Io);
        assert!(driver.open().is_err());
        driver.files.restart();
        let Ok(life) = driver.open() else { panic!("{seed}") };
        driver.judge(&life).unwrap();
        let small = driver.entry(10);
        driver.step(&life.log, Step::Append(vec![small]));
        driver.settle(&life);
        drop(life);
        driver.files.crash(seed + 1);
        match driver.open() {
            Ok(life) => driver.judge(&life).unwrap(),
            Err(error) => wrong.push(format!("{seed}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} of 40: {wrong:?}", wrong.len());
}
