//! Any bytes as the files of a log: they open or are refused, as `check` has said, and what opens opens again as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use quantadb::{
    log::{Log, LogOptions, Owner, Recovered, check},
    testing::files::{SimulatedFiles, environment},
    types::{ClusterId, NodeId},
};
use quantadb_fuzz::{
    Counting, bounded,
    segments::{DIRECTORY, files},
};
use std::{path::Path, sync::Arc};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Opens the log and reads all of it. `None` if it is refused.
fn opened(files: &Arc<SimulatedFiles>, owner: Owner) -> Option<(Recovered, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    let _inside = runtime.enter();
    let options = LogOptions { segment_bytes: 16 << 10, cache_bytes_max: 0, owner };
    let (log, recovered) = Log::open(&environment(files.clone()), Path::new(DIRECTORY), options).ok()?;
    let first = recovered.purged.map_or(0, |purged| purged.index + 1);
    let end = recovered.last.map_or(0, |last| last.index + 1);
    let entries = log.read(first, end, usize::MAX).expect("what was found whole is read");
    assert_eq!(entries.len() as u64, end - first);
    Some((recovered, entries.len()))
}

fuzz_target!(|data: &[u8]| {
    let Some((files, bytes)) = files(data) else { return };
    // A record of two bytes is kept in some sixty; the files lie in memory already.
    let report = bounded(16 * bytes + (64 << 10), || check(&*files, Path::new(DIRECTORY)));
    let owner = report.owner.unwrap_or(Owner { cluster: ClusterId([7; 16]), node: NodeId(1) });
    let before = bytes > 0;
    match opened(&files, owner) {
        Some((recovered, count)) => {
            assert!(report.is_sound() || !before, "{report:?} opened");
            if before {
                assert_eq!((report.vote, report.purged, report.last), (recovered.vote, recovered.purged, recovered.last));
                assert_eq!(report.torn, recovered.cut);
                assert_eq!(report.entries, count as u64);
            }
            files.crash(1);
            let again = opened(&files, owner).expect("what opened opens again");
            assert_eq!(again, (Recovered { cut: None, ..recovered }, count));
        }
        None => assert!(!report.is_sound(), "{report:?} refused"),
    }
});
