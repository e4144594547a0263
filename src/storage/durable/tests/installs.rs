//! Snapshots installed at random moments, over crashes and broken transfers: at every moment the engine holds exactly what
//! the group's log says, as of the entry that it has come to.

use super::{
    model::{Disk, OnDisk, Simulated, all_options, any_commits, first_seed},
    *,
};
use crate::{
    storage::{CaptureTotals, CapturedRow, Install, InstallError},
    testing::generators::Random,
};

/// A snapshot that somebody sends.
#[derive(Clone)]
pub(super) struct Transfer {
    pub(super) id: [u8; 16],
    pub(super) applied: Applied,
    pub(super) membership: Bytes,
    pub(super) parts: Vec<Vec<CapturedRow>>,
}

impl Transfer {
    /// Everything that a log holds, in parts of up to so many rows.
    pub(super) fn of(log: &Log, model: &Model, id: [u8; 16], random: &mut Random, rows_max: u64) -> Transfer {
        let applied = log.last();
        let row = |(key, version, value): (Vec<u8>, u64, Vec<u8>)| CapturedRow {
            key: key.into(),
            version: Version(version),
            value: value.into(),
        };
        let mut rows: Vec<_> = model.scan(&everything(), false, applied.version.0).into_iter().map(row).collect();
        let mut parts = Vec::new();
        while !rows.is_empty() {
            let count = rows.len().min(random.below(rows_max + 1) as usize);
            let rest = rows.split_off(count);
            parts.push(std::mem::replace(&mut rows, rest));
        }
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let membership = log.entries.iter().rev().find_map(|entry| entry.membership.clone()).unwrap_or_default();
        Transfer { id, applied, membership, parts }
    }

    pub(super) fn totals(&self) -> CaptureTotals {
        let mut totals = CaptureTotals::default();
        self.parts.iter().for_each(|rows| totals.add(rows));
        totals
    }

    pub(super) fn begin<E: Engine>(&self, engine: &Arc<E>) -> Result<Box<dyn Install>, InstallError> {
        Arc::clone(engine).begin_install(self.id, self.applied, self.membership.clone())
    }

    /// Sends what is not there yet, and ends it.
    pub(super) fn send(&self, mut install: Box<dyn Install>) -> Result<(), InstallError> {
        for number in install.parts()..self.parts.len() as u64 {
            install.part(number, &self.parts[number as usize])?;
        }
        install.finish(self.totals())
    }
}

/// What happened, so that a run in which nothing did is not taken for a good one.
#[derive(Debug, Default)]
struct Seen {
    installed: u32,
    resumed_after_a_crash: u32,
    resumed: u32,
    reached: u32,
    refused: u32,
    gone: u32,
}

struct Run<'a> {
    disk: &'a mut dyn Disk,
    options: DurableOptions,
    random: Random,
    /// None only while the engine is exchanged.
    engine: Option<Arc<DurableEngine>>,
    /// The group's, which the engine follows.
    log: Log,
    model: Model,
    transfer: Option<Transfer>,
    install: Option<Box<dyn Install>>,
    /// Parts of the transfer that the process before this one had taken.
    before_crash: u64,
    pins: Vec<Pin>,
    /// Pins from before an install.
    old_pins: Vec<Pin>,
    seen: Seen,
}

impl Run<'_> {
    fn engine(&self) -> &Arc<DurableEngine> {
        self.engine.as_ref().unwrap()
    }

    fn apply_next(&mut self) {
        let applied = self.engine().applied();
        if let Some(entry) = self.log.after(applied).first() {
            entry.apply(self.engine()).unwrap();
        }
    }

    fn append(&mut self) {
        let commits = any_commits(&mut self.random);
        let membership = self.random.once_in(6).then(|| Bytes::from(vec![self.random.bits() as u8; 3]));
        let commits = if membership.is_some() { Vec::new() } else { commits };
        let entry = self.log.push(commits, membership);
        self.model.apply(entry);
    }

    fn has_reached(&self) -> bool {
        let transfer = self.transfer.as_ref().unwrap();
        self.engine().applied().log_id >= transfer.applied.log_id
    }

    /// The install of the transfer, begun if it is not.
    fn begin(&mut self) -> Option<Box<dyn Install>> {
        if let Some(install) = self.install.take() {
            return Some(install);
        }
        let transfer = self.transfer.clone()?;
        let begun = transfer.begin(self.engine());
        if self.has_reached() {
            assert_eq!(begun.err(), Some(InstallError::Reached));
            self.seen.reached += 1;
            self.transfer = None;
            return None;
        }
        let install = begun.unwrap();
        assert!(install.parts() <= transfer.parts.len() as u64);
        self.seen.resumed += u32::from(install.parts() > 0);
        self.seen.resumed_after_a_crash += u32::from(install.parts() > 0 && self.before_crash > 0);
        self.before_crash = 0;
        Some(install)
    }

    fn send_one(&mut self) {
        let Some(mut install) = self.begin() else { return };
        let parts = self.transfer.as_ref().unwrap().parts.clone();
        let number = install.parts();
        if let Some(rows) = parts.get(number as usize) {
            assert!(matches!(install.part(number + 1, rows), Err(InstallError::Refused(_))));
            install.part(number, rows).unwrap();
            assert_eq!(install.parts(), number + 1);
        }
        self.install = Some(install);
    }

    fn finish(&mut self, flip: bool) {
        let Some(install) = self.begin() else { return };
        let mut transfer = self.transfer.clone().unwrap();
        let sent = install.parts() as usize;
        let totals = transfer.totals();
        let later: Vec<_> = (sent..transfer.parts.len()).filter(|part| !transfer.parts[*part].is_empty()).collect();
        if flip && !later.is_empty() {
            let part = later[self.random.index(later.len())];
            let index = self.random.index(transfer.parts[part].len());
            let row = &mut transfer.parts[part][index];
            row.value = [&row.value[..], b"!"].concat().into();
        }
        let mut install = install;
        for number in sent..transfer.parts.len() {
            install.part(number as u64, &transfer.parts[number]).unwrap();
        }
        let finished = install.finish(totals);
        if flip && !later.is_empty() {
            assert!(matches!(finished, Err(InstallError::Refused(_))), "{finished:?}");
            self.seen.refused += 1;
        } else if self.has_reached() && finished.is_err() {
            assert_eq!(finished, Err(InstallError::Reached));
            self.seen.reached += 1;
            self.transfer = None;
        } else {
            assert_eq!(finished, Ok(()));
            self.check_installed(&transfer);
        }
    }

    fn check_installed(&mut self, transfer: &Transfer) {
        let engine = self.engine();
        assert_eq!((engine.applied(), engine.stored()), (transfer.applied, transfer.applied));
        assert_eq!(
            (engine.membership(), engine.stored_membership()),
            (transfer.membership.clone(), transfer.membership.clone())
        );
        let horizon = transfer.applied.version;
        assert_eq!((engine.visible(), engine.usage().horizon), (horizon, horizon));
        self.seen.installed += 1;
        self.transfer = None;
        self.old_pins.append(&mut self.pins);
        for pin in &self.old_pins {
            let gone = Err(Error::Gone { asked: pin.version(), horizon });
            assert_eq!(self.engine().get_at(pin, &[&key("a")], &mut |_, _| ()), gone);
            self.seen.gone += 1;
        }
    }

    fn step(&mut self) {
        let visible = self.engine().visible().0;
        match self.random.below(100) {
            0..30 => (0..3).for_each(|_| self.append()),
            30..46 => self.apply_next(),
            46..52 => {
                let target = visible.saturating_sub(self.random.below(9));
                self.engine().trim(Version(target));
            }
            52..62 => {
                self.engine().maintain().unwrap();
            }
            62..64 => self.engine().persist().unwrap(),
            64..69 => self.pins.push(self.engine().pin()),
            69..71 => drop(self.pins.pop()),
            71..75 => {
                let id = if self.random.once_in(4) { [9; 16] } else { [self.random.bits() as u8; 16] };
                if !self.log.entries.is_empty() && (self.transfer.is_none() || self.random.once_in(4)) {
                    self.install = None;
                    self.transfer = Some(Transfer::of(&self.log, &self.model, id, &mut self.random, 5));
                }
            }
            75..88 => (0..4).for_each(|_| self.send_one()),
            88..90 => self.finish(false),
            90..94 => self.install = None,
            94..95 => {
                if let Some(install) = self.install.take() {
                    install.abort().unwrap();
                    let space = self.engine().state.get().base.space_progress();
                    assert_eq!(space, None);
                }
            }
            95..96 => self.finish(true),
            _ => self.crash(),
        }
    }

    fn crash(&mut self) {
        let (stored, membership) = (self.engine().stored(), self.engine().stored_membership());
        let applied = self.engine().applied();
        self.before_crash = self.install.take().map_or(0, |install| install.parts());
        self.pins.clear();
        self.old_pins.clear();
        drop(self.engine.take());
        let engine = DurableEngine::over(&Env::real(), self.disk.reopen(), self.options);
        assert_eq!((engine.stored(), engine.stored_membership()), (stored, membership));
        self.engine = Some(Arc::new(engine));
        self.check();
        while self.engine().applied() != applied {
            self.apply_next();
        }
    }

    fn check(&self) {
        let engine = self.engine();
        let applied = engine.applied();
        if let Some(log_id) = applied.log_id {
            assert_eq!(self.log.entries[log_id.index as usize].applied, applied);
        }
        let now = engine.pin();
        for pin in self.pins.iter().chain([&now]) {
            let at = pin.version().0;
            for reverse in [false, true] {
                let expected = self.model.scan(&everything(), reverse, at);
                assert_eq!(scan(engine, pin, &everything(), reverse, usize::MAX), expected, "at {at}");
            }
        }
        for key in self.model.keys.keys() {
            assert_eq!(get(engine, key), self.model.get(key, now.version().0), "{key:?}");
        }
    }
}

/// Runs so many steps from a seed; `QUANTADB_SEED` gives another first one.
fn run(disk: &mut dyn Disk, options: DurableOptions, seed: u64, steps: usize, check_every: usize) -> Seen {
    println!("seed {seed}, {options:?}");
    let engine = DurableEngine::over(&Env::real(), disk.reopen(), options);
    let mut run = Run {
        disk,
        options,
        random: Random::new(seed),
        engine: Some(Arc::new(engine)),
        log: Log::default(),
        model: Model::default(),
        transfer: None,
        install: None,
        before_crash: 0,
        pins: Vec::new(),
        old_pins: Vec::new(),
        seen: Seen::default(),
    };
    for step in 0..steps {
        run.step();
        if step % check_every == 0 {
            run.check();
        }
    }
    run.crash();
    run.seen
}

/// Of the first kinds each happened.
fn assert_much_was_seen(all: &[Seen], kinds: usize) {
    let sum = |of: fn(&Seen) -> u32| all.iter().map(of).sum::<u32>();
    let sums = [
        sum(|seen| seen.installed),
        sum(|seen| seen.resumed_after_a_crash),
        sum(|seen| seen.resumed),
        sum(|seen| seen.reached),
        sum(|seen| seen.refused),
        sum(|seen| seen.gone),
    ];
    println!("installed, resumed after a crash, resumed, reached, refused, gone: {sums:?}");
    assert!(sums[..kinds].iter().all(|&sum| sum > 0), "{sums:?}");
}

#[test]
fn snapshots_at_any_moment_over_a_simulated_base_equal_the_model() {
    let of = |seed: u64| {
        let options = DurableOptions { slice_bytes: 128, ..all_options()[(seed % 3) as usize] };
        run(&mut Simulated(SimulatedBase::new(seed)), options, seed, 250, 1)
    };
    assert_much_was_seen(&(first_seed()..first_seed() + 40).map(of).collect::<Vec<_>>(), 6);
}

#[test]
fn snapshots_at_any_moment_over_a_base_on_disk_equal_the_model() {
    let of = |seed: u64| {
        let options = DurableOptions { slice_bytes: 128, ..all_options()[(seed % 3) as usize] };
        run(&mut OnDisk(TemporaryDirectory::new("durable-installs")), options, seed, 200, 10)
    };
    assert_much_was_seen(&(first_seed()..first_seed() + 3).map(of).collect::<Vec<_>>(), 3);
}

#[test]
fn a_scan_that_began_before_the_switch_ends_in_what_it_began_in() {
    let directory = TemporaryDirectory::new("install-scan");
    let on_disk = || Box::new(LsmBase::open(&Env::real(), directory.path(), LsmOptions::default()).unwrap());
    for base in [Box::new(SimulatedBase::new(1)) as Box<dyn Base>, on_disk()] {
        let engine = Arc::new(DurableEngine::over(&Env::real(), base, small()));
        let (mut log, mut model) = (Log::default(), Model::default());
        for i in 0..200 {
            let entry = log.push(vec![vec![(key(&format!("{i:03}")), Some(vec![1; 20]))]], None);
            model.apply(entry);
            entry.apply(&engine).unwrap();
            if i == 100 {
                engine.persist().unwrap();
            }
        }
        let expected = model.scan(&everything(), false, 200);
        model.apply(log.push(vec![expected.iter().map(|(key, ..)| (key.clone(), None)).collect()], None));
        let transfer = Transfer::of(&log, &model, [1; 16], &mut Random::new(1), 5);
        let mut install = Some(transfer.begin(&engine).unwrap());
        let pin = engine.pin();
        let mut rows = Vec::new();
        let mut each = |key: &[u8], row: Row<'_>| {
            rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
            if rows.len() == 3
                && let Some(install) = install.take()
            {
                transfer.send(install).unwrap();
                maintain_all(&engine);
            }
            ControlFlow::Continue(())
        };
        engine.scan(&pin, Scan { range: &everything(), reverse: false }, &mut each).unwrap();
        assert_eq!(rows, expected);
        let gone = Error::Gone { asked: Version(200), horizon: Version(201) };
        let scan_again =
            engine.scan(&pin, Scan { range: &everything(), reverse: false }, &mut |_, _| ControlFlow::Break(()));
        assert_eq!(scan_again, Err(gone.clone()));
        assert_eq!(engine.pin_at(Version(200)).err(), Some(gone));
        assert_eq!(scan(&engine, &engine.pin(), &everything(), true, 9), []);
        while !engine.replaced.lock().is_empty() {
            crossbeam_epoch::pin().flush();
            engine.maintain().unwrap();
        }
    }
    let left: Vec<_> = Env::real().files().list(directory.path()).unwrap();
    assert_eq!(left, ["current", "lock", "tree-1"].map(std::path::PathBuf::from), "what was replaced is gone");
}
