//! One version of one key: a single allocation that holds the header, the key and the value.
//!
//! ```text
//! prev 8 · version 8 · place 4 · value length 4 · key length 2 · key · value
//! ```
//!
//! A chain runs from a key's newest version to its oldest by `prev`. Everything but `prev` is written before the node is
//! published and never changes. `prev` changes once at most: to null, when what lies behind it is cut.
//!
//! The key stands in every version, so that a point read misses the cache twice (slot, node) and not three times.

use super::{prefetch::prefetch, usage::allocated};
use crossbeam_epoch::Guard;
use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    marker::PhantomData,
    mem::{align_of, offset_of, size_of},
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicPtr, Ordering},
};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("slots keep a tag in the upper 16 bits of a 64-bit pointer");

/// The header. The key's bytes and then the value's follow at [`BYTES_AT`].
#[repr(C)]
pub(super) struct Node {
    prev: AtomicPtr<Node>,
    version: u64,
    place: u32,
    value_len: u32,
    key_len: u16,
}

const BYTES_AT: usize = offset_of!(Node, key_len) + size_of::<u16>();
/// Stands in `value_len` for a deleted key.
const TOMBSTONE: u32 = u32::MAX;
const ADDRESS_BITS: u32 = 48;
const ADDRESS: usize = (1 << ADDRESS_BITS) - 1;

/// Longest value that a node can hold.
pub(super) const NODE_VALUE_BYTES_MAX: usize = TOMBSTONE as usize - 1;

fn layout(key_len: usize, value_len: usize) -> Layout {
    let size = (BYTES_AT + key_len + value_len).max(size_of::<Node>());
    Layout::from_size_align(size, align_of::<Node>()).expect("lengths of 16 and 32 bits do not overflow")
}

/// A pointer with 16 bits of the caller's in its upper bits.
#[inline]
pub(super) fn tagged<T>(ptr: *mut T, tag: u16) -> *mut T {
    ptr.map_addr(|address| address | (usize::from(tag) << ADDRESS_BITS))
}

/// The pointer without its tag.
#[inline]
pub(super) fn untagged<T>(ptr: *mut T) -> *mut T {
    ptr.map_addr(|address| address & ADDRESS)
}

/// The tag of a pointer.
#[inline]
pub(super) fn tag_of<T>(ptr: *mut T) -> u16 {
    (ptr.addr() >> ADDRESS_BITS) as u16
}

/// Makes sure that a fresh allocation's address leaves room for a tag.
pub(super) fn assert_taggable<T>(ptr: *mut T) {
    assert!(ptr.addr() & !ADDRESS == 0, "this machine's addresses are longer than 48 bits");
}

/// A node that nothing else reaches. Frees it, and it alone, when dropped.
pub(super) struct OwnedNode(NonNull<Node>);

// SAFETY: a node is plain bytes and an atomic pointer; its only owner may move it to another thread.
unsafe impl Send for OwnedNode {}

impl OwnedNode {
    /// Makes a version of a key in front of `prev`, which may be null.
    pub(super) fn new(place: u32, key: &[u8], version: u64, value: Option<&[u8]>, prev: *mut Node) -> OwnedNode {
        let key_len = u16::try_from(key.len()).expect("the engine checks the length of keys");
        let value_len = value.map_or(TOMBSTONE, |value| {
            assert!(value.len() <= NODE_VALUE_BYTES_MAX, "the engine checks the length of values");
            value.len() as u32
        });
        let value = value.unwrap_or(&[]);
        let layout = layout(key.len(), value.len());
        // SAFETY: the layout's size is not zero, and is large enough for the header and, from BYTES_AT on, for both byte
        // strings; nobody else knows the allocation yet. The sources cannot overlap it, for it is fresh.
        let node = unsafe {
            let node = alloc(layout).cast::<Node>();
            if node.is_null() {
                handle_alloc_error(layout);
            }
            node.write(Node { prev: AtomicPtr::new(prev), version, place, value_len, key_len });
            let bytes = node.cast::<u8>().add(BYTES_AT);
            bytes.copy_from_nonoverlapping(key.as_ptr(), key.len());
            bytes.add(key.len()).copy_from_nonoverlapping(value.as_ptr(), value.len());
            NonNull::new_unchecked(node)
        };
        assert_taggable(node.as_ptr());
        OwnedNode(node)
    }

    /// Takes back a node that was published.
    ///
    /// # Safety
    ///
    /// The node came from [`OwnedNode::publish`], no slot and no `prev` of a reachable node leads to it, nobody takes it
    /// back again, and the result is dropped only once every guard that exists now is gone.
    pub(super) unsafe fn take_back(node: NonNull<Node>) -> OwnedNode {
        OwnedNode(node)
    }

    /// Gives up ownership: from here on the chain that it is stored in owns it.
    pub(super) fn publish(self) -> NonNull<Node> {
        let node = self.0;
        std::mem::forget(self);
        node
    }

    /// The node's contents.
    pub(super) fn as_ref(&self) -> NodeRef<'_> {
        NodeRef { node: self.0, life: PhantomData }
    }
}

impl Drop for OwnedNode {
    fn drop(&mut self) {
        let node = self.as_ref();
        let layout = layout(node.key().len(), node.value().map_or(0, <[u8]>::len));
        // SAFETY: the node was allocated with the layout of these lengths, which never change, and we own it.
        unsafe { dealloc(self.0.as_ptr().cast(), layout) }
    }
}

/// A node that stays allocated for `'g`: as long as the guard under which it was found.
#[derive(Clone, Copy)]
pub(in crate::storage) struct NodeRef<'g> {
    node: NonNull<Node>,
    life: PhantomData<&'g Guard>,
}

impl<'g> NodeRef<'g> {
    /// The node behind a slot's pointer, without its tag.
    ///
    /// # Safety
    ///
    /// `node` was loaded with acquire or later from a slot of a table or a node's `prev`, while the guard of `'g` was
    /// held (or by the only thread that takes nodes out, since it last did); or `'g` ends before the node is taken back.
    #[inline]
    pub(super) unsafe fn new(node: NonNull<Node>) -> NodeRef<'g> {
        NodeRef { node, life: PhantomData }
    }

    #[inline]
    pub(super) fn as_ptr(self) -> NonNull<Node> {
        self.node
    }

    #[inline]
    pub(in crate::storage) fn version(self) -> u64 {
        // SAFETY: the node is alive for 'g, and its version never changes after publication.
        unsafe { (*self.node.as_ptr()).version }
    }

    /// The hash bits that decide where the key stands in the table.
    #[inline]
    pub(super) fn place(self) -> u32 {
        // SAFETY: as in `version`.
        unsafe { (*self.node.as_ptr()).place }
    }

    #[inline]
    pub(in crate::storage) fn key(self) -> &'g [u8] {
        // SAFETY: the node is alive for 'g; `key_len` bytes were written from BYTES_AT on before publication and never
        // change. The pointer was made from the whole allocation, not from a reference to the header.
        unsafe {
            let node = self.node.as_ptr();
            std::slice::from_raw_parts(node.cast::<u8>().add(BYTES_AT), usize::from((*node).key_len))
        }
    }

    #[inline]
    pub(super) fn is_tombstone(self) -> bool {
        // SAFETY: as in `version`.
        unsafe { (*self.node.as_ptr()).value_len == TOMBSTONE }
    }

    /// The value; `None` if this version deleted the key.
    #[inline]
    pub(in crate::storage) fn value(self) -> Option<&'g [u8]> {
        if self.is_tombstone() {
            return None;
        }
        // SAFETY: as in `key`; the value's bytes follow the key's.
        unsafe {
            let node = self.node.as_ptr();
            let at = BYTES_AT + usize::from((*node).key_len);
            Some(std::slice::from_raw_parts(node.cast::<u8>().add(at), (*node).value_len as usize))
        }
    }

    /// The version before this one, unless it has been cut.
    #[inline]
    pub(in crate::storage) fn prev(self) -> Option<NodeRef<'g>> {
        // SAFETY: the node is alive for 'g. What `prev` leads to is taken back only after `cut` has stored null here, so
        // either we see null, or it was reachable under our guard and outlives it.
        unsafe { NonNull::new((*self.node.as_ptr()).prev.load(Ordering::Acquire)).map(|prev| NodeRef::new(prev)) }
    }

    /// Cuts off what lies behind this version, and returns it.
    ///
    /// Only the writer calls this; what it returns is no longer reachable from this chain.
    pub(super) fn cut(self) -> Option<NonNull<Node>> {
        // SAFETY: the node is alive for 'g, and only its atomic field is written.
        NonNull::new(unsafe { (*self.node.as_ptr()).prev.swap(null_mut(), Ordering::AcqRel) })
    }

    /// The newest version of this chain at or below `version`.
    #[inline]
    pub(in crate::storage) fn at(self, version: u64) -> Option<NodeRef<'g>> {
        let mut node = self;
        while node.version() > version {
            node = node.prev()?;
        }
        Some(node)
    }

    /// What the allocation costs, at most.
    pub(super) fn bytes(self) -> u64 {
        allocated(BYTES_AT + self.key().len() + self.value().map_or(0, <[u8]>::len))
    }
}

/// Asks for the header and the first bytes of a node, before it is read. Any pointer will do.
#[inline]
pub(super) fn prefetch_node(node: *const Node, lines: usize) {
    for line in 0..lines {
        prefetch(node.cast::<u8>().wrapping_add(line * 64));
    }
}
