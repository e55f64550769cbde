//! The `LoadBalancerStack` as read from the API.

use crds::names::DEFAULT_NAMESPACE;
use crds::{LoadBalancerStack, LoadBalancerStackSpec, LoadBalancerStackStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use render::SpecFinding;

/// The finalizer of the stack: its deletion involves more than garbage collection does.
pub(crate) const FINALIZER: &str = "lbstack.dev/stack";

/// The API resource of stacks.
pub(crate) fn stack_resource() -> ApiResource {
    ApiResource::erase::<LoadBalancerStack>(&())
}

/// The stack, parsed as far as possible.
pub(crate) struct Stack {
    /// The object as read.
    pub(crate) object: DynamicObject,
    /// The status as stored.
    pub(crate) status: LoadBalancerStackStatus,
    /// The spec, or why it cannot be parsed.
    pub(crate) spec: Result<LoadBalancerStack, SpecFinding>,
}

impl Stack {
    /// Parses `object`.
    pub(crate) fn read(object: DynamicObject) -> Self {
        let status = serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
        let spec = object.data.get("spec").cloned().unwrap_or_else(|| serde_json::json!({}));
        let spec = runtime::decode::decode::<LoadBalancerStackSpec>(spec)
            .map(|spec| LoadBalancerStack { metadata: object.metadata.clone(), spec, status: None })
            .map_err(|reason| SpecFinding {
                field: "spec".to_owned(),
                value: String::new(),
                problem: format!("cannot be parsed: {reason}"),
                hint: "apply the CustomResourceDefinitions of this version, then correct the field"
                    .to_owned(),
            });
        Self { object, status, spec }
    }

    /// The namespace of the stack, even if its spec cannot be parsed as a whole.
    pub(crate) fn namespace(&self) -> String {
        let parsed = self.spec.as_ref().ok().map(|stack| stack.spec.namespace.clone());
        let unparsed = || self.object.data["spec"]["namespace"].as_str().map(ToOwned::to_owned);
        parsed.or_else(unparsed).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
    }

    /// The stack's UID.
    pub(crate) fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    /// Whether the stack is being deleted.
    pub(crate) fn is_deleting(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether our finalizer is set.
    pub(crate) fn has_finalizer(&self) -> bool {
        self.object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// The reference of the stack, for events.
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
