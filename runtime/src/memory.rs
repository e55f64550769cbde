//! What the allocator does with memory that is given back.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long after a change.
const LATER: Duration = Duration::from_secs(30);

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

/// Half a minute after a change gives back what that has left free between what is kept: of thousands of lists and views that
/// came and went. Takes some milliseconds with thousands of Services, which is why it is not done after each. Ends
/// with `shutdown`.
///
/// # Errors
///
/// Never.
pub async fn give_back_later<T>(
    mut changes: watch::Receiver<T>,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    let work = async {
        while changes.changed().await.is_ok() {
            tokio::time::sleep(LATER).await;
            changes.mark_unchanged();
            give_back();
        }
        std::future::pending::<()>().await;
    };
    shutdown.run_until_cancelled(work).await;
    Ok(())
}

fn give_back() {
    // SAFETY: it takes the allocator's own locks, and touches only what is free (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
