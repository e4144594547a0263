//! Damage that no power cut explains is found, and a power cut is not taken for it.

use super::{
    block::{BLOCK_BYTES, PAGE_BYTES},
    driver::{Driver, PATH, Step},
    *,
};
use std::path::PathBuf;

const PAGE: u64 = PAGE_BYTES as u64;

fn segment(number: u64) -> PathBuf {
    Path::new(PATH).join(format!("{number:08}.seg"))
}

/// Appends entries of so many bytes, each a group.
fn append(driver: &mut Driver, life: &driver::Life, sizes: &[usize]) {
    for bytes in sizes {
        let entry = driver.entry(*bytes);
        driver.step(&life.log, Step::Append(vec![entry]));
        driver.settle(life);
    }
}

/// A log of three segments: the first purged and free again, two in use; the last group is two pages long.
fn small() -> Driver {
    let mut driver = Driver::new(16 << 10);
    let life = driver.open().unwrap();
    driver.step(&life.log, Step::Vote(vote(5)));
    append(&mut driver, &life, &[100, 200, 300, 400]);
    let up_to = driver.held().entries[1].id;
    driver.step(&life.log, Step::Purge(up_to));
    append(&mut driver, &life, &[5000]);
    drop(life);
    driver.files.restart();
    driver
}

fn damage(driver: &Driver) -> Option<(PathBuf, u64, Damage)> {
    match driver.open() {
        Ok(_) => None,
        Err(OpenError::Corrupt(Corruption { path, offset, damage })) => Some((path, offset, damage)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_byte_with_a_flipped_bit_is_found_or_has_no_effect() {
    let driver = small();
    let (wanted, paths) = (driver.held().clone(), driver.files.paths());
    let (mut found, mut harmless) = (0, 0);
    // Every byte takes minutes; without being asked, those of every stamp and some of the rest.
    let all = std::env::var_os("QUANTADB_LOG_ALL_BYTES").is_some();
    for path in paths.iter().filter(|path| path.starts_with(PATH)) {
        let length = driver.files.contents(path).unwrap().len() as u64;
        for offset in (0..length).filter(|offset| all || offset % 512 < 32 || offset % 13 == 0) {
            let bit = ((offset ^ (offset >> 3)) % 8) as u8;
            driver.files.flip(path, offset, bit);
            let told = format!("{} byte {offset} bit {bit}", path.display());
            let report = check(&*driver.files, Path::new(PATH));
            let copy = driver.copy();
            match copy.open() {
                Err(OpenError::Corrupt(corruption)) => {
                    found += 1;
                    assert_eq!(report.findings.first(), Some(&corruption), "{told}");
                }
                Err(other) => panic!("{told}: {other}"),
                Ok(life) => {
                    harmless += 1;
                    assert!(report.is_sound(), "{told}");
                    assert_eq!(Driver::found(&life.log).as_ref(), Ok(&wanted), "{told}");
                }
            }
            driver.files.flip(path, offset, bit);
        }
    }
    println!("{found} found, {harmless} without effect");
    assert!(found > 2000 && harmless > 2000, "{found} {harmless}");
}

#[test]
fn a_bit_flipped_in_the_very_last_group_is_no_torn_tail() {
    let driver = small();
    let report = check(&*driver.files, Path::new(PATH));
    assert!(report.is_sound() && report.torn.is_none(), "{report:?}");
    let last = last_block(&driver);
    driver.files.flip(&last.0, last.1 + 100, 3);
    assert_eq!(damage(&driver), Some((last.0, last.1, Damage::Block)));
}

/// The newest segment and the offset of its last block that is not zero.
fn last_block(driver: &Driver) -> (PathBuf, u64) {
    let mut found = None;
    for path in driver.files.paths().into_iter().filter(|path| path.starts_with(PATH)) {
        let bytes = driver.files.contents(&path).unwrap();
        for (number, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate().skip(8) {
            if let block::Block::Stamped(stamp) = block::judge(block) {
                found = found.max(Some((stamp.sequence, stamp.index, path.clone(), (number * BLOCK_BYTES) as u64)));
            }
        }
    }
    let (_, _, path, offset) = found.unwrap();
    (path, offset)
}

#[test]
fn every_subset_of_the_last_group_is_a_torn_tail_and_never_more() {
    let mut driver = Driver::new(32 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200]);
    drop(life);
    driver.files.restart();
    let (before, held) = (driver.files.contents(&segment(1)).unwrap(), driver.held().clone());
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[300]);
    drop(life);
    let after = driver.files.contents(&segment(1)).unwrap();
    let changed: Vec<_> =
        (0..after.len() / 512).filter(|at| before[at * 512..][..512] != after[at * 512..][..512]).collect();
    assert_eq!(changed.len(), 8);
    for subset in 0..256_u32 {
        let copy = driver.copy();
        copy.files.plant(&segment(1), 0, &before);
        for (_, at) in changed.iter().enumerate().filter(|(number, _)| subset >> number & 1 == 1) {
            copy.files.plant(&segment(1), (at * 512) as u64, &after[at * 512..][..512]);
        }
        let report = check(&*copy.files, Path::new(PATH));
        let life = copy.open().unwrap_or_else(|error| panic!("{subset:08b}: {error}"));
        let whole = if subset == 255 { driver.held() } else { &held };
        assert_eq!(Driver::found(&life.log).as_ref(), Ok(whole), "{subset:08b}");
        assert_eq!(life.recovered.cut.is_some(), subset != 0 && subset != 255, "{subset:08b}");
        assert_eq!(report.torn, life.recovered.cut, "{subset:08b}");
        if subset != 255 {
            assert_eq!(copy.files.contents(&segment(1)).unwrap(), before, "{subset:08b}: zeros again");
        }
    }
}

#[test]
fn a_write_that_stopped_at_any_byte_is_cut_unless_only_its_last_block_is_unsure() {
    let mut driver = Driver::new(32 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100]);
    drop(life);
    driver.files.restart();
    let (before, held) = (driver.files.contents(&segment(1)).unwrap(), driver.held().clone());
    let life = driver.open().unwrap();
    // To the very end of its last block, so that nothing of it is padding.
    append(&mut driver, &life, &[8 * 480 - 16 - 30]);
    drop(life);
    let after = driver.files.contents(&segment(1)).unwrap();
    let from = (2 * PAGE) as usize;
    assert_eq!(before[from..], vec![0; before.len() - from]);
    for stopped in 1..PAGE_BYTES {
        let copy = driver.copy();
        copy.files.plant(&segment(1), from as u64, &before[from..]);
        copy.files.plant(&segment(1), from as u64, &after[from..from + stopped]);
        match copy.open() {
            Ok(life) if stopped + 1 == PAGE_BYTES && after[from + stopped] == 0 => drop(life),
            Ok(life) => {
                assert!(stopped <= PAGE_BYTES - BLOCK_BYTES, "{stopped}");
                assert_eq!(Driver::found(&life.log).as_ref(), Ok(&held), "{stopped}");
            }
            Err(error) => {
                assert!(stopped > PAGE_BYTES - BLOCK_BYTES, "{stopped}: {error}");
                assert!(matches!(error, OpenError::Corrupt(Corruption { damage: Damage::Block, .. })));
            }
        }
    }
}

#[test]
fn a_lost_write_before_a_later_group_is_corruption() {
    let mut driver = Driver::new(64 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200, 5000, 300]);
    drop(life);
    driver.files.restart();
    // Groups at pages 1, 2, 3 and 4, 5.
    for (at, length) in [(1, 1), (2, 1), (3, 2), (1, 2), (4, 1)] {
        let copy = driver.copy();
        copy.files.plant(&segment(1), at * PAGE, &vec![0; (length * PAGE) as usize]);
        let (path, offset, damage) = damage(&copy).unwrap();
        assert_eq!(path, segment(1));
        assert!(offset <= at * PAGE && matches!(damage, Damage::GroupMissing { .. }), "{at}: {offset} {damage}");
    }
    // The last one alone: what a disk that lies about its last sync leaves is not told from a power cut.
    driver.files.plant(&segment(1), 5 * PAGE, &[0; PAGE_BYTES]);
    assert_eq!(damage(&driver), None);
}

#[test]
fn a_lost_write_at_the_end_of_a_segment_that_was_left_is_corruption() {
    let mut driver = Driver::new(16 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200, 300]);
    drop(life);
    driver.files.restart();
    for lost in [1, 2] {
        let copy = driver.copy();
        copy.files.plant(&segment(1), lost * PAGE, &[0; PAGE_BYTES]);
        assert_eq!(damage(&copy).map(|(path, offset, _)| (path, offset)), Some((segment(1), lost * PAGE)));
    }
    // The seal alone is not missed: the next segment is there.
    driver.files.plant(&segment(1), 3 * PAGE, &[0; PAGE_BYTES]);
    assert_eq!(damage(&driver), None);
}

#[test]
fn what_an_older_generation_left_in_a_segment_is_not_ours() {
    let mut driver = Driver::new(32 << 10);
    let life = driver.open().unwrap();
    for _ in 0..12 {
        append(&mut driver, &life, &[100, 200]);
        let up_to = driver.held().last().unwrap();
        driver.step(&life.log, Step::Purge(up_to));
        driver.settle(&life);
    }
    let recycled = life.log.metrics().segments_recycled.load(std::sync::atomic::Ordering::Relaxed);
    assert!(recycled > 2, "{recycled}");
    append(&mut driver, &life, &[300]);
    drop(life);
    driver.files.crash(0);
    let newest = driver.files.paths().into_iter().filter(|path| path.starts_with(PATH)).map(|path| {
        let bytes = driver.files.contents(&path).unwrap();
        bytes
            .chunks_exact(512)
            .skip(8)
            .filter_map(|block| match block::judge(block) {
                block::Block::Stamped(stamp) => Some(stamp.generation),
                _ => None,
            })
            .collect::<std::collections::BTreeSet<_>>()
    });
    assert!(newest.into_iter().any(|generations| generations.len() > 1), "stale blocks stand in a segment");
    let life = driver.open().unwrap();
    driver.judge(&life).unwrap();
}

#[test]
fn the_only_record_of_a_vote_survives_the_segment_that_it_stood_in() {
    let mut driver = Driver::new(16 << 10);
    let life = driver.open().unwrap();
    driver.step(&life.log, Step::Vote(vote(9)));
    driver.settle(&life);
    for _ in 0..10 {
        append(&mut driver, &life, &[100, 200]);
        let up_to = driver.held().last().unwrap();
        driver.step(&life.log, Step::Purge(up_to));
        driver.settle(&life);
    }
    drop(life);
    driver.files.crash(0);
    let life = driver.open().unwrap();
    assert_eq!(life.recovered.vote, Some(vote(9)));
    driver.judge(&life).unwrap();
}

#[test]
fn a_file_that_vanished_is_missed() {
    let driver = small();
    let paths: Vec<_> = driver.files.paths().into_iter().filter(|path| path.starts_with(PATH)).collect();
    let report = check(&*driver.files, Path::new(PATH));
    assert!(report.segments >= 2 && report.segments_free >= 1, "{report:?}");
    let mut missed = 0;
    for path in &paths {
        let copy = driver.copy();
        crate::env::Files::remove(&*copy.files, path).unwrap();
        match damage(&copy) {
            Some((_, _, Damage::SegmentMissing { .. })) => missed += 1,
            None => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(missed, report.segments, "every one that is needed, the newest too");
}

#[test]
fn a_header_that_went_back_or_away_is_missed() {
    let driver = small();
    let (path, _) = last_block(&driver);
    let copy = driver.copy();
    copy.files.plant(&path, 0, &[0; PAGE_BYTES]);
    assert!(matches!(damage(&copy), Some((found, 0, Damage::HeaderLost { .. })) if found == path));
    copy.files.plant(&path, 0, &[9; BLOCK_BYTES]);
    assert_eq!(damage(&copy), Some((path.clone(), 0, Damage::Header)));
    // Two files of one generation.
    let copy = driver.copy();
    copy.files.plant(&segment(99), 0, &driver.files.contents(&path).unwrap());
    assert!(matches!(damage(&copy), Some((_, 0, Damage::Doubled { .. }))));
    let copy = driver.copy();
    copy.files.plant(&segment(99), 0, &[0; 5000]);
    assert_eq!(damage(&copy), Some((segment(99), 0, Damage::Length { bytes: 5000 })));
}

/// Found by fuzzing: such a file was taken for one that waits to be begun, and what was left in it for its first groups.
#[test]
fn a_first_segment_that_lost_its_first_pages_is_not_begun_anew() {
    let mut driver = Driver::new(32 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200, 300]);
    drop(life);
    driver.files.restart();
    for pages in [1, 2, 3] {
        let copy = driver.copy();
        for path in copy.files.paths().into_iter().filter(|path| path.starts_with(PATH)) {
            copy.files.plant(&path, 0, &vec![0; pages * PAGE_BYTES]);
        }
        let (path, offset, damage) = damage(&copy).unwrap();
        assert_eq!((path, offset), (segment(1), 0), "{damage}");
        assert!(matches!(damage, Damage::Header | Damage::HeaderLost { .. }));
    }
}

#[test]
fn a_prepared_segment_that_is_not_empty_is_never_begun() {
    let mut driver = Driver::new(16 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100]);
    drop(life);
    driver.files.restart();
    let spare = segment(2);
    assert_eq!(driver.files.contents(&spare), Some(vec![0; 16 << 10]));
    driver.files.plant(&spare, 3 * PAGE, b"left over");
    let before = driver.files.contents(&spare);
    let life = driver.open().unwrap();
    driver.judge(&life).unwrap();
    append(&mut driver, &life, &[100, 200, 300, 400, 500, 600]);
    assert_eq!(life.log.metrics().preparations_failed.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(life);
    assert_eq!(driver.files.contents(&spare), before);
    driver.files.crash(0);
    let life = driver.open().unwrap();
    driver.judge(&life).unwrap();
}

#[test]
fn damage_met_while_reading_is_an_error_that_says_where() {
    let mut driver = Driver::new(64 << 10);
    driver.options.cache_bytes_max = 0;
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 5000, 300]);
    driver.files.flip(&segment(1), 2 * PAGE + 3 * 512 + 7, 0);
    assert_eq!(life.log.read(0, 1, 1).unwrap(), driver.held().entries[..1]);
    match life.log.read(1, 2, 1) {
        Err(LogError::Corrupt(Corruption { path, offset, damage: Damage::Block })) => {
            assert_eq!((path, offset), (segment(1), 2 * PAGE + 3 * 512));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(life.log.read(2, 3, 1).unwrap(), driver.held().entries[2..]);
}

#[test]
fn a_whole_block_or_group_in_another_place_is_corruption() {
    let mut driver = Driver::new(64 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200, 300, 5000, 10]);
    drop(life);
    driver.files.restart();
    let bytes = driver.files.contents(&segment(1)).unwrap();
    // Groups at pages 1, 2, 3, then 4 and 5, then 6. The third in the place of the second: each whole, and the chain broken.
    let copy = driver.copy();
    copy.files.plant(&segment(1), 2 * PAGE, &bytes[3 * PAGE_BYTES..4 * PAGE_BYTES]);
    assert!(matches!(damage(&copy), Some((_, _, Damage::GroupMissing { .. }))));
    // Two blocks of one group, each in the other's place.
    let copy = driver.copy();
    let (one, two) = (4 * PAGE_BYTES + BLOCK_BYTES, 5 * PAGE_BYTES + BLOCK_BYTES);
    copy.files.plant(&segment(1), one as u64, &bytes[two..two + BLOCK_BYTES]);
    copy.files.plant(&segment(1), two as u64, &bytes[one..one + BLOCK_BYTES]);
    assert!(damage(&copy).is_some());
}

#[test]
fn a_last_group_whose_every_block_is_damaged_is_no_torn_tail() {
    let mut driver = Driver::new(64 << 10);
    let life = driver.open().unwrap();
    append(&mut driver, &life, &[100, 200]);
    drop(life);
    driver.files.restart();
    // A physical sector of four KiB that has gone bad: no block of it is old, none is whole.
    driver.files.plant(&segment(1), 2 * PAGE, &[9; PAGE_BYTES]);
    assert_eq!(damage(&driver), Some((segment(1), 2 * PAGE, Damage::Block)));
}

#[test]
fn entries_of_many_megabytes_are_kept_in_files_of_their_own_size() {
    let mut driver = Driver::new(1 << 20);
    driver.options.cache_bytes_max = 0;
    let life = driver.open().unwrap();
    let large = LogEntry { id: id(1, 0), kind: 7, payload: vec![5; 64 << 20].into() };
    driver.step(&life.log, Step::Append(vec![large.clone()]));
    driver.settle(&life);
    append(&mut driver, &life, &[10]);
    assert_eq!(life.log.read(0, 1, 1).unwrap(), [large]);
    drop(life);
    driver.files.crash(0);
    let life = driver.open().unwrap();
    driver.judge(&life).unwrap();
}
