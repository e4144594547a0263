//! Power is cut under load. Needs root, mkfs.ext4, mount and python3; the second also strace. They run where
//! `QUANTADB_POWER_CYCLES` says how often.

use super::{cycles::Crash, disk::Place, from_environment, process::Launch, seed};

const DISK_MEGABYTES: u64 = 2_048;

/// A server whose syncs say that they did and do nothing, from the nth of each thread on.
fn lying(from: u64) -> Launch {
    let words = format!(
        "strace -D -f -qq --seccomp-bpf -o /dev/null -e trace=fsync,fdatasync,sync_file_range,syncfs,msync -e \
         inject=fsync,fdatasync,sync_file_range,syncfs,msync:retval=0:when={from}+"
    );
    Launch { under: words.split_whitespace().map(str::to_owned).collect(), ..Launch::default() }
}

/// How often, if at all.
pub fn cycles() -> Option<u64> {
    let cycles = from_environment("QUANTADB_POWER_CYCLES");
    if cycles.is_none() {
        println!("not run: QUANTADB_POWER_CYCLES is not set");
    }
    cycles
}

#[test]
fn nothing_acknowledged_is_lost_when_power_is_cut() {
    let Some(cycles) = cycles() else { return };
    let mut crash = Crash::new(Place::disk(DISK_MEGABYTES), Launch::default(), seed());
    let run = crash.run(cycles);
    crash.print("power cut");
    run.unwrap_or_else(|violation| panic!("{violation}"));
}

/// The test above, of a server that believes to have synced: it must be found out soon, or that test proves nothing.
#[test]
fn a_sync_that_lies_is_found_out_when_power_is_cut() {
    if cycles().is_none() {
        return;
    }
    for from in [1, 40] {
        let mut crash = Crash::new(Place::disk(DISK_MEGABYTES), lying(from), seed());
        let violation = crash.run(8).expect_err("eight cuts without a sync before them lost nothing");
        println!("found out, lying from sync {from} on: {violation}");
    }
}
