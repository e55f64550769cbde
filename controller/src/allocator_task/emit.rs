//! Logs and sends events.

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::Resource as _;
use runtime::events::Events;

use crate::service::NewEvent;

/// The action of the events about addresses.
const ASSIGN: &str = "Assign";

/// Sends events about a configuration object. Each is logged with the object.
pub(super) fn emit(recorder: &Events, object: &ObjectReference, events: Vec<NewEvent>) {
    let (kind, name) = (object.kind.as_deref(), object.name.as_deref());
    for event in events {
        if event.warning {
            tracing::warn!(kind, name, reason = %event.reason, "{}", event.message);
        } else {
            tracing::info!(kind, name, reason = %event.reason, "{}", event.message);
        }
        send(recorder, object, event);
    }
}

/// Sends events about a Service. Each is logged in the current span, which is that of the Service.
pub(super) fn emit_for_service(recorder: &Events, service: &Service, events: Vec<NewEvent>) {
    for event in events {
        if event.warning {
            tracing::warn!(reason = %event.reason, "{}", event.message);
        } else {
            tracing::info!(reason = %event.reason, "{}", event.message);
        }
        send(recorder, &service.object_ref(&()), event);
    }
}

fn send(recorder: &Events, object: &ObjectReference, event: NewEvent) {
    if event.warning {
        recorder.warning(object, ASSIGN, event.reason.as_str(), event.message);
    } else {
        recorder.normal(object, ASSIGN, event.reason.as_str(), event.message);
    }
}
