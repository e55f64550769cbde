//! Tutorial 001: nginx exposed, pending until a ConfigMap gives a range; nodes rebooted.

use std::time::Duration;

use e2e::Bed;

const CONFIG: &str = include_str!("../../manifests/tutorial-001/config.yml");
const ADDRESS: &str = "192.168.0.230";
/// A pod may have to pull nginx first.
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn exposed(bed: &Bed) {
    bed.stack_up();
    bed.kubectl(&["create", "deployment", "nginx", "--image=nginx"]);
    bed.kubectl(&["expose", "deploy", "nginx", "--port", "80", "--type", "LoadBalancer"]);
    let why = bed.event("Service", "nginx", "AllocationFailed", SERVED);
    assert!(why.contains("IPAddressPool"), "the reason is that there is no pool: {why}");
    let services = bed.kubectl(&["get", "services", "nginx"]);
    assert!(services.contains("<pending>"), "{services}");

    bed.apply(CONFIG);
    assert_eq!(bed.address("default", "nginx"), ADDRESS);
    let answer = bed.served(&format!("http://{ADDRESS}"), SERVED);
    assert!(answer.contains("nginx"), "{answer}");
    let all = bed.kubectl(&["get", "all", "--namespace", "metallb-system"]);
    assert!(all.contains("daemonset.apps/speaker   3         3         3"), "{all}");
}

pub(crate) fn rebooted(bed: &Bed) {
    for node in bed.nodes() {
        bed.power_off(&node);
        bed.power_on(&node);
        bed.stack_available();
        bed.served(&format!("http://{ADDRESS}"), SERVED);
        assert_eq!(bed.address("default", "nginx"), ADDRESS, "after {node} came back");
    }
}
