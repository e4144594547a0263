//! Any calls, any ends: what was acknowledged is there, in order, and nothing else.

use super::{
    driver::{Driver, PATH},
    *,
};
use crate::testing::{
    files::{Call, Fault},
    generators::Random,
};

/// Several lives of a log. Gives how many, and what they saw, or what is wrong.
fn lives(seed: u64, lying: bool, seen: &mut Seen) -> Result<(), String> {
    let mut draw = Random::new(seed);
    let mut driver = Driver::new([12, 16, 32, 64][draw.below(4) as usize] << 10);
    driver.files.set_lying(lying);
    for life in 0..2 + draw.below(5) {
        // What ends this life, and whether it may end while the log is opened.
        let (end, nth) = (draw.below(6), 1 + draw.below(60));
        match end {
            0 | 1 => driver.files.fail(Call::AnyChange, nth, Fault::PowerCut),
            2 => {
                let fault = [Fault::Io, Fault::NoSpace, Fault::Short][draw.below(3) as usize];
                driver.files.fail(Call::AnyChange, nth, fault);
            }
            _ => {}
        }
        match driver.open() {
            Ok(opened) => {
                seen.lives += 1;
                seen.cuts += u64::from(opened.recovered.cut.is_some());
                driver.judge(&opened).map_err(|wrong| format!("life {life}: {wrong}"))?;
                live(&mut driver, &opened, &mut draw).map_err(|wrong| format!("life {life}: {wrong}"))?;
                let metrics = opened.log.metrics();
                let load = |counter: &AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
                seen.rolls += load(&metrics.rolls);
                seen.recycled += load(&metrics.segments_recycled);
                seen.entries += driver.held().entries.len() as u64;
            }
            // A planned fault, before anything was asked of it.
            Err(_) if end <= 2 => {}
            Err(error) => return Err(format!("life {life} does not begin: {error}")),
        }
        match end {
            2 | 3 => driver.files.restart(),
            _ => driver.files.crash(draw.bits()),
        }
    }
    let opened = driver.open().map_err(|error| format!("the last life does not begin: {error}"))?;
    driver.judge(&opened).map_err(|wrong| format!("the last life: {wrong}"))?;
    let first = Driver::found(&opened.log)?;
    drop(opened);
    driver.files.restart();
    let report = check(&*driver.files, Path::new(PATH));
    if !report.is_sound() || report.torn.is_some() {
        return Err(format!("after the last life: {report:?}"));
    }
    let again = driver.open().map_err(|error| format!("the last life does not begin again: {error}"))?;
    if again.recovered.cut.is_some() || Driver::found(&again.log)? != first {
        return Err("opened twice, another log".into());
    }
    Ok(())
}

/// Calls by chance, several in flight, and reads between them.
fn live(driver: &mut Driver, life: &driver::Life, draw: &mut Random) -> Result<(), String> {
    for _ in 0..draw.below(60) {
        let step = driver.random_step(draw);
        driver.step(&life.log, step);
        match draw.below(4) {
            0 => driver.settle(life),
            1 => driver.turn(life, 1 + draw.below(3)),
            _ => {}
        }
        driver.judge_durable(&life.log)?;
        if draw.below(4) < 1 {
            match Driver::found(&life.log) {
                Ok(found) if found != *driver.held() => return Err("what is read is not what was written".into()),
                // Once it has failed it says nothing more.
                Err(wrong) if !wrong.contains("the log has failed") => return Err(wrong),
                _ => {}
            }
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Seen {
    lives: u64,
    cuts: u64,
    rolls: u64,
    recycled: u64,
    entries: u64,
}

/// `QUANTADB_LOG_SEED` runs one seed, `QUANTADB_LOG_SEEDS` so many.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match variable("QUANTADB_LOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("QUANTADB_LOG_SEEDS").unwrap_or(count),
    }
}

#[test]
fn what_was_acknowledged_survives_any_end_and_nothing_else_does() {
    let mut seen = Seen::default();
    let seeds = seeds(400);
    let all = seeds.end - seeds.start >= 400;
    for seed in seeds {
        if let Err(wrong) = lives(seed, false, &mut seen) {
            panic!("QUANTADB_LOG_SEED={seed}: {wrong}");
        }
    }
    println!("{seen:?}");
    // The runs went where it is dangerous.
    assert!(!all || (seen.cuts > 50 && seen.rolls > 500 && seen.recycled > 100), "{seen:?}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let wrong = (0..60).filter(|seed| lives(*seed, true, &mut Seen::default()).is_err()).count();
    assert!(wrong > 20, "{wrong} of 60 runs noticed");
}
