//! The way to the driver: what it hears, and the handle that everybody else holds.

use super::{Change, ChangeError, Confirm, Failed, Leader, Respond, Status, serve::Inbound, store::Reads};
use crate::{
    peer::{Connection, PeerError},
    types::Term,
    wire::peer::Lane,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::{Notify, mpsc, oneshot};

/// What the driver hears.
pub(super) enum Message {
    Propose {
        term: Term,
        entry: Bytes,
        respond: Respond,
    },
    Confirm(Confirm),
    /// The store has moved: what lies below needs no log any more.
    Stored,
    /// This node applied the first entry of a term that it leads, or led.
    TermBegun(Term),
    MembershipApplied,
    /// A snapshot has taken the place of the state.
    Installed,
    /// A round of reads has ended.
    Rounded,
    Change(Change, oneshot::Sender<Result<(), ChangeError>>),
    /// Something that this node did by itself has ended.
    KeptUp,
    Status(oneshot::Sender<Status>),
    Failed(Failed),
    Stop(oneshot::Sender<()>),
    #[cfg(feature = "testing")]
    Wake,
}

/// The way to the driver; cheap to clone.
#[derive(Clone)]
pub(super) struct Queue(mpsc::UnboundedSender<Message>);

impl Queue {
    pub(super) fn new() -> (Queue, mpsc::UnboundedReceiver<Message>) {
        let (queue, messages) = mpsc::unbounded_channel();
        (Queue(queue), messages)
    }

    /// A stopped group drops the message and with it whoever waits, which its owner sees.
    pub(super) fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }
}

/// A handle to the group; cheap to clone.
#[derive(Clone)]
pub struct Group {
    queue: Queue,
    reads: Arc<Reads>,
    pub(super) shown: Arc<Shown>,
}

/// What the driver shows to whoever holds a handle.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) leader: Mutex<Option<Leader>>,
    pub(super) is_leader: AtomicBool,
    pub(super) is_voter: AtomicBool,
    pub(super) installed: AtomicU64,
    pub(super) leader_changed: Notify,
    pub(super) inbound: OnceLock<Arc<dyn Inbound>>,
}

impl Group {
    pub(super) fn new(queue: Queue, reads: Arc<Reads>) -> Group {
        Group { queue, reads, shown: Arc::default() }
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.shown.leader.lock().clone()
    }

    /// Completes with every change of what [`Group::leader`] says. Only one may wait at a time.
    pub async fn leader_changed(&self) {
        self.shown.leader_changed.notified().await;
    }

    /// How many snapshots have taken the place of this node's state since it started.
    #[must_use]
    pub fn snapshots_installed(&self) -> u64 {
        self.shown.installed.load(Ordering::Relaxed)
    }

    /// Whether this node leads, as far as it knows, be its state complete or not.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.shown.is_leader.load(Ordering::Acquire)
    }

    /// Whether this node votes, as far as it knows; else it learns, or is no member yet.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.shown.is_voter.load(Ordering::Acquire)
    }

    /// Serves a member's connection for consensus, or one that a snapshot comes on, until it ends.
    pub async fn serve(&self, connection: Connection, lane: Lane) -> Result<(), PeerError> {
        match self.shown.inbound.get() {
            Some(inbound) if lane == Lane::Snapshot => inbound.take_snapshot(connection).await,
            Some(inbound) => inbound.serve(connection).await,
            None => Err(PeerError::Protocol("this node is not ready".into())),
        }
    }

    /// Changes the membership, or who leads. Completes when that is committed; only the leader can.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let (sender, changed) = oneshot::channel();
        self.queue.send(Message::Change(change, sender));
        changed.await.unwrap_or_else(|_| Err(ChangeError::Failed("the group has stopped".into())))
    }

    /// What this node knows of the group; nothing once it has stopped.
    pub async fn status(&self) -> Status {
        let (sender, status) = oneshot::channel();
        self.queue.send(Message::Status(sender));
        status.await.unwrap_or_default()
    }

    /// Hands over an entry. `respond` is called exactly once, unless the group has stopped: then it is dropped.
    pub fn propose(&self, term: Term, entry: Bytes, respond: Respond) {
        self.queue.send(Message::Propose { term, entry, respond });
    }

    /// Asks that a read be confirmed: everything committed before this call is applied when `confirm` hears `true`.
    pub fn confirm_read(&self, confirm: Confirm) {
        self.queue.send(Message::Confirm(confirm));
    }

    /// Whether a read of the applied state speaks for the group without asking anybody.
    #[must_use]
    pub fn local_reads(&self) -> bool {
        self.reads.local()
    }

    /// What the state machine would come back with after a crash has moved: the log below it may go.
    pub fn stored(&self) {
        self.queue.send(Message::Stored);
    }

    /// The machine has failed elsewhere: the group stops with that reason.
    pub fn fail(&self, failed: Failed) {
        self.queue.send(Message::Failed(failed));
    }

    /// Ends the group once what was handed over is done.
    pub async fn stop(&self) {
        let (sender, stopped) = oneshot::channel();
        self.queue.send(Message::Stop(sender));
        // A group that has ended says so by dropping the sender.
        let _ = stopped.await;
    }
}
