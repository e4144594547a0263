//! Calls of the real process fail: an error, no space, or death in the middle of one. Needs strace; runs where
//! `QUANTADB_FAULT_CASES` says how many cases.
//!
//! strace counts calls for each thread by itself, so one case may fail the nth call of several threads, each once. What it
//! failed stands in its trace, with the file.

use super::{
    cycles::Crash,
    disk::Place,
    from_environment,
    process::{Ended, Launch, Start},
    seed,
};
use quantadb::testing::{directory::TemporaryDirectory, generators::Random};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Calls and how often a thread makes them, about. What fails of `write` and `read` is for files of the base alone, by
/// their names: a thread is woken and a log line is written by `write` too.
const CALLS: [(&str, u64); 9] = [
    ("fdatasync", 60),
    ("pwrite64", 60),
    ("fsync", 16),
    ("write", 30),
    ("read", 30),
    ("openat", 30),
    ("rename,renameat", 6),
    ("unlink", 4),
    ("mkdir", 5),
];
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];
/// Files of the base are numbered; a short run makes fewer.
const BASE_FILES: u64 = 24;

/// What the directory is when the call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not there: the call is one of making it.
    New,
    /// With the first rows.
    Loaded,
    /// With what a life left, that was killed.
    Lived,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    call: &'static str,
    fault: &'static str,
    nth: u64,
    stage: Stage,
}

impl Case {
    fn random(random: &mut Random) -> Case {
        let (call, often) = CALLS[random.index(CALLS.len())];
        let stage = [Stage::New, Stage::Loaded, Stage::Lived, Stage::Lived][random.index(4)];
        // Small numbers, each of which is another step of a start, as often as all the others.
        let most = if random.once_in(2) { often.min(8) } else { often };
        // The first files that are opened are the loader's.
        let early = if call == "openat" { 8 } else { 0 };
        Case { call, fault: FAULTS[random.index(FAULTS.len())], nth: 1 + early + random.below(most), stage }
    }

    fn launch(&self, data: &Path, trace: &Path) -> Launch {
        let Case { call, fault, nth, .. } = self;
        // With a filter only the calls that are asked for stop, and the server is fast; but then no signal is injected.
        let filter = if *fault == "signal=KILL" { "" } else { "--seccomp-bpf " };
        let mut words = format!(
            "strace -D -f -qq -y {filter}-o {} -e trace={call},fsync,fdatasync -e inject={call}:{fault}:when={nth}",
            trace.display()
        );
        if matches!(*call, "write" | "read") {
            for number in 0..BASE_FILES {
                words += &format!(" -P {0}/base/tables/{number} -P {0}/base/v{number}", data.display());
            }
            words += &format!(" -P {}/base/current", data.display());
        }
        Launch { under: words.split_whitespace().map(str::to_owned).collect(), ..Launch::default() }
    }
}

/// A call that strace saw.
#[derive(Debug)]
struct Call {
    name: String,
    file: String,
    failed: bool,
}

/// The calls of a trace in the order of their ends.
fn calls(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, (String, String)> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (name, file) = match rest.strip_prefix("<... ") {
            Some(_) => begun.remove(thread).unwrap_or_default(),
            None => (rest.split('(').next().unwrap_or_default().to_owned(), file_of(rest)),
        };
        if rest.ends_with("<unfinished ...>") {
            begun.insert(thread, (name, file));
            continue;
        }
        calls.push(Call { name, file, failed: rest.ends_with("(INJECTED)") });
    }
    calls
}

/// The path of a call's file: behind its descriptor, or in quotes.
fn file_of(call: &str) -> String {
    let words = call.split_once('(').map_or("", |(_, words)| words);
    let described = words.starts_with(|first: char| first.is_ascii_digit());
    let file = match described {
        true => words.split_once('<').and_then(|(_, rest)| rest.split_once('>')),
        false => words.split_once('"').and_then(|(_, rest)| rest.split_once('"')),
    };
    file.map_or_else(String::new, |(file, _)| file.to_owned())
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    NotReached,
    WentOn,
    Stopped,
    DidNotStart,
    Killed,
}

fn run(case: &Case, seed: u64) -> Result<Seen, String> {
    let mut crash = Crash::new(Place::directory(), Launch::default(), seed);
    let traces = TemporaryDirectory::new("trace");
    let trace = traces.path().join("trace");
    if case.stage != Stage::New {
        crash.begin()?;
    }
    if case.stage == Stage::Lived {
        let server = crash.start()?;
        let server = crash.work(server, |_| pause(200))?;
        crash.place.cut(server);
        crash.gather()?;
    }
    let started = case.launch(&crash.place.data(), &trace).spawn(&crash.place.data(), &crash.place.log()).ready()?;
    let (ended, ready) = match started {
        Start::Refused(ended) => (ended, false),
        Start::Ready(server) if case.stage == Stage::New => (server.stop()?, true),
        Start::Ready(server) => {
            // Long enough for a slice to grow old and go to the base.
            let until = Instant::now() + Duration::from_millis(1_500);
            let server = crash.work(server, |server| {
                while server.runs() && Instant::now() < until {
                    pause(2);
                }
            })?;
            (server.stop()?, true)
        }
    };
    crash.gather()?;
    let trace = fs::read_to_string(&trace).unwrap_or_default();
    let seen = judge(case, &ended, ready, &calls(&trace))?;
    let begun = if case.stage == Stage::New { crash.begin() } else { Ok(()) };
    let restarted = begun.and_then(|()| crash.finish());
    restarted.map_err(|error| format!("{error}\nafter it had {seen:?}:\n{}", ended.tail()))?;
    Ok(seen)
}

/// Real time for the clients: it paces, and nothing depends on it.
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn judge(case: &Case, ended: &Ended, ready: bool, calls: &[Call]) -> Result<Seen, String> {
    let wrong = |what: &str| Err(format!("{what}: {:?}\n{}", ended.status, ended.tail()));
    if case.fault == "signal=KILL" && ended.signal() == Some(9) {
        return Ok(Seen::Killed);
    }
    let stored: Vec<&Call> =
        calls.iter().filter(|call| call.failed && call.file.contains("/quantadb-crash-")).collect();
    for (at, call) in calls.iter().enumerate().filter(|(_, call)| call.failed && syncs_data(call)) {
        if let Some(again) = calls[at + 1..].iter().find(|later| later.file == call.file && syncs_data(later)) {
            return wrong(&format!("a sync that failed was tried again, {call:?} and {again:?}"));
        }
    }
    match (ended.code(), ready) {
        (Some(0), true) if stored.is_empty() => Ok(Seen::NotReached),
        (Some(0), true) if case.fault == "signal=KILL" => Ok(Seen::NotReached),
        (Some(0), true) if case.fault == "error=EIO" && stored.iter().any(|call| must_stop(call)) => {
            wrong(&format!("it went on after {stored:?}"))
        }
        (Some(0), true) => Ok(Seen::WentOn),
        // The loader's own files, before there is a program that could say anything.
        (Some(127), false) if stored.is_empty() => Ok(Seen::NotReached),
        (Some(_), false) if stored.is_empty() && case.call == "openat" => Ok(Seen::NotReached),
        (Some(1 | 3), _) => {
            // The base's own library does not say which of its files it was; FORMAT is told by the name that it gets; and
            // folders above the data are synced too.
            let named = |call: &&Call| -> bool {
                let (folder, file) = call.file.rsplit_once('/').unwrap_or_default();
                let is_stored = call.file.contains("/quantadb-crash-");
                is_stored && ended.log.contains(file)
                    || is_stored && file == "FORMAT.new" && ended.log.contains("/data/FORMAT: ")
                    || is_stored
                        && folder.contains("/base")
                        && (ended.log.contains("/data/base") || ended.log.contains("the base"))
                    || ended.log.contains(&format!("reason: {}: ", call.file))
            };
            match calls.iter().filter(|call| call.failed).find(named) {
                Some(_) if ready => Ok(Seen::Stopped),
                Some(_) => Ok(Seen::DidNotStart),
                None => wrong(&format!("it does not say which of {stored:?} failed")),
            }
        }
        _ => wrong("an end of another kind"),
    }
}

/// A sync of what clients wrote. Folders are synced again where the making of a file in them begins again.
fn syncs_data(call: &Call) -> bool {
    let folder = ["/data", "/log", "/base", "/tables"].iter().any(|folder| call.file.ends_with(folder));
    call.name.ends_with("sync") && !folder
}

/// What must never be passed over: what was to be made durable may not be.
fn must_stop(call: &Call) -> bool {
    call.file.contains("/log/") && matches!(call.name.as_str(), "fdatasync" | "pwrite64")
}

#[test]
fn a_call_that_fails_loses_nothing() {
    let Some(count) = from_environment("QUANTADB_FAULT_CASES") else {
        return println!("not run: QUANTADB_FAULT_CASES is not set");
    };
    let seed = seed();
    let mut random = Random::new(seed);
    let mut tally: BTreeMap<(Seen, &str, &str), u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in 0..count {
        let case = Case::random(&mut random);
        match run(&case, seed + number) {
            Ok(seen) => *tally.entry((seen, case.call, case.fault)).or_default() += 1,
            Err(error) => {
                println!("{number}: {case:?}: {error}");
                wrong.push(case);
            }
        }
    }
    for ((seen, call, fault), count) in &tally {
        println!("  {seen:?} {call} {fault}: {count}");
    }
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    for fault in FAULTS {
        let of = tally.iter().filter(|((.., of), _)| *of == fault);
        let all: u64 = of.clone().map(|(_, count)| count).sum();
        let met: u64 = of.filter(|((seen, ..), _)| *seen != Seen::NotReached).map(|(_, count)| count).sum();
        assert!(met * 4 >= all, "only {met} of {all} faults {fault} were met");
    }
}

#[test]
fn a_trace_tells_what_failed_and_on_which_file() {
    let trace = "71 fdatasync(9</d/data/log/1.seg>) = 0\n\
                 72 pwrite64(8</d/data/log/2.seg>, \"<\\\"x\"..., 1, 0 <unfinished ...>\n\
                 71 rename(\"/d/data/a\", \"/d/data/b\") = -1 EIO (Input/output error) (INJECTED)\n\
                 72 <... pwrite64 resumed>) = -1 ENOSPC (No space left on device) (INJECTED)\n";
    let calls = calls(trace);
    let told: Vec<_> = calls.iter().map(|call| (call.name.as_str(), call.file.as_str(), call.failed)).collect();
    let expected = [
        ("fdatasync", "/d/data/log/1.seg", false),
        ("rename", "/d/data/a", true),
        ("pwrite64", "/d/data/log/2.seg", true),
    ];
    assert_eq!(told, expected);
}
