//! Requests of our processes, from the API server's audit log.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::Env;

/// The accounts of our three processes.
const OURS: [&str; 3] = [
    "system:serviceaccount:lbstack-system:lbstack-operator",
    "system:serviceaccount:metallb-system:controller",
    "system:serviceaccount:metallb-system:speaker",
];
/// The maximum delay of an entry in the log.
const MAX_DELAY: Duration = Duration::from_millis(1500);

/// A completed request of one of our processes.
#[derive(Clone, Debug)]
pub struct Request {
    /// Time of completion.
    pub at: Timestamp,
    /// Name of the account.
    pub user: String,
    /// The API's verb: `get`, `patch`, …
    pub verb: String,
    /// Resource and subresource, such as `services/status`.
    pub resource: String,
    /// Path and query.
    pub uri: String,
    /// The HTTP status code.
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

/// The audit log, and the periods in which rejections are tolerated.
pub(crate) struct Audit {
    file: PathBuf,
    tolerated: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
}

/// A period in which rejections are tolerated, until this is dropped: the server is down or has not loaded
/// its roles yet, or a test has removed roles.
pub(crate) struct Tolerance {
    from: Timestamp,
    all: Arc<Mutex<Vec<(Timestamp, Timestamp)>>>,
}

impl Drop for Tolerance {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push((self.from, Timestamp::now()));
    }
}

impl Audit {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, tolerated: Arc::default() }
    }

    pub(crate) fn tolerate_rejections(&self) -> Tolerance {
        Tolerance { from: Timestamp::now(), all: Arc::clone(&self.tolerated) }
    }

    /// All requests of our processes so far.
    fn requests(&self) -> Vec<Request> {
        std::thread::sleep(MAX_DELAY);
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

impl Env {
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

    /// All requests of one of our accounts so far.
    pub fn requests_by(&self, account: &str) -> Vec<Request> {
        let mut requests = self.audit.requests();
        requests.retain(|request| request.user == account);
        requests
    }

    /// Requests of our processes that the API server rejected with 403, except for tolerated ones.
    pub fn rejected_requests(&self) -> Vec<Request> {
        let mut rejected = self.audit.requests();
        assert!(!rejected.is_empty(), "the audit log has no request of ours");
        let tolerated = self.audit.tolerated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rejected.retain(|r| r.code == 403 && tolerated.iter().all(|(from, to)| r.at < *from || r.at > *to));
        rejected
    }
}
