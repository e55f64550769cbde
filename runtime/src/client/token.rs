//! The token of a service account, which the kubelet replaces before it expires.
//!
//! kube reads its own anew by the wall clock: after that was set back by hours, the old token expires before. Here the
//! file is read every minute by the monotonic clock, and whenever the API server refuses what was sent.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderValue;
use kube::config::AuthInfo;
use tokio::time::Instant;

use super::ConnectError;

/// How often the file is read.
const REREAD: Duration = Duration::from_secs(60);

/// A file with a token.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    header: HeaderValue,
    at: Instant,
}

impl TokenFile {
    /// Takes the token file out of `auth`, if that is what it authenticates by.
    pub(super) fn of(auth: &mut AuthInfo) -> Result<Option<Self>, ConnectError> {
        let by_other = auth.auth_provider.is_some() || auth.username.is_some() || auth.token.is_some();
        match auth.token_file.take_if(|_| !by_other) {
            Some(path) => Self::open(path.clone().into())
                .map(Some)
                .map_err(|source| ConnectError::Token { path, source }),
            None => Ok(None),
        }
    }

    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let read = Mutex::new(Read { header: read(&path)?, at: Instant::now() });
        Ok(Self { path, read })
    }

    /// What to send. A file that cannot be read leaves the token as it was.
    pub(super) fn header(&self) -> HeaderValue {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at.elapsed() >= REREAD {
            *known = Read {
                header: read(&self.path).unwrap_or_else(|_| known.header.clone()),
                at: Instant::now(),
            };
        }
        known.header.clone()
    }

    /// What to send after `refused` was refused; none: there is no other token.
    pub(super) fn after(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if known.header == *refused {
            known.header = read(&self.path).ok()?;
        }
        (known.header != *refused).then(|| known.header.clone())
    }
}

fn read(path: &PathBuf) -> std::io::Result<HeaderValue> {
    let token = std::fs::read_to_string(path)?;
    // The value is not part of the error.
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not a valid token"))?;
    header.set_sensitive(true);
    Ok(header)
}
