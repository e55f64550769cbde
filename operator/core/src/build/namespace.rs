//! The namespace of the stack. It has no owner reference: it may contain objects of others.

use std::collections::BTreeMap;

use crds::ObjectMeta;
use k8s_openapi::api::core::v1::Namespace;

use crate::meta::labels;
use crate::stack::ValidatedStack;

/// Speakers use the host network, which pod security admission allows only at level `privileged`.
pub const POD_SECURITY: [(&str, &str); 3] = [
    ("pod-security.kubernetes.io/audit", "privileged"),
    ("pod-security.kubernetes.io/enforce", "privileged"),
    ("pod-security.kubernetes.io/warn", "privileged"),
];

pub(crate) fn pod_security() -> BTreeMap<String, String> {
    POD_SECURITY.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(crate) fn namespace(stack: &ValidatedStack) -> Namespace {
    let mut labels = labels(None);
    labels.append(&mut pod_security());
    Namespace {
        metadata: ObjectMeta {
            name: Some(stack.meta.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}
