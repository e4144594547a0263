//! What opens, what is refused, and what a crash between a switch and a purge leaves.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    env::Task,
    log::LogEntry,
    node::Identity,
    storage::{Applied, Capture, CaptureTotals, LsmBase, LsmOptions, MemoryEngine, MemoryOptions, Write},
    testing::directory::TemporaryDirectory,
    types::{ClusterId, KeyspaceId, NodeId, Term, Version},
};
use bytes::Bytes;
use slog::{Discard, o};

fn vote(term: u64) -> Option<Vote> {
    Some(Vote { term: Term(term), node: NodeId(2), committed: false })
}

fn at(term: u64, index: u64) -> Option<LogId> {
    Some(LogId { term: Term(term), leader: NodeId(1), index })
}

#[test]
fn a_log_reaches_from_below_the_marker_to_above_it() {
    let fits = |marker, purged, last, at_marker| {
        let base = BaseEnd { marker, is_installed: false };
        let fit = belong_together(base, LogEnds { purged, last, vote: vote(9), at_marker });
        assert!(!matches!(fit, Ok(Fit::Superseded)));
        fit.is_ok()
    };
    assert!(fits(None, None, None, None), "both are new");
    assert!(fits(None, None, at(1, 9), None), "nothing was stored yet");
    assert!(fits(at(1, 5), at(1, 3), at(2, 9), at(1, 5)));
    assert!(fits(at(1, 5), at(1, 5), at(1, 5), None), "everything is stored");
    assert!(!fits(None, at(1, 3), at(1, 9), None), "the base was lost");
    assert!(!fits(at(1, 5), at(1, 6), at(1, 9), None), "entries are missing");
    assert!(!fits(at(1, 5), None, None, None), "the log was lost");
    assert!(!fits(at(1, 5), None, at(1, 4), None), "the log's end was lost");
    assert!(!fits(at(1, 5), at(1, 3), at(2, 9), at(2, 5)), "another history");
    assert!(!fits(at(1, 5), at(2, 5), at(2, 9), None), "another history, purged");
    assert!(!fits(at(1, 5), None, at(2, 5), None), "another history's end");
}

#[test]
fn a_log_that_voted_may_lie_below_an_installed_snapshot_or_beside_it() {
    let fit = |purged, last, vote, at_marker| {
        let base = BaseEnd { marker: at(3, 5), is_installed: true };
        belong_together(base, LogEnds { purged, last, vote, at_marker }).ok()
    };
    let superseded = Some(Fit::Superseded);
    assert_eq!(fit(None, None, vote(3), None), superseded, "a new member, whose first entries come in a snapshot");
    assert_eq!(fit(None, at(1, 2), vote(3), None), superseded, "entries below");
    assert_eq!(fit(at(1, 2), at(1, 2), vote(4), None), superseded, "purged, and nothing above");
    assert_eq!(fit(at(1, 2), at(2, 9), vote(3), at(2, 5)), superseded, "it went on without those who committed");
    assert_eq!(fit(at(1, 2), at(2, 5), vote(3), at(2, 5)), superseded, "and ends there");
    assert_eq!(fit(at(1, 2), at(3, 9), vote(3), at(3, 5)), Some(Fit::GoesOn), "it has the entry itself");
    assert_eq!(fit(at(3, 5), at(3, 5), vote(3), None), Some(Fit::GoesOn), "it was purged up to there");
    assert_eq!(fit(at(3, 5), at(3, 8), vote(3), None), Some(Fit::GoesOn), "and goes on");
    assert_eq!(fit(None, None, None, None), None, "the log was lost");
    assert_eq!(fit(None, at(1, 2), vote(2), None), None, "its last vote was lost");
    assert_eq!(fit(at(3, 6), at(3, 8), vote(3), None), None, "entries are missing");
    assert_eq!(fit(at(2, 5), at(2, 8), vote(3), None), None, "another history, purged");
}

/// A data directory whose log voted in a term and holds entries of these, each of one commit, and whose base has stored
/// those up to an index.
struct Rig {
    env: Env,
    temporary: TemporaryDirectory,
}

const IDENTITY: Identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(1) };

fn key(index: u64) -> Bytes {
    KeyspaceId::DEFAULT.full_key(&index.to_be_bytes())
}

fn apply(engine: &dyn Engine, log_id: LogId) {
    let version = Version(log_id.index + 1);
    let applied = Applied { log_id: Some(log_id), version, ..Applied::default() };
    let write = Write { version, key: &key(log_id.index), value: Some(b"v") };
    engine.apply(&[write], applied).unwrap();
}

async fn done(hand_over: impl FnOnce(log::Done)) {
    let (sender, told) = tokio::sync::oneshot::channel();
    hand_over(Box::new(|result| drop(sender.send(result))));
    told.await.unwrap().unwrap();
}

impl Rig {
    async fn new(voted: u64, entries: &[LogId], stored: u64) -> Rig {
        let rig = Rig { env: Env::real(), temporary: TemporaryDirectory::new("recovery") };
        let recovered = rig.recover().unwrap();
        entries
            .iter()
            .take_while(|log_id| log_id.index <= stored)
            .for_each(|log_id| apply(&*recovered.engine, *log_id));
        recovered.engine.persist().unwrap();
        let entries = entries.iter().map(|&id| LogEntry { id, kind: 0, payload: Bytes::new() }).collect();
        let (log, writing) = rig.run(recovered);
        done(|told| log.save_vote(Vote { term: Term(voted), node: NodeId(2), committed: true }, told)).await;
        done(|told| log.append(entries, told)).await;
        log.close().await.unwrap();
        writing.await.unwrap();
        rig
    }

    fn recover(&self) -> Result<Recovered, RecoveryError> {
        let directory = Directory::open(&self.env, self.temporary.path(), IDENTITY).unwrap();
        recover(&self.env, &Logger::root(Discard, o!()), &directory, StorageOptions::default())
    }

    fn run(&self, recovered: Recovered) -> (Log, Task) {
        let Storage::Disk(log, writing) = recovered.storage else { unreachable!("it is on disk") };
        (log, self.env.spawn("log", writing.run()))
    }

    /// Installs a snapshot of entries of one term up to an index, and crashes before anybody tells the log.
    fn install(&self, last: LogId) {
        let directory = Directory::existing(&self.env, self.temporary.path()).unwrap();
        let engine = DurableEngine::open(&self.env, &directory.base(), DurableOptions::default()).unwrap();
        let sender: Arc<dyn Engine> = Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 20, hash_seed: 1 }));
        (0..=last.index).for_each(|index| apply(&*sender, LogId { index, ..last }));
        let capture = Capture::now(&sender);
        let rows = capture.part(b"").unwrap().rows;
        let mut install =
            Arc::new(engine).begin_install([1; 16], capture.applied(), capture.membership().clone()).unwrap();
        install.part(0, &rows).unwrap();
        let mut totals = CaptureTotals::default();
        totals.add(&rows);
        install.finish(totals).unwrap();
        // What was replaced is let go by the collector, and with it the lock.
        while LsmBase::open(&self.env, &directory.base(), LsmOptions::default()).is_err() {
            crossbeam_epoch::pin().flush();
        }
    }

    /// The log goes on after a snapshot, and so does whoever opens it next.
    async fn check_goes_on_after(&self, last: LogId) {
        for next in [1, 2] {
            let recovered = self.recover().unwrap();
            assert_eq!(recovered.engine.applied().log_id, Some(last));
            assert_eq!(recovered.engine.visible(), Version(last.index + 1));
            let (log, writing) = self.run(recovered);
            assert_eq!(log.vote().map(|vote| vote.term), Some(last.term), "the vote stays");
            assert_eq!(log.last().map(|last| last.index), Some(last.index + next - 1));
            let id = LogId { index: last.index + next, ..last };
            done(|told| log.append(vec![LogEntry { id, kind: 0, payload: Bytes::new() }], told)).await;
            assert_eq!(log.read(last.index + 1, u64::MAX, usize::MAX).unwrap().len() as u64, next);
            log.close().await.unwrap();
            writing.await.unwrap();
        }
        let directory = Directory::existing(&self.env, self.temporary.path()).unwrap();
        let checked = crate::node::check(&self.env, &directory).unwrap();
        assert!(checked.is_sound(), "{checked:?}");
    }
}

fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<LogId> {
    range.map(|index| LogId { term: Term(term), leader: NodeId(1), index }).collect()
}

const LAST: LogId = LogId { term: Term(3), leader: NodeId(1), index: 20 };

#[tokio::test]
async fn a_crash_between_the_switch_and_the_purge_leaves_a_log_that_is_superseded() {
    let other = [entries(1, 0..8), entries(2, 8..30)].concat();
    for (log, stored) in [(entries(1, 0..8), 5), (entries(1, 0..8), 7), (other.clone(), 7), (other[..21].to_vec(), 3)] {
        let rig = Rig::new(3, &log, stored).await;
        rig.install(LAST);
        let directory = Directory::existing(&rig.env, rig.temporary.path()).unwrap();
        let checked = crate::node::check(&rig.env, &directory).unwrap();
        assert!(checked.log.is_sound() && checked.base.is_empty(), "{checked:?}");
        drop(directory);
        rig.check_goes_on_after(LAST).await;
    }
}

#[tokio::test]
async fn a_new_member_s_first_entries_may_come_in_a_snapshot() {
    let rig = Rig::new(3, &[], 0).await;
    rig.install(LAST);
    rig.check_goes_on_after(LAST).await;
}

#[tokio::test]
async fn a_log_that_holds_the_snapshot_s_entry_keeps_what_follows() {
    let rig = Rig::new(3, &entries(3, 0..25), 5).await;
    rig.install(LAST);
    let recovered = rig.recover().unwrap();
    assert_eq!((recovered.engine.applied().log_id, recovered.last.map(|last| last.index)), (Some(LAST), Some(24)));
}

#[tokio::test]
async fn a_log_that_was_lost_is_not_taken_for_a_superseded_one() {
    let rig = Rig::new(3, &entries(1, 0..8), 7).await;
    rig.install(LAST);
    let directory = rig.temporary.path().join("log");
    for name in rig.env.files().list(&directory).unwrap() {
        rig.env.files().remove(&directory.join(name)).unwrap();
    }
    assert!(matches!(rig.recover(), Err(RecoveryError::Torn { .. })));
    let directory = Directory::existing(&rig.env, rig.temporary.path()).unwrap();
    assert!(crate::node::check(&rig.env, &directory).unwrap().torn.is_some());
}
