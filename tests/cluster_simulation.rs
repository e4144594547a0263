//! Clusters in a simulation: any seed keeps what must hold, and the same seed does the same again.
//!
//! `QUANTADB_SIM_SEED=7` runs one seed and prints what happens in it; `QUANTADB_SIM_SEEDS=100..200` runs many.

use quantadb::testing::cluster::{Report, Scenario};
use std::{
    env,
    time::{Duration, Instant},
};

/// Seeds of a short run, and where they begin.
const SEEDS: u64 = 3;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = env::var("QUANTADB_SIM_SEEDS") else { return 1..1 + SEEDS };
    let (first, last) = text.split_once("..").expect("seeds are FIRST..END");
    first.parse().expect("a number")..last.parse().expect("a number")
}

fn run(scenario: &Scenario) -> Report {
    let begun = Instant::now();
    let report = scenario.run();
    let took = begun.elapsed();
    eprintln!("seed {}: {report:?} in {took:?}", scenario.seed);
    report
}

#[test]
fn whatever_happens_to_a_cluster_it_keeps_its_promises() {
    if let Ok(seed) = env::var("QUANTADB_SIM_SEED") {
        let mut scenario = Scenario::new(seed.parse().expect("a number"));
        scenario.trace_lines_max = 400;
        if env::var("QUANTADB_SIM_LOG").is_ok() {
            scenario.log = slog::Logger::root(Lines, slog::o!());
        }
        run(&scenario);
        return;
    }
    let (mut simulated, mut attempts, mut count) = (Duration::ZERO, 0, 0);
    let begun = Instant::now();
    for seed in seeds() {
        let report = run(&Scenario::new(seed));
        simulated += report.simulated;
        attempts += report.attempts;
        count += 1;
    }
    eprintln!("{count} seeds, {attempts} attempts, {simulated:?} simulated in {:?}", begun.elapsed());
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in seeds().take(2) {
        let scenario = Scenario { faulty: Duration::from_secs(8), ..Scenario::new(seed) };
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
}

/// Log lines of replicas, on standard error.
struct Lines;

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;
    fn log(&self, record: &slog::Record<'_>, values: &slog::OwnedKVList) -> Result<(), slog::Never> {
        struct Text(String);
        impl slog::Serializer for Text {
            fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                self.0 += &format!(" {key}={value}");
                Ok(())
            }
        }
        let mut text = Text(String::new());
        // Nothing here fails.
        let _ = slog::KV::serialize(&record.kv(), record, &mut text);
        let _ = slog::KV::serialize(values, record, &mut text);
        eprintln!("{} {}{}", record.level().as_short_str(), record.msg(), text.0);
        Ok(())
    }
}
