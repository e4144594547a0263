//! Which versions somebody still reads: a counted multiset under one short lock, and the two bounds that go with it.
//!
//! The *horizon* says how far the chains in memory may be cut; it never passes a pin. The *floor* says from where on a new
//! reader may begin; it is never below the horizon. In memory the two are one. Over a base the floor goes ahead of older
//! pins when a flush has chosen its target: the flush stores what those pins need, and nobody else may come to read there.
//!
//! ```text
//!   horizon <= every pin        horizon <= floor <= visible
//! ```
//!
//! Both invariants hold because all of it changes under the same lock.

use super::Error;
use crate::types::Version;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The registry of pinned versions of one engine.
#[derive(Debug, Default)]
pub struct Pins {
    live: Mutex<Live>,
    /// Copy of `Live::horizon`, stored before anything is cut.
    horizon: AtomicU64,
    /// Copy of `Live::floor` that readers check without the lock. Stored before anything below it is cut or stored.
    floor: AtomicU64,
    /// What these pins keep has been replaced as a whole: see [`Pins::end`].
    has_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Live {
    counts: BTreeMap<Version, u64>,
    total: u64,
    horizon: Version,
    floor: Version,
}

impl Pins {
    /// Pins `version`, which the caller knows to be applied; refused as gone below the floor.
    pub fn pin(self: &Arc<Self>, version: Version) -> Result<Pin, Error> {
        let mut live = self.live.lock();
        if version < live.floor {
            return Err(Error::Gone { asked: version, horizon: live.floor });
        }
        *live.counts.entry(version).or_insert(0) += 1;
        live.total += 1;
        Ok(Pin { version, pins: Arc::clone(self) })
    }

    /// Pins the version that `visible` reads under the lock, so the floor cannot pass it in between.
    pub fn pin_latest(self: &Arc<Self>, visible: impl FnOnce() -> Version) -> Pin {
        let mut live = self.live.lock();
        let version = visible();
        assert!(version >= live.floor, "the floor is never raised above the visible version");
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
            self.raise_floor(&mut live, bound);
            self.horizon.store(bound.0, Ordering::SeqCst);
        }
        live.horizon
    }

    /// Raises the floor to `target`, which is applied, whatever is pinned below, and returns the pinned versions from
    /// `from` to below `target`: no others can come any more.
    pub fn close_below(&self, from: Version, target: Version) -> Vec<Version> {
        let mut live = self.live.lock();
        self.raise_floor(&mut live, target);
        live.counts.range(from..target.max(from)).map(|(version, _)| *version).collect()
    }

    fn raise_floor(&self, live: &mut Live, target: Version) {
        if target > live.floor {
            live.floor = target;
            self.floor.store(target.0, Ordering::SeqCst);
        }
    }

    /// How far the chains may be cut.
    #[must_use]
    pub fn horizon(&self) -> Version {
        Version(self.horizon.load(Ordering::SeqCst))
    }

    /// Where history begins for a new reader. A reader without a pin reads first and then checks that this has not passed
    /// its version.
    #[must_use]
    pub fn floor(&self) -> Version {
        Version(self.floor.load(Ordering::SeqCst))
    }

    /// What is pinned here has been replaced as a whole, by a snapshot of another replica: pins keep nothing from now on.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
    }

    /// Whether that has happened.
    pub(super) fn have_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    /// Refuses a pin that is of what was here before.
    ///
    /// # Panics
    /// If it is of another engine, which is a defect.
    pub(super) fn check(self: &Arc<Self>, pin: &Pin) -> Result<(), Error> {
        if pin.is_of(self) {
            return Ok(());
        }
        assert!(pin.pins.have_ended(), "a pin of another engine keeps nothing here");
        Err(Error::Gone { asked: pin.version, horizon: self.floor() })
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
    #[test]
    fn the_floor_passes_a_pin_and_lets_nobody_in_below() {
        let pins = Arc::new(Pins::default());
        let old = pins.pin(Version(5)).expect("nothing is trimmed yet");
        let young = pins.pin(Version(9)).expect("nothing is trimmed yet");
        assert_eq!(pins.close_below(Version(6), Version(9)), []);
        assert_eq!(pins.close_below(Version(2), Version(9)), [Version(5)]);
        assert_eq!((pins.floor(), pins.horizon()), (Version(9), Version::ZERO));
        assert_eq!(pins.pin(Version(8)).err(), Some(Error::Gone { asked: Version(8), horizon: Version(9) }));
        assert_eq!(old.clone().version(), Version(5), "who is inside may stay, and bring others");
        assert_eq!(pins.raise_horizon(Version(9)), Version(5), "what is pinned is not cut");
        drop((old, young));
        assert_eq!(pins.raise_horizon(Version(12)), Version(12));
        assert_eq!(pins.floor(), Version(12));
        assert_eq!(pins.close_below(Version(13), Version(12)), [], "an empty range");
    }
}
