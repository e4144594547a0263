//! A node whose group can be made to misbehave, and what it answers.

use bytes::{BufMut, Bytes, BytesMut};
use quantadb::{
    consensus::Faults,
    env::{Env, Files, Moment, Provider, Task},
    node::{
        Batch, Body, Completion, Evaluation, Identity, Item, Keyed, Mailbox, Node, NodeOptions, Refusal, Rejection,
        Reply, Work,
    },
    storage::{Engine, MemoryEngine, MemoryOptions, Snapshot},
    txn::{CommitRequest, Mutation, Transaction},
    types::{ClusterId, FullKey, IdempotencyPair, Isolation, KeyspaceId, NodeId, Version},
};
use slog::{Discard, Logger, o};
use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub type Answer = Result<Reply, Refusal>;

pub fn key(name: &str) -> FullKey {
    KeyspaceId::DEFAULT.full_key(name.as_bytes())
}

pub fn pair(name: u8, seen: Version) -> IdempotencyPair {
    IdempotencyPair { key: [name; 16], seen }
}

pub fn first(pair: IdempotencyPair) -> Option<Keyed> {
    Some(Keyed { pair, retry: false })
}

pub fn again(pair: IdempotencyPair) -> Option<Keyed> {
    Some(Keyed { pair, retry: true })
}

/// The environment of the operating system with a clock that can be put forward.
pub struct Ahead {
    real: Env,
    by: AtomicU64,
}

impl Ahead {
    pub fn put_forward(&self, by: Duration) {
        self.by.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

struct Clock(Arc<Ahead>);

impl Provider for Clock {
    fn now(&self) -> Moment {
        self.0.real.now() + Duration::from_nanos(self.0.by.load(Ordering::SeqCst))
    }
    fn wall_ms(&self) -> u64 {
        self.0.real.wall_ms()
    }
    fn random(&self, bytes: &mut [u8]) {
        self.0.real.random(bytes);
    }
    fn sleep_until(&self, when: Moment) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ahead = Duration::from_nanos(self.0.by.load(Ordering::SeqCst));
        self.0.real.sleep(when - (self.0.real.now() + ahead))
    }
    fn spawn(&self, name: &'static str, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Task {
        self.0.real.spawn(name, future)
    }
    fn files(&self) -> &dyn Files {
        self.0.real.files()
    }
}

/// What the node is made of.
pub struct Made {
    pub options: NodeOptions,
    pub engine: Arc<dyn Engine>,
    pub remote_reads: bool,
}

impl Default for Made {
    fn default() -> Made {
        let mut options = NodeOptions::default();
        // Each request is an entry of its own, so that a test can say what becomes of which.
        options.committer.entry_items_max = 1;
        Made { options, engine: engine(1 << 30), remote_reads: false }
    }
}

pub fn engine(bytes_max: u64) -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new(MemoryOptions { bytes_max, hash_seed: 7 }))
}

pub struct Rig {
    runtime: Runtime,
    pub node: Arc<Node>,
    pub faults: Faults,
    pub clock: Arc<Ahead>,
    pub mailbox: Arc<Mailbox>,
    arrived: HashMap<u64, Answer>,
    next: u64,
}

impl Rig {
    pub fn start() -> Rig {
        Rig::start_with(Made::default())
    }

    pub fn start_with(made: Made) -> Rig {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock = Arc::new(Ahead { real: Env::real(), by: AtomicU64::new(0) });
        let env = Env::from_provider(Arc::new(Clock(Arc::clone(&clock))));
        let identity = Identity { cluster: ClusterId(*b"testing testing."), node: NodeId(1) };
        let log = Logger::root(Discard, o!());
        let (node, faults) = {
            let _runtime = runtime.enter();
            Node::start_faulty(&env, &log, identity, made.engine, made.options, made.remote_reads)
        };
        let mut rig = Rig {
            runtime,
            node: Arc::new(node),
            faults,
            clock,
            mailbox: Arc::default(),
            arrived: HashMap::new(),
            next: 1,
        };
        // The first answer says that the committer has heard who leads.
        until(|| rig.node.metrics().leading.load(Ordering::SeqCst));
        while rig.ask(IdempotencyPair { key: [0xee; 16], seen: Version(0) }) == Err(Refusal::NotLeader) {}
        rig
    }

    pub fn now(&self) -> Moment {
        Clock(Arc::clone(&self.clock)).now()
    }

    /// Hands over one request; returns its name.
    pub fn send(&mut self, keyed: Option<Keyed>, work: Work) -> u64 {
        self.try_send(keyed, Bytes::new(), work).expect("it is admitted")
    }

    pub fn try_send(&mut self, keyed: Option<Keyed>, block: Bytes, work: Work) -> Option<u64> {
        let deadline = self.now() + Duration::from_secs(60);
        self.send_until(deadline, keyed, block, work)
    }

    pub fn send_until(&mut self, deadline: Moment, keyed: Option<Keyed>, block: Bytes, work: Work) -> Option<u64> {
        let request = self.next;
        self.next += 1;
        let items = vec![Item { request, deadline, keyed, work }];
        self.node.submit(Batch { mailbox: Arc::clone(&self.mailbox), block, items }).is_ok().then_some(request)
    }

    pub fn put(&mut self, name: &str, value: &[u8]) -> u64 {
        self.put_keyed(None, name, value)
    }

    pub fn put_keyed(&mut self, keyed: Option<Keyed>, name: &str, value: &[u8]) -> u64 {
        let (block, work) = single(Mutation::Put { key: &key(name), value });
        self.try_send(keyed, block, work).expect("it is admitted")
    }

    pub fn delete(&mut self, name: &str) -> u64 {
        let (block, work) = single(Mutation::Delete { key: &key(name) });
        self.try_send(None, block, work).expect("it is admitted")
    }

    pub fn evaluate(&mut self, keyed: Option<Keyed>, evaluation: Evaluation) -> u64 {
        self.send(keyed, Work::Evaluate(evaluation))
    }

    pub fn outcome(&mut self, pair: IdempotencyPair) -> u64 {
        self.send(None, Work::Outcome(pair))
    }

    /// Waits until everything handed over so far is decided: what comes too late is answered at its turn, and at once.
    pub fn until_decided(&mut self) {
        let (block, work) = single(Mutation::Delete { key: &key("nothing") });
        let late = self.send_until(Moment(0), None, block, work).expect("it is admitted");
        assert_eq!(self.answer(late), Err(Refusal::Expired));
    }

    pub fn ask(&mut self, pair: IdempotencyPair) -> Answer {
        let request = self.outcome(pair);
        self.answer(request)
    }

    pub fn commit(&mut self, commit: CommitRequest) -> u64 {
        self.send(None, Work::Commit(Box::new(commit)))
    }

    /// The answer to a request, when it comes.
    pub fn answer(&mut self, request: u64) -> Answer {
        let (mailbox, arrived) = (Arc::clone(&self.mailbox), &mut self.arrived);
        let answered = async {
            poll_fn(|cx| {
                let mut taken: Vec<Completion> = Vec::new();
                mailbox.take(&mut taken, cx.waker());
                for completion in taken {
                    let before = arrived.insert(completion.request, completion.result);
                    assert_eq!(before, None, "request {} is answered twice", completion.request);
                }
                if arrived.contains_key(&request) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answered).await }).expect("an answer comes");
        self.arrived[&request].clone()
    }

    /// What has been answered so far.
    pub fn answered(&mut self) -> Vec<u64> {
        let mut taken = Vec::new();
        self.mailbox.take(&mut taken, std::task::Waker::noop());
        for completion in taken {
            let before = self.arrived.insert(completion.request, completion.result);
            assert_eq!(before, None, "request {} is answered twice", completion.request);
        }
        let mut requests: Vec<u64> = self.arrived.keys().copied().collect();
        requests.sort_unstable();
        requests
    }

    pub fn version(&mut self, request: u64) -> Version {
        self.answer(request).expect("it is carried out").version
    }

    /// Waits until the group holds this many entries.
    pub fn until_held(&self, entries: usize) {
        until(|| self.faults.held() >= entries);
    }

    pub fn handed(&self) -> u64 {
        self.node.metrics().entries.load(Ordering::SeqCst)
    }

    pub fn until_evaluated(&self, evaluations: u64) {
        until(|| self.node.metrics().evaluations.load(Ordering::SeqCst) >= evaluations);
    }

    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        Snapshot::now(self.node.engine()).get(&key(name), |row| row.map(|row| row.value.to_vec())).unwrap()
    }

    pub fn begin(&self) -> Transaction {
        Transaction::new(self.node.snapshot(), Isolation::Serializable)
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await }).expect("it ends")
    }
}

/// A transaction that read `read` and puts `write`.
pub fn reads_and_puts(mut transaction: Transaction, read: &str, write: &str) -> CommitRequest {
    transaction.get(quantadb::txn::ReadKind::User, &key(read), |_| ()).unwrap();
    transaction.put(&key(write), b"written").unwrap();
    transaction.into_commit().unwrap()
}

/// Answers what is at a key, or `-`.
pub fn look(name: &str) -> Evaluation {
    let key = key(name);
    Box::new(move |view| Ok(view.get(&key)?.map_or(Bytes::from_static(b"-"), |(_, value)| value)))
}

/// Puts `value` if the key is absent, else is rejected.
pub fn put_if_absent(name: &str, value: &'static [u8]) -> Evaluation {
    let key = key(name);
    Box::new(move |view| {
        if view.get(&key)?.is_some() {
            return Err(taken().into());
        }
        view.write(Mutation::Put { key: &key, value }).unwrap();
        Ok(Bytes::from_static(b"put"))
    })
}

pub fn taken() -> Rejection {
    Rejection::new(77, "taken")
}

pub fn payload(answer: Answer) -> Bytes {
    match answer.expect("it is carried out").body {
        Body::Payload(payload) => payload,
        other => panic!("no payload: {other:?}"),
    }
}

pub fn single(mutation: Mutation<'_>) -> (Bytes, Work) {
    let mut block = BytesMut::new();
    mutation.encode(&mut block);
    let kind = block[0];
    // The fields stand somewhere in a read of the socket, not at its beginning.
    let mut shifted = BytesMut::from(&b"before"[..]);
    shifted.put_slice(&block[1..]);
    let fields = 6..shifted.len();
    (shifted.freeze(), Work::Single { kind, fields })
}

pub fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never comes to that");
        std::thread::yield_now();
    }
}
