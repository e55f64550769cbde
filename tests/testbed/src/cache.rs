//! Cache of build results, outside of the working tree: `${LBSTACK_CACHE:-~/.cache/lbstack}`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Attempt, Result};

/// The directory of the cache.
pub(crate) fn directory() -> PathBuf {
    if let Some(chosen) = std::env::var_os("LBSTACK_CACHE").filter(|chosen| !chosen.is_empty()) {
        return chosen.into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/lbstack")
}

/// The directory of an entry, created by `make` if it does not exist. `make` fills a temporary directory,
/// which is then renamed, so that an existing entry is complete. Two processes that need the same entry wait
/// for each other.
pub(crate) fn entry(kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    entry_in(&directory(), kind, key, make)
}

fn entry_in(cache: &Path, kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let home = cache.join(kind);
    let place = home.join(key);
    if place.is_dir() {
        return Ok(place);
    }
    fs::create_dir_all(&home).attempt(|| format!("making {}", home.display()))?;
    let lock_path = home.join(format!("{key}.lock"));
    let lock = File::create(&lock_path).attempt(|| format!("opening {}", lock_path.display()))?;
    lock.lock().attempt(|| format!("locking {}", lock_path.display()))?;
    // Another process may have created it meanwhile.
    if place.is_dir() {
        return Ok(place);
    }
    let partial = home.join(format!("{key}.partial"));
    let attempted = || format!("making {}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(&partial).attempt(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir(&partial).attempt(attempted)?;
    make(&partial)?;
    fs::rename(&partial, &place).attempt(|| format!("moving {} to its place", partial.display()))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn an_entry_is_created_once() {
        let cache = tempfile::tempdir().unwrap();
        let made = entry_in(cache.path(), "kind", "key", |place| {
            fs::write(place.join("x"), "1").attempt(|| "writing".into())
        });
        let found = entry_in(cache.path(), "kind", "key", |_| panic!("made twice"));
        assert_eq!(made.unwrap(), found.unwrap());
    }

    #[test]
    fn an_entry_whose_creation_failed_does_not_exist_and_is_created_again() {
        let cache = tempfile::tempdir().unwrap();
        let failed = entry_in(cache.path(), "kind", "key", |place| {
            fs::write(place.join("half"), "1").attempt(|| "writing".into())?;
            Err(Error::Options("no".into()))
        });
        assert!(failed.is_err());
        let made = entry_in(cache.path(), "kind", "key", |_| Ok(())).unwrap();
        assert!(!made.join("half").exists());
    }

    #[test]
    fn concurrent_callers_create_an_entry_once() {
        let cache = tempfile::tempdir().unwrap();
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    entry_in(cache.path(), "kind", "key", |_| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(())
                    })
                    .unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }
}
