//! Logs and sends events.

use k8s_openapi::api::core::v1::ObjectReference;
use runtime::events::Events;

use crate::service::NewEvent;

/// Logs and sends events about `object`.
pub(super) fn emit(recorder: &Events, object: &ObjectReference, events: Vec<NewEvent>) {
    let (kind, name) = (object.kind.as_deref(), object.name.as_deref());
    for event in events {
        if event.warning {
            tracing::warn!(
                kind,
                namespace = object.namespace,
                name,
                reason = event.reason,
                "{}",
                event.message
            );
            recorder.warning(object, "Assign", event.reason, event.message);
        } else {
            tracing::info!(
                kind,
                namespace = object.namespace,
                name,
                reason = event.reason,
                "{}",
                event.message
            );
            recorder.normal(object, "Assign", event.reason, event.message);
        }
    }
}
