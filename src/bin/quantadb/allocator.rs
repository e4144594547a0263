//! The allocator, and how long it keeps what was freed.

use libmimalloc_sys::{mi_option_get, mi_option_set_default, mi_option_t};

/// Fewer and shorter pauses than the system's under many small values.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`: how long freed pages stay with the process, in milliseconds. The crate has no name for it.
const PURGE_DELAY: mi_option_t = 15;
/// Its value unless the environment sets `MIMALLOC_PURGE_DELAY`.
const PURGE_DELAY_DEFAULT: i64 = 10;
/// Versions, entries and buffers die after tens of milliseconds to seconds, and as many are made: pages that are given
/// back in between come back zeroed by the kernel, which cost a busy writer 6 to 15 % of its throughput. mimalloc 3 waits
/// as long by itself.
const PURGE_DELAY_MS: i64 = 1_000;

/// Keeps freed pages for a second. To be called before there are threads.
pub fn keep_freed_pages() {
    // SAFETY: both take plain numbers and reject those that they do not know; no other thread runs yet, as setting asks.
    unsafe {
        // Another default would mean that the number stands for something else by now.
        if mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT {
            mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_pages_are_kept() {
        keep_freed_pages();
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            // SAFETY: it takes a plain number.
            assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, PURGE_DELAY_MS);
        }
    }
}
