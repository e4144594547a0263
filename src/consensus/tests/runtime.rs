//! openraft's conformance suite for runtimes, over tokio and in a simulation.

use super::{super::runtime::Runtime, *};
use crate::testing::sim::{Host, Sim};
use openraft::{
    OptionalSend,
    async_runtime::{AsyncRuntime, Instant},
};
use openraft_rt::testing::Suite;
use std::time::Duration;

/// The same runtime, whose programs run in a simulation.
#[derive(Debug)]
struct Simulated;

impl AsyncRuntime for Simulated {
    type JoinError = <Runtime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Runtime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Runtime as AsyncRuntime>::Sleep;
    type Instant = <Runtime as AsyncRuntime>::Instant;
    type TimeoutError = <Runtime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Runtime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Runtime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Runtime as AsyncRuntime>::Mpsc;
    type Watch = <Runtime as AsyncRuntime>::Watch;
    type Oneshot = <Runtime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Runtime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Runtime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Runtime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Runtime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Runtime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Runtime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        Runtime::is_panic(error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Runtime::thread_rng()
    }

    fn new(_threads: usize) -> Simulated {
        Simulated
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        Sim::new(1).block_on(future)
    }
}

#[test]
fn over_tokio_the_runtime_passes_openrafts_suite() {
    Suite::<Runtime>::test_all();
}

#[test]
fn in_a_simulation_the_runtime_passes_openrafts_suite() {
    Suite::<Simulated>::test_all();
}

#[test]
fn time_and_randomness_are_those_of_the_calling_tasks_host() {
    let draw = |seed| {
        let sim = Sim::new(seed);
        let (host, other) = (sim.host("n1"), sim.host("n2"));
        let run = |host: &Host| {
            sim.block_on(host.spawn("draws", async {
                let begun = <Runtime as AsyncRuntime>::Instant::now();
                Runtime::sleep(Duration::from_secs(3_600)).await;
                let beside = Runtime::spawn(async { rand::TryRng::try_next_u64(&mut Runtime::thread_rng()) });
                let Ok(number) = beside.await.unwrap();
                (<Runtime as AsyncRuntime>::Instant::now() - begun, number)
            }))
            .unwrap()
        };
        let drawn = [run(&host), run(&other)];
        assert_eq!(sim.now(), Duration::from_secs(7_200));
        drawn
    };
    let first = draw(1);
    assert_eq!(first, draw(1));
    assert_eq!(first[0].0, Duration::from_secs(3_600));
    assert_ne!(first[0].1, first[1].1, "each host has its own");
    assert_ne!(first, draw(2));
}

/// A group of one on a simulated host: what became of its entries, and the hash of the run.
fn group(seed: u64) -> (Vec<Option<Fate>>, u64) {
    let sim = Sim::new(seed);
    let host = sim.host("n1");
    let env = host.env();
    let fates = host.spawn("proposes", async move {
        let mut rig = Rig::start_in(&env);
        let term = rig.lead().await;
        let (one, two) = tokio::join!(rig.propose(term, b"one"), rig.propose(term, b"two"));
        env.sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.confirm().await, Some(true));
        let three = rig.propose(term, b"three").await;
        rig.group.stop().await;
        vec![one, two, three]
    });
    (sim.block_on(fates).unwrap(), sim.trace_hash())
}

#[test]
fn a_group_in_memory_runs_the_same_from_the_same_seed() {
    for seed in 0..20 {
        let first = group(seed);
        assert_eq!(first.0, [applied(1), applied(2), applied(3)]);
        assert_eq!(group(seed), first, "seed {seed}");
    }
    assert_ne!(group(1).1, group(2).1);
}

#[test]
fn blocking_work_is_refused_in_a_simulation() {
    let sim = Sim::new(1);
    let refused = sim.block_on(async { Runtime::spawn_blocking(|| 7).await });
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    let (mut tokio, seven) = (Runtime::new(1), async { Runtime::spawn_blocking(|| 7).await });
    assert_eq!(tokio.block_on(seven).unwrap(), 7);
}
