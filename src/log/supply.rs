//! Where the next segment comes from: used ones that are not needed any more, and new ones filled with zeros beside.
//!
//! Filling and removing are done by a task on a thread of its own, so that the writer, when its segment is full, finds the
//! next one ready. If it does not (the first moments of a log, or a disk that fills slower than it is written), the writer
//! makes a small one itself rather than wait for a whole one.

use super::{
    error::CallFailed,
    metrics::Metrics,
    segment::{Free, SMALL_BYTES, is_zero, prepare},
};
use crate::env::{Env, Task};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Segments that wait to be begun, at most. What is freed beyond is removed.
const FREE_MAX: usize = 2;

/// Work for the preparer. At most one preparation is under way, and what is inspected or removed are segments that there are.
enum Chore {
    /// A start found it prepared. It is not begun before it is known to hold nothing: what stands in it would be taken for
    /// ours.
    Inspect(Free),
    Prepare {
        number: u64,
        length: u64,
    },
    Remove {
        path: PathBuf,
        length: u64,
    },
}

/// Segments ready to be begun, and the means to get more.
pub(super) struct Supply {
    env: Env,
    directory: PathBuf,
    metrics: Arc<Metrics>,
    /// Of a segment.
    length: u64,
    free: Vec<Free>,
    next_number: u64,
    /// Segments that the preparer will answer for.
    expected: usize,
    chores: UnboundedSender<Chore>,
    prepared: UnboundedReceiver<Option<Free>>,
}

impl Supply {
    /// Takes over what is free, has what is superfluous removed and a spare prepared. The task is the caller's to own.
    pub(super) fn start(
        env: &Env,
        directory: &Path,
        length: u64,
        found: Vec<Free>,
        next_number: u64,
        metrics: Arc<Metrics>,
    ) -> (Supply, Task) {
        let (chores, todo) = unbounded_channel();
        let (results, prepared) = unbounded_channel();
        let task = env
            .spawn_on_thread("log-preparer", work(env.clone(), directory.to_owned(), metrics.clone(), todo, results));
        let (env, directory) = (env.clone(), directory.to_owned());
        let free = Vec::new();
        let mut supply = Supply { env, directory, metrics, length, free, next_number, expected: 0, chores, prepared };
        for free in found {
            if free.used || free.length != length {
                supply.put(free);
            } else {
                supply.ask(Chore::Inspect(free));
            }
        }
        supply.refill();
        (supply, task)
    }

    /// Takes back a segment that nobody needs any more.
    pub(super) fn put(&mut self, free: Free) {
        if free.length == self.length && self.free.len() < FREE_MAX {
            self.free.push(free);
            self.metrics.segments_free.store(self.free.len() as u64, Relaxed);
        } else {
            // Without a preparer, which has then gone first, the file stays until the next start.
            let _ = self.chores.send(Chore::Remove { path: free.path, length: free.length });
        }
    }

    /// A segment of at least so many bytes.
    pub(super) fn take(&mut self, bytes: u64) -> Result<Free, CallFailed> {
        while let Ok(free) = self.prepared.try_recv() {
            self.expected -= 1;
            // Where there is none, the writer tries for itself when it must.
            self.free.extend(free);
        }
        let free = match self.free.iter().position(|free| free.length >= bytes) {
            Some(at) => self.free.swap_remove(at),
            None => {
                let length = bytes.max(self.length.min(SMALL_BYTES));
                let number = self.number();
                let free = prepare(self.env.files(), &self.directory, number, length)?;
                self.metrics.disk_bytes.fetch_add(length, Relaxed);
                free
            }
        };
        self.refill();
        Ok(free)
    }

    /// Has a spare prepared if there is none.
    fn refill(&mut self) {
        self.metrics.segments_free.store(self.free.len() as u64, Relaxed);
        if self.free.is_empty() && self.expected == 0 {
            let number = self.number();
            self.ask(Chore::Prepare { number, length: self.length });
        }
    }

    fn ask(&mut self, chore: Chore) {
        self.expected += usize::from(self.chores.send(chore).is_ok());
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// The preparer: ends when the writer does.
async fn work(
    env: Env,
    directory: PathBuf,
    metrics: Arc<Metrics>,
    mut todo: UnboundedReceiver<Chore>,
    results: UnboundedSender<Option<Free>>,
) {
    while let Some(chore) = todo.recv().await {
        match chore {
            Chore::Prepare { number, length } => {
                let prepared = prepare(env.files(), &directory, number, length).ok();
                let counter = if prepared.is_some() { &metrics.disk_bytes } else { &metrics.preparations_failed };
                counter.fetch_add(if prepared.is_some() { length } else { 1 }, Relaxed);
                // Without a writer the next start finds it.
                let _ = results.send(prepared);
            }
            Chore::Inspect(free) => {
                let fine = matches!(is_zero(&free), Ok(true));
                // One that is not stays as it is: nobody needs it, and it may tell what happened to the disk.
                metrics.preparations_failed.fetch_add(u64::from(!fine), Relaxed);
                let _ = results.send(Some(free).filter(|_| fine));
            }
            Chore::Remove { path, length } => {
                // A file that stays is found and removed at the next start.
                if env.files().remove(&path).is_ok() {
                    metrics.disk_bytes.fetch_sub(length, Relaxed);
                }
            }
        }
    }
}
