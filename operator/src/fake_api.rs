//! An in-memory API server with what the operator needs: objects with resource versions, UIDs and managed
//! fields, lists, watches, both kinds of apply, JSON patches, and deletion with preconditions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::{Method, Request, Response, Uri};
use crds::names::OPERATOR;
use kube::Client;
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

/// How long a watch waits for events before it ends and is restarted.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// All events: version, type, path and object.
    history: Vec<(u64, &'static str, String, Value)>,
    version: u64,
    /// All writes since the last call of `take_writes`, as `DELETE path`.
    writes: Vec<String>,
    gets: Vec<String>,
    notes: Vec<String>,
    /// Calls that fail, with status code and message.
    failures: BTreeMap<String, (u16, String)>,
    /// Whether images are rewritten, as by the webhook of a registry mirror.
    rewrite_images: bool,
    /// Whether `status.controller` is pruned, as by an older definition of the stack.
    prune_status: bool,
    /// Hooks that run just before a write, given as `PATCH path`.
    write_hooks: Vec<(String, WriteHook)>,
}

type WriteHook = Box<dyn FnOnce(&FakeApiServer) + Send>;

/// The API server; clones share its state.
#[derive(Clone, Default)]
pub(crate) struct FakeApiServer {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// The path of an object of the group `metallb.io`.
pub(crate) fn path(plural: &str, name: &str) -> String {
    format!("/apis/metallb.io/v1beta1/namespaces/metallb-system/{plural}/{name}")
}

pub(crate) fn policy_path(name: &str) -> String {
    format!("/apis/lbstack.dev/v1alpha1/namespaces/metallb-system/poolpolicies/{name}")
}

pub(crate) const STACK: &str = "/apis/lbstack.dev/v1alpha1/loadbalancerstacks/default";
pub(crate) const CONFIG_MAP: &str = "/api/v1/namespaces/metallb-system/configmaps/config";
pub(crate) const NAMESPACE: &str = "/api/v1/namespaces/metallb-system";
pub(crate) const SPEAKER: &str = "/apis/apps/v1/namespaces/metallb-system/daemonsets/speaker";

impl FakeApiServer {
    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let answer = move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap_or_default();
                let (code, body) = fake.answer(&parts.method, &parts.uri, &parts.headers, &body).await;
                Response::builder().status(code).body(Body::from(body))
            }
        };
        Client::new(tower::service_fn(answer), "metallb-system")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The object at `path`.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// The names of all objects of a kind of the group `metallb.io`.
    pub(crate) fn names(&self, plural: &str) -> Vec<String> {
        let prefix = path(plural, "");
        self.state().objects.keys().filter_map(|path| Some(path.strip_prefix(&prefix)?.to_owned())).collect()
    }

    /// Creates or changes an object as another client, with `manager` as entry of the managed fields.
    pub(crate) fn edit(&self, path: &str, manager: &Value, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let mut object = state.objects.get(path).cloned().unwrap_or_else(|| new(path));
        change(&mut object);
        if !manager.is_null() {
            let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            let others = entries.into_iter().filter(|entry| entry["manager"] != manager["manager"]);
            object["metadata"]["managedFields"] = others.chain([manager.clone()]).collect();
        }
        state.put(path, object);
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn delete(&self, path: &str) {
        self.state().remove(path);
        self.changed.notify_waiters();
    }

    /// Lets a call, given as `DELETE path`, fail from now on.
    pub(crate) fn fail(&self, call: String, code: u16, message: &str) {
        self.state().failures.insert(call, (code, message.to_owned()));
    }

    /// Runs `hook` just before a write, given as `PATCH path`, is processed.
    pub(crate) fn before_write(&self, write: String, hook: impl FnOnce(&Self) + Send + 'static) {
        self.state().write_hooks.push((write, Box::new(hook)));
    }

    /// The paths of all objects.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(crate) fn clear_failures(&self) {
        self.state().failures.clear();
    }

    /// Rewrites images from now on.
    pub(crate) fn rewrite_images(&self) {
        self.state().rewrite_images = true;
    }

    /// Prunes `status.controller` of the stack from now on.
    pub(crate) fn prune_status(&self) {
        self.state().prune_status = true;
    }

    /// All writes since the last call.
    pub(crate) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// The paths of all objects read since the last call.
    pub(crate) fn take_gets(&self) -> Vec<String> {
        std::mem::take(&mut self.state().gets)
    }

    /// The notes of all events.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.state().notes.clone()
    }

    async fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &axum::http::HeaderMap,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let query: BTreeMap<&str, String> = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key, value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",")))
            .collect();
        if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
            return self.watch(uri.path(), &query).await;
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let call = format!("{method} {}", uri.path());
        let found = self.state().write_hooks.iter().position(|(write, _)| *write == call);
        if let Some((_, hook)) = found.map(|index| self.state().write_hooks.remove(index)) {
            hook(self);
        }
        let result = self.state().act(method, uri.path(), &query, kind, body);
        self.changed.notify_waiters();
        match result {
            Ok(value) => (200, value.to_string().into_bytes()),
            Err((code, message)) => {
                let reason = if code == 404 { "NotFound" } else { "Refused" };
                let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "code": code, "reason": reason, "message": message});
                // The details of a failed JSON patch have no cause.
                if code == 422 {
                    status["details"] = json!({});
                }
                (code, status.to_string().into_bytes())
            }
        }
    }

    /// The events since the version of the client; waits until there are any.
    async fn watch(&self, at: &str, query: &BTreeMap<&str, String>) -> (u16, Vec<u8>) {
        let since: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let events = || {
            let state = self.state();
            let new = state
                .history
                .iter()
                .filter(|(version, _, path, _)| *version > since && list_contains(at, path));
            // An object that is no longer selected is deleted as far as the watch is concerned.
            let event_type =
                |object: &Value, type_: &'static str| if selected(object, query) { type_ } else { "DELETED" };
            let event =
                |type_: &str, object: &Value| json!({"type": type_, "object": object}).to_string() + "\n";
            new.map(|(_, type_, _, object)| event(event_type(object, type_), object)).collect::<String>()
        };
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if !events().is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(WATCH_TIMEOUT, wait).await;
        (200, events().into_bytes())
    }
}

type Answer = Result<Value, (u16, String)>;

impl State {
    fn act(
        &mut self,
        method: &Method,
        path: &str,
        query: &BTreeMap<&str, String>,
        kind: &str,
        body: Value,
    ) -> Answer {
        let call = format!("{method} {path}");
        if let Some((code, message)) = self.failures.get(&call) {
            return Err((*code, message.clone()));
        }
        if let Some(name) = path.strip_prefix("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/") {
            return crd(name).ok_or((404, "not found".to_owned()));
        }
        if *method == Method::GET {
            return self.read(path, query);
        }
        if path.contains("/events") {
            self.notes.push(body["message"].as_str().unwrap_or_default().to_owned());
            return Ok(body);
        }
        self.writes.push(call);
        if *method == Method::DELETE {
            return self.delete(path, &body["preconditions"]);
        }
        let target = path.strip_suffix("/status").unwrap_or(path);
        let live = self.objects.get(target).cloned();
        let object = match kind {
            "application/apply-patch+yaml" => {
                let forced = query.get("force").is_some_and(|force| force == "true");
                self.apply(target, live, body, forced)?
            }
            "application/json-patch+json" => {
                let mut object = live.ok_or((404, "not found".to_owned()))?;
                let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
                json_patch::patch(&mut object, &patch)
                    .map_err(|_| (422, "the server rejected our request".to_owned()))?;
                object
            }
            _ => {
                let mut object = live.ok_or((404, "not found".to_owned()))?;
                json_patch::merge(&mut object, &body);
                object
            }
        };
        Ok(self.put(target, object))
    }

    fn read(&mut self, path: &str, query: &BTreeMap<&str, String>) -> Answer {
        if let Some(object) = self.objects.get(path) {
            self.gets.push(path.to_owned());
            return Ok(object.clone());
        }
        if !is_list(path) {
            self.gets.push(path.to_owned());
            return Err((404, format!("{path} not found")));
        }
        let matching =
            self.objects.iter().filter(|(at, object)| list_contains(path, at) && selected(object, query));
        let items: Vec<Value> = matching.map(|(_, object)| object.clone()).collect();
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion":
                self.version.to_string()},
            "items": items}))
    }

    fn delete(&mut self, path: &str, preconditions: &Value) -> Answer {
        let object = self.objects.get(path).cloned().ok_or((404, "not found".to_owned()))?;
        for field in ["uid", "resourceVersion"] {
            if preconditions.get(field).is_some_and(|wanted| *wanted != object["metadata"][field]) {
                return Err((409, format!("Precondition failed: {field}")));
            }
        }
        self.remove(path);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    fn apply(&self, path: &str, live: Option<Value>, mut body: Value, forced: bool) -> Answer {
        let (version, conflict) =
            (body["metadata"]["resourceVersion"].clone(), |text: &str| Err((409, text.to_owned())));
        if live
            .as_ref()
            .is_some_and(|live| !version.is_null() && live["metadata"]["resourceVersion"] != version)
        {
            return conflict("the object has been modified");
        }
        let others_value = |live: &Value| {
            live.get("spec").is_some_and(|spec| body.get("spec").is_some_and(|own| own != spec))
        };
        if !forced && live.as_ref().is_some_and(others_value) {
            return conflict("Apply failed with conflicts");
        }
        let mut object = live.unwrap_or_else(|| new(path));
        let is_status = body.get("status").is_some();
        let mut fields = body.clone();
        if let Some(fields) = fields.as_object_mut() {
            fields.retain(|name, _| name != "apiVersion" && name != "kind");
        }
        if let Some(metadata) = fields["metadata"].as_object_mut() {
            metadata.retain(|name, _| matches!(name.as_str(), "labels" | "annotations" | "ownerReferences"));
        }
        let mut entry = json!({"manager": OPERATOR, "operation": "Apply", "fieldsV1": fields_of(&fields)});
        if is_status {
            entry["subresource"] = json!("status");
            object["status"] = Value::Null;
        }
        if self.rewrite_images
            && let Some(image) = body.pointer_mut("/spec/template/spec/containers/0/image")
        {
            *image = json!(format!("mirror.test/{}", image.as_str().unwrap_or_default()));
        }
        if self.prune_status
            && let Some(status) = body["status"].as_object_mut()
        {
            status.remove("controller");
        }
        merge(&mut object, &body);
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let others = entries.into_iter().filter(|other| {
            other["manager"] != OPERATOR
                || other["operation"] != "Apply"
                || other["subresource"] != entry["subresource"]
        });
        object["metadata"]["managedFields"] = others.chain([entry.clone()]).collect();
        Ok(object)
    }

    /// Stores `object`, unless nothing changes.
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        let before = self.objects.get(path);
        if before == Some(&object) {
            return object;
        }
        let type_ = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        self.history.push((self.version, type_, path.to_owned(), object.clone()));
        object
    }

    fn remove(&mut self, path: &str) {
        if let Some(mut object) = self.objects.remove(path) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.history.push((self.version, "DELETED", path.to_owned(), object));
        }
    }
}

/// A new object, of which only the path is known.
fn new(path: &str) -> Value {
    static UIDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let uid = UIDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (version, rest) = match parts[0] {
        "api" => (parts[1].to_owned(), &parts[2..]),
        _ => (format!("{}/{}", parts[1], parts[2]), &parts[3..]),
    };
    let mut metadata = json!({"name": rest[rest.len() - 1], "uid": format!("uid-{uid}"),
        "creationTimestamp": "2026-01-01T00:00:00Z"});
    if rest.len() == 4 {
        metadata["namespace"] = json!(rest[1]);
    }
    json!({"apiVersion": version, "kind": kind_of(rest[rest.len() - 2]), "metadata": metadata})
}

fn kind_of(plural: &str) -> String {
    let kinds = render::Kind::ALL.iter().map(|kind| kind.api_resource());
    let others = [
        ("loadbalancerstacks", "LoadBalancerStack"),
        ("configmaps", "ConfigMap"),
        ("addresspools", "AddressPool"),
    ];
    let named = others.into_iter().find(|(name, _)| *name == plural).map(|(_, kind)| kind.to_owned());
    let known = kinds.into_iter().find(|resource| resource.plural == plural).map(|resource| resource.kind);
    known.or(named).unwrap_or_else(|| plural.to_owned())
}

/// Whether `path` is the path of a list.
fn is_list(path: &str) -> bool {
    let parts = path.trim_matches('/').split('/').count();
    let group = if path.starts_with("/api/") { 2 } else { 3 };
    matches!(parts - group, 1 | 3)
}

/// Whether the list at `list` contains the object at `path`.
fn list_contains(list: &str, path: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    let Some((group, plural)) = list.rsplit_once('/') else { return false };
    let everywhere = parent
        .strip_prefix(group)
        .and_then(|rest| rest.strip_prefix("/namespaces/")?.split_once('/'))
        .is_some_and(|(_, name)| name == plural);
    parent == list || everywhere
}

fn selected(object: &Value, query: &BTreeMap<&str, String>) -> bool {
    let label = query.get("labelSelector").and_then(|selector| selector.split_once('='));
    let field = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
    label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
        && field.is_none_or(|name| object["metadata"]["name"] == name)
}

fn crd(name: &str) -> Option<Value> {
    static CRDS: std::sync::LazyLock<Vec<Value>> = std::sync::LazyLock::new(|| {
        crds::all().iter().map(|crd| serde_json::to_value(crd).unwrap_or_default()).collect()
    });
    let mut json = CRDS.iter().find(|crd| crd["metadata"]["name"] == name)?.clone();
    json["status"] = json!({"conditions": [{"type": "Established", "status": "True"}],
        "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
    Some(json)
}

/// Merges objects and replaces lists.
fn merge(target: &mut Value, body: &Value) {
    match (target, body) {
        (Value::Object(target), Value::Object(fields)) => {
            for (name, value) in fields {
                merge(target.entry(name.as_str()).or_insert(Value::Null), value);
            }
        }
        (target, body) => *target = body.clone(),
    }
}

/// The `FieldsV1` of an apply of `body`; lists are atomic.
fn fields_of(body: &Value) -> Value {
    match body {
        Value::Object(fields) => {
            let below = fields.iter().map(|(name, value)| (format!("f:{name}"), fields_of(value)));
            Value::Object(below.collect::<Map<String, Value>>())
        }
        _ => json!({}),
    }
}
