//! Tutorial 002: two Services from a range of three addresses, more pods, and all of it created again.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Env, wait};

const CONFIG: &str = include_str!("../../manifests/tutorial-002/metallb-l2config.yaml");
const SERVED: Duration = Duration::from_secs(60);

fn create_and_expose(env: &Env, deployment: &str, service: &str) {
    env.kubectl(&["create", "deployment", deployment, "--image", env.cluster.web_image()]);
    let name = format!("--name={service}");
    let ports = ["--port=80", "--target-port=8080"];
    env.kubectl(&["expose", "deployment", deployment, "--type=LoadBalancer", &name, ports[0], ports[1]]);
}

fn scale(env: &Env, deployment: &str, replicas: &str) {
    env.kubectl(&["scale", "deployment", deployment, replicas]);
    env.kubectl(&["rollout", "status", "deployment", deployment, "--timeout=60s"]);
}

pub(crate) fn exposed(env: &Env) {
    env.stack_up();
    env.apply(CONFIG);
    for (deployment, service, address) in
        [("lb-hname-pods", "lb-hname-svc", "192.168.1.11"), ("lb-ip-pods", "lb-ip-svc", "192.168.1.12")]
    {
        create_and_expose(env, deployment, service);
        scale(env, deployment, "--replicas=3");
        assert_eq!(env.address("default", service), address);
        let answer = env.served(&format!("http://{address}"), SERVED);
        assert!(answer.contains(deployment), "{answer}");
    }
    let config = env.kubectl(&["get", "configmap", "-n", "metallb-system", "config"]);
    assert!(config.contains("config   1"), "the ConfigMap is not changed: {config}");
}

pub(crate) fn scaled(env: &Env) {
    let traffic = env.http("192.168.1.11:80");
    scale(env, "lb-hname-pods", "--replicas=6");
    let mut pods = BTreeSet::new();
    wait::poll("all six pods answer", SERVED, || {
        pods.insert(env.served("http://192.168.1.11", SERVED));
        (pods.len() == 6).then_some(())
    });
    let report = env.stop_traffic(traffic);
    assert!(report.lost == 0 && report.answered > 0, "{report:?}");
    assert!(report.names.keys().all(|name| name.starts_with("lb-hname-pods")), "{report:?}");
}

pub(crate) fn deleted_and_created_again(env: &Env) {
    env.kubectl(&["delete", "deployment", "lb-hname-pods", "lb-ip-pods"]);
    env.kubectl(&["delete", "service", "lb-hname-svc", "lb-ip-svc"]);
    create_and_expose(env, "hpa-hname-pods", "hpa-hname-svc");
    assert_eq!(env.address("default", "hpa-hname-svc"), "192.168.1.11");
    wait::poll("the new pods answer", SERVED, || {
        env.served("http://192.168.1.11", SERVED).contains("hpa-hname-pods").then_some(())
    });
}
