//! Chains of versions by key, and the keys in order: what the engine in memory is made of, and the upper half of the
//! durable one.
//!
//! Here is what readers and the writer do with table and order together. What may be cut, and when, is the engines' to say.

use super::{
    node::{NODE_VALUE_BYTES_MAX, NodeRef},
    order::{Keys, ORDER_KEY_BYTES_MAX, Order},
    table::{GROUP, Hash, Table},
    usage::Counters,
    writer::{Absent, Pushed, Writer},
};
use crate::{
    storage::{Applied, Error, Row, Scan, Write},
    types::Version,
};
use crossbeam_epoch::Guard;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The chains, their order, and the one who changes both.
pub(in crate::storage) struct Chains {
    pub(super) table: Arc<Table>,
    pub(super) order: RwLock<Order>,
    pub(super) writer: Mutex<Writer>,
    pub(super) counters: Arc<Counters>,
    order_bytes: AtomicU64,
    keys: AtomicU64,
}

impl Chains {
    /// No keys. `hash_seed` is unpredictable where keys come from strangers.
    pub(in crate::storage) fn new(hash_seed: u64, absent: Absent) -> Chains {
        let counters = Arc::new(Counters::default());
        let writer = Writer::new(hash_seed, absent, Arc::clone(&counters));
        let order = Order::new();
        Chains {
            table: Arc::clone(writer.table()),
            order_bytes: AtomicU64::new(order.bytes()),
            order: RwLock::new(order),
            writer: Mutex::new(writer),
            counters,
            keys: AtomicU64::new(0),
        }
    }

    /// The right to change them; held for one batch, or for one bounded piece of cutting.
    pub(in crate::storage) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Of each key its newest version at or below `version`, a tombstone included. At most [`GROUP`] keys. All that the
    /// reader may see became visible before this is called.
    #[inline]
    pub(in crate::storage) fn read<'g>(
        &'g self,
        keys: &[&[u8]],
        version: Version,
        found: &mut [Option<NodeRef<'g>>],
        guard: &'g Guard,
    ) {
        self.table.newest(keys, found, guard);
        for found in found {
            *found = found.and_then(|newest| newest.at(version.0));
        }
    }

    /// Copies keys of a scan that come after `last`, until `keys` is full. Returns whether that were all.
    pub(in crate::storage) fn copy_keys(&self, scan: Scan<'_>, last: Option<&[u8]>, keys: &mut Keys) -> bool {
        let (start, end) = (&scan.range.start[..], &scan.range.end[..]);
        let order = self.order.read();
        match (last, scan.reverse) {
            (None, false) => order.copy_up(Bound::Included(start), end, keys),
            (Some(last), false) => order.copy_up(Bound::Excluded(last), end, keys),
            (last, true) => order.copy_down(start, last.unwrap_or(end), keys),
        }
    }

    /// Pushes the writes of an entry, which [`check_writes`] has seen. What went wrong leaves some of them pushed.
    pub(in crate::storage) fn push(
        &self,
        writer: &mut Writer,
        writes: &[Write<'_>],
        guard: &Guard,
    ) -> Result<(), String> {
        for writes in writes.chunks(GROUP) {
            let mut hashes = [Hash::default(); GROUP];
            let hashes = &mut hashes[..writes.len()];
            for (hash, write) in hashes.iter_mut().zip(writes) {
                *hash = self.table.hash(write.key);
            }
            writer.prefetch(hashes, guard);
            let mut appeared = [None; GROUP];
            let mut appeared_count = 0;
            for (&hash, write) in hashes.iter().zip(writes) {
                match writer.push(hash, write.key, write.version.0, write.value, guard) {
                    Pushed::Appeared => {
                        appeared[appeared_count] = Some(write.key);
                        appeared_count += 1;
                    }
                    Pushed::Changed | Pushed::Nothing => {}
                    Pushed::Stale => return Err(format!("a key has version {} already", write.version)),
                }
            }
            if appeared_count > 0 {
                let mut order = self.order.write();
                appeared.iter().flatten().for_each(|key| order.insert(key));
                self.order_bytes.store(order.bytes(), Ordering::Relaxed);
            }
        }
        self.keys.store(writer.keys(), Ordering::Relaxed);
        Ok(())
    }

    /// Cuts up to `items_max` versions that `horizon` allows; keys go whose newest version is a tombstone at or below
    /// `vanish_max`. Returns whether any is left.
    pub(in crate::storage) fn cut(
        &self,
        writer: &mut Writer,
        horizon: Version,
        vanish_max: Version,
        items_max: usize,
        guard: &Guard,
    ) -> bool {
        writer.cut(horizon.0, vanish_max.0, items_max, guard, |key| {
            let mut order = self.order.write();
            order.remove(key);
            self.order_bytes.store(order.bytes(), Ordering::Relaxed);
        });
        writer.is_behind(horizon.0)
    }

    /// Takes out those of `keys` whose newest version is at or below `floor`, up to which everything has been cut.
    pub(in crate::storage) fn evict(&self, writer: &mut Writer, keys: &Keys, floor: Version, guard: &Guard) {
        let mut order = self.order.write();
        for key in (0..keys.len()).map(|index| keys.get(index)) {
            if writer.evict(key, floor.0, guard) {
                order.remove(key);
            }
        }
        self.order_bytes.store(order.bytes(), Ordering::Relaxed);
        self.keys.store(writer.keys(), Ordering::Relaxed);
    }

    /// Bytes held, as an upper estimate. What was cut counts until it is freed.
    pub(in crate::storage) fn bytes(&self) -> u64 {
        self.counters.bytes() + self.order_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of versions that are not the newest of their key, and of tombstones.
    pub(in crate::storage) fn history_bytes(&self) -> u64 {
        self.counters.history()
    }

    /// Keys whose newest version is no tombstone.
    pub(in crate::storage) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }
}

/// The row of a version; `None` for a tombstone.
#[inline]
pub(in crate::storage) fn row(node: NodeRef<'_>) -> Option<Row<'_>> {
    node.value().map(|value| Row { version: Version(node.version()), value })
}

/// What applying an entry relies on.
pub(in crate::storage) fn check_writes(visible: Version, writes: &[Write<'_>], applied: Applied) -> Result<(), Error> {
    let mut last = visible;
    for write in writes {
        if write.version <= visible || write.version < last {
            return Err(Error::Failed(format!("a write of version {} comes after version {last}", write.version)));
        }
        last = write.version;
        if write.key.len() > ORDER_KEY_BYTES_MAX {
            return Err(Error::Failed(format!("a key of {} bytes is too long", write.key.len())));
        }
        if write.value.is_some_and(|value| value.len() > NODE_VALUE_BYTES_MAX) {
            return Err(Error::Failed("a value is too long".into()));
        }
    }
    if applied.version < last {
        return Err(Error::Failed(format!("the marker {} is behind version {last}", applied.version)));
    }
    Ok(())
}
