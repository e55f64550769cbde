//! The name of the controller in the API, and references to configuration objects.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::PatchParams;

/// The name under which the controller writes and reports.
pub(crate) const COMPONENT: &str = "lbstack-controller";

/// Parameters of a merge patch by the controller.
pub(crate) fn merge_parameters() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.into()), ..PatchParams::default() }
}

/// A reference to an object, with the UID, by which `kubectl describe` finds events.
pub(crate) fn object_reference(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    uid: Option<String>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version(kind).into()),
        kind: Some(kind.into()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.into()),
        uid,
        ..ObjectReference::default()
    }
}

/// The API version that we use of a configuration kind.
pub(crate) fn api_version(kind: &str) -> &'static str {
    match kind {
        "BGPPeer" => "metallb.io/v1beta2",
        "PoolPolicy" | "AddressConflict" => "lbstack.dev/v1alpha1",
        _ => "metallb.io/v1beta1",
    }
}
