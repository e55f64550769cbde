//! Metadata of rendered objects.

use std::collections::BTreeMap;

use crds::ObjectMeta;
use crds::names::{APP, LABEL_APP, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_PART_OF, OPERATOR, PART_OF};

use crate::ValidatedStack;

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

pub(crate) fn namespaced(stack: &ValidatedStack, name: &str, component: Option<&str>) -> ObjectMeta {
    ObjectMeta { namespace: Some(stack.namespace.clone()), ..cluster(stack, name, component) }
}

pub(crate) fn cluster(stack: &ValidatedStack, name: &str, component: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels(component)),
        owner_references: Some(vec![stack.owner.clone()]),
        ..ObjectMeta::default()
    }
}
