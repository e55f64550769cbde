//! Tutorial 003: the namespace and the memberlist Secret come first, and two pods stand behind one Service.

use std::time::Duration;

use e2e::{Bed, wait};

const CONFIG: &str = include_str!("../../manifests/tutorial-003/metallb-configmap.yaml");
const USAGE: &str = include_str!("../../manifests/tutorial-003/usage.yaml");
const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: metallb-system, labels: {app: metallb}}\n";
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn namespace_first(bed: &Bed) {
    bed.apply(NAMESPACE);
    let secret = ["create", "secret", "generic", "-n", "metallb-system", "memberlist"];
    bed.kubectl(&[&secret[..], &["--from-literal=secretkey=Zm91bmQgYnkgdGhlIHNwZWFrZXJz"]].concat());
    bed.stack_up();
    let kept = bed.get(&["secret", "memberlist", "--namespace=metallb-system"]);
    assert!(kept["metadata"]["labels"].is_null(), "the user's Secret is not touched: {kept}");
}

pub(crate) fn answered(bed: &Bed) {
    bed.apply(CONFIG);
    bed.apply(USAGE);
    assert_eq!(bed.address("default", "foo-service"), "172.19.255.200");
    let address =
        bed.kubectl(&["get", "svc/foo-service", "-o=jsonpath={.status.loadBalancer.ingress[0].ip}"]);
    let url = format!("http://{address}:5678");
    for name in ["foo-app", "bar-app"] {
        wait::poll(&format!("{name} answers"), SERVED, || {
            bed.served(&url, SERVED).contains(name).then_some(())
        });
    }
    let announced = bed.who_has(&address);
    assert_eq!(announced.len(), 1, "one node answers for the address: {announced:?}");
}
