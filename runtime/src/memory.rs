//! Settings of the C library's memory allocator.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long after a change [`trim_after_changes`] trims.
const TRIM_DELAY: Duration = Duration::from_secs(30);

/// Makes the allocator return more freed memory to the system. To be called first in `main`, while there is
/// one thread.
///
/// Lists and views of several megabytes are allocated and freed by several threads. glibc keeps freed memory
/// in an arena per thread, and raises its threshold with each large block (mallopt(3), "dynamic mmap
/// threshold"). Two arenas and a fixed threshold are not measurably slower, and save a speaker with thousands
/// of Services a third of its memory. No effect with another C library.
pub fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 2;
        const TRIM_THRESHOLD: libc::c_int = 128 * 1024;
        // SAFETY: both only set a parameter of the allocator, and return 0 on failure.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        }
    }
}

/// Returns free memory in the middle of the heap to the system half a minute after each change of the watched
/// value. Takes some milliseconds with thousands of Services, so it is not done after every change. Ends with
/// `shutdown`.
///
/// # Errors
///
/// Never.
pub async fn trim_after_changes<T>(
    mut changes: watch::Receiver<T>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let work = async {
        while changes.changed().await.is_ok() {
            tokio::time::sleep(TRIM_DELAY).await;
            changes.mark_unchanged();
            trim();
        }
        std::future::pending::<()>().await;
    };
    shutdown.run_until_cancelled(work).await;
    Ok(())
}

fn trim() {
    // SAFETY: it takes the allocator's own locks, and touches only free memory (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
