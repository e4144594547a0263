//! Cycles of work, cut, restart and judgement.
//!
//! What is judged after each restart, in this order: counters and money before anything is asked; every unknown outcome is
//! asked for, or its write is sent again under its pair; some answers of before, fences among them, are asked for again;
//! counters are exact; every fact of the last life and of one life before is as it was acknowledged. At the end, and
//! whenever the history has grown long, all facts, and the version-order checker over the whole history.

use super::{
    disk::Place,
    ledger::{Again, Answer, Attempt, Ledger, Open},
    process::{Launch, PATIENCE, Server, Start, check},
    work::{Worker, connect, facts_of, full, judge_state, load, read_prefix},
};
use bytes::Bytes;
use quantadb::{
    client::{CallOptions, Client, CommitOutcome, ErrorCode},
    env::Env,
    testing::{
        assertions::eventually,
        generators::Random,
        history::{Outcome, Step},
    },
    types::Version,
};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Runtime, task::JoinHandle};

const WORKERS: u64 = 6;
/// The reader that judges, in the history.
const JUDGE: u64 = 99;
/// Clients of a killed server have this long to read what it had sent.
const GRACE: Duration = Duration::from_millis(250);
/// Answers that are asked for again after a restart.
const ASKED_AGAIN: usize = 12;
/// Records of answers live longer than this.
const RECORDED: Duration = Duration::from_secs(300);
/// So many attempts are judged at once.
const ATTEMPTS_MAX: usize = 1_000_000;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub cycles: u64,
    pub cut_while_starting: u64,
    pub attempts: usize,
    pub unknown_applied: usize,
    pub unknown_fenced: usize,
    pub sent_again: usize,
    pub asked_again: usize,
    pub facts: usize,
    pub restarts: Vec<Duration>,
}

impl Report {
    /// Half of the restarts took no longer, and none took longer.
    fn restart_times(&mut self) -> (Duration, Duration) {
        self.restarts.sort();
        let median = self.restarts.get(self.restarts.len() / 2).copied().unwrap_or_default();
        (median, self.restarts.last().copied().unwrap_or_default())
    }
}

/// The version and the result that an answer tells.
type Told = (Version, Option<Bytes>);

/// One database and its clients over many lives.
pub struct Crash {
    pub place: Place,
    pub launch: Launch,
    pub ledger: Ledger,
    pub random: Random,
    pub report: Report,
    runtime: Arc<Runtime>,
    tasks: Vec<JoinHandle<()>>,
    seed: u64,
    cycle: u64,
}

impl Crash {
    pub fn new(place: Place, launch: Launch, seed: u64) -> Crash {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Crash {
            place,
            launch,
            ledger: Ledger::default(),
            random: Random::new(seed),
            report: Report::default(),
            runtime: Arc::new(runtime.expect("a runtime starts")),
            tasks: Vec::new(),
            seed,
            cycle: 0,
        }
    }

    /// Runs so many cycles, and judges everything at the end.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn run(&mut self, cycles: u64) -> Result<(), String> {
        self.begin()?;
        for done in 1..=cycles {
            self.cycle().map_err(|error| format!("seed {}, cycle {}: {error}", self.seed, self.cycle))?;
            if done % 100 == 0 && done < cycles {
                println!("  {done} of {cycles} cycles");
            }
        }
        self.finish().map_err(|error| format!("seed {}, at the end: {error}", self.seed))
    }

    /// Puts in what must be there first, and stops.
    ///
    /// # Errors
    /// In words.
    pub fn begin(&mut self) -> Result<(), String> {
        let server = self.start()?;
        let done = self.runtime.block_on(async {
            let client = connect(server.address, PATIENCE).await?;
            load(&client, &self.ledger).await
        });
        done.map_err(|error| format!("the first rows: {error}"))?;
        if !self.launch.memory {
            let ended = server.stop()?;
            if ended.code() != Some(0) {
                return Err(format!("the first stop: {:?}\n{}", ended.status, ended.tail()));
            }
        }
        Ok(())
    }

    /// Starts the server, which must become ready.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&mut self) -> Result<Server, String> {
        match self.launch.spawn(&self.place.data(), &self.place.log()).ready()? {
            Start::Ready(server) => {
                self.report.restarts.push(server.ready_after);
                Ok(server)
            }
            Start::Refused(ended) => Err(format!("it does not start: {:?}\n{}", ended.status, ended.tail())),
        }
    }

    fn cycle(&mut self) -> Result<(), String> {
        self.report.cycles += 1;
        if self.random.once_in(10) {
            self.report.cut_while_starting += 1;
            let starting = self.launch.spawn(&self.place.data(), &self.place.log());
            // Real time for it to get somewhere: it paces, and nothing depends on it.
            std::thread::sleep(Duration::from_micros(self.random.below(30_000)));
            self.place.cut(starting.server());
        }
        let server = self.start()?;
        self.judge(&server)?;
        let life = Duration::from_millis(20 + self.random.below(380));
        let server = self.work(server, |_| std::thread::sleep(life))?;
        self.place.cut(server);
        self.gather()?;
        Ok(())
    }

    /// Runs cycles in which the server lives on, and its clients stop in the middle of what they do.
    ///
    /// # Errors
    /// What does not hold.
    pub fn vanish(&mut self, cycles: u64) -> Result<(), String> {
        let server = self.start()?;
        let client = self.runtime.block_on(connect(server.address, PATIENCE)).map_err(|error| error.to_string())?;
        self.runtime.block_on(load(&client, &self.ledger)).map_err(|error| error.to_string())?;
        let mut server = server;
        for _ in 0..cycles {
            self.report.cycles += 1;
            let life = Duration::from_millis(20 + self.random.below(100));
            server = self.work(server, |_| std::thread::sleep(life))?;
            self.tasks.iter().for_each(JoinHandle::abort);
            self.gather()?;
            // What they had sent is done before it is judged.
            let env = Env::real();
            let done = || async {
                let status = client.status().await.ok()?;
                let counter = |name: &str| status.counters.iter().find(|counter| counter.name == name);
                let is = |name: &str, value: u64| counter(name).is_some_and(|counter| counter.value == value);
                (is("connections", 1) && is("deciding_requests", 0)).then_some(())
            };
            self.runtime.block_on(eventually(&env, PATIENCE, "the end of other connections", done));
            self.judge(&server)?;
        }
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(self.judge_all(&client))
    }

    /// Lets clients work while `meanwhile` runs. They are still at work when it returns: cut or stop the server, and then
    /// [`Crash::gather`] them.
    ///
    /// # Errors
    /// If nobody can connect.
    pub fn work(&mut self, mut server: Server, meanwhile: impl FnOnce(&mut Server)) -> Result<Server, String> {
        self.cycle += 1;
        for number in 1..=WORKERS {
            let client = self.runtime.block_on(connect(server.address, PATIENCE));
            // A server that fails on purpose may be gone by now.
            let Ok(client) = client else { break };
            let worker = Worker::new(number, self.seed, self.cycle, client, self.ledger.clone());
            self.tasks.push(self.runtime.spawn(worker.work()));
        }
        meanwhile(&mut server);
        Ok(server)
    }

    /// Waits for the clients of a server that is gone; those that wait for it to come back are stopped.
    ///
    /// # Errors
    /// What one of them saw that must not be.
    pub fn gather(&mut self) -> Result<(), String> {
        let tasks = std::mem::take(&mut self.tasks);
        self.runtime.block_on(async {
            let until = tokio::time::Instant::now() + GRACE;
            let mut seen = Ok(());
            for mut task in tasks {
                let ended = match tokio::time::timeout_at(until, &mut task).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        task.abort();
                        task.await
                    }
                };
                if let Err(error) = ended
                    && error.is_panic()
                {
                    let panic = error.into_panic();
                    let text = panic.downcast_ref::<String>().map_or("a client panicked", String::as_str);
                    seen = Err(text.to_owned());
                }
            }
            seen
        })
    }

    /// Runs something of the clients' to its end.
    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    /// Judges what a restarted server has.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge(&mut self, server: &Server) -> Result<(), String> {
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(async {
            let client = connect(server.address, PATIENCE).await.map_err(|error| error.to_string())?;
            self.judge_by(&client).await
        })
    }

    async fn judge_by(&mut self, client: &Client) -> Result<(), String> {
        self.judge_state(client).await?;
        for attempt in self.ledger.take_unknown() {
            self.resolve(client, attempt).await?;
        }
        for _ in 0..ASKED_AGAIN.min(self.ledger.answers()) {
            let back = self.random.index(self.ledger.answers());
            if let Some(answer) = self.ledger.answer(back).filter(|answer| answer.told.elapsed() < RECORDED) {
                self.report.asked_again += 1;
                self.ask_again(client, answer).await?;
            }
        }
        self.judge_state(client).await?;
        self.judge_facts(client, &facts_of(self.cycle)).await?;
        let before = 1 + self.random.below(self.cycle.max(1));
        self.judge_facts(client, &facts_of(before)).await?;
        if self.ledger.recorder.len() > ATTEMPTS_MAX {
            self.judge_all(client).await?;
        }
        Ok(())
    }

    async fn judge_state(&mut self, client: &Client) -> Result<(), String> {
        let rows = read_prefix(client, &self.ledger, JUDGE, "s/").await.map_err(|error| format!("reading: {error}"))?;
        judge_state(&self.ledger, &rows)
    }

    async fn judge_facts(&mut self, client: &Client, prefix: &str) -> Result<(), String> {
        let rows =
            read_prefix(client, &self.ledger, JUDGE, prefix).await.map_err(|error| format!("reading: {error}"))?;
        self.report.facts += self.ledger.judge_facts(prefix.as_bytes(), &rows)?;
        Ok(())
    }

    /// Finds out what became of an attempt.
    async fn resolve(&mut self, client: &Client, attempt: Attempt) -> Result<(), String> {
        let Some(pair) = attempt.pair else { return Ok(()) };
        if self.random.once_in(4) && !matches!(attempt.again, Again::Ask) {
            let recording = self.ledger.recorder.begin(attempt.client);
            let open = self.ledger.reopen(recording, attempt.clone());
            let outcome = self.send(client, &attempt, open).await?;
            self.report.sent_again += 1;
            return match outcome {
                Some(_) => Ok(()),
                None => Err(format!("{attempt:?} was fenced by nobody")),
            };
        }
        let recording = self.ledger.recorder.begin(attempt.client);
        let open = self.ledger.reopen(recording, attempt.clone());
        match client.outcome(pair).await {
            Ok(CommitOutcome::Committed { version, results }) => {
                self.report.unknown_applied += 1;
                open.told(Some(with_result(&attempt.steps, results)), Outcome::Committed(version));
                Ok(())
            }
            Ok(CommitOutcome::Never) => {
                self.report.unknown_fenced += 1;
                open.told(None, Outcome::Never);
                Ok(())
            }
            other => Err(format!("{other:?} is what became of {attempt:?}")),
        }
    }

    /// Sends a write under its pair, whatever became of it before. `None` if it is fenced.
    async fn send(&mut self, client: &Client, attempt: &Attempt, open: Open) -> Result<Option<Told>, String> {
        let Some(pair) = attempt.pair else { return Err(format!("{attempt:?} has no pair")) };
        let keyspace = client.with(CallOptions::new().idempotency(pair));
        let mut steps = attempt.steps.clone();
        let sent = match &attempt.again {
            Again::Ask => return Err(format!("{attempt:?} cannot be sent again")),
            Again::Put(key, value) => keyspace.put(key, value).await.map(|version| (version, None, true)),
            Again::Add(key, amount) => {
                let done = keyspace.atomic(quantadb::txn::AtomicOp::Add, key, amount).await;
                done.map(|done| (done.version, Some(done.result), true))
            }
            Again::Execute(execute) => {
                let done = keyspace.execute(execute).await;
                done.map(|done| (done.version, None, done.held))
            }
        };
        match sent {
            Ok((version, result, wrote)) => {
                steps = with_result(&steps, result.clone().map(|result| vec![result]));
                if !wrote {
                    steps.clear();
                }
                open.told(Some(steps), if wrote { Outcome::Committed(version) } else { Outcome::ReadOnly(version) });
                Ok(Some((version, result)))
            }
            Err(error) if error.code() == Some(ErrorCode::FENCED) => {
                open.told(None, Outcome::Never);
                Ok(None)
            }
            Err(error) => Err(format!("{attempt:?}, sent again: {error:?}")),
        }
    }

    /// What was told once is told again, by a question or by the same request.
    async fn ask_again(&mut self, client: &Client, answer: Answer) -> Result<(), String> {
        let Answer { attempt, outcome, result, .. } = answer;
        let Some(pair) = attempt.pair else { return Ok(()) };
        let told = if matches!(attempt.again, Again::Ask) || self.random.once_in(2) {
            match client.outcome(pair).await {
                Ok(CommitOutcome::Committed { version, results }) => {
                    let result = results.and_then(|results| results.into_iter().next()).filter(|_| result.is_some());
                    Some((version, result))
                }
                Ok(CommitOutcome::Never) => None,
                other => return Err(format!("{other:?} is what became of {attempt:?}, which had been {outcome}")),
            }
        } else {
            let open = self.ledger.repeat(self.ledger.recorder.begin(attempt.client), attempt.clone());
            self.send(client, &attempt, open).await?
        };
        let same = match (&told, outcome) {
            (Some((version, again)), Outcome::Committed(before)) => *version == before && *again == result,
            (None, Outcome::Never) => true,
            _ => false,
        };
        let change = || format!("{attempt:?} had been {outcome} with {result:?} and is {told:?} when asked again");
        if same { Ok(()) } else { Err(change()) }
    }

    /// Judges every row, and the history of everything since the last time.
    async fn judge_all(&mut self, client: &Client) -> Result<(), String> {
        let state =
            read_prefix(client, &self.ledger, JUDGE, "s/").await.map_err(|error| format!("reading: {error}"))?;
        judge_state(&self.ledger, &state)?;
        let facts =
            read_prefix(client, &self.ledger, JUDGE, "f/").await.map_err(|error| format!("reading: {error}"))?;
        self.report.facts += self.ledger.judge_facts(b"f/", &facts)?;
        let history = self.ledger.recorder.take();
        self.report.attempts += history.transactions.len();
        let summary = history.check().map_err(|violation| violation.to_string())?;
        println!("  {summary:?}");
        // What follows begins with what is there.
        self.ledger.forget_answers();
        for row in state.iter().chain(&facts) {
            let key = full(std::str::from_utf8(&row.key).map_err(|error| error.to_string())?);
            self.ledger.recorder.initial(&key, row.version, &row.value);
        }
        Ok(())
    }

    /// A last start, everything judged, and an orderly end.
    ///
    /// # Errors
    /// What does not hold.
    pub fn finish(&mut self) -> Result<(), String> {
        let server = self.start()?;
        self.judge(&server)?;
        let runtime = Arc::clone(&self.runtime);
        runtime.block_on(async {
            let client = connect(server.address, PATIENCE).await.map_err(|error| error.to_string())?;
            self.judge_all(&client).await
        })?;
        let ended = server.stop()?;
        if ended.code() != Some(0) {
            return Err(format!("the last stop: {:?}\n{}", ended.status, ended.tail()));
        }
        check(&self.place.data())
    }

    /// Prints what the run came to.
    pub fn print(&mut self, what: &str) {
        let (median, max) = self.report.restart_times();
        let Report { cycles, cut_while_starting, attempts, unknown_applied, unknown_fenced, .. } = &self.report;
        let acknowledged = self.ledger.acknowledged();
        println!(
            "{what}: seed {}, {cycles} cycles ({cut_while_starting} also cut while starting), {attempts} attempts, \
             {acknowledged} acknowledged; unknown: {unknown_applied} found applied, {unknown_fenced} not, {} sent again; \
             {} answers asked for again, {} facts read; restart median {median:.1?}, max {max:.1?}",
            self.seed, self.report.sent_again, self.report.asked_again, self.report.facts,
        );
    }
}

/// Steps with the result of their atomic operation, if there is one.
fn with_result(steps: &[Step], results: Option<Vec<Bytes>>) -> Vec<Step> {
    let mut results = results.into_iter().flatten();
    let step = |step: &Step| match step {
        Step::Atomic { op, key, operand, .. } => {
            Step::Atomic { op: *op, key: key.clone(), operand: operand.clone(), result: results.next() }
        }
        other => other.clone(),
    };
    steps.iter().map(step).collect()
}
