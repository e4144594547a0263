//! The one task between the committer and openraft: hands proposals over in order, confirms reads, says who leads.
//!
//! It is also where the group ends: told to stop, it lets openraft and then the log finish.

use super::{
    Confirm, Failed, Fate, Leadership, Member, Observe, Respond, StateMachine, Stopped, Storage,
    adapter::Adapter,
    disk_log::DiskLog,
    membership::{decode_stored, is_alone},
    peers::NoPeers,
    store::{LogStore, Reads},
    types::{self, Command, Owed, Peer, Raft, Reply},
};
use crate::{
    env::{Env, Task},
    log::Writing,
    types::{LogId, NodeId, Term},
};
use bytes::Bytes;
use openraft::{
    Config, ReadPolicy, ServerState, SnapshotPolicy, async_runtime::WatchReceiver, errors::ClientWriteError,
    raft::ClientWriteResult, type_config::alias::WatchReceiverOf,
};
use slog::{Logger, debug, error};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// How many messages the driver takes from its queue at once.
const TAKE_MAX: usize = 64;

type OpenRaft<M> = openraft::Raft<Raft, Adapter<M>>;

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
}

impl Group {
    pub(super) fn new(queue: Queue, reads: Arc<Reads>) -> Group {
        Group { queue, reads }
    }

    /// Prepares a group, and the future that drives it: whoever awaits it gives the group its thread. `observe` hears of
    /// leadership; `stopped` hears why the group stopped, if it does by itself. The queue is bounded by its one caller, the
    /// committer, which keeps count of what it has handed over.
    pub fn start<M: StateMachine>(
        env: &Env,
        log: &Logger,
        member: Member,
        machine: M,
        observe: Observe,
        stopped: Stopped,
    ) -> (Group, impl Future<Output = ()> + Send + 'static) {
        let (queue, messages) = Queue::new();
        let reads = Arc::new(Reads::new(member.node));
        let (store, writing) = match member.storage {
            Storage::Memory => (LogStore::in_memory(Arc::clone(&reads)), None),
            Storage::Disk(log, writing) => {
                (LogStore::on_disk(DiskLog::new(log, queue.clone()), Arc::clone(&reads)), Some(writing))
            }
        };
        let start = Start {
            env: env.clone(),
            log: log.clone(),
            node: member.node,
            store,
            writing,
            machine,
            observe,
            stopped,
            reads: Arc::clone(&reads),
            queue: queue.clone(),
        };
        (Group::new(queue, reads), start.run(messages))
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

/// What a driver begins with.
struct Start<M> {
    env: Env,
    log: Logger,
    node: NodeId,
    store: LogStore,
    writing: Option<Writing>,
    machine: M,
    observe: Observe,
    stopped: Stopped,
    reads: Arc<Reads>,
    queue: Queue,
}

fn config(node: NodeId) -> Config {
    Config {
        cluster_name: format!("quantadb node {}", node.0),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        enable_pre_vote: Some(true),
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 1_000,
        quorum_loss_probe_interval: Some(2_500),
        // A restarted leader must not resume its term: what it had replicated before its own sync may be lost here.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
}

impl<M: StateMachine> Start<M> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let store = self.store.clone();
        let mut writing = self.writing.take().map(|writing| self.env.spawn("log", writing.run()));
        match self.open().await {
            Ok((raft, mut driver)) => {
                let ended = tokio::select! {
                    biased;
                    ended = driver.run(&raft, &mut messages) => ended,
                    failed = log_ends(&mut writing) => Err(failed),
                };
                driver.reads.end();
                if let Err(reason) = raft.shutdown().await {
                    error!(driver.log, "consensus did not end as it should"; "reason" => %reason);
                }
                store.close().await;
                match ended {
                    Ok(stop) => {
                        let _ = stop.map(|stop| stop.send(()));
                    }
                    Err(failed) => (driver.stopped)(failed),
                }
            }
            Err((failed, stopped)) => {
                store.close().await;
                stopped(failed);
            }
        }
        // Only now does whoever asked the group to stop hear that it has: by then a failure has been told.
        drop(messages);
    }

    async fn open(self) -> Result<(OpenRaft<M>, Driver<M>), (Failed, Stopped)> {
        let Start { env, log, node, store, machine, observe, stopped, reads, queue, .. } = self;
        let adapter = Adapter::new(machine.clone(), node, queue);
        let begin = async {
            let config = config(node).validate().map_err(|error| Failed(error.to_string()))?;
            let raft = OpenRaft::<M>::new(node.0, Arc::new(config), NoPeers, store, adapter).await;
            let raft = raft.map_err(|fatal| Failed(fatal.to_string()))?;
            begin(&raft, node).await?;
            Ok(raft)
        };
        match begin.await {
            Ok(raft) => {
                let leads = raft.server_metrics();
                let driver = Driver {
                    env,
                    log,
                    node,
                    machine,
                    observe,
                    stopped,
                    reads,
                    leads,
                    begun: None,
                    told: None,
                    covered: None,
                    look: true,
                    left: Vec::new(),
                };
                Ok((raft, driver))
            }
            Err(failed) => Err((failed, stopped)),
        }
    }
}

/// Completes if the log's writing ends while the group runs, which it does only by a defect.
async fn log_ends(writing: &mut Option<Task>) -> Failed {
    match writing {
        Some(writing) => match writing.await {
            Ok(()) => Failed("the log ended by itself".into()),
            Err(error) => Failed(format!("the log: {error}")),
        },
        None => std::future::pending().await,
    }
}

/// Forms a group of one if there is none, and else stands for election at once where nobody else can.
async fn begin<M: StateMachine>(raft: &OpenRaft<M>, node: NodeId) -> Result<(), Failed> {
    let failed = |error: &dyn ToString| Failed(error.to_string());
    if !raft.is_initialized().await.map_err(|fatal| failed(&fatal))? {
        return raft.initialize(BTreeMap::from([(node.0, Peer::default())])).await.map_err(|error| failed(&error));
    }
    let alone =
        raft.with_raft_state(move |state| is_alone(state.membership_state.effective().membership(), node)).await;
    if alone.map_err(|fatal| failed(&fatal))? {
        raft.trigger().elect(false).await.map_err(|fatal| failed(&fatal))?;
    }
    Ok(())
}

struct Driver<M> {
    env: Env,
    log: Logger,
    node: NodeId,
    machine: M,
    observe: Observe,
    stopped: Stopped,
    reads: Arc<Reads>,
    leads: WatchReceiverOf<Raft, openraft::metrics::RaftServerMetrics<Raft>>,
    /// The last term whose first entry this node applied as its leader.
    begun: Option<Term>,
    /// What was last said of leadership.
    told: Option<(Term, bool)>,
    /// Up to where openraft was told that the log may go.
    covered: Option<LogId>,
    /// Whether something has changed that leadership depends on.
    look: bool,
    /// What had been taken from the queue behind a failure: whoever waits there hears nothing before that is told.
    left: Vec<Message>,
}

/// How a driver ended: told to, by somebody who waits or by nobody left to tell it anything, or by failing.
type Ended = Result<Option<oneshot::Sender<()>>, Failed>;

impl<M: StateMachine> Driver<M> {
    async fn run(&mut self, raft: &OpenRaft<M>, messages: &mut mpsc::UnboundedReceiver<Message>) -> Ended {
        let mut taken = Vec::with_capacity(TAKE_MAX);
        loop {
            if std::mem::take(&mut self.look) {
                self.observe_leadership();
            }
            tokio::select! {
                biased;
                count = messages.recv_many(&mut taken, TAKE_MAX) => if count == 0 { return Ok(None) },
                changed = self.leads.changed() => match changed {
                    Ok(()) => self.look = true,
                    Err(_) => return Err(fatal(raft).await),
                },
            }
            let mut taken = taken.drain(..);
            while let Some(message) = taken.next() {
                let done = match message {
                    Message::Stop(stop) => return Ok(Some(stop)),
                    Message::Failed(failed) => Err(failed),
                    message => self.message(raft, message).await,
                };
                if done.is_err() {
                    self.left.extend(taken);
                    return done.map(|()| None);
                }
            }
        }
    }

    async fn message(&mut self, raft: &OpenRaft<M>, message: Message) -> Result<(), Failed> {
        match message {
            Message::Propose { term, entry, respond } => {
                let owed = Owed::new(respond);
                let reply = Reply(Box::new(move |result| owed.pay(fate(result))));
                let write = raft.write(Command(entry)).with_leader(types::leader(term, self.node)).responder(reply);
                if write.await.is_err() {
                    return Err(fatal(raft).await);
                }
            }
            Message::Confirm(confirm) => self.confirm(raft, confirm),
            Message::Stored => {
                let stored = self.machine.stored().log_id;
                if stored <= self.covered {
                    return Ok(());
                }
                self.covered = stored;
                // openraft purges what a snapshot covers; building one only asks the store how far it is.
                if raft.trigger().snapshot().await.is_err() {
                    return Err(fatal(raft).await);
                }
            }
            Message::TermBegun(term) => {
                self.begun = self.begun.max(Some(term));
                self.look = true;
            }
            Message::MembershipApplied => self.look = true,
            Message::Stop(_) | Message::Failed(_) => {}
            #[cfg(feature = "testing")]
            Message::Wake => {}
        }
        Ok(())
    }

    fn confirm(&mut self, raft: &OpenRaft<M>, confirm: Confirm) {
        if self.reads.local() {
            return confirm(true);
        }
        let raft = raft.clone();
        // It ends by itself: by an answer, or when openraft does.
        self.env
            .spawn("read round", async move {
                confirm(raft.ensure_linearizable(ReadPolicy::ReadIndex).await.is_ok());
            })
            .detach();
    }

    /// Says who leads when that has changed.
    fn observe_leadership(&mut self) {
        let (term, leads) = {
            let metrics = self.leads.borrow_and_update();
            (Term(metrics.vote.leader_id.term), metrics.state == ServerState::Leader)
        };
        let ready = leads && self.begun == Some(term);
        let position = self.machine.applied();
        let alone =
            decode_stored(&position.membership).is_ok_and(|membership| is_alone(membership.membership(), self.node));
        self.reads.ready(ready.then_some(term.0), alone);
        if self.told != Some((term, ready)) {
            debug!(self.log, "leadership"; "term" => term.0, "leads" => leads, "ready" => ready);
            self.told = Some((term, ready));
            (self.observe)(Leadership { term, ready, applied: position.version });
        }
    }
}

fn fate(result: ClientWriteResult<Raft>) -> Fate {
    match result {
        Ok(response) => match response.data {
            Some(outcome) => Fate::Applied(outcome),
            None => unreachable!("only entries of commits are proposed here"),
        },
        // Before it was appended.
        Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_)) => Fate::Refused,
        Err(ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::ChangeMembershipError(_)) => Fate::Lost,
    }
}

/// Why openraft has stopped.
async fn fatal<M: StateMachine>(raft: &OpenRaft<M>) -> Failed {
    match raft.is_initialized().await {
        Err(fatal) => Failed(fatal.to_string()),
        Ok(_) => Failed("consensus stopped".into()),
    }
}
