//! What a transaction read: the points and ranges that its commit is checked for.
//!
//! The user's reads and the system's (catalog, unique checks, index upkeep) are kept apart, because snapshot isolation
//! replaces the user's by the keys that the transaction writes, while the system's always count.
//!
//! Ranges that overlap or touch become one, so a scan that tells a row at a time leaves one growing range, in either
//! direction. A point inside a range is not kept. For example:
//!
//! ```text
//!   point c, range [a, b), range [b, d)   ->   range [a, d)
//! ```
//!
//! Reads are never taken back: what a transaction has been told stays told, whatever it rolls back.

use crate::types::{FullKey, Isolation, KeyRange};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// On whose behalf something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadKind {
    /// The user asked for it: counts under serializable isolation only.
    User,
    /// The system needs it to be so: always counts.
    System,
}

/// The points and ranges that a transaction read.
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    isolation: Isolation,
    user: Reads,
    system: Reads,
}

impl ReadSet {
    /// Nothing read yet. Under [`Isolation::Snapshot`] the user's reads are not kept at all.
    #[must_use]
    pub fn new(isolation: Isolation) -> ReadSet {
        ReadSet { isolation, ..ReadSet::default() }
    }

    /// Adds one full key. O(log n); copies the key if it is new.
    pub fn add_point(&mut self, kind: ReadKind, key: &[u8]) {
        if let Some(reads) = self.reads(kind) {
            reads.add_point(key);
        }
    }

    /// Adds the full keys from `range.start` up to and without `range.end`. Amortised O(log n); an empty range adds nothing.
    pub fn add_range(&mut self, kind: ReadKind, range: KeyRange) {
        if let Some(reads) = self.reads(kind) {
            reads.add_range(range);
        }
    }

    /// Bytes that count against the transaction's limit: every point, and both ends of every range, as encoded full keys.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.user.bytes + self.system.bytes
    }

    /// Whether nothing was read that counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// The points, each kind in order.
    pub fn points(&self) -> impl Iterator<Item = &FullKey> {
        self.user.points.iter().chain(&self.system.points)
    }

    /// The ranges, each kind in order, none empty.
    pub fn ranges(&self) -> impl Iterator<Item = KeyRange> + '_ {
        let ranges = self.user.ranges.iter().chain(&self.system.ranges);
        ranges.map(|(start, end)| KeyRange { start: start.clone(), end: end.clone() })
    }

    fn reads(&mut self, kind: ReadKind) -> Option<&mut Reads> {
        match (kind, self.isolation) {
            (ReadKind::User, Isolation::Snapshot) => None,
            (ReadKind::User, Isolation::Serializable) => Some(&mut self.user),
            (ReadKind::System, _) => Some(&mut self.system),
        }
    }
}

/// Invariant: ranges are not empty, neither overlap nor touch, and hold none of the points.
#[derive(Clone, Debug, Default)]
struct Reads {
    points: BTreeSet<FullKey>,
    /// Start to end.
    ranges: BTreeMap<FullKey, FullKey>,
    bytes: usize,
}

/// What a full key takes in a message: its length and its bytes.
fn cost(key: &[u8]) -> usize {
    2 + key.len()
}

impl Reads {
    fn add_point(&mut self, key: &[u8]) {
        if self.points.contains(key) || self.covered(key) {
            return;
        }
        self.bytes += cost(key);
        self.points.insert(Bytes::copy_from_slice(key));
    }

    fn covered(&self, key: &[u8]) -> bool {
        let before = self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| key < end)
    }

    fn add_range(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let KeyRange { mut start, mut end } = range;
        // From the right: every range that begins at or before the new end and reaches its start is swallowed.
        while let Some((other_start, other_end)) =
            self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(&end[..]))).next_back()
        {
            if *other_end < start {
                break;
            }
            let (other_start, other_end) = (other_start.clone(), other_end.clone());
            self.ranges.remove(&other_start);
            self.bytes -= cost(&other_start) + cost(&other_end);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        while let Some(point) =
            self.points.range::<[u8], _>((Bound::Included(&start[..]), Bound::Excluded(&end[..]))).next()
        {
            let point = point.clone();
            self.points.remove(&point);
            self.bytes -= cost(&point);
        }
        self.bytes += cost(&start) + cost(&end);
        self.ranges.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn range(start: &[u8], end: &[u8]) -> KeyRange {
        KeyRange { start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) }
    }

    fn shape(reads: &ReadSet) -> (Vec<FullKey>, Vec<KeyRange>) {
        (reads.points().cloned().collect(), reads.ranges().collect())
    }

    quickcheck::quickcheck! {
        fn a_read_set_covers_exactly_what_was_added(steps: Vec<(bool, u8, u8)>) -> bool {
            let mut reads = ReadSet::new(Isolation::Serializable);
            let mut model = HashSet::new();
            for (point, a, b) in steps {
                let (a, b) = (a % 32, b % 32);
                if point {
                    reads.add_point(ReadKind::User, &[a]);
                    model.insert(a);
                } else {
                    reads.add_range(ReadKind::User, range(&[a], &[b]));
                    model.extend(a..b);
                }
                let (points, ranges) = shape(&reads);
                let exact = (0..=255u8).all(|key| {
                    let times = usize::from(points.iter().any(|point| point[..] == [key]))
                        + ranges.iter().filter(|range| range.contains(&[key])).count();
                    times == usize::from(model.contains(&key))
                });
                let apart = ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
                if !exact || !apart || reads.bytes() != 3 * points.len() + 6 * ranges.len() {
                    return false;
                }
            }
            true
        }
    }

    #[test]
    fn a_scan_leaves_one_growing_range_in_either_direction() {
        let mut reads = ReadSet::new(Isolation::Serializable);
        for key in b'c'..b'f' {
            reads.add_range(ReadKind::User, range(&[key], &[key + 1]));
        }
        for key in (b'a'..b'c').rev() {
            reads.add_range(ReadKind::User, range(&[key], &[key + 1]));
        }
        assert_eq!(shape(&reads), (vec![], vec![range(b"a", b"f")]));
    }

    #[test]
    fn an_empty_range_reads_nothing() {
        let mut reads = ReadSet::new(Isolation::Serializable);
        reads.add_range(ReadKind::User, range(b"b", b"b"));
        reads.add_range(ReadKind::User, range(b"b", b"a"));
        assert!(reads.is_empty());
    }

    #[test]
    fn snapshot_isolation_keeps_the_reads_of_the_system_alone() {
        let mut reads = ReadSet::new(Isolation::Snapshot);
        reads.add_point(ReadKind::User, b"user");
        reads.add_range(ReadKind::User, range(b"a", b"b"));
        reads.add_point(ReadKind::System, b"system");
        reads.add_range(ReadKind::System, range(b"x", b"y"));
        assert_eq!(shape(&reads), (vec![Bytes::from_static(b"system")], vec![range(b"x", b"y")]));
    }
}
