//! Deciding one request, at its place in the order.

use super::{
    answer::{Body, Completion, Refusal, Reply, decode_answer, encode_answer},
    committer::{Committer, KeyedWaiter, Waits},
    request::{Evaluation, EvaluationError, Item, Keyed, Origin, Work},
    view::View,
};
use crate::{
    encoding::Reader,
    storage::{Pressure, Snapshot},
    txn::{CommitRequest, Conflict, Mutation, Mutations, Record, Recorded, WriteBuffer, read_record},
    types::{IdempotencyPair, Version, limits},
};
use bytes::Bytes;
use std::sync::{Arc, atomic::Ordering};

/// Memory that a mutation may cost the engine beyond its own bytes.
const MUTATION_OVERHEAD_BYTES: u64 = 128;
/// What a record takes besides what is recorded.
const RECORD_BYTES: usize = 64;

/// One answer that waits for an entry.
pub(super) struct Wait {
    pub(super) request: u64,
    /// Which item of the entry.
    pub(super) place: u32,
    retry: bool,
    says: Says,
}

/// What to answer once the entry is applied.
enum Says {
    /// The version, and the results of atomic operations if there were any.
    Committed,
    /// The version and a layer's reply.
    Payload(Bytes),
    /// That the pair is fenced.
    Fenced,
    /// An answer that was decided before it was recorded.
    Answer(Box<Result<Reply, Refusal>>),
}

impl Wait {
    /// The answer of an entry that was applied from `first` on.
    pub(super) fn applied(self, first: Version, results: Option<&[Bytes]>) -> Completion {
        let version = Version(first.0 + u64::from(self.place));
        let body = match self.says {
            Says::Answer(result) => return Completion { request: self.request, result: *result },
            Says::Committed => results.map_or(Body::Empty, |results| Body::Results(results.to_vec())),
            Says::Payload(payload) => Body::Payload(payload),
            Says::Fenced => Body::Outcome(Some(Record::Never)),
        };
        Completion { request: self.request, result: Ok(Reply::new(version, body)) }
    }

    /// The answer of an entry that was not. A retry does not know what became of the attempt before it; a question
    /// changed nothing that matters and may be asked again.
    pub(super) fn refused(self, refusal: Refusal) -> Completion {
        let refusal = match self.says {
            Says::Fenced => Refusal::NotApplied,
            _ if self.retry => Refusal::Unknown,
            _ => refusal,
        };
        Completion { request: self.request, result: Err(refusal) }
    }
}

impl Committer {
    /// Decides one request: it joins the entry being built, waits for another, is deferred, or is refused.
    pub(super) fn decide(&mut self, origin: &Arc<Origin>, block: &Bytes, item: Item) {
        let Item { request, deadline, keyed, work } = item;
        if let Some(keyed) = keyed
            && self.settled_by_name(origin, request, keyed, &work)
        {
            return;
        }
        if deadline <= self.now {
            return refuse(origin, request, Refusal::Expired, keyed);
        }
        match work {
            Work::Single { kind, fields } => self.decide_single(origin, request, keyed, kind, &block[fields]),
            Work::Commit(commit) => self.decide_commit(origin, request, keyed, *commit),
            Work::Evaluate(evaluation) => self.decide_evaluation(origin, request, keyed, evaluation),
            Work::Recorded(rejection) => {
                self.answer_unwritten(origin, request, keyed, Err(Refusal::Rejected(rejection)));
            }
            Work::Outcome(pair) => self.decide_outcome(origin, request, pair),
        }
    }

    /// A keyed request is looked up before anything else about it is judged. Returns whether that settled it.
    fn settled_by_name(&mut self, origin: &Arc<Origin>, request: u64, keyed: Keyed, work: &Work) -> bool {
        let payload = matches!(work, Work::Evaluate(_));
        let waiter = KeyedWaiter { origin: Arc::clone(origin), request, asks: false, retry: keyed.retry, payload };
        if let Some(waiters) = self.keyed.get_mut(&keyed.pair) {
            waiters.push(waiter);
            return true;
        }
        let result = match read_record(&self.engine, keyed.pair) {
            Ok(Some(record)) => waiter.result_of(record),
            Ok(None) if keyed.pair.seen < self.expiry.floor() => {
                Err(Refusal::KeyExpired { floor: self.expiry.floor(), retried: keyed.retry })
            }
            Ok(None) if keyed.pair.seen > self.last_assigned() => {
                // Shows the state, and one who leads no longer has an old one.
                self.defer(origin, request, true, Err(Refusal::OtherTimeline { last: self.last_assigned() }));
                return true;
            }
            Ok(None) => return false,
            Err(_) => Err(Refusal::Unavailable),
        };
        self.metrics.answered_by_record.fetch_add(1, Ordering::Relaxed);
        waiter.answer(result);
        true
    }

    fn decide_outcome(&mut self, origin: &Arc<Origin>, request: u64, pair: IdempotencyPair) {
        let waiter = KeyedWaiter { origin: Arc::clone(origin), request, asks: true, retry: false, payload: false };
        if let Some(waiters) = self.keyed.get_mut(&pair) {
            return waiters.push(waiter);
        }
        let expired = Ok(Reply::new(self.applied, Body::Outcome(None)));
        match read_record(&self.engine, pair) {
            Ok(Some(record)) => return waiter.answer(Ok(Reply::new(self.applied, Body::Outcome(Some(record))))),
            Ok(None) if pair.seen < self.expiry.floor() => return waiter.answer(expired),
            Ok(None) if pair.seen > self.last_assigned() => {
                return self.defer(origin, request, true, Err(Refusal::OtherTimeline { last: self.last_assigned() }));
            }
            Ok(None) => {}
            Err(_) => return waiter.answer(Err(Refusal::Unavailable)),
        }
        if let Err(refusal) = self.take_memory(1, RECORD_BYTES, true) {
            return waiter.answer(Err(refusal));
        }
        self.metrics.fences.fetch_add(1, Ordering::Relaxed);
        self.building().builder.push_fence(pair);
        self.wait(origin, request, Some(Keyed { pair, retry: false }), Says::Fenced);
    }

    /// The hot path: a single blind mutation.
    fn decide_single(&mut self, origin: &Arc<Origin>, request: u64, keyed: Option<Keyed>, kind: u8, fields: &[u8]) {
        let deletes = kind == Mutation::KIND_DELETE;
        if let Err(refusal) = self.take_memory(1, fields.len() + record_bytes(keyed, 0), deletes) {
            return refuse(origin, request, refusal, keyed);
        }
        let atomic = kind == Mutation::KIND_ATOMIC;
        let builder = &mut self.building().builder;
        let version = match keyed {
            None => builder.push_single(kind, fields, atomic),
            Some(keyed) => builder.push_keyed(keyed.pair, None, 1, &[&[kind], fields], atomic),
        };
        self.resolver.record(version, single_key(kind, fields));
        if self.in_flight.is_indexed() {
            self.in_flight.note(version, &[&[kind], fields].concat());
        }
        self.wait(origin, request, keyed, Says::Committed);
    }

    fn decide_commit(&mut self, origin: &Arc<Origin>, request: u64, keyed: Option<Keyed>, commit: CommitRequest) {
        // It commits at its read version, whatever was written since.
        if commit.mutations == 0 {
            return self.answer_unwritten(origin, request, keyed, Ok((commit.read_version, Body::Empty)));
        }
        let points = commit.points.iter().map(|key| &key[..]);
        if let Err(conflict) = self.resolver.check(commit.read_version, points, &commit.ranges) {
            let (counter, refusal) = match conflict {
                Conflict::Changed { key, version } => (&self.metrics.conflicts, Refusal::Conflict { key, version }),
                Conflict::TooOld { floor } => (&self.metrics.too_old, Refusal::TooOld { floor }),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            // Not recorded even for a marked retry: the client begins anew under a pair of its own.
            return self.defer(origin, request, false, Err(refusal));
        }
        let deletes_only =
            || Mutations::new(&commit.body).all(|mutation| matches!(mutation, Ok(Mutation::Delete { .. })));
        let bytes = commit.body.len() + record_bytes(keyed, 0);
        if let Err(refusal) = self.take_memory(commit.mutations, bytes, deletes_only()) {
            return refuse(origin, request, refusal, keyed);
        }
        self.accept(origin, request, keyed, None, commit.mutations, &commit.body, commit.atomics > 0);
    }

    fn decide_evaluation(&mut self, origin: &Arc<Origin>, request: u64, keyed: Option<Keyed>, evaluation: Evaluation) {
        let version = self.last_assigned().next();
        let building = self.building.as_ref().map(|building| (building.builder.unfinished(), building.builder.count()));
        self.in_flight.want_index(building);
        let mut view = View::new(Snapshot::now(&self.engine), &self.in_flight, version);
        self.metrics.evaluations.fetch_add(1, Ordering::Relaxed);
        match evaluation(&mut view) {
            Ok(payload) => {
                let writes = view.into_writes();
                if writes.is_empty() {
                    let read = Ok((self.last_assigned(), Body::Payload(payload)));
                    return self.answer_unwritten(origin, request, keyed, read);
                }
                self.accept_evaluation(origin, request, keyed, payload, writes);
            }
            Err(EvaluationError::Rejected(rejection)) => {
                self.answer_unwritten(origin, request, keyed, Err(Refusal::Rejected(rejection)));
            }
            Err(EvaluationError::TooLong { rows_max }) => {
                self.answer_unwritten(origin, request, keyed, Err(Refusal::TooLong { rows_max }));
            }
            Err(EvaluationError::Storage(_)) => refuse(origin, request, Refusal::Unavailable, keyed),
        }
    }

    fn accept_evaluation(
        &mut self,
        origin: &Arc<Origin>,
        request: u64,
        keyed: Option<Keyed>,
        payload: Bytes,
        writes: WriteBuffer,
    ) {
        let mutations = u32::try_from(writes.len()).expect("bounded by the transaction limit");
        let atomics = writes.atomics() > 0;
        let body = writes.into_body();
        let deletes_only = Mutations::new(&body).all(|mutation| matches!(mutation, Ok(Mutation::Delete { .. })));
        let bytes = body.len() + record_bytes(keyed, payload.len());
        if let Err(refusal) = self.take_memory(mutations, bytes, deletes_only) {
            return refuse(origin, request, refusal, keyed);
        }
        self.accept(origin, request, keyed, Some(payload), mutations, &body, atomics);
    }

    /// Puts a commit into the entry being built.
    #[expect(clippy::too_many_arguments, reason = "a commit's parts, each of its own type")]
    fn accept(
        &mut self,
        origin: &Arc<Origin>,
        request: u64,
        keyed: Option<Keyed>,
        payload: Option<Bytes>,
        mutations: u32,
        body: &Bytes,
        atomics: bool,
    ) {
        let builder = &mut self.building().builder;
        let version = match keyed {
            None => builder.push_commit(mutations, &[body], atomics),
            Some(keyed) => builder.push_keyed(keyed.pair, payload.as_deref(), mutations, &[body], atomics),
        };
        for mutation in Mutations::new(body) {
            self.resolver.record(version, mutation.expect("the mutations were checked when they came").key());
        }
        self.in_flight.note(version, body);
        self.wait(origin, request, keyed, payload.map_or(Says::Committed, Says::Payload));
    }

    /// An answer that shows state without having written. A marked retry's is recorded, so that whoever sends it once
    /// more hears the same.
    fn answer_unwritten(
        &mut self,
        origin: &Arc<Origin>,
        request: u64,
        keyed: Option<Keyed>,
        answer: Result<(Version, Body), Refusal>,
    ) {
        let result = answer.map(|(version, body)| Reply::new(version, body));
        match keyed {
            Some(keyed) if keyed.retry => {
                let encoded = encode_answer(&result);
                if let Err(refusal) = self.take_memory(1, RECORD_BYTES + encoded.len(), false) {
                    return refuse(origin, request, refusal, Some(keyed));
                }
                self.building().builder.push_answer(keyed.pair, &encoded);
                self.wait(origin, request, Some(keyed), Says::Answer(Box::new(result)));
            }
            _ => self.defer(origin, request, true, result),
        }
    }

    /// The last item pushed into the entry being built is what `request` waits for.
    fn wait(&mut self, origin: &Arc<Origin>, request: u64, keyed: Option<Keyed>, says: Says) {
        if let Some(keyed) = keyed {
            self.keyed.entry(keyed.pair).or_default();
            self.building().pairs.push(keyed.pair);
            self.expiry.count(1);
        }
        let building = self.building();
        let retry = keyed.is_some_and(|keyed| keyed.retry);
        let wait = Wait { request, place: building.builder.count() - 1, retry, says };
        match building.groups.last_mut() {
            Some(group) if Arc::ptr_eq(&group.origin, origin) => group.waits.push(wait),
            _ => building.groups.push(Waits { origin: Arc::clone(origin), waits: vec![wait] }),
        }
    }

    /// Answers everybody else who asked about a pair that was in flight, from its record.
    pub(super) fn answer_keyed(&mut self, pair: IdempotencyPair) {
        let waiters = self.keyed.remove(&pair).unwrap_or_default();
        if waiters.is_empty() {
            return;
        }
        let record = read_record(&self.engine, pair);
        for waiter in waiters {
            let result = match &record {
                Ok(Some(record)) => waiter.result_of(record.clone()),
                // An entry behind its own raised the floor above it.
                Ok(None) if waiter.asks => Ok(Reply::new(self.applied, Body::Outcome(None))),
                Ok(None) => Err(Refusal::KeyExpired { floor: self.expiry.floor(), retried: true }),
                Err(_) => Err(Refusal::Unavailable),
            };
            waiter.answer(result);
        }
    }

    /// Admits what a commit will cost the engine, if it takes anything now. Deletes may use the last sixteenth, so that a full store can be
    /// emptied.
    fn take_memory(&mut self, mutations: u32, bytes: usize, deletes_only: bool) -> Result<(), Refusal> {
        match self.pressure {
            Pressure::None => {}
            Pressure::Behind => {
                self.metrics.behind.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::Behind);
            }
            Pressure::DiskFull { available, reserve } => {
                self.metrics.disk_full.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::DiskFull { available, reserve });
            }
        }
        let cost = bytes as u64 + u64::from(mutations) * MUTATION_OVERHEAD_BYTES;
        let bytes_max = self.memory_max;
        let reserve = if deletes_only { 0 } else { bytes_max / 16 };
        if cost + reserve > self.memory_left {
            self.metrics.memory_full.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::MemoryFull { bytes: bytes_max - self.memory_left.min(bytes_max), bytes_max });
        }
        self.memory_left -= cost;
        Ok(())
    }
}

/// What the record of a keyed commit takes, with a reply of `reply` bytes.
fn record_bytes(keyed: Option<Keyed>, reply: usize) -> usize {
    keyed.map_or(0, |_| RECORD_BYTES + reply.min(limits::RECORDED_RESULT_BYTES_MAX))
}

impl KeyedWaiter {
    /// What a record answers to whoever asks.
    fn result_of(&self, record: Record) -> Result<Reply, Refusal> {
        if self.asks {
            let version = if let Record::Committed(version, _) = record { version } else { Version::ZERO };
            return Ok(Reply::new(version, Body::Outcome(Some(record))));
        }
        match record {
            Record::Never => Err(Refusal::Fenced),
            Record::Answered(_, answer) => decode_answer(&answer),
            Record::Committed(version, recorded) => {
                let body = match (recorded, self.payload) {
                    (Recorded::Reply(reply), true) => Body::Payload(reply),
                    (Recorded::Results(results), false) if results.is_empty() => Body::Empty,
                    (Recorded::Results(results), false) => Body::Results(results),
                    (Recorded::Dropped, false) => Body::Empty,
                    (Recorded::Dropped, true) => return Err(Refusal::ResultDropped { applied: true }),
                    (Recorded::Reply(_), false) | (Recorded::Results(_), true) => {
                        return Err(Refusal::PairReused);
                    }
                };
                Ok(Reply::new(version, body))
            }
        }
    }
}

/// The full key of a mutation: first among its fields, but for the operation of an atomic.
pub(super) fn single_key(kind: u8, fields: &[u8]) -> &[u8] {
    let before = usize::from(kind == Mutation::KIND_ATOMIC);
    Reader::new(&fields[before..]).full_key().expect("the session decoded it")
}

fn refuse(origin: &Origin, request: u64, refusal: Refusal, keyed: Option<Keyed>) {
    let refusal = match keyed {
        // The attempt before this one may have committed; only its record could have told.
        Some(Keyed { retry: true, .. }) if refusal == Refusal::NotApplied => Refusal::Unknown,
        _ => refusal,
    };
    origin.mailbox.deliver([Completion { request, result: Err(refusal) }]);
}
