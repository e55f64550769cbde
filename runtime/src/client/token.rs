//! The token of a service account, which the kubelet replaces before it expires.
//!
//! kube rereads the file by the wall clock: if that is set back by hours, the old token expires before it is
//! replaced. Here the file is reread every minute by the monotonic clock, and whenever the API server rejects
//! the token.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderValue;
use kube::config::AuthInfo;
use tokio::time::Instant;

use super::ConnectError;

/// How often the file is reread.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// A file with a token.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    cached: Mutex<CachedToken>,
}

#[derive(Debug)]
struct CachedToken {
    header: HeaderValue,
    read_at: Instant,
}

impl TokenFile {
    /// Takes the token file out of `auth`, if that is its only credential.
    pub(super) fn take_from(auth: &mut AuthInfo) -> Result<Option<Self>, ConnectError> {
        let has_other = auth.auth_provider.is_some() || auth.username.is_some() || auth.token.is_some();
        match auth.token_file.take_if(|_| !has_other) {
            Some(path) => Self::open(path.clone().into())
                .map(Some)
                .map_err(|source| ConnectError::Token { path, source }),
            None => Ok(None),
        }
    }

    pub(super) fn open(path: PathBuf) -> std::io::Result<Self> {
        let cached = Mutex::new(CachedToken { header: read(&path)?, read_at: Instant::now() });
        Ok(Self { path, cached })
    }

    /// The Authorization header. If the file cannot be read, the previous token is used.
    pub(super) fn header(&self) -> HeaderValue {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.read_at.elapsed() >= REREAD_INTERVAL {
            *cached = CachedToken {
                header: read(&self.path).unwrap_or_else(|_| cached.header.clone()),
                read_at: Instant::now(),
            };
        }
        cached.header.clone()
    }

    /// The Authorization header after `rejected` was rejected; none if there is no newer token.
    pub(super) fn newer_than(&self, rejected: &HeaderValue) -> Option<HeaderValue> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.header == *rejected {
            cached.header = read(&self.path).ok()?;
        }
        (cached.header != *rejected).then(|| cached.header.clone())
    }
}

fn read(path: &PathBuf) -> std::io::Result<HeaderValue> {
    let token = std::fs::read_to_string(path)?;
    // The error must not contain the value.
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not a valid token"))?;
    header.set_sensitive(true);
    Ok(header)
}
