//! Removal of the stack.

use e2e::Env;

/// After its Services, the stack is deleted: all of its objects are removed, those of others stay.
pub(crate) fn stack(env: &Env) {
    let inventory = env.inventory();
    // Objects of others in the namespace of the stack.
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: metallb-system}\n";
    let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: by-hand, namespace: \
                metallb-system}\nspec: {addresses: [192.168.33.77-192.168.33.77]}\n";
    env.apply(other);
    env.apply(pool);
    env.kubectl(&["delete", "lbs", "default", "--timeout=60s"]);
    let left: Vec<String> = inventory
        .iter()
        .filter(|object| object.kind != "Namespace" && env.rendered_opt(object).is_some())
        .map(ToString::to_string)
        .collect();
    assert!(left.is_empty(), "not removed: {left:?}");
    let pods = env.kubectl(&["get", "pods", "--namespace", "metallb-system", "--output", "name"]);
    assert_eq!(pods.trim(), "", "pods of the stack are still there");
    // The status objects of its processes are removed too, some by the garbage collector.
    let status_kinds = "configurationstates,speakerstates,addressconflicts,servicel2statuses";
    env.kubectl(&[
        "wait",
        "--for=delete",
        status_kinds,
        "--all",
        "--namespace",
        "metallb-system",
        "--timeout=60s",
    ]);
    env.kubectl(&["get", "configmap", "foreign", "--namespace", "metallb-system"]);
    env.kubectl(&["get", "ipaddresspool", "by-hand", "--namespace", "metallb-system"]);
    env.delete(other);
    env.delete(pool);
}
