//! Single bits of the real files are flipped. Whatever a flip meets: it is refused with the file's name, or the data read
//! back is exactly what it was. `QUANTADB_FLIPS` says how many flips.

use super::{
    cycles::Crash,
    disk::{Place, files},
    from_environment,
    process::{Launch, QUANTACTL, QUANTADB, Start, must, run, text},
    seed,
    work::connect,
};
use quantadb::{
    client::{KeyRange, Row},
    testing::{directory::TemporaryDirectory, generators::Random},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Once in so many flips that were found the server is started nevertheless: it must find them too, or be right.
const STARTED_ONCE_IN: u64 = 4;

/// How long a server may be silent that met damage while it reads: it stops, and its client waits for it to come back.
const READING: Duration = Duration::from_secs(3);

/// What became of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Checked,
    CheckedAndRefused,
    CheckedAndRight,
    Refused,
    RefusedWhileReading,
    Right,
}

/// What kind of file it is: its folder and what its name ends with.
fn kind(data: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(data).expect("it lies there");
    let folder = inside.parent().map(text).unwrap_or_default().to_owned();
    let name = inside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let letters: String = name.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    // Names that are numbers are of one kind.
    let letters = letters.trim_start_matches('0');
    format!("{folder}/{letters}")
}

/// Where a flip may matter: up to the last byte that is not zero.
fn written(file: &Path) -> u64 {
    let bytes = fs::read(file).expect("it can be read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn flip(file: &Path, at: u64, bit: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file).expect("it can be written");
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).expect("it is that long");
    byte[0] ^= 1 << bit;
    open.write_all_at(&byte, at).expect("it can be written");
}

/// Everything that a server reads from a directory. `Ok(Err)` where it refuses.
fn read_all(crash: &Crash, data: &Path, log: &Path) -> Result<Result<Vec<Row>, (Seen, String)>, String> {
    let server = match Launch::default().spawn(data, log).ready()? {
        Start::Ready(server) => server,
        Start::Refused(ended) if matches!(ended.code(), Some(1 | 3)) => {
            return Ok(Err((Seen::Refused, ended.log)));
        }
        Start::Refused(ended) => return Err(format!("it ended with {:?}\n{}", ended.status, ended.tail())),
    };
    let rows = crash.block_on(async {
        let client = connect(server.address, READING).await?;
        client.scan(KeyRange::all()).collect_rows().await
    });
    match rows {
        Ok(rows) => {
            server.stop()?;
            Ok(Ok(rows))
        }
        Err(error) => {
            let ended = server.stop()?;
            if ended.code() != Some(1) {
                return Err(format!("{error}, and then it ended with {:?}\n{}", ended.status, ended.tail()));
            }
            Ok(Err((Seen::RefusedWhileReading, format!("{error}\n{}", ended.log))))
        }
    }
}

/// Flips one bit and sees what becomes of it.
fn meet(
    crash: &Crash,
    random: &mut Random,
    pristine: &Path,
    scratch: &Path,
    expected: &[Row],
) -> (String, Result<Seen, String>) {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files(pristine) {
        if fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            kinds.entry(kind(pristine, &file)).or_default().push(file);
        }
    }
    let (kind, of_kind) = kinds.iter().nth(random.index(kinds.len())).expect("there are files");
    let file = &of_kind[random.index(of_kind.len())];
    let length = fs::metadata(file).expect("it is there").len();
    let bound = if random.once_in(8) { length } else { written(file).max(1) };
    let (at, bit) = (random.below(bound), random.below(8));

    let data = scratch.join("data");
    let _ = fs::remove_dir_all(&data);
    must("cp", &["-r", "--reflink=auto", "--sparse=auto", text(pristine), text(&data)]);
    let inside = file.strip_prefix(pristine).expect("it lies there");
    flip(&data.join(inside), at, bit);
    let name = inside.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let place = format!("bit {bit} of byte {at} of {}", text(inside));

    let (code, told) = run(QUANTADB, &["check", "--data-dir", text(&data)]);
    let checked = match code {
        Some(0) => false,
        Some(1) if told.contains(name) => true,
        // A flip in the number of the format makes it one that this build does not know.
        Some(3) if name == "FORMAT" && told.contains("FORMAT: written in format") => true,
        code => return (kind.clone(), Err(format!("{place}: `quantadb check` ended with {code:?} and said {told}"))),
    };
    if checked && !random.once_in(STARTED_ONCE_IN) {
        return (kind.clone(), Ok(Seen::Checked));
    }
    let seen = match read_all(crash, &data, &scratch.join("log")) {
        Err(error) => Err(format!("{place}: {error}")),
        Ok(Err((_, told))) if !told.contains(name) => Err(format!("{place}: it does not say where: {told}")),
        Ok(Err((seen, _))) => Ok(if checked { Seen::CheckedAndRefused } else { seen }),
        Ok(Ok(rows)) if rows == expected => Ok(if checked { Seen::CheckedAndRight } else { Seen::Right }),
        Ok(Ok(rows)) => {
            let first = rows.iter().zip(expected).find(|(row, expected)| row != expected);
            let (found, wanted) = (rows.len(), expected.len());
            Err(format!("{place}: wrong data in silence: {found} rows, {wanted} were there; first other: {first:?}"))
        }
    };
    (kind.clone(), seen)
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let flips = from_environment("QUANTADB_FLIPS").unwrap_or(6);
    let seed = seed();
    let mut random = Random::new(seed);
    let mut crash = Crash::new(Place::directory(), Launch::default(), seed);
    crash.begin().unwrap();
    // Lives long enough for slices to grow old and go to the base.
    for _ in 0..2 {
        let server = crash.start().unwrap();
        let server = crash.work(server, |_| std::thread::sleep(Duration::from_millis(1_500))).unwrap();
        server.stop().unwrap();
        crash.gather().unwrap();
    }
    // One life that ends in the middle, so that the log has what the base has not.
    let server = crash.start().unwrap();
    let server = crash.work(server, |_| std::thread::sleep(Duration::from_millis(250))).unwrap();
    crash.place.cut(server);
    crash.gather().unwrap();

    let copies = TemporaryDirectory::new("bits");
    let (pristine, scratch) = (copies.path().join("pristine"), copies.path().join("scratch"));
    fs::create_dir(&scratch).unwrap();
    must("cp", &["-r", text(&crash.place.data()), text(&pristine)]);
    must("cp", &["-r", text(&pristine), text(&scratch.join("data"))]);
    let expected = read_all(&crash, &scratch.join("data"), &scratch.join("log")).unwrap().expect("nothing is flipped");
    assert!(expected.len() > 100, "{} rows", expected.len());
    let kinds: BTreeSet<_> = files(&pristine).iter().map(|file| kind(&pristine, file)).collect();
    println!("{} rows in {kinds:?}", expected.len());

    let mut tally: BTreeMap<(String, Seen), u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for _ in 0..flips {
        let (kind, met) = meet(&crash, &mut random, &pristine, &scratch, &expected);
        match met {
            Ok(seen) => *tally.entry((kind, seen)).or_default() += 1,
            Err(error) => wrong.push(error),
        }
    }
    for ((kind, seen), count) in &tally {
        println!("  {kind} {seen:?}: {count}");
    }
    assert!(wrong.is_empty(), "seed {seed}: {} of {flips} flips:\n{}", wrong.len(), wrong.join("\n"));
    let met: u64 = tally.iter().filter(|((_, seen), _)| *seen != Seen::Right).map(|(_, count)| count).sum();
    assert!(met > 0, "no flip was met by anything");
}

/// Nothing in a backup is without meaning, so every flip of it is refused.
#[test]
fn a_flipped_bit_of_a_backup_is_refused() {
    let flips = from_environment("QUANTADB_FLIPS").unwrap_or(6);
    let seed = seed();
    let mut random = Random::new(seed ^ 1);
    let mut crash = Crash::new(Place::directory(), Launch::default(), seed);
    crash.begin().unwrap();
    let server = crash.start().unwrap();
    let server = crash.work(server, |_| std::thread::sleep(Duration::from_millis(600))).unwrap();
    let copies = TemporaryDirectory::new("backup");
    let (backup, flipped) = (copies.path().join("backup"), copies.path().join("flipped"));
    must(QUANTACTL, &["--addr", &server.address.to_string(), "backup", text(&backup)]);
    crash.place.cut(server);
    crash.gather().unwrap();

    let restored = copies.path().join("restored");
    must(QUANTADB, &["restore", text(&backup), "--data-dir", text(&restored)]);
    let rows = read_all(&crash, &restored, &copies.path().join("log")).unwrap().expect("nothing is flipped");
    assert!(rows.len() > 40, "{} rows", rows.len());
    let bytes = fs::metadata(&backup).unwrap().len();
    let mut wrong = Vec::new();
    for _ in 0..flips {
        let (at, bit) = (random.below(bytes), random.below(8));
        fs::copy(&backup, &flipped).unwrap();
        flip(&flipped, at, bit);
        for (program, words) in [
            (QUANTACTL, vec!["backup", "--verify", text(&flipped)]),
            (QUANTADB, vec!["restore", text(&flipped), "--data-dir", text(&copies.path().join("none"))]),
        ] {
            let (code, told) = run(program, &words);
            if code == Some(0) || code.is_none() || !told.contains("flipped") {
                wrong.push(format!("bit {bit} of byte {at} of {bytes}: {words:?} ended with {code:?}: {told}"));
            }
        }
        let _ = fs::remove_dir_all(copies.path().join("none"));
    }
    assert!(wrong.is_empty(), "seed {seed}: {} of {flips} flips:\n{}", wrong.len(), wrong.join("\n"));
}
