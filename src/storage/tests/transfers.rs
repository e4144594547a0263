//! What arrives, what is refused, and what is gone on with.

use super::*;
use crate::testing::generators::Random;

/// Entries until a version, of keys that come and go; some of the history is trimmed and stored.
fn grow(engine: &dyn Engine, until: u64, random: &mut Random) {
    for version in engine.visible().0 + 1..=until {
        let write = |random: &mut Random| {
            let value = (!random.once_in(4)).then(|| vec![version as u8; random.index(3_000)]);
            (key(&format!("{:03}", random.below(300))), value)
        };
        let mut writes: Vec<_> = (0..1 + random.below(9)).map(|_| write(random)).collect();
        writes.sort();
        writes.dedup_by(|a, b| a.0 == b.0);
        apply(engine, version, &writes);
        if random.once_in(20) {
            engine.trim(Version(version - random.below(version.min(9))));
            engine.maintain().unwrap();
        }
    }
}

#[test]
fn whatever_engine_sends_and_whatever_takes_holds_the_same() {
    for (seed, (from, to)) in (1..).zip(ALL.iter().flat_map(|from| ALL.iter().map(move |to| (from, to)))) {
        let mut random = Random::new(seed);
        let (from, to) = (from(), to());
        grow(&*from.engine, 400, &mut random);
        from.engine.apply_membership(Bytes::from_static(b"1,2,3"), Applied { chain: 7, ..applied(400) }).unwrap();
        grow(&*to.engine, 90, &mut random);
        let old = to.engine.pin();
        send(&from.engine, &to.engine).unwrap();
        let engine = &*to.engine;
        assert_eq!((engine.applied(), engine.visible()), (from.engine.applied(), Version(400)));
        assert_eq!((engine.stored(), &engine.membership()[..]), (from.engine.applied(), &b"1,2,3"[..]));
        let gone = Error::Gone { asked: Version(90), horizon: Version(400) };
        assert_eq!(rows_at(engine, &old, &everything(), false), Err(gone.clone()));
        assert_eq!(engine.get_at(&old, &[b"\0\0\0\x01000"], &mut |_, _| ()), Err(gone));
        assert_eq!(engine.usage().pins, 0, "the old pin keeps nothing");
        let check = || {
            let rows = rows_at(engine, &engine.pin(), &everything(), false).unwrap();
            assert_eq!(Ok(rows.clone()), rows_at(&*from.engine, &from.engine.pin(), &everything(), false), "{seed}");
            assert!(rows.len() > 100);
            for (key, version, value) in &rows {
                let mut found = None;
                engine
                    .get_latest(&[key], &mut |_, _, row| found = row.map(|row| (row.version.0, row.value.to_vec())))
                    .unwrap();
                assert_eq!(found, Some((*version, value.clone())));
            }
        };
        check();
        // Both go on alike.
        let later = Random::new(seed + 99);
        grow(&*from.engine, 500, &mut later.clone());
        grow(engine, 500, &mut later.clone());
        engine.persist().unwrap();
        while engine.maintain().unwrap() {}
        check();
    }
}

#[test]
fn an_empty_state_can_be_sent_too() {
    for to in ALL {
        let (from, to) = (in_memory(), to());
        apply(&*to.engine, 1, &[(key("a"), Some(vec![1]))]);
        from.engine.apply(&[], applied(5)).unwrap();
        send(&from.engine, &to.engine).unwrap();
        assert_eq!(rows_at(&*to.engine, &to.engine.pin(), &everything(), true), Ok(Vec::new()));
        assert_eq!(to.engine.applied(), applied(5));
    }
}

/// Something with several parts to send.
fn several_parts() -> (Capture, Vec<Vec<CapturedRow>>, CaptureTotals) {
    let from = in_memory();
    for version in 1..=8 {
        apply(&*from.engine, version, &[(key(&format!("{version}")), Some(vec![version as u8; 400_000]))]);
    }
    let capture = Capture::now(&from.engine);
    let (parts, totals) = parts(&capture);
    assert_eq!(parts.len(), 4);
    (capture, parts, totals)
}

#[test]
fn an_interrupted_transfer_goes_on_and_one_of_another_snapshot_begins_anew() {
    let (capture, parts, totals) = several_parts();
    for to in ALL {
        let to = to();
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        (0..2).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        drop(install);
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        let resumed = install.parts();
        // What is durable lags behind by the part that came last.
        assert!((1..=2).contains(&resumed), "{resumed}");
        (resumed..3).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        drop(install);
        let other = begin(&capture, &to.engine, 2).unwrap();
        assert_eq!(other.parts(), 0);
        drop(other);
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        assert_eq!(install.parts(), 0, "the other has taken its place");
        (0..4).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        install.abort().unwrap();
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        assert_eq!(install.parts(), 0, "it was aborted");
        (0..4).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        install.finish(totals).unwrap();
        assert_eq!(to.engine.visible(), Version(8));
        assert_eq!(begin(&capture, &to.engine, 1).err(), Some(InstallError::Reached));
    }
}

#[test]
fn what_is_not_what_was_sent_is_refused_and_what_was_here_stays() {
    let (capture, parts, totals) = several_parts();
    for to in ALL {
        let to = to();
        apply(&*to.engine, 3, &[(key("mine"), Some(vec![1]))]);
        let begin = || begin(&capture, &to.engine, 1).unwrap();
        let mut install = begin();
        let refused = |result| assert!(matches!(result, Err(InstallError::Refused(_))), "{result:?}");
        let row = |key: Vec<u8>, version: u64, value: usize| CapturedRow {
            key: key.into(),
            version: Version(version),
            value: vec![1; value].into(),
        };
        refused(install.part(1, &parts[1]));
        refused(install.part(0, &[row(key("b"), 1, 1), row(key("a"), 1, 1)]));
        refused(install.part(0, &[row(key("a"), 1, 1), row(key("a"), 2, 1)]));
        refused(install.part(0, &[row(key("a"), 9, 1)]));
        refused(install.part(0, &[row(b"\0\0".to_vec(), 1, 1)]));
        refused(install.part(0, &[row(vec![0xff; 9], 1, 1)]));
        refused(install.part(0, &[row(vec![1; 9_000], 1, 1)]));
        refused(install.part(0, &[row(key("a"), 1, (8 << 20) + 1)]));
        install.part(0, &parts[0]).unwrap();
        refused(install.part(0, &parts[0]));
        refused(install.part(1, &parts[0]));
        refused(install.finish(totals));
        // A bit, in any part.
        for flipped in 0..4_u64 {
            let mut install = begin();
            assert_eq!(install.parts(), 0, "what was refused is discarded");
            for number in 0..4_u64 {
                let mut rows = parts[number as usize].clone();
                if number == flipped {
                    let mut value = rows[1].value.to_vec();
                    value[1_000] ^= 4;
                    rows[1].value = value.into();
                }
                install.part(number, &rows).unwrap();
            }
            refused(install.finish(totals));
        }
        // One part too few.
        let mut install = begin();
        (0..3).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        refused(install.finish(totals));
        let rows = rows_at(&*to.engine, &to.engine.pin(), &everything(), false);
        assert_eq!(rows, Ok(vec![(key("mine"), 3, vec![1])]));
        apply(&*to.engine, 4, &[(key("mine"), None)]);
    }
}

#[test]
fn a_store_that_comes_as_far_by_itself_never_goes_back() {
    let (capture, parts, totals) = several_parts();
    for to in ALL {
        let to = to();
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        (0..4).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        apply(&*to.engine, 8, &[(key("mine"), Some(vec![1]))]);
        assert_eq!(install.finish(totals), Err(InstallError::Reached));
        let rows = rows_at(&*to.engine, &to.engine.pin(), &everything(), false);
        assert_eq!(rows, Ok(vec![(key("mine"), 8, vec![1])]));
        // Further in versions, and behind in entries: no history is like that.
        let behind = Applied { log_id: applied(9).log_id, ..applied(7) };
        let begun = Arc::clone(&to.engine).begin_install([1; 16], behind, Bytes::new());
        assert!(matches!(begun.err(), Some(InstallError::Refused(_))));
        let membership = Bytes::from(vec![0; (1 << 20) + 1]);
        let begun = Arc::clone(&to.engine).begin_install([1; 16], applied(9), membership);
        assert!(matches!(begun.err(), Some(InstallError::Refused(_))), "no marker would hold it");
    }
}

#[test]
fn of_two_installs_the_later_one_goes_on() {
    let (capture, parts, totals) = several_parts();
    for to in [simulated, on_disk] {
        let to = to();
        let mut first = begin(&capture, &to.engine, 1).unwrap();
        first.part(0, &parts[0]).unwrap();
        let mut second = begin(&capture, &to.engine, 1).unwrap();
        assert!(matches!(first.part(1, &parts[1]), Err(InstallError::Refused(_))));
        assert!(matches!(first.finish(totals), Err(InstallError::Refused(_))));
        (0..4).for_each(|number| second.part(number, &parts[number as usize]).unwrap());
        second.finish(totals).unwrap();
        assert_eq!(to.engine.applied(), applied(8));
    }
}

#[test]
fn a_sealed_install_has_nothing_left_but_the_switch() {
    let (capture, parts, totals) = several_parts();
    for to in ALL {
        let to = to();
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        (0..3).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        assert!(matches!(install.seal(totals), Err(InstallError::Refused(_))), "a part is missing");
        install.part(3, &parts[3]).unwrap();
        install.seal(totals).unwrap();
        // Nobody finishes it, and all of it is there when it is begun again.
        drop(install);
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        assert_eq!(install.parts(), 4);
        install.seal(totals).unwrap();
        install.finish(totals).unwrap();
        assert_eq!(to.engine.applied(), applied(8));
    }
}

#[test]
fn a_sealed_install_is_not_overtaken() {
    let (capture, parts, totals) = several_parts();
    for to in [simulated, on_disk] {
        let to = to();
        let mut install = begin(&capture, &to.engine, 1).unwrap();
        (0..4).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
        install.seal(totals).unwrap();
        assert!(matches!(begin(&capture, &to.engine, 2).err(), Some(InstallError::Refused(_))));
        install.finish(totals).unwrap();
        assert_eq!(to.engine.applied(), applied(8));
    }
}

#[test]
fn memory_takes_no_more_than_it_may_hold() {
    let (capture, parts, totals) = several_parts();
    let to: Arc<dyn Engine> = Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 2_000_000, hash_seed: 7 }));
    apply(&*to, 1, &[(key("mine"), Some(vec![1]))]);
    let mut install = begin(&capture, &to, 1).unwrap();
    (0..2).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
    assert!(matches!(install.part(2, &parts[2]), Err(InstallError::NoSpace(_))));
    assert!(matches!(install.finish(totals), Err(InstallError::Refused(_))));
    assert_eq!(rows_at(&*to, &to.pin(), &everything(), false), Ok(vec![(key("mine"), 1, vec![1])]));
}

#[test]
fn what_was_replaced_gives_its_memory_back() {
    let engine = Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 30, hash_seed: 7 }));
    let to: Arc<dyn Engine> = Arc::clone(&engine) as Arc<dyn Engine>;
    let (capture, parts, totals) = several_parts();
    apply(&*to, 1, &[(key("mine"), Some(vec![1; 1_000_000]))]);
    let before = to.usage().bytes;
    let mut install = begin(&capture, &to, 1).unwrap();
    (0..4).for_each(|number| install.part(number, &parts[number as usize]).unwrap());
    assert_eq!(to.usage().bytes, before, "what is on its way does not count");
    install.finish(totals).unwrap();
    // Other tests' guards hold the collector up, but not for long.
    while engine.replaced_len() > 0 {
        crossbeam_epoch::pin().flush();
        to.maintain().unwrap();
        std::thread::yield_now();
    }
    assert!((3_200_000..4_000_000).contains(&to.usage().bytes), "{:?}", to.usage());
}
