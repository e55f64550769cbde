//! The keys that beacons are signed with, from mounted Secrets. The kubelet updates the files some time after
//! a Secret has changed, at a different time on each node: so a removed key is accepted for a limited time.
//! The time is limited because the key may have been replaced since it was compromised.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use announce::layer2::beacon::{Key, Keyring};
use crds::names::SECRET_KEY;
use runtime::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::log_limit::{first_few, limited};

/// How often the files are read.
const POLL: Duration = Duration::from_secs(5);
/// How long a key is accepted that is in no file any more. A kubelet updates the files within two minutes.
const ACCEPTED: Duration = Duration::from_secs(600);

/// Reads the keys and starts the task that watches them.
pub(crate) fn start(
    tasks: &mut Tasks,
    directories: &[String],
    shutdown: CancellationToken,
) -> watch::Receiver<Keyring> {
    let files: Vec<PathBuf> = directories.iter().map(|dir| PathBuf::from(dir).join(SECRET_KEY)).collect();
    let mut keys = KeySet::new(read(&files));
    if keys.current.ids().is_empty() {
        tracing::warn!(
            directories = %first_few(directories),
            "there is no key for beacons: any host that reaches the beacon port can pose as a speaker"
        );
    }
    let (sender, receiver) = watch::channel(keys.keyring());
    tasks.spawn("keys", async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            keys.update(Instant::now(), read(&files));
            sender.send_if_modified(|known| {
                let keyring = keys.keyring();
                let changed = *known != keyring;
                if changed {
                    let (current, old) = (keys.current.ids().len(), keys.old.len());
                    limited!(5, info, current, old, "the accepted beacon keys have changed");
                    *known = keyring;
                }
                changed
            });
        }
        Ok::<(), std::convert::Infallible>(())
    });
    receiver
}

/// The keys in the files, and those that were removed recently.
struct KeySet {
    current: Keyring,
    /// Removed keys, with the time until which they are accepted.
    old: Vec<(Key, Instant)>,
}

impl KeySet {
    fn new(current: Keyring) -> Self {
        Self { current, old: Vec::new() }
    }

    /// Without any key in the files the old ones are kept: without a key, any host could pose as a speaker.
    fn update(&mut self, now: Instant, read: Keyring) {
        if read != self.current {
            let before = std::mem::replace(&mut self.current, read);
            let until = now.checked_add(ACCEPTED).unwrap_or(now);
            self.old.retain(|(key, _)| before.get(key.id()).is_none());
            self.old.splice(0..0, before.iter().map(|key| (key.clone(), until)));
        }
        let none = self.current.ids().is_empty();
        self.old.retain(|(key, until)| self.current.get(key.id()).is_none() && (none || *until > now));
    }

    fn keyring(&self) -> Keyring {
        let old = self.old.iter().map(|(key, _)| key);
        with_default(&Keyring::new(self.current.iter().chain(old).cloned()))
    }
}

/// Reads the keys of the files that exist. A mounted Secret without the entry is ignored.
fn read(files: &[PathBuf]) -> Keyring {
    Keyring::new(files.iter().filter_map(|file| match std::fs::read(file) {
        Ok(secret) if !secret.is_empty() => Some(Key::from_secret(&secret)),
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            limited!(5, warn, file = %file.display(), %error, "cannot read a key for beacons");
            None
        }
    }))
}

/// Without any Secret, speakers use a well-known key, which protects nothing.
fn with_default(keys: &Keyring) -> Keyring {
    if keys.ids().is_empty() { Keyring::new([Key::from_secret(b"")]) } else { keys.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_preferred_and_missing_or_empty_files_are_skipped() {
        let dir = std::env::temp_dir().join(format!("lbstack-keys-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (missing, empty, user, own) =
            (dir.join("missing"), dir.join("empty"), dir.join("user"), dir.join("own"));
        for (file, text) in [(&empty, ""), (&user, "user"), (&own, "own")] {
            std::fs::write(file, text).unwrap();
        }
        let keys = read(&[missing, empty, user, own]);
        let expected = [Key::from_secret(b"user").id(), Key::from_secret(b"own").id()];
        assert_eq!(keys.ids(), expected);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(with_default(&Keyring::default()).ids().len(), 1);
    }

    #[test]
    fn a_removed_key_is_accepted_after_the_new_one_for_a_limited_time() {
        let key = |text: &str| Key::from_secret(text.as_bytes());
        let start = Instant::now();
        let mut keys = KeySet::new(Keyring::new([key("a")]));
        let mut at = |seconds: u64, texts: &[&str]| {
            let read = Keyring::new(texts.iter().map(|text| key(text)));
            keys.update(start + Duration::from_secs(seconds), read);
            keys.keyring().ids()
        };
        let ids = |texts: &[&str]| texts.iter().map(|text| key(text).id()).collect::<Vec<_>>();
        assert_eq!(at(0, &["b"]), ids(&["b", "a"]));
        assert_eq!(at(300, &["c"]), ids(&["c", "b", "a"]));
        assert_eq!(at(600, &["c"]), ids(&["c", "b"]), "ten minutes, whatever else has changed");
        assert_eq!(at(700, &["b"]), ids(&["b", "c"]), "it came back");
        assert_eq!(at(800, &[]), ids(&["b", "c"]));
        assert_eq!(at(9_000, &[]), ids(&["b", "c"]), "rather these than none");
        assert_eq!(at(9_005, &["d"]), ids(&["d"]));
    }
}
