//! The group of one over openraft, with a state machine that only counts, and openraft's own suite for log stores.

#![allow(clippy::unwrap_used, reason = "a test")]

mod runtime;
mod suite;

use super::{
    group::Queue,
    membership::decode_stored,
    store::{LogStore, Reads},
    types::{Peer, RaftEntry, RaftMembership, RaftVote, leader, theirs},
    *,
};
use crate::env::{Env, Task};
use adapter::Adapter;
use openraft::{
    RaftSnapshotBuilder,
    storage::{IOFlushed, RaftLogReaderExt, RaftLogStorage, RaftStateMachine},
};
use parking_lot::Mutex;
use slog::{Discard, Logger, o};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{mpsc, oneshot};

const NODE: NodeId = NodeId(1);

/// A state machine that gives every entry a version of its own, and remembers what it was given.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    position: Position,
    stored: Position,
    entries: Vec<Bytes>,
    fail: bool,
}

impl StateMachine for Counting {
    fn apply(&self, log_id: LogId, entry: &[u8]) -> Result<EntryResult, Failed> {
        let mut counted = self.0.lock();
        if counted.fail {
            return Err(Failed("as planned".into()));
        }
        counted.entries.push(Bytes::copy_from_slice(entry));
        let version = counted.position.version.next();
        counted.position.log_id = Some(log_id);
        counted.position.version = version;
        Ok(EntryResult::Applied { first: version, last: version, results: Vec::new() })
    }

    fn apply_blank(&self, log_id: LogId) -> Result<(), Failed> {
        self.0.lock().position.log_id = Some(log_id);
        Ok(())
    }

    fn apply_membership(&self, log_id: LogId, membership: Bytes) -> Result<(), Failed> {
        let mut counted = self.0.lock();
        counted.position.log_id = Some(log_id);
        counted.position.membership = membership;
        Ok(())
    }

    fn applied(&self) -> Position {
        self.0.lock().position.clone()
    }

    fn stored(&self) -> Position {
        self.0.lock().stored.clone()
    }

    fn capture(&self) -> Capture {
        unreachable!("nobody is sent what was counted")
    }

    fn begin_install(&self, _: [u8; 16], _: Applied, _: Bytes) -> Result<Box<dyn Install>, InstallError> {
        Err(InstallError::Refused("what counts takes no snapshots".into()))
    }
}

struct Rig {
    group: Group,
    machine: Counting,
    leadership: mpsc::UnboundedReceiver<Leadership>,
    stopped: oneshot::Receiver<Failed>,
    task: Task,
}

impl Rig {
    fn start() -> Rig {
        Rig::start_in(&Env::real())
    }

    fn start_in(env: &Env) -> Rig {
        let machine = Counting::default();
        let (observer, leadership) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let observe = Box::new(move |leadership| {
            let _ = observer.send(leadership);
        });
        let stopped_box = Box::new(move |failed| drop(stop.send(failed)));
        let member = Member::alone(NODE, Storage::Memory);
        let log = Logger::root(Discard, o!());
        let (group, drive) = Group::start(env, &log, member, machine.clone(), observe, stopped_box);
        Rig { group, machine, leadership, stopped, task: env.spawn("group", drive) }
    }

    /// Waits until it leads.
    async fn lead(&mut self) -> Term {
        loop {
            let leadership = self.leadership.recv().await.expect("the group lives");
            if leadership.ready {
                return leadership.term;
            }
        }
    }

    fn propose(&self, term: Term, entry: &'static [u8]) -> impl Future<Output = Option<Fate>> + use<> {
        let (sender, fate) = oneshot::channel();
        self.group.propose(term, Bytes::from_static(entry), Box::new(move |fate| drop(sender.send(fate))));
        async move { fate.await.ok() }
    }

    fn confirm(&self) -> impl Future<Output = Option<bool>> + use<> {
        let (sender, confirmed) = oneshot::channel();
        self.group.confirm_read(Box::new(move |ok| {
            let _ = sender.send(ok);
        }));
        async move { confirmed.await.ok() }
    }
}

fn applied(version: u64) -> Option<Fate> {
    let version = Version(version);
    Some(Fate::Applied(EntryResult::Applied { first: version, last: version, results: Vec::new() }))
}

#[tokio::test]
async fn a_group_of_one_leads_at_once_and_applies_in_order() {
    let mut rig = Rig::start();
    let term = rig.lead().await;
    assert!(rig.group.local_reads());
    assert_eq!(rig.propose(term, b"one").await, applied(1));
    let (two, three) = tokio::join!(rig.propose(term, b"two"), rig.propose(term, b"three"));
    assert_eq!((two, three), (applied(2), applied(3)));
    assert_eq!(rig.machine.0.lock().entries, [&b"one"[..], b"two", b"three"]);
    assert_eq!(rig.confirm().await, Some(true));
    let membership = decode_stored(&rig.machine.applied().membership).expect("it was encoded here");
    assert_eq!(membership.membership().voter_ids().collect::<Vec<_>>(), [NODE.0]);
}

#[tokio::test]
async fn a_proposal_of_another_term_is_refused_and_the_next_one_taken() {
    let mut rig = Rig::start();
    let term = rig.lead().await;
    let old = Term(term.0.saturating_sub(1));
    let (refused, taken) = tokio::join!(rig.propose(old, b"old"), rig.propose(term, b"new"));
    assert_eq!((refused, taken), (Some(Fate::Refused), applied(1)));
    assert_eq!(rig.propose(Term(term.0 + 1), b"later").await, Some(Fate::Refused));
}

#[tokio::test]
async fn stopped_it_answers_nothing_and_reads_nothing_locally() {
    let mut rig = Rig::start();
    let term = rig.lead().await;
    assert_eq!(rig.propose(term, b"one").await, applied(1));
    rig.group.stop().await;
    (&mut rig.task).await.expect("the driver ends");
    assert!(!rig.group.local_reads());
    assert_eq!(rig.propose(term, b"two").await, None);
    assert_eq!(rig.confirm().await, None);
    rig.group.stop().await;
    assert!(rig.stopped.await.is_err(), "it was asked to");
}

#[tokio::test]
async fn a_machine_that_fails_stops_the_group_with_its_reason() {
    let mut rig = Rig::start();
    let term = rig.lead().await;
    rig.machine.0.lock().fail = true;
    let fate = rig.propose(term, b"one").await;
    assert!(matches!(fate, Some(Fate::Lost) | None), "{fate:?}");
    assert_eq!(rig.stopped.await, Ok(Failed("as planned".into())));
    assert!(!rig.group.local_reads());
}

#[tokio::test]
async fn a_failure_elsewhere_stops_the_group_too() {
    // Once the group has stopped for whoever asks for that in the same moment, why has been told, whether the driver takes
    // both words at once or one by one: a process that was told to end then ended as if all were well.
    for at_once in [true, false] {
        let mut rig = Rig::start();
        rig.lead().await;
        let failed = Failed("the store is broken".into());
        let (group, mut stopped) = (rig.group.clone(), rig.stopped);
        if !at_once {
            rig.group.fail(failed.clone());
        }
        // A task: the test's own future would be polled too late to see it.
        let told = tokio::spawn(async move {
            group.stop().await;
            stopped.try_recv()
        });
        if at_once {
            rig.group.fail(failed.clone());
        }
        assert_eq!(told.await.expect("it does not panic"), Ok(failed), "at once: {at_once}");
    }
}

#[tokio::test]
async fn what_is_stored_leaves_the_log() {
    let mut rig = Rig::start();
    let term = rig.lead().await;
    for _ in 0..20 {
        rig.propose(term, b"entry").await;
    }
    let position = rig.machine.applied();
    rig.machine.0.lock().stored = position.clone();
    rig.group.stored();
    // Later entries follow on what was purged.
    assert_eq!(rig.propose(term, b"entry").await, applied(21));
    assert_eq!(position.log_id.map(|log_id| log_id.index), Some(21));
}

fn vote(term: u64, node: u64) -> RaftVote {
    RaftVote { leader_id: leader(Term(term), NodeId(node)), committed: true }
}

fn membership_entry(index: u64, voters: &[u64]) -> RaftEntry {
    let nodes: BTreeMap<u64, Peer> = voters.iter().map(|id| (*id, Peer::default())).collect();
    let membership = RaftMembership::new(vec![voters.iter().copied().collect()], nodes).expect("voters are nodes");
    let log_id = theirs(LogId { term: Term(1), leader: NODE, index });
    RaftEntry { log_id, payload: openraft::EntryPayload::Membership(membership) }
}

#[tokio::test]
async fn reads_are_local_only_while_nobody_else_can_commit() {
    let reads = Arc::new(Reads::new(NODE));
    let mut store = LogStore::in_memory(Arc::clone(&reads));
    reads.ready(Some(1), true);
    assert!(!reads.local(), "no vote was saved");
    store.save_vote(&vote(1, 1)).await.unwrap();
    assert!(reads.local());
    reads.ready(Some(1), false);
    assert!(!reads.local(), "another voter was applied");
    reads.ready(Some(1), true);
    store.append([membership_entry(0, &[1, 2])], IOFlushed::noop()).await.unwrap();
    assert!(!reads.local(), "another voter was appended");
    store.append([membership_entry(1, &[1])], IOFlushed::noop()).await.unwrap();
    assert!(reads.local());
    store.save_vote(&vote(2, 2)).await.unwrap();
    assert!(!reads.local(), "another node may lead");
    store.save_vote(&vote(3, 1)).await.unwrap();
    assert!(!reads.local(), "its new term's first entry is not applied");
    reads.ready(Some(3), true);
    assert!(reads.local());
    reads.end();
    assert!(!reads.local());
}

#[tokio::test]
async fn a_log_in_memory_gives_what_it_holds() {
    let mut store = LogStore::in_memory(Arc::new(Reads::new(NODE)));
    store.append((0..10).map(|index| membership_entry(index, &[1])), IOFlushed::noop()).await.unwrap();
    assert_eq!(store.try_get_log_entry(3).await.unwrap().map(|entry| entry.log_id.index), Some(3));
    store.purge(theirs(LogId { term: Term(1), leader: NODE, index: 4 })).await.unwrap();
    assert!(store.try_get_log_entry(4).await.unwrap().is_none());
    let state = store.get_log_state().await.unwrap();
    let indexes = (state.last_purged_log_id.map(|id| id.index), state.last_log_id.map(|id| id.index));
    assert_eq!(indexes, (Some(4), Some(9)));
}

#[tokio::test]
async fn what_is_built_says_how_far_the_store_is_and_what_nobody_sent_is_not_installed() {
    let (queue, _) = Queue::new();
    let machine = Counting::default();
    let kept = LogStore::in_memory(Arc::new(Reads::new(NODE))).kept();
    let captures = snapshots::Captures::new(&Env::real());
    let mut adapter = Adapter::new(machine.clone(), NODE, queue, Arc::default(), captures, kept);
    let log_id = LogId { term: Term(1), leader: NODE, index: 7 };
    machine.0.lock().stored = Position { log_id: Some(log_id), ..Position::default() };
    let snapshot = adapter.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(theirs(log_id)));
    assert!(adapter.install_snapshot(&snapshot.meta, snapshots::Data::Metadata).await.is_err());
}
