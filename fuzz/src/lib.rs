//! What the fuzz targets share: an allocator that counts, and inputs as streams of frames.
//!
//! | target | input | checked, besides that nothing panics |
//! |---|---|---|
//! | `frame` | a stream of frames, split | any split gives the same frames and the same end; each encodes to its bytes |
//! | `request` | opcode, payload of a REQUEST | what decodes encodes to the same bytes, ignored tags aside |
//! | `reply` | kind, opcode, payload of any other frame | the same |
//! | `peer` | kind, opcode, payload of a frame between nodes | the same; what a whole commit has read is well formed |
//! | `backup` | a file of a backup | what is whole is written and read again as the same rows; no part of it is whole |
//! | `log` | blocks of the files of a log | it opens or is refused, as `check` says; what opens opens again as it is |
//! | `session` | a client's frames, split, to a server | the answers are well formed, each to a request, one end each; it ends |
//!
//! All but `session` bound what is allocated: at most four times what was received and 4 KiB; `log` 64 times its files.
//!
//! `just fuzz TARGET SECONDS` runs one. The seeds under `seeds/` are committed, `tests/fuzz_seeds.rs` makes them; see
//! [`input`] and [`segments`] for their form. What a run finds new goes to `corpus/`, which is not committed. A found failure becomes a
//! named test beside the code, and its input a seed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

pub mod file;
pub mod input;
pub mod segments;
pub mod world;

/// The system's allocator, counting what is asked of it.
pub struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; counting touches an atomic alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs `work`, which has received so many bytes, and fails if it allocated more than it may.
pub fn bounded<T>(received: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let value = work();
    let taken = ALLOCATED.load(Ordering::Relaxed) - before;
    assert!(taken <= 4 * received + 4096, "{taken} bytes were allocated for {received} received");
    value
}
