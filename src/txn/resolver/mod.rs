//! The leader's judge of conflicts: every key written lately, with its version, in memory.
//!
//! A transaction that read at version *r* conflicts if some write above *r* touches a key or range that it read. The
//! resolver hears of every write of an accepted commit at once ([`Resolver::record`]), applied or still in flight, and
//! answers for every read version from its *floor* on ([`Resolver::check`]); below it, it cannot know: too old.
//!
//! ```text
//!   record 5 a, 6 b, 7 a        floor 4
//!   check  read 6, point a   -> changed, by version 7
//!   check  read 7, point a   -> fine
//!   check  read 5, [b, c)    -> changed, by version 6
//!   check  read 3, anything  -> too old: the floor is 4
//! ```
//!
//! **Shape.** Writes come in version order into *generations*; the newest takes them, the oldest is dropped whole when
//! the window is full, and then the floor rises to its last version, but never past the applied one. A generation has
//!
//! - a `PointTable`, from a seeded hash of the key to its last version, for points. Two keys of
//!   one hash are one key to it: the worst that follows is a conflict that was none (about one in 2^50 comparisons);
//! - a list of `Block`s for ranges: append-only runs of keys, put in order only once ranges are checked.
//!
//! **Cost.** With *n* writes in the window:
//!
//! | call | cost |
//! |---|---|
//! | `record` | one hash, one table slot, one copy of the key; once ranges are being checked also its share of sorting |
//! | `check` of a point | one table lookup for each generation younger than the read version |
//! | `check` of a range | one binary search for each ordered run younger than the read version, and a comparison for each younger write not in order yet |
//!
//! A generation has up to 131,072 writes. Runs in order: at most one a block (n / 32,768 of them), and 32 in the newest block. Runs not in order: the newest
//! 1,024 writes, and whatever was written before ranges were checked, of which each check orders a bounded amount. How
//! many writes lie in the range does not matter; a check stops at the first conflict.
//!
//! It is volatile and the leader's alone, decides nothing but conflicts, and never waits or reads a clock.

mod block;
mod points;

use crate::types::{KeyRange, Version};
use block::{Block, Found};
use bytes::Bytes;
use foldhash::{SharedSeed, quality::SeedableRandomState};
use points::PointTable;
use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hasher},
};

/// How a resolver is made.
#[derive(Clone, Copy, Debug)]
pub struct ResolverOptions {
    /// Seed of the hash, chosen at random by the caller, so that nobody can choose keys that collide.
    pub hash_seed: u64,
    /// Memory that the window may take before its oldest part is dropped.
    pub window_bytes_max: usize,
}

impl ResolverOptions {
    /// 384 MiB: a write of a 20-byte key takes at most 61 bytes (16 in the table, 24 for the full key, 12 for where it
    /// is, 8 for order, and slack), so this holds 6 million of them: 6 s at a million a second.
    pub const WINDOW_BYTES_DEFAULT: usize = 384 << 20;

    /// The default window.
    #[must_use]
    pub fn new(hash_seed: u64) -> ResolverOptions {
        ResolverOptions { hash_seed, window_bytes_max: Self::WINDOW_BYTES_DEFAULT }
    }
}

/// Why a transaction may not commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Something that it read was written since.
    Changed {
        /// A full key that was written.
        key: Bytes,
        /// By which version: above the read version, not always the newest.
        version: Version,
    },
    /// It read at a version for which the resolver no longer knows every write since.
    TooOld {
        /// The oldest read version that can be judged.
        floor: Version,
    },
}

/// Sizes that decide the shape; tests make them small.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Writes in a run before it is closed.
    run_writes: usize,
    /// Runs in a block before it is closed.
    block_runs: usize,
    /// Writes in the first generation; each next one has twice as many, so that a small database stays small.
    generation_writes_min: usize,
    /// Until it has this many: then its table is 2 MiB, and recording stays in the processor's cache.
    generation_writes_max: usize,
}

impl Shape {
    const DEFAULT: Shape =
        Shape { run_writes: 1_024, block_runs: 32, generation_writes_min: 1 << 12, generation_writes_max: 1 << 17 };
}

/// Bytes of keys in a run before it is closed, so that offsets stay small whatever the keys' lengths.
const RUN_KEY_BYTES: usize = 128 << 10;
/// Runs that one check may put in order, so that the first after many blind writes does not stall.
const SORTS_PER_CHECK: usize = 16;
/// And one more for each so many runs that it had to compare write by write, so that this does not stay so.
const WALKS_PER_SORT: usize = 16;
/// A generation takes at most this fraction of the window.
const GENERATIONS_MIN: usize = 8;

/// The recent writes. One owner; not shared.
#[derive(Debug)]
pub struct Resolver {
    hash: SeedableRandomState,
    shape: Shape,
    window_bytes_max: usize,
    floor: Version,
    applied: Version,
    last: Version,
    /// Oldest first; the last takes writes. Never empty.
    generations: VecDeque<Generation>,
    /// Whether the window is exceeded, for want of applied versions to drop.
    overfull: bool,
    /// Whether ranges are being checked, so that runs are worth ordering when they are closed.
    ordering: bool,
}

/// A stretch of writes in version order.
#[derive(Debug)]
struct Generation {
    /// Versions are kept as differences from this one, which is below all of them.
    base: Version,
    last: Version,
    writes: usize,
    writes_max: usize,
    table: PointTable,
    /// Oldest first; the last takes writes. Never empty.
    blocks: Vec<Block>,
    /// Of the closed blocks.
    closed_bytes: usize,
    /// Whether a range was checked while it took writes.
    range_checked: bool,
}

impl Generation {
    fn new(base: Version, writes_max: usize) -> Generation {
        let table = PointTable::new(writes_max);
        let blocks = vec![Block::default()];
        Generation { base, last: base, writes: 0, writes_max, table, blocks, closed_bytes: 0, range_checked: false }
    }

    /// The difference of `version` from the base, as it is kept; the greatest one for what is above them all.
    fn delta(&self, version: Version) -> u32 {
        u32::try_from(version.0.saturating_sub(self.base.0)).unwrap_or(u32::MAX)
    }

    fn version(&self, delta: u32) -> Version {
        Version(self.base.0 + u64::from(delta))
    }

    fn bytes(&self) -> usize {
        self.table.bytes() + self.closed_bytes + self.blocks.last().map_or(0, Block::bytes)
    }
}

impl Resolver {
    /// A resolver that knows of no write, and answers for read versions from `floor` on. `floor` is the applied version.
    #[must_use]
    pub fn new(floor: Version, options: ResolverOptions) -> Resolver {
        Resolver::with_shape(floor, options, Shape::DEFAULT)
    }

    fn with_shape(floor: Version, options: ResolverOptions, shape: Shape) -> Resolver {
        Resolver {
            hash: SeedableRandomState::with_seed(options.hash_seed, SharedSeed::global_fixed()),
            shape,
            window_bytes_max: options.window_bytes_max,
            floor,
            applied: floor,
            last: floor,
            generations: VecDeque::from([Generation::new(floor, shape.generation_writes_min)]),
            overfull: false,
            ordering: false,
        }
    }

    /// Says that `key` will be recorded soon. A hint, which changes nothing but how long that takes.
    pub fn expect(&self, key: &[u8]) {
        self.generations.back().expect("never empty").table.expect(self.hash_of(key));
    }

    /// Takes note that an accepted commit writes the full key `key` at `version`: above the floor, and not below any
    /// version recorded before.
    pub fn record(&mut self, version: Version, key: &[u8]) {
        assert!(version > self.floor && version >= self.last, "writes are recorded in version order");
        let hash = self.hash_of(key);
        let mut generation = self.generations.back_mut().expect("never empty");
        if generation.writes == generation.writes_max || version.0 - generation.base.0 > u64::from(u32::MAX) {
            self.begin_generation(version);
            generation = self.generations.back_mut().expect("never empty");
        }
        self.last = version;
        generation.last = version;
        generation.writes += 1;
        let delta = u32::try_from(version.0 - generation.base.0).expect("a new generation begins before it overflows");
        generation.table.record(hash, delta);
        let block = generation.blocks.last_mut().expect("never empty");
        let run = block.open_run(self.shape.run_writes);
        run.push(delta, key);
        if run.len() >= self.shape.run_writes || run.key_bytes() >= RUN_KEY_BYTES {
            self.close_run();
        }
    }

    /// Whether a transaction that read `points` and `ranges` at `read_version` may commit. Stops at the first conflict.
    pub fn check<'a>(
        &mut self,
        read_version: Version,
        points: impl Iterator<Item = &'a [u8]>,
        ranges: &[KeyRange],
    ) -> Result<(), Conflict> {
        if read_version < self.floor {
            return Err(Conflict::TooOld { floor: self.floor });
        }
        if read_version >= self.last {
            return Ok(());
        }
        for key in points {
            if let Some(version) = self.last_write_above(read_version, key) {
                return Err(Conflict::Changed { key: Bytes::copy_from_slice(key), version });
            }
        }
        if ranges.iter().all(KeyRange::is_empty) {
            return Ok(());
        }
        self.check_ranges(read_version, ranges)
    }

    /// The last write of a full key that is known of. A key of the same hash may stand in for it, with a later version.
    #[must_use]
    pub fn last_write(&self, key: &[u8]) -> Option<Version> {
        self.last_write_above(Version::ZERO, key)
    }

    /// The last write of a full key, if it is above `version`. Looks only where such writes are.
    fn last_write_above(&self, version: Version, key: &[u8]) -> Option<Version> {
        let hash = self.hash_of(key);
        let young = self.generations.iter().rev().take_while(|generation| generation.last > version);
        let last = young.into_iter().find_map(|generation| Some(generation.version(generation.table.get(hash)?)))?;
        Some(last).filter(|last| *last > version)
    }

    /// The oldest read version that can be judged.
    #[must_use]
    pub fn floor(&self) -> Version {
        self.floor
    }

    /// Everything up to `applied` has been applied here: the floor may rise so far, and does if the window is full.
    pub fn set_applied(&mut self, applied: Version) {
        self.applied = self.applied.max(applied);
        if self.overfull {
            self.drop_oldest();
        }
    }

    /// Raises the floor to `to`, or to the applied version if that is lower, and drops what is no longer needed.
    pub fn advance_floor(&mut self, to: Version) {
        self.floor = self.floor.max(to.min(self.applied));
        while self.generations.front().is_some_and(|oldest| self.generations.len() > 1 && oldest.last <= self.floor) {
            self.generations.pop_front();
        }
    }

    /// Memory held. Exceeds the window by no more than what is recorded above the applied version, and one generation.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.generations.iter().map(Generation::bytes).sum()
    }

    fn hash_of(&self, key: &[u8]) -> u64 {
        let mut hasher = self.hash.build_hasher();
        hasher.write(key);
        hasher.finish()
    }

    fn begin_generation(&mut self, first: Version) {
        let newest = self.generations.back_mut().expect("never empty");
        let writes_max = (newest.writes_max * 2).min(self.shape.generation_writes_max);
        self.ordering = newest.range_checked;
        close_block(newest, self.ordering);
        let base = Version(first.0 - 1);
        self.generations.push_back(Generation::new(base, writes_max));
        self.drop_oldest();
    }

    fn close_run(&mut self) {
        let generation = self.generations.back_mut().expect("never empty");
        let block = generation.blocks.last_mut().expect("never empty");
        if self.ordering {
            block.sort_newest_run();
        }
        block.close_run();
        if block.runs() >= self.shape.block_runs {
            close_block(generation, self.ordering);
        }
        if generation.bytes() > self.window_bytes_max / GENERATIONS_MIN {
            generation.writes_max = generation.writes_max.min(generation.writes);
        }
        self.drop_oldest();
    }

    /// Drops generations until the window is kept, or the oldest is not applied.
    fn drop_oldest(&mut self) {
        self.overfull = self.generations.len() > 1 && self.bytes() > self.window_bytes_max;
        while self.overfull {
            match self.generations.pop_front_if(|oldest| oldest.last <= self.applied) {
                Some(oldest) => self.floor = self.floor.max(oldest.last),
                None => return,
            }
            self.overfull = self.generations.len() > 1 && self.bytes() > self.window_bytes_max;
        }
    }

    fn check_ranges(&mut self, read_version: Version, ranges: &[KeyRange]) -> Result<(), Conflict> {
        self.ordering = true;
        // In fractions of a sort.
        let mut allowance = SORTS_PER_CHECK * WALKS_PER_SORT;
        if let Some(newest) = self.generations.back_mut() {
            newest.range_checked = true;
        }
        for generation in self.generations.iter_mut().rev().take_while(|generation| generation.last > read_version) {
            let above = generation.delta(read_version);
            let open = generation.blocks.len() - 1;
            for at in (0..generation.blocks.len()).rev() {
                let block = &mut generation.blocks[at];
                if block.last() <= above && !block.is_empty() {
                    break;
                }
                if let Some(Found { key, delta }) = block.find(above, ranges) {
                    let key = Bytes::copy_from_slice(key);
                    return Err(Conflict::Changed { key, version: generation.version(delta) });
                }
                let bytes = block.bytes();
                allowance += block.unsorted();
                allowance -= block.sort(allowance / WALKS_PER_SORT) * WALKS_PER_SORT;
                let merging = block.runs() * WALKS_PER_SORT;
                if at < open && allowance >= merging.min(SORTS_PER_CHECK * WALKS_PER_SORT) && block.merge() {
                    allowance = allowance.saturating_sub(merging);
                }
                if at < open {
                    generation.closed_bytes = generation.closed_bytes + block.bytes() - bytes;
                }
            }
        }
        Ok(())
    }
}

/// Closes the newest block of a generation and begins another.
fn close_block(generation: &mut Generation, ordering: bool) {
    let block = generation.blocks.last_mut().expect("never empty");
    block.close_run();
    if ordering {
        block.sort(usize::MAX);
        block.merge();
    }
    generation.closed_bytes += block.bytes();
    generation.blocks.push(Block::default());
}

#[cfg(test)]
mod tests;
