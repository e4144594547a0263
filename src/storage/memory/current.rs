//! What an engine holds, exchanged as a whole while readers look at it.
//!
//! A reader takes a guard, as it does for chains, and sees what was there when it looked for as long as it keeps looking.
//! It costs one load. What was replaced lives until the last reader has let go of it.

use crossbeam_epoch::{Atomic, Guard, Owned};
use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

/// The present one of several values. Never empty.
pub(in crate::storage) struct Current<T>(Atomic<Arc<T>>);

impl<T: Send + Sync + 'static> Current<T> {
    pub(in crate::storage) fn new(value: Arc<T>) -> Current<T> {
        Current(Atomic::new(value))
    }

    /// What is there now.
    #[inline]
    pub(in crate::storage) fn load<'g>(&'g self, guard: &'g Guard) -> &'g Arc<T> {
        let pointer = self.0.load(Ordering::Acquire, guard);
        // SAFETY: it is not null, and what it points to was made by `new` or `replace`. It is freed after a `replace`,
        // when no guard is as old as that, or by `drop`, which the borrow of `self` puts off.
        unsafe { pointer.deref() }
    }

    /// What is there now, for longer than a guard should be kept.
    pub(in crate::storage) fn get(&self) -> Arc<T> {
        Arc::clone(self.load(&crossbeam_epoch::pin()))
    }

    /// Puts another in its place.
    pub(in crate::storage) fn replace(&self, value: Arc<T>) {
        let guard = crossbeam_epoch::pin();
        let old = self.0.swap(Owned::new(value), Ordering::AcqRel, &guard);
        // SAFETY: the swap took the only way to it, so who has not loaded it yet never will, and it is freed once.
        unsafe { guard.defer_destroy(old) };
        guard.flush();
    }
}

impl<T> Drop for Current<T> {
    fn drop(&mut self) {
        let pointer = mem::replace(&mut self.0, Atomic::null());
        // SAFETY: it is not null, and nobody borrows it any more: `load` borrows what is being dropped.
        drop(unsafe { pointer.into_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::atomic::AtomicUsize, thread};

    const ROUNDS: usize = if cfg!(miri) { 20 } else { 2_000 };

    /// Counts how many of its kind live.
    struct Counted(usize, Arc<AtomicUsize>);

    impl Counted {
        fn new(number: usize, live: &Arc<AtomicUsize>) -> Arc<Counted> {
            live.fetch_add(1, Ordering::SeqCst);
            Arc::new(Counted(number, Arc::clone(live)))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0 = usize::MAX;
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_reader_keeps_what_it_looks_at_and_the_replaced_are_freed() {
        let live = Arc::new(AtomicUsize::new(0));
        let current = Current::new(Counted::new(0, &live));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < ROUNDS {
                        let guard = crossbeam_epoch::pin();
                        let seen = current.load(&guard).0;
                        assert!(seen >= last && seen <= ROUNDS, "{seen} after {last}");
                        assert!(current.get().0 >= seen);
                        last = seen;
                    }
                });
            }
            (1..=ROUNDS).for_each(|number| current.replace(Counted::new(number, &live)));
        });
        drop(current);
        // Other tests' guards hold the collector up, but not for long.
        while live.load(Ordering::SeqCst) > 0 {
            crossbeam_epoch::pin().flush();
            thread::yield_now();
        }
    }
}
