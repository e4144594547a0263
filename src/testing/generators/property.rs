//! Properties, with a seed that is told when one fails.

use quickcheck::{Gen, QuickCheck, Testable};
use std::{
    fmt::Debug,
    hash::{BuildHasher, Hasher, RandomState},
};

/// Runs a property on `cases` random inputs; one that fails is made smaller first.
///
/// `QUANTADB_SEED` in the environment runs the inputs of that seed again, `QUICKCHECK_TESTS` another number of them.
///
/// # Panics
/// If the property fails, with the input and the seed.
#[track_caller]
pub fn property<P: Testable>(cases: u64, property: P) {
    let told = std::env::var("QUANTADB_SEED").ok();
    let seed = match told {
        Some(seed) => seed.parse().expect("QUANTADB_SEED is a number"),
        None => RandomState::new().build_hasher().finish(),
    };
    let asked = std::env::var("QUICKCHECK_TESTS").ok().and_then(|cases| cases.parse().ok());
    run(seed, asked.unwrap_or(cases), property);
}

#[track_caller]
fn run<P: Testable>(seed: u64, cases: u64, property: P) {
    const SIZE: usize = 100;
    let mut checks = QuickCheck::new().rng(Gen::from_size_and_seed(SIZE, seed)).tests(cases).max_tests(cases * 100);
    if let Err(failed) = checks.quicktest(property) {
        panic!("QUANTADB_SEED={seed} fails: {:?}", &failed as &dyn Debug);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the panic of a property that fails for this seed.
    fn failure(seed: u64) -> String {
        let failed = std::panic::catch_unwind(|| run(seed, 100, (|number: u32| number < 1_000) as fn(u32) -> bool));
        *failed.expect_err("some number is greater").downcast::<String>().expect("it says why")
    }

    #[test]
    fn a_failure_tells_its_seed_and_a_seed_fails_again() {
        let text = failure(7);
        assert!(text.starts_with("QUANTADB_SEED=7 fails: ") && text.contains("1000"), "{text}");
        assert_eq!(failure(7), text);
    }

    #[test]
    fn a_property_that_holds_is_run_as_often_as_asked() {
        property(50, (|number: u32| u64::from(number) < 1 << 32) as fn(u32) -> bool);
    }
}
