//! A flipped bit in any file of a base is met with an error, or changes nothing.

use super::{installs::Transfer, *};
use crate::{
    storage::{check_base, tests::reopened},
    testing::generators::Random,
};
use std::{fs, path::PathBuf};

const FLIPS: usize = 300;

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn read_all(directory: &Path) -> Result<Rows, String> {
    let engine = DurableEngine::open(&Env::real(), directory, small()).map_err(|error| error.to_string())?;
    let pin = engine.pin();
    let mut rows = Vec::new();
    let mut each = |key: &[u8], row: Row<'_>| {
        rows.push((key.to_vec(), row.version.0, row.value.to_vec()));
        ControlFlow::Continue(())
    };
    engine.scan(&pin, Scan { range: &everything(), reverse: false }, &mut each).map_err(|error| error.to_string())?;
    for (key, version, value) in &rows {
        let mut found = None;
        engine
            .get_at(&pin, &[key], &mut |_, row| found = row.map(|row| (row.version.0, row.value.to_vec())))
            .map_err(|error| error.to_string())?;
        assert_eq!(found, Some((*version, value.clone())), "{key:?}");
    }
    Ok(rows)
}

#[test]
fn a_flipped_bit_is_found_or_without_effect() {
    let directory = TemporaryDirectory::new("flips");
    let mut log = Log::default();
    let engine = DurableEngine::open(&Env::real(), directory.path(), small()).unwrap();
    for i in 0..600 {
        let value = (i % 11 != 5).then(|| vec![i as u8; 60]);
        log.push(vec![vec![(key(&format!("{:03}", i * 7 % 400)), value)]], None).apply(&engine).unwrap();
        if i % 100 == 99 {
            engine.persist().unwrap();
        }
        if i == 450 {
            maintain_all(&engine);
        }
    }
    drop(engine);
    flip_bits(&directory);
}

#[test]
fn a_flipped_bit_of_an_installed_base_is_found_or_without_effect() {
    let directory = TemporaryDirectory::new("flips");
    let (mut log, mut model) = (Log::default(), Model::default());
    let engine = Arc::new(DurableEngine::open(&Env::real(), directory.path(), small()).unwrap());
    for i in 0..600 {
        let value = (i % 11 != 5).then(|| vec![i as u8; 60]);
        model.apply(log.push(vec![vec![(key(&format!("{:03}", i * 7 % 400)), value)]], None));
    }
    let transfer = Transfer::of(&log, &model, [1; 16], &mut Random::new(1), 9);
    transfer.send(transfer.begin(&engine).unwrap()).unwrap();
    drop(engine);
    drop(reopened(|| LsmBase::open(&Env::real(), directory.path(), LsmOptions::default())));
    assert!(files(directory.path()).contains(&directory.path().join("tree-1/current")));
    flip_bits(&directory);
}

fn flip_bits(directory: &TemporaryDirectory) {
    let expected = read_all(directory.path()).unwrap();
    assert!(expected.len() > 300 && check_base(&Env::real(), directory.path()).unwrap().is_empty());
    let seed = std::env::var("QUANTADB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (mut refused, mut found) = (0, 0);
    let kept: Vec<_> =
        files(directory.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let whole: Vec<_> = kept.iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    assert!(whole.len() >= 4, "the pointer, the manifest, two tables: {:?}", files(directory.path()));
    for flip in 0..FLIPS {
        // Every file in turn, the small ones as often as the large.
        let (path, bytes) = whole[flip % whole.len()];
        let mut flipped = bytes.clone();
        let bit = random.index(bytes.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, &flipped).unwrap();
        match read_all(directory.path()) {
            Ok(rows) => assert!(rows == expected, "bit {bit} of {} changes what is read", path.display()),
            Err(_) => refused += 1,
        }
        let findings = check_base(&Env::real(), directory.path()).unwrap();
        assert!(!findings.is_empty(), "bit {bit} of {} is not found by a check", path.display());
        found += usize::from(findings.iter().any(|finding| finding.path == *path));
        // An open may have removed what it took for leftovers.
        for (path, bytes) in &kept {
            fs::write(path, bytes).unwrap();
        }
    }
    println!("{refused} of {FLIPS} flips were refused by open or read; a check named the file of {found}");
    assert!(refused > FLIPS / 2, "{refused}");
    assert!(found > FLIPS / 10 * 9, "{found}");
    assert_eq!(read_all(directory.path()), Ok(expected));
}
