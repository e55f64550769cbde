//! Metadata of rendered objects.

use std::collections::BTreeMap;

use crds::ObjectMeta;
use crds::names::{APP, LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF, OPERATOR, PART_OF};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Labels of every object that the operator creates; `component` is the label by which users of MetalLB
/// select.
pub(crate) fn labels(component: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = vec![(LABEL_MANAGED_BY, OPERATOR), (LABEL_PART_OF, PART_OF)];
    if let Some(component) = component {
        labels.extend([(LABEL_APP, APP), (LABEL_COMPONENT, component)]);
    }
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The labels by which a Deployment or DaemonSet selects its pods: the same ones as MetalLB's.
pub(crate) fn pod_selector(component: &str) -> BTreeMap<String, String> {
    [(LABEL_APP, APP), (LABEL_COMPONENT, component)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The namespace and the owner of the objects of a stack.
#[derive(Clone, Debug)]
pub(crate) struct StackMeta {
    pub(crate) namespace: String,
    pub(crate) owner: OwnerReference,
}

impl StackMeta {
    /// The metadata of a namespaced object.
    pub(crate) fn namespaced(&self, name: &str, component: Option<&str>) -> ObjectMeta {
        ObjectMeta { namespace: Some(self.namespace.clone()), ..self.cluster_scoped(name, component) }
    }

    /// The metadata of a cluster-scoped object.
    pub(crate) fn cluster_scoped(&self, name: &str, component: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels(component)),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}
