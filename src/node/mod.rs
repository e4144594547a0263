//! One replica as an API: read, submit, ask about outcomes.
//!
//! A [`Node`] owns an engine, the committer and the group that orders entries. Whoever is above hands it batches and
//! hears completions in a [`Mailbox`]; reads go to the engine directly once the node says that they may.
//!
//! Never blocks a caller: a batch is admitted or refused at once.

mod admission;
mod answer;
mod check;
mod committer;
mod decide;
mod directory;
mod expiry;
mod forward;
mod history;
mod in_flight;
mod level;
mod machine;
mod metrics;
mod options;
mod reader;
mod recovery;
mod request;
mod view;

pub use admission::Admission;
pub use answer::{Body, Completion, Mailbox, Refusal, Rejection, Reply, answered_rejection};
pub use check::{Checked, check};
pub use directory::{Directory, DirectoryError};
pub use forward::Forwarded;
pub use history::HistoryOptions;
pub use metrics::Metrics;
pub use options::{AdmissionOptions, CommitterOptions, LOG_KEEP_BYTES_DEFAULT, NodeOptions};
pub use recovery::{Recovered, RecoveryError, StorageOptions, recover, recover_over};
pub use request::{Batch, Evaluation, EvaluationError, Item, Keyed, Work};
pub use view::{EVALUATION_ROWS_MAX, Overgrown, View, Visit};

use crate::{
    consensus::{Addresses, Change, ChangeError, Failed, Group, Leader, Member, Status, Storage},
    env::{Env, Moment, Task},
    log::{self, Log},
    peer::{Connection, Dialer, Local, PeerError},
    storage::{Engine, Snapshot},
    txn,
    types::{ClusterId, NodeId, Version},
    wire::peer::Lane,
};
use committer::{Committer, Input};
use forward::Forwarder;
use history::History;
use machine::Machine;
use parking_lot::Mutex;
use reader::{Freshness, Reader, keep_fresh};
use request::Admitted;
use slog::{Logger, error, info, o};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

#[cfg(feature = "testing")]
use crate::consensus::Faults;

/// Groups of more bytes are written on another thread where the log's is shared: some 64 small commits. Measured with 50
/// connections: at one request each, 25 commits a group, all inline was 14 % faster than all aside; at 16 each, 400 commits
/// a group, aside was 12 to 22 % faster.
const ASIDE_ABOVE_BYTES: u64 = 16 << 10;
/// How long the storing thread rests when there is nothing to do.
const MAINTAIN_EVERY: Duration = Duration::from_millis(20);
/// How often a waiting reader looks at the applied version even if nobody tells it.
const APPLIED_POLL: Duration = Duration::from_millis(50);
/// How long a node that stops waits for what it has handed over.
pub const STOP_MAX: Duration = Duration::from_secs(5);
/// How often a node with peers makes sure, by itself, how fresh its state is.
const FRESHEN_EVERY: Duration = Duration::from_millis(1_000);

/// Why a read cannot be answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefusal {
    /// This node does not lead, or no longer.
    #[error("this node does not lead")]
    NotLeader,
    /// The deadline passed first.
    #[error("the deadline passed")]
    Expired,
    /// The node has stopped, or is about to.
    #[error("this node stops")]
    Stopped,
}

/// Who this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node in it.
    pub node: NodeId,
}

/// How a replica takes part in a cluster.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Where others reach it; without an address for peers it stays alone.
    pub addresses: Addresses,
    /// Whether it is to be taken in by a cluster that is there, instead of forming one.
    pub joins: bool,
}

/// One replica.
pub struct Node {
    env: Env,
    log: Logger,
    identity: Identity,
    started: Moment,
    engine: Arc<dyn Engine>,
    /// The log on disk, for its figures; `None` if the log is in memory.
    disk_log: Option<Log>,
    group: Group,
    /// The way to whoever leads; `None` for a node without peers.
    forwarder: Option<Arc<Forwarder>>,
    /// Told with everything that is applied.
    moved: Arc<Notify>,
    /// The state was as fresh as this when that was last made sure.
    fresh: Arc<Freshness>,
    inbox: mpsc::UnboundedSender<Input>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    stopped: AtomicBool,
    failure: watch::Receiver<Option<Failed>>,
    /// What the engine had failed with when it was closed, if nothing else told before.
    unclosed: OnceLock<Failed>,
    tasks: Mutex<Vec<Task>>,
}

impl Node {
    /// Starts a replica over `engine`, whose group keeps its log in `storage`. It leads once its group says so, which for a
    /// group of one is as soon as it has applied what its log holds above the engine.
    pub fn start(
        env: &Env,
        log: &Logger,
        identity: Identity,
        engine: Arc<dyn Engine>,
        storage: Storage,
        options: NodeOptions,
    ) -> Node {
        Node::start_member(env, log, identity, engine, storage, Place::default(), options)
    }

    /// Starts a replica that others may join, or that joins others.
    pub fn start_member(
        env: &Env,
        log: &Logger,
        identity: Identity,
        engine: Arc<dyn Engine>,
        storage: Storage,
        place: Place,
        options: NodeOptions,
    ) -> Node {
        let aside_above_alone = if options.shares_thread { ASIDE_ABOVE_BYTES } else { u64::MAX };
        let aside_above = Arc::new(AtomicU64::new(aside_above_alone));
        let (storage, disk_log) = match storage {
            Storage::Disk(log, writing) => {
                let shared = options.shares_thread || !place.addresses.peer.is_empty();
                let writing = if shared { writing.aside(env, Arc::clone(&aside_above)) } else { writing };
                (Storage::Disk(log.clone(), writing), Some(log))
            }
            Storage::Memory => (Storage::Memory, None),
        };
        let parts = Parts::new(env, log, &engine, options);
        let local = Local { cluster: identity.cluster, node: identity.node, level: txn::LEVEL };
        let dialer = (!place.addresses.peer.is_empty()).then(|| Dialer::new(env, local));
        let log_keep_bytes = if options.log_keep_bytes == 0 { LOG_KEEP_BYTES_DEFAULT } else { options.log_keep_bytes };
        let member = Member {
            node: identity.node,
            storage,
            dialer: dialer.clone(),
            addresses: place.addresses,
            founds: !place.joins,
            log_keep_bytes,
            aside_above,
            aside_above_alone,
        };
        let log_of_group = log.new(o!("part" => "consensus"));
        let (group, drive) = Group::start(env, &log_of_group, member, parts.machine, parts.observe, parts.stopped);
        let mut node = Node::assemble(env, log, identity, engine, options, parts.rest, group, drive);
        node.disk_log = disk_log;
        if let Some(dialer) = dialer {
            let (group, engine, admission) =
                (node.group.clone(), Arc::clone(&node.engine), Arc::clone(&node.admission));
            let forwarder = Forwarder::new(dialer, group, engine, admission, identity.node);
            let reader = Reader {
                env: env.clone(),
                engine: Arc::clone(&node.engine),
                group: node.group.clone(),
                forwarder: Some(Arc::clone(&forwarder)),
                moved: Arc::clone(&node.moved),
                fresh: Arc::clone(&node.fresh),
            };
            node.forwarder = Some(forwarder);
            node.tasks.get_mut().push(env.spawn("freshness", keep_fresh(reader)));
        }
        if let Some(disk_log) = &node.disk_log {
            node.engine.follow_log(Box::new(disk_log.durable_end()));
        }
        let storing =
            env.spawn_on_thread("storage", keep_storing(env.clone(), Arc::clone(&node.engine), node.group.clone()));
        let group = node.group.clone();
        node.tasks.get_mut().push(env.spawn("storage watch", async move {
            // It ends by itself only after it has said why.
            if let Err(error) = storing.await {
                group.fail(Failed(format!("storing: {error}")));
            }
        }));
        node
    }

    /// Starts a replica whose group can be made to misbehave. With `remote_reads` every read must be confirmed by it.
    #[cfg(feature = "testing")]
    pub fn start_faulty(
        env: &Env,
        log: &Logger,
        identity: Identity,
        engine: Arc<dyn Engine>,
        options: NodeOptions,
        remote_reads: bool,
    ) -> (Node, Faults) {
        let options = NodeOptions { shares_thread: true, ..options };
        let parts = Parts::new(env, log, &engine, options);
        let (group, drive, faults) = Group::start_faulty(parts.machine, parts.observe, parts.stopped, remote_reads);
        (Node::assemble(env, log, identity, engine, options, parts.rest, group, drive), faults)
    }

    #[expect(clippy::too_many_arguments, reason = "the two ways to start share everything but the group")]
    fn assemble(
        env: &Env,
        log: &Logger,
        identity: Identity,
        engine: Arc<dyn Engine>,
        options: NodeOptions,
        rest: Rest,
        group: Group,
        drive: impl Future<Output = ()> + Send + 'static,
    ) -> Node {
        let metrics = Arc::new(Metrics::default());
        let committer = Committer::new(
            env.clone(),
            Arc::clone(&engine),
            group.clone(),
            options.committer,
            Arc::clone(&metrics),
            rest.inbox.clone(),
        );
        // The committer shares the group's thread, so that an entry passes between them without waking another.
        let committer = committer.run(rest.messages);
        let order = async move {
            tokio::join!(committer, drive);
        };
        let order_task = match options.shares_thread {
            true => env.spawn("consensus", order),
            false => env.spawn_on_thread("consensus", order),
        };
        let keeper = keep_history(env.clone(), Arc::clone(&engine), rest.history, group.clone());
        let keeper_task = env.spawn("history", keeper);
        Node {
            env: env.clone(),
            log: log.new(o!("node" => identity.node.0)),
            identity,
            started: env.now(),
            engine,
            disk_log: None,
            group,
            forwarder: None,
            moved: rest.moved,
            fresh: Arc::default(),
            inbox: rest.inbox,
            admission: Arc::new(Admission::new(options.admission.requests_max, options.admission.bytes_max)),
            metrics,
            stopped: AtomicBool::new(false),
            failure: rest.failure,
            unclosed: OnceLock::new(),
            tasks: Mutex::new(vec![keeper_task, order_task]),
        }
    }

    /// Hands a batch to the committer, or gives it back when too much is under way or the node is stopping.
    pub fn submit(&self, batch: Batch) -> Result<(), Batch> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(batch);
        }
        let admitted = Admitted::new(batch, &self.admission).inspect_err(|batch| {
            self.metrics.overloaded.fetch_add(batch.items.len() as u64, Ordering::Relaxed);
        })?;
        // The committer ends only after `stop`; then the session that sends this is ending too.
        let _ = self.inbox.send(Input::Batch(admitted));
        Ok(())
    }

    /// Whether a read of the visible version is linearizable right now, without asking anybody.
    #[must_use]
    pub fn reads_locally(&self) -> bool {
        self.group.local_reads()
    }

    /// Whether this node decides what is written: it leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.metrics.leading.load(Ordering::Relaxed)
    }

    /// Whether this node votes, as far as it knows; else it learns, or is no member yet.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.group.is_voter()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.group.leader()
    }

    /// Completes with every change of who leads; see [`Node::leader`].
    pub async fn leader_changed(&self) {
        self.group.leader_changed().await;
    }

    /// Whether what this node may not decide can be sent to whoever may.
    #[must_use]
    pub fn forwards(&self) -> bool {
        self.forwarder.is_some() && !self.leads()
    }

    /// Whether other nodes can reach this one, so that it is, or can become, one of several.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        self.forwarder.is_some()
    }

    /// Sends a request to whoever leads; its answer comes to the mailbox. Gives it back when too much is under way.
    pub fn forward(&self, forwarded: Forwarded) -> Result<(), Forwarded> {
        match &self.forwarder {
            Some(forwarder) => forwarder.forward(forwarded),
            None => Err(forwarded),
        }
    }

    /// Serves a member's connection for consensus, or one that a snapshot comes on, until it ends.
    pub async fn serve_peer(&self, connection: Connection, lane: Lane) -> Result<(), PeerError> {
        self.group.serve(connection, lane).await
    }

    /// Changes the membership, or who leads.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        self.group.change(change).await
    }

    /// What this node knows of its group.
    pub async fn status(&self) -> Status {
        self.group.status().await
    }

    /// Completes once a read of the visible version is linearizable: everything committed before this call is applied.
    pub async fn confirm_read(&self, deadline: Moment) -> Result<Version, ReadRefusal> {
        if self.reads_locally() {
            return Ok(self.engine.visible());
        }
        self.reader().confirm(deadline).await
    }

    /// The same for whoever was sent here because this node leads: refused where it does not, instead of asking further.
    pub async fn confirm_read_as_leader(&self, deadline: Moment) -> Result<Version, ReadRefusal> {
        if !self.reads_locally() {
            self.reader().confirm_here(deadline).await?;
        }
        Ok(self.engine.visible())
    }

    /// How old the state may be that a read sees here: everything acknowledged before so long ago is in it.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        if self.reads_locally() {
            return Duration::ZERO;
        }
        self.env.now() - self.fresh.as_of()
    }

    /// Completes once `version` is applied here.
    pub async fn wait_applied(&self, version: Version, deadline: Moment) -> Result<(), ReadRefusal> {
        self.reader().wait_applied(version, deadline).await
    }

    fn reader(&self) -> Reader {
        Reader {
            env: self.env.clone(),
            engine: Arc::clone(&self.engine),
            group: self.group.clone(),
            forwarder: self.forwarder.clone(),
            moved: Arc::clone(&self.moved),
            fresh: Arc::clone(&self.fresh),
        }
    }

    /// The engine, for reads.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A view of the visible version.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::now(&self.engine)
    }

    /// Who this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the log on disk counts; `None` if the log is in memory.
    #[must_use]
    pub fn log_metrics(&self) -> Option<&log::Metrics> {
        self.disk_log.as_ref().map(Log::metrics)
    }

    /// How many snapshots have taken the place of this node's state since it started.
    #[must_use]
    pub fn snapshots_installed(&self) -> u64 {
        self.group.snapshots_installed()
    }

    /// The log on disk, for whoever checks what it holds.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn log(&self) -> Option<&Log> {
        self.disk_log.as_ref()
    }

    /// Requests and bytes that wait for the committer.
    #[must_use]
    pub fn under_way(&self) -> (usize, usize) {
        self.admission.under_way()
    }

    /// How long it has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.env.now() - self.started
    }

    /// Why the node stopped by itself, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<Failed> {
        self.failure.borrow().clone().or_else(|| self.unclosed.get().cloned())
    }

    /// Completes when the machine fails, or the code that runs it; never otherwise.
    pub async fn failed(&self) -> Failed {
        let mut failure = self.failure.clone();
        loop {
            if let Some(failed) = failure.borrow_and_update().clone() {
                return failed;
            }
            if failure.changed().await.is_err() {
                // Whoever would have said why is gone: with the node, or by a panic.
                if self.stopped.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
                return Failed("the node's own task ended by a panic".into());
            }
        }
    }

    /// Answers everything that was accepted, then stops. Nothing is accepted from here on. What cannot be committed in
    /// [`STOP_MAX`], for want of a majority, is left unknown.
    pub async fn stop(&self) {
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let (sender, stopped) = oneshot::channel();
        let _ = self.inbox.send(Input::Stop(sender));
        let _ = self.env.until(self.env.now() + STOP_MAX, stopped).await;
        self.group.stop().await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        drop(tasks);
        if let Err(failure) = self.engine.close() {
            error!(self.log, "the engine did not close cleanly"; "error" => %failure);
            // Set once: this runs once.
            let _ = self.unclosed.set(machine::failed(&failure));
        }
        info!(self.log, "node stopped"; "version" => self.engine.visible().0);
    }
}

/// What both ways of starting make before the group.
struct Parts {
    machine: Machine,
    observe: crate::consensus::Observe,
    stopped: crate::consensus::Stopped,
    rest: Rest,
}

struct Rest {
    inbox: mpsc::UnboundedSender<Input>,
    messages: mpsc::UnboundedReceiver<Input>,
    history: Arc<History>,
    moved: Arc<Notify>,
    failure: watch::Receiver<Option<Failed>>,
}

impl Parts {
    fn new(env: &Env, log: &Logger, engine: &Arc<dyn Engine>, options: NodeOptions) -> Parts {
        let (inbox, messages) = mpsc::unbounded_channel();
        let (failure_sender, failure) = watch::channel(None);
        let history = Arc::new(History::new(options.history));
        history.sample(env.now(), engine.visible());
        let moved = Arc::new(Notify::new());
        let machine = Machine { engine: Arc::clone(engine), history: Arc::clone(&history), moved: Arc::clone(&moved) };
        let (to_committer, observer_log) = (inbox.clone(), log.clone());
        let observe = Box::new(move |leadership: crate::consensus::Leadership| {
            info!(observer_log, "leadership"; "term" => leadership.term.0, "leading" => leadership.ready);
            let _ = to_committer.send(Input::Leadership(leadership));
        });
        let (to_committer, failed_log) = (inbox.clone(), log.clone());
        let stopped = Box::new(move |failed: Failed| {
            error!(failed_log, "the node stops"; "reason" => %failed);
            let _ = failure_sender.send(Some(failed.clone()));
            let _ = to_committer.send(Input::Failed(failed));
        });
        Parts { machine, observe, stopped, rest: Rest { inbox, messages, history, moved, failure } }
    }
}

/// Samples the visible version and gives back history while nothing is written; tells the group what it may forget.
async fn keep_history(env: Env, engine: Arc<dyn Engine>, history: Arc<History>, group: Group) {
    let mut told = None;
    loop {
        env.sleep(history::SAMPLE_EVERY).await;
        history.sample(env.now(), engine.visible());
        while history.trim(&*engine) {
            tokio::task::yield_now().await;
        }
        let stored = engine.stored().log_id;
        if stored != told {
            told = stored;
            group.stored();
        }
    }
}

/// Lets the engine store what was written, or free what a snapshot has replaced, on a thread where it may block. A failure of
/// it ends the node.
async fn keep_storing(env: Env, engine: Arc<dyn Engine>, group: Group) {
    loop {
        match engine.maintain() {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => env.sleep(MAINTAIN_EVERY).await,
            Err(error) => return group.fail(machine::failed(&error)),
        }
    }
}
