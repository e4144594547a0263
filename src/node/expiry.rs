//! When idempotency records expire: the leader proposes a floor in versions, and every entry carries it.
//!
//! A record is kept for a time and within a number: the floor follows the version of that time ago, and goes further
//! when more keyed commits than that were made since. Replicas never look at a clock for it; they follow the entries.

use crate::{env::Moment, types::Version};
use std::{collections::VecDeque, time::Duration};

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Sample {
    taken: Moment,
    version: Version,
    /// Keyed commits made since this sample and before the next.
    records: u64,
}

/// The proposer of the floor.
#[derive(Debug)]
pub(super) struct Expiry {
    floor: Version,
    keep: Duration,
    records_max: u64,
    samples: VecDeque<Sample>,
    records: u64,
}

impl Expiry {
    pub(super) fn new(floor: Version, keep: Duration, records_max: u64) -> Expiry {
        Expiry { floor, keep, records_max, samples: VecDeque::new(), records: 0 }
    }

    /// Below this version records have expired, or do with the next entry.
    pub(super) fn floor(&self) -> Version {
        self.floor
    }

    /// This node decides from now on: what it saw before it did says nothing of how old records are.
    pub(super) fn begin(&mut self) {
        self.samples.clear();
        self.records = 0;
    }

    /// A floor that was applied.
    pub(super) fn raise(&mut self, floor: Version) {
        self.floor = self.floor.max(floor);
    }

    /// Keyed commits were made.
    pub(super) fn count(&mut self, records: u64) {
        self.records += records;
        if let Some(sample) = self.samples.back_mut() {
            sample.records += records;
        }
    }

    /// Notes the applied version now and then, and lets the floor follow. Not while an entry is being built: its
    /// header has stated a floor that its items are judged by.
    pub(super) fn sample(&mut self, now: Moment, applied: Version) {
        if self.samples.back().is_some_and(|sample| now - sample.taken < SAMPLE_EVERY) {
            return;
        }
        self.samples.push_back(Sample { taken: now, version: applied, records: 0 });
        while self.samples.len() > 1 {
            let oldest = &self.samples[0];
            if now - oldest.taken < self.keep && self.records <= self.records_max {
                break;
            }
            // What was made between the oldest sample and the next had seen at most the next one's version.
            self.records -= oldest.records;
            let next = self.samples[1].version;
            self.raise(next);
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    #[test]
    fn the_floor_follows_the_clock() {
        let mut expiry = Expiry::new(Version(1), Duration::from_secs(10), 100);
        expiry.sample(at(0), Version(5));
        expiry.sample(at(4), Version(20));
        expiry.sample(at(9), Version(30));
        assert_eq!(expiry.floor(), Version(1));
        expiry.sample(at(10), Version(40));
        assert_eq!(expiry.floor(), Version(20));
        expiry.sample(at(14), Version(40));
        assert_eq!(expiry.floor(), Version(30));
    }

    #[test]
    fn too_many_records_push_the_floor_before_its_time() {
        let mut expiry = Expiry::new(Version(0), Duration::from_secs(600), 100);
        expiry.sample(at(0), Version(5));
        expiry.count(80);
        expiry.sample(at(1), Version(50));
        expiry.count(80);
        assert_eq!(expiry.floor(), Version(0));
        expiry.sample(at(2), Version(90));
        assert_eq!(expiry.floor(), Version(50));
        expiry.sample(at(3), Version(95));
        assert_eq!(expiry.floor(), Version(50));
    }
}
