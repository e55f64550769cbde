//! Taking the stack away.

use e2e::Bed;

/// The stack is deleted, its Services being gone: all of it goes, what others made stays.
pub(crate) fn stack(bed: &Bed) {
    let inventory = bed.inventory();
    // Somebody else's objects: elsewhere, and beside the stack.
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: foreign, namespace: metallb-system}\n";
    let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: by-hand, namespace: \
                metallb-system}\nspec: {addresses: [192.168.33.77-192.168.33.77]}\n";
    bed.apply(other);
    bed.apply(pool);
    bed.kubectl(&["delete", "lbs", "default", "--timeout=60s"]);
    let left: Vec<String> = inventory
        .iter()
        .filter(|object| object.kind != "Namespace" && bed.rendered_opt(object).is_some())
        .map(ToString::to_string)
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let pods = bed.kubectl(&["get", "pods", "--namespace", "metallb-system", "--output", "name"]);
    assert_eq!(pods.trim(), "", "pods of the stack are still there");
    // What its processes have told goes with them, some of it by way of the garbage collector.
    let reports = "configurationstates,addressconflicts,servicel2statuses";
    bed.kubectl(&[
        "wait",
        "--for=delete",
        reports,
        "--all",
        "--namespace",
        "metallb-system",
        "--timeout=60s",
    ]);
    bed.kubectl(&["get", "configmap", "foreign", "--namespace", "metallb-system"]);
    bed.kubectl(&["get", "ipaddresspool", "by-hand", "--namespace", "metallb-system"]);
    bed.delete(other);
    bed.delete(pool);
}
