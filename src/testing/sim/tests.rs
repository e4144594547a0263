//! Tasks, time, crashes and reports; the network has a file of its own.

#![allow(clippy::unwrap_used, reason = "a test")]

mod network;

use super::*;
use crate::env::TaskError;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// What a run panics with.
fn panics(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
    *panic.downcast::<String>().expect("a report is text")
}

/// Twenty workers that sleep, hand tokens on and write down the order: what they wrote, and the trace.
fn workers(seed: u64) -> (Vec<u64>, u64, Vec<String>) {
    let sim = Sim::with(seed, SimOptions { trace_lines_max: usize::MAX, ..SimOptions::default() });
    let order = Arc::new(Mutex::new(Vec::new()));
    let (go, went) = watch::channel(0);
    for worker in 0..20 {
        let host = sim.host(&format!("n{}", worker % 3));
        let (env, order, mut went) = (host.env(), Arc::clone(&order), went.clone());
        host.spawn("worker", async move {
            for _ in 0..5 {
                went.changed().await.unwrap();
                order.lock().unwrap().push(worker);
                env.sleep(Duration::from_micros(env.random_u64() % 1_000)).await;
                order.lock().unwrap().push(worker);
            }
        });
    }
    sim.block_on(async {
        for round in 1..=5 {
            go.send_replace(round);
            sim.env().sleep(Duration::from_millis(2)).await;
        }
    });
    let order = order.lock().unwrap().clone();
    (order, sim.trace_hash(), sim.trace())
}

#[test]
fn a_seed_gives_the_same_run_and_another_seed_another() {
    let first = workers(1);
    assert_eq!(first.0.len(), 200);
    for _ in 0..3 {
        // Watchers are woken in an order that tokio draws for itself, which must not matter.
        assert_eq!(workers(1), first);
    }
    let other = workers(2);
    assert_ne!(other.0, first.0, "another order");
    assert_ne!(other.1, first.1, "another hash");
}

#[test]
fn time_jumps_to_the_next_timer_and_none_fires_early() {
    let sim = Sim::new(3);
    let env = sim.env();
    let begun = env.now();
    sim.block_on(async {
        env.sleep(Duration::from_secs(86_400 / 48)).await;
        let (long, short) = (env.sleep(Duration::from_secs(9)), env.sleep(Duration::from_secs(1)));
        short.await;
        assert_eq!(sim.now(), Duration::from_secs(1_801));
        drop(long);
    });
    assert_eq!(env.now() - begun, sim.now());
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.now(), Duration::from_secs(1_806), "with nothing to do too");
    assert!(sim.block_on(env.until(env.now() + Duration::from_millis(1), std::future::pending::<()>())).is_none());
}

#[test]
fn whoever_is_ready_is_not_passed_over_for_ever() {
    let sim = Sim::new(4);
    let host = sim.host("n1");
    let stop = Arc::new(Notify::new());
    for _ in 0..40 {
        host.spawn("busy", async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    let told = Arc::clone(&stop);
    host.spawn("one among many", async move { told.notify_one() });
    sim.block_on(stop.notified());
}

#[test]
fn a_panic_ends_the_run_with_host_time_and_seed() {
    let sim = Sim::new(5);
    let host = sim.host("n7");
    let env = host.env();
    host.spawn("unlucky", async move {
        env.sleep(Duration::from_millis(1_500)).await;
        panic!("on purpose");
    });
    sim.note("a line of the test's own");
    let report = panics(|| sim.run_for(Duration::from_secs(9)));
    for part in ["seed 5", "at 1.500000000", "on n7", "the task unlucky panicked: on purpose", "note: a line"] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    let report = panics(|| sim.block_on(async { panic!("the test's own") }));
    assert!(report.contains("on test") && report.contains("the test's own"), "{report}");
}

#[test]
fn a_wait_for_what_cannot_happen_is_told() {
    let sim = Sim::new(6);
    let host = sim.host("n1");
    host.spawn("waits too", std::future::pending::<()>());
    let report = panics(|| sim.block_on(std::future::pending::<()>()));
    assert!(report.contains("nothing is left") && report.contains("n1/waits too"), "{report}");
    let env = host.env();
    host.spawn("goes on", async move {
        loop {
            env.sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(panics(|| sim.block_on(std::future::pending::<()>())).contains("not done within 3600s"));
}

#[test]
fn a_livelock_is_told() {
    let sim = Sim::with(7, SimOptions { polls_max: 1_000, ..SimOptions::default() });
    sim.host("n1").spawn("spins", async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let report = panics(|| sim.run_for(Duration::from_secs(1)));
    assert!(report.contains("polls at one instant, the last of the task spins"), "{report}");
}

#[test]
fn a_task_is_aborted_when_its_owner_drops_it() {
    let sim = Sim::new(8);
    let host = sim.host("n1");
    let (sender, receiver) = oneshot::channel::<()>();
    let task = host.env().spawn("holds a sender", async move {
        std::future::pending::<()>().await;
        drop(sender);
    });
    drop(task);
    assert!(sim.block_on(receiver).is_err());
    assert_eq!(host.tasks(), 0);
    let mut task = host.env().spawn("is aborted", std::future::pending());
    task.abort();
    assert_eq!(sim.block_on(task), Err(TaskError::Aborted));
    assert_eq!(sim.block_on(host.env().spawn("ends", async {})), Ok(()));
    host.env().spawn("goes on alone", std::future::pending()).detach();
    sim.run_for(Duration::from_secs(1));
    assert_eq!(host.tasks(), 1);
}

/// Adds up the awaits that a task has passed, until it is dropped.
struct Passed(Arc<Mutex<Vec<u64>>>, u64);

impl Drop for Passed {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

#[test]
fn a_crash_ends_tasks_at_any_await_and_the_host_starts_again() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let (host, other) = (sim.host("n1"), sim.host("n2"));
        let (env, ends) = (host.env(), Arc::clone(&ends));
        let running = host.spawn("walks", async move {
            let mut passed = Passed(ends, 0);
            for _ in 0..10 {
                tokio::task::yield_now().await;
                passed.1 += 1;
            }
            env.sleep(Duration::from_secs(1)).await;
            passed.1 += 1;
        });
        let killer = host.clone();
        other.spawn("kills", async move {
            tokio::task::yield_now().await;
            killer.crash();
            assert_eq!(killer.tasks(), 0, "all at once");
        });
        assert_eq!(sim.block_on(running), Err(TaskError::Aborted));
        assert!(!host.is_up());
        let refused = host.env().spawn("comes too late", async { unreachable!("it never runs") });
        assert_eq!(sim.block_on(refused), Err(TaskError::Aborted));
        host.start();
        assert_eq!(sim.block_on(host.spawn("again", async { 7 })), Ok(7));
    }
    let mut ends = ends.lock().unwrap().clone();
    ends.sort_unstable();
    ends.dedup();
    assert!(ends.len() > 5 && ends.last() < Some(&11), "it died in few places: {ends:?}");
}

#[test]
fn a_task_that_crashes_its_own_host_runs_to_its_next_await() {
    let sim = Sim::new(9);
    let host = sim.host("n1");
    let (sender, mut passed) = mpsc::unbounded_channel();
    let own = host.clone();
    host.spawn("lays hands on itself", async move {
        own.crash();
        sender.send(1).unwrap();
        tokio::task::yield_now().await;
        sender.send(2).unwrap();
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!((passed.try_recv(), host.tasks()), (Ok(1), 0));
    assert!(passed.try_recv().is_err());
}

#[test]
fn destructors_of_a_crash_reach_neither_disk_nor_tasks() {
    struct Writes(Host);
    impl Drop for Writes {
        fn drop(&mut self) {
            let env = self.0.env();
            assert!(env.files().open(Path::new("/late"), true).is_err());
            env.spawn("late", async { unreachable!("it never runs") }).detach();
        }
    }
    let sim = Sim::new(10);
    let host = sim.host("n1");
    let writes = Writes(host.clone());
    host.spawn("writes at its end", async move {
        std::future::pending::<()>().await;
        drop(writes);
    });
    sim.run_for(Duration::from_secs(1));
    host.crash();
    sim.run_for(Duration::from_secs(1));
    assert_eq!((host.tasks(), host.files().paths()), (0, Vec::new()));
}

#[test]
fn a_crash_keeps_what_was_written_and_a_power_cut_what_was_synced() {
    let mut lost = 0;
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let host = sim.host("n1");
        let env = host.env();
        let path = Path::new("/a");
        sim.block_on(host.spawn("writes", async move {
            let file = env.files().open(Path::new("/a"), true).unwrap();
            file.write_at(b"one", 0).unwrap();
            file.sync_data().unwrap();
            env.files().sync_directory(Path::new("/")).unwrap();
            file.write_at(b"two", 0).unwrap();
        }))
        .unwrap();
        host.crash();
        assert_eq!(host.files().contents(path).unwrap(), b"two");
        host.start();
        host.cut_power();
        match &host.files().contents(path).unwrap()[..] {
            b"one" => lost += 1,
            contents => assert_eq!(contents, b"two"),
        }
    }
    assert!(lost > 5 && lost < 45, "of 50 cuts {lost} lost what was not synced");
}

#[test]
fn a_sync_takes_its_time_and_holds_up_its_host_alone() {
    let sim = Sim::new(11);
    let (host, other) = (sim.host("n1"), sim.host("n2"));
    let seven = Duration::from_millis(7);
    host.set_disk(DiskOptions { sync_min: seven, sync_max: seven, slow_one_in: 0, ..DiskOptions::default() });
    let (env, beside, far) = (host.env(), host.env(), other.env());
    let syncs = host.spawn("syncs", async move {
        let file = env.files().open(Path::new("/a"), true).unwrap();
        let before = env.now();
        file.sync_data().unwrap();
        let after = env.now();
        tokio::task::yield_now().await;
        (after - before, env.now() - after)
    });
    let waits = host.spawn("waits beside", async move {
        let begun = beside.now();
        tokio::task::yield_now().await;
        beside.sleep(Duration::from_millis(1)).await;
        beside.now() - begun
    });
    let free = other.spawn("is far away", async move {
        let begun = far.now();
        far.sleep(Duration::from_millis(1)).await;
        far.now() - begun
    });
    assert_eq!(sim.block_on(syncs), Ok((Duration::from_millis(7), Duration::ZERO)));
    assert!(sim.block_on(waits).unwrap() >= Duration::from_millis(1));
    assert_eq!(sim.block_on(free), Ok(Duration::from_millis(1)));
    assert!((7..=8).contains(&sim.now().as_millis()), "{:?}", sim.now());
}

#[test]
fn a_paused_host_does_nothing_until_it_is_resumed() {
    let sim = Sim::new(12);
    let host = sim.host("n1");
    let env = host.env();
    let ticks = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&ticks);
    host.spawn("ticks", async move {
        loop {
            env.sleep(Duration::from_millis(10)).await;
            *counted.lock().unwrap() += 1;
        }
    });
    let now = || *ticks.lock().unwrap();
    sim.run_for(Duration::from_millis(95));
    assert_eq!(now(), 9);
    host.pause();
    sim.run_for(Duration::from_secs(1));
    assert_eq!(now(), 9);
    host.resume();
    sim.run_for(Duration::from_millis(1));
    assert_eq!(now(), 10);
    host.stall(Duration::from_millis(100));
    sim.run_for(Duration::from_millis(99));
    assert_eq!(now(), 10);
    sim.run_for(Duration::from_millis(15));
    assert!(now() > 10);
}

#[test]
fn clocks_drift_and_wall_clocks_jump() {
    let sim = Sim::new(13);
    let (host, other) = (sim.host("fast"), sim.host("right"));
    let (fast, right) = (host.env(), other.env());
    host.set_drift(100_000);
    let begun = (fast.now(), right.now(), fast.wall_ms(), right.wall_ms());
    assert_ne!(begun.0, begun.1, "they show nothing in common");
    assert_eq!(begun.2, begun.3);
    let slept = fast.clone();
    sim.block_on(host.spawn("sleeps", async move { slept.sleep(Duration::from_secs(11)).await })).unwrap();
    assert_eq!(sim.now(), Duration::from_secs(10));
    assert_eq!((fast.now() - begun.0, right.now() - begun.1), (Duration::from_secs(11), Duration::from_secs(10)));
    host.jump_wall_clock(-3_600_000);
    assert_eq!((fast.wall_ms(), right.wall_ms()), (begun.2 + 10_000 - 3_600_000, begun.3 + 10_000));
    assert_eq!(fast.now() - begun.0, Duration::from_secs(11), "the other clock does not");
}

#[test]
fn nothing_outlives_a_simulation() {
    let held = Arc::new(());
    let sim = Sim::new(14);
    let host = sim.host("n1");
    for _ in 0..3 {
        let (held, env) = (Arc::clone(&held), host.env());
        host.spawn("holds", async move {
            env.sleep(Duration::from_secs(1_000_000)).await;
            drop(held);
        });
    }
    let listener = host.listen(1).unwrap();
    let waiting = Arc::clone(&held);
    host.spawn("listens", async move {
        let accepted = crate::env::accept(&listener).await;
        drop((accepted, waiting));
    });
    sim.run_for(Duration::from_secs(1));
    assert_eq!(Arc::strong_count(&held), 5);
    let core = Arc::downgrade(sim.core());
    drop((sim, host));
    assert_eq!((Arc::strong_count(&held), core.strong_count()), (1, 0));
}

#[test]
fn the_host_of_a_task_is_known_while_it_runs_and_not_after() {
    let sim = Sim::new(15);
    let host = sim.host("n1");
    let env = host.env();
    let same = host.spawn("looks", async move {
        tokio::task::yield_now().await;
        crate::env::current().is_some_and(|current| current.now() == env.now())
    });
    assert_eq!(sim.block_on(same), Ok(true));
    assert!(crate::env::current().is_none());
}
