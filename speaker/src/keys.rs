//! The keys that beacons are signed with, out of mounted Secrets. The kubelet renews the files some time after a
//! Secret has changed, on each node at another time: so a key that went away is accepted for a while longer.

use std::path::PathBuf;
use std::time::Duration;

use announce::beacon::{Key, Keyring};
use crds::names::SECRET_KEY;
use runtime::tasks::Tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the files are read.
const POLL: Duration = Duration::from_secs(5);

/// Reads the keys and starts the task that follows their changes.
pub(crate) fn start(
    tasks: &mut Tasks,
    directories: &[String],
    shutdown: CancellationToken,
) -> watch::Receiver<Keyring> {
    let files: Vec<PathBuf> = directories.iter().map(|dir| PathBuf::from(dir).join(SECRET_KEY)).collect();
    let (mut current, mut accepted) = (read(&files), Keyring::default());
    if current.ids().is_empty() {
        tracing::warn!(
            ?directories,
            "there is no key for beacons: any host that reaches the beacon port can pose as a speaker"
        );
    }
    let (sender, receiver) = watch::channel(with_default(&current));
    tasks.spawn("keys", async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            let now = read(&files);
            if now != current {
                tracing::info!("the keys for beacons have changed; the old ones are still accepted");
                accepted = current.with_old(&accepted);
                current = now;
                sender.send_replace(with_default(&current.clone().with_old(&accepted)));
            }
        }
        Ok::<(), std::convert::Infallible>(())
    });
    receiver
}

/// The keys of the files that exist. A mounted Secret without the entry counts as none.
fn read(files: &[PathBuf]) -> Keyring {
    Keyring::new(files.iter().filter_map(|file| match std::fs::read(file) {
        Ok(secret) if !secret.is_empty() => Some(Key::from_secret(&secret)),
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read a key for beacons");
            None
        }
    }))
}

/// Without any Secret speakers still talk, with a key that is none.
fn with_default(keys: &Keyring) -> Keyring {
    if keys.ids().is_empty() { Keyring::new([Key::from_secret(b"")]) } else { keys.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_preferred_and_what_is_missing_or_empty_is_passed_over() {
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
}
