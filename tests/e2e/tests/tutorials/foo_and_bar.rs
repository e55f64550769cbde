//! Tutorial 003: the namespace and the memberlist Secret are created first, and one Service has two pods.

use std::time::Duration;

use e2e::{Env, wait};

const CONFIG: &str = include_str!("../../manifests/tutorial-003/metallb-configmap.yaml");
const USAGE: &str = include_str!("../../manifests/tutorial-003/usage.yaml");
const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: metallb-system, labels: {app: metallb}}\n";
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn namespace_first(env: &Env) {
    env.apply(NAMESPACE);
    let secret = ["create", "secret", "generic", "-n", "metallb-system", "memberlist"];
    env.kubectl(&[&secret[..], &["--from-literal=secretkey=Zm91bmQgYnkgdGhlIHNwZWFrZXJz"]].concat());
    env.stack_up();
    let kept = env.get(&["secret", "memberlist", "--namespace=metallb-system"]);
    assert!(kept["metadata"]["labels"].is_null(), "the user's Secret is not touched: {kept}");
}

pub(crate) fn answered(env: &Env) {
    env.apply(CONFIG);
    env.apply(USAGE);
    assert_eq!(env.address("default", "foo-service"), "172.19.255.200");
    let address =
        env.kubectl(&["get", "svc/foo-service", "-o=jsonpath={.status.loadBalancer.ingress[0].ip}"]);
    let url = format!("http://{address}:5678");
    for name in ["foo-app", "bar-app"] {
        wait::poll(&format!("{name} answers"), SERVED, || {
            env.served(&url, SERVED).contains(name).then_some(())
        });
    }
    let announced = env.who_has(&address);
    assert_eq!(announced.len(), 1, "one node answers for the address: {announced:?}");
}
