//! Objects for tests.

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A client of an API server that cannot be reached.
pub(crate) fn unreachable_client() -> Client {
    Client::try_from(Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap()
}

/// A configuration object of this kind and name, with `more` merged into it.
pub(crate) fn object<K: DeserializeOwned>(kind: &str, name: &str, more: &Value) -> K {
    let base = json!({"apiVersion": crate::api::api_version(kind), "kind": kind,
        "metadata": {"name": name, "namespace": "metallb-system", "generation": 1}});
    merged(base, more)
}

/// A Service of type LoadBalancer with `more` merged into it.
pub(crate) fn service(namespace: &str, name: &str, more: &Value) -> Service {
    let base = json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"]}});
    merged(base, more)
}

/// A namespace with `more` merged into it.
pub(crate) fn namespace(name: &str, more: &Value) -> Namespace {
    merged(json!({"metadata": {"name": name}}), more)
}

fn merged<K: DeserializeOwned>(mut base: Value, more: &Value) -> K {
    json_patch::merge(&mut base, more);
    serde_json::from_value(base).unwrap()
}
