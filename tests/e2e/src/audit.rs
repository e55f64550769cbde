//! What the API server's audit log says of our processes.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::Bed;

/// The accounts of our three processes.
const OURS: [&str; 3] = [
    "system:serviceaccount:lbstack-system:lbstack-operator",
    "system:serviceaccount:metallb-system:controller",
    "system:serviceaccount:metallb-system:speaker",
];
/// An entry reaches the file at most so late.
const LATE: Duration = Duration::from_millis(1500);

/// A request of one of our processes that the API server answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub at: Timestamp,
    /// Whose; the account's name.
    pub user: String,
    /// The API's verb: `get`, `patch`, …
    pub verb: String,
    /// Resource and subresource, as `services/status`.
    pub resource: String,
    /// Path and query.
    pub uri: String,
    /// The HTTP status of the answer.
    pub code: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    response_status: Option<Status>,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct ObjectRef {
    resource: Option<String>,
    subresource: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

/// The log, and when the server was not itself.
pub(crate) struct Audit {
    file: PathBuf,
    away: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
}

/// While this lives refusals are not ours to answer for: the server is away or has not read its roles yet, or a test
/// has taken them from us.
pub(crate) struct Away {
    from: Timestamp,
    all: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
}

impl Drop for Away {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push((self.from, Timestamp::now()));
    }
}

impl Audit {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, away: Arc::default() }
    }

    pub(crate) fn server_away(&self) -> Away {
        Away { from: Timestamp::now(), all: Arc::clone(&self.away) }
    }

    /// All requests of ours so far.
    fn requests(&self) -> Vec<Request> {
        std::thread::sleep(LATE);
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines()
            .filter(|line| OURS.iter().any(|user| line.contains(user)))
            .filter_map(|line| serde_json::from_str::<Entry>(line).ok())
            .filter(|entry| OURS.contains(&entry.user.username.as_str()))
            .map(|entry| {
                let object = entry.object_ref.as_ref();
                let resource = object.and_then(|o| o.resource.clone()).unwrap_or_default();
                let subresource = object.and_then(|o| o.subresource.as_ref());
                Request {
                    at: entry.stage_timestamp,
                    user: entry.user.username,
                    verb: entry.verb,
                    resource: subresource.map_or(resource.clone(), |sub| format!("{resource}/{sub}")),
                    uri: entry.request_uri,
                    code: entry.response_status.and_then(|status| status.code).unwrap_or_default(),
                }
            })
            .collect()
    }
}

impl Bed {
    /// Waits `time`, and returns what our processes wrote meanwhile.
    pub fn writes_within(&self, time: Duration) -> Vec<Request> {
        let from = Timestamp::now();
        std::thread::sleep(time);
        let until = Timestamp::now();
        let mut writes = self.audit.requests();
        let reads = ["get", "list", "watch"];
        writes.retain(|r| !reads.contains(&r.verb.as_str()) && r.at >= from && r.at <= until);
        writes
    }

    /// Everything that one of our accounts has asked of the API server so far.
    pub fn requests_by(&self, account: &str) -> Vec<Request> {
        let mut requests = self.audit.requests();
        requests.retain(|request| request.user == account);
        requests
    }

    /// Requests of our processes that the API server refused with 403 while it was ready.
    pub fn requests_refused(&self) -> Vec<Request> {
        let mut refused = self.audit.requests();
        assert!(!refused.is_empty(), "the audit log has no request of ours");
        let away = self.audit.away.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refused.retain(|r| r.code == 403 && away.iter().all(|(from, to)| r.at < *from || r.at > *to));
        refused
    }
}
