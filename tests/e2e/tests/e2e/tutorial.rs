//! Tutorial 000, verbatim.

use std::time::Duration;

use e2e::Bed;

const POOLS: &str = include_str!("../../manifests/tutorial-000/metallb-config.yml");
const WORKLOAD: &str = include_str!("../../manifests/tutorial-000/tst-replicatset-nginx-lb.yml");
const URL: &str = "http://192.168.33.30:1080/";

/// A pod may have to pull nginx first.
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn applied_before_the_stack(bed: &Bed) {
    bed.apply(POOLS);
    bed.apply(WORKLOAD);
    bed.stack_up();
    served_as_the_tutorial_says(bed);
    bed.delete(WORKLOAD);
    bed.delete(POOLS);
}

pub(crate) fn applied_after_the_stack(bed: &Bed) {
    bed.stack_up();
    bed.apply(POOLS);
    bed.apply(WORKLOAD);
    served_as_the_tutorial_says(bed);
    bed.delete(WORKLOAD);
    bed.delete(POOLS);
}

fn served_as_the_tutorial_says(bed: &Bed) {
    assert_eq!(bed.address("default", "tst-svc-nginx"), "192.168.33.30");
    let answer = bed.served(URL, SERVED);
    assert!(answer.contains("Server name: tst-replicaset-") && answer.contains("URI: /"), "{answer}");
    let services = bed.kubectl(&["get", "services", "tst-svc-nginx"]);
    assert!(services.contains("192.168.33.30") && services.contains("1080:"), "{services}");
    let all = bed.kubectl(&["get", "all", "--namespace", "metallb-system"]);
    assert!(all.contains("deployment.apps/controller"), "{all}");
    assert!(all.contains("daemonset.apps/speaker   3         3         3"), "{all}");
    assert_eq!(all.matches("pod/speaker-").count(), bed.nodes().len(), "{all}");
    for reason in ["IPAllocated", "nodeAssigned"] {
        bed.event("Service", "tst-svc-nginx", reason, SERVED);
    }
}

pub(crate) fn policy_local(bed: &Bed) {
    bed.stack_up();
    let pool = bed.pool("local", "192.168.33.40-192.168.33.40");
    let web = bed.web();
    let service = bed.service("local", "local", "externalTrafficPolicy: Local");
    let address = bed.address("default", "local");
    let answer = bed.served(&format!("http://{address}/"), SERVED);
    assert!(answer.contains(&bed.client_address()), "the pod saw another client: {answer}");
    for manifest in [service, web, pool] {
        bed.delete(&manifest);
    }
}
