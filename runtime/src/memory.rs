//! What the allocator does with memory that is given back.

#![allow(unsafe_code)]

/// Gives memory back to the system. To be called before anything else, while there is one thread.
///
/// Lists and views come and go by the megabyte, in several threads. glibc keeps what was freed in an arena per thread, and
/// learns from large blocks to keep more and more (mallopt(3), "dynamic mmap threshold"); two arenas and a fixed threshold
/// are slower by nothing that could be measured, and spare a speaker with thousands of Services a third of its memory.
/// With another C library this does nothing.
pub fn spare() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 2;
        const KEPT_BYTES: libc::c_int = 128 * 1024;
        // SAFETY: both only set a number in the allocator, and tell by 0 that they did not.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        }
    }
}
