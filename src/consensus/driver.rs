//! The one task between the committer and openraft: hands proposals over in order, confirms reads, says who leads.
//!
//! It is also where the group ends: told to stop, it lets openraft and then the log finish.

use super::{
    Addresses, Change, ChangeError, Confirm, Failed, Fate, Leader, Leadership, Member, MemberStatus, Observe, Progress,
    StateMachine, Status, Stopped, Storage,
    adapter::Adapter,
    agreement::{Agreement, Verdict},
    changes::Changes,
    contacts::Contacts,
    disk_log::DiskLog,
    group::{Group, Message, Queue, Shown},
    membership::{decode_stored, is_alone},
    peers::Peers,
    serve::Server,
    snapshots::Captures,
    store::{Kept, LogStore, Reads},
    types::{self, Command, Owed, Peer, Raft, Reply},
};
use crate::{
    env::{BoxFuture, Env, Task},
    log::Writing,
    txn,
    types::{LogId, NodeId, Term},
};
use openraft::{
    Config, ReadPolicy, ServerState, SnapshotPolicy, async_runtime::WatchReceiver, errors::ClientWriteError,
    raft::ClientWriteResult, type_config::alias::WatchReceiverOf,
};
use slog::{Logger, debug, error, info, warn};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How many messages the driver takes from its queue at once.
const TAKE_MAX: usize = 64;
/// Rounds of reads under way at once: a read waits for one that begins after it, at most a round and a bit.
const ROUNDS_MAX: usize = 4;
/// How long a round may take; one without a majority takes for ever.
const ROUND_MAX: Duration = Duration::from_secs(2);
/// How often a group with peers looks after itself.
const TICK: Duration = Duration::from_millis(500);
/// How late a simulated refusal is heard of, so that there is a next entry by then.
const REFUSED_LATE: Duration = Duration::from_millis(10);

pub(super) type OpenRaft<M> = openraft::Raft<Raft, Adapter<M>>;

impl Group {
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
        let group = Group::new(queue.clone(), Arc::clone(&reads));
        let start = Start {
            env: env.clone(),
            log: log.clone(),
            node: member.node,
            peers: Peers { dialer: member.dialer, contacts: Arc::default(), captures: Captures::new(env) },
            addresses: member.addresses,
            founds: member.founds,
            log_keep_bytes: member.log_keep_bytes,
            aside_above: member.aside_above,
            aside_above_alone: member.aside_above_alone,
            shown: Arc::clone(&group.shown),
            store,
            writing,
            machine,
            observe,
            stopped,
            reads: Arc::clone(&reads),
            queue: queue.clone(),
        };
        (group, start.run(messages))
    }
}

/// What a driver begins with.
struct Start<M> {
    env: Env,
    log: Logger,
    node: NodeId,
    peers: Peers,
    addresses: Addresses,
    founds: bool,
    log_keep_bytes: u64,
    aside_above: Arc<AtomicU64>,
    aside_above_alone: u64,
    shown: Arc<Shown>,
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
        // The driver says what may go.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 1_000,
        quorum_loss_probe_interval: Some(2_500),
        backoff: "20ms 40ms 80ms ...500ms".into(),
        max_payload_entries: 64,
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
        let Start { env, log, node, peers, store, machine, observe, stopped, reads, queue, shown, .. } = self;
        let (has_peers, contacts) = (peers.dialer.is_some(), Arc::clone(&peers.contacts));
        let agreement = Arc::new(Agreement::default());
        let (kept, captures) = (store.kept(), peers.captures.clone());
        let (of_adapter, sent) = (kept.clone(), captures.clone());
        let adapter = Adapter::new(machine.clone(), node, queue.clone(), Arc::clone(&agreement), sent, of_adapter);
        let begin = async {
            let config = config(node).validate().map_err(|error| Failed(error.to_string()))?;
            let raft = OpenRaft::<M>::new(node.0, Arc::new(config), peers, store, adapter).await;
            let raft = raft.map_err(|fatal| Failed(fatal.to_string()))?;
            begin(&raft, node, self.founds.then_some(self.addresses)).await?;
            Ok(raft)
        };
        match begin.await {
            Ok(raft) => {
                let leads = raft.server_metrics();
                let inbound = Server {
                    raft: raft.clone(),
                    machine: machine.clone(),
                    agreement: Arc::clone(&agreement),
                    queue: queue.clone(),
                    env: env.clone(),
                };
                // Nobody else sets it.
                let _ = shown.inbound.set(Arc::new(inbound));
                let changes = Changes { env: env.clone(), node, raft: raft.clone(), contacts: Arc::clone(&contacts) };
                let driver = Driver {
                    env,
                    log,
                    node,
                    has_peers,
                    contacts,
                    agreement,
                    changes,
                    changing: false,
                    queue,
                    rounds: 0,
                    waiting: Vec::new(),
                    shown,
                    kept,
                    captures,
                    log_keep_bytes: self.log_keep_bytes,
                    aside_above: self.aside_above,
                    aside_above_alone: self.aside_above_alone,
                    unheard: BTreeSet::new(),
                    machine,
                    observe,
                    stopped,
                    reads,
                    leads,
                    begun: None,
                    told: None,
                    covered: None,
                    purged: None,
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

/// Forms a group of one if there is none and it is to be formed, and else stands for election at once where nobody else can.
async fn begin<M: StateMachine>(raft: &OpenRaft<M>, node: NodeId, founds: Option<Addresses>) -> Result<(), Failed> {
    let failed = |error: &dyn ToString| Failed(error.to_string());
    if !raft.is_initialized().await.map_err(|fatal| failed(&fatal))? {
        let Some(Addresses { peer, client }) = founds else { return Ok(()) };
        let peer = Peer { address: peer, client_address: client };
        return raft.initialize(BTreeMap::from([(node.0, peer)])).await.map_err(|error| failed(&error));
    }
    let alone =
        raft.with_raft_state(move |state| is_alone(state.membership_state.effective().membership(), node)).await;
    if alone.map_err(|fatal| failed(&fatal))? {
        raft.trigger().elect(false).await.map_err(|fatal| failed(&fatal))?;
    }
    Ok(())
}

struct Driver<M: StateMachine> {
    env: Env,
    log: Logger,
    node: NodeId,
    has_peers: bool,
    contacts: Arc<Contacts>,
    agreement: Arc<Agreement>,
    changes: Changes<M>,
    /// Whether a change is being made, by command or by itself: one at a time.
    changing: bool,
    queue: Queue,
    /// Rounds of reads under way.
    rounds: usize,
    /// Reads that wait for one that has not been begun.
    waiting: Vec<Confirm>,
    shown: Arc<Shown>,
    kept: Kept,
    captures: Captures,
    log_keep_bytes: u64,
    aside_above: Arc<AtomicU64>,
    aside_above_alone: u64,
    /// Members that the log was told of as not heard.
    unheard: BTreeSet<u64>,
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
    /// Up to where it was told to let it go.
    purged: Option<u64>,
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
        let mut tick = self.next_tick();
        loop {
            if std::mem::take(&mut self.look) {
                self.observe_leadership();
            }
            tokio::select! {
                biased;
                // Before the messages, of which there may be more at any time. They come before the end of openraft, for a failure
                // among them says more.
                () = &mut tick => {
                    tick = self.next_tick();
                    self.look = true;
                    self.keep_up();
                    self.tell_unheard();
                    self.compare()?;
                    self.purge(raft).await?;
                }
                count = messages.recv_many(&mut taken, TAKE_MAX) => if count == 0 { return Ok(None) },
                changed = self.leads.changed() => match changed {
                    Ok(()) => self.look = true,
                    Err(_) => return Err(fatal(raft).await),
                },
            }
            let mut taken = taken.drain(..);
            while let Some(message) = taken.next() {
                let done = match message {
                    Message::Stop(stop) => {
                        self.hand_over().await;
                        return Ok(Some(stop));
                    }
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
                // openraft does it when the lease has lapsed, and takes the next one of the same term when it is back.
                if self.env.rarely("an entry is refused, and the next is not") {
                    let late = self.env.sleep(REFUSED_LATE);
                    let refuse = async move {
                        late.await;
                        owed.pay(Fate::Refused);
                    };
                    self.env.spawn("refusal", refuse).detach();
                    return Ok(());
                }
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
                // openraft purges only what a snapshot covers; building one only asks the store how far it is.
                if raft.trigger().snapshot().await.is_err() {
                    return Err(fatal(raft).await);
                }
                self.purge(raft).await?;
            }
            Message::TermBegun(term) => {
                self.begun = self.begun.max(Some(term));
                self.look = true;
            }
            Message::MembershipApplied => self.look = true,
            Message::Installed => {
                info!(self.log, "a snapshot was installed"; "version" => self.machine.applied().version.0);
                self.shown.installed.fetch_add(1, Ordering::Relaxed);
                self.look = true;
            }
            Message::Rounded => {
                self.rounds -= 1;
                self.begin_round(raft);
            }
            Message::Change(change, changed) => self.change(change, changed),
            Message::KeptUp => self.changing = false,
            Message::Status(sender) => {
                // Whoever asked may have gone.
                let _ = sender.send(self.status());
            }
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
        self.waiting.push(confirm);
        self.begin_round(raft);
    }

    /// Begins a round for all reads that wait: one that was begun is joined by nobody.
    fn begin_round(&mut self, raft: &OpenRaft<M>) {
        if self.waiting.is_empty() || self.rounds >= ROUNDS_MAX {
            return;
        }
        self.rounds += 1;
        let (raft, queue, waiting) = (raft.clone(), self.queue.clone(), std::mem::take(&mut self.waiting));
        let until = self.env.now() + ROUND_MAX;
        let env = self.env.clone();
        // It ends by itself: by an answer, by its time, or when openraft does.
        self.env
            .spawn("read round", async move {
                let round = env.until(until, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
                let confirmed = round.is_some_and(|round| round.is_ok());
                waiting.into_iter().for_each(|confirm| confirm(confirmed));
                queue.send(Message::Rounded);
            })
            .detach();
    }

    fn next_tick(&self) -> BoxFuture<()> {
        match self.has_peers {
            true => self.env.sleep(TICK),
            false => Box::pin(std::future::pending()),
        }
    }

    fn change(&mut self, change: Change, changed: oneshot::Sender<Result<(), ChangeError>>) {
        if std::mem::replace(&mut self.changing, true) {
            // Whoever asked may have gone.
            let _ = changed.send(Err(ChangeError::InProgress));
            return;
        }
        let (changes, queue) = (self.changes.clone(), self.queue.clone());
        self.env
            .spawn("membership", async move {
                // Whoever asked may have gone.
                let _ = changed.send(changes.carry_out(change).await);
                queue.send(Message::KeptUp);
            })
            .detach();
    }

    fn keep_up(&mut self) {
        if std::mem::replace(&mut self.changing, true) {
            return;
        }
        let (changes, queue) = (self.changes.clone(), self.queue.clone());
        self.env
            .spawn("membership", async move {
                changes.keep_up().await;
                queue.send(Message::KeptUp);
            })
            .detach();
    }

    /// Holds what members have reported of their state against this one.
    fn compare(&mut self) -> Result<(), Failed> {
        let metrics = self.leads.borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return Ok(());
        }
        let membership = metrics.membership_config.membership();
        match self.agreement.judge(self.node, membership, &self.contacts) {
            Verdict::Agreed => Ok(()),
            Verdict::Others(others) => {
                for node in others {
                    let Some(report) = self.contacts.of(node).report else { continue };
                    error!(self.log, "a member has come to another state than the majority; it is told to stop";
                        "node" => node.0, "entry" => %report.applied);
                    self.contacts.differs(node, self.agreement.at(report.applied));
                }
                Ok(())
            }
            Verdict::Own(other) => Err(Failed(format!(
                "this replica and node {} have come to different states, and no majority has what this one has",
                other.0
            ))),
        }
    }

    /// Says in the log when a member is not heard any more, and when it is again.
    fn tell_unheard(&mut self) {
        let metrics = self.leads.borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return self.unheard.clear();
        }
        let membership = metrics.membership_config.membership();
        for (node, peer) in membership.nodes().filter(|(node, _)| **node != self.node.0) {
            let is_heard = self.changes.is_heard(*node);
            if is_heard && self.unheard.remove(node) {
                info!(self.log, "a member is heard again"; "node" => *node);
            } else if !is_heard && self.unheard.insert(*node) {
                warn!(self.log, "a member is not heard"; "node" => *node, "address" => &peer.address);
            }
        }
        self.unheard.retain(|node| membership.get_node(node).is_some());
    }

    /// Leaves the office to another before this node goes, so that nobody has to wait for an election.
    async fn hand_over(&mut self) {
        let leads = self.leads.borrow_watched().state == ServerState::Leader;
        if leads && self.has_peers {
            let _ = self.changes.transfer(None).await;
        }
    }

    /// Lets the log go up to where it is stored, but for what members may still need.
    async fn purge(&mut self, raft: &OpenRaft<M>) -> Result<(), Failed> {
        let Some(stored) = self.covered else { return Ok(()) };
        let position = self.machine.applied();
        let members = decode_stored(&position.membership).map(|stored| stored.membership().nodes().count());
        let alone = members.is_ok_and(|members| members == 1);
        let needed = if alone { u64::MAX } else { self.needed_by_others() };
        let target = stored.index.min(needed.max(self.kept.first_within(self.log_keep_bytes)));
        let target = target.min(self.captures.needs().unwrap_or(u64::MAX));
        if self.purged.is_some_and(|purged| target <= purged) {
            return Ok(());
        }
        self.purged = Some(target);
        if raft.trigger().purge_log(target).await.is_err() {
            return Err(fatal(raft).await);
        }
        Ok(())
    }

    /// Up to where every other member holds the log; 0 if this node does not know.
    fn needed_by_others(&self) -> u64 {
        let matched = self.changes.matched();
        let others = matched.iter().filter(|(node, _)| **node != self.node.0);
        others.map(|(_, matched)| matched.unwrap_or(0)).min().unwrap_or(0)
    }

    fn status(&self) -> Status {
        let metrics = self.leads.borrow_watched().clone();
        let leads = metrics.state == ServerState::Leader;
        let (matched, position) = (self.changes.matched(), self.machine.applied());
        let last = self.kept.last().unwrap_or(0);
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let now = self.env.now();
        let own = Progress {
            matched: Some(last),
            lag: 0,
            heard: Some(Duration::ZERO),
            version: position.version,
            chain: position.chain,
            level: txn::LEVEL,
        };
        let progress_of = |node: u64| {
            let contact = self.contacts.of(NodeId(node));
            let matched = matched.get(&node).copied().flatten();
            Progress {
                matched,
                lag: last.saturating_sub(matched.unwrap_or(0)),
                heard: contact.heard.map(|heard| now - heard),
                version: contact.report.map(|report| report.version).unwrap_or_default(),
                chain: contact.report.map(|report| report.chain).unwrap_or_default(),
                level: contact.level,
            }
        };
        let members = membership.nodes().map(|(node, peer)| MemberStatus {
            node: NodeId(*node),
            voter: voters.contains(node),
            addresses: Addresses { peer: peer.address.clone(), client: peer.client_address.clone() },
            progress: match *node == self.node.0 {
                true => Some(own),
                false => leads.then(|| progress_of(*node)),
            },
        });
        Status {
            leader: metrics.current_leader.map(NodeId),
            term: Term(metrics.vote.leader_id.term),
            members: members.collect(),
        }
    }

    /// Says who leads when that has changed.
    fn observe_leadership(&mut self) {
        let (term, leads) = {
            let metrics = self.leads.borrow_and_update();
            let membership = metrics.membership_config.membership();
            let leader = metrics.current_leader.and_then(|node| {
                let peer = membership.get_node(&node)?;
                let addresses = Addresses { peer: peer.address.clone(), client: peer.client_address.clone() };
                Some(Leader { node: NodeId(node), addresses })
            });
            membership.nodes().for_each(|(node, peer)| self.contacts.moved(NodeId(*node), &peer.address));
            let alone = membership.nodes().count() <= 1;
            self.aside_above.store(if alone { self.aside_above_alone } else { 0 }, Ordering::Relaxed);
            self.shown.is_leader.store(metrics.state == ServerState::Leader, Ordering::Release);
            self.shown.is_voter.store(membership.voter_ids().any(|node| node == self.node.0), Ordering::Release);
            let changed = std::mem::replace(&mut *self.shown.leader.lock(), leader.clone()) != leader;
            if changed {
                self.shown.leader_changed.notify_one();
            }
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
