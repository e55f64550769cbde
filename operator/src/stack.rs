//! The stack as read from the API.

use crds::{LoadBalancerStack, LoadBalancerStackSpec, LoadBalancerStackStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use render::Fault;

/// Set while there is something that garbage collection alone would not clean up.
pub(crate) const FINALIZER: &str = "lbstack.dev/stack";

/// How the API calls stacks.
pub(crate) fn stack_resource() -> ApiResource {
    ApiResource::erase::<LoadBalancerStack>(&())
}

/// The stack as read from the API: what of it can be understood.
pub(crate) struct Stack {
    /// As it was read.
    pub(crate) object: DynamicObject,
    /// The status as stored.
    pub(crate) status: LoadBalancerStackStatus,
    /// The spec, or why it cannot be understood.
    pub(crate) spec: Result<LoadBalancerStack, Fault>,
}

impl Stack {
    /// Reads `object`.
    pub(crate) fn read(object: DynamicObject) -> Self {
        let status = serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
        let spec = object.data.get("spec").cloned().unwrap_or_else(|| serde_json::json!({}));
        let spec = runtime::decode::decode::<LoadBalancerStackSpec>(spec)
            .map(|spec| LoadBalancerStack { metadata: object.metadata.clone(), spec, status: None })
            .map_err(|reason| Fault {
                field: "spec".to_owned(),
                value: String::new(),
                problem: format!("cannot be understood: {reason}"),
                remedy: "apply the CustomResourceDefinitions of this version, then correct the field"
                    .to_owned(),
            });
        Self { object, status, spec }
    }

    /// The stack's UID.
    pub(crate) fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    /// Whether the stack is being deleted.
    pub(crate) fn is_leaving(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether our finalizer is set.
    pub(crate) fn has_finalizer(&self) -> bool {
        self.object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// For events.
    pub(crate) fn reference(&self) -> ObjectReference {
        let resource = stack_resource();
        ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            name: Some(self.object.name_any()),
            uid: self.object.uid(),
            ..ObjectReference::default()
        }
    }
}
