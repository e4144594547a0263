//! From the hash of a key to the last version that wrote it: a table of fixed size with open addressing.
//!
//! A slot is eight bytes, the low half of the hash and a version as a difference; the high bits of the hash say where to
//! look first. There are at least twice as many slots as writes, so a search ends after about one and a half. Nothing is
//! ever removed: the whole table goes.

use crate::storage::prefetch;

/// The table.
#[derive(Debug)]
pub(super) struct PointTable {
    /// `tag << 32 | delta`; a delta is never 0, so 0 is an empty slot.
    slots: Box<[u64]>,
    /// What is left of a hash after this shift is a slot's index.
    shift: u32,
}

impl PointTable {
    /// A table for this many writes.
    pub(super) fn new(writes_max: usize) -> PointTable {
        let slots = (2 * writes_max).next_power_of_two();
        PointTable { slots: vec![0; slots].into(), shift: u64::BITS - slots.trailing_zeros() }
    }

    /// Notes a write. `delta` is not 0, and not below any noted before.
    pub(super) fn record(&mut self, hash: u64, delta: u32) {
        debug_assert!(delta > 0);
        let tag = hash << 32;
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = &mut self.slots[at];
            if *slot == 0 || *slot ^ tag <= u64::from(u32::MAX) {
                *slot = tag | u64::from(delta);
                return;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Asks for the slot where a search for `hash` begins, so that the misses of a group overlap.
    pub(super) fn expect(&self, hash: u64) {
        prefetch(&raw const self.slots[(hash >> self.shift) as usize]);
    }

    /// The last version noted, as a difference.
    pub(super) fn get(&self, hash: u64) -> Option<u32> {
        let tag = hash << 32;
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if slot ^ tag <= u64::from(u32::MAX) {
                return Some(slot as u32);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.slots[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_found_at_its_last_version_when_the_table_is_full() {
        let mut table = PointTable::new(64);
        // All hashes begin at the same slot, the last one, so they wrap around.
        let hash = |i: u64| (u64::MAX << 32) | i;
        (0..64).for_each(|i| table.record(hash(i), 1));
        (0..32).for_each(|i| table.record(hash(i), 2));
        assert!((0..64).all(|i| table.get(hash(i)) == Some(if i < 32 { 2 } else { 1 })));
        assert_eq!(table.get(hash(64)), None);
        assert_eq!(table.bytes(), 128 * 8);
    }
}
