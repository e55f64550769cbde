//! Tutorial 000, verbatim.

use std::time::Duration;

use e2e::Env;

const POOLS: &str = include_str!("../../manifests/tutorial-000/metallb-config.yml");
const WORKLOAD: &str = include_str!("../../manifests/tutorial-000/tst-replicatset-nginx-lb.yml");
const URL: &str = "http://192.168.33.30:1080/";

/// A pod may have to pull nginx first.
const SERVED: Duration = Duration::from_secs(60);

pub(crate) fn applied_before_the_stack(env: &Env) {
    env.apply(POOLS);
    env.apply(WORKLOAD);
    env.stack_up();
    check_results_of_the_tutorial(env);
    env.delete(WORKLOAD);
    env.delete(POOLS);
}

pub(crate) fn applied_after_the_stack(env: &Env) {
    env.stack_up();
    env.apply(POOLS);
    env.apply(WORKLOAD);
    check_results_of_the_tutorial(env);
    env.delete(WORKLOAD);
    env.delete(POOLS);
}

fn check_results_of_the_tutorial(env: &Env) {
    assert_eq!(env.address("default", "tst-svc-nginx"), "192.168.33.30");
    let answer = env.served(URL, SERVED);
    assert!(answer.contains("Server name: tst-replicaset-") && answer.contains("URI: /"), "{answer}");
    let services = env.kubectl(&["get", "services", "tst-svc-nginx"]);
    assert!(services.contains("192.168.33.30") && services.contains("1080:"), "{services}");
    let all = env.kubectl(&["get", "all", "--namespace", "metallb-system"]);
    assert!(all.contains("deployment.apps/controller"), "{all}");
    assert!(all.contains("daemonset.apps/speaker   3         3         3"), "{all}");
    assert_eq!(all.matches("pod/speaker-").count(), env.nodes().len(), "{all}");
    for reason in ["IPAllocated", "nodeAssigned"] {
        env.event("Service", "tst-svc-nginx", reason, SERVED);
    }
}

pub(crate) fn policy_local(env: &Env) {
    env.stack_up();
    let pool = env.pool("local", "192.168.33.40-192.168.33.40");
    let web = env.web();
    let service = env.service("local", "local", "externalTrafficPolicy: Local");
    let address = env.address("default", "local");
    let answer = env.served(&format!("http://{address}/"), SERVED);
    assert!(answer.contains(&env.client_address()), "the pod saw another client: {answer}");
    for manifest in [service, web, pool] {
        env.delete(&manifest);
    }
}
