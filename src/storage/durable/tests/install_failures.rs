//! One install over a simulated base, and each of its calls failing in each way; and over a base on disk, with a crash at
//! each call. What is there afterwards is the old state or the new one, and can go on.

use super::{installs::Transfer, model::any_commits, *};
use crate::{
    storage::{
        Install, InstallError,
        tests::{
            hooked::{copy, hooked},
            reopened,
        },
    },
    testing::{
        base::{BaseCall, BaseFailure},
        generators::Random,
    },
};
use std::io;

const CALLS: [BaseCall; 9] = [
    BaseCall::Get,
    BaseCall::Scan,
    BaseCall::WriteRun,
    BaseCall::Compact,
    BaseCall::Available,
    BaseCall::BeginSpace,
    BaseCall::DiscardSpace,
    BaseCall::WriteRows,
    BaseCall::Switch,
];
/// Entries that the engine has by itself: when the install begins, and while it goes on.
const OWN: usize = 20;
const MEANWHILE: usize = 5;

/// A group's log, and a snapshot of it.
struct Group {
    log: Log,
    model: Model,
    transfer: Transfer,
}

impl Group {
    fn new() -> Group {
        let (mut log, mut model, mut random) = (Log::default(), Model::default(), Random::new(11));
        for i in 0..60_u8 {
            let membership = i.is_multiple_of(7).then(|| Bytes::from(vec![i; 4]));
            let commits = if membership.is_some() { Vec::new() } else { any_commits(&mut random) };
            model.apply(log.push(commits, membership));
        }
        let transfer = Transfer::of(&log, &model, [1; 16], &mut random, 9);
        assert!(transfer.parts.len() > 5);
        (0..20).for_each(|_| model.apply(log.push(any_commits(&mut random), None)));
        Group { log, model, transfer }
    }

    /// Everything as of what was applied.
    fn check(&self, engine: &DurableEngine) {
        let applied = engine.applied();
        if let Some(log_id) = applied.log_id {
            assert_eq!(self.log.entries[log_id.index as usize].applied, applied);
        }
        let rows = scan(engine, &engine.pin(), &everything(), false, usize::MAX);
        assert_eq!(rows, self.model.scan(&everything(), false, applied.version.0));
    }

    fn apply(&self, engine: &DurableEngine, count: usize) -> Result<(), InstallError> {
        let mut entries = self.log.after(engine.applied()).iter().take(count);
        Ok(entries.try_for_each(|entry| entry.apply(engine))?)
    }

    /// An engine with entries of its own takes the snapshot, while it stores and applies more, and goes on after it.
    fn script(&self, engine: &Arc<DurableEngine>) -> Result<(), InstallError> {
        self.apply(engine, OWN)?;
        engine.persist()?;
        let mut install = self.transfer.begin(engine)?;
        for number in install.parts()..self.transfer.parts.len() as u64 {
            install.part(number, &self.transfer.parts[number as usize])?;
            if number == 3 {
                self.apply(engine, MEANWHILE)?;
                engine.persist()?;
                engine.get_latest(&[&key("a")], &mut |_, _, _| ())?;
                let scan_all = Scan { range: &everything(), reverse: false };
                engine.scan(&engine.pin(), scan_all, &mut |_, _| ControlFlow::Continue(()))?;
                engine.maintain()?;
            }
        }
        install.seal(self.transfer.totals())?;
        install.finish(self.transfer.totals())?;
        self.apply(engine, 3)?;
        engine.persist()?;
        Ok(())
    }

    /// From wherever an engine is it takes the snapshot, unless it has come further, and then the rest of the log.
    fn complete(&self, engine: &Arc<DurableEngine>) {
        match self.transfer.begin(engine) {
            Ok(install) => self.transfer.send(install).unwrap(),
            Err(InstallError::Reached) => {}
            Err(error) => panic!("{error}"),
        }
        self.apply(engine, usize::MAX).unwrap();
        assert_eq!(engine.applied(), self.log.last());
        self.check(engine);
        engine.persist().unwrap();
        assert_eq!((engine.stored(), engine.state.get().base.space_progress()), (self.log.last(), None));
    }
}

fn options() -> DurableOptions {
    DurableOptions { slice_bytes: 700, ..small() }
}

fn engine_over(base: Box<dyn Base>) -> Arc<DurableEngine> {
    Arc::new(DurableEngine::over(&Env::real(), base, options()))
}

#[test]
fn whatever_call_fails_the_old_state_is_there_or_the_new_one() {
    let group = Group::new();
    let base = SimulatedBase::new(3);
    assert_eq!(group.script(&engine_over(Box::new(base.clone()))), Ok(()));
    let calls = CALLS.map(|call| base.calls(call));
    assert!(calls.iter().zip(CALLS).all(|(&calls, call)| calls > 0 || call == BaseCall::DiscardSpace), "{calls:?}");
    let (mut ended, mut went_on) = (0, 0);
    for (call, calls) in CALLS.into_iter().zip(calls) {
        for nth in 1..=calls {
            for failure in [BaseFailure::NoSpace, BaseFailure::Refused, BaseFailure::Doubtful] {
                let context = format!("{call:?} {nth} {failure:?}");
                let base = SimulatedBase::new(3);
                let engine = engine_over(Box::new(base.clone()));
                base.fail(call, nth, failure);
                let result = group.script(&engine);
                let is_of_install = matches!(call, BaseCall::BeginSpace | BaseCall::WriteRows | BaseCall::Switch);
                if failure == BaseFailure::NoSpace && is_of_install {
                    assert!(matches!(result, Err(InstallError::NoSpace(_))), "{context}: {result:?}");
                    group.check(&engine);
                    assert!(engine.applied().log_id < group.transfer.applied.log_id, "{context}");
                    group.complete(&engine);
                    went_on += 1;
                } else if result.is_err() && engine.check_open().is_err() {
                    assert!(matches!(result, Err(InstallError::Failed(_))), "{context}: {result:?}");
                    ended += 1;
                }
                let stored = engine.stored();
                drop(engine);
                let engine = engine_over(Box::new(base.crash()));
                assert!(engine.stored().log_id >= stored.log_id, "{context}");
                group.check(&engine);
                group.complete(&engine);
            }
        }
    }
    assert!(ended > 40 && went_on > 5, "{ended} {went_on}");
}

#[test]
fn a_disk_that_fills_up_leaves_the_old_state_and_the_room_that_it_needs() {
    let group = Group::new();
    let base = SimulatedBase::new(3);
    let options = DurableOptions { reserve_bytes: 4_000, ..options() };
    let engine = Arc::new(DurableEngine::over(&Env::real(), Box::new(base.clone()), options));
    group.apply(&engine, OWN).unwrap();
    engine.persist().unwrap();
    let held = base.usage().disk_bytes;
    base.set_bytes_max(held + 4_000 + 2_000);
    let mut install = group.transfer.begin(&engine).unwrap();
    let part = |install: &mut Box<dyn Install>| {
        let number = install.parts();
        install.part(number, &group.transfer.parts[number as usize])
    };
    let refused = loop {
        if let Err(error) = part(&mut install) {
            break error;
        }
    };
    assert!(matches!(refused, InstallError::NoSpace(_)), "{refused}");
    // Writes go on in what was left free for them.
    group.apply(&engine, MEANWHILE).unwrap();
    engine.persist().unwrap();
    group.check(&engine);
    assert!(matches!(part(&mut install), Err(InstallError::NoSpace(_))), "it is still full");
    base.set_bytes_max(1 << 30);
    while install.parts() < group.transfer.parts.len() as u64 {
        part(&mut install).unwrap();
    }
    install.finish(group.transfer.totals()).unwrap();
    group.complete(&engine);
}

#[test]
fn a_space_that_the_store_has_passed_is_removed() {
    let group = Group::new();
    let base = SimulatedBase::new(3);
    let engine = engine_over(Box::new(base.clone()));
    let mut install = group.transfer.begin(&engine).unwrap();
    install.part(0, &group.transfer.parts[0]).unwrap();
    let last = group.transfer.applied.log_id.unwrap().index as usize;
    group.apply(&engine, last).unwrap();
    drop(install);
    engine.persist().unwrap();
    assert!(base.has_space(), "an entry is missing still");
    let install = group.transfer.begin(&engine).unwrap();
    group.apply(&engine, 1).unwrap();
    engine.persist().unwrap();
    assert!(base.has_space(), "somebody has it");
    drop(install);
    group.apply(&engine, 1).unwrap();
    engine.persist().unwrap();
    assert!(!base.has_space());
    group.complete(&engine);
}

fn open(env: &Env, directory: &Path) -> Result<LsmBase, OpenError> {
    LsmBase::open(env, directory, LsmOptions { block_cache_bytes: 16 * 1024, table_bytes: 4 * 1024 })
}

#[test]
fn a_crash_at_any_call_leaves_the_old_state_or_the_new_one_on_disk() {
    let group = Group::new();
    let (directory, copies) = (TemporaryDirectory::new("install-crash"), TemporaryDirectory::new("install-copies"));
    let (from, to) = (directory.path().to_owned(), copies.path().to_owned());
    let (env, calls) = hooked(move |call| {
        copy(&from, &to.join(call.to_string()));
        Ok(())
    });
    let engine = engine_over(Box::new(open(&env, directory.path()).unwrap()));
    group.script(&engine).unwrap();
    while !engine.replaced.lock().is_empty() {
        crossbeam_epoch::pin().flush();
        engine.maintain().unwrap();
    }
    let (mut old, mut new, mut resumed) = (0, 0, 0);
    for call in 1..=calls.load(Ordering::SeqCst) {
        let path = copies.path().join(call.to_string());
        let engine = engine_over(Box::new(open(&Env::real(), &path).unwrap()));
        group.check(&engine);
        if engine.stored().log_id < group.transfer.applied.log_id {
            old += 1;
            let install = group.transfer.begin(&engine).unwrap();
            resumed += u32::from(install.parts() > 0);
        } else {
            new += 1;
            assert!(engine.is_installed() || engine.stored().log_id > group.transfer.applied.log_id);
        }
        group.complete(&engine);
        drop(engine);
        drop(reopened(|| open(&Env::real(), &path)));
        assert_eq!(crate::storage::check_base(&Env::real(), &path).unwrap(), [], "call {call}");
        let list = |path: &Path| Env::real().files().list(path).unwrap();
        let names = list(&path);
        assert!(names.len() == 3 && names[2].starts_with("tree-1"), "no rubbish is left: {names:?}");
        assert!(list(&path.join("tree-1")).iter().all(|name| !name.to_string_lossy().contains("filling")));
    }
    println!("{old} old, {resumed} of them gone on with, {new} new");
    assert!(old > 20 && resumed > 10 && new > 5, "{old} {resumed} {new}");
}

#[test]
fn a_call_that_fails_ends_the_engine_and_leaves_one_of_the_two_on_disk() {
    let group = Group::new();
    let calls = {
        let directory = TemporaryDirectory::new("install-fails");
        let (env, calls) = hooked(|_| Ok(()));
        group.script(&engine_over(Box::new(open(&env, directory.path()).unwrap()))).unwrap();
        calls.load(Ordering::SeqCst)
    };
    let (mut old, mut new) = (0, 0);
    for failing in 1..=calls {
        let directory = TemporaryDirectory::new("install-fails");
        // From some call on everything fails, as on a disk that is gone.
        let (env, _) = hooked(move |call| if call < failing { Ok(()) } else { Err(io::Error::from_raw_os_error(5)) });
        if let Ok(base) = open(&env, directory.path()) {
            let engine = engine_over(Box::new(base));
            if let Err(error) = group.script(&engine) {
                assert!(matches!(error, InstallError::Failed(_)), "call {failing}: {error}");
                assert!(engine.check_open().is_err());
            }
        }
        let engine = engine_over(Box::new(reopened(|| open(&Env::real(), directory.path()))));
        group.check(&engine);
        if engine.stored().log_id < group.transfer.applied.log_id {
            old += 1
        } else {
            new += 1
        }
        group.complete(&engine);
    }
    println!("{old} old, {new} new");
    assert!(old > 20 && new > 2, "{old} {new}");
}
