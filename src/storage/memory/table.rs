//! From a key to its newest version: an extendible hash table with one writer and any number of readers.
//!
//! ```text
//! directory (2^depth) -> segment (lines of 8 slots, a cache line each) -> node
//! ```
//!
//! A hash gives a *place* (32 bits, kept in the node) and a *tag* (16 bits, kept in the slot beside the pointer, so that
//! few nodes of other keys are touched). The upper bits of the place choose the segment, both together the first line.
//! A key stands in that line or, when it was full, in one of those that follow.
//!
//! A segment that is full is copied into a larger one, or into two; nothing else moves, so growth costs at most one
//! segment's work at a time (and rarely a copy of the directory, 8 bytes for some 600 keys). Segments and the directory
//! are replaced, never changed: a reader that still looks into an old one finds there everything that was visible when it
//! began, which is all that it may see.
//!
//! Invariant: a line that has been full never gets an empty slot again before its segment is replaced. So a line with an
//! empty slot ends a search.

use super::{
    node::{Node, NodeRef, OwnedNode, assert_taggable, prefetch_node, tag_of, tagged, untagged},
    prefetch::prefetch,
    usage::{Counters, allocated},
};
use crossbeam_epoch::Guard;
use foldhash::quality::FixedState;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    hash::{BuildHasher, Hasher},
    marker::PhantomData,
    mem::size_of,
    ptr::{NonNull, null_mut, without_provenance_mut},
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

/// How many lookups are interleaved: with 16, groups of 64 cost a quarter more.
pub(in crate::storage) const GROUP: usize = 32;
/// Slots of a line.
const SLOTS: usize = 8;
/// A segment of more lines is split when it is full.
const LINES_SPLIT: usize = if cfg!(miri) { 2 } else { 128 };
const LINES_MIN: usize = if cfg!(miri) { 1 } else { 8 };
/// Lines are counted in the tag of a segment's pointer.
const LINES_MAX: usize = u16::MAX as usize;
/// A segment is replaced when more than this share of its slots is used, in percent.
const LOAD_MAX: usize = 80;
/// Slots of a new segment for what it holds at first, in percent of what it needs at the greatest load.
const SLACK: usize = 125;
/// Directories of more entries need `DIRECTORY_SPREAD` entries a segment at most: keys whose hashes agree in many bits
/// enlarge their segment instead.
const DIRECTORY_SPREAD: usize = 16;
/// Splitting ends here; the place has 32 bits.
const DEPTH_MAX: u32 = 28;
/// Cache lines of a node that are fetched ahead of a read: header, key and the start of the value.
const READ_LINES: usize = 3;
/// The same ahead of a write: header and key.
const WRITE_LINES: usize = 2;

/// What a slot holds whose key has vanished from a line that was full.
fn deleted() -> *mut Node {
    without_provenance_mut(1)
}

/// The hash of a key: where it stands, and what its slot shows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hash {
    place: u32,
    /// Never zero, so it differs from the tag of an empty and of a deleted slot.
    tag: u16,
}

impl Hash {
    /// The line to begin with. Uses the tag too, for in a deep directory the place's upper bits agree.
    fn line(self, lines: usize) -> usize {
        (usize::from(self.place as u16 ^ self.tag) * lines) >> 16
    }
}

#[repr(C, align(64))]
struct Line([AtomicPtr<Node>; SLOTS]);

/// Stands before a segment's first line; the writer's alone.
#[repr(C, align(64))]
struct Header {
    /// How many upper bits of the place all keys of this segment share.
    depth: u32,
    /// Slots that hold a node.
    live: u32,
    /// Slots that are not empty.
    used: u32,
}

const _: () = assert!(size_of::<Line>() == 64 && size_of::<Header>() == 64);

/// A segment, as its directory entry names it.
#[derive(Clone, Copy)]
struct Segment<'g> {
    first: NonNull<Line>,
    lines: usize,
    life: PhantomData<&'g Guard>,
}

impl<'g> Segment<'g> {
    fn layout(lines: usize) -> Layout {
        Layout::from_size_align(size_of::<Header>() + lines * size_of::<Line>(), 64)
            .expect("lines are counted in 16 bits")
    }

    /// A segment of empty slots, as a directory entry.
    fn allocate(depth: u32, lines: usize) -> *mut Line {
        let layout = Segment::layout(lines);
        // SAFETY: the layout's size is not zero. Zeroed memory is a header of zeros and lines of null pointers.
        let first = unsafe {
            let base = alloc_zeroed(layout);
            if base.is_null() {
                handle_alloc_error(layout);
            }
            base.cast::<Header>().write(Header { depth, live: 0, used: 0 });
            base.add(size_of::<Header>()).cast::<Line>()
        };
        assert_taggable(first);
        tagged(first, u16::try_from(lines).expect("a segment has at most LINES_MAX lines"))
    }

    /// The segment behind a directory entry.
    ///
    /// # Safety
    ///
    /// `entry` came from [`Segment::allocate`], and the segment is not freed during `'g`.
    unsafe fn new(entry: *mut Line) -> Segment<'g> {
        // SAFETY: `allocate` never returns null.
        let first = unsafe { NonNull::new_unchecked(untagged(entry)) };
        Segment { first, lines: usize::from(tag_of(entry)), life: PhantomData }
    }

    fn bytes(lines: usize) -> u64 {
        allocated(Segment::layout(lines).size())
    }

    #[inline]
    fn line(self, index: usize) -> &'g [AtomicPtr<Node>; SLOTS] {
        debug_assert!(index < self.lines);
        // SAFETY: the segment is alive for 'g and has more lines than `index`: every caller reduces it below `lines`.
        unsafe { &(*self.first.as_ptr().add(index)).0 }
    }

    fn header(self) -> *mut Header {
        // SAFETY: a header stands right before the first line, in the same allocation.
        unsafe { self.first.as_ptr().cast::<Header>().sub(1) }
    }

    /// The slot that shows a tag, after `skip` others that do, and what it leads to.
    #[inline]
    fn candidate(self, hash: Hash, skip: usize) -> Option<(&'g AtomicPtr<Node>, NodeRef<'g>)> {
        let mut skip = skip;
        let mut index = hash.line(self.lines);
        for _ in 0..self.lines {
            let line = self.line(index);
            let mut empty = false;
            for slot in line {
                let node = slot.load(Ordering::Acquire);
                empty |= node.is_null();
                if tag_of(node) == hash.tag {
                    if skip == 0 {
                        // SAFETY: a tag is never zero, so the slot holds a node, loaded with acquire under the guard.
                        return Some((slot, unsafe { NodeRef::new(NonNull::new_unchecked(untagged(node))) }));
                    }
                    skip -= 1;
                }
            }
            if empty {
                return None;
            }
            index += 1;
            if index == self.lines {
                index = 0;
            }
        }
        None
    }

    #[inline]
    fn find(self, hash: Hash, key: &[u8]) -> Option<(&'g AtomicPtr<Node>, NodeRef<'g>)> {
        for skip in 0.. {
            let (slot, node) = self.candidate(hash, skip)?;
            if node.key() == key {
                return Some((slot, node));
            }
        }
        None
    }

    /// The first slot for a new key, and whether it was empty. The segment has an empty slot.
    fn free_slot(self, hash: Hash) -> (&'g AtomicPtr<Node>, bool) {
        let mut index = hash.line(self.lines);
        for _ in 0..self.lines {
            for slot in self.line(index) {
                let node = slot.load(Ordering::Relaxed);
                if tag_of(node) == 0 {
                    return (slot, node.is_null());
                }
            }
            index = (index + 1) % self.lines;
        }
        unreachable!("a segment is replaced before it is full")
    }
}

/// A segment that is out of the directory. Frees it, and not its nodes, when dropped.
struct OwnedSegment(*mut Line);

// SAFETY: an allocation without other users may be freed by any thread.
unsafe impl Send for OwnedSegment {}

impl Drop for OwnedSegment {
    fn drop(&mut self) {
        let base = untagged(self.0).cast::<u8>().wrapping_sub(size_of::<Header>());
        // SAFETY: it was allocated by `Segment::allocate` with this number of lines, and nobody else uses it any more.
        unsafe { dealloc(base, Segment::layout(usize::from(tag_of(self.0)))) }
    }
}

struct Directory {
    /// Binary logarithm of the number of entries.
    depth: u32,
    /// Segments by the upper bits of the place, each as often as it has places; tagged with their lines.
    entries: Box<[AtomicPtr<Line>]>,
}

impl Directory {
    #[inline]
    fn index(&self, place: u32) -> usize {
        (u64::from(place) >> (32 - self.depth)) as usize
    }

    fn bytes(&self) -> u64 {
        allocated(self.entries.len() * size_of::<AtomicPtr<Line>>())
    }
}

/// The table as readers see it.
pub(super) struct Table {
    directory: AtomicPtr<Directory>,
    hasher: FixedState,
    counters: Arc<Counters>,
    /// Bits of the hash that tests keep, so that keys collide.
    #[cfg(test)]
    pub(super) hash_mask: std::sync::atomic::AtomicU64,
}

impl Table {
    pub(super) fn hash(&self, key: &[u8]) -> Hash {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        #[cfg(test)]
        let hash = hash & self.hash_mask.load(Ordering::Relaxed);
        Hash { place: (hash >> 32) as u32, tag: hash as u16 | 1 }
    }

    #[inline]
    fn directory<'g>(&'g self, _guard: &'g Guard) -> &'g Directory {
        // SAFETY: never null; a directory that was replaced is freed only after the guard of 'g is gone.
        unsafe { &*self.directory.load(Ordering::Acquire) }
    }

    #[inline]
    fn segment<'g>(&'g self, place: u32, guard: &'g Guard) -> Segment<'g> {
        let directory = self.directory(guard);
        let entry = directory.entries[directory.index(place)].load(Ordering::Acquire);
        // SAFETY: a segment that was replaced is freed only after the guard of 'g is gone.
        unsafe { Segment::new(entry) }
    }

    /// The newest version of each key of a group, at most [`GROUP`], visible or not. All that the reader may see must
    /// have become visible before this is called.
    #[inline]
    pub(super) fn newest<'g>(&'g self, keys: &[&[u8]], found: &mut [Option<NodeRef<'g>>], guard: &'g Guard) {
        debug_assert!(keys.len() <= GROUP && keys.len() == found.len());
        if let ([key], [found]) = (keys, &mut *found) {
            let hash = self.hash(key);
            *found = self.segment(hash.place, guard).find(hash, key).map(|(_, node)| node);
            return;
        }
        let mut hashes = [Hash { place: 0, tag: 0 }; GROUP];
        let mut segments = [None; GROUP];
        for (i, key) in keys.iter().enumerate() {
            let hash = self.hash(key);
            let segment = self.segment(hash.place, guard);
            prefetch(segment.line(hash.line(segment.lines)));
            hashes[i] = hash;
            segments[i] = Some(segment);
        }
        for (i, found) in found.iter_mut().enumerate() {
            *found = segments[i].and_then(|segment| segment.candidate(hashes[i], 0)).map(|(_, node)| node);
            if let Some(node) = found {
                prefetch_node(node.as_ptr().as_ptr(), READ_LINES);
            }
        }
        for (i, found) in found.iter_mut().enumerate() {
            if found.is_some_and(|node| node.key() != keys[i]) {
                *found = segments[i].and_then(|segment| segment.find(hashes[i], keys[i])).map(|(_, node)| node);
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: nobody else has the table any more, so no guard protects anything in it: the directory, each segment
        // (freed once, at the last of its entries) and each chain are freed here and nowhere else. What was cut or
        // replaced before is not reachable from here.
        unsafe {
            let directory = Box::from_raw(*self.directory.get_mut());
            let mut bytes = directory.bytes();
            let mut entries = directory.entries.iter().map(|entry| entry.load(Ordering::Relaxed)).collect::<Vec<_>>();
            entries.dedup();
            for entry in entries {
                let segment = Segment::new(entry);
                bytes += Segment::bytes(segment.lines);
                for slot in (0..segment.lines).flat_map(|index| segment.line(index)) {
                    let newest = slot.load(Ordering::Relaxed);
                    let mut next = if tag_of(newest) == 0 { None } else { NonNull::new(untagged(newest)) };
                    while let Some(node) = next {
                        bytes += NodeRef::new(node).bytes();
                        next = NodeRef::new(node).cut();
                        drop(OwnedNode::take_back(node));
                    }
                }
                drop(OwnedSegment(entry));
            }
            self.counters.sub(bytes);
        }
    }
}

/// The right to change a table. There is one for each.
pub(super) struct TableWriter {
    table: Arc<Table>,
    counters: Arc<Counters>,
    segments: usize,
}

/// An empty table, and the right to change it.
pub(super) fn table(hash_seed: u64, counters: Arc<Counters>) -> TableWriter {
    let entry = Segment::allocate(0, LINES_MIN);
    let directory = Directory { depth: 0, entries: Box::new([AtomicPtr::new(entry)]) };
    counters.add(directory.bytes() + Segment::bytes(LINES_MIN));
    let directory = AtomicPtr::new(Box::into_raw(Box::new(directory)));
    let table = Arc::new(Table {
        directory,
        hasher: FixedState::with_seed(hash_seed),
        counters: Arc::clone(&counters),
        #[cfg(test)]
        hash_mask: std::sync::atomic::AtomicU64::new(u64::MAX),
    });
    TableWriter { table, counters, segments: 1 }
}

impl TableWriter {
    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Fetches what a group of pushes will touch.
    pub(super) fn prefetch(&self, hashes: &[Hash], guard: &Guard) {
        for hash in hashes {
            let segment = self.table.segment(hash.place, guard);
            prefetch(segment.line(hash.line(segment.lines)));
        }
        for &hash in hashes {
            if let Some((_, node)) = self.table.segment(hash.place, guard).candidate(hash, 0) {
                prefetch_node(node.as_ptr().as_ptr(), WRITE_LINES);
            }
        }
    }

    /// The newest version of a key, and its slot.
    pub(super) fn find<'g>(&'g self, hash: Hash, key: &[u8], guard: &'g Guard) -> Option<Found<'g>> {
        let (slot, newest) = self.table.segment(hash.place, guard).find(hash, key)?;
        Some(Found { slot, newest, hash })
    }

    /// Puts a key into the table that is not there; `None` as a deleted one. Returns what its version costs in bytes.
    pub(super) fn insert(&mut self, hash: Hash, key: &[u8], version: u64, value: Option<&[u8]>, guard: &Guard) -> u64 {
        self.make_room(hash, guard);
        let segment = self.table.segment(hash.place, guard);
        let node = OwnedNode::new(hash.place, key, version, value, null_mut());
        let bytes = node.as_ref().bytes();
        self.counters.add(bytes);
        let (slot, was_empty) = segment.free_slot(hash);
        slot.store(tagged(node.publish().as_ptr(), hash.tag), Ordering::Release);
        // SAFETY: headers are the writer's alone, and the segment is in the directory, so it is alive.
        unsafe {
            (*segment.header()).live += 1;
            (*segment.header()).used += u32::from(was_empty);
        }
        bytes
    }

    /// Takes a key out whose newest version is `newest`, if that still is its newest. Its node becomes the caller's, to
    /// be taken back.
    pub(super) fn remove(&mut self, newest: NodeRef<'_>, guard: &Guard) -> bool {
        let hash = self.table.hash(newest.key());
        let segment = self.table.segment(hash.place, guard);
        let mut index = hash.line(segment.lines);
        for _ in 0..segment.lines {
            let line = segment.line(index);
            let empty = line.iter().any(|slot| slot.load(Ordering::Relaxed).is_null());
            if let Some(slot) =
                line.iter().find(|slot| untagged(slot.load(Ordering::Relaxed)) == newest.as_ptr().as_ptr())
            {
                slot.store(if empty { null_mut() } else { deleted() }, Ordering::Release);
                // SAFETY: as in `insert`.
                let sparse = unsafe {
                    let header = segment.header();
                    (*header).live -= 1;
                    (*header).used -= u32::from(empty);
                    segment.lines > LINES_MIN && (*header).live as usize * 4 < segment.lines * SLOTS
                };
                if sparse {
                    self.replace(hash, guard);
                }
                return true;
            }
            if empty {
                return false;
            }
            index = (index + 1) % segment.lines;
        }
        false
    }

    /// Makes sure that the segment of `hash` can take one key more.
    fn make_room(&mut self, hash: Hash, guard: &Guard) {
        for _ in 0..=DEPTH_MAX {
            let segment = self.table.segment(hash.place, guard);
            // SAFETY: as in `insert`.
            let used = unsafe { (*segment.header()).used } as usize;
            if (used + 1) * 100 <= segment.lines * SLOTS * LOAD_MAX {
                return;
            }
            self.replace(hash, guard);
        }
        unreachable!("half a million keys agree in {DEPTH_MAX} bits of their hash");
    }

    /// Copies the segment of `hash` into one that fits what it holds, or into two.
    fn replace(&mut self, hash: Hash, guard: &Guard) {
        let old = self.table.segment(hash.place, guard);
        // SAFETY: as in `insert`.
        let depth = unsafe { (*old.header()).depth };
        let nodes: Vec<*mut Node> = (0..old.lines)
            .flat_map(|index| old.line(index))
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|node| tag_of(*node) != 0)
            .collect();
        let lines = lines_for(nodes.len());
        let split = lines > LINES_SPLIT && depth < DEPTH_MAX && (lines == LINES_MAX || self.may_split(depth, guard));
        let entry = self.directory_entry(hash.place, guard);
        if split {
            if depth == self.table.directory(guard).depth {
                self.double(guard);
            }
            // SAFETY: the slots of the current table hold these nodes.
            let upper = |node: &*mut Node| unsafe { place_of(*node) } >> (31 - depth) & 1 == 1;
            let (upper, lower): (Vec<_>, Vec<_>) = prefetched(&nodes).partition(upper);
            let first = if depth == 0 { 0 } else { hash.place >> (32 - depth) << (32 - depth) };
            self.publish(first, depth + 1, &lower, guard);
            self.publish(first | 1 << (31 - depth), depth + 1, &upper, guard);
            self.segments += 1;
        } else {
            self.publish(hash.place, depth, &nodes, guard);
        }
        let old = OwnedSegment(entry);
        let counters = Arc::clone(&self.counters);
        guard.defer(move || {
            counters.sub(Segment::bytes(usize::from(tag_of(old.0))));
            drop(old);
        });
    }

    fn directory_entry(&self, place: u32, guard: &Guard) -> *mut Line {
        let directory = self.table.directory(guard);
        directory.entries[directory.index(place)].load(Ordering::Relaxed)
    }

    /// Whether a segment of this depth may become two. Bounds the directory when hashes agree in many bits.
    fn may_split(&self, depth: u32, guard: &Guard) -> bool {
        let directory = self.table.directory(guard);
        depth < directory.depth || directory.entries.len() * 2 <= DIRECTORY_SPREAD * (self.segments + 1)
    }

    /// Stores a new segment of `nodes` in all directory entries that share the upper `depth` bits of `place`.
    fn publish(&mut self, place: u32, depth: u32, nodes: &[*mut Node], guard: &Guard) {
        let entry = Segment::allocate(depth, lines_for(nodes.len()));
        // SAFETY: it was allocated just now and is freed only after it has been replaced in the directory.
        let segment = unsafe { Segment::new(entry) };
        for node in prefetched(nodes) {
            // SAFETY: the slots of the current table, or of the segment that this one replaces, hold these nodes.
            let place = unsafe { place_of(node) };
            let (slot, _) = segment.free_slot(Hash { place, tag: tag_of(node) });
            slot.store(node, Ordering::Relaxed);
        }
        // SAFETY: as in `insert`.
        unsafe {
            (*segment.header()).live = nodes.len() as u32;
            (*segment.header()).used = nodes.len() as u32;
        }
        self.counters.add(Segment::bytes(segment.lines));
        let directory = self.table.directory(guard);
        let copies = 1 << (directory.depth - depth);
        let first = directory.index(place) & !(copies - 1);
        for slot in &directory.entries[first..first + copies] {
            slot.store(entry, Ordering::Release);
        }
    }

    /// Doubles the directory.
    fn double(&mut self, guard: &Guard) {
        let old = self.table.directory(guard);
        let entries = old.entries.iter().flat_map(|entry| {
            let segment = entry.load(Ordering::Relaxed);
            [AtomicPtr::new(segment), AtomicPtr::new(segment)]
        });
        let new = Directory { depth: old.depth + 1, entries: entries.collect() };
        self.counters.add(new.bytes());
        let old = self.table.directory.swap(Box::into_raw(Box::new(new)), Ordering::AcqRel);
        // SAFETY: it was made by `Box::into_raw`, and the swap has taken it out: only this box owns it. Readers that still
        // use it hold guards, and the box is dropped only after they are gone.
        let old = unsafe { Box::from_raw(old) };
        let counters = Arc::clone(&self.counters);
        guard.defer(move || {
            counters.sub(old.bytes());
            drop(old);
        });
    }
}

/// How many lines a new segment gets that holds so many nodes.
fn lines_for(nodes: usize) -> usize {
    (nodes * SLACK).div_ceil(LOAD_MAX * SLOTS).clamp(LINES_MIN, LINES_MAX)
}

/// The place of a node.
///
/// # Safety
///
/// The caller is the writer, who alone takes nodes out, and has loaded this one from a slot that holds a node.
unsafe fn place_of(node: *mut Node) -> u32 {
    // SAFETY: by the caller's word the node is neither null nor freed.
    unsafe { NodeRef::new(NonNull::new_unchecked(untagged(node))).place() }
}

/// The nodes, each fetched some steps before its turn.
fn prefetched(nodes: &[*mut Node]) -> impl Iterator<Item = *mut Node> + '_ {
    nodes.iter().enumerate().map(|(i, node)| {
        if let Some(ahead) = nodes.get(i + GROUP) {
            prefetch(untagged(*ahead));
        }
        *node
    })
}

/// A key's place in the table: its slot and newest version.
pub(super) struct Found<'g> {
    slot: &'g AtomicPtr<Node>,
    hash: Hash,
    /// The newest version.
    pub(super) newest: NodeRef<'g>,
}

impl Found<'_> {
    /// Puts a version in front of the newest and returns it.
    pub(super) fn push(&self, key: &[u8], version: u64, value: Option<&[u8]>) -> NonNull<Node> {
        debug_assert!(self.newest.version() < version);
        let node = OwnedNode::new(self.hash.place, key, version, value, self.newest.as_ptr().as_ptr()).publish();
        self.slot.store(tagged(node.as_ptr(), self.hash.tag), Ordering::Release);
        node
    }
}
