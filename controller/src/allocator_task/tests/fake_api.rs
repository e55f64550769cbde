//! A fake API server with the calls of the allocator task: lists, writes of Service statuses, and events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What the server does with a status that was written: its answer may differ from what it stores.
type OnWrite = Box<dyn Fn(&mut Value) -> Answer + Send>;

/// How the server answers a write.
pub(in crate::allocator_task) enum Answer {
    /// With this object.
    Done(Value),
    /// With an error of this code.
    Error(u16),
}

struct State {
    /// The objects of each list, by plural name.
    lists: BTreeMap<String, Vec<Value>>,
    /// The Services by name.
    services: BTreeMap<String, Value>,
    version: u64,
    writes: usize,
    begun: usize,
    delay: Duration,
    fail_lists: bool,
    /// The plural names whose lists are refused.
    unlistable: BTreeSet<String>,
    /// Writes of objects other than Services: plural name and patch.
    patches: Vec<(String, Value)>,
    events: Vec<Value>,
    on_write: OnWrite,
    changed: UnboundedSender<Value>,
}

/// The server.
#[derive(Clone)]
pub(in crate::allocator_task) struct Server(Arc<Mutex<State>>);

fn bump(state: &mut State, object: &mut Value) {
    state.version += 1;
    object["metadata"]["resourceVersion"] = json!(state.version.to_string());
}

impl Server {
    /// A server with these Services, and the receiver of their changes.
    pub(in crate::allocator_task) fn new(
        services: &[k8s_openapi::api::core::v1::Service],
    ) -> (Self, UnboundedReceiver<Value>) {
        let (changed, changes) = unbounded_channel();
        let by_name = |service: &k8s_openapi::api::core::v1::Service| {
            (service.metadata.name.clone().unwrap(), serde_json::to_value(service).unwrap())
        };
        let state = State {
            lists: BTreeMap::new(),
            services: services.iter().map(by_name).collect(),
            version: 100,
            writes: 0,
            begun: 0,
            delay: Duration::ZERO,
            fail_lists: false,
            unlistable: BTreeSet::new(),
            patches: Vec::new(),
            events: Vec::new(),
            on_write: Box::new(|object| Answer::Done(object.clone())),
            changed,
        };
        (Self(Arc::new(Mutex::new(state))), changes)
    }

    /// Sets what it does with each status that is written.
    pub(in crate::allocator_task) fn on_write(
        &self,
        on_write: impl Fn(&mut Value) -> Answer + Send + 'static,
    ) {
        self.0.lock().unwrap().on_write = Box::new(on_write);
    }

    /// Adds a Service.
    pub(in crate::allocator_task) fn add_service(&self, service: Value) {
        let name = service["metadata"]["name"].as_str().unwrap().to_owned();
        self.0.lock().unwrap().services.insert(name, service);
    }

    /// Sets the objects of the list of this plural name.
    pub(in crate::allocator_task) fn set_list(&self, plural: &str, objects: Vec<Value>) {
        self.0.lock().unwrap().lists.insert(plural.to_owned(), objects);
    }

    /// Delays each write. It is not carried out if the client gives up before.
    pub(in crate::allocator_task) fn delay_writes(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    /// Sets whether lists fail.
    pub(in crate::allocator_task) fn fail_lists(&self, fail: bool) {
        self.0.lock().unwrap().fail_lists = fail;
    }

    /// Refuses lists of this plural name.
    pub(in crate::allocator_task) fn refuse_list(&self, plural: &str) {
        self.0.lock().unwrap().unlistable.insert(plural.to_owned());
    }

    /// The patches of objects of this plural name.
    pub(in crate::allocator_task) fn patches(&self, plural: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.patches.iter().filter(|(of, _)| of == plural).map(|(_, patch)| patch.clone()).collect()
    }

    /// How many writes were received.
    pub(in crate::allocator_task) fn begun(&self) -> usize {
        self.0.lock().unwrap().begun
    }

    /// The present Service.
    pub(in crate::allocator_task) fn service(&self, name: &str) -> Value {
        self.0.lock().unwrap().services[name].clone()
    }

    /// How many writes of Service statuses were processed.
    pub(in crate::allocator_task) fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    /// The reasons and messages of the events.
    pub(in crate::allocator_task) fn events(&self) -> Vec<(String, String)> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let state = self.0.lock().unwrap();
        state.events.iter().map(|event| (text(event, "reason"), text(event, "message"))).collect()
    }

    /// A client of this server.
    pub(in crate::allocator_task) fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let delay = server.start_queued(&parts.method);
                tokio::time::sleep(delay).await;
                let query = parts.uri.query().unwrap_or_default().to_owned();
                if query.contains("watch=true") {
                    // No event follows the list.
                    std::future::pending::<()>().await;
                }
                let (code, answer) = server.answer(&parts.method, parts.uri.path(), &query, body);
                Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))
            }
        };
        Client::new(tower::service_fn(answer), "shop")
    }

    fn start_queued(&self, method: &Method) -> Duration {
        let mut state = self.0.lock().unwrap();
        if *method != Method::PATCH {
            return Duration::ZERO;
        }
        state.begun += 1;
        state.delay
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let failure =
            |code: u16| (code, json!({"kind": "Status", "status": "Failure", "reason": "Any", "code": code}));
        let mut state = self.0.lock().unwrap();
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [.., "services", name, "status"] if *method == Method::PATCH => {
                state.writes += 1;
                let mut object = state.services[*name].clone();
                let made_for = body.pointer("/metadata/resourceVersion").cloned();
                if made_for != object.pointer("/metadata/resourceVersion").cloned() {
                    return failure(409);
                }
                json_patch::merge(&mut object, &body);
                bump(&mut state, &mut object);
                let answer = (state.on_write)(&mut object);
                bump(&mut state, &mut object);
                state.services.insert((*name).to_owned(), object.clone());
                let _ = state.changed.send(object);
                match answer {
                    Answer::Done(answer) => (200, answer),
                    Answer::Error(code) => failure(code),
                }
            }
            [.., plural, name, "status"] | [.., plural, name] if *method == Method::PATCH => {
                state.patches.push(((*plural).to_owned(), body));
                let metadata = json!({"name": name, "resourceVersion": state.version.to_string()});
                (200, json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata}))
            }
            [.., "events"] if *method == Method::POST => {
                state.events.push(body.clone());
                (201, body)
            }
            [..] if *method == Method::GET && state.fail_lists => failure(500),
            [.., plural] if *method == Method::GET && state.unlistable.contains(*plural) => failure(403),
            [.., plural] if *method == Method::GET => {
                let of_services = || state.services.values().cloned().collect();
                let mut items: Vec<Value> = match *plural {
                    "services" => of_services(),
                    other => state.lists.get(other).cloned().unwrap_or_default(),
                };
                if let Some((_, name)) = query.split_once("fieldSelector=metadata.name%3D") {
                    let name = name.split('&').next();
                    items.retain(|item| item["metadata"]["name"].as_str() == name);
                }
                let version = state.version.to_string();
                (200, json!({"kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
            }
            _ => failure(404),
        }
    }
}

/// A server that lists `count` Services, each with `managed` bytes of managed fields, and builds each page
/// when it is requested.
pub(in crate::allocator_task) fn serve_many_services(count: usize, managed: usize) -> Client {
    let answer = move |request: Request<Body>| async move {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse::<usize>().ok())
        };
        let (first, limit) = (parameter("continue").unwrap_or(0), parameter("limit").unwrap_or(count));
        let last = (first + limit).min(count);
        let field = format!(r#""f:{}":{{}},"#, "x".repeat(500));
        let fields = field.repeat(managed / field.len());
        let mut text = String::from(r#"{"kind":"ServiceList","metadata":{"resourceVersion":"9""#);
        if last < count {
            text.push_str(&format!(r#","continue":"{last}""#));
        }
        text.push_str(r#"},"items":["#);
        for number in first..last {
            let comma = if number == first { "" } else { "," };
            text.push_str(&format!(
                r#"{comma}{{"metadata":{{"namespace":"shop","name":"s{number}","resourceVersion":"5",
                "managedFields":[{{"manager":"m","fieldsV1":{{{fields}"f:z":{{}}}}}}]}},
                "spec":{{"type":"LoadBalancer","clusterIPs":["10.96.0.1"],"ports":[{{"port":80}}]}}}}"#
            ));
        }
        text.push_str("]}");
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(text.into_bytes())))
    };
    Client::new(tower::service_fn(answer), "shop")
}
