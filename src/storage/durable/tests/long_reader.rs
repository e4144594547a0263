//! A reader that stays while everything is written over again costs disk, and no memory.

use super::*;

const KEYS: u64 = 50;

fn name(i: u64) -> Vec<u8> {
    key(&format!("{i:03}"))
}

fn write_over(log: &mut Log, engine: &DurableEngine, round: u64) {
    for i in 0..KEYS {
        let value = (!(round + i).is_multiple_of(9)).then(|| vec![round as u8; 500]);
        log.push(vec![vec![(name(i), value)]], None).apply(engine).unwrap();
        log.entries.drain(..log.entries.len() - 1);
        engine.trim(engine.visible());
        while engine.usage().pressure != Pressure::None {
            engine.maintain().unwrap();
            std::thread::yield_now();
        }
    }
    engine.maintain().unwrap();
}

/// Entries are numbered by their place in a log that is kept whole; here only the last is.
fn number(log: &mut Log, index: u64) {
    if let Some(last) = log.entries.last_mut() {
        last.applied.log_id = Some(log_id(index));
    }
}

fn run(base: Box<dyn Base>, rounds: u64) -> u64 {
    let options = DurableOptions { memory_bytes_max: 128 * 1024, slice_bytes: 16 * 1024, ..small() };
    let engine = DurableEngine::over(&Env::real(), base, options);
    let mut log = Log::default();
    write_over(&mut log, &engine, 1);
    let pin = engine.pin();
    let rows = scan(&engine, &pin, &everything(), false, usize::MAX);
    assert!(rows.len() as u64 > KEYS / 2);
    let mut bytes_max = 0;
    let mut in_between = Vec::new();
    for round in 2..rounds {
        write_over(&mut log, &engine, round);
        number(&mut log, round * KEYS);
        bytes_max = bytes_max.max(engine.usage().bytes);
        if round % 7 == 0 {
            let pin = engine.pin();
            let rows = scan(&engine, &pin, &everything(), true, usize::MAX);
            in_between.push((pin, rows));
        }
        assert_eq!(scan(&engine, &pin, &everything(), false, usize::MAX), rows, "round {round}");
    }
    for (pin, rows) in &in_between {
        assert_eq!(scan(&engine, pin, &everything(), true, usize::MAX), *rows, "at {}", pin.version());
        for (key, version, value) in rows {
            assert_eq!(get_at(&engine, pin, key), Some((*version, value.clone())));
        }
    }
    assert_eq!(engine.usage().oldest_pin, pin.version());
    assert!(engine.stored().version > pin.version());
    let held = engine.state.get().base.usage().rows;
    drop((pin, in_between));
    engine.persist().unwrap();
    maintain_all(&engine);
    assert!(engine.state.get().base.usage().rows < held, "with the readers what they needed goes");
    bytes_max
}

#[test]
fn memory_is_bounded_while_a_reader_stays() {
    let bytes = run(Box::new(SimulatedBase::new(5)), 40);
    assert!(bytes < 128 * 1024, "{bytes}: {} were written", 40 * KEYS * 500);
}

#[test]
fn memory_is_bounded_while_a_reader_stays_over_a_base_on_disk() {
    let directory = TemporaryDirectory::new("long-reader");
    let options = LsmOptions { block_cache_bytes: 64 * 1024, table_bytes: 16 * 1024 };
    let bytes = run(Box::new(LsmBase::open(&Env::real(), directory.path(), options).unwrap()), 25);
    assert!(bytes < 128 * 1024, "{bytes}");
}
