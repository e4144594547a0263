//! Reads into which everything happens that can: between the look into memory and the one into the base, somebody writes,
//! flushes, evicts and merges.

use super::*;
use crate::storage::{BaseRow, BaseSpace, BaseUsage, EachBaseRow, RunRow};

type Interruption = Box<dyn FnMut() + Send>;

/// A base that does something else before it reads.
struct Interrupted {
    inner: SimulatedBase,
    /// How often it still does.
    interruption: Arc<Mutex<(u32, Option<Interruption>)>>,
}

impl Interrupted {
    fn interrupt(&self) {
        // Taken out meanwhile, for what happens reads too.
        let Some(mut interrupt) = ({
            let mut interruption = self.interruption.lock();
            let (left, interrupt) = &mut *interruption;
            if *left == 0 { None } else { interrupt.take().inspect(|_| *left -= 1) }
        }) else {
            return;
        };
        interrupt();
        self.interruption.lock().1 = Some(interrupt);
    }
}

impl Base for Interrupted {
    fn marker(&self) -> Option<Marker> {
        self.inner.marker()
    }

    fn get(&self, key: &[u8], at: Version) -> Result<Option<BaseRow>, BaseError> {
        self.interrupt();
        self.inner.get(key, at)
    }

    fn scan(&self, range: &KeyRange, reverse: bool, at: Version, each: &mut EachBaseRow<'_>) -> Result<(), BaseError> {
        self.interrupt();
        self.inner.scan(range, reverse, at, each)
    }

    fn write_run(
        &self,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
        marker: &Marker,
    ) -> Result<(), BaseError> {
        self.inner.write_run(rows, marker)
    }

    fn compact(&self, forget_below: Option<Version>) -> Result<bool, BaseError> {
        self.inner.compact(forget_below)
    }

    fn usage(&self) -> BaseUsage {
        self.inner.usage()
    }

    fn available(&self) -> Result<u64, BaseError> {
        self.inner.available()
    }

    fn begin_space(&self, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError> {
        self.inner.begin_space(name)
    }

    fn space_progress(&self) -> Option<Bytes> {
        self.inner.space_progress()
    }

    fn discard_space(&self) -> Result<(), BaseError> {
        self.inner.discard_space()
    }
}

/// An engine with `a` and `b` in the base, and `c` in memory; each interruption writes all three anew, moves them into the
/// base and forgets what it may.
fn interrupted(times: u32) -> (Arc<DurableEngine>, Arc<Mutex<Log>>) {
    let interruption = Arc::new(Mutex::new((0, None)));
    let base = Interrupted { inner: SimulatedBase::new(1), interruption: Arc::clone(&interruption) };
    let engine = Arc::new(DurableEngine::over(&Env::real(), Box::new(base), small()));
    let log = Arc::new(Mutex::new(Log::default()));
    let all = |value: u8| vec![["a", "b", "c"].map(|name| (key(name), Some(vec![value]))).to_vec()];
    log.lock().push(all(1), None).apply(&engine).unwrap();
    engine.persist().unwrap();
    log.lock().push(vec![vec![(key("c"), Some(vec![2]))]], None).apply(&engine).unwrap();
    let (weak, its_log) = (Arc::downgrade(&engine), Arc::clone(&log));
    let interrupt: Interruption = Box::new(move || {
        let engine = weak.upgrade().unwrap();
        let mut log = its_log.lock();
        let value = log.entries.len() as u8 + 1;
        log.push(all(value), None).apply(&engine).unwrap();
        engine.trim(engine.visible());
        engine.persist().unwrap();
        maintain_all(&engine);
    });
    *interruption.lock() = (times, Some(interrupt));
    (engine, log)
}

#[test]
fn a_read_without_a_pin_is_of_one_version_whatever_happens_in_it() {
    // Often enough that the engine takes a pin in the end.
    for times in [1, 2, 20] {
        let (engine, log) = interrupted(times);
        let keys = [key("a"), key("b"), key("c")];
        let keys: Vec<_> = keys.iter().map(|key| &key[..]).collect();
        let mut values = Vec::new();
        let version = engine
            .get_latest(&keys, &mut |_, version, row| {
                let row = row.unwrap();
                assert!(row.version <= version);
                values.push(row.value[0]);
            })
            .unwrap();
        assert_eq!(values, [version.0 as u8; 3], "interrupted {times} times");
        assert!(log.lock().entries.len() > 2);
    }
}

#[test]
fn a_pinned_read_and_a_scan_see_their_version_whatever_happens_in_them() {
    let expected = [("a", 1u8), ("b", 1), ("c", 2)].map(|(name, value)| (key(name), u64::from(value), vec![value]));
    let (engine, _) = interrupted(100);
    let pin = engine.pin();
    for reverse in [false, true] {
        let mut rows = scan(&engine, &pin, &everything(), reverse, usize::MAX);
        if reverse {
            rows.reverse();
        }
        assert_eq!(rows, expected);
    }
    for (key, version, value) in expected {
        assert_eq!(get_at(&engine, &pin, &key), Some((version, value)));
    }
}

/// A simulated base that does something else once, before it takes the first row of a run.
struct InterruptedWrite {
    inner: SimulatedBase,
    interruption: Arc<Mutex<Option<Interruption>>>,
}

impl Base for InterruptedWrite {
    fn marker(&self) -> Option<Marker> {
        self.inner.marker()
    }

    fn get(&self, key: &[u8], at: Version) -> Result<Option<BaseRow>, BaseError> {
        self.inner.get(key, at)
    }

    fn scan(&self, range: &KeyRange, reverse: bool, at: Version, each: &mut EachBaseRow<'_>) -> Result<(), BaseError> {
        self.inner.scan(range, reverse, at, each)
    }

    fn write_run(
        &self,
        rows: &mut dyn Iterator<Item = Result<RunRow, BaseError>>,
        marker: &Marker,
    ) -> Result<(), BaseError> {
        if let Some(mut interrupt) = self.interruption.lock().take() {
            interrupt();
        }
        self.inner.write_run(rows, marker)
    }

    fn compact(&self, forget_below: Option<Version>) -> Result<bool, BaseError> {
        self.inner.compact(forget_below)
    }

    fn usage(&self) -> BaseUsage {
        self.inner.usage()
    }

    fn available(&self) -> Result<u64, BaseError> {
        self.inner.available()
    }

    fn begin_space(&self, name: [u8; 16]) -> Result<Box<dyn BaseSpace>, BaseError> {
        self.inner.begin_space(name)
    }

    fn space_progress(&self) -> Option<Bytes> {
        self.inner.space_progress()
    }

    fn discard_space(&self) -> Result<(), BaseError> {
        self.inner.discard_space()
    }
}

#[test]
fn what_a_flush_stores_is_exact_although_everything_is_written_anew_and_trimmed_meanwhile() {
    let (inner, interruption) = (SimulatedBase::new(1), Arc::default());
    let base = InterruptedWrite { inner: inner.clone(), interruption: Arc::clone(&interruption) };
    let engine = Arc::new(DurableEngine::over(&Env::real(), Box::new(base), small()));
    let mut log = Log::default();
    let all = |value: u8| vec![["a", "b", "c"].map(|name| (key(name), Some(vec![value]))).to_vec()];
    log.push(all(1), None).apply(&engine).unwrap();
    let later = log.push(all(2), None).clone();
    let weak = Arc::downgrade(&engine);
    *interruption.lock() = Some(Box::new(move || {
        let engine = weak.upgrade().unwrap();
        later.apply(&engine).unwrap();
        while engine.trim(engine.visible()) {}
    }));
    engine.persist().unwrap();
    assert_eq!(engine.stored(), log.last());
    let of_first: Vec<_> = inner.contents().into_iter().filter(|row| row.1 == Version(1)).collect();
    assert_eq!(of_first.len(), 3, "{of_first:?}");
    assert!(of_first.iter().all(|(_, _, row)| row.as_ref().is_some_and(|row| row.value() == [1])));
    assert_eq!(get(&engine, &key("a")), Some((2, vec![2])));
}
