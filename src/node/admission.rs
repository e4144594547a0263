//! How much may be under way in the node at once, in requests and in bytes. What does not fit is refused, not queued.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The least byte bound: the largest transaction, twice.
pub const BYTES_MIN: usize = 32 * 1024 * 1024;

/// The count of what is under way.
#[derive(Debug)]
pub struct Admission {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    requests_max: usize,
    bytes_max: usize,
}

impl Admission {
    /// Nothing is under way. `bytes_max` is raised to `BYTES_MIN`.
    #[must_use]
    pub fn new(requests_max: usize, bytes_max: usize) -> Admission {
        Admission {
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            requests_max,
            bytes_max: bytes_max.max(BYTES_MIN),
        }
    }

    /// Takes room for a batch, or nothing.
    pub fn enter(self: &Arc<Self>, requests: usize, bytes: usize) -> Option<Permit> {
        let permit = Permit { admission: Arc::clone(self), requests, bytes };
        let requests_before = self.requests.fetch_add(requests, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Dropping the permit gives back what was just taken. A batch alone is always let in.
        let alone = requests_before == 0;
        let fits = requests_before + requests <= self.requests_max && bytes_before + bytes <= self.bytes_max;
        (alone || fits).then_some(permit)
    }

    /// Requests and bytes under way.
    #[must_use]
    pub fn under_way(&self) -> (usize, usize) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// A share of what may be under way; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    requests: usize,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.requests.fetch_sub(self.requests, Ordering::Relaxed);
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_comes_back_on_drop() {
        let admission = Arc::new(Admission::new(10, BYTES_MIN));
        let first = admission.enter(8, 100).expect("it fits");
        assert!(admission.enter(3, 1).is_none());
        assert!(admission.enter(1, BYTES_MIN).is_none());
        let second = admission.enter(2, 50).expect("it fits");
        assert_eq!(admission.under_way(), (10, 150));
        drop((first, second));
        assert_eq!(admission.under_way(), (0, 0));
        assert!(admission.enter(1_000, 2 * BYTES_MIN).is_some(), "a batch alone is always let in");
    }
}
