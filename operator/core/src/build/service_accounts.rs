//! Service accounts and RBAC objects of controller and speaker.

use crds::names::{CONTROLLER, SPEAKER};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject};

use crate::object::Object;
use crate::rbac::{Process, Scope, rules};
use crate::stack::ValidatedStack;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) fn objects(stack: &ValidatedStack) -> Vec<Object> {
    [(Process::Controller, CONTROLLER), (Process::Speaker, SPEAKER)]
        .into_iter()
        .flat_map(|(process, name)| account_objects(stack, process, name))
        .collect()
}

fn account_objects(stack: &ValidatedStack, process: Process, name: &str) -> [Object; 5] {
    let cluster_name = format!("lbstack-{name}");
    let namespaced = || stack.meta.namespaced(name, Some(name));
    let cluster_scoped = || stack.meta.cluster_scoped(&cluster_name, Some(name));
    let subjects = || Some(vec![subject(&stack.meta.namespace, name)]);
    [
        ServiceAccount { metadata: namespaced(), ..ServiceAccount::default() }.into(),
        ClusterRole {
            metadata: cluster_scoped(),
            rules: Some(rules(process, Scope::Cluster)),
            aggregation_rule: None,
        }
        .into(),
        ClusterRoleBinding {
            metadata: cluster_scoped(),
            role_ref: role_ref("ClusterRole", &cluster_name),
            subjects: subjects(),
        }
        .into(),
        Role { metadata: namespaced(), rules: Some(rules(process, Scope::Namespace)) }.into(),
        RoleBinding { metadata: namespaced(), role_ref: role_ref("Role", name), subjects: subjects() }.into(),
    ]
}

pub(crate) fn subject(namespace: &str, account: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: account.to_owned(),
        namespace: Some(namespace.to_owned()),
        api_group: None,
    }
}

pub(crate) fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: RBAC_GROUP.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
}
