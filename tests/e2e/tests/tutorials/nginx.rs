//! Tutorial 001: nginx exposed, pending until a ConfigMap defines a range; nodes rebooted.

use std::time::Duration;

use e2e::Env;

const CONFIG: &str = include_str!("../../manifests/tutorial-001/config.yml");
const ADDRESS: &str = "192.168.0.230";
/// A pod may have to pull nginx first.
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn exposed(env: &Env) {
    env.stack_up();
    env.kubectl(&["create", "deployment", "nginx", "--image=nginx"]);
    env.kubectl(&["expose", "deploy", "nginx", "--port", "80", "--type", "LoadBalancer"]);
    let why = env.event("Service", "nginx", "AllocationFailed", SERVED);
    assert!(why.contains("IPAddressPool"), "the reason is that there is no pool: {why}");
    let services = env.kubectl(&["get", "services", "nginx"]);
    assert!(services.contains("<pending>"), "{services}");

    env.apply(CONFIG);
    assert_eq!(env.address("default", "nginx"), ADDRESS);
    let answer = env.served(&format!("http://{ADDRESS}"), SERVED);
    assert!(answer.contains("nginx"), "{answer}");
    let all = env.kubectl(&["get", "all", "--namespace", "metallb-system"]);
    assert!(all.contains("daemonset.apps/speaker   3         3         3"), "{all}");
}

pub(crate) fn rebooted(env: &Env) {
    for node in env.nodes() {
        env.power_off(&node);
        env.power_on(&node);
        env.stack_available();
        env.served(&format!("http://{ADDRESS}"), SERVED);
        assert_eq!(env.address("default", "nginx"), ADDRESS, "after {node} came back");
    }
}
