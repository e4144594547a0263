//! One script over a simulated base, and each of its calls failing in each way: nothing is lost, and what is stored is exact.

use super::*;
use crate::testing::base::{BaseCall, BaseFailure};

const CALLS: [BaseCall; 5] =
    [BaseCall::Get, BaseCall::Scan, BaseCall::WriteRun, BaseCall::Compact, BaseCall::Available];
const ENTRIES: u64 = 24;

/// Writes, reads, trims and maintains; ends at the first error that is not for want of space. Returns how many entries
/// were applied.
fn script(engine: &DurableEngine, log: &Log, model: &Model) -> (u64, Result<(), Error>) {
    for (index, entry) in log.entries.iter().enumerate() {
        let applied = index as u64;
        if let Err(error) = entry.apply(engine) {
            return (applied, Err(error));
        }
        let visible = entry.applied.version;
        let steps = || -> Result<(), Error> {
            engine.get_latest(&[&key("1"), &key("2")], &mut |i, version, row| {
                let row = row.map(|row| (row.version.0, row.value.to_vec()));
                assert_eq!(row, model.get(&key(["1", "2"][i]), version.0));
            })?;
            if index % 5 == 4 {
                let pin = engine.pin();
                let mut rows = Vec::new();
                engine.scan(&pin, Scan { range: &everything(), reverse: index % 2 == 0 }, &mut |key, row| {
                    rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
                    ControlFlow::Continue(())
                })?;
                assert_eq!(rows, model.scan(&everything(), index % 2 == 0, visible.0));
                engine.trim(Version(visible.0 - 2));
            }
            if index % 3 == 2 {
                engine.maintain()?;
            }
            if index % 11 == 10 {
                match engine.persist() {
                    // The disk was full. That ends nothing.
                    Err(Error::Failed(_)) if engine.check_open().is_ok() => {}
                    result => result?,
                }
            }
            Ok(())
        };
        if let Err(error) = steps() {
            return (applied + 1, Err(error));
        }
    }
    (ENTRIES, Ok(()))
}

fn prepared() -> (Log, Model) {
    let (mut log, mut model) = (Log::default(), Model::default());
    for i in 0..ENTRIES {
        let name = format!("{}", i % 7);
        let writes =
            vec![(key(&name), (i % 5 != 3).then(|| vec![i as u8; 30])), (key(&format!("x{i}")), Some(vec![1; 9]))];
        let entry = if i % 9 == 8 {
            log.push(Vec::new(), Some(Bytes::from(vec![i as u8])))
        } else {
            log.push(vec![writes], None)
        };
        model.apply(entry);
    }
    (log, model)
}

fn engine_over(base: &SimulatedBase) -> DurableEngine {
    let options = DurableOptions { slice_bytes: 128, ..small() };
    DurableEngine::over(&Env::real(), Box::new(base.clone()), options)
}

#[test]
fn whatever_call_fails_nothing_is_lost() {
    let (log, model) = prepared();
    let base = SimulatedBase::new(3);
    let engine = engine_over(&base);
    assert_eq!(script(&engine, &log, &model), (ENTRIES, Ok(())));
    drop(engine);
    let calls = CALLS.map(|call| base.calls(call));
    assert!(calls.iter().all(|&calls| calls > 3), "each is called: {calls:?}");
    let mut ended = 0;
    for (call, calls) in CALLS.into_iter().zip(calls) {
        for nth in 1..=calls {
            for failure in [BaseFailure::NoSpace, BaseFailure::Refused, BaseFailure::Doubtful] {
                let base = SimulatedBase::new(3);
                let engine = engine_over(&base);
                base.fail(call, nth, failure);
                let (_, result) = script(&engine, &log, &model);
                let is_write = matches!(call, BaseCall::WriteRun | BaseCall::Compact);
                if failure == BaseFailure::NoSpace && is_write {
                    assert_eq!(result, Ok(()), "{call:?} {nth}");
                } else {
                    assert!(matches!(result, Err(Error::Failed(_))), "{call:?} {nth} {failure:?}");
                    assert_eq!(engine.pin_at(Version(0)).err(), result.err(), "it stays ended");
                    ended += 1;
                }
                let stored = engine.stored();
                drop(engine);
                let engine = engine_over(&base.crash());
                // A doubtful write is there after all; the engine did not say so.
                assert!(engine.stored().version >= stored.version, "{call:?} {nth} {failure:?}");
                let at = engine.stored().version.0;
                let rows = scan(&engine, &engine.pin(), &everything(), false, usize::MAX);
                assert_eq!(rows, model.scan(&everything(), false, at), "{call:?} {nth} {failure:?}");
                log.after(engine.stored()).iter().for_each(|entry| entry.apply(&engine).unwrap());
                engine.persist().unwrap();
                assert_eq!(engine.stored(), log.last());
                let rows = scan(&engine, &engine.pin(), &everything(), true, usize::MAX);
                assert_eq!(rows, model.scan(&everything(), true, log.last().version.0), "{call:?} {nth} {failure:?}");
            }
        }
    }
    assert!(ended > 50, "{ended}");
}
