//! The committer: one task that decides every commit, in one order, and hands what it accepted to consensus.
//!
//! ```text
//!   batches ──> queue ──> decide ──> entry being built ──> in flight ──> applied ──> mailboxes
//!                            │                                            │
//!                            └── conflicts, reads, rejections ── deferred ┘
//! ```
//!
//! Invariants:
//!
//! - A decision is made against everything decided before it, applied or not; therefore no answer leaves before that
//!   is applied. Answers that wrote nothing are *deferred* until the last version they may have seen is applied, and
//!   those that show state until a read confirmed after the decision too.
//! - Entries are handed over in order, and each states its first version. After any refusal or loss nothing is handed
//!   over until everything handed over is answered; then the resolver starts empty at the applied version.
//! - A keyed request is looked up, in flight and in the records, before anything else about it is judged.
//! - Nothing is decided before this node has applied the first entry of its own term, nor after it stopped leading.
//!
//! Never waits for anything but its inbox; its queues are bounded by admission and by the pipeline's bounds.

use super::{
    answer::{Body, Completion, Refusal, Reply},
    decide::{Wait, single_key},
    expiry::Expiry,
    in_flight::InFlight,
    level,
    metrics::Metrics,
    options::CommitterOptions,
    request::{Admitted, Item, Origin, Work},
};
use crate::{
    consensus::{Failed, Fate, Group, Leadership},
    env::{Env, Moment},
    storage::{Engine, Pressure, Snapshot},
    txn::{EntryBuilder, EntryResult, LEVEL_FIRST, Resolver, ResolverOptions},
    types::{IdempotencyPair, Term, Version},
};
use bytes::Bytes;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
    vec,
};
use tokio::sync::{mpsc, oneshot};

/// How many messages are taken from the inbox at once.
const TAKE_MAX: usize = 256;

/// How many keys of a batch are asked for ahead; more would push each other out of the nearest cache.
const EXPECT_MAX: usize = 64;

/// The least and the most room that an entry begins with.
const ENTRY_BYTES_LEAST: usize = 1024;
const ENTRY_BYTES_MOST: usize = 256 * 1024;

/// What the committer hears.
pub(super) enum Input {
    Batch(Admitted),
    Done {
        sequence: u64,
        fate: Fate,
    },
    Confirmed {
        round: u64,
        confirmed: bool,
    },
    Leadership(Leadership),
    Failed(Failed),
    /// Every member knows this level.
    Level(u16),
    /// Go on with what is queued.
    Again,
    Stop(oneshot::Sender<()>),
}

/// How long decisions go on before answers that came meanwhile are heard and the clock is read again.
const TURN_MAX: Duration = Duration::from_millis(5);

/// Whether anything may be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This node leads, its state is complete, and the order since then has no hole.
    Leading,
    /// Something handed over was refused or lost: wait until everything is answered.
    Draining,
    /// Another node leads, or none.
    Following,
    /// The machine failed.
    Stopped,
}

/// The answers that wait for one entry, from one batch.
pub(super) struct Waits {
    pub(super) origin: Arc<Origin>,
    pub(super) waits: Vec<Wait>,
}

/// The entry under construction.
pub(super) struct Building {
    pub(super) builder: EntryBuilder,
    pub(super) groups: Vec<Waits>,
    pub(super) pairs: Vec<IdempotencyPair>,
}

/// An entry handed over.
struct Handed {
    sequence: u64,
    groups: Vec<Waits>,
    pairs: Vec<IdempotencyPair>,
}

/// An answer that wrote nothing and waits for what it may have seen.
pub(super) struct Deferred {
    pub(super) seen: Version,
    pub(super) origin: Arc<Origin>,
    pub(super) completion: Completion,
}

/// Somebody who asked about a pair that is in flight.
pub(super) struct KeyedWaiter {
    pub(super) origin: Arc<Origin>,
    pub(super) request: u64,
    pub(super) asks: bool,
    pub(super) retry: bool,
    pub(super) payload: bool,
}

/// A batch that is being worked off.
struct Queued {
    origin: Arc<Origin>,
    block: Bytes,
    items: vec::IntoIter<Item>,
}

/// See the module.
pub(super) struct Committer {
    pub(super) env: Env,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) group: Group,
    pub(super) options: CommitterOptions,
    pub(super) metrics: Arc<Metrics>,
    inbox: mpsc::UnboundedSender<Input>,
    state: State,
    term: Term,
    /// The state-machine level of the entries that are built.
    level: u16,
    ready: bool,
    stopping: Option<oneshot::Sender<()>>,
    queue: VecDeque<Queued>,
    pub(super) now: Moment,
    pub(super) resolver: Resolver,
    pub(super) building: Option<Building>,
    handed: VecDeque<Handed>,
    pub(super) in_flight: InFlight,
    pub(super) keyed: HashMap<IdempotencyPair, Vec<KeyedWaiter>>,
    pub(super) expiry: Expiry,
    pub(super) memory_left: u64,
    pub(super) memory_max: u64,
    pub(super) pressure: Pressure,
    /// The version that the next item gets when nothing is being built.
    next_version: Version,
    /// The last version known to be applied.
    pub(super) applied: Version,
    next_sequence: u64,
    /// How long the next entry is likely to be: as long as the last.
    entry_bytes_likely: usize,
    settling: Vec<Deferred>,
    unconfirmed: Vec<Deferred>,
    confirming: VecDeque<(u64, Vec<Deferred>)>,
    next_round: u64,
}

impl Committer {
    pub(super) fn new(
        env: Env,
        engine: Arc<dyn Engine>,
        group: Group,
        options: CommitterOptions,
        metrics: Arc<Metrics>,
        inbox: mpsc::UnboundedSender<Input>,
    ) -> Committer {
        let applied = engine.applied();
        Committer {
            now: env.now(),
            resolver: Resolver::new(applied.version, resolver_options(&env, &options)),
            expiry: Expiry::new(applied.idempotency_floor, options.idempotency_window, options.idempotency_records_max),
            applied: applied.version,
            next_version: applied.version.next(),
            env,
            engine,
            group,
            options,
            metrics,
            inbox,
            state: State::Following,
            term: Term(0),
            level: LEVEL_FIRST,
            ready: false,
            stopping: None,
            queue: VecDeque::new(),
            building: None,
            handed: VecDeque::new(),
            in_flight: InFlight::default(),
            keyed: HashMap::new(),
            memory_left: 0,
            memory_max: 0,
            pressure: Pressure::None,
            next_sequence: 1,
            entry_bytes_likely: ENTRY_BYTES_LEAST,
            settling: Vec::new(),
            unconfirmed: Vec::new(),
            confirming: VecDeque::new(),
            next_round: 1,
        }
    }

    /// Runs until it is stopped and everything that it accepted is answered.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Input>) {
        let mut taken = Vec::with_capacity(TAKE_MAX);
        while inbox.recv_many(&mut taken, TAKE_MAX).await > 0 {
            self.now = self.env.now();
            for input in taken.drain(..) {
                self.hear(input);
            }
            self.work();
            if self.stopping.is_some() && self.is_idle() {
                break;
            }
        }
        if let Some(stopped) = self.stopping.take() {
            let _ = stopped.send(());
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.building.is_none()
            && self.handed.is_empty()
            && self.settling.is_empty()
            && self.unconfirmed.is_empty()
            && self.confirming.is_empty()
    }

    fn hear(&mut self, input: Input) {
        match input {
            Input::Batch(batch) => {
                let Admitted { origin, block, items } = batch;
                self.expect_keys(&block, &items);
                self.queue.push_back(Queued { origin, block, items: items.into_iter() });
            }
            Input::Done { sequence, fate } => self.done(sequence, fate),
            Input::Confirmed { round, confirmed } => self.confirmed(round, confirmed),
            Input::Leadership(leadership) => self.leadership(leadership),
            Input::Failed(failed) => self.failed(&failed),
            // A new leader has read it, and entries that follow have it sooner or later.
            Input::Level(level) => self.level = self.level.max(level),
            Input::Again => {}
            Input::Stop(stopped) => self.stopping = Some(stopped),
        }
    }

    /// Tells the resolver which keys come, so that its memory is near when they are decided.
    fn expect_keys(&self, block: &[u8], items: &[Item]) {
        for item in items.iter().take(EXPECT_MAX) {
            if let Work::Single { kind, fields } = &item.work {
                self.resolver.expect(single_key(*kind, &block[fields.clone()]));
            }
        }
    }

    /// Decides what is queued as far as the pipeline has room, and hands over what was built.
    fn work(&mut self) {
        if self.state != State::Leading {
            self.refuse_queue();
            return;
        }
        self.expiry.sample(self.now, self.applied);
        let usage = self.engine.usage();
        let under_way = self.in_flight.bytes() as u64;
        self.pressure = usage.pressure;
        self.memory_max = usage.bytes_max;
        self.memory_left = usage.bytes_max.saturating_sub(usage.bytes).saturating_sub(2 * under_way);
        loop {
            if self.building.as_ref().is_some_and(|building| self.is_full(building)) && !self.hand_over() {
                break;
            }
            let Some(queued) = self.queue.front_mut() else { break };
            match queued.items.next() {
                Some(item) => {
                    let (origin, block) = (Arc::clone(&queued.origin), queued.block.clone());
                    // Only what looks first takes long enough to tell.
                    let is_long = matches!(item.work, Work::Evaluate(_));
                    self.decide(&origin, &block, item);
                    if is_long && self.env.now() - self.now > TURN_MAX {
                        let _ = self.inbox.send(Input::Again);
                        break;
                    }
                }
                None => drop(self.queue.pop_front()),
            }
        }
        self.hand_over();
        self.ask_confirmation();
    }

    fn is_full(&self, building: &Building) -> bool {
        building.builder.count() >= self.options.entry_items_max
            || building.builder.len() >= self.options.entry_bytes_max
    }

    /// What is queued while nothing may be decided: kept while that may pass, else refused.
    fn refuse_queue(&mut self) {
        let refusal = match self.state {
            State::Leading => return,
            // It will decide again, at once.
            State::Draining if self.ready => return,
            State::Draining | State::Following => Refusal::NotLeader,
            State::Stopped => Refusal::Unavailable,
        };
        for queued in std::mem::take(&mut self.queue) {
            let refuse = |item: Item| Completion { request: item.request, result: Err(refusal.clone()) };
            queued.origin.mailbox.deliver(queued.items.map(refuse));
        }
    }

    /// The entry being built, begun if there is none.
    pub(super) fn building(&mut self) -> &mut Building {
        let (next, floor) = (self.next_version, self.expiry.floor());
        let (env, capacity, level) = (&self.env, self.entry_bytes_likely, self.level);
        self.building.get_or_insert_with(|| Building {
            builder: EntryBuilder::new(next, env.wall_ms(), floor, capacity).at_level(level),
            groups: Vec::new(),
            pairs: Vec::new(),
        })
    }

    /// The last version assigned to anything.
    pub(super) fn last_assigned(&self) -> Version {
        let next = self.building.as_ref().map_or(self.next_version, |building| building.builder.next_version());
        Version(next.0 - 1)
    }

    /// Hands over the entry being built. Returns whether there is room for another.
    fn hand_over(&mut self) -> bool {
        let open = self.in_flight.count() < self.options.pipeline_entries_max
            && self.in_flight.bytes() < self.options.pipeline_bytes_max;
        if !open {
            return false;
        }
        let Some(building) = self.building.take() else { return true };
        self.next_version = building.builder.next_version();
        self.metrics.entries.fetch_add(1, Ordering::Relaxed);
        self.metrics.commits.fetch_add(u64::from(building.builder.count()), Ordering::Relaxed);
        let entry = building.builder.finish();
        self.entry_bytes_likely = entry.len().next_power_of_two().clamp(ENTRY_BYTES_LEAST, ENTRY_BYTES_MOST);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.in_flight.push(sequence, entry.clone());
        self.handed.push_back(Handed { sequence, groups: building.groups, pairs: building.pairs });
        let inbox = self.inbox.clone();
        let respond = Box::new(move |fate| drop(inbox.send(Input::Done { sequence, fate })));
        self.group.propose(self.term, entry, respond);
        true
    }

    fn done(&mut self, sequence: u64, fate: Fate) {
        let Some(place) = self.handed.iter().position(|handed| handed.sequence == sequence) else { return };
        let handed = self.handed.remove(place).expect("the place was just found");
        match fate {
            Fate::Applied(EntryResult::Applied { first, last, results }) => {
                self.applied = last;
                self.resolver.set_applied(last);
                self.in_flight.remove(sequence, last);
                self.answer(handed, first, &results);
                self.settle();
            }
            Fate::Applied(EntryResult::Skipped { .. }) => {
                self.metrics.entries_skipped.fetch_add(1, Ordering::Relaxed);
                self.fail_entry(sequence, handed, &Refusal::NotApplied);
            }
            Fate::Refused => self.fail_entry(sequence, handed, &Refusal::NotApplied),
            Fate::Lost => self.fail_entry(sequence, handed, &Refusal::Unknown),
        }
        if self.handed.is_empty() && self.state == State::Draining {
            self.restart();
        }
    }

    /// Answers everybody who waited for an entry.
    fn answer(&mut self, handed: Handed, first: Version, results: &[(u32, Vec<Bytes>)]) {
        let mut results = results.iter().peekable();
        for Waits { origin, waits } in handed.groups {
            origin.mailbox.deliver(waits.into_iter().map(|wait| {
                while results.peek().is_some_and(|(place, _)| *place < wait.place) {
                    results.next();
                }
                let of_item = results.peek().filter(|(place, _)| *place == wait.place);
                wait.applied(first, of_item.map(|(_, results)| &results[..]))
            }));
        }
        for pair in handed.pairs {
            self.answer_keyed(pair);
        }
    }

    /// An entry changed nothing, or nobody knows: says so, and decides nothing more until all is answered.
    fn fail_entry(&mut self, sequence: u64, handed: Handed, refusal: &Refusal) {
        self.metrics.entries_failed.fetch_add(1, Ordering::Relaxed);
        if self.state == State::Leading {
            self.state = State::Draining;
        }
        self.refuse_unsettled(self.applied);
        self.in_flight.remove(sequence, self.applied);
        self.refuse_waits(handed.groups, handed.pairs, refusal);
        if let Some(building) = self.building.take() {
            // Decided on top of what failed, and never handed over.
            self.refuse_waits(building.groups, building.pairs, &Refusal::NotApplied);
        }
    }

    fn refuse_waits(&mut self, groups: Vec<Waits>, pairs: Vec<IdempotencyPair>, refusal: &Refusal) {
        for Waits { origin, waits } in groups {
            origin.mailbox.deliver(waits.into_iter().map(|wait| wait.refused(refusal.clone())));
        }
        for pair in pairs {
            for waiter in self.keyed.remove(&pair).unwrap_or_default() {
                let unknown = *refusal == Refusal::Unknown || waiter.retry;
                let refusal = if unknown && !waiter.asks { Refusal::Unknown } else { Refusal::NotApplied };
                waiter.origin.mailbox.deliver([Completion { request: waiter.request, result: Err(refusal) }]);
            }
        }
    }

    /// Everything handed over is answered and the order had a hole: begin anew at what is applied.
    fn restart(&mut self) {
        let applied = self.engine.applied();
        self.applied = applied.version;
        self.next_version = applied.version.next();
        self.resolver = Resolver::new(applied.version, resolver_options(&self.env, &self.options));
        self.in_flight.clear();
        self.expiry.raise(applied.idempotency_floor);
        self.refuse_unsettled(applied.version);
        self.settle();
        self.state = if self.ready { State::Leading } else { State::Following };
    }

    /// Answers that may have seen something above `settled`, of which nobody knows whether it will be: not as decided.
    /// At once, for what is applied at those versions later need not be what they saw.
    fn refuse_unsettled(&mut self, settled: Version) {
        let confirming = self.confirming.iter_mut().map(|(_, deferred)| deferred);
        let lists = confirming.chain([&mut self.settling, &mut self.unconfirmed]);
        for list in lists {
            for deferred in list.extract_if(.., |deferred| deferred.seen > settled) {
                deferred.refuse(Refusal::NotApplied);
            }
        }
    }

    fn leadership(&mut self, leadership: Leadership) {
        if self.state == State::Stopped {
            return;
        }
        self.metrics.term.store(leadership.term.0, Ordering::Relaxed);
        self.metrics.leading.store(leadership.ready, Ordering::Relaxed);
        self.term = leadership.term;
        self.ready = leadership.ready;
        if self.ready {
            self.expiry.begin();
            // Its state is complete. A store that cannot be read fails with the first thing that is decided.
            self.level = level::active(&Snapshot::now(&self.engine)).unwrap_or(self.level);
        }
        self.state = State::Draining;
        if let Some(building) = self.building.take() {
            self.refuse_waits(building.groups, building.pairs, &Refusal::NotApplied);
        }
        if self.handed.is_empty() {
            self.restart();
        }
    }

    fn failed(&mut self, _failed: &Failed) {
        self.state = State::Stopped;
        self.metrics.leading.store(false, Ordering::Relaxed);
        for handed in std::mem::take(&mut self.handed) {
            self.refuse_waits(handed.groups, handed.pairs, &Refusal::Unknown);
        }
        if let Some(building) = self.building.take() {
            self.refuse_waits(building.groups, building.pairs, &Refusal::NotApplied);
        }
        let confirming = std::mem::take(&mut self.confirming).into_iter().flat_map(|(_, deferred)| deferred);
        let unsettled = std::mem::take(&mut self.settling).into_iter().chain(std::mem::take(&mut self.unconfirmed));
        for deferred in confirming.chain(unsettled) {
            deferred.refuse(Refusal::NotApplied);
        }
        self.in_flight.clear();
    }

    /// Lets an answer that wrote nothing go once what it may have seen is applied, and, if it shows state, once a read
    /// begun after its decision is confirmed.
    pub(super) fn defer(
        &mut self,
        origin: &Arc<Origin>,
        request: u64,
        shows_state: bool,
        result: Result<Reply, Refusal>,
    ) {
        let completion = Completion { request, result };
        let deferred = Deferred { seen: self.last_assigned(), origin: Arc::clone(origin), completion };
        if shows_state && !self.group.local_reads() {
            self.unconfirmed.push(deferred);
        } else {
            self.settle_one(deferred);
        }
    }

    fn settle_one(&mut self, deferred: Deferred) {
        if deferred.seen <= self.applied { deferred.deliver() } else { self.settling.push(deferred) }
    }

    fn settle(&mut self) {
        let applied = self.applied;
        for deferred in self.settling.extract_if(.., |deferred| deferred.seen <= applied) {
            deferred.deliver();
        }
    }

    fn ask_confirmation(&mut self) {
        if self.unconfirmed.is_empty() {
            return;
        }
        let round = self.next_round;
        self.next_round += 1;
        self.confirming.push_back((round, std::mem::take(&mut self.unconfirmed)));
        let inbox = self.inbox.clone();
        self.group.confirm_read(Box::new(move |confirmed| drop(inbox.send(Input::Confirmed { round, confirmed }))));
    }

    fn confirmed(&mut self, round: u64, confirmed: bool) {
        let Some(place) = self.confirming.iter().position(|(asked, _)| *asked == round) else { return };
        let (_, deferred) = self.confirming.remove(place).expect("the place was just found");
        for deferred in deferred {
            if confirmed { self.settle_one(deferred) } else { deferred.refuse(Refusal::NotApplied) }
        }
    }
}

impl Deferred {
    fn deliver(self) {
        self.origin.mailbox.deliver([self.completion]);
    }

    fn refuse(self, refusal: Refusal) {
        let completion = Completion { request: self.completion.request, result: Err(refusal) };
        self.origin.mailbox.deliver([completion]);
    }
}

impl KeyedWaiter {
    pub(super) fn answer(self, result: Result<Reply, Refusal>) {
        self.origin.mailbox.deliver([Completion { request: self.request, result }]);
    }
}

impl Reply {
    pub(super) fn new(version: Version, body: Body) -> Reply {
        Reply { version, body }
    }
}

fn resolver_options(env: &Env, options: &CommitterOptions) -> ResolverOptions {
    ResolverOptions { window_bytes_max: options.resolver_bytes_max, ..ResolverOptions::new(env.random_u64()) }
}
