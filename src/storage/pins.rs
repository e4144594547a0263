//! Which versions somebody still reads: a counted multiset under one short lock, and the horizon that may not pass it.
//!
//! Invariant: `horizon <= min(pins)`, because both change under the same lock. A pin below the horizon is refused.

use super::Error;
use crate::types::Version;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The registry of pinned versions of one engine.
#[derive(Debug, Default)]
pub struct Pins {
    live: Mutex<Live>,
    /// Copy of `Live::horizon` that readers check without the lock. Stored before anything is cut.
    horizon: AtomicU64,
}

#[derive(Debug, Default)]
struct Live {
    counts: BTreeMap<Version, u64>,
    total: u64,
    horizon: Version,
}

impl Pins {
    /// Pins `version`, which the caller knows to be applied; refused as gone below the horizon.
    pub fn pin(self: &Arc<Self>, version: Version) -> Result<Pin, Error> {
        let mut live = self.live.lock();
        if version < live.horizon {
            return Err(Error::Gone { asked: version, horizon: live.horizon });
        }
        *live.counts.entry(version).or_insert(0) += 1;
        live.total += 1;
        Ok(Pin { version, pins: Arc::clone(self) })
    }

    /// Pins the version that `visible` reads under the lock, so the horizon cannot pass it in between.
    pub fn pin_latest(self: &Arc<Self>, visible: impl FnOnce() -> Version) -> Pin {
        let mut live = self.live.lock();
        let version = visible();
        assert!(version >= live.horizon, "the horizon is never raised above the visible version");
        *live.counts.entry(version).or_insert(0) += 1;
        live.total += 1;
        Pin { version, pins: Arc::clone(self) }
    }

    /// Raises the horizon towards `target`, not past the oldest pin, never down. Returns where it stands.
    ///
    /// The caller cuts nothing above what this returned, and only after it returned.
    pub fn raise_horizon(&self, target: Version) -> Version {
        let mut live = self.live.lock();
        let bound = live.counts.keys().next().copied().unwrap_or(target).min(target);
        if bound > live.horizon {
            live.horizon = bound;
            self.horizon.store(bound.0, Ordering::SeqCst);
        }
        live.horizon
    }

    /// Where history begins. A reader without a pin reads first and then checks that this has not passed its version.
    #[must_use]
    pub fn horizon(&self) -> Version {
        Version(self.horizon.load(Ordering::SeqCst))
    }

    /// How many pins live, and the oldest of them.
    #[must_use]
    pub fn live(&self) -> (u64, Option<Version>) {
        let live = self.live.lock();
        (live.total, live.counts.keys().next().copied())
    }

    fn unpin(&self, version: Version) {
        let mut live = self.live.lock();
        live.total -= 1;
        if let Some(count) = live.counts.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                live.counts.remove(&version);
            }
        }
    }
}

/// Keeps one version readable until it is dropped. Cloning pins once more.
#[derive(Debug)]
pub struct Pin {
    version: Version,
    pins: Arc<Pins>,
}

impl Pin {
    /// The version that is kept.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it is registered there.
    #[must_use]
    pub fn is_of(&self, pins: &Arc<Pins>) -> bool {
        Arc::ptr_eq(&self.pins, pins)
    }
}

impl Clone for Pin {
    fn clone(&self) -> Pin {
        let mut live = self.pins.live.lock();
        *live.counts.entry(self.version).or_insert(0) += 1;
        live.total += 1;
        Pin { version: self.version, pins: Arc::clone(&self.pins) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.unpin(self.version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_waits_for_the_oldest_pin() {
        let pins = Arc::new(Pins::default());
        let old = pins.pin(Version(5)).expect("nothing is trimmed yet");
        let same = old.clone();
        let young = pins.pin(Version(9)).expect("nothing is trimmed yet");
        assert_eq!(pins.raise_horizon(Version(8)), Version(5));
        drop(old);
        assert_eq!(pins.raise_horizon(Version(8)), Version(5));
        drop(same);
        assert_eq!(pins.raise_horizon(Version(8)), Version(8));
        assert_eq!(pins.live(), (1, Some(Version(9))));
        assert_eq!(young.version(), Version(9));
        assert_eq!(pins.pin(Version(7)).err(), Some(Error::Gone { asked: Version(7), horizon: Version(8) }));
        assert_eq!(pins.raise_horizon(Version(3)), Version(8), "it never goes down");
        assert_eq!(pins.horizon(), Version(8));
    }
}
