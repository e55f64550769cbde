//! Finds the other client that writes the status of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use runtime::client::with_timeout;

use crate::api::COMPONENT;

/// The last field manager other than ours that wrote the status of the object; `None` if that is not known.
pub(crate) async fn other_writer(
    client: &Client,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
) -> Option<String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let parameters = ListParams::default().fields(&format!("metadata.name={name}"));
    let found = with_timeout(api.list_metadata(&parameters)).await.ok()?;
    let object = found.items.into_iter().next()?;
    last_status_manager(&object.metadata.managed_fields.unwrap_or_default())
}

fn last_status_manager(entries: &[ManagedFieldsEntry]) -> Option<String> {
    let others = entries.iter().filter(|entry| entry.manager.as_deref() != Some(COMPONENT));
    let writes_status = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.as_object());
        fields.is_some_and(|fields| fields.contains_key("f:status"))
    };
    let last = others.filter(writes_status).max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}

/// The message about another writer that repeatedly overwrites a status, with a hint what to do.
pub(crate) fn contested_message(manager: Option<&str>, of_service: bool) -> String {
    let writer = manager.map_or_else(|| "another client of the API".to_owned(), |name| format!("{name:?}"));
    let hint = match manager {
        Some(name) if of_service && name.contains("k3s") => {
            "start the k3s servers with --disable=servicelb, or separate the two load balancers by \
             spec.loadBalancerClass"
        }
        _ if of_service => {
            "let one load balancer serve this Service, for example by spec.loadBalancerClass, and stop the \
             other"
        }
        _ => "stop one of the two, for example a controller of MetalLB that was left running",
    };
    format!("{writer} repeatedly overwrites the status, so it is not written for a while: {hint}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_other_writer_is_the_last_other_manager_of_the_status() {
        let entry = |manager: &str, second: u8, fields: serde_json::Value| {
            let time = format!("2024-01-01T00:00:{second:02}Z");
            json!({"manager": manager, "time": time, "fieldsV1": fields})
        };
        let entries = json!([
            entry("kubectl-create", 9, json!({"f:spec": {}})),
            entry("older", 2, json!({"f:status": {"f:loadBalancer": {}}})),
            entry("k3s", 5, json!({"f:status": {"f:loadBalancer": {}}})),
            entry(COMPONENT, 8, json!({"f:status": {"f:conditions": {}}})),
        ]);
        let entries: Vec<ManagedFieldsEntry> = serde_json::from_value(entries).unwrap();
        assert_eq!(last_status_manager(&entries).as_deref(), Some("k3s"));
        assert_eq!(last_status_manager(&entries[..1]), None);
        assert!(contested_message(Some("k3s"), true).contains("--disable=servicelb"));
    }
}
